package issuer_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/api/auth/issuer"
	"github.com/hizo/hizo/api/auth/issuer/issuertest"
)

// FuzzParse: whatever comes in place of a token is refused for a reason, and nothing unsigned is believed.
func FuzzParse(f *testing.F) {
	ci := issuertest.New(f)
	i, err := issuer.New(issuer.Config{
		Kind: issuer.OIDC, URL: ci.URL, Audiences: []string{audience}, Algorithms: issuer.Algorithms(), Keys: ci.JWKS(), MaxAge: time.Hour,
	}, nil)
	if err != nil {
		f.Fatal(err)
	}
	good := ci.GitHub(audience, nil)
	f.Add(good)
	f.Add(ci.Kubernetes(audience, nil))
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Add("e30.e30.")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := issuer.Parse(text)
		if err == nil {
			_, err = i.Verify(t.Context(), token, time.Now())
			if err == nil && text != good && !strings.HasPrefix(text, strings.Join(strings.Split(text, ".")[:2], ".")) {
				t.Fatal("believed")
			}
		}
		if err != nil {
			if _, ok := issuer.Reason(err); !ok {
				t.Fatalf("refused without a reason: %v", err)
			}
		}
	})
}

// FuzzClaims: a payload that is taken has the claims that encoding/json finds in it.
func FuzzClaims(f *testing.F) {
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256"}`))
	for _, s := range []string{
		`{"a":"b","n":1.50,"t":true,"z":null,"l":["x",[1,null,false]],"o":{"p":{"q":"r"}}}`, `{"a":1,"a":2}`, `{"exp":1e3}`,
		`{"a.b":1,"a":{"b":2}}`, `{"aud":["x"]}`, `{"a":[{}]}`, `{"":1}`, `{"a":"\ud800"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		token, err := issuer.Parse(header + "." + base64.RawURLEncoding.EncodeToString(payload) + ".AA")
		if err != nil {
			return
		}
		var plain map[string]any
		if err := json.Unmarshal(payload, &plain); err != nil {
			t.Fatalf("took what encoding/json refuses: %v", err)
		}
		_, iss := token.From()
		if want, _ := plain["iss"].(string); iss != want {
			t.Fatalf("iss %q, encoding/json reads %q", iss, want)
		}
	})
}
