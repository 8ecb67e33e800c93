package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// writeEnv writes DIR/env and returns the same variables for a command.
func (c *devCluster) writeEnv() ([]string, error) {
	addrs := make([]string, 0, len(c.nodes))
	for _, n := range c.nodes {
		addrs = append(addrs, n.Clients)
	}
	vars := [][2]string{
		{"HIZO_ADDRS", strings.Join(addrs, ",")},
		{"HIZO_CACERT", c.dir.path("ca.pem")},
		{"HIZO_TOKEN_FILE", c.dir.path("admin.token")},
		{"HIZO_TRUST", c.dir.path("trust")},
	}
	var text strings.Builder
	env := withoutHizo(os.Environ())
	for _, v := range vars {
		fmt.Fprintf(&text, "export %s=%s\n", v[0], shellQuote(v[1]))
		env = append(env, v[0]+"="+v[1])
	}
	// Where `hizo` is not installed, the one beside this program is meant.
	if dir, ok := besideUs("hizo"); ok {
		fmt.Fprintf(&text, "export PATH=\"$PATH\":%s\n", shellQuote(dir))
		env = slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, "PATH=") })
		env = append(env, "PATH="+os.Getenv("PATH")+string(filepath.ListSeparator)+dir)
	}
	return env, writeFile(c.dir.path("env"), []byte(text.String()))
}

// besideUs returns our own directory if a program is there and not in the PATH.
func besideUs(program string) (string, bool) {
	if _, err := exec.LookPath(program); err == nil {
		return "", false
	}
	exe, err := os.Executable()
	if err != nil {
		return "", false
	}
	_, err = exec.LookPath(filepath.Join(filepath.Dir(exe), program))
	return filepath.Dir(exe), err == nil
}

// shellQuote makes one word of s for any POSIX shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// shellWord quotes only where it has to.
func shellWord(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/._-+,:@%", r)
	}) || s == "" {
		return shellQuote(s)
	}
	return s
}

// runCommand runs a shell command and answers its exit code as an error, nil for 0. It gets a process group of its
// own, of which nothing is left when this returns, and the terminal if there is one.
func runCommand(ctx context.Context, command string, env []string) error {
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.Env = env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// A background group may not read from the terminal, so a command that could ask questions gets the foreground,
	// and Ctrl-C with it; we take both back afterwards. Not if we are in the background ourselves.
	stdin := int(os.Stdin.Fd())
	if group, err := unix.IoctlGetInt(stdin, unix.TIOCGPGRP); err == nil && group == unix.Getpgrp() {
		cmd.SysProcAttr.Foreground, cmd.SysProcAttr.Ctty = true, stdin
		signal.Ignore(syscall.SIGTTOU)
		defer signal.Reset(syscall.SIGTTOU)
		defer func() { _ = unix.IoctlSetPointerInt(stdin, unix.TIOCSPGRP, unix.Getpgrp()) }() // the terminal may be gone
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var err error
	select {
	case err = <-ended:
		endGroup(cmd.Process.Pid)
	case <-ctx.Done():
		endGroup(cmd.Process.Pid)
		<-ended
		return context.Cause(ctx)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return exitCode(128 + int(status.Signal()))
		}
		return exitCode(exit.ExitCode())
	}
	return err
}

// endGroup ends what is left of a process group.
func endGroup(group int) {
	if unix.Kill(-group, unix.SIGTERM) != nil {
		return // nobody left
	}
	for deadline := time.Now().Add(devStopLimit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if unix.Kill(-group, 0) != nil {
			return
		}
	}
	_ = unix.Kill(-group, unix.SIGKILL)
}
