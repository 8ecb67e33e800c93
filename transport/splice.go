package transport

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// SpliceConfig configures a Splicer.
type SpliceConfig struct {
	// Leader says where a client connection that has just been accepted goes:
	// "" keeps it here (this node leads, knows no leader, or does not splice),
	// anything else is the leader's client address. It must not block. It has to
	// come from this node's Raft state: each node of a chain of stale answers
	// has learnt of a leader of a later term than the one before it, so that a
	// chain ends.
	Leader func() string

	MaxConns    int           // kept and spliced together; default 4096
	DialTimeout time.Duration // default 2 s
	Linger      time.Duration // for the other direction after one has ended; default 1 min
	Logger      *slog.Logger
}

// Splicer is a listener for clients. While this node is a follower it joins
// accepted connections to the leader's client port, bytes only: TLS ends at the
// leader, and no value is ever in the clear on the way. Accept returns the
// connections that stay.
type Splicer struct {
	net.Listener
	cfg      SpliceConfig
	log      *slog.Logger
	warnings *rate.Limiter
	dial     func(ctx context.Context, network, addr string) (net.Conn, error)

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	conns   int                  // open, kept and spliced
	joined  map[*splice]struct{} // spliced
	clients map[string]*splice   // the same, by the client's address
	out     map[string]struct{}  // local addresses of our connections to leaders
	loop    string               // target that led back here, until loopEnd
	loopEnd time.Time
	closed  bool
}

type splice struct {
	target string
	client net.Conn
	leader net.Conn // nil while it is dialled; guarded by Splicer.mu
}

// NewSplicer wraps a TCP listener.
func NewSplicer(ln net.Listener, cfg SpliceConfig) *Splicer {
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = 4096
	}
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = 2 * time.Second
	}
	if cfg.Linger <= 0 {
		cfg.Linger = time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Splicer{
		Listener: ln,
		cfg:      cfg,
		log:      cfg.Logger.With("component", "splice"),
		warnings: rate.NewLimiter(1, 5),
		joined:   make(map[*splice]struct{}),
		clients:  make(map[string]*splice),
		out:      make(map[string]struct{}),
	}
	s.dial = (&net.Dialer{Timeout: cfg.DialTimeout, KeepAliveConfig: keepAlive}).DialContext
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Accept returns the next connection for this node itself.
func (s *Splicer) Accept() (net.Conn, error) {
	for {
		conn, err := s.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !s.enter() {
			_ = conn.Close()
			continue
		}
		target := s.cfg.Leader()
		if target == "" {
			return &keptConn{Conn: conn, leave: s.leave}, nil
		}
		j := &splice{target: target, client: conn}
		if !s.track(j) {
			s.leave()
			_ = conn.Close()
			continue
		}
		s.wg.Go(func() {
			defer s.leave()
			defer s.untrack(j)
			s.run(j)
		})
	}
}

// enter counts a connection, or says that there are too many.
func (s *Splicer) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.conns >= s.cfg.MaxConns {
		if s.warnings.Allow() {
			s.log.Warn("too many client connections", "limit", s.cfg.MaxConns)
		}
		return false
	}
	s.conns++
	return true
}

func (s *Splicer) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns--
}

// A leader's client address may lead back here: a load balancer's, say. Then
// each splice would be accepted as a client and spliced again, without end. Such
// a connection is known by its address, which is ours on the dialled side and
// the client's on the accepted one; whichever of track and connect sees it second
// finds the loop. The loop may have gone on by then, so that everything to this
// target ends, and nothing goes there for a while.
const loopPause = 5 * time.Second

// track registers a splice that is about to be dialled.
func (s *Splicer) track(j *splice) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := j.client.RemoteAddr().String()
	if _, again := s.out[from]; again {
		s.endLoop(j.target)
	}
	if s.closed || j.target == s.loop && time.Now().Before(s.loopEnd) {
		return false
	}
	s.joined[j] = struct{}{}
	s.clients[from] = j
	return true
}

// connect registers the dialled side; false means that the splice was given up
// meanwhile.
func (s *Splicer) connect(j *splice, leader net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	j.leader = leader
	from := leader.LocalAddr().String()
	s.out[from] = struct{}{}
	if s.clients[from] != nil {
		s.endLoop(j.target)
	}
	_, wanted := s.joined[j]
	return wanted && !s.closed
}

// endLoop ends everything to a target that leads back here; mu is held.
func (s *Splicer) endLoop(target string) {
	s.loop, s.loopEnd = target, time.Now().Add(loopPause)
	for j := range s.joined {
		if j.target == target {
			s.end(j)
		}
	}
	if s.warnings.Allow() {
		s.log.Error("the leader's client address leads back to this node; correct the advertised client addresses", "leader", target)
	}
}

// end closes a splice, which notices and cleans up; mu is held.
func (s *Splicer) end(j *splice) {
	delete(s.joined, j)
	_ = j.client.Close()
	if j.leader != nil {
		_ = j.leader.Close()
	}
}

func (s *Splicer) untrack(j *splice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(j)
	delete(s.clients, j.client.RemoteAddr().String())
	if j.leader != nil {
		delete(s.out, j.leader.LocalAddr().String())
	}
}

func (s *Splicer) run(j *splice) {
	leader, err := s.dial(s.ctx, "tcp", j.target)
	if err != nil {
		if s.ctx.Err() == nil && s.warnings.Allow() {
			s.log.Warn("cannot reach the leader's client port", "leader", j.target, "error", err)
		}
		return
	}
	if !s.connect(j, leader) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { s.copy(leader, j.client) })
	both.Go(func() { s.copy(j.client, leader) })
	both.Wait()
}

// copy moves one direction until it ends, and passes a half-close on. The
// other direction then has Linger to finish; an error ends both at once. On
// Linux the bytes stay in the kernel (splice(2), by net.TCPConn.ReadFrom).
func (s *Splicer) copy(dst, src net.Conn) {
	_, err := io.Copy(dst, src)
	if half, ok := dst.(interface{ CloseWrite() error }); err == nil && ok && half.CloseWrite() == nil {
		deadline := time.Now().Add(s.cfg.Linger)
		_ = dst.SetDeadline(deadline)
		_ = src.SetDeadline(deadline)
		return
	}
	_ = dst.Close()
	_ = src.Close()
}

// Retarget closes the spliced connections that no longer lead to the leader,
// so that their clients connect anew. Call it at every change of leadership.
func (s *Splicer) Retarget() {
	target := s.cfg.Leader()
	s.cut(func(j *splice) bool { return j.target != target })
}

func (s *Splicer) cut(which func(*splice) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for j := range s.joined {
		if which(j) {
			s.end(j)
		}
	}
}

// Close ends the listener and the spliced connections; those that Accept gave
// out belong to whoever took them.
func (s *Splicer) Close() error {
	err := s.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.cut(func(*splice) bool { return true })
	s.wg.Wait()
	return err
}

// keptConn gives its place back when it is closed.
type keptConn struct {
	net.Conn
	once  sync.Once
	leave func()
}

func (c *keptConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.leave)
	return err
}
