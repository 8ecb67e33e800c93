package api

import (
	"context"
	"io"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// history is a store with one vault, as a node's Raft would feed it.
type history struct {
	*fsmtest.Builder
	t     *testing.T
	fs    vfs.FS
	store *fsm.Store
	snaps *fsm.Snapshots
	next  uint32
}

func newHistory(t *testing.T) *history {
	t.Helper()
	h := &history{Builder: &fsmtest.Builder{}, t: t, fs: vfs.NewMem(), next: 1}
	var err error
	if h.store, err = fsm.Open(fsm.Options{Dir: "state", FS: h.fs, Halt: func(err error) { t.Error(err) }}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.store.Close() })
	if h.snaps, err = fsm.NewSnapshots(h.store, fsm.SnapshotOptions{Dir: "snapshots", FS: h.fs}); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *history) begin() *history {
	h.apply(h.Entry(h.Genesis(), h.Enrol("alice", "t"), h.Vault("ml")))
	return h
}

func (h *history) apply(entry *raft.Log) {
	h.t.Helper()
	for i, r := range h.store.Apply(entry).([]fsm.Result) {
		if r.Code != fsm.CodeOK {
			h.t.Fatalf("record %d: %+v", i, r)
		}
	}
}

// put makes n events, a few in each entry.
func (h *history) put(n int) (made []uint32) {
	h.t.Helper()
	for n > 0 {
		var commands []fsm.Command
		for ; n > 0 && len(commands) < 3; n-- {
			commands = append(commands, h.Put("ml", "db", h.next))
			made = append(made, h.next)
			h.next++
		}
		h.apply(h.Entry(commands...))
	}
	return made
}

// restore takes the newest snapshot of another history, under index and term.
func (h *history) restore(from *history, index, term uint64) {
	h.t.Helper()
	point, err := from.store.Snapshot()
	if err != nil {
		h.t.Fatal(err)
	}
	at := from.store.Position()
	k, err := from.snaps.Create(1, at.Index, at.Term, raft.Configuration{}, 1, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := point.Persist(k); err != nil {
		h.t.Fatal(err)
	}
	_, stream, err := from.snaps.Open(k.ID())
	if err != nil {
		h.t.Fatal(err)
	}
	into, err := h.snaps.Create(1, index, term, raft.Configuration{}, 1, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := io.Copy(into, stream); err != nil {
		h.t.Fatal(err)
	}
	_ = stream.Close()
	if err := into.Close(); err != nil {
		h.t.Fatal(err)
	}
	_, stream, err = h.snaps.Open(into.ID())
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.store.Restore(stream); err != nil {
		h.t.Fatal(err)
	}
	_ = stream.Close()
	*h.Builder = *from.Builder
	h.Index, h.Term, h.next = index, term, from.next
}

// reader follows a hub from a place as a watch does.
type reader struct {
	h    *hub
	at   fsm.Cursor
	seen []uint32
	over int // how often it had to start over
}

func (r *reader) drain() {
	for {
		events, next, ok := r.h.read(r.at)
		r.at = next
		if !ok {
			r.over++
			continue
		}
		for _, e := range events {
			r.seen = append(r.seen, e.Version)
		}
		if len(events) == 0 {
			return
		}
	}
}

func (r *reader) want(t *testing.T, over int, seen ...uint32) {
	t.Helper()
	r.drain()
	if !slices.Equal(r.seen, seen) || r.over != over {
		t.Errorf("saw %d events (%v…), want %d (%v…); started over %d times, want %d",
			len(r.seen), r.seen[:min(len(r.seen), 5)], len(seen), seen[:min(len(seen), 5)], r.over, over)
	}
}

func step(h *hub) {
	for h.step() {
	}
}

// Whoever keeps up reads memory, whoever does not reads the store; both see the same, also across the ring's end.
func TestHubTellsTheSameFromMemoryAndStore(t *testing.T) {
	n := newHistory(t).begin()
	h := newHub(n.store)
	near, far := &reader{h: h, at: h.to}, &reader{h: h, at: h.to}
	var want []uint32
	for range 5 {
		want = append(want, n.put(hubRing/2)...)
		step(h)
		near.drain()
	}
	if h.from == near.at || len(h.ring) > 2*hubRing {
		t.Fatalf("the ring holds %d events from %+v on", len(h.ring), h.from)
	}
	near.want(t, 0, want...)
	far.want(t, 0, want...)
	// From every place in a batch, at the seam of memory and store too.
	for _, back := range []int{1, 2, 5, len(h.ring) - 1, len(h.ring), len(h.ring) + 1} {
		list, _, ok := n.store.Events(fsm.Cursor{}, len(want)-back)
		if !ok {
			t.Fatal("start over")
		}
		r := &reader{h: h, at: list[len(list)-1].At(0)}
		r.want(t, 0, want[len(want)-back:]...)
	}
}

// A follower that got a snapshot goes on under the same cursors, with what it missed; after the restore of a backup
// everybody starts over, once.
func TestHubAfterRestores(t *testing.T) {
	leader, follower := newHistory(t).begin(), newHistory(t)
	first := leader.put(10)
	at := leader.store.Position()
	follower.restore(leader, at.Index, at.Term)
	h := newHub(follower.store)
	r := &reader{h: h, at: fsm.Cursor{}}
	r.want(t, 0, first...)

	// It is away while the log is compacted: the next it gets is a snapshot, and the events are in it.
	missed := leader.put(300)
	at = leader.store.Position()
	follower.restore(leader, at.Index, at.Term)
	step(h)
	r.want(t, 0, append(slices.Clone(first), missed...)...)
	late := &reader{h: h, at: fsm.Cursor{}}
	late.want(t, 0, append(slices.Clone(first), missed...)...)

	follower.restore(leader, at.Index+50, at.Term+1)        // as raft.Restore does with a backup
	r.want(t, 0, append(slices.Clone(first), missed...)...) // the hub has not looked yet
	step(h)
	r.seen = nil
	r.want(t, 1)
	again := follower.put(3)
	step(h)
	r.want(t, 1, again...)

	// A place of the history before, beyond everything that there is now: it will not come.
	lost := fsm.Cursor{Epoch: 0, Index: at.Index + 1000}
	ahead := &reader{h: h, at: lost}
	ahead.want(t, 1)
	w := &watch{a: &answer{footing: footing{store: follower.store}}}
	begun := time.Now()
	if err := w.begin(t.Context(), cursorText([16]byte{}, lost)); err != nil || w.at != lost || time.Since(begun) >= watchLook {
		t.Errorf("a watch from there: %v, at %+v, after %v", err, w.at, time.Since(begun))
	}
}

// Watchers that wait are woken by events, and by nothing else.
func TestHubWakes(t *testing.T) {
	n := newHistory(t).begin()
	h := newHub(n.store)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.follow(ctx)
	}()
	more := h.more()
	n.apply(n.Entry(n.Command(fsm.KindRecord, "user/alice", "list", "ml", nil)))
	target := n.store.EventsEnd()
	waitFor(t, func() bool {
		h.mu.RLock()
		defer h.mu.RUnlock()
		return h.to == target
	})
	select {
	case <-more:
		t.Error("woken by an entry without events")
	default:
	}
	n.put(1)
	<-more
	cancel()
	<-done
}

// waitFor waits until something that happens elsewhere holds.
func waitFor(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("it never came")
		}
	}
}

func TestCursorText(t *testing.T) {
	ours, theirs := [16]byte{1}, [16]byte{2}
	c := fsm.Cursor{Epoch: 1<<63 + 5, Index: 1 << 40, Ordinal: 1<<32 - 1}
	text := cursorText(ours, c)
	if got, err := parseCursor(ours, text); err != nil || got != c {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := parseCursor(theirs, text); err == nil {
		t.Error("another cluster took it")
	}
	for i := range text {
		b := []byte(text)
		b[i] ^= 1
		if got, err := parseCursor(ours, string(b)); err == nil && got != c {
			t.Errorf("damaged at %d it is %+v", i, got)
		}
	}
}

// Whatever text comes, what is taken is what would be given out.
func FuzzCursor(f *testing.F) {
	f.Add(cursorText([16]byte{1}, fsm.Cursor{Epoch: 1, Index: 2, Ordinal: 3}))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := parseCursor([16]byte{1}, text); err == nil && cursorText([16]byte{1}, c) != text {
			t.Errorf("%q is another form of %+v", text, c)
		}
	})
}
