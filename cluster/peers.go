package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hizo/hizo/cluster/peerpb"
	"github.com/hizo/hizo/crypto/hybrid"
)

// peerClients keeps one gRPC connection to each member that was called. A connection is dialled by member
// id, so that the key at its other end is the pinned one.
type peerClients struct {
	transport Transport
	mu        sync.Mutex
	conns     map[string]*grpc.ClientConn
}

func newPeerClients(t Transport) *peerClients {
	return &peerClients{transport: t, conns: make(map[string]*grpc.ClientConn)}
}

// of returns a client of a member. Whether it can be reached shows in the call.
func (p *peerClients) of(id string) peerpb.PeersClient {
	conn, err := p.conn(id)
	if err != nil {
		return peerpb.NewPeersClient(unreachable{err})
	}
	return peerpb.NewPeersClient(conn)
}

func (p *peerClients) conn(id string) (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if conn := p.conns[id]; conn != nil {
		return conn, nil
	}
	conn, err := grpc.NewClient("passthrough:///"+id, dialOptions(p.transport, func(ctx context.Context, _ string) (net.Conn, error) {
		return p.transport.DialPeer(ctx, id)
	})...)
	if err != nil {
		return nil, err
	}
	p.conns[id] = conn
	return conn, nil
}

// warm connects to members: followers hardly call each other, and a new leader reads clocks before it serves. Handshakes,
// each with signatures of two HSMs, would lengthen every fail-over.
func (p *peerClients) warm(self string, ids []string) {
	for _, id := range ids {
		if id == self {
			continue
		}
		if conn, err := p.conn(id); err == nil {
			conn.Connect() // only if it is idle
		}
	}
}

func (p *peerClients) drop(id string) {
	p.mu.Lock()
	conn := p.conns[id]
	delete(p.conns, id)
	p.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
}

func (p *peerClients) close() {
	p.mu.Lock()
	conns := p.conns
	p.conns = make(map[string]*grpc.ClientConn)
	p.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close()
	}
}

const maxPeerMessage = 2 << 20

func dialOptions(t Transport, dial func(context.Context, string) (net.Conn, error)) []grpc.DialOption {
	retry := backoff.DefaultConfig
	retry.BaseDelay, retry.MaxDelay = 100*time.Millisecond, time.Second
	return []grpc.DialOption{
		grpc.WithTransportCredentials(t.Credentials()),
		grpc.WithContextDialer(dial),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: 2 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxPeerMessage), grpc.MaxCallSendMsgSize(maxPeerMessage)),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
	}
}

// unreachable is a member that cannot even be dialled.
type unreachable struct{ err error }

func (u unreachable) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	return u.err
}

func (u unreachable) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, u.err
}

// callKeys are HPKE keys that this node made for a peer's next call; each opens one message.
type callKeys struct {
	mu   sync.Mutex
	keys map[string]callKey
}

type callKey struct {
	key   *hybrid.Key
	owner string
	until time.Time
}

const (
	callKeyLasts = time.Minute
	maxCallKeys  = 4 // of one member
)

var errCallKey = errors.New("no such call key: it was used, has expired or belongs to another member")

func (c *callKeys) make(owner string) (id, public []byte, err error) {
	key, err := hybrid.NewKey()
	if err != nil {
		return nil, nil, err
	}
	id = make([]byte, 16)
	rand.Read(id)
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	own := 0
	for k, v := range c.keys {
		if now.After(v.until) {
			delete(c.keys, k)
		} else if v.owner == owner {
			own++
		}
	}
	if own >= maxCallKeys {
		return nil, nil, ErrOverloaded
	}
	if c.keys == nil {
		c.keys = make(map[string]callKey)
	}
	c.keys[string(id)] = callKey{key, owner, now.Add(callKeyLasts)}
	return id, key.Public(), nil
}

// take returns a key once, to its owner.
func (c *callKeys) take(id []byte, owner string) (*hybrid.Key, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.keys[string(id)]
	if !ok || k.owner != owner || time.Now().After(k.until) {
		return nil, errCallKey
	}
	delete(c.keys, string(id))
	return k.key, nil
}

func (c *callKeys) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys = nil
}

// Errors cross the wire as gRPC codes; these are the ones that the other end acts on.
func statusOf(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	var notLeader *NotLeaderError
	var unknown *UnknownOutcomeError
	code := codes.Internal
	switch {
	case errors.Is(err, ErrNotAllowed):
		code = codes.PermissionDenied
	case errors.As(err, &notLeader):
		code = codes.FailedPrecondition
	case errors.As(err, &unknown):
		code = codes.Aborted
	case errors.Is(err, ErrSealed), errors.Is(err, ErrNotInitialised), errors.Is(err, ErrShutdown), errors.Is(err, ErrClockSkew):
		code = codes.Unavailable
	case errors.Is(err, ErrOverloaded):
		code = codes.ResourceExhausted
	case errors.Is(err, ErrJoinToken):
		code = codes.Unauthenticated
	case errors.Is(err, ErrTooOld):
		code = codes.OutOfRange
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	}
	return status.Error(code, err.Error())
}

func peerError(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	text := st.Message()
	switch st.Code() {
	case codes.PermissionDenied:
		return &remoteError{text, ErrNotAllowed}
	case codes.FailedPrecondition:
		return &remoteError{text, &NotLeaderError{}}
	case codes.Aborted:
		return &UnknownOutcomeError{Err: errors.New(text)}
	case codes.ResourceExhausted:
		return &remoteError{text, ErrOverloaded}
	case codes.Unauthenticated:
		return &remoteError{text, ErrJoinToken}
	case codes.OutOfRange:
		return &remoteError{text, ErrTooOld}
	}
	return fmt.Errorf("%s: %s", st.Code(), text)
}

// remoteError shows the other end's words and is the sentinel that its code stands for.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }

func shortHex(b []byte) string { return hex.EncodeToString(b[:min(len(b), 8)]) }
