package fault

import (
	"context"
	"errors"
	"time"

	"github.com/hizo/hizo/chaos/lab"
)

// cables are the faults of the network between the nodes.
func cables() []Fault {
	return []Fault{
		{Name: "isolate-leader", Set: isolateLeader},
		{Name: "isolate-minority", Set: isolateMinority},
		{Name: "halves", Set: halves},
		{Name: "one-direction", Set: oneDirection},
		{Name: "one-pair", Set: onePair},
		{Name: "gossip-only", Set: gossipOnly},
		{Name: "loss", Set: loss},
		{Name: "flapping", Set: flapping},
		{Name: "delay", Set: delayed},
	}
}

// cut lays rules until they are lifted. They take effect when they drop a packet.
func (s *Scene) cut(rules []lab.Rule) (Lift, error) { return s.cutFor(rules, s.Took) }

func (s *Scene) cutFor(rules []lab.Rule, note func(n int, what string)) (Lift, error) {
	before := s.C.Net.Dropped(s.name)
	return func(context.Context) error {
		err := s.C.Net.Set(s.name)
		note(s.C.Net.Dropped(s.name)-before, "packets dropped")
		return err
	}, s.C.Net.Set(s.name, rules...)
}

// without cuts one node off.
func (s *Scene) without(n *lab.Node) []lab.Rule {
	var others []int
	for _, o := range s.C.Nodes {
		if o != n {
			others = append(others, o.Number)
		}
	}
	return lab.Between([]int{n.Number}, others)
}

func isolateLeader(ctx context.Context, s *Scene) (Lift, error) {
	return s.cut(s.without(s.leader(ctx)))
}

func isolateMinority(_ context.Context, s *Scene) (Lift, error) {
	list := s.shuffled()
	few := 1 + s.Rand.IntN((len(list)-1)/2)
	return s.cut(lab.Between(list[:few], list[few:]))
}

func halves(_ context.Context, s *Scene) (Lift, error) {
	list := s.shuffled()
	return s.cut(lab.Between(list[:len(list)/2], list[len(list)/2:]))
}

func oneDirection(_ context.Context, s *Scene) (Lift, error) {
	list := s.shuffled()
	var rules []lab.Rule
	for _, to := range list[1:] {
		rules = append(rules, lab.Rule{From: list[0], To: to})
	}
	return s.cut(rules)
}

func onePair(_ context.Context, s *Scene) (Lift, error) {
	list := s.shuffled()
	return s.cut(lab.Between(list[:1], list[1:2]))
}

func gossipOnly(_ context.Context, s *Scene) (Lift, error) {
	var rules []lab.Rule
	for _, n := range s.C.Nodes {
		rules = append(rules, lab.Rule{To: n.Number, Port: lab.GossipPort, UDP: true})
	}
	return s.cut(rules)
}

func loss(_ context.Context, s *Scene) (Lift, error) {
	var rules []lab.Rule
	percent := 5 + s.Rand.IntN(25)
	for _, n := range s.C.Nodes {
		rules = append(rules, lab.Rule{To: n.Number, Percent: percent})
	}
	return s.cut(rules)
}

// flapping cuts one node off and on.
func flapping(ctx context.Context, s *Scene) (Lift, error) {
	list := s.shuffled()
	rules := lab.Between(list[:1], list[1:])
	before := s.C.Net.Dropped(s.name)
	stop := background(ctx, func(ctx context.Context) error {
		for on := true; ; on = !on {
			now := rules
			if !on {
				now = nil
			}
			if err := s.C.Net.Set(s.name, now...); err != nil {
				return err
			}
			if !sleep(ctx, s.between(100*time.Millisecond, 600*time.Millisecond)) {
				return nil
			}
		}
	})
	return func(ctx context.Context) error {
		err := errors.Join(stop(ctx), s.C.Net.Set(s.name))
		s.Took(s.C.Net.Dropped(s.name)-before, "packets dropped")
		return err
	}, nil
}

// delayed has every node, or one, at the end of a slow wire.
func delayed(_ context.Context, s *Scene) (Lift, error) {
	nodes := s.C.Nodes
	if s.Rand.IntN(2) == 0 {
		nodes = []*lab.Node{s.any()}
	}
	least := s.between(time.Millisecond, 60*time.Millisecond)
	most := least + s.between(time.Millisecond, 90*time.Millisecond)
	s.Log("%d wires, %v to %v each way", len(nodes), least, most)
	var wires []*lab.Delay
	lift := func(context.Context) error {
		var errs []error
		for _, w := range wires {
			s.Took(w.Frames(), "frames delayed")
			errs = append(errs, w.Close())
		}
		return errors.Join(errs...)
	}
	for _, n := range nodes {
		w, err := lab.NewDelay(n.Number, least, most)
		if err != nil {
			return lift, err
		}
		wires = append(wires, w)
	}
	return lift, nil
}
