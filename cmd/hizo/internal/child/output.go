package child

import (
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hizo/hizo/cmd/hizo/internal/mask"
)

// drainAfter is how long output is still read after the child has ended, in case something that it started
// keeps it open.
const drainAfter = 2 * time.Second

// outputs copies what a child writes, through masks.
type outputs struct {
	copies sync.WaitGroup
	read   atomic.Int64 // bytes so far
	from   []*os.File
	to     []*os.File
}

// add takes our end of a pipe or terminal.
func (o *outputs) add(from, to *os.File) {
	o.from, o.to = append(o.from, from), append(o.to, to)
}

// pipe makes a pipe to be copied to a stream and returns the child's end.
func (o *outputs) pipe(to *os.File) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	o.add(r, to)
	return w, nil
}

func (o *outputs) start(p *mask.Patterns) {
	for i, from := range o.from {
		masker := p.Masker(o.to[i])
		o.copies.Go(func() {
			_, _ = io.Copy(masker, io.TeeReader(from, (*counter)(&o.read))) // EIO is how a terminal ends, EPIPE that nobody reads any more
			_ = masker.Close()
			from.Close() // the child gets SIGPIPE where nobody reads
		})
	}
}

// drain waits until everything is through, or nothing has come for so long that nothing will.
func (o *outputs) drain() {
	drained := make(chan struct{})
	go func() { o.copies.Wait(); close(drained) }()
	tick := time.NewTicker(drainAfter)
	defer tick.Stop()
	for before := int64(-1); ; {
		select {
		case <-drained:
			return
		case <-tick.C:
			now := o.read.Load()
			if now == before {
				return
			}
			before = now
		}
	}
}

// counter counts what is written to it.
type counter atomic.Int64

func (c *counter) Write(b []byte) (int, error) {
	(*atomic.Int64)(c).Add(int64(len(b)))
	return len(b), nil
}

// close is for a child that did not start.
func (o *outputs) close() {
	for _, f := range o.from {
		f.Close()
	}
}
