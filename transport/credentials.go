package transport

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// AuthInfo is what gRPC handlers learn about the other end of a stream.
type AuthInfo struct {
	credentials.CommonAuthInfo
	Peer Peer
}

// AuthType names this kind of authentication.
func (AuthInfo) AuthType() string { return "hizo-pinned-key" }

// PeerOf says who made this call. ok means that the call came over a stream of
// this package; Peer.ID is empty for a stream of Joiners, whatever its key.
func PeerOf(ctx context.Context) (Peer, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Peer{}, false
	}
	info, ok := p.AuthInfo.(AuthInfo)
	return info.Peer, ok
}

// Credentials lets gRPC use streams that have done their TLS handshake already.
// Any other connection is refused, so that a wrong dialler or listener cannot
// end in plaintext.
func Credentials() credentials.TransportCredentials { return streamCredentials{} }

// Credentials is the function of that name, for those who know the Mux by an
// interface.
func (m *Mux) Credentials() credentials.TransportCredentials { return Credentials() }

// PeerOf is the function of that name.
func (m *Mux) PeerOf(ctx context.Context) (Peer, bool) { return PeerOf(ctx) }

type streamCredentials struct{}

var errNotStream = errors.New("this connection is not a stream of package transport: dial with Mux.DialPeer or Mux.DialJoin, serve Mux.Peers or Mux.Joiners")

func (streamCredentials) handshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	s, ok := conn.(*Stream)
	if !ok {
		return nil, nil, errNotStream
	}
	return s, AuthInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		Peer:           s.peer,
	}, nil
}

func (c streamCredentials) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c.handshake(conn)
}

func (c streamCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c.handshake(conn)
}

func (streamCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (c streamCredentials) Clone() credentials.TransportCredentials { return c }

func (streamCredentials) OverrideServerName(string) error { return nil }
