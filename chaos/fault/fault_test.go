package fault

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hizo/hizo/chaos/lab"
)

// A fault that was set and did nothing is told from one that took effect, and every one is lifted.
func TestPlanCountsEffects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lifted := map[string]int{}
		one := func(name string, effect int) Fault {
			return Fault{Name: name, Set: func(_ context.Context, s *Scene) (Lift, error) {
				s.Also(1, "what comes beside it")
				return func(ctx context.Context) error {
					lifted[name]++
					s.Took(effect, "effects")
					return ctx.Err() // a lift outlives the phase with faults
				}, nil
			}}
		}
		p := NewPlan(1, []Fault{one("works", 3), one("idle", 0)})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := p.Run(ctx, &lab.Cluster{}); err != nil {
			t.Fatal(err)
		}
		works, idle := p.Set["works"], p.Set["idle"]
		if works == 0 || p.Took["works"] != works || lifted["works"] != works || p.Effects()["works: effects"] != 3*works {
			t.Errorf("works: set %d, took %d, lifted %d, effects %v", works, p.Took["works"], lifted["works"], p.Effects())
		}
		if idle == 0 || p.Took["idle"] != 0 || lifted["idle"] != idle || p.Effects()["idle: what comes beside it"] != idle {
			t.Errorf("idle: set %d, took %d, lifted %d, effects %v", idle, p.Took["idle"], lifted["idle"], p.Effects())
		}
	})
}

// A seed fixes which faults come in which order.
func TestPlanRepeats(t *testing.T) {
	order := func(seed uint64) (names []string) {
		synctest.Test(t, func(t *testing.T) {
			var list []Fault
			for _, f := range All() {
				list = append(list, Fault{Name: f.Name, Set: func(context.Context, *Scene) (Lift, error) {
					names = append(names, f.Name)
					return nil, nil
				}})
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			if err := NewPlan(seed, list).Run(ctx, &lab.Cluster{}); err != nil {
				t.Fatal(err)
			}
		})
		return names
	}
	a, b, c := order(7), order(7), order(8)
	same := func(a, b []string) bool {
		for i := range min(len(a), len(b)) {
			if a[i] != b[i] {
				return false
			}
		}
		return len(a) > 10 && len(a) == len(b)
	}
	if !same(a, b) || same(a, c) {
		t.Errorf("seed 7: %v\nand %v\nseed 8: %v", a, b, c)
	}
}

// Each fault has a name of its own, and none is left out where a lab has everything.
func TestNeeds(t *testing.T) {
	names := map[string]bool{}
	for _, f := range All() {
		if names[f.Name] || f.Set == nil {
			t.Errorf("%s is there twice, or does nothing", f.Name)
		}
		names[f.Name] = true
	}
	if got := len(Can(All(), Probes|Disks|Tokens)); got != len(names) {
		t.Errorf("%d of %d faults", got, len(names))
	}
	for _, f := range Can(All(), 0) {
		if f.Needs != 0 {
			t.Errorf("%s needs %b", f.Name, f.Needs)
		}
	}
}
