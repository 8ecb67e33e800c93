package api

import (
	"context"
	"slices"
	"sync"

	"github.com/hizo/hizo/fsm"
)

// hub follows the events of this node's state once for all watchers. The newest ones are in memory, so that a watcher
// that keeps up costs no look into the store; who is further behind reads the store. Nothing is kept for a watcher:
// each has its place, and that is all.
type hub struct {
	store *fsm.Store

	mu      sync.RWMutex
	ring    []fsm.Event
	from    fsm.Cursor    // behind it ring begins
	to      fsm.Cursor    // up to here it is whole
	changed chan struct{} // closed when there is more to read, or from moved
}

const (
	hubRing  = 4096 // events in memory
	hubBatch = 256  // events read at a time
)

func newHub(store *fsm.Store) *hub {
	at := store.EventsEnd()
	return &hub{store: store, from: at, to: at, changed: make(chan struct{})}
}

// follow runs until ctx ends.
func (h *hub) follow(ctx context.Context) {
	for {
		changed := h.store.Changed()
		for h.step() {
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// step takes over the next events, and says whether there may be more.
func (h *hub) step() bool {
	events, next, ok := h.store.Events(h.to, hubBatch) // only this goroutine writes h.to
	h.mu.Lock()
	defer h.mu.Unlock()
	if !ok { // a restore, or very many events at once
		h.ring, h.from, h.to = nil, next, next
		h.wake()
		return false
	}
	h.to = next
	if len(events) == 0 {
		return false
	}
	h.ring = append(h.ring, events...)
	if over := len(h.ring) - hubRing; over > hubRing/4 { // now and then, not for every event
		h.from = h.ring[over-1].At(next.Epoch)
		h.ring = slices.Clone(h.ring[over:])
	}
	h.wake()
	return len(events) == hubBatch
}

func (h *hub) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// more returns a channel that is closed when there is more to read. Take it before reading.
func (h *hub) more() <-chan struct{} {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.changed
}

// read returns up to hubBatch events behind a place, and the place to go on from; false if the place is lost: start over
// from next. The events may be shared: they are read-only.
func (h *hub) read(at fsm.Cursor) (events []fsm.Event, next fsm.Cursor, ok bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if at.Epoch != h.to.Epoch || at.Index < h.from.Index || at.Index == h.from.Index && at.Ordinal < h.from.Ordinal {
		return h.store.Events(at, hubBatch)
	}
	i, _ := slices.BinarySearchFunc(h.ring, at, func(e fsm.Event, at fsm.Cursor) int {
		if e.Index < at.Index || e.Index == at.Index && e.Ordinal <= at.Ordinal {
			return -1
		}
		return 1
	})
	events = h.ring[i:]
	if len(events) > hubBatch {
		return events[:hubBatch:hubBatch], events[hubBatch-1].At(at.Epoch), true
	}
	if h.to.Index < at.Index || h.to.Index == at.Index && h.to.Ordinal < at.Ordinal {
		return nil, at, true // further than this node
	}
	return events[:len(events):len(events)], h.to, true
}
