package seal_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/seal"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
)

var update = flag.Bool("update", false, "write the golden files")

var place = seal.Place{Cluster: [16]byte(bytes.Repeat([]byte{0xab}, 16)), Vault: "ml", Pipeline: "train", Variable: "DB_PASSWORD"}

// keyOf is the key of a seed of equal bytes.
func keyOf(t testing.TB, seed byte) *hybrid.Key {
	t.Helper()
	k, err := hybrid.DeriveKey(secret.New(bytes.Repeat([]byte{seed}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func make1(t testing.TB, k *hybrid.Key, p seal.Place, value string) *seal.Sealed {
	t.Helper()
	s, err := seal.New(k.Public(), p, 2_000_000_000, secret.New([]byte(value)))
	if err != nil {
		t.Fatal(err)
	}
	back, err := seal.Parse(s.Text())
	if err != nil || back.Text() != s.Text() || back.KeyID != s.KeyID || back.ID != s.ID || back.Expires != s.Expires || back.Digest() != s.Digest() {
		t.Fatalf("%+v is read as %+v, %v", s, back, err)
	}
	return back
}

func TestOpensInItsPlaceOnly(t *testing.T) {
	k := keyOf(t, 1)
	s := make1(t, k, place, "hunter2")
	value, err := s.Open(k, place)
	if err != nil || string(value.Reveal()) != "hunter2" {
		t.Fatalf("Open: %v", err)
	}
	for what, change := range map[string]func(*seal.Place){
		"cluster":  func(p *seal.Place) { p.Cluster[15]++ },
		"vault":    func(p *seal.Place) { p.Vault = "mm" },
		"pipeline": func(p *seal.Place) { p.Pipeline = "train2" },
		"variable": func(p *seal.Place) { p.Variable = "DB_PASSWORDS" },
		"border":   func(p *seal.Place) { p.Vault, p.Pipeline = "mlt", "rain" },
		"no place": func(p *seal.Place) { *p = seal.Place{} },
	} {
		other := place
		change(&other)
		if _, err := s.Open(k, other); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("another %s: %v", what, err)
		}
	}
	if _, err := s.Open(keyOf(t, 2), place); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("another key: %v", err)
	}
	twin := make1(t, k, place, "hunter2")
	if twin.ID == s.ID || twin.Digest() == s.Digest() {
		t.Error("two sealed values are one")
	}
}

// Every bit is authenticated: of the head, of the encapsulated key, of the ciphertext.
func TestEveryBitCounts(t *testing.T) {
	k := keyOf(t, 1)
	s := make1(t, k, place, "hunter2")
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(s.Text(), seal.Prefix))
	if err != nil {
		t.Fatal(err)
	}
	step := 7 // a bit of nearly every byte
	for bit := 0; bit < len(raw)*8; bit += step {
		flipped := bytes.Clone(raw)
		flipped[bit/8] ^= 1 << (bit % 8)
		bad, err := seal.Parse(seal.Prefix + base64.RawURLEncoding.EncodeToString(flipped))
		if err != nil {
			continue
		}
		if _, err := bad.Open(k, place); !errors.Is(err, seal.ErrOpen) {
			t.Fatalf("with bit %d changed: %v", bit, err)
		}
	}
}

// One text for one sealed value: revoking its digest revokes it in every spelling.
func TestOneSpelling(t *testing.T) {
	at := place
	text := make1(t, keyOf(t, 1), at, "hunter2").Text()
	digits := strings.TrimPrefix(text, seal.Prefix)
	for len(digits)%4 == 0 { // whole groups leave no bits over
		at.Variable += "X"
		text = make1(t, keyOf(t, 1), at, "hunter2").Text()
		digits = strings.TrimPrefix(text, seal.Prefix)
	}
	last := digits[len(digits)-1]
	for what, bad := range map[string]string{
		"empty":          "",
		"prefix alone":   seal.Prefix,
		"upper prefix":   strings.ToUpper(seal.Prefix) + digits,
		"version 2":      "hizo:v2:" + digits,
		"space":          " " + text,
		"newline":        text + "\n",
		"newline inside": text[:100] + "\n" + text[100:],
		"padding":        text + "==",
		"standard set":   seal.Prefix + strings.NewReplacer("-", "+", "_", "/").Replace(digits) + "+",
		"loose bits":     seal.Prefix + digits[:len(digits)-1] + string(next(last)),
		"half":           text[:len(text)/2],
		"NUL":            text + "\x00",
		"over-long":      text + strings.Repeat("A", seal.MaxText),
	} {
		if _, err := seal.Parse(bad); !errors.Is(err, seal.ErrFormat) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// next is the following digit of the alphabet, which differs in bits that stand for nothing.
func next(c byte) byte {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return alphabet[strings.IndexByte(alphabet, c)^1]
}

// Lengths tell a step of a row, not the value's.
func TestLengthsAreHidden(t *testing.T) {
	k := keyOf(t, 1)
	lengths := map[int]string{}
	for _, c := range []struct{ from, to int }{{0, 252}, {253, 508}, {509, 1020}, {1021, 2044}, {2045, 4092}, {4093, 8188}, {seal.MaxValue - 3, seal.MaxValue}} {
		a, b := make1(t, k, place, strings.Repeat("x", c.from)), make1(t, k, place, strings.Repeat("x", c.to))
		if len(a.Text()) != len(b.Text()) {
			t.Errorf("values of %d and %d bytes differ in length", c.from, c.to)
		}
		if twin, ok := lengths[len(a.Text())]; ok {
			t.Errorf("%d bytes are as long as %s", c.from, twin)
		}
		lengths[len(a.Text())] = fmt.Sprint(c.from)
		for _, s := range []struct {
			*seal.Sealed
			n int
		}{{a, c.from}, {b, c.to}} {
			if value, err := s.Open(k, place); err != nil || value.Len() != s.n {
				t.Errorf("%d bytes: %v", s.n, err)
			}
		}
	}
	longest := place
	longest.Vault, longest.Pipeline, longest.Variable = strings.Repeat("v", name.MaxVault), strings.Repeat("p", name.MaxPipeline), strings.Repeat("V", name.MaxVariable)
	if n := len(make1(t, k, longest, strings.Repeat("x", seal.MaxValue)).Text()); n != seal.MaxText {
		t.Errorf("the longest text has %d bytes, the bound is %d", n, seal.MaxText)
	}
	if _, err := seal.New(k.Public(), place, 1, secret.New(make([]byte, seal.MaxValue+1))); !errors.Is(err, seal.ErrTooLarge) {
		t.Errorf("too large a value: %v", err)
	}
	if _, err := seal.New([]byte("no key"), place, 1, secret.New([]byte("x"))); !errors.Is(err, hybrid.ErrPublicKey) {
		t.Errorf("no key: %v", err)
	}
	bad := place
	bad.Variable = "A=B"
	if _, err := seal.New(k.Public(), bad, 1, secret.New([]byte("x"))); !errors.Is(err, name.ErrNotCanonical) {
		t.Errorf("no variable: %v", err)
	}
}

func TestCheckExpiry(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for seconds, ok := range map[int64]bool{-1: false, 0: false, 1: true, int64(seal.MaxLifetime / time.Second): true, int64(seal.MaxLifetime/time.Second) + 1: false} {
		if err := seal.CheckExpiry(now, now.Unix()+seconds); (err == nil) != ok {
			t.Errorf("in %d s: %v", seconds, err)
		}
	}
}

const vectorFile = "testdata/vectors.txt"

func vectors(t testing.TB) map[string]string {
	t.Helper()
	data, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	vector := map[string]string{}
	for line := range strings.Lines(string(data)) {
		n, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		vector[n] = value
	}
	return vector
}

// What outsiders built on must go on to open: the vectors of docs/seal-format.md.
func TestVectors(t *testing.T) {
	k := keyOf(t, 1)
	if *update {
		s := make1(t, k, place, "hunter2")
		out := fmt.Sprintf("seed %x\nkey-id %x\nseal-id %x\nexpires %d\ncluster %x\nplace %s/%s %s\nvalue %q\ntext %s\n",
			bytes.Repeat([]byte{1}, 32), s.KeyID, s.ID, s.Expires, place.Cluster, place.Vault, place.Pipeline, place.Variable, "hunter2", s.Text())
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(vectorFile, []byte(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	vector := vectors(t)
	s, err := seal.Parse(vector["text"])
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(s.KeyID[:]) != vector["key-id"] || hex.EncodeToString(s.ID[:]) != vector["seal-id"] || fmt.Sprint(s.Expires) != vector["expires"] {
		t.Errorf("the head is read as %+v", s)
	}
	value, err := s.Open(k, place)
	if err != nil || fmt.Sprintf("%q", value.Reveal()) != vector["value"] {
		t.Errorf("opens as %q, %v", value.Reveal(), err)
	}
	if vector["seed"] != strings.Repeat("01", 32) {
		t.Error("the vectors are of another key")
	}
}

func FuzzParse(f *testing.F) {
	k := keyOf(f, 1)
	text := vectors(f)["text"] // the same in every process
	f.Add(text)
	f.Add(text[:len(text)-4])
	f.Add(strings.Replace(text, "A", "B", 1))
	f.Add(seal.Prefix + strings.Repeat("A", 2000))
	f.Add("hizo:v2:" + text)
	f.Fuzz(func(t *testing.T, s string) {
		parsed, err := seal.Parse(s)
		if err != nil {
			if !errors.Is(err, seal.ErrFormat) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if parsed.Text() != s || parsed.Expires <= 0 {
			t.Errorf("%q is read as %+v", s, parsed)
		}
		parsed.KeyID = seal.KeyID(k.Public()) // as if it named the right key
		if value, err := parsed.Open(k, place); err == nil && s != text {
			t.Errorf("%q opens as %q", s, value.Reveal())
		}
	})
}
