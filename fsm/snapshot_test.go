package fsm_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// streamOf takes a snapshot and returns its bytes.
func streamOf(t *testing.T, r *replica) []byte {
	t.Helper()
	if err := r.snapshot(1000); err != nil {
		t.Fatal(err)
	}
	list, err := r.snaps.List()
	if err != nil {
		t.Fatal(err)
	}
	meta, from, err := r.snaps.Open(list[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	data, err := io.ReadAll(from)
	if err != nil || int64(len(data)) != meta.Size {
		t.Fatalf("%d bytes, the size is said to be %d: %v", len(data), meta.Size, err)
	}
	return data
}

func receive(r *replica, index, term uint64, data []byte) error {
	k, err := r.snaps.Create(1, index, term, raft.Configuration{}, 1, nil)
	if err != nil {
		return err
	}
	if _, err := io.Copy(k, bytes.NewReader(data)); err != nil {
		return errors.Join(err, k.Cancel())
	}
	return k.Close()
}

func untouched(t *testing.T, r *replica) (check func()) {
	t.Helper()
	hash, err := fsmtest.Hash(r.store)
	if err != nil {
		t.Fatal(err)
	}
	at := r.store.Position()
	return func() {
		t.Helper()
		now, err := fsmtest.Hash(r.store)
		names, _ := r.fs.List("state")
		databases := 0
		for _, name := range names {
			if strings.HasPrefix(name, "db-") {
				databases++
			}
		}
		if err != nil || now != hash || r.store.Position() != at || databases != 1 {
			t.Fatalf("the state was touched: at %+v, was %+v; %d databases; %v", r.store.Position(), at, databases, err)
		}
		if list, _ := r.snaps.List(); len(list) != 0 {
			t.Fatal("a damaged snapshot is listed")
		}
	}
}

// One flipped bit, a truncation or bytes too many anywhere: refused with a clear error, and nothing was touched.
func TestDamagedStreamIsRefused(t *testing.T) {
	from := newReplica(t)
	historyOf(from, 30)
	data := streamOf(t, from)
	r := newReplica(t)
	historyOf(r, 5)
	check := untouched(t, r)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		bad := bytes.Clone(data)
		at := rng.IntN(len(bad))
		switch {
		case i < 30:
			bad[i*3] ^= 1 // header and manifest
		case i < 45:
			bad[at] ^= 1 << rng.IntN(8)
		case i < 58:
			bad = bad[:at]
		case i == 58:
			bad = append(bad, 0)
		default:
			bad = nil
		}
		for name, err := range map[string]error{
			"received": receive(r, 30, 1, bad), "restored": r.store.Restore(io.NopCloser(bytes.NewReader(bad))),
		} {
			_, unknown := errors.AsType[*fsm.UnknownFormatError](err)
			if !errors.Is(err, fsm.ErrDamaged) && !unknown {
				t.Fatalf("variant %d, %s: %v", i, name, err)
			}
		}
		check()
	}
	if err := r.store.Restore(io.NopCloser(bytes.NewReader(data))); err != nil {
		t.Fatal(err)
	}
	fsmtest.Check(t, from.store, r.store)
}

func TestOtherClustersSnapshotIsRefused(t *testing.T) {
	from := newReplica(t)
	other := &fsmtest.Builder{}
	genesis := other.Command(fsm.KindGenesis, "x", "genesis", "", fsm.Genesis{
		Cluster: fsm.Cluster{ID: [16]byte{66}}, Member: fsm.Member{ID: "n1", Key: fsmtest.Key("n1")},
	})
	from.apply(other.Entry(genesis))
	data := streamOf(t, from)
	r := newReplica(t)
	historyOf(r, 5)
	check := untouched(t, r)
	if err := receive(r, 1, 1, data); !errors.Is(err, fsm.ErrOtherCluster) {
		t.Error(err)
	}
	if err := r.store.Restore(io.NopCloser(bytes.NewReader(data))); !errors.Is(err, fsm.ErrOtherCluster) {
		t.Error(err)
	}
	check()
}

// A snapshot damaged where it lies: its files are found out when it is used, its description at start.
func TestDamagedSnapshotOnDisk(t *testing.T) {
	damage := func(r *replica, path string, change func([]byte) []byte) {
		t.Helper()
		f, err := r.fs.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		out, err := r.fs.Create(path, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		_, err = out.Write(change(data))
		if err := errors.Join(err, out.Close()); err != nil {
			t.Fatal(err)
		}
	}
	flip := func(b []byte) []byte { b[len(b)/2] ^= 4; return b }
	cut := func(b []byte) []byte { return b[:len(b)-1] }
	for name, change := range map[string]func([]byte) []byte{"flip": flip, "cut": cut} {
		from := newReplica(t)
		historyOf(from, 20)
		streamOf(t, from)
		list, _ := from.snaps.List()
		dir := "snapshots/" + list[0].ID
		files, err := from.fs.List(dir + "/db")
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		for !strings.HasSuffix(files[i], ".sst") {
			i++
		}
		damage(from, dir+"/db/"+files[i], change)
		_, stream, err := from.snaps.Open(list[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		to := newReplica(t)
		if err := to.store.Restore(stream); !errors.Is(err, fsm.ErrDamaged) {
			t.Errorf("%s of a file: %v", name, err)
		}
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
		damage(from, dir+"/meta", change)
		if _, err := fsm.NewSnapshots(from.store, fsm.SnapshotOptions{Dir: "snapshots"}); !errors.Is(err, fsm.ErrDamaged) {
			t.Errorf("%s of the description: %v", name, err)
		}
	}
}

func TestTwoSnapshotsAreKeptAndReadersPin(t *testing.T) {
	r := newReplica(t)
	random := fsmtest.NewRandom(3, r.store)
	take := func() string {
		t.Helper()
		r.apply(random.Log(random.Entry()))
		if err := r.snapshot(1000); err != nil {
			t.Fatal(err)
		}
		list, _ := r.snaps.List()
		return list[0].ID
	}
	count := func() int {
		list, _ := r.snaps.List()
		names, err := r.fs.List("snapshots")
		if err != nil || len(names) != len(list) {
			t.Fatalf("%d listed, on disk %v, %v", len(list), names, err)
		}
		return len(list)
	}
	first := take()
	_, reader, err := r.snaps.Open(first)
	if err != nil {
		t.Fatal(err)
	}
	take()
	take()
	take()
	if n := count(); n != 3 {
		t.Errorf("%d snapshots while one is read", n)
	}
	if _, err := io.Copy(io.Discard, reader); err != nil {
		t.Errorf("reading a pinned snapshot: %v", err)
	}
	if err := reader.Close(); err != nil {
		t.Error(err)
	}
	if n := count(); n != 2 {
		t.Errorf("%d snapshots are kept", n)
	}
	if _, _, err := r.snaps.Open(first); err == nil {
		t.Error("a removed snapshot opens")
	}
	list, _ := r.snaps.List()
	if index, term := r.snaps.Newest(); index != list[0].Index || term != list[0].Term || list[0].Index <= list[1].Index {
		t.Errorf("newest %d %d, listed %+v", index, term, list[0])
	}
	// Nothing half-made stays, neither by cancelling nor over a crash.
	k, err := r.snaps.Create(1, 99, 1, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Write([]byte("HIZO")); err != nil {
		t.Fatal(err)
	}
	if err := k.Cancel(); err != nil {
		t.Error(err)
	}
	if _, err := r.snaps.Create(1, 99, 1, raft.Configuration{}, 1, nil); err != nil {
		t.Fatal(err)
	}
	if r.snaps, err = fsm.NewSnapshots(r.store, fsm.SnapshotOptions{Dir: "snapshots"}); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 2 {
		t.Errorf("%d snapshots after a restart", n)
	}
}

// The files of a snapshot may hold entries behind its index. They are not applied twice, and a log that ends before
// them is no contradiction.
func TestSnapshotAheadOfItsIndex(t *testing.T) {
	from := newReplica(t)
	random := fsmtest.NewRandom(5, from.store)
	for range 20 {
		from.apply(random.Log(random.Entry()))
	}
	point, err := from.store.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	k, err := from.snaps.Create(1, 20, 1, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		from.apply(random.Log(random.Entry()))
	}
	if err := errors.Join(point.Persist(k), k.Close()); err != nil {
		t.Fatal(err)
	}
	to := newReplica(t)
	if err := from.send(to); err != nil {
		t.Fatal(err)
	}
	to.crash(rand.New(rand.NewPCG(1, 1)), 0)
	if at := to.store.Position().Index; at != 30 {
		t.Errorf("at %d", at)
	}
	to.crash(rand.New(rand.NewPCG(1, 1)), 0)
	for i := uint64(21); i <= 30; i++ {
		var entry raft.Log
		if err := from.log.GetLog(i, &entry); err != nil {
			t.Fatal(err)
		}
		if r := to.apply(&entry).([]fsm.Result); r != nil {
			t.Errorf("entry %d was applied again", i)
		}
	}
	next := random.Log(random.Entry())
	from.apply(next)
	to.apply(next)
	fsmtest.Check(t, from.store, to.store)
}

// A backup restored into a running cluster gets an index of its own: the log goes on from there.
func TestBackupTakesItsNewIndex(t *testing.T) {
	from := newReplica(t)
	historyOf(from, 20)
	data := streamOf(t, from)
	to := newReplica(t)
	epoch := to.store.Position().Epoch
	if err := receive(to, 1001, 7, data); err != nil {
		t.Fatal(err)
	}
	to.crash(rand.New(rand.NewPCG(1, 1)), 0)
	at := to.store.Position()
	if at.Index != 1001 || at.Term != 7 || at.Epoch == epoch {
		t.Errorf("at %+v", at)
	}
	to.crash(rand.New(rand.NewPCG(1, 1)), 0)
	if to.store.Position() != at {
		t.Errorf("at %+v after another start", to.store.Position())
	}
	next := &fsmtest.Builder{Index: 1001, Term: 7}
	if r := to.apply(next.Entry(next.Command(fsm.KindRecord, "user/a", "x", "", nil))).([]fsm.Result); len(r) != 1 || r[0].Code != fsm.CodeOK {
		t.Errorf("%+v", r)
	}
}

func TestRecoverRule(t *testing.T) {
	reopen := func(r *replica) error {
		r.fs = r.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
		s, err := fsm.Open(fsm.Options{Dir: "state", FS: r.fs})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		snaps, err := fsm.NewSnapshots(s, fsm.SnapshotOptions{Dir: "snapshots"})
		if err != nil {
			t.Fatal(err)
		}
		r.store, r.snaps = s, snaps
		_, err = s.Recover(snaps, r.log)
		return err
	}
	full := func() *replica {
		r := newReplica(t)
		random := fsmtest.NewRandom(9, r.store)
		for range 30 {
			r.apply(random.Log(random.Entry()))
		}
		if err := r.snapshot(10); err != nil { // the log holds 21 to 30
			t.Fatal(err)
		}
		return r
	}
	refused := func(name, problem string, change func(*replica)) {
		t.Run(name, func(t *testing.T) {
			r := full()
			change(r)
			err := reopen(r)
			e, ok := errors.AsType[*fsm.RecoveryError](err)
			if !ok || !strings.Contains(e.Error(), problem) {
				t.Errorf("%v", err)
			}
		})
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Run("whole", func(t *testing.T) { must(reopen(full())) })
	refused("log lost behind the snapshot", "ahead of the log", func(r *replica) {
		random := &fsmtest.Builder{Index: 30, Term: 1}
		r.store.Apply(random.Entry(random.Command(fsm.KindRecord, "user/a", "x", "", nil)))
		must(r.store.Close()) // flushes what the log does not have
	})
	refused("log of another term", "has term 5", func(r *replica) {
		random := &fsmtest.Builder{Index: 30, Term: 1}
		entry := random.Entry(random.Command(fsm.KindRecord, "user/a", "x", "", nil))
		r.store.Apply(entry)
		must(r.store.Close())
		entry.Term = 5
		must(r.log.StoreLog(entry))
	})
	refused("hole", "missing between", func(r *replica) {
		must(r.log.StoreLog(&raft.Log{Index: 33, Term: 1}))
		must(r.log.DeleteRange(21, 32))
	})
	t.Run("state older than the snapshot", func(t *testing.T) {
		r := full()
		want, err := fsmtest.Hash(r.store)
		must(err)
		must(r.store.Close()) // whatever still runs would make the directory again
		must(r.fs.RemoveAll("state"))
		root, err := r.fs.OpenDir("")
		must(err)
		must(errors.Join(root.Sync(), root.Close()))
		if _, err := r.fs.Stat("state"); err == nil {
			t.Fatal("the state is still there: this tests nothing")
		}
		must(reopen(r))
		if got, err := fsmtest.Hash(r.store); err != nil || got != want || r.store.Position().Index != 30 {
			t.Errorf("at %+v, %v", r.store.Position(), err)
		}
		epoch := r.store.Position().Epoch
		must(reopen(r))
		if r.store.Position().Epoch != epoch {
			t.Error("restored again at the next start")
		}
	})
	t.Run("state of before a restore", func(t *testing.T) {
		// A snapshot of an older index is received and published; the crash comes before it is restored.
		older := newReplica(t)
		historyOf(older, 10)
		data := streamOf(t, older)
		r := newReplica(t)
		random := fsmtest.NewRandom(9, r.store)
		for range 30 {
			r.apply(random.Log(random.Entry()))
		}
		must(receive(r, 10, 1, data))
		must(r.log.DeleteRange(1, 30))
		must(reopen(r))
		fsmtest.Check(t, older.store, r.store)
		if r.store.Position().Index != 10 {
			t.Errorf("at %+v", r.store.Position())
		}
	})
	t.Run("damaged CURRENT", func(t *testing.T) {
		for _, change := range []func(*vfs.MemFS) error{
			func(fs *vfs.MemFS) error { return fs.Remove("state/CURRENT") },
			func(fs *vfs.MemFS) error {
				f, err := fs.Create("state/CURRENT", vfs.WriteCategoryUnspecified)
				must(err)
				_, err = f.Write([]byte("../elsewhere"))
				return errors.Join(err, f.Close())
			},
		} {
			r := full()
			must(r.store.Close())
			must(change(r.fs))
			if _, err := fsm.Open(fsm.Options{Dir: "state", FS: r.fs}); err == nil || !strings.Contains(err.Error(), "CURRENT") {
				t.Errorf("%v", err)
			}
		}
	})
}

// Raft's index may be past the last command. A snapshot takes the state's position along, or every start after it would
// restore a state that is whole.
func TestSnapshotMovesThePosition(t *testing.T) {
	r := newReplica(t)
	historyOf(r, 20)
	point, err := r.store.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	k, err := r.snaps.Create(1, 25, 3, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(point.Persist(k), k.Close()); err != nil {
		t.Fatal(err)
	}
	want := fsm.Position{Index: 25, Term: 3}
	if at := r.store.Position(); at != want {
		t.Errorf("at %+v", at)
	}
	r.crash(rand.New(rand.NewPCG(1, 1)), 0)
	if at := r.store.Position(); at != want { // another epoch would be another restore
		t.Errorf("at %+v after a start", at)
	}
}
