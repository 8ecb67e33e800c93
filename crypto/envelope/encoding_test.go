package envelope

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/hizo/hizo/crypto/secret"
)

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
