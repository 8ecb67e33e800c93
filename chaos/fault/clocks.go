package fault

import (
	"context"
	"time"

	"github.com/hizo/hizo/chaos/lab"
)

// clocks are steps of nodes' clocks, there and back.
func clocks() []Fault {
	return []Fault{
		{Name: "clock-one", Needs: Probes, Set: func(ctx context.Context, s *Scene) (Lift, error) {
			return stepClock(s, s.steps()[s.Rand.IntN(6)], s.victim(ctx))
		}},
		{Name: "clock-all", Needs: Probes, Set: func(_ context.Context, s *Scene) (Lift, error) {
			// Within what needs no audited jump, or beyond it.
			return stepClock(s, []time.Duration{3 * time.Second, 4 * time.Minute, 6 * time.Minute}[s.Rand.IntN(3)], s.C.Nodes...)
		}},
	}
}

// steps by which one clock is wrong: a little, within MaxClockStep, and beyond it, each way, past all that a login lasts.
func (s *Scene) steps() []time.Duration {
	small, middle := s.between(3*time.Second, 20*time.Second), s.between(time.Minute, 4*time.Minute)
	return []time.Duration{small, -small, middle, -middle, s.between(10*time.Minute, 100*time.Hour), -s.between(10*time.Minute, 10000*time.Hour)}
}

func stepClock(s *Scene, by time.Duration, nodes ...*lab.Node) (Lift, error) {
	s.Log("%d clocks by %v", len(nodes), by)
	before := map[*lab.Node]uint64{}
	for _, n := range nodes {
		before[n] = n.Control.Skewed()
		n.Control.SetClock(by)
	}
	return func(context.Context) error {
		for _, n := range nodes {
			n.Control.SetClock(0)
			s.Took(int(n.Control.Skewed()-before[n]), "wrong readings")
		}
		return nil
	}, nil
}

// rightClocks has every node's clock show cluster time, where a wrong clock has taken that ahead: it never goes back, and
// a run does not wait until the machine's clock has caught up.
func rightClocks(ctx context.Context, c *lab.Cluster) {
	if c.Nodes[0].Control == nil {
		return
	}
	ahead := time.Duration(0)
	for _, n := range c.Nodes {
		if st, err := c.Status(ctx, n); err == nil {
			ahead = max(ahead, time.Until(time.UnixMilli(st.GetClusterTimeUnixMs())))
		}
	}
	for _, n := range c.Nodes {
		n.Control.SetClock(ahead)
	}
}
