package fsm_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

var errFault = errors.New("injected fault")

// faultFS fails one of the operations that change a disk, either without doing it or after having done it.
type faultFS struct {
	vfs.FS
	mu        sync.Mutex
	left      int  // operations until the fault; 0: none is armed
	moved     bool // CURRENT was moved: what fails from here on ends the process
	persisted bool
	hit       string
	die       func(error) // ends the "process"; it does not return
}

func (f *faultFS) arm(n int, persisted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left, f.persisted, f.hit, f.moved = n, persisted, "", false
}

// disarm says which operation failed, if any.
func (f *faultFS) disarm() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = 0
	return f.hit
}

func (f *faultFS) do(name string, op func() error) error {
	f.mu.Lock()
	fails := false
	if f.left > 0 {
		if f.left--; f.left == 0 {
			fails, f.hit = true, name
		}
	}
	persisted, moved := f.persisted, f.moved
	f.mu.Unlock()
	if !fails || persisted {
		if err := op(); err != nil || !fails {
			return err
		}
	}
	if moved {
		f.die(errFault)
	}
	return errFault
}

func (f *faultFS) Create(name string, c vfs.DiskWriteCategory) (out vfs.File, err error) {
	err = f.do("create "+name, func() error {
		file, err := f.FS.Create(name, c)
		if err == nil {
			out = &faultFile{file, f, name}
		}
		return err
	})
	return out, err
}

func (f *faultFS) OpenDir(name string) (vfs.File, error) {
	file, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &faultDir{faultFile{file, f, name}}, nil
}

func (f *faultFS) Rename(from, to string) error {
	err := f.do("rename "+from, func() error { return f.FS.Rename(from, to) })
	if strings.HasSuffix(to, "/CURRENT") {
		f.mu.Lock()
		f.moved = true
		f.mu.Unlock()
	}
	return err
}

func (f *faultFS) Link(from, to string) error {
	return f.do("link "+to, func() error { return f.FS.Link(from, to) })
}

func (f *faultFS) MkdirAll(name string, mode os.FileMode) error {
	return f.do("mkdir "+name, func() error { return f.FS.MkdirAll(name, mode) })
}

func (f *faultFS) Unwrap() vfs.FS { return f.FS }

type faultFile struct {
	vfs.File
	fs   *faultFS
	name string
}

func (f *faultFile) Write(p []byte) (n int, err error) {
	err = f.fs.do("write "+f.name, func() error {
		n, err = f.File.Write(p)
		return err
	})
	return n, err
}

func (f *faultFile) Sync() error {
	return f.fs.do("sync "+f.name, f.File.Sync)
}

// faultDir is a directory. Pebble panics, in the background too, where it can't sync one of its own.
type faultDir struct{ faultFile }

func (f *faultDir) Sync() error {
	err := f.faultFile.Sync()
	if errors.Is(err, errFault) && strings.Contains(f.name, "db") {
		f.fs.die(err)
	}
	return err
}

func (f *faultFile) SyncData() error {
	return f.fs.do("sync "+f.name, f.File.SyncData)
}

// faulty runs a step on a node whose disk fails at operation n of it, and says whether the fault was met. A node that
// halts is one that crashed.
func faulty(t *testing.T, n int, persisted bool, prepare func(*replica), step func(*replica) error, check func(r *replica, stepErr error)) bool {
	t.Helper()
	mem := vfs.NewCrashableMem()
	halted := make(chan error, 10)
	die := func(err error) {
		halted <- err
		select {} // as a process that has ended
	}
	fs := &faultFS{FS: mem, die: die}
	r := &replica{t: t, fs: mem, log: raft.NewInmemStore()}
	var err error
	r.store, err = fsm.Open(fsm.Options{Dir: "state", FS: fs, Halt: die})
	if err != nil {
		t.Fatal(err)
	}
	if r.snaps, err = fsm.NewSnapshots(r.store, fsm.SnapshotOptions{Dir: "snapshots"}); err != nil {
		t.Fatal(err)
	}
	prepare(r)
	fs.arm(n, persisted)
	done := make(chan error, 1)
	go func() { done <- step(r) }()
	var stepErr error
	select {
	case stepErr = <-done:
	case stepErr = <-halted:
	}
	// The fault may have met a goroutine of Pebble's own, and the step goes on beside it, where a process would have
	// ended: the log is of before the disk, or it could be truncated behind a snapshot that the clone of the disk lacks.
	log := cloneLog(t, r.log)
	hit := fs.disarm()
	if hit == "" {
		if stepErr != nil {
			t.Fatalf("without a fault: %v", stepErr)
		}
		return false
	}
	t.Run(fmt.Sprintf("%d %s persisted=%t", n, hit, persisted), func(t *testing.T) {
		for _, unsynced := range []int{0, 100} {
			again := &replica{t: t, fs: mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: rand.New(rand.NewPCG(uint64(n), 1))}), log: log}
			again.open()
			check(again, stepErr)
			if err := again.store.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return true
}

func cloneLog(t *testing.T, log *raft.InmemStore) *raft.InmemStore {
	t.Helper()
	var entries []*raft.Log
	last, err := log.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	for i := last; i > 0; i-- { // downwards: it may be truncated at its head meanwhile
		entry := new(raft.Log)
		if log.GetLog(i, entry) != nil {
			break
		}
		entries = append(entries, entry)
	}
	slices.Reverse(entries)
	out := raft.NewInmemStore()
	if err := out.StoreLogs(entries); err != nil {
		t.Fatal(err)
	}
	return out
}

// A snapshot whose writing fails at any point, and a node that crashes then: the state is whole, the snapshots that
// are there can be restored.
func TestSnapshotFaults(t *testing.T) {
	steady := newReplica(t)
	history := historyOf(steady, 60)
	prepare := func(r *replica) {
		for _, entry := range history[:40] {
			r.apply(entry)
		}
		if err := r.snapshot(5); err != nil {
			t.Fatal(err)
		}
		for _, entry := range history[40:] {
			r.apply(entry)
		}
	}
	everyFault(t, prepare, func(r *replica) error { return r.snapshot(5) }, func(r *replica, _ error) {
		fsmtest.Check(r.t, steady.store, r.store)
		if r.store.Position().Index != steady.store.Position().Index {
			r.t.Errorf("at %+v", r.store.Position())
		}
		other := newReplica(r.t)
		if err := r.send(other); err != nil {
			r.t.Error(err)
		}
		list, _ := r.snaps.List()
		if len(list) == 0 {
			r.t.Error("no snapshot is left")
		}
	})
}

// A snapshot is received and restored on a failing disk: the node is left with its old state or the new one, and a
// second attempt succeeds.
func TestRestoreFaults(t *testing.T) {
	leader := newReplica(t)
	history := historyOf(leader, 60)
	for _, entry := range history {
		if err := leader.log.StoreLog(entry); err != nil {
			t.Fatal(err)
		}
	}
	if err := leader.snapshot(0); err != nil {
		t.Fatal(err)
	}
	prepare := func(r *replica) {
		for _, entry := range history[:20] {
			r.apply(entry)
		}
	}
	install := func(r *replica) error {
		if err := leader.send(r); err != nil {
			return err
		}
		list, err := r.snaps.List()
		if err != nil {
			return err
		}
		_, stream, err := r.snaps.Open(list[0].ID)
		if err != nil {
			return err
		}
		return errors.Join(r.store.Restore(stream), stream.Close())
	}
	everyFault(t, prepare, install, func(r *replica, stepErr error) {
		if at := r.store.Position().Index; at != 20 && at != 60 {
			r.t.Errorf("at %d after %v", at, stepErr)
		}
		if err := r.store.Verify(); err != nil {
			r.t.Error(err)
		}
		if err := install(r); err != nil {
			r.t.Error(err)
		}
		fsmtest.Check(r.t, leader.store, r.store)
		if r.store.Position().Index != 60 {
			r.t.Errorf("at %+v", r.store.Position())
		}
	})
}

func everyFault(t *testing.T, prepare func(*replica), step func(*replica) error, check func(*replica, error)) {
	t.Helper()
	stride := 1
	if testing.Short() {
		stride = 7
	}
	for i, persisted := range []bool{false, true} {
		n := 1 + i*stride/2
		for ; faulty(t, n, persisted, prepare, step, check); n += stride {
			if t.Failed() {
				return
			}
		}
		if n < 10 {
			t.Errorf("only %d operations could fail", n-1)
		}
	}
}

// historyOf applies n random entries to r and returns them.
func historyOf(r *replica, n int) []*raft.Log {
	random := fsmtest.NewRandom(7, r.store)
	var history []*raft.Log
	for range n {
		entry := random.Log(random.Entry())
		r.store.Apply(entry)
		history = append(history, entry)
	}
	return history
}
