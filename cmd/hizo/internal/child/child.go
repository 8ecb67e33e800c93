// Package child runs commands as children, as a shell would: each in a process group of its own, with our
// terminal while one is there, signals passed on, and its output masked where that is wanted.
//
//   - Without a terminal, or without masking, the child has our own standard streams. It is the foreground group
//     of our terminal where we were.
//   - Where output is masked and goes to a terminal, the child gets a terminal of its own (a PTY) in a session of
//     its own: window sizes, keys and ^C go through; ^Z stops the child and us, as a shell expects.
//   - A Keeper outlives its children: one may be stopped and another started in its place.
//
// A child's end is its leader's end: what it leaves running in its group is ended by Stop only. Killed itself
// (SIGKILL), the Keeper leaves the child running, without a reader for what is masked.
package child

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hizo/hizo/cmd/hizo/internal/mask"
)

// Command that is ready to start.
type Command struct {
	Path  string
	Argv  []string
	Env   []string
	Files []*os.File // stay open in it under their numbers, which its environment names
	// Masks hide values in its output; nil: the child writes by itself.
	Masks *mask.Patterns
}

// StartError says why the system did not start a command.
type StartError struct{ Err error }

func (e *StartError) Error() string { return "start the command: " + e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// Replace becomes the command: same process, so signals and exit code are its own. It returns on failure only.
func (c Command) Replace() error {
	for _, f := range c.Files {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
			return &StartError{err}
		}
	}
	return &StartError{syscall.Exec(c.Path, c.Argv, c.Env)}
}

// Status is how a child ended.
type Status struct {
	Code   int            // of its exit, where no signal ended it
	Signal syscall.Signal // that ended it, or 0
}

// ExitCode is that of shells: 128+n for a signal.
func (s Status) ExitCode() int {
	if s.Signal != 0 {
		return 128 + int(s.Signal)
	}
	return s.Code
}

func (s Status) String() string {
	if s.Signal != 0 {
		return fmt.Sprintf("ended by %s", unix.SignalName(s.Signal))
	}
	return fmt.Sprintf("exited with %d", s.Code)
}

// Child is a running command.
type Child struct {
	k       *Keeper
	process *os.Process
	pid     int      // and its group
	pty     *os.File // our end of its terminal, or nil
	outputs outputs

	exited chan struct{} // the leader has ended and was reaped; status is set
	done   chan struct{} // and its output is through
	reaped chan struct{} // and so was what it left to us of its group
	status Status
}

// Pid of the child, which is the id of its group too.
func (c *Child) Pid() int { return c.pid }

// Done is closed when the child has ended and its output is through.
func (c *Child) Done() <-chan struct{} { return c.done }

// Status of a child that is done.
func (c *Child) Status() Status {
	<-c.exited
	return c.status
}

// Signal sends a signal to the child's group. One that has ended is none the worse.
func (c *Child) Signal(sig syscall.Signal) { _ = unix.Kill(-c.pid, sig) }

// watch reaps the child and the orphans of its group, and follows it being stopped.
func (c *Child) watch() {
	defer close(c.reaped)
	for leader := true; ; {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-c.pid, &status, unix.WUNTRACED, nil)
		if err == unix.ECHILD && leader { // it has gone to another group
			pid, err = unix.Wait4(c.pid, &status, unix.WUNTRACED, nil)
		}
		switch {
		case err == unix.EINTR, err == nil && pid != c.pid:
			continue
		case err == nil && status.Stopped():
			c.k.stopped(c, status.StopSignal())
			continue
		case !leader:
			return
		case err != nil: // somebody else reaped it, which nothing in this program does
			c.status = Status{Code: 1}
		case status.Signaled():
			c.status = Status{Signal: status.Signal()}
		default:
			c.status = Status{Code: status.ExitStatus()}
		}
		leader = false
		_ = c.process.Release()
		c.k.ended(c)
		close(c.exited)
		go func() {
			c.outputs.drain()
			close(c.done)
		}()
	}
}

// groupPoll is how often Stop looks whether the group is empty, where its last members are not our children.
const groupPoll = 20 * time.Millisecond

// Stop ends the child and all of its group: the signal, then SIGKILL to what is left after the grace. Without a
// grace there is nothing but SIGKILL. It returns when the child is done.
func (c *Child) Stop(sig syscall.Signal, grace time.Duration) Status {
	if grace > 0 {
		c.Signal(sig)
		c.Signal(unix.SIGCONT) // a stopped one could not end
		c.awaitGroup(grace)
	}
	if !c.gone() {
		c.Signal(unix.SIGKILL)
	}
	<-c.done
	return c.status
}

func (c *Child) awaitGroup(most time.Duration) {
	deadline := time.NewTimer(most)
	defer deadline.Stop()
	select {
	case <-c.reaped:
	case <-deadline.C:
		return
	}
	tick := time.NewTicker(groupPoll)
	defer tick.Stop()
	for !c.gone() {
		select {
		case <-tick.C:
		case <-deadline.C:
			return
		}
	}
}

// gone reports whether nothing is left of the group. Its number can't be another's as long as a member lives.
func (c *Child) gone() bool {
	select {
	case <-c.reaped:
		return unix.Kill(-c.pid, 0) == unix.ESRCH
	default:
		return false
	}
}
