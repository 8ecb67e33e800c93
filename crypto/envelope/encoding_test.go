package envelope

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/secret"
)

// SealAuditScheme1 makes what older logs hold.
func SealAuditScheme1(kr *keyring.Keyring, generation uint32, bind, body []byte) ([]byte, error) {
	sealed, err := kr.Seal(keyring.Audit, generation, salted(body), auditAAD(kr.Cluster(), auditKeyring, generation, bind))
	return auditBody(auditKeyring, generation, sealed), err
}

func TestValueEncoding(t *testing.T) {
	b := encodeValue(map[string]secret.Bytes{"b": secret.New([]byte("22")), "a": secret.New(nil)})
	if want := "02" + "0161" + "00" + "0162" + "023232"; hex.EncodeToString(b) != want {
		t.Errorf("%x, want %s", b, want)
	}
	for name, s := range map[string]string{
		"empty": "", "count beyond": "0201610000", "field cut": "01016103aabb", "name cut": "010561", "trailing": "0000",
		"names not sorted": "02016200016100", "name twice": "02016100016100", "long form of a number": "8100016100",
		"huge count": "ffffffffffffffffff01", "huge field": "010161ffffffffffffffffff01", "number without end": "ffffffffffffffffffffff",
	} {
		in, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := decodeValue(in); !errors.Is(err, ErrEncoding) {
			t.Errorf("%s: %d fields, %v", name, len(v), err)
		}
	}
}

// The value is bound by itself as well: a data key that someone with the vault's key wraps for another
// path does not carry the value there.
func TestValueIsBoundWithoutItsDataKey(t *testing.T) {
	var w keyring.WrappedKey
	kr, err := keyring.Open(keyring.NewRoot(), 1, [16]byte{1}, func(string, uint32) (keyring.WrappedKey, error) { return w, nil })
	if err != nil {
		t.Fatal(err)
	}
	if w, err = kr.Generate(keyring.Vault("v"), 1); err != nil {
		t.Fatal(err)
	}
	here, there := Bind{[16]byte{1}, "v", "here", 1}, Bind{[16]byte{1}, "v", "there", 1}
	s, err := SealValue(kr, here, 1, map[string]secret.Bytes{"a": secret.New([]byte("b"))})
	if err != nil {
		t.Fatal(err)
	}
	key, err := openDataKey(kr, here, s)
	if err != nil {
		t.Fatal(err)
	}
	if s.WrappedKey, err = kr.Seal(keyring.Vault("v"), 1, key, there.dataKey(nil, Format, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := openDataKey(kr, there, s); err != nil {
		t.Fatal(err) // then this test shows nothing
	}
	if _, err := OpenValue(kr, there, s); !errors.Is(err, ErrAuth) {
		t.Errorf("opened elsewhere: %v", err)
	}
}

func FuzzValueEncoding(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte("\x02\x01a\x00\x01b\x0222"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeValue(bytes.Clone(b))
		if err != nil {
			return
		}
		if again := encodeValue(v); !bytes.Equal(again, b) {
			t.Fatalf("%x decodes and encodes as %x", b, again)
		}
	})
}
