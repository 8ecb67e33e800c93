package issuertest

import (
	"context"
	"crypto/x509"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// WorkloadAPI serves the SPIFFE Workload API for one workload of the trust domain, as an agent on the workload's machine
// does, and returns what belongs into SPIFFE_ENDPOINT_SOCKET.
func (d *TrustDomain) WorkloadAPI(t testing.TB, path string, ttl time.Duration) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, &workloadAPI{domain: d, path: path, ttl: ttl})
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return "unix://" + socket
}

type workloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	domain *TrustDomain
	path   string
	ttl    time.Duration
}

// genuine demands the header that keeps requests out which a workload was tricked into (SPIFFE Workload Endpoint,
// section 3).
func genuine(ctx context.Context) error {
	if v := metadata.ValueFromIncomingContext(ctx, "workload.spiffe.io"); len(v) != 1 || v[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing")
	}
	return nil
}

// FetchX509SVID implements the Workload API.
func (w *workloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if err := genuine(stream.Context()); err != nil {
		return err
	}
	cert := w.domain.SVID(w.path, w.ttl, nil)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return err
	}
	if err := stream.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
		SpiffeId: w.domain.URL() + w.path, X509Svid: cert.Certificate[0], X509SvidKey: key, Bundle: w.domain.ca.Raw,
	}}}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// FetchJWTSVID implements the Workload API.
func (w *workloadAPI) FetchJWTSVID(ctx context.Context, req *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	if err := genuine(ctx); err != nil {
		return nil, err
	}
	if len(req.GetAudience()) != 1 {
		return nil, status.Error(codes.InvalidArgument, "one audience")
	}
	return &workload.JWTSVIDResponse{Svids: []*workload.JWTSVID{{
		SpiffeId: w.domain.URL() + w.path, Svid: w.domain.JWT(w.path, req.GetAudience()[0], w.ttl),
	}}}, nil
}
