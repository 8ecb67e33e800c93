package hybrid_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/internal/golden"
	"github.com/hizo/hizo/crypto/secret"
)

func seed() secret.Bytes { return secret.New(bytes.Repeat([]byte{3}, 32)) }

func derive(t testing.TB) *hybrid.Key {
	t.Helper()
	k, err := hybrid.DeriveKey(seed())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSealOpen(t *testing.T) {
	k, err := hybrid.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := hybrid.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if len(k.Public()) != hybrid.PublicSize || bytes.Equal(k.Public(), other.Public()) {
		t.Fatal("public keys")
	}
	for _, n := range []int{0, 1, 32, 5000} {
		plain := bytes.Repeat([]byte{9}, n)
		sealed, err := hybrid.Seal(k.Public(), []byte("info"), plain)
		if err != nil {
			t.Fatal(err)
		}
		if len(sealed) != n+hybrid.Overhead {
			t.Errorf("%d bytes sealed to %d", n, len(sealed))
		}
		got, err := k.Open(sealed, []byte("info"))
		if err != nil || !bytes.Equal(got.Reveal(), plain) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	sealed, err := hybrid.Seal(k.Public(), []byte("info"), []byte("plain"))
	if err != nil {
		t.Fatal(err)
	}
	refuse := func(what string, k *hybrid.Key, sealed, info []byte) {
		t.Helper()
		if _, err := k.Open(sealed, info); !errors.Is(err, hybrid.ErrOpen) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refuse("another key", other, sealed, []byte("info"))
	refuse("another info", k, sealed, []byte("other"))
	for _, i := range []int{0, 1, 500, 1088, 1089, 1120, 1121, len(sealed) - 1} {
		b := slices.Clone(sealed)
		b[i] ^= 1
		refuse("a changed bit", k, b, []byte("info"))
		refuse("cut short", k, sealed[:i], []byte("info"))
	}
}

func TestPublicKeys(t *testing.T) {
	k := derive(t)
	if err := hybrid.CheckPublic(k.Public()); err != nil {
		t.Error(err)
	}
	unreduced := slices.Clone(k.Public())
	copy(unreduced, bytes.Repeat([]byte{0xff}, 3)) // FIPS 203, section 7.2: coefficients are below q
	for what, b := range map[string][]byte{
		"empty": nil, "short": k.Public()[1:], "long": append(slices.Clone(k.Public()), 0), "not reduced": unreduced,
	} {
		if err := hybrid.CheckPublic(b); !errors.Is(err, hybrid.ErrPublicKey) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := hybrid.Seal(b, nil, nil); !errors.Is(err, hybrid.ErrPublicKey) {
			t.Errorf("seal to %s: %v", what, err)
		}
	}
	if _, err := hybrid.DeriveKey(secret.Random(31)); err == nil {
		t.Error("a seed of 31 bytes is taken")
	}
}

func TestGolden(t *testing.T) {
	type vector struct{ Public, Sealed []byte }
	v := golden.Load(t, "vector.json", func() vector {
		sealed, err := hybrid.Seal(derive(t).Public(), []byte("info"), []byte("plain"))
		if err != nil {
			t.Fatal(err)
		}
		return vector{derive(t).Public(), sealed}
	})
	k := derive(t)
	if !bytes.Equal(k.Public(), v.Public) {
		t.Error("the seed derives another key now")
	}
	if got, err := k.Open(v.Sealed, []byte("info")); err != nil || string(got.Reveal()) != "plain" {
		t.Errorf("%v", err)
	}
}

func FuzzOpen(f *testing.F) {
	k := derive(f)
	f.Add([]byte{}, []byte{})
	f.Add(make([]byte, hybrid.Overhead), []byte("info"))
	f.Fuzz(func(t *testing.T, sealed, info []byte) {
		if _, err := k.Open(sealed, info); err == nil {
			t.Fatal("opened what was never sealed")
		}
	})
}

func FuzzPublicKey(f *testing.F) {
	f.Add(derive(f).Public())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, public []byte) {
		sealed, err := hybrid.Seal(public, nil, []byte("x"))
		if (err == nil) != (hybrid.CheckPublic(public) == nil) {
			t.Fatalf("CheckPublic and Seal disagree: %v", err)
		}
		if err == nil && len(sealed) != hybrid.Overhead+1 {
			t.Fatalf("sealed to %d bytes", len(sealed))
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	public, plain := derive(b).Public(), make([]byte, 256)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := hybrid.Seal(public, nil, plain); err != nil {
			b.Fatal(err)
		}
	}
}
