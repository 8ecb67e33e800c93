package issuer

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Claims of an X.509-SVID, beside sub, its SPIFFE ID. A JWT-SVID has them too.
const (
	ClaimTrustDomain = "spiffe.trust_domain"
	ClaimPath        = "spiffe.path"
)

// maxChain bounds the certificates that a client shows.
const maxChain = 8

// trustBundle reads the bundle of a trust domain: the SPIFFE format (SPIFFE Trust Domain and Bundle, section 4) or, for
// X.509-SVIDs alone, certificates in PEM.
func (i *Issuer) trustBundle() error {
	domain, err := spiffeid.TrustDomainFromString(i.conf.URL)
	if err != nil || domain.IDString() != i.conf.URL {
		return wrong("url", "is a trust domain: spiffe://example.org")
	}
	if len(i.conf.Keys) == 0 || i.conf.KeysURL != "" {
		return wrong("keys", "the trust bundle of a SPIFFE trust domain comes from a file: spire-server bundle show -format spiffe")
	}
	i.domain = domain
	if bytes.HasPrefix(bytes.TrimSpace(i.conf.Keys), []byte("-----BEGIN")) {
		b, err := x509bundle.Parse(domain, i.conf.Keys)
		if err != nil {
			return wrong("keys", "are not certificates in PEM")
		}
		i.bundle = spiffebundle.FromX509Bundle(b)
	} else if i.bundle, err = spiffebundle.Parse(domain, i.conf.Keys); err != nil {
		return wrong("keys", "are not a SPIFFE trust bundle: spire-server bundle show -format spiffe")
	}
	var set keySet
	for kid, key := range i.bundle.JWTAuthorities() {
		if usable(key) {
			set = append(set, jose.JSONWebKey{Key: key, KeyID: kid})
		}
	}
	if n := len(i.bundle.X509Authorities()); n == 0 && len(set) == 0 || n > maxKeys || len(set) > maxKeys {
		return wrong("keys", "a trust bundle has between 1 and %d authorities of each kind", maxKeys)
	}
	i.keys = staticKeys(set)
	return nil
}

// trustDomainOf is the trust domain of a SPIFFE ID, as an issuer's URL.
func trustDomainOf(subject string) (string, bool) {
	id, err := spiffeid.FromString(subject)
	if err != nil {
		return "", false
	}
	return id.TrustDomain().IDString(), true
}

// TrustDomain is the trust domain that a certificate is of, if it says to be an X.509-SVID, as an issuer's URL.
func TrustDomain(cert *x509.Certificate) (string, bool) {
	id, err := x509svid.IDFromCert(cert)
	if err != nil {
		return "", false
	}
	return id.TrustDomain().IDString(), true
}

// VerifySVID believes an X.509-SVID (SPIFFE X509-SVID, section 5), whose key the TLS handshake has proven, or says why
// not. now is cluster time.
func (i *Issuer) VerifySVID(chain []*x509.Certificate, now time.Time) (*Assertion, error) {
	if i.bundle == nil {
		return nil, refuse(OtherIssuer)
	}
	if len(chain) == 0 || len(chain) > maxChain {
		return nil, refuse(Malformed)
	}
	// The bundle is of one trust domain and answers for no other.
	id, _, err := x509svid.Verify(chain, i.bundle, x509svid.WithTime(now))
	if err != nil {
		return nil, refuse(Chain)
	}
	claims := Claims{"sub": id.String()}
	withSPIFFE(claims)
	return &Assertion{Claims: claims, Expires: chain[0].NotAfter, ID: sha256.Sum256(chain[0].Raw)}, nil
}

// withSPIFFE adds the parts of a SPIFFE ID.
func withSPIFFE(claims Claims) {
	if id, err := spiffeid.FromString(claims["sub"]); err == nil {
		claims[ClaimTrustDomain], claims[ClaimPath] = id.TrustDomain().Name(), id.Path()
	}
}
