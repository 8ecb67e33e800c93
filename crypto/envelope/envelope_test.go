package envelope_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hizo/hizo/crypto/envelope"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/internal/golden"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/secret"
)

var bind = envelope.Bind{Cluster: [16]byte{1, 2, 3}, Vault: "models", Path: "db/password", Version: 7}

// ring makes a keyring with two generations of the keys that envelopes use.
func ring(t testing.TB) (*keyring.Keyring, keyring.Root, []keyring.WrappedKey) {
	t.Helper()
	root := keyring.NewRoot()
	var keys []keyring.WrappedKey
	kr, err := keyring.Open(root, 1, bind.Cluster, func(p string, gen uint32) (keyring.WrappedKey, error) {
		return keyring.Static(keys...)(p, gen)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kr.Close)
	for _, p := range []string{keyring.Vault("models"), keyring.Vault("other"), keyring.Audit, keyring.AuditHPKE} {
		for gen := uint32(1); gen <= 2; gen++ {
			w, err := kr.Generate(p, gen)
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, w)
		}
	}
	return kr, root, keys
}

func value(fields ...string) map[string]secret.Bytes {
	m := map[string]secret.Bytes{}
	for i := 0; i < len(fields); i += 2 {
		m[fields[i]] = secret.New([]byte(fields[i+1]))
	}
	return m
}

func equal(a, b map[string]secret.Bytes) bool { return maps.EqualFunc(a, b, secret.Bytes.Equal) }

func want(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: got error %v, want %v", what, err, target)
	}
}

func TestSealOpenValue(t *testing.T) {
	kr, _, _ := ring(t)
	for name, v := range map[string]map[string]secret.Bytes{
		"one field": value("password", "hunter2"), "several": value("b", "2", "a", "1", "c", ""), "empty": value(),
		"empty name": value("", "x"), "binary": value("key\x00\xff", "\x00\xff"), "long": value("k", strings.Repeat("x", 1<<20)),
	} {
		t.Run(name, func(t *testing.T) {
			s, err := envelope.SealValue(kr, bind, 1, v)
			if err != nil {
				t.Fatal(err)
			}
			got, err := envelope.OpenValue(kr, bind, s)
			if err != nil || !equal(got, v) {
				t.Fatalf("%v", err)
			}
			for field, b := range v {
				if b.Len() > 3 && (bytes.Contains(s.Ciphertext, b.Reveal()) || bytes.Contains(s.WrappedKey, b.Reveal())) {
					t.Errorf("field %q shows", field)
				}
			}
			envelope.WipeValue(got)
			for _, b := range got {
				if !bytes.Equal(b.Reveal(), make([]byte, b.Len())) {
					t.Error("WipeValue")
				}
			}
		})
	}
}

func TestEveryVersionHasItsOwnKey(t *testing.T) {
	kr, _, _ := ring(t)
	v := value("a", "1")
	x, err := envelope.SealValue(kr, bind, 1, v)
	if err != nil {
		t.Fatal(err)
	}
	y, err := envelope.SealValue(kr, bind, 1, v)
	if err != nil {
		t.Fatal(err)
	}
	x.WrappedKey, y.WrappedKey = y.WrappedKey, x.WrappedKey
	_, err = envelope.OpenValue(kr, bind, x)
	want(t, "the data key of another sealing", err, envelope.ErrAuth)
}

func TestValuesAreBound(t *testing.T) {
	kr, _, _ := ring(t)
	s, err := envelope.SealValue(kr, bind, 1, value("password", "hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := func(f func(*envelope.Bind)) envelope.Bind {
		b := bind
		f(&b)
		return b
	}
	edit := func(f func(*envelope.Sealed)) envelope.Sealed {
		c := s
		c.WrappedKey, c.Ciphertext = slices.Clone(s.WrappedKey), slices.Clone(s.Ciphertext)
		f(&c)
		return c
	}
	for name, c := range map[string]struct {
		bind   envelope.Bind
		sealed envelope.Sealed
		want   error
	}{
		"another cluster":    {elsewhere(func(b *envelope.Bind) { b.Cluster[0]++ }), s, envelope.ErrAuth},
		"another vault":      {elsewhere(func(b *envelope.Bind) { b.Vault = "other" }), s, envelope.ErrAuth},
		"another path":       {elsewhere(func(b *envelope.Bind) { b.Path = "db/passwore" }), s, envelope.ErrAuth},
		"another version":    {elsewhere(func(b *envelope.Bind) { b.Version++ }), s, envelope.ErrAuth},
		"another generation": {bind, edit(func(s *envelope.Sealed) { s.Generation = 2 }), envelope.ErrAuth},
		"no such generation": {bind, edit(func(s *envelope.Sealed) { s.Generation = 3 }), keyring.ErrNoKey},
		"a newer format":     {bind, edit(func(s *envelope.Sealed) { s.Format = 2 }), envelope.ErrFormat},
		"format 0":           {bind, edit(func(s *envelope.Sealed) { s.Format = 0 }), envelope.ErrFormat},
		"key destroyed":      {bind, edit(func(s *envelope.Sealed) { s.WrappedKey = nil }), envelope.ErrAuth},
		"changed key":        {bind, edit(func(s *envelope.Sealed) { s.WrappedKey[20] ^= 1 }), envelope.ErrAuth},
		"changed value":      {bind, edit(func(s *envelope.Sealed) { s.Ciphertext[20] ^= 1 }), envelope.ErrAuth},
		"cut value":          {bind, edit(func(s *envelope.Sealed) { s.Ciphertext = s.Ciphertext[:20] }), envelope.ErrAuth},
		"no value":           {bind, edit(func(s *envelope.Sealed) { s.Ciphertext = nil }), envelope.ErrAuth},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := envelope.OpenValue(kr, c.bind, c.sealed)
			want(t, "open", err, c.want)
			if name != "changed value" && name != "cut value" && name != "no value" { // Rewrap does not look at values
				_, err = envelope.Rewrap(kr, c.bind, c.sealed, 2)
				want(t, "rewrap", err, c.want)
			}
		})
	}
}

func TestRewrap(t *testing.T) {
	kr, _, _ := ring(t)
	v := value("password", "hunter2")
	s, err := envelope.SealValue(kr, bind, 1, v)
	if err != nil {
		t.Fatal(err)
	}
	old := slices.Clone(s.WrappedKey)
	moved, err := envelope.Rewrap(kr, bind, s, 2)
	if err != nil {
		t.Fatal(err)
	}
	if moved.Generation != 2 || !bytes.Equal(moved.Ciphertext, s.Ciphertext) || bytes.Equal(moved.WrappedKey, s.WrappedKey) || !bytes.Equal(old, s.WrappedKey) {
		t.Error("rewrapping changes the wrapped key and nothing else, and not in place")
	}
	if got, err := envelope.OpenValue(kr, bind, moved); err != nil || !equal(got, v) {
		t.Errorf("%v", err)
	}
	_, err = envelope.Rewrap(kr, bind, s, 9)
	want(t, "to a generation that is not there", err, keyring.ErrNoKey)
	_, err = envelope.SealValue(kr, bind, 9, v)
	want(t, "seal with it", err, keyring.ErrNoKey)
}

func TestExecution(t *testing.T) {
	k, err := envelope.NewExecutionKey()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := envelope.SealToExecution(k.Public(), []byte("run 1"), []byte("hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := envelope.OpenExecution(k, []byte("run 1"), sealed); err != nil || string(got.Reveal()) != "hunter2" {
		t.Errorf("%v", err)
	}
	_, err = envelope.OpenExecution(k, []byte("run 2"), sealed)
	want(t, "another run", err, hybrid.ErrOpen)
	_, err = envelope.SealToExecution([]byte("no key"), nil, nil)
	want(t, "no key", err, hybrid.ErrPublicKey)
}

func TestAudit(t *testing.T) {
	kr, root, keys := ring(t)
	pair, err := kr.HPKE(keyring.AuditHPKE, 1)
	if err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func(body string) ([]byte, error){
		"unsealed node": func(body string) ([]byte, error) {
			return envelope.SealAudit(kr, 1, []byte("record"), []byte(body))
		},
		"sealed node": func(body string) ([]byte, error) {
			return envelope.SealAuditTo(pair.Public(), bind.Cluster, 1, []byte("record"), []byte(body))
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, body := range []string{"", "10.0.0.1", strings.Repeat("x", 5000)} {
				s, err := make(body)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := envelope.OpenAudit(kr, []byte("record"), s); err != nil || string(got) != body {
					t.Errorf("%d bytes: %v", len(body), err)
				}
			}
			s, err := make("10.0.0.1")
			if err != nil {
				t.Fatal(err)
			}
			again, err := make("10.0.0.1")
			if err != nil || bytes.Equal(s, again) {
				t.Errorf("the same body twice: %v", err)
			}
			_, err = envelope.OpenAudit(kr, []byte("another record"), s)
			want(t, "another record", err, envelope.ErrAuth)
			other, err := keyring.Open(root, 1, [16]byte{9}, keyring.Static(keys...))
			if err != nil {
				t.Fatal(err)
			}
			_, err = envelope.OpenAudit(other, []byte("record"), s)
			want(t, "another cluster", err, envelope.ErrAuth)
			for i := range s {
				if i > 10 && i < len(s)-20 && i%97 != 0 {
					continue // HPKE bodies are long
				}
				b := slices.Clone(s)
				b[i] ^= 1
				_, err := envelope.OpenAudit(kr, []byte("record"), b)
				if !errors.Is(err, envelope.ErrAuth) && !errors.Is(err, keyring.ErrNoKey) && !errors.Is(err, envelope.ErrAuditBody) {
					t.Errorf("byte %d changed: %v", i, err)
				}
			}
			for i := range min(len(s), 40) {
				if _, err := envelope.OpenAudit(kr, []byte("record"), s[:i]); err == nil {
					t.Errorf("cut to %d bytes it opens", i)
				}
			}
		})
	}
	_, err = envelope.SealAudit(kr, 3, nil, nil)
	want(t, "no such generation", err, keyring.ErrNoKey)
	_, err = envelope.SealAuditTo(nil, bind.Cluster, 1, nil, nil)
	want(t, "no public key", err, hybrid.ErrPublicKey)
}

type vector struct {
	Root             []byte
	Keys             []keyring.WrappedKey
	Sealed, Moved    envelope.Sealed
	Audit, AuditHPKE []byte
	AuditSalted      []byte
}

func TestGolden(t *testing.T) {
	v := golden.Load(t, "envelope.json", func() (v vector) {
		kr, root, keys := ring(t)
		v.Root, v.Keys = root.Bytes().Reveal(), keys
		pair, err := kr.HPKE(keyring.AuditHPKE, 1)
		if err == nil {
			v.Sealed, err = envelope.SealValue(kr, bind, 1, value("user", "reader", "password", "hunter2"))
		}
		if err == nil {
			v.Moved, err = envelope.Rewrap(kr, bind, v.Sealed, 2)
		}
		if err == nil {
			v.Audit, err = envelope.SealAuditScheme1(kr, 1, []byte("record"), []byte("body"))
		}
		if err == nil {
			v.AuditSalted, err = envelope.SealAudit(kr, 1, []byte("record"), []byte("body"))
		}
		if err == nil {
			v.AuditHPKE, err = envelope.SealAuditTo(pair.Public(), bind.Cluster, 1, []byte("record"), []byte("body"))
		}
		if err != nil {
			t.Fatal(err)
		}
		return v
	})
	root, err := keyring.RootFrom(secret.New(v.Root))
	if err != nil {
		t.Fatal(err)
	}
	kr, err := keyring.Open(root, 1, bind.Cluster, keyring.Static(v.Keys...))
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]envelope.Sealed{"sealed": v.Sealed, "rewrapped": v.Moved} {
		if got, err := envelope.OpenValue(kr, bind, s); err != nil || !equal(got, value("user", "reader", "password", "hunter2")) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, s := range map[string][]byte{"audit": v.AuditSalted, "audit of scheme 1": v.Audit, "audit of a sealed node": v.AuditHPKE} {
		if got, err := envelope.OpenAudit(kr, []byte("record"), s); err != nil || string(got) != "body" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzOpenValue(f *testing.F) {
	kr, _, _ := ring(f)
	s, err := envelope.SealValue(kr, bind, 1, value("a", "b"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.Format, s.Generation, s.WrappedKey, []byte("x"))
	f.Add(uint8(0), uint32(0), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, format uint8, gen uint32, key, ciphertext []byte) {
		if _, err := envelope.OpenValue(kr, bind, envelope.Sealed{Format: format, Generation: gen, WrappedKey: key, Ciphertext: ciphertext}); err == nil {
			t.Fatal("opened what was never sealed")
		}
	})
}

func FuzzOpenAudit(f *testing.F) {
	kr, _, _ := ring(f)
	f.Add([]byte{1, 0, 0, 0, 1, 1})
	f.Add([]byte{2, 0, 0, 0, 1, 1})
	f.Add(append([]byte{3, 0, 0, 0, 1}, make([]byte, 60)...))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if _, err := envelope.OpenAudit(kr, nil, sealed); err == nil {
			t.Fatal("opened what was never sealed")
		}
	})
}

func BenchmarkSealValue(b *testing.B) {
	for _, size := range []int{256, 4096} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			kr, _, _ := ring(b)
			v := map[string]secret.Bytes{"value": secret.Random(size)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := envelope.SealValue(kr, bind, 1, v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpenValue(b *testing.B) {
	for _, size := range []int{256, 4096} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			kr, _, _ := ring(b)
			s, err := envelope.SealValue(kr, bind, 1, map[string]secret.Bytes{"value": secret.Random(size)})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := envelope.OpenValue(kr, bind, s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSealAudit(b *testing.B) {
	kr, _, _ := ring(b)
	record, body := make([]byte, 60), make([]byte, 150)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := envelope.SealAudit(kr, 1, record, body); err != nil {
			b.Fatal(err)
		}
	}
}
