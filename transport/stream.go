package transport

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

// admitted is the one byte a Mux sends on a stream that it took. In TLS 1.3 a
// dialler's handshake ends before its certificate has been judged (RFC 8446,
// section 4.4.4); without this byte a refusal would surface only in the first
// RPC, as a bare end of stream.
const admitted = 0x01

// Stream is one admitted TLS connection, in either direction.
type Stream struct {
	*tls.Conn
	peer     Peer
	proto    string
	registry *registry
	expire   *time.Timer // join streams only
}

// Peer is who proved to be at the other end.
func (s *Stream) Peer() Peer { return s.peer }

// Close ends the stream with TLS's close_notify.
func (s *Stream) Close() error {
	s.leave()
	return s.Conn.Close()
}

// cut ends the stream without waiting: close_notify could block for seconds on
// a peer that does not read.
func (s *Stream) cut() {
	s.leave()
	_ = s.NetConn().Close()
}

func (s *Stream) leave() {
	s.registry.remove(s)
	if s.expire != nil {
		s.expire.Stop()
	}
}

var errTooManyJoiners = errors.New("too many streams of nodes that are no members; try again later")

// registry holds every open stream, so that removing a member can end its own.
type registry struct {
	mu      sync.Mutex
	streams map[*Stream]struct{}
	closed  bool
}

// add registers a stream; limit bounds the streams of its protocol, 0 for none.
func (r *registry) add(s *Stream, limit int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return net.ErrClosed
	}
	if limit > 0 {
		n := 0
		for other := range r.streams {
			if other.proto == s.proto {
				n++
			}
		}
		if n >= limit {
			return errTooManyJoiners
		}
	}
	if r.streams == nil {
		r.streams = make(map[*Stream]struct{})
	}
	r.streams[s] = struct{}{}
	return nil
}

func (r *registry) remove(s *Stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.streams, s)
}

// cut closes every stream that which picks and says how many there were.
func (r *registry) cut(which func(*Stream) bool) int {
	r.mu.Lock()
	var picked []*Stream
	for s := range r.streams {
		if which(s) {
			picked = append(picked, s)
		}
	}
	r.mu.Unlock()
	for _, s := range picked {
		s.cut()
	}
	return len(picked)
}

func (r *registry) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cut(func(*Stream) bool { return true })
}

// lane is the listener of one protocol.
type lane struct {
	addr    net.Addr
	queue   chan *Stream
	done    chan struct{}
	once    sync.Once
	onClose func()
}

// laneBacklog is how many admitted streams may wait for Accept.
const laneBacklog = 64

func newLane(addr net.Addr, onClose func()) *lane {
	return &lane{addr: addr, queue: make(chan *Stream, laneBacklog), done: make(chan struct{}), onClose: onClose}
}

var errBacklog = errors.New("nobody accepts the streams of this protocol fast enough")

// offer never waits: a lane that nobody serves must not hold handshakes up.
func (l *lane) offer(s *Stream) error {
	select {
	case <-l.done:
		return net.ErrClosed
	default:
	}
	select {
	case l.queue <- s:
		return nil
	default:
		return errBacklog
	}
}

func (l *lane) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case s := <-l.queue:
		return s, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends this protocol and its streams; the others go on.
func (l *lane) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.onClose()
	})
	return nil
}

func (l *lane) Addr() net.Addr { return l.addr }
