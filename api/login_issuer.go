package api

import (
	"context"
	"crypto/x509"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/hizo/hizo/api/auth/issuer"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/fsm"
)

// LoginToken of a workload by what an issuer says of it. Replays: a token of an issuer that was put with once logs in
// one time, whatever its lifetime; others may come again while they last, as the projected tokens of a pod must.
func (s *authService) LoginToken(ctx context.Context, req *hizov1.LoginTokenRequest) (*hizov1.LoginResponse, error) {
	client, err := clientKey(req.GetClientKey())
	if err != nil {
		return nil, err
	}
	e := &evidence{}
	if len(req.GetToken()) > issuer.MaxToken {
		return nil, invalid("token", "a token has at most %d bytes", issuer.MaxToken)
	}
	if e.token, err = issuer.Parse(req.GetToken()); err != nil {
		return nil, invalid("token", "not a signed JWT: it is cut, of another kind, or has claims that are ambiguous")
	}
	l, err := s.federated(methodOIDC, e, req.GetWorkload(), req.GetTtlSeconds())
	if err != nil {
		return nil, err
	}
	l.once, l.code = req, "AuthService/LoginToken"
	l.command = func(_ *loginRound, token fsm.Token) (fsm.Kind, any, error) {
		a := l.ground.assertion
		return fsm.KindLogin, &fsm.Login{
			Token: token, ClientKey: client, Assertion: a.ID[:], AssertionExpires: a.Expires.UnixMilli(),
			AssertionIssued: a.Issued.UnixMilli(),
		}, nil
	}
	return s.login(ctx, l)
}

// LoginSPIFFE of a workload by the X.509-SVID of its connection. TLS has proven its key for this connection, so there
// is nothing that could be replayed.
func (s *authService) LoginSPIFFE(ctx context.Context, req *hizov1.LoginSPIFFERequest) (*hizov1.LoginResponse, error) {
	chain, ok := clientChain(ctx)
	if !ok {
		return nil, &Error{Reason: hizov1.ReasonUnauthenticated, Message: "the connection has no client certificate: connect with an X.509-SVID, or log in another way"}
	}
	l, err := s.federated(methodSPIFFE, &evidence{chain: chain}, req.GetWorkload(), req.GetTtlSeconds())
	if err != nil {
		return nil, err
	}
	l.command = storeToken
	return s.login(ctx, l)
}

// federated is a login whose account follows from evidence.
func (s *authService) federated(method string, e *evidence, workload string, seconds int64) (*login, error) {
	if workload != "" {
		if _, err := name.Workload(workload); err != nil {
			return nil, err
		}
	}
	ttl, err := lifetime(seconds, maxTTL)
	if err != nil {
		return nil, err
	}
	l := &login{account: name.Principal{Kind: name.KindWorkload, Name: workload}, method: method, ttl: ttl}
	l.prove = func(ctx context.Context, r *loginRound) (bool, error) {
		l.ground, l.why = nil, ""
		found, err := s.gate.federation.prove(ctx, s.gate, r, e, workload)
		if why, ok := issuer.Reason(err); ok {
			l.why = string(why)
			l.shown = shownClaims(e, found)
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if found.issuer.Kind == issuer.SPIFFE {
			l.method = methodSPIFFE
		}
		l.shown, l.ground = shownClaims(e, found), found
		l.account.Name = found.binding.Workload
		l.until = r.now + found.binding.MaxTTL
		if e.token == nil {
			l.until = min(l.until, found.assertion.Expires.UnixMilli())
		}
		r.rest(objPrincipal(l.account))
		enabled, err := s.gate.enabled(r.footing, l.account)
		if !enabled {
			l.why = "the workload is disabled"
		}
		return enabled, err
	}
	return l, nil
}

// maxShown bounds what an audit record tells of one claim, in bytes.
const maxShown = 512

// shownClaims are what the sealed part of the login's record tells: the claims that decided, or of an attempt that
// failed, who it said to be.
func shownClaims(e *evidence, g *ground) map[string]string {
	out := make(map[string]string)
	switch {
	case g != nil && g.binding != nil:
		out["issuer"], out["binding"] = g.issuer.Name, g.binding.Name
		for _, c := range g.claims {
			out["claim."+c.Name] = shorten(c.Value, maxShown)
		}
	case g != nil && g.assertion != nil:
		out["issuer"] = g.issuer.Name
		out["claim.iss"], out["claim.sub"] = shorten(g.assertion.Claims["iss"], maxShown), shorten(g.assertion.Claims["sub"], maxShown)
	case e.token != nil:
		_, iss := e.token.From()
		out["unverified.iss"], out["unverified.sub"] = shorten(iss, maxShown), shorten(e.token.Subject(), maxShown)
	default:
		if id, ok := issuer.TrustDomain(e.chain[0]); ok {
			out["unverified.trust_domain"] = shorten(id, maxShown)
		}
	}
	return out
}

// clientChain is the certificates of the connection. The handshake has proven the first one's key, nothing else.
func clientChain(ctx context.Context) ([]*x509.Certificate, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return nil, false
	}
	return info.State.PeerCertificates, true
}
