package api

import (
	"context"
	"crypto/sha256"
	"crypto/x509"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/fsm"
)

// LoginCertificate of whoever holds the key of the connection's client certificate. The certificate's own
// names and dates play no part: the state says whose key it is, and until when.
func (s *authService) LoginCertificate(ctx context.Context, req *hizov1.LoginCertificateRequest) (*hizov1.LoginResponse, error) {
	ttl, err := lifetime(req.GetTtlSeconds(), maxTTL)
	if err != nil {
		return nil, err
	}
	key, ok := s.clientCertificateKey(ctx)
	if !ok {
		return nil, &Error{Reason: hizov1.ReasonUnauthenticated, Message: "the connection has no client certificate: connect with one, or log in another way"}
	}
	foot, err := s.gate.footing()
	if err != nil {
		return nil, err
	}
	// Whose login it is, is known from the key alone; for a key that nobody has it is nobody's.
	account := name.Principal{Kind: name.KindUser}
	if c, ok := foot.store.Certificate(key); ok {
		if account, err = name.ParsePrincipal(c.Principal); err != nil {
			return nil, err
		}
	}
	l := &login{
		account: account, method: methodCertificate, ttl: ttl,
		command: func(_ *loginRound, token fsm.Token) (fsm.Kind, any, error) {
			return fsm.KindLogin, &fsm.Login{Token: token, Certificate: key}, nil
		},
	}
	l.prove = func(_ context.Context, r *loginRound) (bool, error) {
		object := fsm.ObjCertificate(key)
		r.rest(object)
		c, ok := r.store.Certificate(key)
		if !ok || c.Principal != account.String() || c.Expires <= r.now {
			return false, nil
		}
		if err := s.gate.verify(r.footing, c, c.MAC, object); err != nil {
			return false, err
		}
		l.until = c.Expires
		r.rest(objPrincipal(account))
		return s.gate.enabled(r.footing, account)
	}
	return s.login(ctx, l)
}

// clientCertificateKey is the SHA-256 of the PKIX key that the TLS handshake proved, if its certificate is one of the
// cluster's CA: the handshake lets SVIDs of other authorities through, for LoginSPIFFE.
func (s *Server) clientCertificateKey(ctx context.Context) ([]byte, bool) {
	chain, ok := clientChain(ctx)
	if !ok || s.verifyOwn(chain[0]) != nil {
		return nil, false
	}
	pkix, err := x509.MarshalPKIXPublicKey(chain[0].PublicKey)
	if err != nil {
		return nil, false
	}
	sum := sha256.Sum256(pkix)
	return sum[:], true
}
