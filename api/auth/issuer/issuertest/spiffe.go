package issuertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TrustDomain is a SPIFFE trust domain that issues X.509-SVIDs and JWT-SVIDs.
type TrustDomain struct {
	Name string
	Now  func() time.Time

	t    testing.TB
	ca   *x509.Certificate
	key  *ecdsa.PrivateKey
	jwt  *ecdsa.PrivateKey
	next int64
}

// NewTrustDomain makes one.
func NewTrustDomain(t testing.TB, name string) *TrustDomain {
	t.Helper()
	d := &TrustDomain{Name: name, Now: time.Now, t: t, next: 1}
	d.key, d.jwt = p256(t), p256(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, URIs: []*url.URL{{Scheme: "spiffe", Host: name}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * 365 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	d.ca = d.sign(template, template, d.key)
	return d
}

func p256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (d *TrustDomain) sign(template, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	d.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), d.key)
	if err != nil {
		d.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		d.t.Fatal(err)
	}
	return cert
}

// URL is the trust domain's ID.
func (d *TrustDomain) URL() string { return "spiffe://" + d.Name }

// Bundle is the trust bundle in the SPIFFE format.
func (d *TrustDomain) Bundle() []byte {
	d.t.Helper()
	b := spiffebundle.New(spiffeid.RequireTrustDomainFromString(d.Name))
	b.AddX509Authority(d.ca)
	if err := b.AddJWTAuthority("jwt-1", d.jwt.Public()); err != nil {
		d.t.Fatal(err)
	}
	data, err := b.Marshal()
	if err != nil {
		d.t.Fatal(err)
	}
	return data
}

// SVID is an X.509-SVID of a path, such as "/ns/ml/sa/train", that is good for ttl; change may spoil it.
func (d *TrustDomain) SVID(path string, ttl time.Duration, change func(*x509.Certificate)) tls.Certificate {
	d.t.Helper()
	key := p256(d.t)
	d.next++
	now := d.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(d.next), URIs: []*url.URL{{Scheme: "spiffe", Host: d.Name, Path: path}},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(ttl), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	if change != nil {
		change(template)
	}
	cert := d.sign(template, d.ca, key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// JWT is a JWT-SVID of a path.
func (d *TrustDomain) JWT(path, audience string, ttl time.Duration) string {
	d.t.Helper()
	payload, err := json.Marshal(map[string]any{
		"sub": d.URL() + path, "aud": []string{audience}, "iat": d.Now().Unix(), "exp": d.Now().Add(ttl).Unix(),
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return SignWith(d.t, jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: d.jwt, KeyID: "jwt-1"}}, payload)
}
