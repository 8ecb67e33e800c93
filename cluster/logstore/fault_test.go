package logstore

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

var errDisk = errors.New("disk on fire")

// faulty fails the writes it is told to, before or after they are done.
type faulty struct {
	backend
	mu        sync.Mutex
	fail      map[string]bool // operations that fail
	persisted bool            // the failing write is done nevertheless
	stall     chan struct{}   // writes wait for it
}

func (f *faulty) set(persisted bool, ops ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.persisted, f.fail = persisted, map[string]bool{}
	for _, op := range ops {
		f.fail[op] = true
	}
}

func (f *faulty) do(op string, write func() error) error {
	f.mu.Lock()
	fail, persisted, stall := f.fail[op], f.persisted, f.stall
	f.mu.Unlock()
	if stall != nil {
		<-stall
	}
	if !fail {
		return write()
	}
	if persisted {
		return errors.Join(errDisk, write())
	}
	return errDisk
}

func (f *faulty) StoreLogs(l []*raft.Log) error {
	return f.do("append", func() error { return f.backend.StoreLogs(l) })
}

func (f *faulty) DeleteRange(lo, hi uint64) error {
	return f.do("delete", func() error { return f.backend.DeleteRange(lo, hi) })
}

func (f *faulty) Set(k, v []byte) error {
	return f.do("set", func() error { return f.backend.Set(k, v) })
}

func openFaulty(t *testing.T, p string, cfg Config) (*Store, *faulty) {
	f := &faulty{}
	cfg.wrap = func(b backend) backend { f.backend = b; return f }
	return open(t, p, cfg), f
}

func TestFailedAppendLeavesNothingBehind(t *testing.T) {
	for _, persisted := range []bool{false, true} {
		t.Run(map[bool]string{false: "failed", true: "failed but persisted"}[persisted], func(t *testing.T) {
			p := path(t)
			s, f := openFaulty(t, p, Config{})
			must(t, s.StoreLogs(entries(1, 3, 1)))
			size := s.Bytes()
			f.set(persisted, "append")
			if err := s.StoreLogs(entries(4, 6, 1)); err == nil || !strings.Contains(err.Error(), errDisk.Error()) {
				t.Fatalf("got %v", err)
			}
			f.set(false)
			if got := held(t, s, 3, 6); got != "3:1 4:- 5:- 6:-" {
				t.Errorf("the log is %s", got)
			}
			if s.Bytes() != size {
				t.Errorf("Bytes = %d, was %d", s.Bytes(), size)
			}
			must(t, s.StoreLog(entry(4, 2, "of the next leader")))
			must(t, s.Close())
			s = open(t, p, Config{})
			if got := held(t, s, 3, 6); got != "3:1 4:2 5:- 6:-" {
				t.Errorf("reopened, the log is %s", got)
			}
		})
	}
}

func TestAppendThatCannotBeUndoneEndsTheProcess(t *testing.T) {
	exited := make(chan error, 1)
	s, f := openFaulty(t, path(t), Config{Exit: func(err error) { exited <- err }, WriteDeadline: time.Minute})
	must(t, s.StoreLogs(entries(1, 3, 1)))
	f.set(true, "append", "delete")
	returned := make(chan error, 1)
	go func() { returned <- s.StoreLogs(entries(4, 6, 1)) }()
	select {
	case err := <-exited:
		if !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "check its disk") {
			t.Errorf("exit says %v", err)
		}
	case err := <-returned:
		t.Fatalf("StoreLogs returned %v", err)
	}
}

func TestFailedTailDelete(t *testing.T) {
	for _, persisted := range []bool{false, true} {
		t.Run(map[bool]string{false: "failed", true: "failed but persisted"}[persisted], func(t *testing.T) {
			s, f := openFaulty(t, path(t), Config{})
			must(t, s.StoreLogs(entries(1, 6, 1)))
			f.set(persisted, "delete")
			err := s.DeleteRange(4, 6)
			f.set(false)
			last, _ := s.LastIndex()
			if persisted && (err != nil || last != 3) {
				t.Errorf("it is done, but: %v, LastIndex %d", err, last)
			}
			if !persisted && (!errors.Is(err, errDisk) || last != 6) {
				t.Errorf("nothing was deleted, but: %v, LastIndex %d", err, last)
			}
			if int64(last)*(s.Bytes()/int64(last)) != s.Bytes() || s.BytesAfter(last) != 0 {
				t.Errorf("Bytes = %d for %d entries", s.Bytes(), last)
			}
		})
	}
}

func TestFailedCompactionGoesOnLater(t *testing.T) {
	for _, persisted := range []bool{false, true} {
		s, f := openFaulty(t, path(t), Config{})
		must(t, s.StoreLogs(entries(1, 500, 1)))
		f.set(persisted, "delete")
		if err := s.DeleteRange(1, 400); !errors.Is(err, errDisk) {
			t.Fatalf("got %v", err)
		}
		f.set(false)
		must(t, s.DeleteRange(1, 400))
		if first, _ := s.FirstIndex(); first != 401 {
			t.Errorf("persisted %v: FirstIndex = %d", persisted, first)
		}
		if s.Bytes() != s.BytesAfter(400) {
			t.Errorf("persisted %v: Bytes = %d", persisted, s.Bytes())
		}
	}
}

func TestFailedVote(t *testing.T) {
	for _, persisted := range []bool{false, true} {
		s, f := openFaulty(t, path(t), Config{})
		must(t, s.SetUint64(keyLastVoteTerm, 1))
		must(t, s.Set(keyLastVoteCand, []byte("node-a")))
		f.set(persisted, "set")
		must(t, s.SetUint64(keyLastVoteTerm, 2))
		if err := s.Set(keyLastVoteCand, []byte("node-b")); !errors.Is(err, errDisk) {
			t.Fatalf("got %v", err)
		}
		if persisted {
			assertVote(t, s, 2, "node-b")
		} else {
			assertVote(t, s, 1, "node-a")
		}
	}
}

func TestFailedTermEndsTheProcess(t *testing.T) {
	exited := make(chan error, 1)
	s, f := openFaulty(t, path(t), Config{Exit: func(err error) { exited <- err }, WriteDeadline: time.Minute})
	must(t, s.SetUint64(keyCurrentTerm, 1))
	f.set(false, "set")
	returned := make(chan error, 1)
	go func() { returned <- s.SetUint64(keyCurrentTerm, 2) }()
	select {
	case err := <-exited:
		if !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "check its disk") {
			t.Errorf("exit says %v", err)
		}
	case err := <-returned:
		t.Fatalf("SetUint64 returned %v, on which raft panics", err)
	}
}

func TestWriteDeadline(t *testing.T) {
	writes := map[string]func(*Store) error{
		"append":  func(s *Store) error { return s.StoreLogs(entries(4, 4, 1)) },
		"tail":    func(s *Store) error { return s.DeleteRange(2, 3) },
		"compact": func(s *Store) error { return s.DeleteRange(1, 1) },
		"term":    func(s *Store) error { return s.SetUint64(keyCurrentTerm, 2) },
	}
	for name, write := range writes {
		t.Run(name, func(t *testing.T) {
			exited := make(chan error, 4)
			s, f := openFaulty(t, path(t), Config{Exit: func(err error) { exited <- err }, WriteDeadline: 50 * time.Millisecond})
			must(t, s.StoreLogs(entries(1, 3, 1)))
			release := make(chan struct{})
			f.mu.Lock()
			f.stall = release
			f.mu.Unlock()
			returned := make(chan error, 1)
			go func() { returned <- write(s) }()
			err := <-exited
			stalled, ok := errors.AsType[*StalledError](err)
			if !ok || stalled.After != 50*time.Millisecond || !strings.Contains(err.Error(), "check the disk") {
				t.Errorf("exit says %v", err)
			}
			// The disk wakes up: the abandoned write is not reported as done.
			close(release)
			select {
			case err := <-returned:
				t.Errorf("the write returned %v after the deadline", err)
			case <-time.After(200 * time.Millisecond):
			}
		})
	}
}

func TestDefaultDeadline(t *testing.T) {
	s := open(t, path(t), Config{})
	if s.deadline != 5*time.Second {
		t.Errorf("deadline %s", s.deadline)
	}
}

// A stalled disk does not make reads wait.
func TestReadsGoOnWhileAWriteStalls(t *testing.T) {
	s, f := openFaulty(t, path(t), Config{WriteDeadline: time.Minute})
	must(t, s.StoreLogs(entries(1, 3, 1)))
	release := make(chan struct{})
	f.mu.Lock()
	f.stall = release
	f.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- s.StoreLogs(entries(4, 4, 1)) }()
	if got := held(t, s, 1, 3); got != "1:1 2:1 3:1" {
		t.Errorf("got %s", got)
	}
	close(release)
	must(t, <-done)
}

func TestDamagedFile(t *testing.T) {
	build := func(t *testing.T) (string, []byte) {
		p := path(t)
		s := open(t, p, Config{})
		must(t, s.SetUint64(keyCurrentTerm, 7))
		for i := uint64(1); i <= 200; i++ {
			must(t, s.StoreLog(entry(i, 1, "needle"+strings.Repeat("hay", 100))))
		}
		must(t, s.Close())
		b, err := os.ReadFile(p)
		must(t, err)
		return p, b
	}
	refuse := func(t *testing.T, p string, damaged []byte) {
		t.Helper()
		must(t, os.WriteFile(p, damaged, 0o600))
		_, err := Open(p, Config{})
		if _, ok := errors.AsType[*CorruptError](err); !ok {
			t.Fatalf("got %v, want a CorruptError", err)
		}
		if !strings.Contains(err.Error(), "join it anew") {
			t.Errorf("the error does not say what to do: %v", err)
		}
		after, _ := os.ReadFile(p)
		if !bytes.Equal(after, damaged) {
			t.Error("the damaged file was changed")
		}
	}
	t.Run("flipped bits in every entry's bytes", func(t *testing.T) {
		p, b := build(t)
		found := 0
		for from := 0; found < 40; found++ {
			i := bytes.Index(b[from:], []byte("needlehay"))
			if i < 0 {
				break
			}
			from += i + 9
			// Stale pages hold old copies: only flips that are in use count, so
			// flip every copy found so far at once.
			b[from-9] ^= 1
		}
		if found == 0 {
			t.Fatal("no entry found in the file")
		}
		refuse(t, p, b)
	})
	t.Run("flipped bit in the term", func(t *testing.T) {
		p, b := build(t)
		sealed := appendSum([]byte{0, 0, 0, 0, 0, 0, 0, 7}, stableSum(keyCurrentTerm, []byte{0, 0, 0, 0, 0, 0, 0, 7}))
		if !bytes.Contains(b, sealed) {
			t.Fatal("term not found in the file")
		}
		bad := bytes.Clone(sealed)
		bad[7] ^= 1
		refuse(t, p, bytes.ReplaceAll(b, sealed, bad))
	})
	t.Run("truncated", func(t *testing.T) {
		p, b := build(t)
		for _, n := range []int{0, 1, 100, 4096, 8192, 16384, len(b) / 2} {
			refuse(t, p, b[:n])
		}
	})
	t.Run("pages of noise", func(t *testing.T) {
		p, b := build(t)
		for i := 4 * 4096; i < len(b); i++ {
			b[i] = byte(i * 7)
		}
		refuse(t, p, b)
	})
	t.Run("no database", func(t *testing.T) {
		p := path(t)
		refuse(t, p, bytes.Repeat([]byte("hello"), 10000))
	})
}

// A crash while the file was made leaves only the temporary name.
func TestCreateAfterCrash(t *testing.T) {
	p := path(t)
	must(t, os.WriteFile(p+".new", []byte("half"), 0o600))
	s := open(t, p, Config{})
	must(t, s.StoreLogs(entries(1, 1, 1)))
}
