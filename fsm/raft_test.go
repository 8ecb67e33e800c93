package fsm_test

import (
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// raftNode is a store under hashicorp/raft itself, in memory.
type raftNode struct {
	*replica
	id    raft.ServerID
	raft  *raft.Raft
	trans *raft.InmemTransport
	vote  raft.StableStore
}

func startNode(t *testing.T, id string) *raftNode {
	t.Helper()
	r := newReplica(t)
	_, trans := raft.NewInmemTransport(raft.ServerAddress(id))
	n := &raftNode{replica: r, id: raft.ServerID(id), trans: trans, vote: r.log}
	conf := raft.DefaultConfig()
	conf.LocalID = n.id
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	conf.CommitTimeout = 5 * time.Millisecond
	conf.TrailingLogs = 1
	conf.Logger = hclog.NewNullLogger()
	noRestore, err := r.store.Recover(r.snaps, r.log)
	if err != nil {
		t.Fatal(err)
	}
	conf.NoSnapshotRestoreOnStart = noRestore
	if n.raft, err = raft.NewRaft(conf, r.store, r.log, n.vote, r.snaps, trans); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.raft.Shutdown().Error(); err != nil {
			t.Error(err)
		}
		if err := n.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *raftNode) propose(t *testing.T, commands ...fsm.Command) {
	t.Helper()
	e := fsm.Entry{Time: fsmtest.Start}
	for _, c := range commands {
		e.Records = append(e.Records, fsm.EncodeCommand(c))
	}
	f := n.raft.Apply(fsm.EncodeEntry(e), 10*time.Second)
	if err := f.Error(); err != nil {
		t.Fatal(err)
	}
	for i, r := range f.Response().([]fsm.Result) {
		if r.Code != fsm.CodeOK {
			t.Fatalf("record %d: %+v", i, r)
		}
	}
}

// Under raft itself: a follower that was cut off catches up by InstallSnapshot, and a backup is restored.
func TestUnderRaft(t *testing.T) {
	leader, follower := startNode(t, "a"), startNode(t, "b")
	leader.trans.Connect("b", follower.trans)
	follower.trans.Connect("a", leader.trans)
	if err := leader.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}}}).Error(); err != nil {
		t.Fatal(err)
	}
	for elected := range leader.raft.LeaderCh() {
		if elected {
			break
		}
	}
	b := &fsmtest.Builder{}
	leader.propose(t, b.Genesis(), b.Enrol("alice", "t"), b.Vault("ml"))
	for n := range uint32(30) {
		leader.propose(t, b.Put("ml", "db", n+1))
	}
	if err := leader.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	if first, _ := leader.log.FirstIndex(); first < 20 {
		t.Fatalf("the log still begins at %d", first)
	}
	if err := leader.raft.AddNonvoter("b", "b", 0, 0).Error(); err != nil {
		t.Fatal(err)
	}
	leader.propose(t, b.Put("ml", "db", 31))
	target := leader.store.Position().Index
	if err := follower.store.WaitApplied(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	fsmtest.Check(t, leader.store, follower.store)
	if index, _ := follower.snaps.Newest(); index == 0 {
		t.Error("the follower got no snapshot: this tested nothing")
	}
	if c, index, err := leader.store.Configuration(); err != nil || index == 0 || len(c.Servers) != 2 {
		t.Errorf("configuration %+v at %d, %v", c, index, err)
	}

	backup := leader.raft.Snapshot()
	if err := backup.Error(); err != nil {
		t.Fatal(err)
	}
	meta, from, err := backup.Open()
	if err != nil {
		t.Fatal(err)
	}
	leader.propose(t, b.Put("ml", "db", 32))
	if err := errors.Join(leader.raft.Restore(meta, from, 10*time.Second), from.Close()); err != nil {
		t.Fatal(err)
	}
	if head, _ := leader.store.Secret("ml", "db"); head.Current != 31 {
		t.Errorf("after the restore version %d is current", head.Current)
	}
	leader.propose(t, b.Put("ml", "db", 32))
	if err := follower.store.WaitApplied(t.Context(), leader.store.Position().Index); err != nil {
		t.Fatal(err)
	}
	fsmtest.Check(t, leader.store, follower.store)
}

// Readers go on while entries apply, snapshots are taken and the state is swapped under them; what they see is always
// of one moment. The race detector is the judge of the rest.
func TestReadersDuringSwap(t *testing.T) {
	w := newWorld(t)
	snaps, err := fsm.NewSnapshots(w.s, fsm.SnapshotOptions{Dir: "snapshots"})
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				// Every put writes head, version and data in one entry: none is ever seen without the others.
				index := w.s.Index(fsm.ObjSecret("ml", "db"))
				head, ok := w.s.Secret("ml", "db")
				if !ok || head.Changed < index {
					t.Errorf("head %+v after index %d", head, index)
					return
				}
				if _, ok := w.s.VersionData("ml", "db", head.Current); !ok {
					t.Errorf("version %d is there without its data", head.Current)
					return
				}
				if _, ok := w.s.Token(fsmtest.HashOf("t")); !ok {
					t.Error("the token is gone")
					return
				}
				n := uint64(0)
				for r, err := range w.s.AuditRecords(0, 1<<40) {
					if err != nil || r.Seq != n {
						t.Errorf("record %d: %+v, %v", n, r, err)
						return
					}
					n++
				}
				size := w.s.AuditSize()
				if _, err := w.s.TreeRoot(size); err != nil {
					t.Error(err)
					return
				}
				if len(w.s.Versions("ml", "db")) == 0 || len(w.s.Policies()) != 0 || len(w.s.Members()) != 1 {
					t.Error("lists are wrong")
					return
				}
			}
		})
	}
	version := uint32(1)
	for range 8 {
		for range 10 {
			version++
			w.ok(w.Put("ml", "db", version))
		}
		point, err := w.s.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		at := w.s.Position()
		k, err := snaps.Create(1, at.Index, at.Term, raft.Configuration{}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := point.Persist(k); err != nil {
			t.Fatal(err)
		}
		_, stream, err := snaps.Open(k.ID())
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.s.Restore(stream), stream.Close()); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	readers.Wait()
}

// A foreign sink gets the same stream.
func TestPersistToForeignSink(t *testing.T) {
	from := newReplica(t)
	historyOf(from, 20)
	store := raft.NewInmemSnapshotStore()
	point, err := from.store.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	k, err := store.Create(1, 20, 1, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := point.Persist(k); err != nil {
		t.Fatal(err)
	}
	_, stream, err := store.Open(k.ID())
	if err != nil {
		t.Fatal(err)
	}
	to := newReplica(t)
	if err := to.store.Restore(stream); err != nil {
		t.Fatal(err)
	}
	fsmtest.Check(t, from.store, to.store)
	if names, _ := from.fs.List("state"); len(names) != 2 {
		t.Errorf("left behind: %v", names)
	}
}

// Reads of a closed store answer absent, or an error, and never panic: requests may still be running when a node stops.
func TestReadsAfterClose(t *testing.T) {
	s, err := fsm.Open(fsm.Options{Dir: "state", FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	b := &fsmtest.Builder{}
	s.Apply(b.Entry(b.Genesis(), b.Vault("ml")))
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.User("x"); ok || s.Vaults() != nil || s.Versions("ml", "x") != nil {
		t.Error("a closed store answers")
	}
	if _, err := s.AuditLeaf(0); err == nil {
		t.Error("a closed store reads leaves")
	}
	if _, err := s.TreeRoot(1); err == nil {
		t.Error("a closed store proves")
	}
	for _, err := range s.AuditRecords(0, 5) {
		if err == nil {
			t.Error("a closed store scans")
		}
	}
	if err := s.Replicated(func(_, _ []byte) error { return io.EOF }); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
	if _, ok := s.LatestCheckpoint(); ok {
		t.Error("a closed store has checkpoints")
	}
}
