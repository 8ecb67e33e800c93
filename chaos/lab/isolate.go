package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// isolatedEnv says in the environment that this process already has namespaces of its own.
const isolatedEnv = "HIZO_CHAOS_ISOLATED"

// MissingError says what a machine lacks for a lab.
type MissingError struct{ What string }

func (e *MissingError) Error() string { return "a chaos lab needs " + e.What }

// Isolate runs this program again in new network and mount namespaces, and in a new user namespace where the caller
// is not root, and ends with its exit code. In that second process it returns nil, with /run a file system of its
// own for the names of namespaces. A *MissingError says what the machine does not have.
func Isolate() error {
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			return &MissingError{tool + " (Debian's packages iproute2 and nftables)"}
		}
	}
	if os.Getenv(isolatedEnv) == "" {
		return again()
	}
	for _, m := range []struct{ dir, kind string }{{"/run", "tmpfs"}, {"/sys", "sysfs"}} {
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && m.kind == "tmpfs" {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	return run("ip", "link", "set", "lo", "up")
}

func again() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), isolatedEnv+"=1")
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	if uid := os.Getuid(); uid != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	} else {
		// Or the mounts made here would show outside.
		attr.Unshareflags = unix.CLONE_NEWNS
		attr.Cloneflags &^= unix.CLONE_NEWNS
	}
	cmd.SysProcAttr = attr
	// Pdeathsig speaks of the thread that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return &MissingError{fmt.Sprintf("the right to make network namespaces (root, or unprivileged user namespaces): %v", err)}
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return err
	}
	os.Exit(cmd.ProcessState.ExitCode())
	return nil
}

// run runs a tool whose output matters only when it fails.
func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
