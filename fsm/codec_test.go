package fsm

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func commandSamples() []Command {
	long := strings.Repeat("x", 300)
	return []Command{
		{},
		{Kind: KindRead, Principal: "user/alice", Request: [16]byte{1, 2, 3}, Fingerprint: []byte{}, Term: 1 << 40},
		{
			Kind: KindSecretPut, Principal: long, Fingerprint: []byte("f"), Term: 200,
			Reads: []Read{{"a", 0}, {long, 127}, {strings.Repeat("y", 40), 128}, {"b", 1 << 16}, {"c", 1 << 63}},
			Audits: []Audit{
				{}, {Action: "reveal", Resource: long, Decision: Denied, Policies: []string{}, Detail: "d", Count: 70000, Generation: 9},
				{Policies: []string{"p", long}, Sealed: bytes.Repeat([]byte{7}, 300)},
			},
			Body: bytes.Repeat([]byte{1}, 70000),
		},
		{Reads: make([]Read, 20), Audits: make([]Audit, 17), Body: []byte{}},
	}
}

// The hand-written codec of the hot path and the library are one format.
func TestWireEqualsLibrary(t *testing.T) {
	for i, c := range commandSamples() {
		c.Format = CommandFormat
		want := encode(CommandFormat, &c)
		if got := EncodeCommand(c); !bytes.Equal(got, want) {
			t.Errorf("command %d: wrote\n%.200x, the library\n%.200x", i, got, want)
		}
		var fast, library Command
		if !readCommand(want[1:], &fast) {
			t.Errorf("command %d: left to the library", i)
		}
		if err := decode(want[1:], &library); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(fast, library) {
			t.Errorf("command %d: read\n%+v, the library\n%+v", i, fast, library)
		}
	}
	for i, e := range []Entry{
		{}, {Time: 1}, {Time: 1 << 40, Records: [][]byte{}}, {Time: 1 << 62, Records: [][]byte{nil, {}, {1}, make([]byte, 70000)}},
		{Time: -5}, {Records: make([][]byte, 70)},
	} {
		want := encode(EntryFormat, &e)
		if got := EncodeEntry(e); !bytes.Equal(got, want) {
			t.Errorf("entry %d: wrote %.50x, the library %.50x", i, got, want)
		}
		got, err := DecodeEntry(want)
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("entry %d: read another one, %v", i, err)
		}
	}
	for i, b := range []ReadVersions{{}, {Refs: []Ref{}}, {Refs: []Ref{{"v", "p", 0}, {"v", strings.Repeat("p", 500), 1 << 31}}}} {
		data := encode(BodyFormat, &b)
		var fast ReadVersions
		if !readReadVersions(data[1:], &fast) || !reflect.DeepEqual(fast, b) {
			t.Errorf("read %d: %+v", i, fast)
		}
	}
}

// Whatever bytes come, the fast readers agree with the library or leave it to it.
func FuzzDecodeCommand(f *testing.F) {
	for _, c := range commandSamples() {
		if data := EncodeCommand(c); len(data) < 4096 {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := DecodeCommand(data)
		if err != nil {
			return
		}
		var library Command
		if err := decode(data[1:], &library); err != nil {
			t.Fatalf("read what the library refuses: %v", err)
		}
		library.Format = got.Format
		if !reflect.DeepEqual(got, library) {
			t.Fatalf("read\n%+v, the library\n%+v", got, library)
		}
		again, err := DecodeCommand(EncodeCommand(got))
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Fatalf("changed on the way: %+v, %v", again, err)
		}
		if _, err := DecodeBody(got.Kind, got.Body); err != nil {
			return
		}
	})
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add(EncodeEntry(Entry{Time: 5, Records: [][]byte{{1, 2}, nil}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := DecodeEntry(data)
		if err != nil {
			return
		}
		var library Entry
		if err := decode(data[1:], &library); err != nil {
			t.Fatalf("read what the library refuses: %v", err)
		}
		if !reflect.DeepEqual(got, library) {
			t.Fatalf("read %+v, the library %+v", got, library)
		}
	})
}

func FuzzDecodeReadVersions(f *testing.F) {
	f.Add(EncodeBody(KindRead, ReadVersions{Refs: []Ref{{"v", "p", 3}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := DecodeBody(KindRead, data)
		if err != nil {
			return
		}
		var library ReadVersions
		if err := decode(data[1:], &library); err != nil || !reflect.DeepEqual(got, &library) {
			t.Fatalf("read %+v, the library %+v, %v", got, library, err)
		}
	})
}

// FuzzDecodeBody runs every kind's body through its decoder.
func FuzzDecodeBody(f *testing.F) {
	for _, kind := range Kinds() {
		if body, _ := NewBody(kind); body != nil {
			f.Add(uint16(kind), EncodeBody(kind, body))
		}
	}
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		body, err := DecodeBody(Kind(kind), data)
		if err != nil || body == nil {
			return
		}
		again, err := DecodeBody(Kind(kind), EncodeBody(Kind(kind), body))
		if err != nil || !reflect.DeepEqual(again, body) {
			t.Fatalf("changed on the way: %+v, then %+v, %v", body, again, err)
		}
	})
}

func FuzzParseLeaf(f *testing.F) {
	f.Add(AuditRecord{Seq: 1, Index: 300, Time: 1 << 40, Principal: "user/a", Policies: []string{"p"}, Sealed: []byte{1}}.LeafBytes())
	f.Add(AuditRecord{}.LeafBytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseLeaf(data)
		if err != nil {
			return
		}
		if !bytes.Equal(r.LeafBytes(), data) {
			t.Fatalf("two forms of one record: %x and %x", data, r.LeafBytes())
		}
	})
}

func FuzzDecodeManifest(f *testing.F) {
	m := manifest{Index: 5, Files: []manifestFile{{Name: "000001.sst", Size: 3, Sum: make([]byte, 32)}}}
	f.Add(lead(&m, 5, 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, _, _, err := readLead(bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, file := range m.Files {
			if strings.ContainsAny(file.Name, "/\x00") || file.Name == ".." || file.Size < 0 {
				t.Fatalf("file %+v", file)
			}
		}
	})
}

func FuzzDecodeMeta(f *testing.F) {
	f.Add(encodeMeta(&snapshot{ID: "1-2-3", Index: 2, Term: 1}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if snap, err := decodeMeta(data); err == nil && !bytes.Equal(encodeMeta(snap), data) {
			t.Fatalf("two forms of one snapshot: %x", data)
		}
	})
}

func TestDecodersRefuse(t *testing.T) {
	good := EncodeCommand(commandSamples()[2])
	entry := EncodeEntry(Entry{Time: 1, Records: [][]byte{good}})
	deep := append([]byte{BodyFormat}, bytes.Repeat([]byte{0x91}, 100_000)...)
	huge := []byte{EntryFormat, 0x92, 0x01, 0xdd, 0xff, 0xff, 0xff, 0xff}
	command := func(data []byte) error { _, err := DecodeCommand(data); return err }
	entries := func(data []byte) error { _, err := DecodeEntry(data); return err }
	body := func(kind Kind) func([]byte) error {
		return func(data []byte) error { _, err := DecodeBody(kind, data); return err }
	}
	for _, c := range []struct {
		name    string
		decode  func([]byte) error
		data    []byte
		unknown bool
	}{
		{"empty command", command, nil, false},
		{"truncated command", command, good[:len(good)-1], false},
		{"command with a tail", command, append(bytes.Clone(good), 0), false},
		{"command too large", command, make([]byte, MaxRecord+1), false},
		{"command of another format", command, append([]byte{9}, good[1:]...), true},
		{"empty entry", entries, nil, false},
		{"truncated entry", entries, entry[:len(entry)-1], false},
		{"entry of another format", entries, append([]byte{9}, entry[1:]...), true},
		{"entry that claims 2^32 records", entries, huge, false},
		{"entry of too many records", entries, EncodeEntry(Entry{Records: make([][]byte, MaxRecords+1)}), false},
		{"body of an unknown kind", body(9999), []byte{1}, true},
		{"body of another format", body(KindRead), []byte{9, 0x91, 0xc0}, true},
		{"body where none belongs", body(KindRecord), []byte{1}, false},
		{"empty body", body(KindRead), nil, false},
		{"deep body", body(KindGenesis), deep, false},
		{"body with one field more", body(KindSealFlag), []byte{1, 0x92, 0xc3, 0xc3}, false},
	} {
		err := c.decode(c.data)
		_, unknown := errors.AsType[*UnknownFormatError](err)
		if err == nil || unknown != c.unknown || !unknown && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
