package aesgcm_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"slices"
	"testing"

	"github.com/hizo/hizo/crypto/aesgcm"
)

var key = bytes.Repeat([]byte{7}, aesgcm.KeySize)

func newCipher(t testing.TB) *aesgcm.Cipher {
	c, err := aesgcm.New(key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFormat(t *testing.T) {
	c := newCipher(t)
	sealed := c.Seal([]byte("plain"), []byte("here"))
	if len(sealed) != 5+aesgcm.Overhead || sealed[0] != 1 {
		t.Fatalf("%d bytes of format %d", len(sealed), sealed[0])
	}
	// It is AES-256-GCM with the nonce in front, as others implement it.
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := gcm.Open(nil, sealed[1:13], sealed[13:], []byte("here")); err != nil || string(plain) != "plain" {
		t.Errorf("%q, %v", plain, err)
	}
	if bytes.Equal(sealed, c.Seal([]byte("plain"), []byte("here"))) {
		t.Error("the same ciphertext twice")
	}
}

func TestOpenRefuses(t *testing.T) {
	c := newCipher(t)
	sealed := c.Seal([]byte("plain"), []byte("here"))
	if plain, err := c.Open(sealed, []byte("here")); err != nil || string(plain) != "plain" {
		t.Fatalf("%q, %v", plain, err)
	}
	refuse := func(what string, c *aesgcm.Cipher, sealed, aad []byte) {
		t.Helper()
		if _, err := c.Open(sealed, aad); !errors.Is(err, aesgcm.ErrAuth) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range sealed {
		b := slices.Clone(sealed)
		b[i] ^= 1
		refuse("a changed bit", c, b, []byte("here"))
		refuse("cut short", c, sealed[:i], []byte("here"))
	}
	refuse("longer", c, append(slices.Clone(sealed), 0), []byte("here"))
	refuse("another aad", c, sealed, []byte("there"))
	refuse("no aad", c, sealed, nil)
	other, err := aesgcm.New(make([]byte, aesgcm.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	refuse("another key", other, sealed, []byte("here"))
}

func TestKeySizes(t *testing.T) {
	for _, n := range []int{0, 16, 24, 31, 33} {
		if _, err := aesgcm.New(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes is taken", n)
		}
	}
}

func FuzzOpen(f *testing.F) {
	c := newCipher(f)
	f.Add(c.Seal(nil, nil), []byte{})
	f.Add([]byte{}, []byte("x"))
	f.Fuzz(func(t *testing.T, sealed, aad []byte) {
		plain, err := c.Open(sealed, aad)
		if err == nil && len(plain) != 0 {
			t.Fatal("opened what was never sealed")
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	c, plain, aad := newCipher(b), make([]byte, 256), make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		c.Seal(plain, aad)
	}
}

func BenchmarkOpen(b *testing.B) {
	c, aad := newCipher(b), make([]byte, 64)
	sealed := c.Seal(make([]byte, 256), aad)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Open(sealed, aad); err != nil {
			b.Fatal(err)
		}
	}
}
