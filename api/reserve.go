package api

import (
	"context"
	"sync"
)

// reservations gives out version numbers per path, so that concurrent puts to one path do not all
// encrypt for the same number and supersede each other. They are a courtesy of the leader: Apply alone
// decides, and a number that turns out wrong costs another round.
//
// A put holds its number from reserve until it is done. Records must enter the log in the order of their
// numbers, so each put waits, before it proposes, for the one before it to have its place in the queue.
// When a put fails, those behind it hold numbers that will not come up: the line is broken, and whoever
// comes next waits until it is empty.
type reservations struct {
	mu    sync.Mutex
	lines map[string]*line
}

type line struct {
	next    uint32
	holders int
	broken  bool
	alone   bool          // the one holder shares with nobody
	tail    chan struct{} // closed when the newest holder's record has its place
	empty   chan struct{} // closed when the last holder is done
}

// reservation is one put's place.
type reservation struct {
	version uint32
	before  <-chan struct{} // nil or closed once the one before has its place
	placed  func()          // call when this one's record has its place; may be called again
	done    func(ok bool)   // call once, at the end
}

func newReservations() *reservations { return &reservations{lines: make(map[string]*line)} }

// reserve waits for a place in the line of path. next says what the state has as the path's next number.
// alone asks for a line without others, for a put that was superseded too often.
func (rs *reservations) reserve(ctx context.Context, path string, alone bool, next func() uint32) (*reservation, error) {
	for {
		rs.mu.Lock()
		l := rs.lines[path]
		if l == nil {
			l = &line{next: max(1, next()), empty: make(chan struct{}), alone: alone}
			rs.lines[path] = l
			return rs.enter(path, l), nil // unlocks
		}
		if !l.broken && !l.alone && !alone {
			return rs.enter(path, l), nil
		}
		empty := l.empty
		rs.mu.Unlock()
		select {
		case <-empty:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// enter adds a holder. rs.mu is held, and released here.
func (rs *reservations) enter(path string, l *line) *reservation {
	defer rs.mu.Unlock()
	r := &reservation{version: l.next, before: l.tail}
	l.next++
	l.holders++
	mine := make(chan struct{})
	l.tail = mine
	var once sync.Once
	r.placed = func() { once.Do(func() { close(mine) }) }
	r.done = func(ok bool) {
		r.placed() // nobody waits for one that is gone
		rs.mu.Lock()
		defer rs.mu.Unlock()
		l.broken = l.broken || !ok
		if l.holders--; l.holders == 0 {
			delete(rs.lines, path)
			close(l.empty)
		}
	}
	return r
}
