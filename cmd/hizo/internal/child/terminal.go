package child

import (
	"bytes"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

func isTerminal(f *os.File) bool { return f != nil && term.IsTerminal(int(f.Fd())) }

// terminal is the one that we read from. Whatever changes it is done with SIGTTOU blocked: by default it would
// stop us, caught it would repeat for ever.
type terminal struct {
	fd     int
	group  int         // ours
	before *term.State // as we found it

	mu     sync.Mutex
	isRaw  bool // by us
	parked bool // stays as it was for now: we are about to be stopped
	closed bool // stays as it was from now on
}

// openTerminal returns nil where there is no terminal.
func openTerminal(f *os.File) *terminal {
	if !isTerminal(f) {
		return nil
	}
	before, err := term.GetState(int(f.Fd()))
	if err != nil {
		return nil
	}
	return &terminal{fd: int(f.Fd()), group: unix.Getpgrp(), before: before}
}

// foreground is the group that may use the terminal, 0 if it is not our session's.
func (t *terminal) foreground() int {
	group, err := unix.IoctlGetInt(t.fd, unix.TIOCGPGRP)
	if err != nil {
		return 0
	}
	return group
}

// ours reports whether we are in the foreground.
func (t *terminal) ours() bool { return t.foreground() == t.group }

func (t *terminal) give(group int) {
	quietly(func() { _ = unix.IoctlSetPointerInt(t.fd, unix.TIOCSPGRP, group) }) // either may have gone
}

func (t *terminal) takeFrom(group int) {
	if t.foreground() == group {
		t.give(t.group)
	}
}

// raw lets keys through as they are, for the child's own terminal to act on.
func (t *terminal) raw() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.isRaw || t.parked || t.closed || !t.ours() {
		return
	}
	t.isRaw = true
	quietly(func() { _, _ = term.MakeRaw(t.fd) }) // without it keys are echoed twice, which is all
}

// restore gives the terminal back as it was, if it is ours to change.
func (t *terminal) restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.isRaw = false
	if t.ours() {
		quietly(func() { _ = term.Restore(t.fd, t.before) })
	}
}

// park keeps the terminal as it was until unpark. A stop takes a moment to reach all of our threads, and what one of
// them does to the terminal in that moment would be the shell's to live with.
func (t *terminal) park() {
	t.mu.Lock()
	t.parked = true
	t.mu.Unlock()
	t.restore()
}

func (t *terminal) unpark() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.parked = false
}

// readable reports whether keys are for us.
func (t *terminal) readable() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.parked && t.ours()
}

func (t *terminal) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.restore()
}

// keyPoll is how long a read waits for keys before it looks again whether the terminal is still ours.
const keyPoll = 200 * time.Millisecond

// passKeys copies our keys to the newest child's terminal, while we are in the foreground: in the background a
// read would stop us, though nothing may be wanted of us.
func (k *Keeper) passKeys() {
	keys := make([]byte, 4096)
	for {
		select {
		case <-k.over:
			return
		default:
		}
		if !k.tty.readable() {
			time.Sleep(keyPoll)
			continue
		}
		k.tty.raw() // a shell may have moved us without a word
		poll := []unix.PollFd{{Fd: int32(k.tty.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, int(keyPoll/time.Millisecond)); n == 0 || err == unix.EINTR {
			continue
		}
		n, err := unix.Read(k.tty.fd, keys)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if n <= 0 || err != nil { // hung up: SIGHUP tells the child
			return
		}
		k.typed(keys[:n])
		clear(keys[:n])
	}
}

// typed passes keys on. The key that suspends does so to the child and to us: the leader of a session is no job,
// so in its own terminal nothing would happen.
func (k *Keeper) typed(keys []byte) {
	c := k.newest()
	for len(keys) > 0 {
		n := len(keys)
		susp, ok := suspendKey(c.pty)
		if i := bytes.IndexByte(keys, susp); ok && i >= 0 {
			n = i
		}
		if n > 0 {
			_, _ = c.pty.Write(keys[:n]) // it may have ended
		}
		keys = keys[n:]
		if len(keys) == 0 {
			return
		}
		keys = keys[1:]
		if group, err := unix.IoctlGetInt(int(c.pty.Fd()), unix.TIOCGPGRP); err == nil && group != c.pid {
			_, _ = c.pty.Write([]byte{susp}) // a job of the child's own
			continue
		}
		c.Signal(unix.SIGSTOP)
		k.suspend(0)
	}
}
