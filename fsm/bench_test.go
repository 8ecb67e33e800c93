package fsm_test

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// benchStore is a store on disk with a vault, 64 secrets and a workload with a token.
func benchStore(b *testing.B, fs vfs.FS, dir string) (*fsm.Store, *fsmtest.Builder) {
	b.Helper()
	s, err := fsm.Open(fsm.Options{Dir: dir, FS: fs})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	build := &fsmtest.Builder{}
	setup := []fsm.Command{
		build.Genesis(), build.Enrol("alice", "token"), build.Vault("ml"),
		build.Command(fsm.KindPolicyPut, "user/alice", "policy.put", "p", fsm.PolicyPut{Policy: fsm.Policy{Name: "p", Text: "permit"}}),
	}
	for i := range 64 {
		setup = append(setup, build.Put("ml", fmt.Sprintf("db/password-%d", i), 1))
	}
	for i, r := range s.Apply(build.Entry(setup...)).([]fsm.Result) {
		if r.Code != fsm.CodeOK {
			b.Fatalf("setup %d: %+v", i, r)
		}
	}
	return s, build
}

func reads(s *fsm.Store) []fsm.Read {
	var out []fsm.Read
	for _, object := range []string{
		fsm.ObjToken(fsmtest.HashOf("token")), fsm.ObjUser("alice"), fsm.ObjRoles("user/alice"), fsm.ObjPolicies, fsm.ObjVault("ml"),
	} {
		out = append(out, fsm.Read{Object: object, Index: s.Index(object)})
	}
	return out
}

// One op is one audited read of 256 bytes in an entry of 64: decoding, read set, leaf, tree, batch.
func BenchmarkApplyRead(b *testing.B) {
	s, build := benchStore(b, nil, b.TempDir())
	const records = 64
	commands := make([]fsm.Command, records)
	for i := range commands {
		commands[i] = build.Read("user/alice", fsm.Ref{Vault: "ml", Path: fmt.Sprintf("db/password-%d", i)})
		commands[i].Reads = reads(s)
		commands[i].Audits[0].Sealed = make([]byte, 150)
	}
	benchApply(b, s, build, commands)
}

// One op is one put of a new version of 300 bytes of ciphertext in an entry of 64.
func BenchmarkApplyPut(b *testing.B) {
	s, build := benchStore(b, nil, b.TempDir())
	const records = 64
	versions := uint32(1)
	read := reads(s)
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += records {
		b.StopTimer()
		versions++
		commands := make([]fsm.Command, records)
		for i := range commands {
			commands[i] = build.Put("ml", fmt.Sprintf("db/password-%d", i), versions)
			commands[i].Reads = read
		}
		entry := build.Entry(commands...)
		b.StartTimer()
		for _, r := range s.Apply(entry).([]fsm.Result) {
			if r.Code != fsm.CodeOK {
				b.Fatalf("%+v", r)
			}
		}
	}
}

func benchApply(b *testing.B, s *fsm.Store, build *fsmtest.Builder, commands []fsm.Command) {
	b.Helper()
	e := fsm.Entry{Time: build.Now()}
	for _, c := range commands {
		e.Records = append(e.Records, fsm.EncodeCommand(c))
	}
	entry := build.Log(e)
	b.SetBytes(int64(len(entry.Data) / len(commands)))
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += len(commands) {
		for _, r := range s.Apply(entry).([]fsm.Result) {
			if r.Code != fsm.CodeOK {
				b.Fatalf("%+v", r)
			}
		}
		build.Index++
		entry = &raft.Log{Index: build.Index, Term: 1, Data: entry.Data}
	}
}

func BenchmarkEncodeCommand(b *testing.B) {
	build := &fsmtest.Builder{}
	c := build.Read("user/alice", fsm.Ref{Vault: "ml", Path: "db/password"})
	b.ReportAllocs()
	for b.Loop() {
		if len(fsm.EncodeCommand(c)) == 0 {
			b.Fatal("empty")
		}
	}
}

func BenchmarkDecodeCommand(b *testing.B) {
	build := &fsmtest.Builder{}
	c := build.Read("user/alice", fsm.Ref{Vault: "ml", Path: "db/password"})
	c.Reads = []fsm.Read{{Object: fsm.ObjToken(fsmtest.HashOf("token")), Index: 5}, {Object: "user/alice", Index: 4}, {Object: "roles/user/alice", Index: 3}, {Object: "policies", Index: 2}, {Object: "vault/ml", Index: 1}}
	data := fsm.EncodeCommand(c)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := fsm.DecodeCommand(data); err != nil {
			b.Fatal(err)
		}
	}
}

// The reads that authenticating and deciding one request takes.
func BenchmarkHotReads(b *testing.B) {
	s, _ := benchStore(b, nil, b.TempDir())
	hash := fsmtest.HashOf("token")
	b.ReportAllocs()
	for b.Loop() {
		t, ok := s.Token(hash)
		u, _ := s.User("alice")
		roles := s.Roles(t.Principal)
		v, _ := s.Vault("ml")
		p := s.Index(fsm.ObjPolicies)
		if !ok || u.Changed == 0 || len(roles) != 1 || v.Changed == 0 || p == 0 {
			b.Fatal("missing")
		}
	}
}
