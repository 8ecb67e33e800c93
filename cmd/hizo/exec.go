package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/cmd/hizo/internal/mask"
	"github.com/hizo/hizo/crypto/secret"
)

// drainAfter is how long output is still read after the command has ended, in case something that it started
// keeps it open.
const drainAfter = 2 * time.Second

// command that is ready to start.
type command struct {
	path  string
	argv  []string
	env   []string
	files []*os.File // stay open in it under their numbers
}

// replace becomes the command: same process, so signals and exit code are its own. It returns on failure only.
func (c command) replace() error {
	for _, f := range c.files {
		if err := keepOpen(f); err != nil {
			return err
		}
	}
	return syscall.Exec(c.path, c.argv, c.env)
}

// masked runs the command as a child whose output passes through masks, and returns its exit code, 128+n for a
// signal. Where stdout is a terminal the child gets a terminal of its own.
func (c command) masked(s *session, values map[name.Reference]secret.Bytes) (int, error) {
	var plain [][]byte
	for _, v := range values {
		if v.Len() > 0 && v.Len() < 4 {
			s.note("warning: a value of %d bytes is masked wherever these bytes occur", v.Len())
		}
		plain = append(plain, v.Reveal())
	}
	patterns := mask.New(plain...)
	defer patterns.Wipe()
	for _, v := range values {
		v.Wipe()
	}

	cmd := &exec.Cmd{Path: c.path, Args: c.argv, Env: c.env, Stdin: s.stdin}
	// Descriptors keep their numbers, which the environment names.
	for _, f := range c.files {
		for len(cmd.ExtraFiles) <= int(f.Fd())-3 {
			cmd.ExtraFiles = append(cmd.ExtraFiles, nil)
		}
		cmd.ExtraFiles[f.Fd()-3] = f
	}
	k := &keeper{s: s, cmd: cmd, patterns: patterns, signals: make(chan os.Signal, 64)}
	return k.run()
}

// keeper starts a child, passes its output through masks and signals on to it.
type keeper struct {
	s        *session
	cmd      *exec.Cmd
	patterns *mask.Patterns
	signals  chan os.Signal
	terminal *os.File // our end of the child's terminal, or nil
	outputs  []*os.File
	foreign  []*os.File // the child's ends, to be closed here after the start
	copies   sync.WaitGroup
	restore  []func()
}

func (k *keeper) run() (int, error) {
	signal.Notify(k.signals) // before the start, so that none is lost
	defer signal.Stop(k.signals)
	defer func() {
		for _, f := range k.restore {
			f()
		}
	}()
	if err := k.connect(); err != nil {
		k.closeAll()
		return 0, err
	}
	err := k.cmd.Start()
	for _, f := range k.foreign {
		f.Close()
	}
	for _, f := range k.cmd.ExtraFiles {
		if f != nil {
			f.Close()
		}
	}
	if err != nil {
		k.closeAll()
		return 0, err
	}
	k.pump()
	return k.wait()
}

func (k *keeper) closeAll() {
	for _, f := range append(k.foreign, k.outputs...) {
		f.Close()
	}
}

// connect gives the child its outputs, its process group and, where a person watches, a terminal.
func (k *keeper) connect() error {
	s, cmd := k.s, k.cmd
	if s.toTerminal() {
		ours, theirs, err := pty.Open()
		if err != nil {
			return err
		}
		k.terminal = ours
		k.outputs, k.foreign = append(k.outputs, ours), append(k.foreign, theirs)
		_ = pty.InheritSize(s.stdout, ours) // a terminal without a size works too
		cmd.Stdout = theirs
		// A session of its own, whose terminal this is; Ctty is a number in the child.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1}
		if term.IsTerminal(int(s.stdin.Fd())) {
			cmd.Stdin = theirs
		}
		if term.IsTerminal(int(s.stderr.Fd())) {
			cmd.Stderr = theirs
			return nil
		}
		cmd.Stderr, err = k.pipe()
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	k.foreground()
	var err error
	if cmd.Stdout, err = k.pipe(); err != nil {
		return err
	}
	cmd.Stderr, err = k.pipe()
	return err
}

func (k *keeper) pipe() (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	k.outputs, k.foreign = append(k.outputs, r), append(k.foreign, w)
	return w, nil
}

// foreground lets the child's group read from our terminal: a background group may not.
func (k *keeper) foreground() {
	fd := int(k.s.stdin.Fd())
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	if err != nil || group != unix.Getpgrp() { // no terminal, or not ours to give
		return
	}
	k.cmd.SysProcAttr.Foreground = true
	k.cmd.SysProcAttr.Ctty = fd
	k.restore = append(k.restore, func() {
		// We are in the background now: without this the kernel would stop us.
		signal.Ignore(syscall.SIGTTOU)
		_ = unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, group) // the terminal may be gone
	})
}

// pump starts to copy: the child's outputs through a mask each, our keys to its terminal.
func (k *keeper) pump() {
	targets := []*os.File{k.s.stdout, k.s.stderr}
	for i, from := range k.outputs {
		masker := k.patterns.Masker(targets[i])
		k.copies.Go(func() {
			_, _ = io.Copy(masker, from) // EIO is how a terminal ends, EPIPE that nobody reads any more
			_ = masker.Close()
			from.Close() // the child gets SIGPIPE where nobody reads
		})
	}
	if k.terminal != nil && k.cmd.Stdin != k.s.stdin {
		if before, err := term.MakeRaw(int(k.s.stdin.Fd())); err == nil {
			k.restore = append(k.restore, func() { _ = term.Restore(int(k.s.stdin.Fd()), before) })
		}
		go func() { _, _ = io.Copy(k.terminal, k.s.stdin) }() // ends with the program
	}
}

// wait passes signals on until the child has ended and its output is through.
func (k *keeper) wait() (int, error) {
	ended := make(chan error, 1)
	go func() { ended <- k.cmd.Wait() }()
	for {
		select {
		case sig := <-k.signals:
			k.forward(sig)
		case err := <-ended:
			drained := make(chan struct{})
			go func() { k.copies.Wait(); close(drained) }()
			timer := time.NewTimer(drainAfter)
			defer timer.Stop()
			select {
			case <-drained:
			case <-timer.C:
			}
			return exitCode(err)
		}
	}
}

// forward sends a signal to the child's group. SIGURG is the Go runtime's own, SIGCHLD tells of the child,
// SIGPIPE of our own writing.
func (k *keeper) forward(sig os.Signal) {
	n, ok := sig.(syscall.Signal)
	if !ok {
		return
	}
	switch n {
	case syscall.SIGURG, syscall.SIGCHLD, syscall.SIGPIPE:
		return
	case syscall.SIGWINCH:
		if k.terminal != nil { // the kernel tells the child
			_ = pty.InheritSize(k.s.stdout, k.terminal)
			return
		}
	}
	_ = unix.Kill(-k.cmd.Process.Pid, n) // it may have ended just now
	if n == syscall.SIGTSTP {
		_ = unix.Kill(unix.Getpid(), unix.SIGSTOP) // SIGCONT arrives here and is passed on
	}
}

func exitCode(err error) (int, error) {
	e, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return 0, nil
	case !ok:
		return 0, err
	}
	if status, ok := e.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return e.ExitCode(), nil
}
