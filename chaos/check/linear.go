package check

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/hizo/hizo/chaos/history"
)

// register is what a secret is to its clients: a version that grows by one at each write, and its value.
type register struct {
	version uint32
	value   string
}

// model is a register with compare-and-set and unknown outcomes. A write that was applied twice, lost after its
// acknowledgement, or read stale has no place in it.
var model = porcupine.Model{
	Init: func() any { return register{} },
	Step: func(state, input, output any) (bool, any) {
		s, e := state.(register), output.(history.Event)
		next := register{s.version + 1, e.Value}
		switch e.Kind {
		case history.Reveal, history.Inject:
			return s.version == e.Version && s.value == e.Value, s
		case history.Put:
			if e.Outcome == history.Unknown {
				return true, next // one that never took effect stands behind everything
			}
			return next.version == e.Version, next
		case history.CAS:
			switch e.Outcome {
			case history.Unknown:
				if s.version == e.CAS {
					return true, next
				}
				return true, s
			case history.OK:
				return s.version == e.CAS && next.version == e.Version, next
			}
			return s.version != e.CAS, s
		}
		return false, s
	},
	Equal:             func(a, b any) bool { return a.(register) == b.(register) },
	DescribeOperation: func(_, output any) string { return describe(output.(history.Event)) },
}

func describe(e history.Event) string {
	return fmt.Sprintf("#%d %s %s cas=%d v%d %q %s", e.ID, e.Kind, e.Key, e.CAS, e.Version, e.Value, e.Outcome)
}

func read(e history.Event) bool { return e.Kind == history.Reveal || e.Kind == history.Inject }

// Linearizable checks the puts, compare-and-sets, reveals and injects of each key. A search that takes longer than limit is no
// pass. checked is the number of calls that counted.
func Linearizable(events []history.Event, limit time.Duration) (checked int, violations []string) {
	byKey := map[string][]porcupine.Operation{}
	for _, e := range events {
		switch {
		case e.Kind != history.Put && e.Kind != history.CAS && !read(e):
			continue
		case read(e) && e.Outcome != history.OK:
			continue // tells nothing
		case !read(e) && e.Outcome == history.No && e.Reason != "CONFLICT":
			continue // a definite no has no effect
		case e.Kind == history.Put && e.Outcome == history.No:
			continue
		}
		end := int64(e.Return)
		if e.Outcome == history.Unknown {
			end = math.MaxInt64 // it may take effect at any time from its call on
		}
		byKey[e.Key] = append(byKey[e.Key], porcupine.Operation{Input: nil, Output: e, Call: int64(e.Call), Return: end})
		checked++
	}
	keys := make([]string, 0, len(byKey))
	for k := range byKey {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	deadline := time.Now().Add(limit)
	for _, key := range keys {
		switch porcupine.CheckOperationsTimeout(model, byKey[key], max(time.Until(deadline), time.Millisecond)) {
		case porcupine.Illegal:
			violations = append(violations, fmt.Sprintf("linearizability: the history of %s has no order (%d calls)", key, len(byKey[key])))
		case porcupine.Unknown:
			violations = append(violations, fmt.Sprintf("linearizability: %s could not be decided within %v (%d calls)", key, limit, len(byKey[key])))
		}
	}
	return checked, violations
}
