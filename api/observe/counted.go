package observe

import (
	"sync"
	"time"

	"github.com/hizo/hizo/fsm"
)

// What takes a walk over the state is counted every countEvery at most, however often and by however many it is asked.
const countEvery = 10 * time.Second

// overdueAfter is when a rotation that is due, or a step of one that fails, is called overdue: a leader that changes, a
// server that restarts or a window that is about to open take less.
const overdueAfter = 15 * time.Minute

// counted is what was counted.
type counted struct {
	rotations map[string]int
	overdue   time.Duration
	keys      int
	leases    fsm.LeaseCounts
}

// slowly remembers it.
type slowly struct {
	mu   sync.Mutex
	at   time.Time
	last counted
}

func (s *slowly) read(store *fsm.Store) counted {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.at.IsZero() || now.Sub(s.at) >= countEvery {
		s.last = count(store)
		s.at = time.Now()
	}
	return s.last
}

func count(store *fsm.Store) counted {
	c := counted{leases: store.LeaseCounts()}
	c.rotations, c.overdue = rotations(store.Rotations(), store.Time())
	for _, k := range store.KeyRotations() {
		if k.Due != 0 {
			c.keys++
		}
	}
	return c
}

// rotations counts them by state, and says how late the latest is. now is cluster time in ms.
func rotations(list []fsm.Rotation, now int64) (states map[string]int, worst time.Duration) {
	states = map[string]int{"waiting": 0, "due": 0, "running": 0, "failing": 0, "overdue": 0, "paused": 0}
	for i := range list {
		r := &list[i]
		running := r.Attempt.State != fsm.RotationIdle
		due := r.NextRun > 0 && r.NextRun <= now || r.Requested
		var late time.Duration
		switch {
		case running:
			states["running"]++
		case r.Paused:
			states["paused"]++
		case due:
			states["due"]++
			if r.NextRun > 0 && r.NextRun <= now { // a window that is not open moves NextRun on
				late = time.Duration(now-r.NextRun) * time.Millisecond
			}
		default:
			states["waiting"]++
		}
		if r.Tries > 0 {
			states["failing"]++
			if running { // the grace of a promoted value is no failure, however long it lasts
				late = max(late, time.Duration(now-r.Attempt.Since)*time.Millisecond)
			}
		}
		if late > overdueAfter {
			states["overdue"]++
			worst = max(worst, late)
		}
	}
	return states, worst
}
