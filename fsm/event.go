package fsm

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/cockroachdb/pebble/v2"
)

// Events say what changed, by name and version, never by value. They lie in the replicated state, so every node can tell
// them, in the order of the log, and a watcher goes on at any other node where it stopped.
//
// On disk:
//
//	event/ be64(index) be32(ordinal)   Event
//	events                             eventMark: how many there are, and the newest that was dropped
//	epoch                              be64: changes when a backup is restored, on all nodes to the same
//
// The newest MaxEvents stay. Who stopped before the oldest of them, or in a history that a restore ended, is told to
// start over: there is no telling what it missed.

// EventKind says what happened. Numbers are part of the log format.
type EventKind uint8

// Kinds of event.
const (
	EventPut             EventKind = 1 // a version was put and is current
	EventPromoted        EventKind = 2 // a pending version became current
	EventRetired         EventKind = 3 // an old version is no longer valid at its target
	EventDeleted         EventKind = 4
	EventUndeleted       EventKind = 5
	EventDestroyed       EventKind = 6
	EventRotation        EventKind = 7 // a rotation of the path entered another stage
	EventLeaseRevoked    EventKind = 8 // Path is the role of the lease
	EventPipelineChanged EventKind = 9 // Path is the name of the pipeline
)

// Event is one change.
type Event struct {
	Index   uint64 // Raft index of the entry; set by emit
	Ordinal uint32 // which of the entry's; set by emit
	Kind    EventKind
	Vault   string
	Path    string
	Version uint32 // 0 where the event is of no version
	Time    int64  // cluster time; set by emit
}

// Cursor is a place between two events: behind the event (Index, Ordinal) of the history Epoch.
type Cursor struct {
	Epoch   uint64
	Index   uint64
	Ordinal uint32
}

// before says whether a is a place before b of the same history.
func (a Cursor) before(b Cursor) bool {
	return a.Index < b.Index || a.Index == b.Index && a.Ordinal < b.Ordinal
}

// At is the cursor behind an event.
func (e Event) At(epoch uint64) Cursor { return Cursor{epoch, e.Index, e.Ordinal} }

// eventMark counts the kept events.
type eventMark struct {
	Count        uint64
	FloorIndex   uint64 // of the newest event that was dropped
	FloorOrdinal uint32
	LastIndex    uint64 // of the newest event: most entries make none, and looking is then cheap
}

func (o *Event) changed() uint64     { return 0 }
func (o *eventMark) changed() uint64 { return 0 }
func (o *Event) cost() int           { return 96 + len(o.Vault) + len(o.Path) }
func (o *eventMark) cost() int       { return 32 }

func objEvent(index uint64, ordinal uint32) string {
	return prefixEvent + string(be64(index)) + string(be32(ordinal))
}

// emit tells watchers of a change, if the record is accepted.
func (t *tx) emit(e Event) {
	e.Vault, e.Path = strings.Clone(e.Vault), strings.Clone(e.Path) // they may be part of a whole log record
	t.stagedEvents = append(t.stagedEvents, e)
}

// writeEvents puts the entry's events into the batch and drops as many of the oldest as there are too many.
func (t *tx) writeEvents() {
	if len(t.events) == 0 {
		return
	}
	mark := eventMark{}
	if have := find[eventMark](t, keyEvents); have != nil {
		mark = *have
	}
	for i := range t.events {
		e := &t.events[i]
		e.Index, e.Ordinal, e.Time = t.index, uint32(i), t.time
	}
	mark.Count += uint64(len(t.events))
	fresh := t.events
	if mark.Count > MaxEvents {
		t.dropEvents(&mark, mark.Count-MaxEvents)
		if mark.Count > MaxEvents { // one entry alone has more
			over := mark.Count - MaxEvents
			last := fresh[over-1]
			fresh = fresh[over:]
			mark.Count, mark.FloorIndex, mark.FloorOrdinal = MaxEvents, last.Index, last.Ordinal
		}
	}
	mark.LastIndex = t.index
	for i := range fresh {
		e := &fresh[i]
		t.must(t.batch.Set([]byte(objEvent(e.Index, e.Ordinal)), encodeObject(e), nil))
	}
	t.put(keyEvents, &mark)
	t.accept()
}

// dropEvents deletes up to n of the oldest committed events.
func (t *tx) dropEvents(mark *eventMark, n uint64) {
	it, err := t.s.db.NewIter(&pebble.IterOptions{
		LowerBound: []byte(objEvent(mark.FloorIndex, mark.FloorOrdinal) + "\x00"), UpperBound: after(prefixEvent),
	})
	t.must(err)
	defer func() { t.must(it.Close()) }()
	for ok := it.First(); ok && n > 0; ok = it.Next() {
		n--
		mark.Count--
		mark.FloorIndex, mark.FloorOrdinal = eventPlace(it.Key())
		t.must(t.batch.Delete(it.Key(), nil))
	}
	t.must(it.Error())
}

func eventPlace(key []byte) (index uint64, ordinal uint32) {
	place := key[len(prefixEvent):]
	return binary.BigEndian.Uint64(place), binary.BigEndian.Uint32(place[8:])
}

// EventsEnd is the cursor behind everything that this node has applied.
func (s *Store) EventsEnd() Cursor {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.eventsEnd()
}

func (s *Store) eventsEnd() Cursor { return Cursor{s.epoch, s.position.Index, math.MaxUint32} }

// Events returns up to limit events behind a cursor, in order, and the cursor to go on from, which moves on where there
// are none as well. It is false if what follows the cursor is no longer known: it lies below the oldest kept event, or in
// another history. A cursor that this node has not come to yet stays as it is: the node is behind.
func (s *Store) Events(from Cursor, limit int) (events []Event, next Cursor, ok bool) {
	s.mu.RLock()
	end := s.eventsEnd()
	mark := eventMark{}
	if have := find[eventMark](s, keyEvents); have != nil {
		mark = *have
	}
	if s.closed || from.Epoch != end.Epoch || from.before(Cursor{Index: mark.FloorIndex, Ordinal: mark.FloorOrdinal}) {
		s.mu.RUnlock()
		return nil, end, false
	}
	if !from.before(end) || limit <= 0 {
		s.mu.RUnlock()
		return nil, from, true
	}
	if from.Index > mark.LastIndex {
		s.mu.RUnlock()
		return nil, end, true
	}
	db := s.db
	db.mu.Lock()
	db.users++
	db.mu.Unlock()
	defer db.release()
	// Made under the lock, so that what it sees is exactly what is before end.
	it, err := db.NewIter(&pebble.IterOptions{
		LowerBound: []byte(objEvent(from.Index, from.Ordinal) + "\x00"), UpperBound: after(prefixEvent),
	})
	s.mu.RUnlock()
	if err != nil {
		s.fatal(fmt.Errorf("read events: %w", err))
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		o, err := decodeObject(string(it.Key()), it.Value())
		if err != nil {
			s.fatal(fmt.Errorf("read events: %w", err))
		}
		events = append(events, *o.(*Event))
		if len(events) == limit {
			return events, events[limit-1].At(end.Epoch), true
		}
	}
	if err := it.Error(); err != nil {
		s.fatal(fmt.Errorf("read events: %w", err))
	}
	return events, end, true
}
