package api

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hizo/hizo/api/auth/issuer"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/fsm"
)

// TestBinding says why a token does or does not match, without logging in: nothing of it is remembered. A certificate
// chain in PEM stands for an X.509-SVID.
func (s *issuerService) TestBinding(ctx context.Context, req *hizov1.TestBindingRequest) (*hizov1.TestBindingResponse, error) {
	if _, err := name.Binding(req.GetName()); err != nil {
		return nil, err
	}
	if len(req.GetToken()) > issuer.MaxToken {
		return nil, invalid("token", "a token has at most %d bytes", issuer.MaxToken)
	}
	var out *hizov1.TestBindingResponse
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onBinding(policy.BindingTest, req.GetName())}}, func(answer *answer) error {
		var err error
		out, err = s.testBinding(ctx, answer, req)
		return err
	})
	return sent(out, err)
}

// trial collects what a token is looked at for.
type trial struct{ *hizov1.TestBindingResponse }

func (t *trial) check(ok bool, what, detail string) {
	t.Checks = append(t.Checks, &hizov1.TestBindingResponse_Check{What: what, Ok: ok, Detail: shorten(detail, maxClaimValue)})
	t.Matches = t.Matches && ok
}

func (s *issuerService) testBinding(ctx context.Context, a *answer, req *hizov1.TestBindingRequest) (*hizov1.TestBindingResponse, error) {
	issuers, bindings, _, err := s.gate.federation.get(s.gate, a.footing)
	if err != nil {
		return nil, err
	}
	b := bindings[req.GetName()]
	if b == nil {
		return nil, fault(hizov1.ReasonNotFound)
	}
	t := &trial{&hizov1.TestBindingResponse{Matches: true}}
	e, claims, err := evidenceOf(req.GetToken())
	t.check(err == nil, "readable", readable(e, claims, err))
	if err != nil {
		return t.TestBindingResponse, nil
	}
	own := issuers[b.Issuer]
	if own == nil {
		t.check(false, "issuer", fmt.Sprintf("the binding's issuer %s is gone: put it again", b.Issuer))
		return t.TestBindingResponse, nil
	}
	assertion, err := e.verify(ctx, own, a.now)
	if why, refused := issuer.Reason(err); refused {
		t.check(false, "issuer "+own.Name, detailOf(why, own, claims, a.now))
	} else if err != nil {
		return nil, err
	} else {
		t.check(true, "issuer "+own.Name, "signature, audience and times are good until "+assertion.Expires.UTC().Format(time.RFC3339))
		claims = assertion.Claims
	}
	for _, m := range b.Match {
		have, ok := claims[m.Name]
		switch {
		case !ok:
			t.check(false, m.Name, fmt.Sprintf("is absent, must be %q", m.Value))
		case have != m.Value:
			t.check(false, m.Name, fmt.Sprintf("is %q, must be %q", shorten(have, maxShown), m.Value))
		default:
			t.check(true, m.Name, fmt.Sprintf("is %q", have))
		}
	}
	if b.condition != nil {
		t.check(b.condition.Holds(claims), "condition", shorten(b.Condition, maxShown))
	}
	w, ok := a.store.Workload(b.Workload)
	t.check(ok && !w.Disabled, "workload/"+b.Workload, map[bool]string{true: "is enabled", false: "is disabled or gone"}[ok && !w.Disabled])
	for _, n := range slices.Sorted(maps.Keys(claims)) {
		t.Claims = append(t.Claims, &hizov1.Claim{Name: n, Value: shorten(claims[n], maxClaimValue)})
	}
	return t.TestBindingResponse, nil
}

// evidenceOf reads a JWT or a certificate chain in PEM, with the claims as they stand there.
func evidenceOf(text string) (*evidence, issuer.Claims, error) {
	if !strings.HasPrefix(text, "-----BEGIN") {
		token, err := issuer.Parse(text)
		if err != nil {
			return nil, nil, err
		}
		return &evidence{token: token}, token.Unverified(), nil
	}
	e := &evidence{}
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue // its key, which is none of our business
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, err
		}
		e.chain = append(e.chain, cert)
	}
	if len(e.chain) == 0 {
		return nil, nil, &issuer.Refusal{Why: issuer.Malformed}
	}
	claims := issuer.Claims{}
	if len(e.chain[0].URIs) == 1 {
		claims["sub"] = e.chain[0].URIs[0].String()
	}
	return e, claims, nil
}

func readable(e *evidence, claims issuer.Claims, err error) string {
	switch {
	case err != nil:
		if why, ok := issuer.Reason(err); ok {
			return string(why)
		}
		return string(issuer.Malformed)
	case e.token == nil:
		return "a certificate of " + claims["sub"]
	}
	return fmt.Sprintf("a JWT of %s about %s", shorten(claims["iss"], maxShown), shorten(claims["sub"], maxShown))
}

// detailOf says what was expected and what is there instead, where that helps.
func detailOf(why issuer.Why, t *trusted, claims issuer.Claims, now int64) string {
	at := time.UnixMilli(now).UTC().Format(time.RFC3339)
	switch why {
	case issuer.OtherIssuer:
		return fmt.Sprintf("%s: the binding's is %s", why, t.URL)
	case issuer.OtherAudience:
		return fmt.Sprintf("%s: aud is %s, taken is %s and nothing beside it", why, shorten(claims["aud"], maxShown), strings.Join(t.Audiences, ", "))
	case issuer.Expired, issuer.NotYet, issuer.TooOld:
		return fmt.Sprintf("%s: iat %s, nbf %s, exp %s; cluster time is %s", why, moment(claims["iat"]), moment(claims["nbf"]), moment(claims["exp"]), at)
	case issuer.Algorithm:
		return fmt.Sprintf("%s: allowed are %s", why, strings.Join(t.Algorithms, ", "))
	}
	return string(why)
}

func moment(seconds string) string {
	var n float64
	if _, err := fmt.Sscanf(seconds, "%g", &n); err != nil {
		return "absent"
	}
	return time.Unix(int64(n), 0).UTC().Format(time.RFC3339)
}
