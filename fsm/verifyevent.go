package fsm

import (
	"slices"
	"strings"
)

// events looks at their number, their places and the floor.
func (v *verifier) events() {
	mark, _ := v.objects[keyEvents].(*eventMark)
	if mark == nil {
		mark = &eventMark{}
	}
	count := uint64(0)
	for name, o := range v.objects {
		e, ok := o.(*Event)
		if !ok {
			continue
		}
		count++
		if name != objEvent(e.Index, e.Ordinal) || e.Index > v.s.Position().Index || e.Time > v.now || e.Kind == 0 ||
			!(Cursor{Index: mark.FloorIndex, Ordinal: mark.FloorOrdinal}).before(e.At(0)) {
			v.problem("event %+v is out of place", *e)
		}
	}
	if count != mark.Count || count > MaxEvents {
		v.problem("%d events are there, %d are counted", count, mark.Count)
	}
}

// consumers looks at their counts and at the index of who uses what.
func (v *verifier) consumers() {
	counts := map[string]uint32{}
	uses := 0
	for name, o := range v.objects {
		switch o := o.(type) {
		case *consumer:
			counts[keyConsumers]++
			counts[objConsumerCount(o.Principal)]++
			if name != o.name() || len(o.Uses) == 0 || !slices.IsSortedFunc(o.Uses, compareUses) {
				v.problem("consumer %q is out of place", name)
			}
			for i := range o.Uses {
				uses++
				if v.objects[objUsing(&o.Uses[i], o)] == nil {
					v.problem("nothing leads to consumer %q of %s/%s", name, o.Uses[i].Vault, o.Uses[i].Path)
				}
			}
		case *marker:
			if strings.HasPrefix(name, prefixUsing) {
				uses--
			}
		}
	}
	if uses != 0 {
		v.problem("%d uses without a consumer", -uses)
	}
	for name, o := range v.objects {
		if c, ok := o.(*consumerCount); ok {
			if c.Count != counts[name] {
				v.problem("%q: %d are counted, %d are there", name, c.Count, counts[name])
			}
			delete(counts, name)
		}
	}
	for name := range counts {
		v.problem("%q is not counted", name)
	}
}
