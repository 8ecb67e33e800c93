// Package issuer verifies what issuers of workload identities say of a machine: JWTs of OIDC issuers (Kubernetes,
// GitHub, GitLab and any other), X.509-SVIDs and JWT-SVIDs of SPIFFE trust domains.
//
// An Issuer believes nothing that a token says about how to verify it: algorithms are pinned, keys come from the
// issuer's own key set, from a file or over verified TLS, and keys, certificates and addresses in a token's header are
// never looked at. Everything that strangers send is bounded before it is decoded.
//
// It holds no replicated state. What a crash leaves behind is nothing: fetched keys are in memory only and are fetched
// again.
package issuer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Kinds of issuers.
const (
	OIDC   = "oidc"
	SPIFFE = "spiffe"
)

// Leeway is how far an issuer's clock may be from cluster time.
const Leeway = 30 * time.Second

// Bounds on what an issuer may be given.
const (
	MaxURL       = 512
	MaxAudiences = 16
	MaxAudience  = 256
	MaxKeySet    = 256 << 10 // bytes of a key set or a trust bundle
	MaxCA        = 64 << 10  // bytes
	MaxAge       = 366 * 24 * time.Hour
)

// DefaultMaxAge is the age up to which an assertion is taken where nothing else is said.
const DefaultMaxAge = 24 * time.Hour

// Algorithms of signatures that can be allowed (RFC 7518, section 3.1, RFC 8037). none and HS* are not among them and
// never will be: the one is no signature, and with the others whoever verifies can sign.
func Algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// DefaultAlgorithms are those that nearly every issuer signs with.
func DefaultAlgorithms() []string { return []string{"RS256", "ES256"} }

// Config describes an issuer.
type Config struct {
	Kind       string
	URL        string // iss, exactly; of SPIFFE the trust domain, "spiffe://example.org"
	Audiences  []string
	Algorithms []string
	Keys       []byte // a JWKS, or a trust bundle as JSON or PEM; empty: fetched
	KeysURL    string // of a JWKS; empty: by discovery from URL
	CA         []byte // PEM: what TLS to the issuer is verified by; empty: the system's roots
	Local      bool   // addresses of this machine and of its link may be fetched from
	MaxAge     time.Duration
}

// ConfigError says what is wrong with a Config.
type ConfigError struct{ Field, Problem string }

func (e *ConfigError) Error() string { return e.Field + ": " + e.Problem }

func wrong(field, format string, args ...any) error {
	return &ConfigError{Field: field, Problem: fmt.Sprintf(format, args...)}
}

// Issuer verifies. It is safe for concurrent use.
type Issuer struct {
	conf       Config
	algorithms []jose.SignatureAlgorithm
	keys       keySource
	domain     spiffeid.TrustDomain // of SPIFFE
	bundle     *spiffebundle.Bundle // of SPIFFE
}

// keySource finds the keys that a token may be signed with. kid is empty where the token names none.
type keySource interface {
	find(ctx context.Context, kid string) ([]jose.JSONWebKey, error)
}

// New checks a configuration. Keys that have to be fetched are fetched at first use, by fetcher.
func New(c Config, fetcher *Fetcher) (*Issuer, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	i := &Issuer{conf: c}
	for _, a := range c.Algorithms {
		i.algorithms = append(i.algorithms, jose.SignatureAlgorithm(a))
	}
	if c.Kind == SPIFFE {
		return i, i.trustBundle()
	}
	if len(c.Keys) > 0 {
		set, err := parseKeySet(c.Keys)
		if err != nil {
			return nil, err
		}
		i.keys = staticKeys(set)
		return i, nil
	}
	remote, err := newRemote(c, fetcher)
	if err != nil {
		return nil, err
	}
	i.keys = remote
	return i, nil
}

func (c *Config) check() error {
	switch {
	case c.Kind != OIDC && c.Kind != SPIFFE:
		return wrong("kind", "is %s or %s", OIDC, SPIFFE)
	case len(c.Audiences) == 0:
		return wrong("audiences", "an issuer's tokens must be for somebody: name at least one audience")
	case len(c.Audiences) > MaxAudiences:
		return wrong("audiences", "has at most %d", MaxAudiences)
	case len(c.Algorithms) == 0:
		return wrong("algorithms", "name at least one of %s", strings.Join(Algorithms(), ", "))
	case len(c.Keys) > MaxKeySet:
		return wrong("keys", "has more than %d bytes", MaxKeySet)
	case len(c.CA) > MaxCA:
		return wrong("ca", "has more than %d bytes", MaxCA)
	case c.MaxAge <= 0 || c.MaxAge > MaxAge:
		return wrong("max_age", "is between a second and a year")
	case len(c.Keys) > 0 && (c.KeysURL != "" || len(c.CA) > 0 || c.Local):
		return wrong("keys", "come from a file or from the network, not from both")
	}
	for _, a := range c.Audiences {
		if a == "" || len(a) > MaxAudience || !printable(a) {
			return wrong("audiences", "an audience is printable text of at most %d bytes", MaxAudience)
		}
	}
	for _, a := range c.Algorithms {
		if !slices.Contains(Algorithms(), a) {
			return wrong("algorithms", "%q is not one of %s", a, strings.Join(Algorithms(), ", "))
		}
	}
	if c.Kind == SPIFFE {
		return nil
	}
	if err := checkURL("url", c.URL); err != nil {
		return err
	}
	if c.KeysURL != "" {
		return checkURL("keys_url", c.KeysURL)
	}
	return nil
}

// checkURL demands https without anything that could make two URLs of one, or carry a password.
func checkURL(field, text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || len(text) > MaxURL || !printable(text) {
		return wrong(field, "is https://HOST[:PORT][/PATH], of at most %d bytes", MaxURL)
	}
	if u.User != nil || u.Fragment != "" || field == "url" && u.RawQuery != "" {
		return wrong(field, "carries no user, query or fragment")
	}
	return nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// Assertion is what an issuer said of a machine, verified.
type Assertion struct {
	Claims  Claims
	Expires time.Time
	// Issued is before it can have been shown to anybody, by cluster time; zero of a certificate.
	Issued time.Time
	// ID tells assertions of one issuer apart. One that logs in once is remembered by it.
	ID [sha256.Size]byte
}

// Refusal says why an assertion is not believed. Its text quotes nothing of it.
type Refusal struct{ Why Why }

// Why an assertion is refused. The text is readable in audit records, so it is one of a fixed set.
type Why string

// The reasons.
const (
	Malformed     Why = "malformed"
	Oversize      Why = "too large"
	Algorithm     Why = "signature algorithm not allowed"
	UnknownKey    Why = "signed with an unknown key"
	NoKeys        Why = "the issuer's keys cannot be fetched"
	Signature     Why = "wrong signature"
	OtherIssuer   Why = "another issuer"
	OtherAudience Why = "for another audience"
	Expired       Why = "expired"
	NotYet        Why = "not valid yet"
	TooOld        Why = "too old"
	NoSubject     Why = "without a subject"
	Chain         Why = "certificate not of the trust domain"
	NoIssuer      Why = "no such issuer"
	NoBinding     Why = "no binding matches"
	Ambiguous     Why = "bindings of several workloads match"
)

func (r *Refusal) Error() string { return "assertion refused: " + string(r.Why) }

func refuse(why Why) error { return &Refusal{Why: why} }

// Reason is why err refuses an assertion, false if it is another error.
func Reason(err error) (Why, bool) {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Why, true
	}
	return "", false
}
