package transport

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// whoami is a gRPC service that answers through a channel who called.
type whoami struct {
	grpc_health_v1.UnimplementedHealthServer
	callers chan Peer
}

func (w *whoami) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	p, ok := PeerOf(ctx)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "no peer")
	}
	w.callers <- p
	return &grpc_health_v1.HealthCheckResponse{}, nil
}

func serveRPC(t *testing.T, l net.Listener) *whoami {
	t.Helper()
	srv := grpc.NewServer(grpc.Creds(Credentials()))
	w := &whoami{callers: make(chan Peer, 8)}
	grpc_health_v1.RegisterHealthServer(srv, w)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	return w
}

func client(t *testing.T, dial func(context.Context, string) (net.Conn, error)) grpc_health_v1.HealthClient {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///b", grpc.WithContextDialer(dial), grpc.WithTransportCredentials(Credentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return grpc_health_v1.NewHealthClient(cc)
}

func TestRPCOverStreams(t *testing.T) {
	dir := &members{}
	a, b := listen(t, "a", dir), listen(t, "b", dir)
	members, joiners := serveRPC(t, b.Peers()), serveRPC(t, b.Joiners())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	asMember := client(t, a.DialPeer)
	if _, err := asMember.Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	if p := <-members.callers; p.ID != "a" || p.Key != a.Key() || p.Addr != a.Addr().String() {
		t.Errorf("the caller is %+v", p)
	}
	// A member on the joiners' side is a stranger there, so that a handler
	// which asks for an ID cannot be reached that way.
	asJoiner := client(t, func(ctx context.Context, _ string) (net.Conn, error) {
		return a.DialJoin(ctx, b.Addr().String(), b.Key())
	})
	if _, err := asJoiner.Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	if p := <-joiners.callers; p != (Peer{Key: a.Key()}) {
		t.Errorf("the joiner is %+v", p)
	}

	// A removed member's calls end and do not come back.
	dir.remove("a")
	b.Drop("a")
	if _, err := asMember.Check(ctx, &grpc_health_v1.HealthCheckRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("a call of a removed member: %v", err)
	}
}

func TestCredentialsRefuseOtherConnections(t *testing.T) {
	c, s := net.Pipe()
	defer c.Close()
	defer s.Close()
	if _, _, err := Credentials().ServerHandshake(s); err == nil {
		t.Error("served a connection that is no stream")
	}
	if _, _, err := Credentials().ClientHandshake(t.Context(), "b", c); err == nil {
		t.Error("called over a connection that is no stream")
	}
	// And no plaintext call passes for a peer.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(insecure.NewCredentials()))
	grpc_health_v1.RegisterHealthServer(srv, &whoami{callers: make(chan Peer, 1)})
	go func() { _ = srv.Serve(ln) }()
	defer srv.Stop()
	cc, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	_, err = grpc_health_v1.NewHealthClient(cc).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("PeerOf of a plaintext call: %v", err)
	}
}
