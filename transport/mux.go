// Package transport carries everything that nodes say to each other: Raft and
// cluster RPC over one TLS port (Mux), hints by gossip (Gossip), and client
// connections handed on to the leader unopened (Splicer).
//
// Trust is the public key that the membership pins for each node, never a name
// or a date in a certificate. A stream is checked against the membership twice:
// in the handshake, and again after it has been registered, so that a removal
// between the two is not missed. Whoever removes a member changes the Directory
// first and calls Drop second; then no stream of that member survives, in
// whatever order a handshake and the removal interleave.
//
// Nothing here touches a disk: a crash at any point loses connections only.
package transport

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// ALPN names (RFC 7301) of the three kinds of streams on the peer port.
const (
	protoRaft = "hizo-raft/1"
	protoPeer = "hizo-peer/1"
	protoJoin = "hizo-join/1"
)

// Config says who this node is and whom it admits. The limits have defaults.
type Config struct {
	Addr      string // listen address, host:port
	ID        string // this node's Raft ServerID
	Signer    crypto.Signer
	Directory Directory
	Logger    *slog.Logger

	HandshakeTimeout time.Duration // from accept to admission; default 5 s
	MaxHandshakes    int           // under way at once; default 64
	MaxJoiners       int           // streams of strangers at once; default 64
	JoinerLifetime   time.Duration // after which a stranger's stream is cut; default 5 min
}

// Mux is the peer port. Create it with Listen.
type Mux struct {
	cfg    Config
	log    *slog.Logger
	tcp    net.Listener
	server *tls.Config
	cert   tls.Certificate

	raft, peers, joiners *lane

	pending  pending
	streams  registry
	warm     warmth
	refusals *rate.Limiter // bounds what strangers can write into the log

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
}

// Listen opens the peer port and starts to admit members.
func Listen(cfg Config) (*Mux, error) {
	if cfg.ID == "" || cfg.Signer == nil || cfg.Directory == nil {
		return nil, errors.New("transport needs an ID, a Signer and a Directory")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.HandshakeTimeout <= 0 {
		cfg.HandshakeTimeout = 5 * time.Second
	}
	if cfg.MaxHandshakes <= 0 {
		cfg.MaxHandshakes = 64
	}
	if cfg.MaxJoiners <= 0 {
		cfg.MaxJoiners = 64
	}
	if cfg.JoinerLifetime <= 0 {
		cfg.JoinerLifetime = 5 * time.Minute
	}
	cert, err := selfSigned(cfg.ID, cfg.Signer)
	if err != nil {
		return nil, err
	}
	// A peer that vanished without a FIN is noticed in about half a minute, so
	// that its streams do not pile up.
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	tcp, err := lc.Listen(context.Background(), "tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen on the peer port: %w", err)
	}
	m := &Mux{
		cfg:      cfg,
		log:      cfg.Logger.With("component", "transport"),
		tcp:      tcp,
		cert:     cert,
		pending:  pending{limit: cfg.MaxHandshakes},
		refusals: rate.NewLimiter(1, 20),
	}
	m.ctx, m.cancel = context.WithCancelCause(context.Background())
	m.server = &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{cert},
		NextProtos:             []string{protoRaft, protoPeer, protoJoin},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true, // a resumed session would skip the proof of the key
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := m.admit(state)
			return err
		},
	}
	closer := func(proto string) func() {
		return func() { m.streams.cut(func(s *Stream) bool { return s.proto == proto }) }
	}
	m.raft = newLane(nodeAddr(cfg.ID), closer(protoRaft))
	m.peers = newLane(tcp.Addr(), closer(protoPeer))
	m.joiners = newLane(tcp.Addr(), closer(protoJoin))
	m.warm.init()
	m.wg.Go(m.serve)
	return m, nil
}

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// Addr is the address of the peer port.
func (m *Mux) Addr() net.Addr { return m.tcp.Addr() }

// Key is the fingerprint of this node's identity key, the one to pin.
func (m *Mux) Key() [32]byte { return Fingerprint(m.cfg.Signer.Public()) }

// Peers yields streams of current members for cluster RPC.
func (m *Mux) Peers() net.Listener { return m.peers }

// Joiners yields streams of anybody: their key is proven, but it is in no
// membership. PeerOf gives the handler that key.
func (m *Mux) Joiners() net.Listener { return m.joiners }

// Drop closes every stream from and to a member, at once and without the
// courtesies of TLS. Change the Directory first: Drop ends what is there, the
// Directory keeps it from coming back.
func (m *Mux) Drop(id string) {
	m.warm.drop(id)
	if n := m.streams.cut(func(s *Stream) bool { return s.peer.ID == id }); n > 0 {
		m.log.Info("closed the streams of a removed member", "peer", id, "streams", n)
	}
}

// Close ends the listener and every stream and waits for their goroutines.
func (m *Mux) Close() error {
	m.cancel(net.ErrClosed)
	err := m.tcp.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	m.pending.closeAll()
	m.warm.close()
	for _, l := range []*lane{m.raft, m.peers, m.joiners} {
		_ = l.Close()
	}
	m.streams.close()
	m.wg.Wait()
	return err
}

// serve accepts without ever waiting for a client: each handshake is its own
// goroutine, and where there are too many the most greedy address loses its
// oldest one (see pending).
func (m *Mux) serve() {
	var pause time.Duration
	for {
		conn, err := m.tcp.Accept()
		if err != nil {
			if m.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, most likely: wait for some to be freed.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			m.log.Warn("the peer port cannot accept; check the limit of open files", "error", err, "pause", pause)
			select {
			case <-time.After(pause):
			case <-m.ctx.Done():
				return
			}
			continue
		}
		pause = 0
		if !m.pending.add(conn) {
			_ = conn.Close()
			return
		}
		m.wg.Go(func() {
			defer m.pending.remove(conn)
			m.handshake(conn)
		})
	}
}

// handshake takes one accepted connection to one of the lanes, or closes it.
func (m *Mux) handshake(conn net.Conn) {
	deadline := time.Now().Add(m.cfg.HandshakeTimeout)
	ctx, cancel := context.WithDeadline(m.ctx, deadline)
	defer cancel()
	tc := tls.Server(conn, m.server)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		m.refused(conn, err)
		return
	}
	state := tc.ConnectionState()
	peer, err := m.admit(state)
	if err != nil {
		_ = conn.Close()
		m.refused(conn, err)
		return
	}
	s := &Stream{Conn: tc, peer: peer, proto: state.NegotiatedProtocol, registry: &m.streams}
	if err := m.deliver(s, deadline); err != nil {
		s.cut()
		m.refused(conn, err)
	}
}

// deliver registers the stream, looks at the membership once more, tells the
// dialler and hands the stream to whoever accepts on its lane.
func (m *Mux) deliver(s *Stream, deadline time.Time) error {
	lane := m.raft
	switch s.proto {
	case protoPeer:
		lane = m.peers
	case protoJoin:
		lane = m.joiners
	}
	limit := 0
	if s.proto == protoJoin {
		// Strangers do not keep a place for ever; a joiner dials again.
		limit = m.cfg.MaxJoiners
		s.expire = time.AfterFunc(m.cfg.JoinerLifetime, s.cut)
	}
	if err := m.streams.add(s, limit); err != nil {
		return err
	}
	if again, err := m.admit(s.ConnectionState()); err != nil || again.ID != s.peer.ID {
		return fmt.Errorf("removed while it connected: %w", ErrNotMember)
	}
	_ = s.SetWriteDeadline(deadline)
	if _, err := s.Write([]byte{admitted}); err != nil {
		return err
	}
	_ = s.SetWriteDeadline(time.Time{})
	return lane.offer(s)
}

// admit is the rule of the peer port: Raft and peer streams belong to current
// members, join streams to anybody with a key.
func (m *Mux) admit(state tls.ConnectionState) (Peer, error) {
	key, err := peerKey(state)
	if err != nil {
		return Peer{}, err
	}
	switch state.NegotiatedProtocol {
	case protoRaft, protoPeer:
		peer, ok := m.cfg.Directory.ByKey(key)
		if !ok || peer.ID == "" {
			return Peer{}, fmt.Errorf("key %s: %w", short(key), ErrNotMember)
		}
		// Whoever may open a Raft stream can depose leaders and write logs: a member without a vote only answers.
		if state.NegotiatedProtocol == protoRaft && !peer.Raft {
			return Peer{}, fmt.Errorf("%s, key %s: %w", peer.ID, short(key), ErrNoRaft)
		}
		peer.Key = key
		return peer, nil
	case protoJoin:
		return Peer{Key: key}, nil
	default:
		return Peer{}, ErrProtocol
	}
}

func (m *Mux) refused(conn net.Conn, err error) {
	if m.ctx.Err() != nil || !m.refusals.Allow() {
		return
	}
	m.log.Warn("refused a stream", "remote", conn.RemoteAddr().String(), "error", err)
}
