package api

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/hizo/hizo/api/auth/issuer"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/fsm"
)

// options are those of the gRPC server: bounds on everything that a client can make it hold, and the
// interceptors.
func (s *Server) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(credentials.NewTLS(s.tls())),
		grpc.InTapHandle(s.admit),
		// Workers keep their grown stacks: a fifth of the processor time of a reveal went into growing new ones. When
		// all are busy, calls get a goroutine of their own as before.
		grpc.NumStreamWorkers(256),
		grpc.ConnectionTimeout(s.limits.Handshake),
		grpc.MaxRecvMsgSize(s.limits.Message),
		grpc.MaxSendMsgSize(2 * s.limits.Message), // an answer holds names and proofs beside the value
		grpc.MaxConcurrentStreams(s.limits.Streams),
		grpc.MaxHeaderListSize(16 << 10),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: 15 * time.Minute, Time: 30 * time.Second, Timeout: 10 * time.Second,
		}),
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.stream),
	}
}

// tls is TLS 1.3, with the node's own certificate as it is at each handshake, and a client certificate of
// the cluster's CA for those who have one. A certificate alone opens nothing: LoginCertificate asks the
// state whose key it is.
func (s *Server) tls() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		NextProtos:             []string{"h2"},
		GetCertificate:         s.certificate(),
		ClientAuth:             tls.RequestClientCert,
		VerifyConnection:       s.verifyClient,
	}
}

// certificate presents the node's certificate; its signatures are the HSM's and bounded.
func (s *Server) certificate() func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	slots := make(chan struct{}, s.limits.Handshakes)
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert, err := s.node.ClientCertificate()
		if err != nil {
			return nil, err
		}
		signer, ok := cert.PrivateKey.(crypto.Signer)
		if !ok {
			return nil, errors.New("the node's key does not sign")
		}
		bounded := *cert
		bounded.PrivateKey = &boundedSigner{Signer: signer, slots: slots, wait: s.limits.Handshake}
		return &bounded, nil
	}
}

var errClientCertificate = errors.New("client certificate is not one of this cluster")

// verifyClient lets those certificates through with which somebody could log in: of the cluster's own CA, and X.509-SVIDs
// of a trust domain that is configured. An SVID's chain is verified at its login, by whoever leads: a follower, or a
// node that is sealed, can't tell whether the trust bundle in its state is genuine.
func (s *Server) verifyClient(c tls.ConnectionState) error {
	if len(c.PeerCertificates) == 0 {
		return nil
	}
	if domain, ok := issuer.TrustDomain(c.PeerCertificates[0]); ok {
		if slices.ContainsFunc(s.node.Store().Issuers(), func(i fsm.Issuer) bool { return i.URL == domain }) {
			return nil
		}
	}
	return s.verifyOwn(c.PeerCertificates[0])
}

// verifyOwn checks that a certificate is of the cluster's CA, by cluster time; dates beyond that the state decides.
func (s *Server) verifyOwn(cert *x509.Certificate) error {
	st, ok := s.node.Store().Cluster()
	if !ok {
		return errClientCertificate
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(st.CA) {
		return errClientCertificate
	}
	if _, err := cert.Verify(x509.VerifyOptions{
		Roots: roots, CurrentTime: time.UnixMilli(s.gate.now(s.node.Store())), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return errClientCertificate
	}
	return nil
}

// unary turns whatever a service does into an answer that clients know. It prints neither messages nor
// what a panic says of them.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (out any, err error) {
	begin := time.Now()
	ctx, end := s.traceCall(ctx, info.FullMethod)
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, s.panicked(info.FullMethod, p)
		}
		err = s.finish(ctx, info.FullMethod, begin, err)
		end(status.Code(err))
	}()
	s.atLeader(ctx, info.FullMethod)
	return handler(ctx, req)
}

func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	begin := time.Now()
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(info.FullMethod, p)
		}
		err = s.finish(stream.Context(), info.FullMethod, begin, err)
	}()
	s.atLeader(stream.Context(), info.FullMethod)
	return handler(srv, stream)
}

// panicked logs where, never what: the value of a panic may quote a message.
func (s *Server) panicked(method string, p any) error {
	kind := "panic"
	if e, ok := p.(error); ok {
		if r, ok := errors.AsType[interface {
			error
			RuntimeError()
		}](e); ok {
			kind = r.Error() // the runtime's own words quote no data but numbers and types
		}
	}
	s.log.Error("a request panicked", "method", method, "panic", kind, "stack", string(debug.Stack()))
	return fault(hizov1.ReasonInternal)
}

// finish gives an error its one form, and logs that there was a request: who asked for what is in the
// audit log, messages are nowhere.
func (s *Server) finish(ctx context.Context, method string, begin time.Time, err error) error {
	err = s.form(ctx, method, err)
	s.meters.called(method, status.Code(err), begin)
	if s.log.Enabled(ctx, slog.LevelDebug) {
		s.log.Debug("request", "method", method, "code", status.Code(err), "client", clientAddr(ctx), "took", time.Since(begin))
	}
	return err
}

// form gives an error the form that clients know. Only internal ones are logged: refusals are in the
// audit log.
func (s *Server) form(ctx context.Context, method string, err error) error {
	if err == nil {
		return nil
	}
	if _, ours := errors.AsType[*Error](err); !ours {
		if st, ok := status.FromError(err); ok && st.Code() != codes.Unknown {
			return err // gRPC's own: unimplemented, cancelled, …
		}
	}
	e := toError(err)
	if e.Reason == hizov1.ReasonInternal && ctx.Err() == nil {
		s.log.Error("a request failed", "method", method, "error", e.cause)
	}
	return e.GRPCStatus().Err()
}
