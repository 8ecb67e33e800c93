package issuer_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/hizo/hizo/api/auth/issuer"
	"github.com/hizo/hizo/api/auth/issuer/issuertest"
)

const audience = "hizo:0123456789abcdef"

func static(t *testing.T, ci *issuertest.Issuer, change func(*issuer.Config)) *issuer.Issuer {
	t.Helper()
	c := issuer.Config{
		Kind: issuer.OIDC, URL: ci.URL, Audiences: []string{audience}, Algorithms: issuer.DefaultAlgorithms(),
		Keys: ci.JWKS(), MaxAge: issuer.DefaultMaxAge,
	}
	if change != nil {
		change(&c)
	}
	i, err := issuer.New(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func verify(t *testing.T, i *issuer.Issuer, text string, now time.Time) (*issuer.Assertion, error) {
	t.Helper()
	token, err := issuer.Parse(text)
	if err != nil {
		return nil, err
	}
	return i.Verify(t.Context(), token, now)
}

func why(err error) string {
	if err == nil {
		return "believed"
	}
	if why, ok := issuer.Reason(err); ok {
		return string(why)
	}
	return err.Error()
}

func TestTokensOfKnownSystems(t *testing.T) {
	ci := issuertest.New(t)
	i := static(t, ci, nil)
	for system, want := range map[string]map[string]string{
		"kubernetes": {
			"sub": "system:serviceaccount:ml:train", "kubernetes.io.namespace": "ml",
			"kubernetes.io.serviceaccount.name": "train", "aud": `["` + audience + `"]`,
		},
		"github": {
			"repository": "org/model", "ref": "refs/heads/main", "aud": audience, "head_ref": "",
			"job_workflow_ref": "org/model/.github/workflows/train.yml@refs/heads/main", "ref_protected": "true",
		},
		"gitlab": {"project_path": "org/model", "runner_id": "1", "groups_direct": `["org/ml","org/platform"]`, "user_identities": "[]"},
	} {
		a, err := verify(t, i, ci.Sign(ci.Claims(system, audience, nil)), time.Now())
		if err != nil {
			t.Fatalf("%s: %v", system, err)
		}
		for name, value := range want {
			if got, ok := a.Claims[name]; !ok || got != value {
				t.Errorf("%s: %s = %q, %t", system, name, got, ok)
			}
		}
		if left := time.Until(a.Expires); left < 9*time.Minute || left > 11*time.Minute {
			t.Errorf("%s: expires in %v", system, left)
		}
	}
}

// TestRefusals is the list of what must never be believed, each for its own reason.
func TestRefusals(t *testing.T) {
	ci := issuertest.New(t)
	other := issuertest.New(t)
	other.Rotate("rsa-1", true) // another key under a known kid
	now := time.Now()
	claims := func(changes map[string]any) map[string]any { return ci.Claims("github", audience, changes) }
	payload := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	header := func(h string) string { return base64.RawURLEncoding.EncodeToString([]byte(h)) }
	good := ci.Sign(claims(nil))
	part := strings.Split(good, ".")
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(ci.PublicKey()))})
	hs256 := issuertest.SignWith(t, jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: public, KeyID: "rsa-1"}}, payload(claims(nil)))
	ec := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	embedded := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: ec}, &jose.SignerOptions{EmbedJWK: true}))
	self := must(must(embedded.Sign(payload(claims(nil)))).CompactSerialize())

	for name, c := range map[string]struct {
		token string
		want  issuer.Why
	}{
		"good":                          {good, ""},
		"wrong audience":                {ci.Sign(claims(map[string]any{"aud": "sts.example.com"})), issuer.OtherAudience},
		"another cluster's audience":    {ci.Sign(claims(map[string]any{"aud": "hizo:fedcba9876543210"})), issuer.OtherAudience},
		"for others as well":            {ci.Sign(claims(map[string]any{"aud": []string{audience, "sts.example.com"}})), issuer.OtherAudience},
		"for nobody":                    {ci.Sign(claims(map[string]any{"aud": nil})), issuer.OtherAudience},
		"an empty list of audiences":    {ci.Sign(claims(map[string]any{"aud": []string{}})), issuer.OtherAudience},
		"audience of a wrong type":      {ci.Sign(claims(map[string]any{"aud": 7})), issuer.Malformed},
		"audiences of a wrong type":     {ci.Sign(claims(map[string]any{"aud": []any{audience, 7}})), issuer.Malformed},
		"expired":                       {ci.Sign(claims(map[string]any{"exp": now.Add(-issuer.Leeway).Unix()})), issuer.Expired},
		"expired within the leeway":     {ci.Sign(claims(map[string]any{"exp": now.Add(-issuer.Leeway / 2).Unix()})), ""},
		"never expires":                 {ci.Sign(claims(map[string]any{"exp": nil})), issuer.Malformed},
		"expiry as text":                {ci.Sign(claims(map[string]any{"exp": "2999999999"})), issuer.Malformed},
		"expiry beyond time":            {ci.Sign(claims(map[string]any{"exp": 1e300})), issuer.Malformed},
		"not valid yet":                 {ci.Sign(claims(map[string]any{"nbf": now.Add(2 * issuer.Leeway).Unix()})), issuer.NotYet},
		"issued in the future":          {ci.Sign(claims(map[string]any{"iat": now.Add(2 * issuer.Leeway).Unix()})), issuer.NotYet},
		"too old":                       {ci.Sign(claims(map[string]any{"iat": now.Add(-25 * time.Hour).Unix()})), issuer.TooOld},
		"of unknown age, for too long":  {ci.Sign(claims(map[string]any{"iat": nil, "exp": now.Add(25 * time.Hour).Unix()})), issuer.TooOld},
		"of unknown age":                {ci.Sign(claims(map[string]any{"iat": nil})), ""},
		"without subject":               {ci.Sign(claims(map[string]any{"sub": ""})), issuer.NoSubject},
		"another issuer":                {ci.Sign(claims(map[string]any{"iss": other.URL})), issuer.OtherIssuer},
		"issuer with a slash more":      {ci.Sign(claims(map[string]any{"iss": ci.URL + "/"})), issuer.OtherIssuer},
		"issuer as a list":              {ci.Sign(claims(map[string]any{"iss": []string{ci.URL}})), issuer.Malformed},
		"a SPIFFE ID as its subject":    {ci.Sign(claims(map[string]any{"sub": "spiffe://example.org/train"})), ""},
		"another key, known kid":        {other.Sign(claims(nil)), issuer.UnknownKey}, // the kid's algorithm is another
		"another RSA key, known kid":    {signRSA(t, "rsa-1", payload(claims(nil))), issuer.Signature},
		"unknown kid":                   {signRSA(t, "rsa-2", payload(claims(nil))), issuer.UnknownKey},
		"no kid, one key":               {signRSA(t, "", payload(claims(nil))), issuer.Signature},
		"changed payload":               {part[0] + "." + base64.RawURLEncoding.EncodeToString(payload(claims(map[string]any{"ref": "x"}))) + "." + part[2], issuer.Signature},
		"signature of another":          {part[0] + "." + part[1] + "." + strings.Split(ci.Sign(claims(nil)), ".")[2], issuer.Signature},
		"no signature":                  {part[0] + "." + part[1] + ".", issuer.Signature},
		"alg none":                      {header(`{"alg":"none","kid":"rsa-1"}`) + "." + part[1] + ".", issuer.Algorithm},
		"alg None":                      {header(`{"alg":"None","kid":"rsa-1"}`) + "." + part[1] + ".", issuer.Algorithm},
		"HMAC with the public key":      {hs256, issuer.Algorithm},
		"a key in the header":           {self, issuer.UnknownKey},
		"an algorithm that is not ours": {header(`{"alg":"RS512","kid":"rsa-1"}`) + "." + part[1] + "." + part[2], issuer.Algorithm},
		"ES256 with an RSA key":         {header(`{"alg":"ES256","kid":"rsa-1"}`) + "." + part[1] + "." + part[2], issuer.UnknownKey},
		"critical header":               {header(`{"alg":"RS256","kid":"rsa-1","crit":["b64"],"b64":false}`) + "." + part[1] + "." + part[2], issuer.Malformed},
		"two algs":                      {header(`{"alg":"RS256","alg":"ES256","kid":"rsa-1"}`) + "." + part[1] + "." + part[2], issuer.Malformed},
		"another kind of token":         {header(`{"alg":"RS256","kid":"rsa-1","typ":"logout+jwt"}`) + "." + part[1] + "." + part[2], issuer.Malformed},
		"claims that come twice":        {ci.SignBytes([]byte(strings.Replace(string(payload(claims(nil))), `"repository":`, `"repository":"org/evil","repository":`, 1))), issuer.Malformed},
		"nested claims that come twice": {ci.SignBytes([]byte(strings.Replace(string(payload(ci.Claims("kubernetes", audience, nil))), `"namespace":`, `"namespace":"kube-system","namespace":`, 1))), issuer.Malformed},
		"an object that comes twice":    {ci.SignBytes([]byte(strings.Replace(string(payload(ci.Claims("kubernetes", audience, nil))), `"kubernetes.io":`, `"kubernetes.io":{"x":"y"},"kubernetes.io":`, 1))), issuer.Malformed},
		"nothing, then a claim":         {ci.SignBytes([]byte(strings.Replace(string(payload(claims(nil))), `"repository":`, `"repository":null,"repository":`, 1))), issuer.Malformed},
		"two claims of one name":        {ci.Sign(claims(map[string]any{"a.b": "x", "a": map[string]any{"b": "y"}})), issuer.Malformed},
		"deep claims":                   {ci.SignBytes([]byte(`{"a":` + strings.Repeat(`{"a":`, 20) + "1" + strings.Repeat("}", 21))), issuer.Malformed},
		"deep lists":                    {ci.SignBytes([]byte(`{"a":` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + "}")), issuer.Malformed},
		"many claims":                   {ci.Sign(claims(many(300))), issuer.Malformed},
		"not an object":                 {ci.SignBytes([]byte(`["a"]`)), issuer.Malformed},
		"two objects":                   {ci.SignBytes([]byte(`{} {}`)), issuer.Malformed},
		"not UTF-8":                     {ci.SignBytes([]byte("{\"sub\":\"\xff\"}")), issuer.Malformed},
		"oversize":                      {ci.Sign(claims(map[string]any{"x": strings.Repeat("x", issuer.MaxToken)})), issuer.Oversize},
		"empty":                         {"", issuer.Malformed},
		"two parts":                     {part[0] + "." + part[1], issuer.Malformed},
		"four parts":                    {good + ".x", issuer.Malformed},
		"as JSON":                       {`{"payload":"` + part[1] + `","protected":"` + part[0] + `","signature":"` + part[2] + `"}`, issuer.Malformed},
		"with a line break":             {good + "\n", issuer.Malformed},
		"with a line break inside":      {part[0] + "." + part[1][:9] + "\r\n" + part[1][9:] + "." + part[2], issuer.Malformed},
		"with spare bits":               {spare(t, ci, claims), issuer.Malformed},
		"with padding":                  {part[0] + "=." + part[1] + "." + part[2], issuer.Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			got := why(func() error { _, err := verify(t, static(t, ci, nil), c.token, now); return err }())
			if want := string(c.want); got != want && !(want == "" && got == "believed") {
				t.Errorf("%s, want %q", got, want)
			}
		})
	}
}

func many(n int) map[string]any {
	m := make(map[string]any, n)
	for i := range n {
		m[fmt.Sprint("c", i)] = i
	}
	return m
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func signRSA(t *testing.T, kid string, payload []byte) string {
	t.Helper()
	key := must(rsa.GenerateKey(rand.Reader, 2048))
	return issuertest.SignWith(t, jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, payload)
}

func TestAssertionID(t *testing.T) {
	ci := issuertest.New(t)
	i := static(t, ci, nil)
	id := func(changes map[string]any) [32]byte {
		a, err := verify(t, i, ci.Sign(ci.Claims("github", audience, changes)), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return a.ID
	}
	if id(map[string]any{"jti": "one"}) != id(map[string]any{"jti": "one", "ref": "another"}) {
		t.Error("one jti, two assertions")
	}
	if id(map[string]any{"jti": "one"}) == id(map[string]any{"jti": "two"}) {
		t.Error("two jtis, one assertion")
	}
	if id(map[string]any{"jti": nil, "ref": "a"}) == id(map[string]any{"jti": nil, "ref": "b"}) {
		t.Error("two tokens without jti are one assertion")
	}
	ec := issuertest.New(t)
	ec.Rotate("ec", true)
	j := static(t, ec, nil)
	payload := must(json.Marshal(ec.Claims("github", audience, map[string]any{"jti": nil})))
	a, b := ec.SignBytes(payload), ec.SignBytes(payload)
	if a == b {
		t.Fatal("ECDSA signed twice alike")
	}
	if must(verify(t, j, a, time.Now())).ID != must(verify(t, j, b, time.Now())).ID {
		t.Error("another signature of the same makes another assertion")
	}
}

// When a token can have been used for the first time, whatever the issuer's clock says and leaves out.
func TestAssertionIssued(t *testing.T) {
	ci := issuertest.New(t)
	i := static(t, ci, func(c *issuer.Config) { c.MaxAge = time.Hour })
	now := time.Now().Truncate(time.Second)
	for name, test := range map[string]struct {
		changes map[string]any
		want    time.Time
	}{
		"by iat":              {map[string]any{"iat": now.Add(-time.Minute).Unix()}, now.Add(-time.Minute - issuer.Leeway)},
		"of unknown age":      {map[string]any{"iat": nil, "exp": now.Add(10 * time.Minute).Unix()}, now.Add(-50*time.Minute - issuer.Leeway)},
		"of unknown age, new": {map[string]any{"iat": nil, "exp": now.Add(time.Hour).Unix()}, now.Add(-issuer.Leeway)},
	} {
		a, err := verify(t, i, ci.Sign(ci.Claims("github", audience, test.changes)), now)
		if err != nil || !a.Issued.Equal(test.want) {
			t.Errorf("%s: %v, %v", name, a, err)
		}
	}
}

func TestConfig(t *testing.T) {
	ci := issuertest.New(t)
	for name, c := range map[string]struct {
		field  string
		change func(*issuer.Config)
	}{
		"kind":           {"kind", func(c *issuer.Config) { c.Kind = "saml" }},
		"no audience":    {"audiences", func(c *issuer.Config) { c.Audiences = nil }},
		"empty audience": {"audiences", func(c *issuer.Config) { c.Audiences = []string{""} }},
		"no algorithm":   {"algorithms", func(c *issuer.Config) { c.Algorithms = nil }},
		"none":           {"algorithms", func(c *issuer.Config) { c.Algorithms = []string{"none"} }},
		"HS256":          {"algorithms", func(c *issuer.Config) { c.Algorithms = []string{"RS256", "HS256"} }},
		"http":           {"url", func(c *issuer.Config) { c.URL = "http://issuer.example" }},
		"password":       {"url", func(c *issuer.Config) { c.URL = "https://a:b@issuer.example" }},
		"query":          {"url", func(c *issuer.Config) { c.URL = "https://issuer.example?x" }},
		"control":        {"url", func(c *issuer.Config) { c.URL = "https://issuer.example/\n" }},
		"keys over http": {"keys_url", func(c *issuer.Config) { c.Keys, c.KeysURL = nil, "http://issuer.example/keys" }},
		"two sources":    {"keys", func(c *issuer.Config) { c.KeysURL = "https://issuer.example/keys" }},
		"no JSON":        {"keys", func(c *issuer.Config) { c.Keys = []byte("keys") }},
		"no keys":        {"keys", func(c *issuer.Config) { c.Keys = []byte(`{"keys":[]}`) }},
		"symmetric key":  {"keys", func(c *issuer.Config) { c.Keys = []byte(`{"keys":[{"kty":"oct","k":"AAAA","kid":"x"}]}`) }},
		"weak key":       {"keys", func(c *issuer.Config) { c.Keys = []byte(`{"keys":[{"kty":"RSA","n":"3Q","e":"AQAB","kid":"x"}]}`) }},
		"private key": {"keys", func(c *issuer.Config) {
			c.Keys = must(json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{ci.Key()}}))
		}},
		"no age":          {"max_age", func(c *issuer.Config) { c.MaxAge = 0 }},
		"empty CA":        {"ca", func(c *issuer.Config) { c.Keys, c.CA = nil, []byte("x") }},
		"no trust domain": {"url", func(c *issuer.Config) { c.Kind, c.URL = issuer.SPIFFE, "https://example.org" }},
		"a SPIFFE ID":     {"url", func(c *issuer.Config) { c.Kind, c.URL = issuer.SPIFFE, "spiffe://example.org/x" }},
		"no trust bundle": {"keys", func(c *issuer.Config) { c.Kind, c.URL, c.Keys = issuer.SPIFFE, "spiffe://example.org", nil }},
		"an odd bundle":   {"keys", func(c *issuer.Config) { c.Kind, c.URL, c.Keys = issuer.SPIFFE, "spiffe://example.org", []byte("{}") }},
		"an empty bundle": {"keys", func(c *issuer.Config) {
			c.Kind, c.URL, c.Keys = issuer.SPIFFE, "spiffe://example.org", []byte(`{"keys":[]}`)
		}},
		"a PEM of nothing": {"keys", func(c *issuer.Config) {
			c.Kind, c.URL, c.Keys = issuer.SPIFFE, "spiffe://example.org", []byte("-----BEGIN X-----\n-----END X-----\n")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			conf := issuer.Config{
				Kind: issuer.OIDC, URL: ci.URL, Audiences: []string{audience}, Algorithms: []string{"RS256"},
				Keys: ci.JWKS(), MaxAge: time.Hour,
			}
			c.change(&conf)
			_, err := issuer.New(conf, nil)
			if e, ok := errors.AsType[*issuer.ConfigError](err); !ok || e.Field != c.field {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestSVIDs(t *testing.T) {
	d := issuertest.NewTrustDomain(t, "example.org")
	other := issuertest.NewTrustDomain(t, "example.org") // same name, other keys
	foreign := issuertest.NewTrustDomain(t, "evil.example")
	i, err := issuer.New(issuer.Config{
		Kind: issuer.SPIFFE, URL: d.URL(), Audiences: []string{audience}, Algorithms: issuer.DefaultAlgorithms(),
		Keys: d.Bundle(), MaxAge: time.Hour,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for name, c := range map[string]struct {
		chain []*x509.Certificate
		want  issuer.Why
	}{
		"good":               {[]*x509.Certificate{d.SVID("/ns/ml/sa/train", time.Hour, nil).Leaf}, ""},
		"other keys":         {[]*x509.Certificate{other.SVID("/train", time.Hour, nil).Leaf}, issuer.Chain},
		"other trust domain": {[]*x509.Certificate{foreign.SVID("/train", time.Hour, nil).Leaf}, issuer.Chain},
		"expired":            {[]*x509.Certificate{d.SVID("/train", -time.Second, nil).Leaf}, issuer.Chain},
		"no ID":              {[]*x509.Certificate{d.SVID("/train", time.Hour, func(c *x509.Certificate) { c.URIs = nil }).Leaf}, issuer.Chain},
		"two IDs":            {[]*x509.Certificate{d.SVID("/train", time.Hour, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }).Leaf}, issuer.Chain},
		"an authority":       {[]*x509.Certificate{d.SVID("/train", time.Hour, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }).Leaf}, issuer.Chain},
		"no certificate":     {nil, issuer.Malformed},
		"too many":           {make([]*x509.Certificate, 9), issuer.Malformed},
	} {
		a, err := i.VerifySVID(c.chain, now)
		if got := why(err); got != string(c.want) && !(c.want == "" && err == nil) {
			t.Errorf("%s: %s, want %q", name, got, c.want)
		}
		if err == nil && (a.Claims["sub"] != "spiffe://example.org/ns/ml/sa/train" || a.Claims["spiffe.path"] != "/ns/ml/sa/train" || a.Claims["spiffe.trust_domain"] != "example.org") {
			t.Errorf("claims %v", a.Claims)
		}
	}
	for name, c := range map[string]struct {
		token string
		want  issuer.Why
	}{
		"good":               {d.JWT("/train", audience, time.Minute), ""},
		"other audience":     {d.JWT("/train", "other", time.Minute), issuer.OtherAudience},
		"other keys":         {other.JWT("/train", audience, time.Minute), issuer.Signature},
		"other trust domain": {foreign.JWT("/train", audience, time.Minute), issuer.OtherIssuer},
		"expired":            {d.JWT("/train", audience, -time.Minute), issuer.Expired},
	} {
		a, err := verify(t, i, c.token, now)
		if got := why(err); got != string(c.want) && !(c.want == "" && err == nil) {
			t.Errorf("JWT %s: %s, want %q", name, got, c.want)
		}
		if err == nil && a.Claims["spiffe.path"] != "/train" {
			t.Errorf("claims %v", a.Claims)
		}
	}
	ci := issuertest.New(t)
	if _, err := static(t, ci, nil).VerifySVID([]*x509.Certificate{d.SVID("/x", time.Hour, nil).Leaf}, now); why(err) != string(issuer.OtherIssuer) {
		t.Errorf("an OIDC issuer takes a certificate: %v", err)
	}
}

// spare is a token whose payload ends in base64 with bits that stand for nothing, set.
func spare(t *testing.T, ci *issuertest.Issuer, claims func(map[string]any) map[string]any) string {
	t.Helper()
	for n := range 3 {
		part := strings.Split(ci.Sign(claims(map[string]any{"jti": nil, "pad": strings.Repeat("x", n)})), ".")
		if len(part[1])%4 == 0 {
			continue
		}
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		end := len(part[1]) - 1
		at := strings.IndexByte(alphabet, part[1][end])
		return part[0] + "." + part[1][:end] + string(alphabet[at+1]) + "." + part[2]
	}
	t.Fatal("no payload of a length that leaves bits")
	return ""
}
