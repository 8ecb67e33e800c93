package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/hizo/hizo/api/hizov1"
)

// authority is a CA for the nodes of one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// node is a server that answers Put and WhoAmI as a test tells it to, over real TLS on loopback. What a real
// cluster does is tested in api/apitest.
type node struct {
	hizov1.UnimplementedSecretServiceServer
	hizov1.UnimplementedAuthServiceServer
	hizov1.UnimplementedClusterServiceServer
	hizov1.UnimplementedAuditServiceServer
	hizov1.UnimplementedWatchServiceServer

	addr   string
	pin    [32]byte
	server *grpc.Server

	mu     sync.Mutex
	ids    []string // request ids seen, in order
	tokens []string
	gone   []string                                     // of leaders, as the last call told
	watch  func(attempt int) error                      // nil error: the watch lasts
	health func(service string) bool                    // nil: not serving
	answer func(ctx context.Context, attempt int) error // nil error: success
	stream func(hizov1.AuditService_TailServer, int) error
}

func newNode(t *testing.T, ca *authority, answer func(ctx context.Context, attempt int) error) *node {
	t.Helper()
	return newNodeNamed(t, ca, hizov1.ServerName, answer)
}

func newNodeNamed(t *testing.T, ca *authority, name string, answer func(ctx context.Context, attempt int) error) *node {
	t.Helper()
	n := &node{answer: answer}
	n.serve(t, ca, name, "127.0.0.1:0")
	return n
}

// serve starts the node's server, also again after it was stopped.
func (n *node) serve(t *testing.T, ca *authority, name, addr string) {
	t.Helper()
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	cert := ca.issue(t, name)
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	n.addr, n.pin = lis.Addr().String(), sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
	})))
	n.server = server
	hizov1.RegisterSecretServiceServer(server, n)
	hizov1.RegisterAuthServiceServer(server, n)
	hizov1.RegisterClusterServiceServer(server, n)
	hizov1.RegisterAuditServiceServer(server, n)
	hizov1.RegisterWatchServiceServer(server, n)
	grpc_health_v1.RegisterHealthServer(server, &healthOf{node: n})
	var done sync.WaitGroup
	done.Go(func() { _ = server.Serve(lis) }) // ends with Stop
	t.Cleanup(func() { server.Stop(); done.Wait() })
}

func (n *node) seen(ctx context.Context) int {
	md, _ := metadata.FromIncomingContext(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	id := ""
	if v := md.Get(hizov1.MetaRequestID); len(v) == 1 {
		id = v[0]
	}
	n.ids = append(n.ids, id)
	n.tokens = append(n.tokens, md.Get(hizov1.MetaAuthorization)...)
	n.gone = md.Get(hizov1.MetaLeaderGone)
	return len(n.ids)
}

func (n *node) calls() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.ids...)
}

func (n *node) Put(ctx context.Context, _ *hizov1.PutRequest) (*hizov1.PutResponse, error) {
	if err := n.answer(ctx, n.seen(ctx)); err != nil {
		return nil, err
	}
	return &hizov1.PutResponse{Version: 7}, nil
}

func (n *node) WhoAmI(ctx context.Context, _ *hizov1.WhoAmIRequest) (*hizov1.WhoAmIResponse, error) {
	if err := n.answer(ctx, n.seen(ctx)); err != nil {
		return nil, err
	}
	return &hizov1.WhoAmIResponse{Principal: "user/alice"}, nil
}

func (n *node) Login(ctx context.Context, _ *hizov1.LoginRequest) (*hizov1.LoginResponse, error) {
	if err := n.answer(ctx, n.seen(ctx)); err != nil {
		return nil, err
	}
	return &hizov1.LoginResponse{}, nil
}

func (n *node) Logout(ctx context.Context, _ *hizov1.LogoutRequest) (*hizov1.LogoutResponse, error) {
	if err := n.answer(ctx, n.seen(ctx)); err != nil {
		return nil, err
	}
	return &hizov1.LogoutResponse{}, nil
}

func (n *node) Init(ctx context.Context, _ *hizov1.InitRequest) (*hizov1.InitResponse, error) {
	if err := n.answer(ctx, n.seen(ctx)); err != nil {
		return nil, err
	}
	return &hizov1.InitResponse{}, nil
}

func (n *node) Tail(_ *hizov1.TailRequest, s grpc.ServerStreamingServer[hizov1.AuditRecord]) error {
	return n.stream(s, n.seen(s.Context()))
}

// healthOf keeps the health service's Watch and Check apart from the others'.
type healthOf struct {
	grpc_health_v1.UnimplementedHealthServer
	node *node
}

func (h *healthOf) Check(_ context.Context, req *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	h.node.mu.Lock()
	health := h.node.health
	h.node.mu.Unlock()
	if health != nil && health(req.GetService()) {
		return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_NOT_SERVING}, nil
}

// Watch tells where it was opened, as the vault of one change, and then lasts.
func (n *node) Watch(_ *hizov1.WatchRequest, s grpc.ServerStreamingServer[hizov1.WatchResponse]) error {
	if err := n.watch(n.seen(s.Context())); err != nil {
		return err
	}
	if err := s.Send(&hizov1.WatchResponse{Cursor: n.addr, Events: []*hizov1.WatchResponse_Event{{Kind: "put", Vault: n.addr}}}); err != nil {
		return err
	}
	<-s.Context().Done()
	return s.Context().Err()
}

// refusal is an error as the real server's table makes it.
func refusal(code codes.Code, reason string, info map[string]string) error {
	s, err := status.New(code, "because").WithDetails(&errdetails.ErrorInfo{Domain: hizov1.ErrorDomain, Reason: reason, Metadata: info})
	if err != nil {
		panic(err)
	}
	return s.Err()
}

func notLeader(addr string) error {
	return refusal(codes.Unavailable, hizov1.ReasonNotLeader, map[string]string{hizov1.InfoLeaderAddr: addr})
}

func ok(context.Context, int) error { return nil }
