// Package fault is what a chaos run does to its lab. Each fault is set and lifted; a seed says which come when. A fault
// that was set and had no effect proves nothing, so each says how often it really took effect, and in what.
package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hizo/hizo/chaos/disk"
	"github.com/hizo/hizo/chaos/lab"
)

// Fault breaks something.
type Fault struct {
	Name string
	// Needs is what a lab has to have for it, besides nodes and cables.
	Needs Need
	// Set returns what lifts the fault again, nil for nothing.
	Set func(ctx context.Context, s *Scene) (lift Lift, err error)
}

// Lift ends a fault. Its context outlives the phase with faults.
type Lift func(ctx context.Context) error

// Need is a set of what a lab may have.
type Need uint8

// Needs.
const (
	Probes Need = 1 << iota // a build with probes
	Disks                   // data directories on a file system that obeys
	Tokens                  // an HSM for each node
)

// Scene is what a fault is given to work with.
type Scene struct {
	C    *lab.Cluster
	Rand *rand.Rand

	plan *Plan
	name string
}

// Took notes that the fault has taken effect n times in this respect.
func (s *Scene) Took(n int, what string) {
	if n <= 0 {
		return
	}
	s.plan.mu.Lock()
	defer s.plan.mu.Unlock()
	s.plan.effects[s.name+": "+what] += n
	s.plan.took[s.name] = true
}

// Also notes what came beside the effect that the fault is there for, and does not count as one.
func (s *Scene) Also(n int, what string) {
	if n <= 0 {
		return
	}
	s.plan.mu.Lock()
	defer s.plan.mu.Unlock()
	s.plan.effects[s.name+": "+what] += n
}

// wrong notes that a promise was seen broken by the fault itself.
func (s *Scene) wrong(format string, args ...any) {
	s.plan.mu.Lock()
	defer s.plan.mu.Unlock()
	s.plan.wrongs = append(s.plan.wrongs, s.name+": "+fmt.Sprintf(format, args...))
}

// Log writes into the run's journal.
func (s *Scene) Log(format string, args ...any) {
	s.plan.Log("  "+s.name+": "+format, args...)
}

// All faults.
func All() []Fault {
	return slices.Concat(cables(), processes(), failpoints(), members(), disks(), damage(), clocks())
}

// Can are the faults that a lab can have.
func Can(faults []Fault, has Need) []Fault {
	return slices.DeleteFunc(slices.Clone(faults), func(f Fault) bool { return f.Needs&^has != 0 })
}

func (s *Scene) any() *lab.Node { return s.C.Nodes[s.Rand.IntN(len(s.C.Nodes))] }

// leader, or any node where there is none.
func (s *Scene) leader(ctx context.Context) *lab.Node {
	if n := s.C.Leader(ctx); n != nil {
		return n
	}
	return s.any()
}

// follower is a node that does not lead, as far as one can tell.
func (s *Scene) follower(ctx context.Context) *lab.Node {
	leader := s.leader(ctx)
	others := slices.DeleteFunc(slices.Clone(s.C.Nodes), func(n *lab.Node) bool { return n == leader })
	return others[s.Rand.IntN(len(others))]
}

func (s *Scene) shuffled() []int {
	list := make([]int, len(s.C.Nodes))
	for i, at := range s.Rand.Perm(len(s.C.Nodes)) {
		list[i] = s.C.Nodes[at].Number
	}
	return list
}

// background runs f until the fault is lifted; its error is the lift's.
func background(ctx context.Context, f func(ctx context.Context) error) Lift {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	return func(context.Context) error {
		stop()
		return <-done
	}
}

// sleep says whether ctx still lives after d.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// awaitEffect gives a fault that needs the cluster's consent some more time for it.
func (s *Scene) awaitEffect(ctx context.Context, limit time.Duration) {
	took := func() bool {
		s.plan.mu.Lock()
		defer s.plan.mu.Unlock()
		return s.plan.took[s.name]
	}
	for end := time.Now().Add(limit); !took() && time.Now().Before(end) && sleep(ctx, 50*time.Millisecond); {
	}
}

// between is a random duration.
func (s *Scene) between(least, most time.Duration) time.Duration {
	return least + time.Duration(s.Rand.Int64N(int64(most-least)))
}

// Plan is the faults of one seed in their order.
type Plan struct {
	rng    *rand.Rand
	faults []Fault
	Log    func(format string, args ...any)

	Set  map[string]int // times a fault was set
	Took map[string]int // times it took effect

	mu      sync.Mutex
	wrongs  []string
	effects map[string]int
	took    map[string]bool // of those that are set now
}

// NewPlan draws from faults.
func NewPlan(seed uint64, faults []Fault) *Plan {
	return &Plan{
		rng: rand.New(rand.NewPCG(seed, 0xfa17)), faults: faults, Log: func(string, ...any) {},
		Set: map[string]int{}, Took: map[string]int{}, effects: map[string]int{}, took: map[string]bool{},
	}
}

// Effects are what faults came to, by fault and kind of effect.
func (p *Plan) Effects() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.effects
}

// Wrongs are the violations that faults have seen themselves.
func (p *Plan) Wrongs() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wrongs
}

const (
	liftLimit = 20 * time.Second
	mendLimit = 25 * time.Second
)

// Run sets faults, one or two at once, each for some seconds, until ctx ends, and lifts everything. What a fault has
// destroyed is mended in the calm that follows, as far as it can be by then.
func (p *Plan) Run(ctx context.Context, c *lab.Cluster) error {
	for ctx.Err() == nil {
		var set []string
		var lifts []Lift
		// Two of a kind at once would lift each other.
		for _, at := range p.rng.Perm(len(p.faults))[:min(1+p.rng.IntN(2), len(p.faults))] {
			f := p.faults[at]
			p.Log("fault %s", f.Name)
			s := &Scene{C: c, Rand: rand.New(rand.NewPCG(p.rng.Uint64(), 1)), plan: p, name: f.Name} // its own: faults run side by side
			lift, err := f.Set(ctx, s)
			if lift != nil {
				lifts = append(lifts, lift)
			}
			if err != nil {
				return errors.Join(fmt.Errorf("fault %s: %w", f.Name, err), p.lift(ctx, lifts))
			}
			set = append(set, f.Name)
		}
		sleep(ctx, time.Duration(700+p.rng.IntN(3000))*time.Millisecond)
		err := p.lift(ctx, lifts)
		p.count(set)
		if err != nil {
			return err
		}
		if len(c.Wrecked()) > 0 {
			mending, cancel := context.WithTimeout(context.WithoutCancel(ctx), mendLimit)
			if err := c.Mend(mending); err != nil {
				p.Log("not mended yet: %v", err)
			}
			cancel()
		}
		p.Log("calm")
		sleep(ctx, time.Duration(500+p.rng.IntN(2000))*time.Millisecond)
	}
	return nil
}

func (p *Plan) lift(ctx context.Context, lifts []Lift) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), liftLimit)
	defer cancel()
	var errs []error
	for _, lift := range slices.Backward(lifts) {
		errs = append(errs, lift(ctx))
	}
	return errors.Join(errs...)
}

func (p *Plan) count(set []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range set {
		p.Set[name]++
		if p.took[name] {
			p.Took[name]++
		}
	}
	clear(p.took)
}

// Freeze ends whatever any fault may have left: all cables whole, all processes running, every node replaced whose disk
// was destroyed, all clocks at one time.
func Freeze(ctx context.Context, c *lab.Cluster) error {
	errs := []error{c.Net.Heal()}
	for _, n := range c.Nodes {
		if n.Disk != nil {
			n.Disk.Set(disk.Trouble{})
		}
		errs = append(errs, n.Pause(false), n.Start())
	}
	rightClocks(ctx, c)
	return errors.Join(append(errs, c.Mend(ctx))...)
}
