// Package supervise keeps a command running while its values change.
//
// A change is acted on only if bytes differ. The new values are there first; then a random splay passes, so that a
// thousand jobs do not restart at once; then files are replaced and the reaction happens: nothing more, a signal, a
// reload command, or a restart (SIGTERM to the whole group, a grace, SIGKILL, and the command once more). A command
// that ends by itself ends the supervision, with its exit code: it is never started again.
//
// A version is acknowledged when everything that it was given through has been brought up to date: a file when it
// was replaced (and the signal sent), a variable when the command was started again or a reload command, which has
// the new values in its environment, has ended with 0. Before that the old version is the one in use.
package supervise

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hizo/hizo/cmd/hizo/internal/child"
	"github.com/hizo/hizo/cmd/hizo/internal/values"
)

// Job is what runs with values.
type Job interface {
	// Command makes the command for these values. Its files are up to date.
	Command(*values.Set) (child.Command, error)
	// Update brings the files up to date: those that exist for variables.
	Update(*values.Set) error
	// Live reports whether a variable is given as a file, which can change while the command runs.
	Live(variable string) bool
}

// Config of a supervision.
type Config struct {
	Job      Job
	Keeper   *child.Keeper
	First    *values.Set        // to start with
	News     <-chan *values.Set // nil: they don't change
	InUse    func(versions map[string]uint32)
	OnChange Reaction
	Splay    time.Duration  // at most; the pause is random
	Stop     syscall.Signal // that asks for the end; 0: SIGTERM
	Grace    time.Duration  // before SIGKILL, and for a reload command
	Note     func(format string, args ...any)
	Output   *os.File // of a reload command
}

// supervision is one run of it. One goroutine owns it.
type supervision struct {
	Config
	child   *child.Child
	inUse   *values.Set // what the command really has
	acted   *values.Set // the last set that was acted on; parts of it may not be in use
	pending *values.Set // to be acted on

	splay    <-chan time.Time
	stopped  chan child.Status // a restart's end of the old child
	ending   bool              // we were asked to end meanwhile
	reloaded chan error        // a reload command has ended
	during   *values.Set       // with these values
}

// Run starts the command and returns how the last child ended. The error is that of a start.
func Run(ctx context.Context, cfg Config) (child.Status, error) {
	if cfg.Stop == 0 {
		cfg.Stop = unix.SIGTERM
	}
	s := &supervision{Config: cfg}
	if err := s.start(cfg.First); err != nil {
		return child.Status{}, err
	}
	for {
		// While a restart is under way, its own end counts.
		done := s.child.Done()
		if s.stopped != nil {
			done = nil
		}
		select {
		case sig := <-s.Keeper.Signals():
			switch sig {
			case unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP:
				s.ending = true
			}
			s.Keeper.Forward(sig)
		case <-done:
			return s.child.Status(), nil
		case set, ok := <-s.News:
			if !ok {
				s.News = nil
				continue
			}
			s.changed(set)
		case <-s.splay:
			s.splay = nil
			s.act(ctx)
		case err := <-s.reloaded:
			s.afterReload(err)
		case status := <-s.stopped:
			s.stopped = nil
			if s.ending {
				return status, nil
			}
			if err := s.start(s.pending); err != nil {
				return child.Status{}, err
			}
			s.Note("hizo: the command was restarted with the new values")
		}
	}
}

func (s *supervision) start(set *values.Set) error {
	cmd, err := s.Job.Command(set)
	if err != nil {
		return err
	}
	c, err := s.Keeper.Start(cmd)
	for _, f := range cmd.Files {
		f.Close()
	}
	if err != nil {
		return err
	}
	s.child, s.acted, s.pending = c, set, nil
	s.uses(set)
	return nil
}

// uses notes that a set is in use as a whole.
func (s *supervision) uses(set *values.Set) {
	s.inUse = set
	if s.InUse != nil {
		s.InUse(set.Versions())
	}
}

// changed is told of a newer set.
func (s *supervision) changed(set *values.Set) {
	idle := s.stopped == nil && s.reloaded == nil
	if idle && len(set.Changed(s.acted)) == 0 {
		// The same bytes, perhaps as a newer version.
		s.pending, s.splay, s.acted = nil, nil, set
		s.uses(s.merged(set, func(string) bool { return false }))
		return
	}
	s.pending = set
	if idle && s.splay == nil {
		s.later()
	}
}

func (s *supervision) later() {
	if s.Splay <= 0 {
		s.splay = time.After(0)
		return
	}
	s.splay = time.After(rand.N(s.Splay))
}

// act does what is to be done about the pending set.
func (s *supervision) act(ctx context.Context) {
	set := s.pending
	if set == nil {
		return
	}
	names := strings.Join(set.Changed(s.acted), ", ")
	if s.OnChange.Kind == Restart {
		s.Note("hizo: changed: %s: the command is restarted", names)
		s.restart()
		return
	}
	s.pending = nil
	if err := s.Job.Update(set); err != nil {
		s.Note("hizo: changed: %s, but the files can't be brought up to date (%v): the command goes on with the old ones", names, err)
		return
	}
	if s.OnChange.Kind == Exec {
		s.Note("hizo: changed: %s: the reload command is run", names)
		s.acted = set
		s.reload(ctx, set)
		return
	}
	var stale []string
	for _, name := range set.Changed(s.acted) {
		if !s.Job.Live(name) {
			stale = append(stale, name)
		}
	}
	if s.OnChange.Kind == Signal {
		s.Note("hizo: changed: %s: the command gets %s", names, unix.SignalName(s.OnChange.Signal))
		s.child.Signal(s.OnChange.Signal)
	} else if len(stale) == 0 {
		s.Note("hizo: changed: %s", names)
	}
	if len(stale) > 0 {
		s.Note("hizo: changed: %s: variables of a running command stay as they are (use --on-change restart, or --secret-file)", strings.Join(stale, ", "))
	}
	s.acted = set
	s.uses(s.merged(set, s.Job.Live))
}

func (s *supervision) restart() {
	select {
	case <-s.child.Done(): // by itself, just now
		return
	default:
	}
	s.stopped, s.ending = make(chan child.Status, 1), false
	go func(c *child.Child, out chan<- child.Status) { out <- c.Stop(s.Stop, s.Grace) }(s.child, s.stopped)
}

// merged is what the command has, given that it takes up the variables that live.
func (s *supervision) merged(set *values.Set, live func(string) bool) *values.Set {
	out := &values.Set{Offline: set.Offline}
	for _, v := range set.Values {
		old, had := s.inUse.Get(v.Name)
		if live(v.Name) || had && old.Bytes.Equal(v.Bytes) {
			out.Values = append(out.Values, v)
		} else if had {
			out.Values = append(out.Values, old)
		}
	}
	for _, old := range s.inUse.Values { // gone, but the command has it
		if _, ok := set.Get(old.Name); !ok && !live(old.Name) {
			out.Values = append(out.Values, old)
		}
	}
	return out
}

// reload runs the reload command with the environment that a new child would get.
func (s *supervision) reload(ctx context.Context, set *values.Set) {
	cmd, err := s.Job.Command(set)
	if err != nil {
		s.Note("hizo: the reload command can't be run: %v", err)
		return
	}
	for _, f := range cmd.Files {
		f.Close() // descriptors are the running command's own
	}
	s.reloaded, s.during = make(chan error, 1), set
	run, cancel := context.WithTimeout(ctx, s.Grace)
	hook := exec.CommandContext(run, "/bin/sh", "-c", s.OnChange.Command)
	hook.Env = append(cmd.Env, "HIZO_CHILD_PID="+strconv.Itoa(s.child.Pid()))
	hook.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	hook.Cancel = func() error { return unix.Kill(-hook.Process.Pid, unix.SIGKILL) }
	hook.WaitDelay = time.Second
	out, closeOutput := masked(cmd, s.Output)
	hook.Stdout, hook.Stderr = out, out
	go func(ended chan<- error) {
		defer cancel()
		err := hook.Run()
		closeOutput()
		ended <- err
	}(s.reloaded)
}

func (s *supervision) afterReload(err error) {
	set := s.during
	s.reloaded, s.during = nil, nil
	if err != nil {
		s.Note("hizo: the reload command failed (%v): the old values count as in use; it is run again at the next change", err)
	} else {
		s.uses(set)
	}
	if next := s.pending; next != nil {
		s.pending = nil
		s.changed(next)
	}
}
