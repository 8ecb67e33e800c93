package transport

import (
	"context"
	"sync"
	"time"
)

// warmth keeps one admitted Raft stream in reserve for each peer. Followers do
// not talk to each other until the leader is gone; without a reserve an election
// would begin with handshakes, each with a signature of a possibly slow HSM on
// both sides. A spare that broke while it waited is noticed by its reader and
// replaced at the next Warm.
type warmth struct {
	mu     sync.Mutex
	spares map[string]*spare
	closed bool
}

type spare struct {
	s    *Stream
	read chan error // the reader's result: anything but a timeout means broken
}

func (w *warmth) init() { w.spares = make(map[string]*spare) }

// Warm makes sure that each of these members has a stream in reserve, and drops
// the reserves of others. It dials in parallel, waits for the dials and is meant
// to be called from a ticker and after an election.
func (m *Mux) Warm(ctx context.Context, ids []string) {
	want := make(map[string]bool, len(ids))
	var wg sync.WaitGroup
	for _, id := range ids {
		if id == m.cfg.ID || want[id] {
			continue
		}
		want[id] = true
		if m.warm.has(id) {
			continue
		}
		wg.Go(func() {
			s, err := m.dialMember(ctx, id, protoRaft)
			if err != nil {
				m.log.Debug("no stream in reserve", "peer", id, "error", err)
				return
			}
			m.warm.put(id, s)
		})
	}
	for _, id := range m.warm.others(want) {
		m.warm.drop(id)
	}
	wg.Wait()
}

func (w *warmth) has(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	sp := w.spares[id]
	if sp == nil {
		return false
	}
	select {
	case err := <-sp.read:
		sp.read <- err
		return false
	default:
		return true
	}
}

func (w *warmth) others(want map[string]bool) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []string
	for id := range w.spares {
		if !want[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

func (w *warmth) put(id string, s *Stream) {
	sp := &spare{s: s, read: make(chan error, 1)}
	w.mu.Lock()
	old := w.spares[id]
	closed := w.closed
	if !closed {
		w.spares[id] = sp
	}
	w.mu.Unlock()
	if closed {
		s.cut()
		return
	}
	if old != nil {
		old.s.cut()
	}
	// Nothing is ever sent to a dialler that has not asked: this read ends when
	// the stream breaks, or when take sets a deadline.
	go func() {
		n, err := s.Read(make([]byte, 1))
		if n > 0 {
			err = ErrProtocol
		}
		sp.read <- err
	}()
}

// take hands the reserve out, or nil where there is none that works.
func (w *warmth) take(id string) *Stream {
	w.mu.Lock()
	sp := w.spares[id]
	delete(w.spares, id)
	w.mu.Unlock()
	if sp == nil {
		return nil
	}
	_ = sp.s.SetReadDeadline(time.Unix(1, 0))
	if err := <-sp.read; !isTimeout(err) {
		sp.s.cut()
		return nil
	}
	_ = sp.s.SetReadDeadline(time.Time{})
	return sp.s
}

func (w *warmth) drop(id string) {
	w.mu.Lock()
	sp := w.spares[id]
	delete(w.spares, id)
	w.mu.Unlock()
	if sp != nil {
		sp.s.cut()
	}
}

func (w *warmth) close() {
	w.mu.Lock()
	w.closed = true
	spares := w.spares
	w.spares = make(map[string]*spare)
	w.mu.Unlock()
	for _, sp := range spares {
		sp.s.cut()
	}
}

func isTimeout(err error) bool {
	t, ok := err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}
