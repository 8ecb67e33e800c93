package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// conn is a connection to one node. gRPC tells neither whether a request was sent nor, in a form that a
// program can read, why it could not connect; conn finds out both.
type conn struct {
	addr  string
	grpc  *grpc.ClientConn
	cause atomic.Pointer[error] // why the last attempt to connect failed
	users int                   // attempts under way; guarded by Client.mu
}

// ConnectError says that a request was not sent because its node could not be reached or proved not to be
// who it should be.
type ConnectError struct {
	Addr string
	Err  error
}

func (e *ConnectError) Error() string { return fmt.Sprintf("%s: %v", e.Addr, e.Err) }

// Unwrap returns the cause.
func (e *ConnectError) Unwrap() error { return e.Err }

// impostor reports whether the node was reached but failed verification, which waiting does not mend.
func (e *ConnectError) impostor() bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](e.Err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.HostnameError](e.Err); ok {
		return true
	}
	return errors.Is(e.Err, ErrPin)
}

// keepalivePeriod must not be below what servers allow (their keepalive enforcement policy).
const keepalivePeriod = 10 * time.Second

var errClosed = errors.New("the client is closed")

// conn returns the connection to addr, made on first use. It belongs to the caller, too, until release.
func (c *Client) conn(addr string) (*conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	if n, ok := c.conns[addr]; ok {
		n.users++
		return n, nil
	}
	n := &conn{addr: addr, users: 1}
	creds := handshake{TransportCredentials: credentials.NewTLS(c.tls), failed: n.failed}
	cc, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			d, err := c.dial(ctx, addr)
			if err != nil {
				n.failed(err)
			}
			return d, err
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: c.cfg.BackoffBase, Multiplier: 1.6, Jitter: 0.2, MaxDelay: c.cfg.BackoffMax},
			MinConnectTimeout: c.cfg.AttemptTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepalivePeriod, Timeout: c.cfg.AttemptTimeout}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // this package retries, with knowledge of what may be repeated
		grpc.WithUserAgent(c.cfg.UserAgent),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	n.grpc = cc
	c.conns[addr] = n
	return n, nil
}

func (c *Client) dial(ctx context.Context, addr string) (net.Conn, error) {
	if c.cfg.Dial != nil {
		return c.cfg.Dial(ctx, addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

func (n *conn) failed(err error) { n.cause.Store(&err) }

// ready waits until the node is connected and verified. Its error is a *ConnectError: nothing was sent.
func (n *conn) ready(ctx context.Context) error {
	n.grpc.Connect()
	for {
		state := n.grpc.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.TransientFailure, connectivity.Shutdown:
			return n.connectError(errClosed)
		case connectivity.Idle:
			n.grpc.Connect()
		}
		if !n.grpc.WaitForStateChange(ctx, state) {
			return n.connectError(ctx.Err())
		}
	}
}

// errSlow says that a connection is still being made.
var errSlow = errors.New("no connection yet")

// connected is ready, for patience at most: a machine that has lost its power refuses no connection, it is silent.
// The connection goes on being made, and the next address is tried beside it (RFC 8305, section 5).
func (n *conn) connected(ctx context.Context, patience time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := n.ready(limited)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return &ConnectError{Addr: n.addr, Err: errSlow}
	}
	return err
}

func (n *conn) connectError(otherwise error) error {
	if cause := n.cause.Load(); cause != nil {
		return &ConnectError{Addr: n.addr, Err: *cause}
	}
	return &ConnectError{Addr: n.addr, Err: otherwise}
}

// drop forgets a connection that could not be made: gRPC would not try it again before its own back-off is
// over. One that is still being made is left to those who wait for it.
func (c *Client) drop(n *conn) {
	if n.grpc.GetState() != connectivity.TransientFailure {
		return
	}
	c.mu.Lock()
	if c.conns[n.addr] == n {
		delete(c.conns, n.addr)
	}
	c.mu.Unlock()
	n.grpc.Close()
}

// release ends a use of a connection.
func (c *Client) release(n *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n.users--
}

// retire closes the connections to addresses that no name leads to any more, once nobody uses them. mu is held.
func (c *Client) retire() {
	for addr, n := range c.conns {
		if n.users > 0 || addr == c.leader || slices.ContainsFunc(c.names, func(m *name) bool { return slices.Contains(m.addrsOf(), addr) }) {
			continue
		}
		delete(c.conns, addr)
		delete(c.health, addr)
		_ = n.grpc.Close()
	}
}

// Connections in reserve: a client that lives on keeps them to some nodes beside the leader, so that a change of leaders is
// not followed by everybody's handshakes at once, each with a signature of a possibly slow HSM.
const (
	reserveEvery = time.Second // and not before a client is as old
	reserveMost  = 4
)

// reserve sees to the connections in reserve. It never waits.
func (c *Client) reserve(leader string) {
	c.mu.Lock()
	due := !c.pinned && time.Since(c.reserved) >= reserveEvery
	if due {
		c.reserved = time.Now()
	}
	c.mu.Unlock()
	if !due {
		return
	}
	left := reserveMost
	for _, addr := range c.candidates() {
		if addr == leader || left == 0 || c.suspended(addr) {
			continue
		}
		left--
		n, err := c.conn(addr)
		if err != nil {
			return
		}
		n.grpc.Connect() // only if it is idle
		c.drop(n)        // only if it failed, so that it is not tried for ever
		c.release(n)
	}
}

// handshake notes why a TLS handshake failed.
type handshake struct {
	credentials.TransportCredentials
	failed func(error)
}

func (h handshake) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := h.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		h.failed(err)
	}
	return c, info, err
}

func (h handshake) Clone() credentials.TransportCredentials {
	return handshake{TransportCredentials: h.TransportCredentials.Clone(), failed: h.failed}
}
