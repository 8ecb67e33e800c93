package fsm_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// build is a store of a build that knows levels up to highest. What makes it stop is in *stopped.
func build(t *testing.T, disk vfs.FS, highest uint32) (s *fsm.Store, stopped *error, err error) {
	t.Helper()
	stopped = new(error)
	s, err = fsm.Open(fsm.Options{Dir: "state", FS: disk, Level: highest, Halt: func(why error) { *stopped = why }})
	return s, stopped, err
}

func raise(b *fsmtest.Builder, level uint32) fsm.Command {
	return b.Command(fsm.KindLevelRaise, "node/n1", "level", "cluster", fsm.LevelRaise{Level: level})
}

func announce(b *fsmtest.Builder, node string, level uint32) fsm.Command {
	return b.Command(fsm.KindMemberUpdate, "node/n1", "", "", fsm.MemberUpdate{Member: fsm.Member{ID: node, Level: level}})
}

// twoMembers has n1 and n2, which announced level 2, with a build that knows 2.
func twoMembers(t *testing.T, b *fsmtest.Builder) []*raft.Log {
	return []*raft.Log{
		b.Entry(b.Genesis()),
		b.Entry(b.Command(fsm.KindJoinTokenPut, "user/alice", "join-token", "n2", fsm.JoinTokenPut{JoinToken: fsm.JoinToken{
			Hash: fsmtest.HashOf("join"), Node: "n2", Fingerprint: fsmtest.Fingerprint("n2"), Expires: b.Now() + 3_600_000,
		}})),
		b.Entry(b.Command(fsm.KindMemberJoin, "node/n2", "join", "n2", fsm.MemberJoin{
			Token: fsmtest.HashOf("join"), Member: fsm.Member{ID: "n2", PeerAddr: "n2:1", Key: fsmtest.Key("n2"), SealKind: "pkcs11", Level: 2},
		})),
	}
}

func code(t *testing.T, s *fsm.Store, log *raft.Log) fsm.Code {
	t.Helper()
	results, ok := s.Apply(log).([]fsm.Result)
	if !ok || len(results) != 1 {
		t.Fatalf("entry %d: %+v", log.Index, results)
	}
	return results[0].Code
}

// The level rises by one record, which every member has to have announced.
func TestLevelRaise(t *testing.T) {
	var b fsmtest.Builder
	s, _, err := build(t, vfs.NewMem(), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Level() != 1 {
		t.Errorf("an empty state is at level %d", s.Level())
	}
	for _, log := range twoMembers(t, &b) {
		if got := code(t, s, log); got != fsm.CodeOK {
			t.Fatalf("entry %d: code %d", log.Index, got)
		}
	}
	for _, step := range []struct {
		what  string
		do    fsm.Command
		want  fsm.Code
		level uint32
	}{
		{"n1 has announced nothing", raise(&b, 2), fsm.CodeLevel, 1},
		{"n1 announces an older build", announce(&b, "n1", 1), fsm.CodeOK, 1},
		{"n1 is of level 1", raise(&b, 2), fsm.CodeLevel, 1},
		{"no level", raise(&b, 0), fsm.CodeExists, 1},
		{"n1 announces", announce(&b, "n1", 2), fsm.CodeOK, 1},
		{"n1 says nothing of its level", announce(&b, "n1", 0), fsm.CodeOK, 1},
		{"nobody knows 3", raise(&b, 3), fsm.CodeLevel, 1},
		{"all know 2", raise(&b, 2), fsm.CodeOK, 2},
		{"it is at 2", raise(&b, 2), fsm.CodeExists, 2},
		{"it never falls", raise(&b, 1), fsm.CodeExists, 2},
		{"an older build announces itself", announce(&b, "n2", 1), fsm.CodeOK, 2},
	} {
		if got := code(t, s, b.Entry(step.do)); got != step.want || s.Level() != step.level {
			t.Errorf("%s: code %d at level %d, want %d at %d", step.what, got, s.Level(), step.want, step.level)
		}
	}
	fsmtest.Check(t, s)

	// Who joins has to know the level by then, and a first node starts at its own.
	join := func(level uint32) fsm.Command {
		return b.Command(fsm.KindMemberJoin, "node/n3", "join", "n3", fsm.MemberJoin{
			Token: fsmtest.HashOf("join3"), Member: fsm.Member{ID: "n3", PeerAddr: "n3:1", Key: fsmtest.Key("n3"), SealKind: "pkcs11", Level: level},
		})
	}
	if got := code(t, s, b.Entry(b.Command(fsm.KindJoinTokenPut, "user/alice", "join-token", "n3", fsm.JoinTokenPut{JoinToken: fsm.JoinToken{
		Hash: fsmtest.HashOf("join3"), Node: "n3", Fingerprint: fsmtest.Fingerprint("n3"), Expires: b.Now() + 3_600_000,
	}}))); got != fsm.CodeOK {
		t.Fatal(got)
	}
	for level, want := range map[uint32]fsm.Code{0: fsm.CodeLevel, 1: fsm.CodeLevel} {
		if got := code(t, s, b.Entry(join(level))); got != want {
			t.Errorf("a member of level %d joins a cluster of level 2: code %d", level, got)
		}
	}
	if got := code(t, s, b.Entry(join(3))); got != fsm.CodeOK {
		t.Errorf("a member of level 3 joins a cluster of level 2: code %d", got)
	}
}

// What a build that is put back to an older one meets: the raise in its log, the state on its disk, a snapshot of the
// others. It stops each time with one sentence, and has not touched anything, so that the right build goes on.
func TestOlderBuildStops(t *testing.T) {
	var b fsmtest.Builder
	logs := append(twoMembers(t, &b), b.Entry(announce(&b, "n1", 2)), b.Entry(raise(&b, 2)), b.Entry(b.Enrol("alice", "t")))
	disk := vfs.NewMem()
	newer, _, err := build(t, disk, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, log := range logs {
		newer.Apply(log)
	}

	older, stopped, err := build(t, vfs.NewMem(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer older.Close()
	func() {
		defer func() { _ = recover() }()
		for _, log := range logs {
			older.Apply(log)
		}
	}()
	wantLevelError(t, "the raise in its log", *stopped)
	if got := older.Position().Index; got != 4 || older.Level() != 1 {
		t.Errorf("the older build stopped at %d, level %d, and not before the raise", got, older.Level())
	}

	snaps, err := fsm.NewSnapshots(newer, fsm.SnapshotOptions{Dir: "snapshots", FS: disk})
	if err != nil {
		t.Fatal(err)
	}
	stream := snapshotOf(t, newer, snaps)
	for _, initialised := range []bool{false, true} {
		s, stopped, err := build(t, vfs.NewMem(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if initialised {
			s.Apply(logs[0])
		}
		var failed error
		func() {
			defer func() { _ = recover() }()
			failed = s.Restore(io.NopCloser(stream()))
		}()
		if initialised { // it would be sent for ever
			failed = *stopped
		}
		wantLevelError(t, "a snapshot", failed)
		if s.Level() != 1 || initialised && s.Position().Index != 1 {
			t.Errorf("the snapshot left level %d at %d", s.Level(), s.Position().Index)
		}
	}

	if err := newer.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, err = build(t, disk, 1)
	wantLevelError(t, "the state on its disk", err)
	again, _, err := build(t, disk, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Position().Index != 6 || again.Level() != 2 {
		t.Errorf("the right build finds index %d, level %d", again.Position().Index, again.Level())
	}
}

func wantLevelError(t *testing.T, what string, err error) {
	t.Helper()
	if e, ok := errors.AsType[*fsm.LevelError](err); !ok || *e != (fsm.LevelError{Cluster: 2, Build: 1}) {
		t.Errorf("%s: %v", what, err)
	}
}

// snapshotOf takes a snapshot and returns readers of what is sent of it.
func snapshotOf(t *testing.T, s *fsm.Store, snaps *fsm.Snapshots) func() io.Reader {
	t.Helper()
	point, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	k, err := snaps.Create(1, s.Position().Index, s.Position().Term, raft.Configuration{}, 1, nil)
	if err == nil {
		err = errors.Join(point.Persist(k), k.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	_, from, err := snaps.Open(k.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	data, err := io.ReadAll(from)
	if err != nil {
		t.Fatal(err)
	}
	return func() io.Reader { return bytes.NewReader(data) }
}
