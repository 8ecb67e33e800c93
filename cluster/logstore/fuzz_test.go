package logstore

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
)

// Whatever stands in the file: an entry is what was sealed, or it is refused.
func FuzzEntry(f *testing.F) {
	for _, e := range seal([]*raft.Log{entry(7, 1, "data"), {Index: 7, Term: 1 << 60, Type: raft.LogConfiguration, Extensions: []byte("ext")}}) {
		var b bytes.Buffer
		if err := codec.NewEncoder(&b, &codec.MsgpackHandle{}).Encode(e); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte{})
	f.Add([]byte{0x86, 0xa4, 'D', 'a', 't', 'a', 0xc6, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var held marks
		if err := inspectEntry("raft.db", binary.BigEndian.AppendUint64(nil, 7), b, &held); err != nil {
			if len(held.list) != 0 {
				t.Fatal("a refused entry was counted")
			}
			return
		}
		var e raft.Log
		if err := codec.NewDecoderBytes(b, &codec.MsgpackHandle{}).Decode(&e); err != nil {
			t.Fatal(err)
		}
		extensions, sum, err := cutSum(e.Extensions)
		if err != nil || e.Index != 7 || entrySum(&e, extensions) != sum {
			t.Fatalf("accepted %+v", e)
		}
	})
}

func FuzzStableValue(f *testing.F) {
	f.Add([]byte("CurrentTerm"), appendSum([]byte("value"), stableSum([]byte("CurrentTerm"), []byte("value"))))
	f.Add([]byte("LastVote"), []byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, key, sealed []byte) {
		value, err := openStable("raft.db", key, sealed)
		if err == nil && !bytes.Equal(appendSum(bytes.Clone(value), stableSum(key, value)), sealed) {
			t.Fatalf("%q was accepted as %q", sealed, value)
		}
	})
}
