package fsm_test

import (
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// restored takes a store's export into an empty one, as a restore does.
func restored(t *testing.T, from *fsm.Store) *fsm.Store {
	t.Helper()
	e, err := from.Export()
	if err != nil {
		t.Fatal(err)
	}
	s, err := fsm.Open(fsm.Options{Dir: "state", FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Restore(io.NopCloser(e)); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if s.AuditSize() != e.Records || s.Time() != e.Time || s.Position().Index != e.At.Index {
		t.Fatalf("the export says %+v, the state %d records, time %d, at %+v", e, s.AuditSize(), s.Time(), s.Position())
	}
	return s
}

func anew(s *fsm.Store) fsm.Anew {
	cl, _ := s.Cluster()
	at := s.Time() + 86_400_000
	cl.Restored = append(cl.Restored, fsm.Restore{ID: []byte("8 bytes!"), Record: s.AuditSize(), Time: at})
	return fsm.Anew{
		Cluster: cl, Member: fsm.Member{ID: "r1", Key: fsmtest.Key("r1"), Approved: true}, History: 77, Time: at, Detail: "origin=x",
	}
}

// An export is the state of one moment, whatever it holds, and what comes of it keeps every invariant.
func TestExportedStateBeginsAnew(t *testing.T) {
	r := newReplica(t)
	random := fsmtest.NewRandom(11, r.store)
	for range 400 {
		r.apply(random.Log(random.Entry()))
	}
	s := restored(t, r.store)
	before, _ := fsmtest.Hash(r.store)
	if after, err := fsmtest.Hash(s); err != nil || after != before {
		t.Fatalf("the restored state is another one: %v", err)
	}
	if _, err := r.store.Export(); err != nil {
		t.Fatalf("a second export: %v", err)
	}
	size := s.AuditSize()
	if err := s.BeginAnew(anew(s)); err != nil {
		t.Fatal(err)
	}
	fsmtest.Check(t, s)
	if s.AuditSize() != size+1 || s.Position().Index != r.store.Position().Index+1 {
		t.Errorf("%d records after %d, at %+v", s.AuditSize(), size, s.Position())
	}
	if m := s.Members(); len(m) != 1 || m[0].ID != "r1" {
		t.Errorf("members %+v", m)
	}
	if d := s.Deals(); len(d) != 0 {
		t.Errorf("deals %+v", d)
	}
	if who := s.SignersAt(s.AuditSize()); len(who) != 1 || who[0].ID != "r1" {
		t.Errorf("signers %+v", who)
	}
	if k, ok := s.KeyRotation(fsm.RotateRoot); !ok || k.Due == 0 {
		t.Errorf("the root is not to be rotated: %+v", k)
	}
}

// What was given out for a time ends; users that were made elsewhere are revoked, not forgotten.
func TestRestoreEndsWhatWasGivenOut(t *testing.T) {
	w := leaseWorld(t)
	w.ok(w.do(fsm.KindRotationSet, fsm.RotationSet{Rotation: fsm.Rotation{
		Vault: "ml", Path: "db", Target: "generated", Every: 86_400_000, Grace: 60_000, By: "user/alice", NextRun: w.Now() + 1000, MAC: []byte("mac"),
	}}))
	w.active("a")
	w.ok(w.Lease(w.newLease("b"))) // never confirmed
	w.ok(w.do(fsm.KindEnrolmentPut, fsm.EnrolmentPut{Enrolment: fsm.Enrolment{Hash: fsmtest.HashOf("code"), Expires: w.Now() + 3_600_000}}),
		w.do(fsm.KindSecretIDPut, fsm.SecretIDPut{SecretID: fsm.SecretID{Hash: fsmtest.HashOf("once"), Workload: "train", Expires: w.Now() + 3_600_000}}),
		w.do(fsm.KindJoinTokenPut, fsm.JoinTokenPut{JoinToken: fsm.JoinToken{
			Hash: fsmtest.HashOf("join"), Node: "n2", Fingerprint: fsmtest.Fingerprint("n2"), Expires: w.Now() + 3_600_000,
		}}))
	cursor := w.s.EventsEnd()

	s := restored(t, w.s)
	a := anew(s)
	a.Time = s.Time() + 1000 // the leases would go on
	a.Cluster.Restored[0].Time = a.Time
	if err := s.BeginAnew(a); err != nil {
		t.Fatal(err)
	}
	if again := restored(t, s); again.EventsEnd().Epoch != a.History {
		t.Errorf("the history on the disk is %d, want %d", again.EventsEnd().Epoch, a.History)
	}
	if _, ok := s.Token(fsmtest.HashOf("t")); ok {
		t.Error("a token lives")
	}
	if _, ok := s.Enrolment(fsmtest.HashOf("code")); ok {
		t.Error("an enrolment lives")
	}
	if _, ok := s.SecretID(fsmtest.HashOf("once")); ok {
		t.Error("a one-time secret id lives")
	}
	if _, ok := s.JoinToken(fsmtest.HashOf("join")); ok {
		t.Error("a join token lives")
	}
	if r, ok := s.Rotation("ml", "db"); !ok || !r.Paused {
		t.Errorf("the rotation goes on by itself: %+v", r)
	}
	if _, _, ok := s.Events(cursor, 10); ok {
		t.Error("a watcher does not start over")
	}
	if _, ok := s.Secret("ml", "db"); !ok {
		t.Error("the secret is gone")
	}
	// The same world, told on: the next leader's sweep finds both leases.
	entry := w.Entry(w.Sweep(fsm.MaxLeaseBatch))
	entry.Index, entry.Term = s.Position().Index+1, s.Position().Term
	results := s.Apply(entry)
	queue, _ := s.LeaseQueue("db1", s.Time(), "", 10)
	if len(queue) != 2 {
		t.Errorf("%d leases are being revoked, want 2; the sweep: %+v", len(queue), results)
	}
	fsmtest.Check(t, s)
}

// Nothing but a restore that names itself is taken.
func TestBeginAnewRefuses(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*fsm.Anew){
		"another record": func(a *fsm.Anew) { a.Cluster.Restored[0].Record++ },
		"another time":   func(a *fsm.Anew) { a.Time++ },
		"time goes back": func(a *fsm.Anew) {
			a.Time = w.s.Time() - 1
			a.Cluster.Restored[0].Time = a.Time
		},
		"no restore":       func(a *fsm.Anew) { a.Cluster.Restored = nil },
		"another cluster":  func(a *fsm.Anew) { a.Cluster.ID[0] ^= 1 },
		"nobody":           func(a *fsm.Anew) { a.Member.Key = nil },
		"not approved":     func(a *fsm.Anew) { a.Member.Approved = false },
		"the same history": func(a *fsm.Anew) { a.History = 0 },
	} {
		s := restored(t, w.s)
		a := anew(s)
		change(&a)
		at := s.Position()
		if err := s.BeginAnew(a); err == nil || s.Position() != at {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The leaf of a backup is worded by Apply: nobody else says that a file is the cluster's.
func TestBackupRecord(t *testing.T) {
	w := newWorld(t)
	duty := func(b fsm.Backup) fsm.Command {
		c := w.Command(fsm.KindBackup, "node/n1", "", "", b)
		c.Request, c.Term = [16]byte{}, 1
		c.Audits = []fsm.Audit{{Action: "anything", Resource: "cluster", Decision: fsm.Allowed, Detail: "sha256=00"}}
		return c
	}
	good := fsm.Backup{Name: "b1", Digest: make([]byte, 32), MAC: make([]byte, 32), Bytes: 9, Records: 2, Index: 1}
	r := w.want(fsm.CodeOK, duty(good))
	if leaf := w.leaf(r.Audit); leaf.Action != fsm.ActionBackup || leaf.Detail != "name=b1 sha256="+zeros+" mac="+zeros+" bytes=9 records=2 index=1" {
		t.Errorf("leaf %+v", leaf)
	}
	if b, ok := w.s.LastBackup(); !ok || b.Seq != r.Audit || b.Time == 0 {
		t.Errorf("last backup %+v", b)
	}
	kept := func(seq uint64) fsm.Command {
		c := duty(fsm.Backup{})
		c.Kind, c.Audits, c.Body = fsm.KindBackupKept, nil, fsm.EncodeBody(fsm.KindBackupKept, &fsm.BackupKept{Seq: seq})
		return c
	}
	size := w.s.AuditSize()
	w.ok(kept(r.Audit))
	first, _ := w.s.LastBackup()
	if first.Kept != first.Time || first.KeptBytes != good.Bytes || w.s.AuditSize() != size {
		t.Errorf("kept: %+v, %d records", first, w.s.AuditSize()-size)
	}
	w.later(1000)
	w.ok(duty(good))
	if b, _ := w.s.LastBackup(); b.Kept != first.Kept || b.Time == first.Time {
		t.Errorf("a later one that nobody has read back: %+v", b)
	}
	if r := w.apply(kept(r.Audit))[0]; r.Code != fsm.CodeNotFound {
		t.Errorf("the one before is kept: %+v", r)
	}
	for name, change := range map[string]func(*fsm.Backup){
		"a name with a space": func(b *fsm.Backup) { b.Name = "b1 sha256=11" },
		"no digest":           func(b *fsm.Backup) { b.Digest = nil },
		"no MAC":              func(b *fsm.Backup) { b.MAC = nil },
		"of the future":       func(b *fsm.Backup) { b.Index = 1 << 40 },
		"more records":        func(b *fsm.Backup) { b.Records = 1 << 40 },
	} {
		bad := good
		change(&bad)
		if r := w.apply(duty(bad))[0]; r.Code != fsm.CodeInvalid {
			t.Errorf("%s: %+v", name, r)
		}
	}
	for _, action := range []string{fsm.ActionBackup, fsm.ActionRestore} {
		forged := w.Command(fsm.KindRecord, "user/alice", action, "cluster", nil)
		if r := w.apply(forged)[0]; r.Code != fsm.CodeInvalid {
			t.Errorf("a leaf of action %s by a client: %+v", action, r)
		}
	}
}

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"
