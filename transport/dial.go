package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// DialPeer opens a cluster RPC stream to a member. Its address and key are
// looked up now, so a member that moved is found.
func (m *Mux) DialPeer(ctx context.Context, id string) (net.Conn, error) {
	return asConn(m.dialMember(ctx, id, protoPeer))
}

// DialJoin opens a join stream to the node at addr, which must prove the key
// whose fingerprint the join token or the bootstrap file names.
func (m *Mux) DialJoin(ctx context.Context, addr string, want [32]byte) (net.Conn, error) {
	return asConn(m.dial(ctx, Peer{Addr: addr, Key: want}, protoJoin))
}

// asConn keeps a nil *Stream from becoming a net.Conn that is not nil.
func asConn(s *Stream, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (m *Mux) dialMember(ctx context.Context, id, proto string) (*Stream, error) {
	peer, ok := m.cfg.Directory.Peer(id)
	if !ok {
		return nil, fmt.Errorf("dial %q: %w", id, ErrNotMember)
	}
	peer.ID = id
	s, err := m.dial(ctx, peer, proto)
	if err != nil {
		return nil, err
	}
	// The mirror image of deliver: a removal since the look-up is caught here,
	// a later one by Drop.
	if again, ok := m.cfg.Directory.Peer(id); !ok || again.Key != peer.Key {
		s.cut()
		return nil, fmt.Errorf("dial %q: %w", id, ErrNotMember)
	}
	return s, nil
}

// dial returns a registered stream that the other end has admitted.
func (m *Mux) dial(ctx context.Context, peer Peer, proto string) (*Stream, error) {
	fail := func(err error) (*Stream, error) {
		name := peer.ID
		if name == "" {
			name = "node"
		}
		return nil, fmt.Errorf("dial %s at %s: %w", name, peer.Addr, err)
	}
	if peer.Key == ([32]byte{}) {
		return fail(ErrWrongKey)
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.HandshakeTimeout)
	defer cancel()
	// Closing the Mux ends a dial under way.
	defer context.AfterFunc(m.ctx, cancel)()

	dialer := net.Dialer{KeepAliveConfig: keepAlive}
	conn, err := dialer.DialContext(ctx, "tcp", peer.Addr)
	if err != nil {
		return fail(err)
	}
	tc := tls.Client(conn, &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{m.cert},
		NextProtos:   []string{proto},
		// There is no CA among nodes: the pinned key takes the place of chain,
		// name and dates.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			key, err := peerKey(state)
			if err != nil {
				return err
			}
			if key != peer.Key {
				return fmt.Errorf("got key %s, pinned is %s: %w", short(key), short(peer.Key), ErrWrongKey)
			}
			if state.NegotiatedProtocol != proto {
				return ErrProtocol
			}
			return nil
		},
	})
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return fail(err)
	}
	s := &Stream{Conn: tc, peer: peer, proto: proto, registry: &m.streams}
	if err := m.streams.add(s, 0); err != nil {
		s.cut()
		return fail(err)
	}
	if err := awaitAdmission(ctx, s); err != nil {
		s.cut()
		return fail(err)
	}
	return s, nil
}

func awaitAdmission(ctx context.Context, s *Stream) error {
	stop := context.AfterFunc(ctx, func() { _ = s.SetReadDeadline(time.Unix(1, 0)) })
	var b [1]byte
	_, err := io.ReadFull(s, b[:])
	if !stop() {
		return context.Cause(ctx)
	}
	if err != nil {
		// A TLS alert or the end of the stream: what the other end thinks of us
		// is in its log, not on the wire.
		return errors.Join(ErrRefused, err)
	}
	if b[0] != admitted {
		return ErrProtocol
	}
	return nil
}
