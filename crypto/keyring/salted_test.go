package keyring

import (
	"bytes"
	"errors"
	"testing"
)

// One key encrypts 2^31 messages at most; then, and in every other keyring, comes another salt.
func TestSaltsChange(t *testing.T) {
	root := NewRoot()
	var w WrappedKey
	open := func() *Keyring {
		kr, err := Open(root, 1, [16]byte{1}, func(string, uint32) (WrappedKey, error) { return w, nil })
		if err != nil {
			t.Fatal(err)
		}
		return kr
	}
	kr := open()
	var err error
	if w, err = kr.Generate(Audit, 1); err != nil {
		t.Fatal(err)
	}
	seal := func(kr *Keyring) []byte {
		t.Helper()
		s, err := kr.SealSalted(Audit, 1, []byte("body"), []byte("here"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a, b := seal(kr), seal(kr)
	if !bytes.Equal(a[:saltSize], b[:saltSize]) || bytes.Equal(a, b) {
		t.Error("a salt for each message, or the same nonce twice")
	}
	k, err := kr.get(Audit, 1)
	if err != nil {
		t.Fatal(err)
	}
	k.salted.current.Load().used.Store(saltMessages - 1)
	last, next := seal(kr), seal(kr)
	if !bytes.Equal(last[:saltSize], a[:saltSize]) || bytes.Equal(next[:saltSize], a[:saltSize]) {
		t.Error("the salt did not change after its last message")
	}
	other := open()
	elsewhere := seal(other)
	if bytes.Equal(elsewhere[:saltSize], next[:saltSize]) {
		t.Error("two runs share a salt")
	}
	for _, s := range [][]byte{a, b, last, next, elsewhere} {
		for _, kr := range []*Keyring{kr, other} {
			if plain, err := kr.OpenSalted(Audit, 1, s, []byte("here")); err != nil || string(plain) != "body" {
				t.Errorf("%q, %v", plain, err)
			}
		}
	}
	if _, err := kr.OpenSalted(Audit, 1, a, []byte("there")); !errors.Is(err, ErrAuth) {
		t.Errorf("opened elsewhere: %v", err)
	}
	a[0] ^= 1
	if _, err := kr.OpenSalted(Audit, 1, a, []byte("here")); !errors.Is(err, ErrAuth) {
		t.Errorf("opened under another salt: %v", err)
	}
	for i := range 2 * saltsKept { // whoever makes up salts fills no memory
		a[1], a[2] = byte(i), byte(i>>8)
		_, _ = kr.OpenSalted(Audit, 1, a, nil)
	}
	if n := len(k.salted.kept); n > saltsKept {
		t.Errorf("%d salts are kept", n)
	}
	kr.Close()
	if _, err := kr.SealSalted(Audit, 1, nil, nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}
