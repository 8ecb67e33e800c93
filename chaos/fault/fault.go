// Package fault is what a chaos run does to its lab. Each fault is set and lifted; a seed says which come when.
package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/hizo/hizo/chaos/lab"
)

// Fault breaks something. Set returns what lifts it again.
type Fault struct {
	Name string
	Set  func(ctx context.Context, c *lab.Cluster, rng *rand.Rand) (lift func() error, err error)
}

func none() error { return nil }

// All faults that need nothing special of the machine.
func All() []Fault {
	return []Fault{
		{"isolate-leader", isolateLeader},
		{"isolate-minority", isolateMinority},
		{"halves", halves},
		{"one-direction", oneDirection},
		{"one-pair", onePair},
		{"gossip-only", gossipOnly},
		{"loss", loss},
		{"flapping", flapping},
		{"kill-leader", killLeader},
		{"kill-one", killOne},
		{"kill-all", killAll},
		{"pause-leader", pauseLeader},
		{"restart-storm", restartStorm},
		{"stop-one", stopOne},
	}
}

func any1(c *lab.Cluster, rng *rand.Rand) *lab.Node { return c.Nodes[rng.IntN(len(c.Nodes))] }

func leader(ctx context.Context, c *lab.Cluster, rng *rand.Rand) *lab.Node {
	if n := c.Leader(ctx); n != nil {
		return n
	}
	return any1(c, rng)
}

func shuffled(c *lab.Cluster, rng *rand.Rand) []int {
	list := make([]int, len(c.Nodes))
	for i, at := range rng.Perm(len(c.Nodes)) {
		list[i] = c.Nodes[at].Number
	}
	return list
}

func cut(c *lab.Cluster, name string, rules []lab.Rule) (func() error, error) {
	return func() error { return c.Net.Set(name) }, c.Net.Set(name, rules...)
}

func isolateLeader(ctx context.Context, c *lab.Cluster, rng *rand.Rand) (func() error, error) {
	n := leader(ctx, c, rng)
	var others []int
	for _, o := range c.Nodes {
		if o != n {
			others = append(others, o.Number)
		}
	}
	return cut(c, "isolate-leader", lab.Between([]int{n.Number}, others))
}

func isolateMinority(_ context.Context, c *lab.Cluster, rng *rand.Rand) (func() error, error) {
	list := shuffled(c, rng)
	few := 1 + rng.IntN((len(list)-1)/2)
	return cut(c, "isolate-minority", lab.Between(list[:few], list[few:]))
}

func halves(_ context.Context, c *lab.Cluster, rng *rand.Rand) (func() error, error) {
	list := shuffled(c, rng)
	return cut(c, "halves", lab.Between(list[:len(list)/2], list[len(list)/2:]))
}

func oneDirection(_ context.Context, c *lab.Cluster, rng *rand.Rand) (func() error, error) {
	list := shuffled(c, rng)
	var rules []lab.Rule
	for _, to := range list[1:] {
		rules = append(rules, lab.Rule{From: list[0], To: to})
	}
	return cut(c, "one-direction", rules)
}

func onePair(_ context.Context, c *lab.Cluster, rng *rand.Rand) (func() error, error) {
	list := shuffled(c, rng)
	return cut(c, "one-pair", lab.Between(list[:1], list[1:2]))
}

func gossipOnly(_ context.Context, c *lab.Cluster, _ *rand.Rand) (func() error, error) {
	var rules []lab.Rule
	for _, n := range c.Nodes {
		rules = append(rules, lab.Rule{To: n.Number, Port: lab.GossipPort, UDP: true})
	}
	return cut(c, "gossip-only", rules)
}

func loss(_ context.Context, c *lab.Cluster, rng *rand.Rand) (func() error, error) {
	var rules []lab.Rule
	percent := 5 + rng.IntN(25)
	for _, n := range c.Nodes {
		rules = append(rules, lab.Rule{To: n.Number, Percent: percent})
	}
	return cut(c, "loss", rules)
}

// flapping cuts one node off and on.
func flapping(ctx context.Context, c *lab.Cluster, rng *rand.Rand) (func() error, error) {
	list := shuffled(c, rng)
	rules := lab.Between(list[:1], list[1:])
	ctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		for on := true; ; on = !on {
			var err error
			if on {
				err = c.Net.Set("flapping", rules...)
			} else {
				err = c.Net.Set("flapping")
			}
			if err != nil {
				done <- err
				return
			}
			select {
			case <-ctx.Done():
				done <- nil
				return
			case <-time.After(time.Duration(100+rng.IntN(500)) * time.Millisecond):
			}
		}
	}()
	return func() error {
		stop()
		return errors.Join(<-done, c.Net.Set("flapping"))
	}, nil
}

func end(n *lab.Node, sig syscall.Signal) (func() error, error) {
	return func() error { return n.Start() }, n.End(sig)
}

func killLeader(ctx context.Context, c *lab.Cluster, rng *rand.Rand) (func() error, error) {
	return end(leader(ctx, c, rng), syscall.SIGKILL)
}

func killOne(_ context.Context, c *lab.Cluster, rng *rand.Rand) (func() error, error) {
	return end(any1(c, rng), syscall.SIGKILL)
}

func stopOne(_ context.Context, c *lab.Cluster, rng *rand.Rand) (func() error, error) {
	return end(any1(c, rng), syscall.SIGTERM)
}

func killAll(_ context.Context, c *lab.Cluster, _ *rand.Rand) (func() error, error) {
	var errs []error
	for _, n := range c.Nodes {
		errs = append(errs, n.End(syscall.SIGKILL))
	}
	return func() error {
		var errs []error
		for _, n := range c.Nodes {
			errs = append(errs, n.Start())
		}
		return errors.Join(errs...)
	}, errors.Join(errs...)
}

// pauseLeader stops it for longer than an election takes; it wakes up and believes that it leads.
func pauseLeader(ctx context.Context, c *lab.Cluster, rng *rand.Rand) (func() error, error) {
	n := leader(ctx, c, rng)
	return func() error { return n.Pause(false) }, n.Pause(true)
}

// restartStorm kills and starts node after node.
func restartStorm(ctx context.Context, c *lab.Cluster, rng *rand.Rand) (func() error, error) {
	ctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			n := any1(c, rng)
			if err := n.End(syscall.SIGKILL); err != nil {
				done <- err
				return
			}
			if err := n.Start(); err != nil {
				done <- err
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Duration(200+rng.IntN(600)) * time.Millisecond):
			}
		}
		done <- nil
	}()
	return func() error {
		stop()
		return <-done
	}, nil
}

// Plan is the faults of one seed in their order.
type Plan struct {
	rng    *rand.Rand
	faults []Fault
	Log    func(format string, args ...any)
	Counts map[string]int
}

// NewPlan draws from faults.
func NewPlan(seed uint64, faults []Fault) *Plan {
	return &Plan{rng: rand.New(rand.NewPCG(seed, 0xfa17)), faults: faults, Log: func(string, ...any) {}, Counts: map[string]int{}}
}

// Run sets faults, one or two at once, each for some seconds, until ctx ends, and lifts everything.
func (p *Plan) Run(ctx context.Context, c *lab.Cluster) error {
	for ctx.Err() == nil {
		var lifts []func() error
		for range 1 + p.rng.IntN(2) {
			f := p.faults[p.rng.IntN(len(p.faults))]
			rng := rand.New(rand.NewPCG(p.rng.Uint64(), 1)) // its own: faults run side by side
			p.Log("fault %s", f.Name)
			lift, err := f.Set(ctx, c, rng)
			if lift == nil {
				lift = none
			}
			lifts = append(lifts, lift)
			if err != nil {
				return errors.Join(fmt.Errorf("fault %s: %w", f.Name, err), liftAll(lifts))
			}
			p.Counts[f.Name]++
		}
		p.wait(ctx, time.Duration(700+p.rng.IntN(3000))*time.Millisecond)
		if err := liftAll(lifts); err != nil {
			return err
		}
		p.Log("calm")
		p.wait(ctx, time.Duration(500+p.rng.IntN(2000))*time.Millisecond)
	}
	return nil
}

func (p *Plan) wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func liftAll(lifts []func() error) error {
	var errs []error
	for i := len(lifts) - 1; i >= 0; i-- {
		errs = append(errs, lifts[i]())
	}
	return errors.Join(errs...)
}

// Freeze ends whatever any fault may have left: all cables whole, all processes running.
func Freeze(c *lab.Cluster) error {
	errs := []error{c.Net.Heal()}
	for _, n := range c.Nodes {
		errs = append(errs, n.Pause(false), n.Start())
	}
	return errors.Join(errs...)
}
