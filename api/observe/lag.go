package observe

import (
	"context"
	"sync"
	"time"
)

// A node is behind when it has not reached what its leader had applied maxLag ago. Time, not entries: at 20,000 records a
// second a healthy node is never level, and at one a minute a node that misses one entry is as stale as can be.
const (
	askEvery   = time.Second
	maxLag     = 5 * time.Second
	maxSamples = 64
)

// progress is what lag needs of a node.
type progress interface {
	// LeaderPosition is how far the leader's state is, by its own word.
	LeaderPosition(ctx context.Context) (uint64, error)
	// Applied is how far this node's state is.
	Applied() uint64
}

// lag remembers what the leader had reached and this node has not.
type lag struct {
	now func() time.Time

	mu      sync.Mutex
	waiting []sample  // not reached, oldest first
	asked   time.Time // of the newest answer; zero: none
}

type sample struct {
	at    time.Time // when the leader was asked
	index uint64
}

func newLag(now func() time.Time) *lag { return &lag{now: now} }

// follow asks until ctx ends.
func (l *lag) follow(ctx context.Context, node progress) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		l.ask(ctx, node)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (l *lag) ask(ctx context.Context, node progress) {
	ctx, cancel := context.WithTimeout(ctx, askEvery)
	defer cancel()
	begin := l.now()
	index, err := node.LeaderPosition(ctx)
	if err != nil {
		return // how long ago the last answer was says enough
	}
	l.note(begin, index, node.Applied())
}

func (l *lag) note(at time.Time, index, applied uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = at
	l.reached(applied)
	switch {
	case index <= applied:
	case len(l.waiting) == maxSamples:
		// The oldest say how late this node is; of the newest, one is enough.
		l.waiting[maxSamples-1].index = index
	default:
		l.waiting = append(l.waiting, sample{at, index})
	}
}

// reached drops what the state has come to. The caller holds mu.
func (l *lag) reached(applied uint64) {
	done := 0
	for done < len(l.waiting) && l.waiting[done].index <= applied {
		done++
	}
	l.waiting = append(l.waiting[:0], l.waiting[done:]...)
}

// behind is how old the oldest state of the leader is that this node has not reached, and how long the leader has not
// said where it is; the latter is negative before its first answer.
func (l *lag) behind(applied uint64) (late, silent time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reached(applied)
	now := l.now()
	if len(l.waiting) > 0 {
		late = max(0, now.Sub(l.waiting[0].at))
	}
	if l.asked.IsZero() {
		return late, -1
	}
	return late, max(0, now.Sub(l.asked))
}
