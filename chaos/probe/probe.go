// Package probe is what a chaos build of hizod has and the delivered one has not: named places at which the process can be
// made to kill itself, and a clock that can be set. Package overlay puts the calls in. A page of memory shared with the
// chaos run (Control) says what is armed, so that nothing of it passes through the product's own interfaces.
package probe

import (
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Env names the control page's file to a process. Without it nothing is armed.
const Env = "HIZO_CHAOS_CONTROL"

// Control is the page. One node's process reads it, the run writes it, and both count.
type Control struct {
	clock atomic.Int64  // nanoseconds that are added to the wall clock
	armed atomic.Uint64 // number of the point in Points, from 1; 0: none
	pass  atomic.Int64  // how often the armed point is still passed before it kills
	fired atomic.Uint64 // kills so far
	wrong atomic.Uint64 // readings of a clock that was set
	hits  [maxPoints]atomic.Uint64
}

const (
	maxPoints = 128
	pageSize  = 4096
)

var _ [pageSize - unsafe.Sizeof(Control{})]struct{} // it fits

// Open maps the page in a file, which is made where it is missing.
func Open(path string) (*Control, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(pageSize); err != nil {
		return nil, err
	}
	page, err := unix.Mmap(int(f.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*Control)(unsafe.Pointer(&page[0])), nil
}

// Arm has the process kill itself the next time but pass that it comes to a point.
func (c *Control) Arm(point string, pass int) {
	c.pass.Store(int64(pass))
	c.armed.Store(uint64(numbers()[point]))
}

// Disarm takes it back.
func (c *Control) Disarm() { c.armed.Store(0) }

// Fired says how often a point has killed the process.
func (c *Control) Fired() uint64 { return c.fired.Load() }

// Hits says how often the process came to a point.
func (c *Control) Hits(point string) uint64 { return c.hits[numbers()[point]].Load() }

// Skewed says how often the process has read a clock that was set.
func (c *Control) Skewed() uint64 { return c.wrong.Load() }

// SetClock sets the clock ahead, or back, of the machine's.
func (c *Control) SetClock(ahead time.Duration) { c.clock.Store(int64(ahead)) }

// numbers of the points by name; 0 is for those that the table does not know.
var numbers = sync.OnceValue(func() map[string]int {
	m := make(map[string]int, len(Points))
	for i, name := range Points {
		m[name] = i + 1
	}
	return m
})

// control of this process; nil where the run has given none.
var control = sync.OnceValue(func() *Control {
	path := os.Getenv(Env)
	if path == "" {
		return nil
	}
	c, err := Open(path)
	if err != nil {
		panic("chaos control page: " + err.Error())
	}
	return c
})

// Hit is a named place. It returns, or the process is gone.
func Hit(point string) {
	c := control()
	if c == nil {
		return
	}
	number := numbers()[point]
	c.hits[number].Add(1)
	if number == 0 || c.armed.Load() != uint64(number) || c.pass.Add(-1) >= 0 {
		return
	}
	if !c.armed.CompareAndSwap(uint64(number), 0) {
		return
	}
	c.fired.Add(1)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the kill is on its way
}

// Now is the wall clock as the run has set it.
func Now() time.Time {
	if c := control(); c != nil {
		if ahead := c.clock.Load(); ahead != 0 {
			c.wrong.Add(1)
			return time.Now().Add(time.Duration(ahead))
		}
	}
	return time.Now()
}
