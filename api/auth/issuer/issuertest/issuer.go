// Package issuertest is a test kit for workload identity: an issuer that signs tokens as Kubernetes, GitHub Actions and
// GitLab do and publishes its keys over TLS, and a SPIFFE trust domain with its Workload API.
//
//	ci := issuertest.New(t)
//	token := ci.GitHub(audience, map[string]any{"ref": "refs/heads/main"})
//
// The shapes of tokens in testdata are those of the named systems; every value is invented.
package issuertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"embed"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
)

//go:embed testdata
var shapes embed.FS

// Issuer signs tokens. It answers discovery at its URL, over TLS on loopback.
type Issuer struct {
	URL string
	CA  []byte // PEM of its server's certificate
	// Now is the issuer's clock.
	Now func() time.Time
	// Fetched counts the answers with keys.
	Fetched atomic.Int64

	t      testing.TB
	server *httptest.Server

	mu     sync.Mutex
	keys   []jose.JSONWebKey // private; the last one signs
	answer http.HandlerFunc  // instead of the usual one
}

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// New starts an issuer with one RSA key, which signs RS256 as the named systems do.
func New(t testing.TB) *Issuer {
	t.Helper()
	i := &Issuer{t: t, Now: time.Now}
	i.keys = []jose.JSONWebKey{{Key: rsaKey(), KeyID: "rsa-1", Algorithm: "RS256", Use: "sig"}}
	i.server = httptest.NewTLSServer(http.HandlerFunc(i.serve))
	t.Cleanup(i.server.Close)
	i.URL = i.server.URL
	i.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.server.Certificate().Raw})
	return i
}

func (i *Issuer) serve(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	answer := i.answer
	i.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	i.Serve(w, r)
}

// Serve gives the usual answers: discovery and keys.
func (i *Issuer) Serve(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		fmt.Fprintf(w, `{"issuer": %q, "jwks_uri": %q}`, i.URL, i.URL+"/keys")
	case "/keys":
		i.Fetched.Add(1)
		_, _ = w.Write(i.JWKS())
	default:
		http.NotFound(w, r)
	}
}

// Answer replaces what the server does; nil takes that back.
func (i *Issuer) Answer(h http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = h
}

// JWKS are the public keys as the issuer publishes them.
func (i *Issuer) JWKS() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	var set jose.JSONWebKeySet
	for _, k := range i.keys {
		set.Keys = append(set.Keys, k.Public())
	}
	data, err := json.Marshal(set)
	i.must(err)
	return data
}

// Rotate signs with a new P-256 key from now on. Old keys stay published unless drop.
func (i *Issuer) Rotate(kid string, drop bool) {
	i.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	i.must(err)
	i.mu.Lock()
	defer i.mu.Unlock()
	if drop {
		i.keys = nil
	}
	i.keys = append(i.keys, jose.JSONWebKey{Key: key, KeyID: kid, Algorithm: "ES256", Use: "sig"})
}

func (i *Issuer) must(err error) {
	i.t.Helper()
	if err != nil {
		i.t.Fatal(err)
	}
}

// Key is the key that signs.
func (i *Issuer) Key() jose.JSONWebKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys[len(i.keys)-1]
}

// PublicKey is the public half of the key that signs.
func (i *Issuer) PublicKey() any {
	k := i.Key()
	public := k.Public()
	return public.Key
}

// Sign signs claims as they are.
func (i *Issuer) Sign(claims any) string {
	i.t.Helper()
	payload, err := json.Marshal(claims)
	i.must(err)
	return i.SignBytes(payload)
}

// SignBytes signs a payload as it is.
func (i *Issuer) SignBytes(payload []byte) string {
	i.t.Helper()
	k := i.Key()
	return SignWith(i.t, jose.SigningKey{Algorithm: jose.SignatureAlgorithm(k.Algorithm), Key: k}, payload)
}

// SignWith signs with any key and algorithm.
func SignWith(t testing.TB, key jose.SigningKey, payload []byte) string {
	t.Helper()
	signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Claims are those of a system's token ("kubernetes", "github", "gitlab") that is good for ten minutes, with changes;
// a change to nil takes the claim away.
func (i *Issuer) Claims(system, audience string, changes map[string]any) map[string]any {
	i.t.Helper()
	data, err := shapes.ReadFile("testdata/" + system + ".json")
	i.must(err)
	var claims map[string]any
	i.must(json.Unmarshal(data, &claims))
	now := i.Now()
	claims["iss"], claims["jti"] = i.URL, uuid.NewString()
	claims["iat"], claims["nbf"], claims["exp"] = now.Unix(), now.Unix(), now.Add(10*time.Minute).Unix()
	if _, many := claims["aud"].([]any); many {
		claims["aud"] = []string{audience}
	} else {
		claims["aud"] = audience
	}
	for name, value := range changes {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	return claims
}

// Kubernetes is a projected token of the service account train in the namespace ml.
func (i *Issuer) Kubernetes(audience string, changes map[string]any) string {
	i.t.Helper()
	return i.Sign(i.Claims("kubernetes", audience, changes))
}

// GitHub is the token of a run of the workflow train in org/model on main.
func (i *Issuer) GitHub(audience string, changes map[string]any) string {
	i.t.Helper()
	return i.Sign(i.Claims("github", audience, changes))
}

// GitLab is the token of a job in org/model on main.
func (i *Issuer) GitLab(audience string, changes map[string]any) string {
	i.t.Helper()
	return i.Sign(i.Claims("gitlab", audience, changes))
}
