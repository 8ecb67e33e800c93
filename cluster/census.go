package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/hizo/hizo/cluster/peerpb"
)

// census is what the leader of a term has heard of each member itself. It is an input to votes and clean-up,
// so nothing that others say goes into it, gossip least of all.
type census struct {
	probe func(ctx context.Context, id string) (applied uint64, err error)

	mu     sync.Mutex
	last   time.Time // when the last round ended
	people map[string]sighting
}

// sighting is one member, by the leader's monotonic clock.
type sighting struct {
	applied uint64
	silent  time.Time // since when its calls have failed; zero: it answers
	steady  time.Time // since when it has answered and kept up; zero: it does not
	rounds  int       // in a row that it has been steady
}

const (
	censusEvery = 250 * time.Millisecond
	censusCall  = time.Second
	// censusGap is how long the leader may have looked away. A process that was stopped, or a machine that was
	// suspended, has not heard of anybody in that time, and that says nothing about them.
	censusGap = 5 * time.Second
)

// begin forgets everything: each term counts for itself.
func (c *census) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.people = time.Time{}, make(map[string]sighting)
}

// round asks everybody once. target is how far the state is here.
func (c *census) round(ctx context.Context, ids []string, target uint64) {
	type answer struct {
		id      string
		applied uint64
		err     error
	}
	began := time.Now()
	answers := make(chan answer, len(ids))
	for _, id := range ids {
		go func() {
			ctx, cancel := context.WithTimeout(ctx, censusCall)
			defer cancel()
			applied, err := c.probe(ctx, id)
			answers <- answer{id, applied, err}
		}()
	}
	heard := make([]answer, 0, len(ids))
	for range ids {
		heard = append(heard, <-answers)
	}
	if ctx.Err() != nil {
		return // not their silence
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	away := now.Sub(c.last) > censusGap+censusCall
	c.last = now
	if away {
		c.people = make(map[string]sighting)
	}
	if now.Sub(began) > censusGap {
		return // it was stopped with calls under way: their time is over, and nobody was silent
	}
	next := make(map[string]sighting, len(heard))
	for _, a := range heard {
		s := c.people[a.id]
		switch {
		case a.err != nil:
			if s.silent.IsZero() {
				s.silent = began
			}
			s.steady, s.rounds = time.Time{}, 0
		case a.applied == 0 || a.applied+catchUpSlack < target:
			s.applied, s.silent, s.steady, s.rounds = a.applied, time.Time{}, time.Time{}, 0
		default:
			s.applied, s.silent = a.applied, time.Time{}
			if s.rounds++; s.steady.IsZero() {
				s.steady = began
			}
		}
		next[a.id] = s
	}
	c.people = next
}

// of is what is known of a member, and whether anything is.
func (c *census) of(id string) (sighting, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.people[id]
	return s, ok
}

// answers says whether a member answered when it was asked last.
func (c *census) answers(id string) bool {
	s, ok := c.of(id)
	return ok && s.silent.IsZero()
}

// steadyFor says whether a member has kept up for that long, and over two rounds at least: one that comes and goes
// does not become a voter.
func (c *census) steadyFor(id string, d time.Duration, now time.Time) bool {
	s, ok := c.of(id)
	return ok && s.rounds >= 2 && now.Sub(s.steady) >= d
}

// silentFor is how long nothing has been heard of a member.
func (c *census) silentFor(id string, now time.Time) time.Duration {
	if s, ok := c.of(id); ok && !s.silent.IsZero() {
		return now.Sub(s.silent)
	}
	return 0
}

// censusDuty asks the members while this node leads.
func (n *Node) censusDuty(ctx context.Context) {
	n.census.begin()
	tick := time.NewTicker(censusEvery)
	defer tick.Stop()
	for {
		var ids []string
		for _, m := range n.store.Members() {
			if m.ID != n.cfg.ID {
				ids = append(ids, m.ID)
			}
		}
		n.census.round(ctx, ids, n.store.Position().Index)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node) askApplied(ctx context.Context, id string) (uint64, error) {
	status, err := n.peers.of(id).Status(ctx, &peerpb.StatusRequest{})
	if err != nil {
		return 0, err
	}
	return status.Applied, nil
}
