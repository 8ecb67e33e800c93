package fsm_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

func (w *world) events(from fsm.Cursor) (out []string) {
	w.t.Helper()
	list, _, ok := w.s.Events(from, math.MaxInt)
	if !ok {
		w.t.Fatalf("from %+v: start over", from)
	}
	for _, e := range list {
		out = append(out, fmt.Sprintf("%d %s/%s@%d", e.Kind, e.Vault, e.Path, e.Version))
	}
	return out
}

func (w *world) versions(kind fsm.Kind, path string, numbers ...uint32) fsm.Command {
	return w.do(kind, fsm.SecretVersions{Vault: "ml", Path: path, Versions: numbers})
}

func TestEventsTellWhatHappened(t *testing.T) {
	w := newWorld(t)
	begin := w.s.EventsEnd()
	if all := w.events(fsm.Cursor{}); !slices.Equal(all, []string{"1 ml/db@1"}) {
		t.Errorf("from the beginning: %q", all)
	}
	// A refused record tells nothing, its neighbours keep their order.
	refused := w.Put("ml", "db", 9)
	if codes := w.apply(w.Put("ml", "db", 2), refused, w.Put("ml", "other", 1), w.versions(fsm.KindSecretDelete, "db", 1, 2)); codes[1].Code != fsm.CodeSuperseded {
		t.Fatalf("%+v", codes)
	}
	w.ok(w.versions(fsm.KindSecretRestore, "db", 2))
	w.ok(w.versions(fsm.KindSecretDestroy, "db", 1))
	want := []string{"1 ml/db@2", "1 ml/other@1", "4 ml/db@1", "4 ml/db@2", "5 ml/db@2", "6 ml/db@1"}
	if got := w.events(begin); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	// One by one: each cursor goes on exactly where the last ended.
	var one []fsm.Event
	for at := begin; ; {
		list, next, ok := w.s.Events(at, 1)
		if !ok {
			t.Fatal("start over")
		}
		if one = append(one, list...); len(list) == 0 {
			if next != w.s.EventsEnd() {
				t.Errorf("the end is %+v, %+v was answered", w.s.EventsEnd(), next)
			}
			break
		}
		if at = next; at != list[0].At(0) {
			t.Fatalf("behind %+v the cursor is %+v", list[0], at)
		}
	}
	all, _, _ := w.s.Events(begin, 100)
	if !slices.Equal(one, all) || len(all) != len(want) {
		t.Errorf("one by one %+v, at once %+v", one, all)
	}
	// The cursor moves where nothing happened, and stays where this node has not come to.
	w.ok(w.tick())
	if _, next, ok := w.s.Events(all[len(all)-1].At(0), 10); !ok || next != w.s.EventsEnd() {
		t.Errorf("after a tick: %+v, %t", next, ok)
	}
	ahead := fsm.Cursor{Index: w.Index + 5}
	if list, next, ok := w.s.Events(ahead, 10); !ok || next != ahead || len(list) != 0 {
		t.Errorf("ahead of the node: %+v, %+v, %t", list, next, ok)
	}
	if _, _, ok := w.s.Events(fsm.Cursor{Epoch: 7, Index: w.Index}, 10); ok {
		t.Error("a cursor of another history went on")
	}
}

// TestEventsHaveAFloor makes more events than are kept: the newest MaxEvents stay, and who stopped below starts over.
func TestEventsHaveAFloor(t *testing.T) {
	w := newWorld(t)
	begin := w.s.EventsEnd()
	var numbers []uint32
	for v := uint32(2); v <= fsm.MaxVersions; v++ {
		w.ok(w.Put("ml", "db", v))
	}
	for v := uint32(1); v <= fsm.MaxVersions; v++ {
		numbers = append(numbers, v)
	}
	fill := func(records int) {
		t.Helper()
		var all []fsm.Command
		for range records {
			all = append(all, w.versions(fsm.KindSecretDelete, "db", numbers...))
		}
		w.ok(all...)
	}
	count := func(from fsm.Cursor) int {
		list, _, ok := w.s.Events(from, math.MaxInt)
		if !ok {
			return -1
		}
		return len(list)
	}
	fill(fsm.MaxEvents/fsm.MaxVersions - 1)
	if n := count(begin); n != fsm.MaxEvents-1 { // 99 puts
		t.Fatalf("%d events", n)
	}
	w.ok(w.Put("ml", "db", fsm.MaxVersions+1))
	if count(begin) != fsm.MaxEvents || count(fsm.Cursor{}) != -1 {
		t.Errorf("the first event fell below the floor: %d from behind it, %d from the beginning", count(begin), count(fsm.Cursor{}))
	}
	w.ok(w.Put("ml", "db", fsm.MaxVersions+2))
	if n := count(begin); n != -1 {
		t.Errorf("below the floor %d events were told", n)
	}
	// One entry alone makes more than are kept: its own first ones go.
	numbers = numbers[2:]
	fill(fsm.MaxEvents/len(numbers) + 1)
	list, _, ok := w.s.Events(w.s.EventsEnd(), 1)
	if !ok || len(list) != 0 {
		t.Fatal("the end is not a place to go on from")
	}
	first := uint32(fsm.MaxEvents/len(numbers)+1)*uint32(len(numbers)) - fsm.MaxEvents
	if n := count(fsm.Cursor{Index: w.Index, Ordinal: first - 1}); n != fsm.MaxEvents {
		t.Errorf("%d events of the last entry, from %d on", n, first)
	}
	if n := count(fsm.Cursor{Index: w.Index, Ordinal: first - 2}); n != -1 {
		t.Errorf("%d events from below the floor inside one entry", n)
	}
}

// TestEventsSurviveSnapshots: a replica that got a snapshot tells the same events under the same cursors; one that got a
// backup, under another index, tells who comes with an old cursor to start over, and all replicas agree.
func TestEventsSurviveSnapshots(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	from := newReplica(t)
	count := func(s *fsm.Store) int {
		list, _, _ := s.Events(fsm.Cursor{}, 1)
		return len(list)
	}
	random := fsmtest.NewRandom(7, from.store)
	for i := 0; i < 60 || count(from.store) == 0; i++ { // until it has some
		from.store.Apply(random.Log(random.Entry()))
	}
	data := streamOf(t, from)
	at, end := fsm.Cursor{}, from.store.EventsEnd()
	want, _, ok := from.store.Events(at, math.MaxInt)
	if !ok || len(want) == 0 {
		t.Fatal("the history has no events")
	}
	position := from.store.Position()
	to := newReplica(t)
	if err := receive(to, position.Index, position.Term, data); err != nil {
		t.Fatal(err)
	}
	to.crash(rng, 0)
	got, next, ok := to.store.Events(at, math.MaxInt)
	if !ok || !slices.Equal(got, want) || next != end {
		t.Errorf("after a snapshot: %d events up to %+v, want %d up to %+v", len(got), next, len(want), end)
	}

	var epochs []uint64
	for range 2 {
		r := newReplica(t)
		if err := receive(r, position.Index+100, position.Term+1, data); err != nil {
			t.Fatal(err)
		}
		r.crash(rng, 0)
		if _, _, ok := r.store.Events(end, 1); ok {
			t.Error("a cursor from before the backup went on")
		}
		epochs = append(epochs, r.store.EventsEnd().Epoch)
		// A later snapshot of the restored state carries the epoch on.
		later := newReplica(t)
		if err := r.snapshot(10); err != nil {
			t.Fatal(err)
		}
		if err := r.send(later); err != nil {
			t.Fatal(err)
		}
		later.crash(rng, 0)
		epochs = append(epochs, later.store.EventsEnd().Epoch)
	}
	if epochs[0] == 0 || len(slices.Compact(epochs)) != 1 {
		t.Errorf("epochs %v: all replicas must agree on one of their own", epochs)
	}
}
