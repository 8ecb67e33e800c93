package child

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// Streams are those of this process.
type Streams struct{ In, Out, Err *os.File }

// Keeper starts children one after another and gives each the terminal and the signals that reach us.
type Keeper struct {
	streams Streams
	signals chan os.Signal
	tty     *terminal // ours, or nil

	mu    sync.Mutex
	child *Child // the newest
	keys  bool   // the goroutine that reads our keys runs
	over  chan struct{}
}

// caught returns the signals that are passed on: all but SIGURG (the Go runtime's own), SIGCHLD (tells of the
// child), SIGPIPE (of our own writing), SIGTTIN and SIGTTOU (of our own use of the terminal: caught, the kernel
// would repeat the call for ever, and to stop us is right), and those of C libraries.
func caught() []os.Signal {
	var out []os.Signal
	for n := syscall.Signal(1); n <= 64; n++ {
		switch n {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGURG, unix.SIGCHLD, unix.SIGPIPE, unix.SIGTTIN, unix.SIGTTOU, 32, 33, 34:
		default:
			out = append(out, n)
		}
	}
	return out
}

// NewKeeper catches signals from now on, so that none is lost before the first child has started.
func NewKeeper(s Streams) *Keeper {
	k := &Keeper{streams: s, signals: make(chan os.Signal, 64), over: make(chan struct{})}
	k.tty = openTerminal(s.In)
	signal.Notify(k.signals, caught()...)
	becomeReaper()
	return k
}

// Close gives the terminal back as it was.
func (k *Keeper) Close() {
	signal.Stop(k.signals)
	close(k.over)
	if k.tty != nil {
		k.tty.close()
	}
}

// Signals that arrived, each to be given to Forward.
func (k *Keeper) Signals() <-chan os.Signal { return k.signals }

// Start starts a command. The one before must be done.
func (k *Keeper) Start(cmd Command) (*Child, error) {
	c := &Child{k: k, exited: make(chan struct{}), done: make(chan struct{}), reaped: make(chan struct{})}
	files := []*os.File{k.streams.In, k.streams.Out, k.streams.Err}
	attr := &syscall.SysProcAttr{Setpgid: true}
	var theirs []*os.File // to be closed here after the start
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	if cmd.Masks != nil {
		var err error
		if theirs, err = c.connect(files, attr); err != nil {
			c.outputs.close()
			return nil, err
		}
	}
	if c.pty == nil && k.tty != nil && k.tty.ours() {
		attr.Foreground, attr.Ctty = true, k.tty.fd
	}
	for _, f := range cmd.Files {
		for len(files) <= int(f.Fd()) {
			files = append(files, nil)
		}
		files[f.Fd()] = f
	}
	if c.pty != nil && k.tty != nil {
		k.tty.raw() // before the child's first line, which its own terminal has ended already
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	p, err := os.StartProcess(cmd.Path, cmd.Argv, &os.ProcAttr{Env: cmd.Env, Files: files, Sys: attr})
	if err != nil {
		c.outputs.close()
		return nil, &StartError{err}
	}
	c.process, c.pid = p, p.Pid
	k.child = c
	c.outputs.start(cmd.Masks)
	if c.pty != nil && k.tty != nil && !k.keys {
		k.keys = true
		go k.passKeys()
	}
	go c.watch()
	return c, nil
}

// connect puts masks between the child and our output: a terminal where a person watches, else pipes. It
// returns the child's ends.
func (c *Child) connect(files []*os.File, attr *syscall.SysProcAttr) (theirs []*os.File, err error) {
	streams := c.k.streams
	outs := []*os.File{streams.Out, streams.Err}
	for i, out := range outs {
		fd := i + 1
		switch {
		case !isTerminal(out):
			w, err := c.outputs.pipe(out)
			if err != nil {
				return theirs, err
			}
			files[fd], theirs = w, append(theirs, w)
		case c.pty != nil:
			files[fd] = files[attr.Ctty]
		default:
			ours, slave, err := pty.Open()
			if err != nil {
				return theirs, err
			}
			c.pty = ours
			c.outputs.add(ours, out)
			files[fd], theirs = slave, append(theirs, slave)
			_ = pty.InheritSize(out, ours) // a terminal without a size works too
			// A session of its own, whose terminal this is; Ctty is a number in the child.
			*attr = syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: fd}
			if isTerminal(streams.In) {
				files[0] = slave
			}
		}
	}
	return theirs, nil
}

func (k *Keeper) newest() *Child {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.child
}

// Forward passes a signal on to the child's group.
func (k *Keeper) Forward(sig os.Signal) {
	n, ok := sig.(syscall.Signal)
	c := k.newest()
	if !ok || c == nil {
		return
	}
	switch {
	case n == unix.SIGWINCH && c.pty != nil: // the kernel tells the child
		c.resize()
	case n == unix.SIGTSTP:
		// A session's leader is no job of ours: the kernel would not let this signal stop it.
		if c.pty != nil {
			n = unix.SIGSTOP
		}
		c.Signal(n)
		k.suspend(unix.Getpid())
	case n == unix.SIGCONT:
		k.resume(c)
		c.Signal(n)
	default:
		c.Signal(n)
	}
}

func (c *Child) resize() {
	for _, out := range []*os.File{c.k.streams.Out, c.k.streams.Err} {
		if isTerminal(out) {
			_ = pty.InheritSize(out, c.pty) // it may have gone
			return
		}
	}
}

// suspend stops us (or, by 0, our whole group), with the terminal as it was. SIGCONT ends it, and reaches Forward.
func (k *Keeper) suspend(whom int) {
	if k.tty != nil {
		k.tty.park()
	}
	_ = unix.Kill(whom, unix.SIGSTOP)
}

// resume takes the terminal again, if we are in its foreground.
func (k *Keeper) resume(c *Child) {
	if k.tty == nil {
		return
	}
	k.tty.unpark()
	if !k.tty.ours() {
		return
	}
	if c.pty == nil {
		k.tty.give(c.pid)
		return
	}
	c.resize()
	k.tty.raw()
}

// stopped is told of a child that was stopped: at the terminal so are we, for the shell that waits for us.
func (k *Keeper) stopped(c *Child, sig syscall.Signal) {
	switch {
	case k.tty == nil || sig == unix.SIGSTOP:
		// Nobody's ^Z; or we did it, and stop by ourselves.
	case c.pty == nil && (sig == unix.SIGTTIN || sig == unix.SIGTTOU) && k.tty.ours():
		// The shell has put us into the foreground without a word.
		k.tty.give(c.pid)
		c.Signal(unix.SIGCONT)
	default:
		k.suspend(0)
	}
}

// ended takes the terminal back from a child that had it.
func (k *Keeper) ended(c *Child) {
	if k.tty != nil && c.pty == nil {
		k.tty.takeFrom(c.pid)
	}
}
