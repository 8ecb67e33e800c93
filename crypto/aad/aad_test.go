package aad_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"testing"

	"github.com/hizo/hizo/crypto/aad"
)

func TestTuple(t *testing.T) {
	got := aad.Tuple("ab", []byte("c"), nil, []byte{0xff})
	if want := "00000002" + "6162" + "00000001" + "63" + "00000000" + "00000001" + "ff"; hex.EncodeToString(got) != want {
		t.Errorf("got %x, want %s", got, want)
	}
	b := aad.AppendString(nil, "ab")
	b = aad.AppendByte(b, 7)
	b = aad.AppendUint32(b, 8)
	b = aad.AppendUint64(b, 9)
	if want := aad.Tuple("ab", []byte{7}, []byte{0, 0, 0, 8}, []byte{0, 0, 0, 0, 0, 0, 0, 9}); !bytes.Equal(b, want) {
		t.Errorf("appended %x, want %x", b, want)
	}
}

// parse inverts Tuple. That it can is why no two tuples encode alike.
func parse(b []byte) (items [][]byte, ok bool) {
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, false
		}
		n := binary.BigEndian.Uint32(b)
		if b = b[4:]; uint64(n) > uint64(len(b)) {
			return nil, false
		}
		items, b = append(items, b[:n]), b[n:]
	}
	return items, len(items) > 0
}

func FuzzTupleIsInjective(f *testing.F) {
	f.Add("domain", []byte("vault"), []byte("path"), []byte{})
	f.Add("", []byte{}, []byte{0, 0, 0, 0}, []byte("x"))
	f.Fuzz(func(t *testing.T, domain string, a, b, c []byte) {
		items, ok := parse(aad.Tuple(domain, a, b, c))
		if !ok || !slices.EqualFunc(items, [][]byte{[]byte(domain), a, b, c}, bytes.Equal) {
			t.Fatalf("%q %x %x %x came back as %x", domain, a, b, c, items)
		}
	})
}
