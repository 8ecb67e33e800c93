package api

import (
	"context"
	"crypto"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc/tap"

	"github.com/hizo/hizo/api/hizov1"
)

// This file bounds what strangers can make a node hold before any request of theirs is looked at:
// connections, signatures of the HSM, and calls whose message has not arrived yet.

// counter bounds how many of something there are, together and for each address.
type counter struct {
	total, each int

	mu     sync.Mutex
	all    int
	byAddr map[netip.Addr]int
}

func newCounter(total, each int) *counter {
	return &counter{total: total, each: each, byAddr: make(map[netip.Addr]int)}
}

func (c *counter) enter(addr netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= c.total || c.byAddr[addr] >= c.each {
		return false
	}
	c.all++
	c.byAddr[addr]++
	return true
}

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all
}

func (c *counter) leave(addr netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.byAddr[addr]--; c.byAddr[addr] == 0 {
		delete(c.byAddr, addr)
	}
}

// connections is a listener that closes what comes above the bounds at once.
type connections struct {
	net.Listener
	open *counter
}

func (l *connections) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr := addrOf(conn.RemoteAddr())
		if l.open.enter(addr) {
			return &connection{Conn: conn, left: sync.OnceFunc(func() { l.open.leave(addr) })}, nil
		}
		_ = conn.Close()
	}
}

type connection struct {
	net.Conn
	left func()
}

func (c *connection) Close() error {
	c.left()
	return c.Conn.Close()
}

func addrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// boundedSigner lets so many handshakes use the HSM at a time. A place is held for the signature alone, so that
// connections that say nothing take none away.
type boundedSigner struct {
	crypto.Signer
	slots chan struct{}
	wait  time.Duration
}

var errHandshakes = errors.New("too many TLS handshakes at once")

// Sign implements crypto.Signer.
func (b *boundedSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	timer := time.NewTimer(b.wait)
	defer timer.Stop()
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
		return b.Signer.Sign(rand, digest, opts)
	case <-timer.C:
		return nil, errHandshakes
	}
}

// admit is asked at each call's headers, before its message is read: a call without a token of this cluster may
// declare a message and never send it, so there is a bound on those.
func (s *Server) admit(ctx context.Context, call *tap.Info) (context.Context, error) {
	o := origin{addr: clientAddr(ctx)}
	o.read(call.Header.Get(hizov1.MetaAuthorization))
	ctx = context.WithValue(ctx, originKey{}, o)
	if o.bears {
		// That it is genuine, in force and allowed to do this is decided later.
		if _, ok := s.node.Store().Token(o.token[:]); ok {
			return ctx, nil
		}
	}
	if !s.strangers.enter(o.addr) {
		e := &Error{Reason: hizov1.ReasonOverloaded, Message: "too many calls without a login are under way: try again later"}
		return nil, e.GRPCStatus().Err()
	}
	context.AfterFunc(ctx, func() { s.strangers.leave(o.addr) }) // ends with the stream
	return ctx, nil
}

// originKey is where admit leaves who is calling.
type originKey struct{}
