package auth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

var kinds = []TokenKind{AccessToken, SecretID, EnrolmentCode}

func TestToken(t *testing.T) {
	scanner := regexp.MustCompile(`^hizo[se]?_[0-9A-Za-z]{49}$`)
	for _, kind := range kinds {
		token := NewToken(kind)
		text := token.Reveal()
		if !scanner.MatchString(text) {
			t.Errorf("%s does not look as documented", text)
		}
		got, err := ParseToken(kind, text)
		if err != nil || got != token || got.Hash() != token.Hash() || got.Kind() != kind {
			t.Errorf("%s: %v, %v", kind, got, err)
		}
		if id := token.ID(); len(id) != 16 || id != TokenID(token.Hash()) || strings.Contains(text, id) {
			t.Errorf("%s: ID %q", kind, id)
		}
		for _, other := range kinds {
			if _, err := ParseToken(other, text); other != kind && !errors.Is(err, ErrMalformedToken) {
				t.Errorf("a %s is taken for a %s", kind, other)
			}
		}
		for why, bad := range map[string]string{
			"empty": "", "prefix alone": string(kind), "cut": text[:len(text)-1], "longer": text + "0",
			"newline": text + "\n", "space": " " + text, "upper case": strings.ToUpper(text),
			"no prefix": text[len(kind):], "not base 62": text[:10] + "-" + text[11:],
		} {
			if got, err := ParseToken(kind, bad); !errors.Is(err, ErrMalformedToken) || !got.IsZero() {
				t.Errorf("%s, %s: %v", kind, why, err)
			}
		}
	}
}

// TestTokenTypos: every single wrong character and every swap of neighbours
// is found without a lookup.
func TestTokenTypos(t *testing.T) {
	text := NewToken(AccessToken).Reveal()
	for i := len(AccessToken); i < len(text); i++ {
		for _, c := range []byte(alphabet) {
			if c == text[i] {
				continue
			}
			if _, err := ParseToken(AccessToken, text[:i]+string(c)+text[i+1:]); err == nil {
				t.Fatalf("a wrong character at %d was not found", i)
			}
		}
		if i+1 < len(text) && text[i] != text[i+1] {
			if _, err := ParseToken(AccessToken, text[:i]+string(text[i+1])+string(text[i])+text[i+2:]); err == nil {
				t.Fatalf("swapped characters at %d were not found", i)
			}
		}
	}
}

func TestTokensDiffer(t *testing.T) {
	seen := make(map[string]bool)
	counts := make(map[byte]int)
	const n = 2000
	for range n {
		text := NewToken(AccessToken).Reveal()
		if seen[text] {
			t.Fatal("one token twice")
		}
		seen[text] = true
		for i := len(AccessToken); i < len(AccessToken)+randomChars; i++ {
			counts[text[i]]++
		}
	}
	// Each character comes n×43/62 ≈ 1387 times with a deviation of about 37:
	// 6 deviations leave no room for a modulo bias of 256 over 62 (25 %).
	mean := float64(n) * randomChars / 62
	for _, c := range []byte(alphabet) {
		if got := float64(counts[c]); got < mean-6*37 || got > mean+6*37 {
			t.Errorf("%q comes %v times of %v", c, got, mean)
		}
	}
}

func TestDeriveToken(t *testing.T) {
	seed := bytes.Repeat([]byte{7}, 32)
	token := DeriveToken(SecretID, seed)
	if token != DeriveToken(SecretID, seed) {
		t.Error("one seed, two tokens")
	}
	if _, err := ParseToken(SecretID, token.Reveal()); err != nil {
		t.Error(err)
	}
	if a, b := DeriveToken(AccessToken, seed).Reveal(), token.Reveal(); a[len(AccessToken):len(AccessToken)+8] == b[len(SecretID):len(SecretID)+8] {
		t.Error("two kinds share their random part")
	}
	seed[31]++
	if token == DeriveToken(SecretID, seed) {
		t.Error("two seeds, one token")
	}
	defer func() {
		if recover() == nil {
			t.Error("a short seed was taken")
		}
	}()
	DeriveToken(SecretID, seed[:31])
}

// TestTokenFormat pins text, checksum, hash and derivation: stored hashes,
// scanners and retries rest on them.
func TestTokenFormat(t *testing.T) {
	const body = "hizo_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg"
	text := body + checksum(body)
	token, err := ParseToken(AccessToken, text)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%s\n%x\n%s\n", text, token.Hash(), DeriveToken(SecretID, bytes.Repeat([]byte{7}, 32)).Reveal())
	golden(t, "token.txt", got)
}

// TestSecretsRedactThemselves prints each secret in every way that logs,
// errors and answers use.
func TestSecretsRedactThemselves(t *testing.T) {
	token := NewToken(AccessToken)
	hidden := []string{token.Reveal(), token.Reveal()[10:30], base64.StdEncoding.EncodeToString([]byte(token.Reveal())), fmt.Sprintf("%x", token.Reveal())}
	for _, v := range []any{token, &token, []Token{token}, map[string]any{"t": token}, struct{ Token Token }{token}} {
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, fmt.Errorf("failed: %v", v))
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		if b, err := yaml.Marshal(v); err == nil {
			out.Write(b)
		}
		if !strings.Contains(out.String(), "redacted") {
			t.Errorf("%T prints nothing", v)
		}
		for _, h := range hidden {
			if strings.Contains(out.String(), h) {
				t.Errorf("%T shows %q:\n%s", v, h, out.String())
			}
		}
	}
	if _, err := ParseToken(AccessToken, token.Reveal()+"x"); err == nil || strings.Contains(err.Error(), token.Reveal()[8:20]) {
		t.Errorf("an error quotes the secret: %v", err)
	}
}

func FuzzParseToken(f *testing.F) {
	for _, kind := range kinds {
		f.Add(NewToken(kind).Reveal())
	}
	f.Add("hizo_")
	f.Fuzz(func(t *testing.T, text string) {
		accepted := 0
		for _, kind := range kinds {
			token, err := ParseToken(kind, text)
			if err != nil {
				continue
			}
			accepted++
			if token.Reveal() != text || len(text) != len(kind)+49 {
				t.Fatalf("%q became %q", text, token.Reveal())
			}
		}
		if accepted > 1 {
			t.Fatalf("%q is of %d kinds", text, accepted)
		}
	})
}
