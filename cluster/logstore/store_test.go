package logstore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func entry(index, term uint64, data string) *raft.Log {
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: []byte(data)}
}

func entries(from, to, term uint64) []*raft.Log {
	var list []*raft.Log
	for i := from; i <= to; i++ {
		list = append(list, entry(i, term, fmt.Sprintf("entry %d of term %d", i, term)))
	}
	return list
}

// snap is a snapshot store as far as Config.Snapshot sees it.
type snap struct{ index, term atomic.Uint64 }

func (s *snap) publish(index, term uint64) { s.term.Store(term); s.index.Store(index) }
func (s *snap) newest() (uint64, uint64)   { return s.index.Load(), s.term.Load() }

func open(t *testing.T, path string, cfg Config) *Store {
	t.Helper()
	if cfg.Exit == nil {
		cfg.Exit = func(err error) { panic("unexpected exit: " + err.Error()) }
	}
	s, err := Open(path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func path(t *testing.T) string { return filepath.Join(t.TempDir(), "raft.db") }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// held lists the indexes that GetLog finds in lo..hi, with their terms.
func held(t *testing.T, s *Store, lo, hi uint64) string {
	t.Helper()
	var b strings.Builder
	for i := lo; i <= hi; i++ {
		var e raft.Log
		switch err := s.GetLog(i, &e); {
		case err == raft.ErrLogNotFound: // raft compares with ==
			fmt.Fprintf(&b, "%d:- ", i)
		case err != nil:
			t.Fatalf("GetLog(%d): %v", i, err)
		case e.Index != i:
			t.Fatalf("GetLog(%d) answered entry %d", i, e.Index)
		default:
			fmt.Fprintf(&b, "%d:%d ", i, e.Term)
		}
	}
	return strings.TrimSpace(b.String())
}

func TestAppendReadReopen(t *testing.T) {
	p := path(t)
	s := open(t, p, Config{})
	if first, err := s.FirstIndex(); first != 0 || err != nil {
		t.Fatalf("FirstIndex of an empty log = %d, %v", first, err)
	}
	want := &raft.Log{Index: 1, Term: 2, Type: raft.LogConfiguration, Data: []byte("data"), Extensions: []byte("ext"), AppendedAt: time.Unix(1700000000, 0).UTC()}
	must(t, s.StoreLog(want))
	must(t, s.StoreLogs(entries(2, 5, 3)))
	if string(want.Extensions) != "ext" {
		t.Fatalf("StoreLog changed the caller's entry: %q", want.Extensions)
	}
	check := func(s *Store, how string) {
		t.Helper()
		var got raft.Log
		must(t, s.GetLog(1, &got))
		if got.Index != 1 || got.Term != 2 || got.Type != raft.LogConfiguration || string(got.Data) != "data" ||
			string(got.Extensions) != "ext" || !got.AppendedAt.Equal(want.AppendedAt) {
			t.Errorf("%s: got %+v", how, got)
		}
		if got := held(t, s, 1, 6); got != "1:2 2:3 3:3 4:3 5:3 6:-" {
			t.Errorf("%s: log is %s", how, got)
		}
		if last, err := s.LastIndex(); last != 5 || err != nil {
			t.Errorf("%s: LastIndex = %d, %v", how, last, err)
		}
	}
	check(s, "from the cache")
	size := s.Bytes()
	must(t, s.Close())
	s = open(t, p, Config{})
	check(s, "reopened")
	if s.Bytes() != size || size == 0 {
		t.Errorf("Bytes = %d reopened, %d before", s.Bytes(), size)
	}
	if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the file: %v, %v; want 0600", info.Mode(), err)
	}
	if _, err := os.Stat(p + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary file is still there: %v", err)
	}
}

func TestStableStore(t *testing.T) {
	p := path(t)
	s := open(t, p, Config{})
	for _, key := range [][]byte{keyCurrentTerm, keyLastVoteTerm, keyLastVoteCand, []byte("other")} {
		if _, err := s.Get(key); err == nil || err.Error() != "not found" { // raft compares the text
			t.Errorf("Get(%s) of an empty store: %v", key, err)
		}
		if _, err := s.GetUint64(key); err == nil || err.Error() != "not found" {
			t.Errorf("GetUint64(%s) of an empty store: %v", key, err)
		}
	}
	must(t, s.SetUint64(keyCurrentTerm, 7))
	must(t, s.SetUint64(keyLastVoteTerm, 7))
	must(t, s.Set(keyLastVoteCand, []byte("node-b")))
	must(t, s.Set([]byte("other"), nil))
	must(t, s.Close())
	s = open(t, p, Config{})
	if term, err := s.GetUint64(keyCurrentTerm); term != 7 || err != nil {
		t.Errorf("CurrentTerm = %d, %v", term, err)
	}
	assertVote(t, s, 7, "node-b")
	if v, err := s.Get([]byte("other")); len(v) != 0 || err != nil {
		t.Errorf("other = %q, %v", v, err)
	}
	if err := s.Set(keyLastVoteCand, []byte("node-c")); !errors.Is(err, errVoteOrder) {
		t.Errorf("a candidate without a term: %v", err)
	}
	assertVote(t, s, 7, "node-b")
}

func assertVote(t *testing.T, s *Store, term uint64, candidate string) {
	t.Helper()
	gotTerm, err := s.GetUint64(keyLastVoteTerm)
	if err != nil || gotTerm != term {
		t.Errorf("LastVoteTerm = %d, %v; want %d", gotTerm, err, term)
	}
	got, err := s.Get(keyLastVoteCand)
	if err != nil || string(got) != candidate {
		t.Errorf("LastVoteCand = %q, %v; want %q", got, err, candidate)
	}
}

// A crash between raft's two writes of a vote leaves the old pair, never the new
// term with the old candidate.
func TestVoteSurvivesCrashBetweenItsParts(t *testing.T) {
	p := path(t)
	s := open(t, p, Config{})
	must(t, s.SetUint64(keyLastVoteTerm, 1))
	must(t, s.Set(keyLastVoteCand, []byte("node-a")))
	must(t, s.SetUint64(keyLastVoteTerm, 2))
	assertVote(t, s, 1, "node-a") // not visible before it is durable
	must(t, s.Close())
	s = open(t, p, Config{})
	assertVote(t, s, 1, "node-a")
	if err := s.Set(keyLastVoteCand, []byte("node-b")); !errors.Is(err, errVoteOrder) {
		t.Errorf("a candidate whose term was lost in the crash: %v", err)
	}
}

func TestSnapshotTermAnswersAtItsIndex(t *testing.T) {
	tests := []struct {
		name        string
		log         []*raft.Log
		index, term uint64
		want        string // 1..8 right after the snapshot is published
		after       string // 1..8 after the next append, of entry 9 in the snapshot's term
	}{
		{"log agrees", entries(1, 8, 3), 5, 3, "1:3 2:3 3:3 4:3 5:3 6:3 7:3 8:3", "1:3 2:3 3:3 4:3 5:3 6:3 7:3 8:3"},
		{"divergent tail over the snapshot", entries(1, 8, 2), 5, 3, "1:- 2:- 3:- 4:- 5:3 6:2 7:2 8:2", "1:- 2:- 3:- 4:- 5:3 6:2 7:2 8:2"},
		{"log ends before the snapshot", entries(1, 3, 2), 5, 3, "1:- 2:- 3:- 4:- 5:3 6:- 7:- 8:-", "1:- 2:- 3:- 4:- 5:3 6:- 7:- 8:-"},
		{"restore beyond the end", entries(1, 4, 3), 5, 3, "1:- 2:- 3:- 4:- 5:3 6:- 7:- 8:-", "1:- 2:- 3:- 4:- 5:3 6:- 7:- 8:-"},
		{"empty log", nil, 5, 3, "1:- 2:- 3:- 4:- 5:3 6:- 7:- 8:-", "1:- 2:- 3:- 4:- 5:3 6:- 7:- 8:-"},
		{"index 1 has no stand-in", nil, 1, 3, "1:- 2:- 3:- 4:- 5:- 6:- 7:- 8:-", "1:- 2:- 3:- 4:- 5:- 6:- 7:- 8:-"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := path(t)
			var newest snap
			s := open(t, p, Config{Snapshot: newest.newest})
			must(t, s.StoreLogs(tt.log))
			newest.publish(tt.index, tt.term)
			if got := held(t, s, 1, 8); got != tt.want {
				t.Errorf("published:\n got %s\nwant %s", got, tt.want)
			}
			must(t, s.StoreLog(entry(9, tt.term, "next")))
			if got := held(t, s, 1, 8); got != tt.after {
				t.Errorf("after an append:\n got %s\nwant %s", got, tt.after)
			}
			// Void entries are really gone, not only hidden.
			must(t, s.Close())
			s = open(t, p, Config{Snapshot: newest.newest})
			if got := held(t, s, 1, 8); got != tt.after {
				t.Errorf("reopened:\n got %s\nwant %s", got, tt.after)
			}
			must(t, s.Close())
			s = open(t, p, Config{})
			if got, void := held(t, s, 1, tt.index-1), strings.Contains(tt.after, "4:-"); void && strings.Contains(got, ":2") {
				t.Errorf("void entries are still in the file: %s", got)
			}
		})
	}
}

// A crash right after a received snapshot was published: the log ends before it.
func TestOpenDropsWhatTheSnapshotMadeVoid(t *testing.T) {
	p := path(t)
	s := open(t, p, Config{})
	must(t, s.StoreLogs(entries(1, 300, 2)))
	must(t, s.Close())
	s = open(t, p, Config{Snapshot: func() (uint64, uint64) { return 500, 4 }})
	if last, err := s.LastIndex(); last != 0 || err != nil {
		t.Errorf("LastIndex = %d, %v; raft would ask for an entry that is hidden", last, err)
	}
	if s.Bytes() != 0 {
		t.Errorf("Bytes = %d", s.Bytes())
	}
}

// A leader sends entry S only after reading S-1: where it cannot read the one it
// must not get a stand-in for the other, or a restored state would be replaced by
// an empty entry on its followers.
func TestStandInIsNeverReachableFromItsPredecessor(t *testing.T) {
	var newest snap
	s := open(t, path(t), Config{Snapshot: newest.newest})
	must(t, s.StoreLogs(entries(1, 9, 1)))
	newest.publish(10, 1) // a user's Restore: one beyond the end
	var e raft.Log
	if err := s.GetLog(9, &e); err != raft.ErrLogNotFound {
		t.Errorf("the predecessor of the stand-in is readable: %v", err)
	}
	must(t, s.GetLog(10, &e))

	// Own snapshot and compaction: the entry at S stays itself.
	newest.publish(0, 0)
	s = open(t, path(t), Config{Snapshot: newest.newest})
	must(t, s.StoreLogs(entries(1, 20, 1)))
	newest.publish(10, 1)
	must(t, s.DeleteRange(1, 15))
	must(t, s.GetLog(10, &e))
	if string(e.Data) != "entry 10 of term 1" {
		t.Errorf("entry at the snapshot's index was compacted away; got %+v", e)
	}
	if got := held(t, s, 9, 12); got != "9:- 10:1 11:1 12:1" {
		t.Errorf("compaction past the snapshot's index left %s", got)
	}
}

func TestCacheDoesNotHideTheSnapshot(t *testing.T) {
	var newest snap
	s := open(t, path(t), Config{Snapshot: newest.newest})
	must(t, s.StoreLogs(entries(1, 20, 2))) // all of it is in the cache
	newest.publish(10, 3)
	if got := held(t, s, 9, 11); got != "9:- 10:3 11:2" {
		t.Errorf("got %s", got)
	}
}

func TestPrefixDeleteGoesInAscendingChunks(t *testing.T) {
	var rec *recorder
	s := open(t, path(t), Config{wrap: func(b backend) backend { rec = &recorder{backend: b}; return rec }})
	must(t, s.StoreLogs(entries(1, 1000, 1)))
	before := s.Bytes()
	must(t, s.DeleteRange(1, 700))
	var at uint64 = 1
	for _, r := range rec.ranges {
		if r[0] != at || r[1]-r[0] >= deleteChunk {
			t.Fatalf("chunk %v, want it to start at %d and to be at most %d long", r, at, deleteChunk)
		}
		at = r[1] + 1
	}
	if at != 701 || len(rec.ranges) != 6 {
		t.Errorf("deleted up to %d in %d chunks", at-1, len(rec.ranges))
	}
	if first, _ := s.FirstIndex(); first != 701 {
		t.Errorf("FirstIndex = %d", first)
	}
	if s.Bytes() >= before || s.Bytes() != s.BytesAfter(700) {
		t.Errorf("Bytes %d before, %d after, %d beyond 700", before, s.Bytes(), s.BytesAfter(700))
	}
}

func TestTailDeleteIsOneTransaction(t *testing.T) {
	var rec *recorder
	s := open(t, path(t), Config{wrap: func(b backend) backend { rec = &recorder{backend: b}; return rec }})
	must(t, s.StoreLogs(entries(1, 1000, 1)))
	must(t, s.DeleteRange(300, 1000))
	if len(rec.ranges) != 1 || rec.ranges[0] != [2]uint64{300, 1000} {
		t.Errorf("ranges %v", rec.ranges)
	}
	must(t, s.StoreLogs(entries(300, 301, 2)))
	if got := held(t, s, 299, 302); got != "299:1 300:2 301:2 302:-" {
		t.Errorf("got %s", got)
	}
}

type recorder struct {
	backend
	ranges [][2]uint64
}

func (r *recorder) DeleteRange(lo, hi uint64) error {
	r.ranges = append(r.ranges, [2]uint64{lo, hi})
	return r.backend.DeleteRange(lo, hi)
}

func TestSizes(t *testing.T) {
	s := open(t, path(t), Config{})
	if s.EntriesWithin(1<<20) != 1 || s.Bytes() != 0 || s.BytesAfter(3) != 0 {
		t.Error("empty log has a size")
	}
	for i := uint64(1); i <= 10; i++ {
		must(t, s.StoreLog(entry(i, 1, strings.Repeat("x", 1000-entryOverhead))))
	}
	for _, tt := range []struct {
		limit int64
		want  uint64
	}{{0, 1}, {999, 1}, {1000, 1}, {2999, 2}, {3000, 3}, {10000, 10}, {1 << 30, 10}} {
		if got := s.EntriesWithin(tt.limit); got != tt.want {
			t.Errorf("EntriesWithin(%d) = %d, want %d", tt.limit, got, tt.want)
		}
	}
	for _, tt := range []struct {
		index uint64
		want  int64
	}{{0, 10000}, {4, 6000}, {9, 1000}, {10, 0}, {99, 0}} {
		if got := s.BytesAfter(tt.index); got != tt.want {
			t.Errorf("BytesAfter(%d) = %d, want %d", tt.index, got, tt.want)
		}
	}
	must(t, s.DeleteRange(1, 4))
	must(t, s.DeleteRange(9, 10))
	if s.Bytes() != 4000 || s.EntriesWithin(1<<30) != 4 || s.BytesAfter(6) != 2000 {
		t.Errorf("after deletes: %d bytes, %d entries, %d after 6", s.Bytes(), s.EntriesWithin(1<<30), s.BytesAfter(6))
	}
}

// The stored formats, byte by byte.
func TestGoldenFormats(t *testing.T) {
	kv := make(map[string][]byte)
	s := open(t, path(t), Config{wrap: func(b backend) backend { return &spy{backend: b, kv: kv} }})
	must(t, s.SetUint64(keyCurrentTerm, 0x0102))
	must(t, s.SetUint64(keyLastVoteTerm, 0x0304))
	must(t, s.Set(keyLastVoteCand, []byte("node-b")))
	e := entry(9, 3, "data")
	e.Extensions = []byte("ext")
	must(t, s.StoreLog(e))
	want := map[string]string{
		"CurrentTerm": "0000000000000102" + "457086b5" + "01",
		"LastVote":    "01" + "0000000000000304" + "6e6f64652d62" + "5cbc7dc6" + "01",
		"extensions":  "657874" + "5b0f40ee" + "01",
	}
	if len(kv) != len(want) {
		t.Errorf("wrote %d values, want %d", len(kv), len(want))
	}
	for key, value := range kv {
		if got := fmt.Sprintf("%x", value); got != want[key] {
			t.Errorf("%s is stored as %s, want %s", key, got, want[key])
		}
	}
}

type spy struct {
	backend
	kv map[string][]byte
}

func (s *spy) Set(k, v []byte) error {
	s.kv[string(k)] = bytes.Clone(v)
	return s.backend.Set(k, v)
}

func (s *spy) StoreLogs(list []*raft.Log) error {
	s.kv["extensions"] = bytes.Clone(list[0].Extensions)
	return s.backend.StoreLogs(list)
}

func TestLockedByAnotherProcess(t *testing.T) {
	if p := os.Getenv("LOGSTORE_TEST_HOLD"); p != "" {
		s, err := Open(p, Config{})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("holding")
		_, _ = os.Stdin.Read(make([]byte, 1))
		_ = s.Close()
		return
	}
	p := path(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestLockedByAnotherProcess$")
	cmd.Env = append(os.Environ(), "LOGSTORE_TEST_HOLD="+p)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	line := make([]byte, 64)
	if n, _ := out.Read(line); !strings.HasPrefix(string(line[:n]), "holding") {
		t.Fatalf("the other process says %q", line[:n])
	}
	_, err = Open(p, Config{LockTimeout: 100 * time.Millisecond})
	locked, ok := errors.AsType[*LockedError](err)
	if !ok {
		t.Fatalf("got %v, want a LockedError", err)
	}
	if locked.PID != cmd.Process.Pid {
		t.Errorf("holder is process %d, the error says %d", cmd.Process.Pid, locked.PID)
	}
	if !strings.Contains(err.Error(), "stop that process") {
		t.Errorf("the error does not say what to do: %v", err)
	}
}
