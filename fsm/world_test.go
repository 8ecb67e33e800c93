package fsm_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// world is one store and the history it is told. Every test of it ends with the invariants.
type world struct {
	*fsmtest.Builder
	t *testing.T
	s *fsm.Store
}

// newWorld has a cluster, the SecurityEngineer alice with the token "t", and the vault ml with one secret, db.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := emptyWorld(t)
	w.ok(w.Genesis(), w.Enrol("alice", "t"), w.Vault("ml"), w.Put("ml", "db", 1))
	return w
}

func emptyWorld(t *testing.T) *world {
	t.Helper()
	s, err := fsm.Open(fsm.Options{Dir: "state", FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			fsmtest.Check(t, s)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &world{Builder: &fsmtest.Builder{}, t: t, s: s}
}

// apply applies one entry.
func (w *world) apply(commands ...fsm.Command) []fsm.Result {
	w.t.Helper()
	results, ok := w.s.Apply(w.Entry(commands...)).([]fsm.Result)
	if !ok || len(results) != len(commands) {
		w.t.Fatalf("entry of %d records: %+v", len(commands), results)
	}
	return results
}

func (w *world) ok(commands ...fsm.Command) {
	w.t.Helper()
	for i, r := range w.apply(commands...) {
		if r.Code != fsm.CodeOK {
			w.t.Fatalf("record %d: %+v", i, r)
		}
	}
}

// want applies one command in an entry of its own and compares its code.
func (w *world) want(code fsm.Code, c fsm.Command) fsm.Result {
	w.t.Helper()
	before := w.s.AuditSize()
	r := w.apply(c)[0]
	if r.Code != code {
		w.t.Errorf("code %d, want %d: %+v", r.Code, code, r)
	}
	// Every outcome but these three leaves its record, with the outcome in it.
	leaves := w.s.AuditSize() - before
	switch r.Code {
	case fsm.CodeSuperseded, fsm.CodeFenced, fsm.CodeClock:
		if leaves != 0 {
			w.t.Errorf("code %d wrote %d leaves", r.Code, leaves)
		}
	default:
		if leaves != uint64(len(c.Audits)) {
			w.t.Errorf("%d leaves for %d audits", leaves, len(c.Audits))
		}
		for i := range leaves {
			if leaf := w.leaf(before + i); leaf.Outcome != r.Code && !(r.Code == fsm.CodeOK && leaf.Decision != fsm.Allowed) {
				w.t.Errorf("the leaf says %d, the result %d", leaf.Outcome, r.Code)
			}
		}
	}
	return r
}

func (w *world) leaf(seq uint64) fsm.AuditRecord {
	w.t.Helper()
	data, err := w.s.AuditLeaf(seq)
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := fsm.ParseLeaf(data)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// reads is a read set as of now.
func (w *world) reads(objects ...string) []fsm.Read {
	var out []fsm.Read
	for _, o := range objects {
		out = append(out, fsm.Read{Object: o, Index: w.s.Index(o)})
	}
	return out
}

func (w *world) do(kind fsm.Kind, body any) fsm.Command {
	return w.Command(kind, "user/alice", "test", "resource", body)
}

func (w *world) user(name string) fsm.Command {
	return w.do(fsm.KindUserPut, fsm.UserPut{User: fsm.User{Name: name}})
}

func (w *world) grant(role, principal string) fsm.Command {
	return w.do(fsm.KindRoleGrant, fsm.RoleBinding{Role: role, Principal: principal, By: "user/alice"})
}

func (w *world) login(principal, token string) fsm.Command {
	return w.Command(fsm.KindLogin, principal, "login", principal, fsm.Login{Token: w.Token(principal, token), ClientKey: []byte("client")})
}

func (w *world) disable(principal string, on bool) fsm.Command {
	return w.do(fsm.KindUserDisable, fsm.PrincipalDisable{Principal: principal, Disabled: on})
}

// later lets time pass, in steps that cluster time allows.
func (w *world) later(ms int64) {
	w.t.Helper()
	for ms > 0 {
		step := min(ms, 300_000)
		ms -= step
		w.Time += step
		w.ok(w.tick())
	}
}

func (w *world) tick() fsm.Command {
	return fsm.Command{Kind: fsm.KindTick, Principal: "node/n1", Body: fsm.EncodeBody(fsm.KindTick, fsm.Tick{})}
}
