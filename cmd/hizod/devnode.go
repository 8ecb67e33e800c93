package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// devNode is one `hizod server` process.
type devNode struct {
	devMember
	dir    string
	exe    string
	config devConfig
	out    *devReport

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and its pid file is gone
}

// start runs the process in a group of its own, so that a Ctrl-C at the terminal reaches us alone and the nodes
// are stopped in order.
func (n *devNode) start() error {
	log, err := os.OpenFile(filepath.Join(n.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(n.exe, "server", "--config", n.config.path)
	cmd.Env = append(withoutHizo(os.Environ()), n.config.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start node %s: %w", n.Name, err)
	}
	n.cmd, n.done = cmd, make(chan struct{})
	pidFile := filepath.Join(n.dir, "pid")
	err = writeFile(pidFile, []byte(strconv.Itoa(cmd.Process.Pid)+"\n"))
	go func() {
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
		_ = removeFile(pidFile)
		close(n.done)
	}()
	return err
}

func (n *devNode) pid() int { return n.cmd.Process.Pid }

func (n *devNode) running() bool {
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// ended says how the process ended; only after done.
func (n *devNode) ended() string {
	status, ok := n.cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled():
		return "was ended by " + unix.SignalName(status.Signal())
	case n.cmd.ProcessState.Success():
		return "ended"
	default:
		return fmt.Sprintf("failed with exit code %d", n.cmd.ProcessState.ExitCode())
	}
}

// failure describes a node that ended before it should have, with the end of its log.
func (n *devNode) failure() error {
	log := filepath.Join(n.dir, "log")
	return fmt.Errorf("node %s %s; the end of its log, %s:\n%s", n.Name, n.ended(), log, tail(log, 8))
}

// stopNodes asks, waits, and then does not ask any more.
func stopNodes(nodes []*devNode, patience time.Duration) error {
	var started []*devNode
	for _, n := range nodes {
		if n.cmd != nil {
			started = append(started, n)
			_ = n.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
		}
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	var errs []error
	expired := false
	for _, n := range started {
		if !expired {
			select {
			case <-n.done:
				continue
			case <-limit.C:
				expired = true
			}
		}
		if n.running() {
			errs = append(errs, fmt.Errorf("node %s did not stop within %v and was killed", n.Name, patience))
			_ = n.cmd.Process.Kill()
			<-n.done
		}
	}
	return errors.Join(errs...)
}

// waitFor calls check until it reports true, while the process lives.
func (n *devNode) waitFor(ctx context.Context, what string, check func() (bool, error)) error {
	for {
		ok, err := check()
		if ok {
			return nil
		}
		select {
		case <-n.done:
			return n.failure()
		case <-ctx.Done():
			return fmt.Errorf("node %s: waiting until %s: %w", n.Name, what, errors.Join(context.Cause(ctx), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func withoutHizo(env []string) []string {
	kept := make([]string, 0, len(env))
	for _, v := range env {
		if !strings.HasPrefix(v, "HIZO_") && !strings.HasPrefix(v, "SOFTHSM2_CONF=") {
			kept = append(kept, v)
		}
	}
	return kept
}

// tail returns the last lines of a file.
func tail(path string, lines int) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const window = 8 << 10
	if end, err := f.Seek(0, io.SeekEnd); err == nil && end > window {
		_, err = f.Seek(-window, io.SeekEnd)
		if err != nil {
			return err.Error()
		}
	} else if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err.Error()
	}
	data, err := io.ReadAll(io.LimitReader(f, window))
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimRight(data, "\n"), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}
