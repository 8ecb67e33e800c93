package fsm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

func TestGenesisHappensOnce(t *testing.T) {
	w := emptyWorld(t)
	w.want(fsm.CodeInvalid, w.Vault("early"))
	if w.s.Time() != 0 {
		t.Errorf("cluster time %d before Genesis", w.s.Time())
	}
	w.want(fsm.CodeOK, w.Genesis())
	w.want(fsm.CodeInitialised, w.Genesis())
	c, ok := w.s.Cluster()
	if !ok || c.Name != "test" || c.Created != w.Now() || c.Changed != 2 {
		t.Errorf("cluster %+v", c)
	}
}

// Whatever a decision rested on: once it changed, in an earlier entry or an earlier record of the same one, what was
// decided on it does not happen, and the answer names the object.
func TestSupersededByEveryObject(t *testing.T) {
	token := fsmtest.HashOf("bob's")
	for _, c := range []struct {
		object string
		change func(*world) fsm.Command
	}{
		{fsm.ObjToken(token), func(w *world) fsm.Command { return w.do(fsm.KindTokenRevoke, fsm.TokenRevoke{Hash: token}) }},
		{fsm.ObjToken(token), func(w *world) fsm.Command {
			return w.do(fsm.KindTokenRevoke, fsm.TokenRevoke{Principal: "user/bob"})
		}},
		{fsm.ObjToken(token), func(w *world) fsm.Command { return w.disable("user/bob", true) }},
		{fsm.ObjToken(token), func(w *world) fsm.Command {
			return w.do(fsm.KindTokenRenew, fsm.TokenRenew{Hash: token, Expires: w.Now() + 7_200_000})
		}},
		{fsm.ObjUser("bob"), func(w *world) fsm.Command { return w.disable("user/bob", true) }},
		{fsm.ObjUser("carol"), func(w *world) fsm.Command { return w.user("carol") }},
		{fsm.ObjRoles("user/bob"), func(w *world) fsm.Command {
			return w.do(fsm.KindRoleRevoke, fsm.RoleRevoke{Role: "Auditor", Principal: "user/bob"})
		}},
		{fsm.ObjRoles("user/bob"), func(w *world) fsm.Command { return w.grant("Operator", "user/bob") }},
		{fsm.ObjPolicies, func(w *world) fsm.Command {
			return w.do(fsm.KindPolicyPut, fsm.PolicyPut{Policy: fsm.Policy{Name: "p", Text: "forbid"}})
		}},
		{fsm.ObjPolicies, func(w *world) fsm.Command { return w.do(fsm.KindPolicyDelete, fsm.PolicyDelete{Name: "old"}) }},
		{fsm.ObjVault("new"), func(w *world) fsm.Command { return w.Vault("new") }},
		{fsm.ObjVault("ml"), func(w *world) fsm.Command {
			return w.do(fsm.KindKeyAdd, fsm.KeyAdd{Key: fsm.WrappedKey{Purpose: "vault/ml", Generation: 2, Ciphertext: []byte("k")}})
		}},
		{fsm.ObjKey("vault/ml"), func(w *world) fsm.Command {
			return w.do(fsm.KindKeyAdd, fsm.KeyAdd{Key: fsm.WrappedKey{Purpose: "vault/ml", Generation: 2, Ciphertext: []byte("k")}})
		}},
		{fsm.ObjSecret("ml", "db"), func(w *world) fsm.Command { return w.Put("ml", "db", 3) }},
		{fsm.ObjSecret("ml", "db"), func(w *world) fsm.Command {
			return w.do(fsm.KindSecretDelete, fsm.SecretVersions{Vault: "ml", Path: "db"})
		}},
		{fsm.ObjCluster, func(w *world) fsm.Command { return w.do(fsm.KindSealFlag, fsm.SealFlag{Sealed: true}) }},
		{fsm.ObjMember("n1"), func(w *world) fsm.Command { return w.do(fsm.KindQuarantine, fsm.Quarantine{ID: "n1", On: true}) }},
		{fsm.ObjJoinToken(token), func(w *world) fsm.Command {
			return w.do(fsm.KindJoinTokenPut, fsm.JoinTokenPut{JoinToken: fsm.JoinToken{
				Hash: token, Node: "n2", Fingerprint: fsmtest.Fingerprint("n2"), Expires: w.Now() + 1000,
			}})
		}},
		{fsm.ObjSecretID(token), func(w *world) fsm.Command {
			return w.do(fsm.KindSecretIDPut, fsm.SecretIDPut{SecretID: fsm.SecretID{Hash: token, Workload: "train", Expires: w.Now() + 1000}})
		}},
		{fsm.ObjEnrolment(token), func(w *world) fsm.Command {
			return w.do(fsm.KindEnrolmentPut, fsm.EnrolmentPut{Enrolment: fsm.Enrolment{Hash: token, Expires: w.Now() + 1000}})
		}},
		{fsm.ObjCertificate(token), func(w *world) fsm.Command {
			return w.do(fsm.KindCertificate, fsm.Certificate{Principal: "user/bob", Key: token, Expires: w.Now() + 1000})
		}},
		{fsm.ObjWorkload("other"), func(w *world) fsm.Command {
			return w.do(fsm.KindWorkloadPut, fsm.WorkloadPut{Workload: fsm.Workload{Name: "other"}})
		}},
	} {
		for _, sameEntry := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%t", c.object, sameEntry), func(t *testing.T) {
				w := newWorld(t)
				w.ok(w.Put("ml", "db", 2), w.user("bob"), w.grant("Auditor", "user/bob"), w.login("user/bob", "bob's"),
					w.do(fsm.KindWorkloadPut, fsm.WorkloadPut{Workload: fsm.Workload{Name: "train"}}),
					w.do(fsm.KindPolicyPut, fsm.PolicyPut{Policy: fsm.Policy{Name: "old", Text: "permit"}}))
				read := w.Read("user/bob", fsm.Ref{Vault: "ml", Path: "db", Version: 1})
				read.Reads = w.reads(fsm.ObjUser("alice"), c.object)
				w.want(fsm.CodeOK, read)
				var r fsm.Result
				if sameEntry {
					results := w.apply(c.change(w), read)
					if results[0].Code != fsm.CodeOK {
						t.Fatalf("the change: %+v", results[0])
					}
					r = results[1]
				} else {
					w.ok(c.change(w))
					r = w.want(fsm.CodeSuperseded, read)
				}
				if r.Code != fsm.CodeSuperseded || r.Changed != c.object || r.Value != nil {
					t.Errorf("after the change: %+v", r)
				}
				if c.object != fsm.ObjCluster && c.object != fsm.ObjToken(token) {
					read.Reads = w.reads(fsm.ObjUser("alice"), c.object)
					w.want(fsm.CodeOK, read)
				}
			})
		}
	}
}

func TestReadReleasesAllOrNothing(t *testing.T) {
	w := newWorld(t)
	w.ok(w.Put("ml", "db", 2), w.Put("ml", "gone", 1), w.Put("ml", "gone", 2), w.Put("ml", "dead", 1),
		w.do(fsm.KindSecretDelete, fsm.SecretVersions{Vault: "ml", Path: "gone"}),
		w.do(fsm.KindSecretDestroy, fsm.SecretVersions{Vault: "ml", Path: "dead"}))

	r := w.want(fsm.CodeOK, w.Read("user/alice", fsm.Ref{Vault: "ml", Path: "db"}, fsm.Ref{Vault: "ml", Path: "db", Version: 1},
		fsm.Ref{Vault: "ml", Path: "gone", Version: 1}))
	values := r.Value.([]fsm.VersionData)
	for i, want := range []fsm.Ref{{"ml", "db", 2}, {"ml", "db", 1}, {"ml", "gone", 1}} {
		if values[i].Ref != want || !bytes.Equal(values[i].Data.Ciphertext, fsmtest.Sealed(want.Vault, want.Path, want.Version).Ciphertext) {
			t.Errorf("value %d: %+v", i, values[i].Ref)
		}
		if leaf := w.leaf(r.Audit + uint64(i)); leaf.Version != want.Version || leaf.Resource != want.Vault+"/"+want.Path || leaf.Outcome != fsm.CodeOK {
			t.Errorf("leaf %d: %+v", i, leaf)
		}
	}
	for _, c := range []struct {
		ref  fsm.Ref
		code fsm.Code
	}{
		{fsm.Ref{Vault: "ml", Path: "none"}, fsm.CodeNotFound},
		{fsm.Ref{Vault: "none", Path: "db"}, fsm.CodeNotFound},
		{fsm.Ref{Vault: "ml", Path: "db", Version: 3}, fsm.CodeNotFound},
		{fsm.Ref{Vault: "ml", Path: "gone"}, fsm.CodeDeleted},
		{fsm.Ref{Vault: "ml", Path: "dead"}, fsm.CodeDestroyed},
	} {
		r := w.want(c.code, w.Read("user/alice", fsm.Ref{Vault: "ml", Path: "db"}, c.ref))
		if r.Value != nil {
			t.Errorf("%+v: released %+v", c.ref, r.Value)
		}
		first, second := w.leaf(r.Audit), w.leaf(r.Audit+1)
		if first.Detail == "" || first.Outcome != c.code || second.Detail != "" {
			t.Errorf("%+v: leaves %+v, %+v", c.ref, first, second)
		}
	}
	w.ok(w.do(fsm.KindSecretRestore, fsm.SecretVersions{Vault: "ml", Path: "gone"}))
	w.want(fsm.CodeOK, w.Read("user/alice", fsm.Ref{Vault: "ml", Path: "gone"}))
	w.want(fsm.CodeDestroyed, w.do(fsm.KindSecretRestore, fsm.SecretVersions{Vault: "ml", Path: "dead"}))
	if _, ok := w.s.VersionData("ml", "dead", 1); ok {
		t.Error("a destroyed version still has its data key")
	}

	unmatched := w.Read("user/alice", fsm.Ref{Vault: "ml", Path: "db"}, fsm.Ref{Vault: "ml", Path: "db"})
	unmatched.Audits = unmatched.Audits[:1]
	if r := w.want(fsm.CodeInvalid, unmatched); r.Value != nil {
		t.Error("a value without a record of its own was released")
	}
	silent := w.Read("user/alice", fsm.Ref{Vault: "ml", Path: "db"})
	silent.Audits = nil
	if r := w.want(fsm.CodeInvalid, silent); r.Value != nil {
		t.Error("a value without a record was released")
	}
	denied := w.Read("user/alice", fsm.Ref{Vault: "ml", Path: "db"})
	denied.Audits[0].Decision = fsm.Denied
	if r := w.want(fsm.CodeInvalid, denied); r.Value != nil {
		t.Error("a denied read was released")
	}
}

func TestPutNeedsItsNumberAndKey(t *testing.T) {
	w := newWorld(t)
	put := func(cas int64, version, generation uint32) fsm.Command {
		data := fsmtest.Sealed("ml", "db", version)
		data.Generation = generation
		return w.do(fsm.KindSecretPut, fsm.SecretPut{Vault: "ml", Path: "db", Version: version, CAS: cas, Data: data})
	}
	if r := w.want(fsm.CodeSuperseded, put(-1, 1, 1)); r.Changed != fsm.ObjSecret("ml", "db") {
		t.Errorf("%+v", r)
	}
	if r := w.want(fsm.CodeConflict, put(0, 2, 1)); r.Version != 1 {
		t.Errorf("%+v", r)
	}
	if r := w.want(fsm.CodeOK, put(1, 2, 1)); r.Version != 2 {
		t.Errorf("%+v", r)
	}
	w.want(fsm.CodeNotFound, w.Put("none", "db", 1))
	w.want(fsm.CodeInvalid, w.Put("ml", "", 1))
	w.want(fsm.CodeInvalid, w.Put("ml", "nul\x00", 1))
	w.want(fsm.CodeInvalid, w.Put("m/l", "db", 1))
	w.ok(w.do(fsm.KindKeyAdd, fsm.KeyAdd{Key: fsm.WrappedKey{Purpose: "vault/ml", Generation: 2, Ciphertext: []byte("k")}}))
	if r := w.want(fsm.CodeSuperseded, put(-1, 3, 1)); r.Changed != fsm.ObjKey("vault/ml") {
		t.Errorf("%+v", r)
	}
	w.want(fsm.CodeOK, put(-1, 3, 2))
	// Two puts reserved for one number, in one entry: the second is decided again.
	results := w.apply(put(-1, 4, 2), put(-1, 4, 2))
	if results[0].Code != fsm.CodeOK || results[1].Code != fsm.CodeSuperseded {
		t.Errorf("%+v", results)
	}
	if key, ok := w.s.Key("vault/ml", 2); !ok || key.Wraps != 2 {
		t.Errorf("%d wraps are counted, 2 were made", key.Wraps)
	}
	stages := ""
	for _, v := range w.s.Versions("ml", "db") {
		stages += fmt.Sprintf("%d:%d ", v.Number, v.Stage)
	}
	if want := fmt.Sprintf("1:%d 2:%[1]d 3:%d 4:%d ", fsm.StageOld, fsm.StagePrevious, fsm.StageCurrent); stages != want {
		t.Errorf("stages %s, want %s", stages, want)
	}
	w.want(fsm.CodeExists, w.Vault("ml"))
}

func TestOldestVersionIsForgotten(t *testing.T) {
	w := newWorld(t)
	for n := uint32(2); n <= fsm.MaxVersions+3; n++ {
		w.ok(w.Put("ml", "db", n))
	}
	head, _ := w.s.Secret("ml", "db")
	if versions := w.s.Versions("ml", "db"); head.Oldest != 4 || len(versions) != fsm.MaxVersions || versions[0].Number != 4 {
		t.Errorf("head %+v, %d versions", head, len(versions))
	}
	w.want(fsm.CodeNotFound, w.Read("user/alice", fsm.Ref{Vault: "ml", Path: "db", Version: 3}))
	if _, ok := w.s.VersionData("ml", "db", 3); ok {
		t.Error("the data of a forgotten version is still there")
	}
}

func TestListsPage(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"a/1", "a/2", "a-1", "a/10", "b"} {
		w.ok(w.Put("ml", path, 1))
	}
	w.ok(w.Vault("ml2"), w.Put("ml2", "a/9", 1))
	list := func(prefix, after string, limit int) (out string) {
		for _, s := range w.s.Secrets("ml", prefix, after, limit) {
			out += s.Path + " "
		}
		return out
	}
	for _, c := range []struct {
		prefix, after string
		limit         int
		want          string
	}{
		{"", "", 100, "a-1 a/1 a/10 a/2 b db "}, {"a/", "", 100, "a/1 a/10 a/2 "}, {"a/", "a/1", 1, "a/10 "},
		{"", "a/2", 100, "b db "}, {"x", "", 5, ""}, {"", "", 0, ""},
	} {
		if got := list(c.prefix, c.after, c.limit); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestRequestTakesEffectOnce(t *testing.T) {
	w := newWorld(t)
	put := w.Put("ml", "db", 2)
	first := w.want(fsm.CodeOK, put)
	again := w.want(fsm.CodeOK, put)
	if !again.Duplicate || again.Index != first.Index || again.Version != 2 || again.Audit == first.Audit {
		t.Errorf("retry: %+v, first: %+v", again, first)
	}
	if leaf := w.leaf(again.Audit); leaf.Detail != "duplicate" || leaf.Outcome != fsm.CodeOK || leaf.Version != 2 {
		t.Errorf("leaf of the retry: %+v", leaf)
	}
	known, ok := w.s.Remembered("user/alice", put.Request)
	if !ok || known.Code != fsm.CodeOK || known.Version != 2 || !bytes.Equal(known.Fingerprint, put.Fingerprint) {
		t.Errorf("remembered: %+v", known)
	}
	other := put
	other.Fingerprint = []byte("other")
	w.want(fsm.CodeRequestReused, other)
	// Another principal's id of the same bits is another id.
	mallory := put
	mallory.Principal, mallory.Fingerprint = "user/mallory", []byte("other")
	w.want(fsm.CodeSuperseded, mallory)

	// In one entry.
	put3 := w.Put("ml", "db", 3)
	results := w.apply(put3, put3)
	if results[0].Duplicate || !results[1].Duplicate || results[1].Code != fsm.CodeOK {
		t.Errorf("%+v", results)
	}
	// Refusals that a retry must get again, even where it would succeed by now.
	missing := w.do(fsm.KindSecretDelete, fsm.SecretVersions{Vault: "ml", Path: "later"})
	w.want(fsm.CodeNotFound, missing)
	w.ok(w.Put("ml", "later", 1))
	if r := w.want(fsm.CodeNotFound, missing); !r.Duplicate {
		t.Errorf("%+v", r)
	}
	// Superseded, sealed and denied leave the id free.
	stale := w.Put("ml", "db", 9)
	w.want(fsm.CodeSuperseded, stale)
	stale.Body = w.Put("ml", "db", 4).Body
	w.ok(w.do(fsm.KindSealFlag, fsm.SealFlag{Sealed: true}))
	w.want(fsm.CodeSealed, stale)
	w.ok(w.lift("n1"))
	denial := w.do(fsm.KindRecord, nil)
	denial.Audits[0].Decision, denial.Request, denial.Fingerprint = fsm.Denied, stale.Request, stale.Fingerprint
	if r := w.want(fsm.CodeOK, denial); w.leaf(r.Audit).Outcome != fsm.CodeDenied {
		t.Errorf("leaf of a denial: %+v", w.leaf(r.Audit))
	}
	w.want(fsm.CodeOK, stale)
}

func TestRequestMemoryEnds(t *testing.T) {
	w := newWorld(t)
	day := fsm.RequestMemory.Milliseconds()
	old, ahead, random := w.Put("ml", "db", 2), w.Put("ml", "db", 2), w.Put("ml", "db", 2)
	old.Request = fsmtest.RequestID(w.Now()-day-1, 1)
	w.want(fsm.CodeRequestExpired, old)
	ahead.Request = fsmtest.RequestID(w.Now()+day+1, 1)
	w.want(fsm.CodeInvalid, ahead)
	random.Request = [16]byte{1, 2, 3}
	w.want(fsm.CodeInvalid, random)

	first := w.Put("ml", "db", 2)
	w.ok(first)
	w.later(day)
	if r := w.want(fsm.CodeOK, first); !r.Duplicate {
		t.Errorf("%+v", r)
	}
	w.later(1)
	w.want(fsm.CodeRequestExpired, first)
	if _, ok := w.s.Remembered("user/alice", first.Request); ok {
		t.Error("still remembered")
	}
}

// A sweep takes a bounded number of keys and goes on where it stopped, until nothing that is due is left.
func TestSweepIsBoundedAndFinishes(t *testing.T) {
	w := newWorld(t)
	for range 10 {
		commands := make([]fsm.Command, 50)
		for i := range commands {
			commands[i] = w.do(fsm.KindPolicyPut, fsm.PolicyPut{Policy: fsm.Policy{Name: "p", Text: "permit"}})
		}
		w.ok(commands...)
	}
	remembered := func() (n int) {
		if err := w.s.Replicated(func(key, _ []byte) error {
			if bytes.HasPrefix(key, []byte("request/")) {
				n++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := remembered()
	w.Time += 25 * 3_600_000
	w.ok(w.jump(w.Time))
	w.ok(w.tick())
	if after := remembered(); after >= before || after < before-200 {
		t.Errorf("two entries took %d of %d", before-after, before)
	}
	for range 20 {
		w.ok(w.tick())
	}
	if n := remembered(); n != 0 {
		t.Errorf("%d requests are left", n)
	}
}

func (w *world) jump(to int64) fsm.Command {
	return w.Command(fsm.KindClockJump, "node/n1", "clock", "cluster", fsm.ClockJump{To: to, Readings: []fsm.ClockReading{{Node: "n1"}}})
}

func TestClusterTime(t *testing.T) {
	w := newWorld(t)
	start := w.s.Time()
	w.Time = start - 1000
	if r := w.want(fsm.CodeOK, w.user("a")); r.Time != start {
		t.Errorf("time went back to %d", r.Time)
	}
	step := fsm.MaxClockStep.Milliseconds()
	w.Time = start + step + 1
	for _, r := range w.apply(w.user("b"), w.tick(), w.jump(w.Time)) {
		if r.Code != fsm.CodeClock || r.Time != start {
			t.Errorf("%+v", r)
		}
	}
	w.Time = start + step
	if r := w.want(fsm.CodeOK, w.user("b")); r.Time != w.Time {
		t.Errorf("%+v", r)
	}
	// A jump may only come first, and is bounded itself.
	w.Time += 1_000_000
	results := w.apply(w.jump(w.Time), w.user("c"))
	if results[0].Code != fsm.CodeOK || results[1].Code != fsm.CodeOK || results[1].Time != w.Time {
		t.Errorf("%+v", results)
	}
	results = w.apply(w.user("d"), w.jump(w.Time+1))
	if results[0].Code != fsm.CodeOK || results[1].Code != fsm.CodeClock {
		t.Errorf("%+v", results)
	}
	to := w.Time + 1_000_000
	w.Time = to + step + 1
	results = w.apply(w.jump(to), w.user("e"))
	if results[0].Code != fsm.CodeOK || results[1].Code != fsm.CodeClock || w.s.Time() != to {
		t.Errorf("%+v", results)
	}
	w.Time = to
	// Who read the clocks: approved members, each once. Approved members that are no voters do not count against it.
	w.ok(w.joinToken("n2"), w.join("n2", nil), w.joinToken("n3"), w.join("n3", nil), w.approve("n3"))
	for _, nodes := range [][]string{nil, {"stranger"}, {"n1", "stranger"}, {"n2"}, {"n1", "n2"}, {"n1", "n1"}} {
		body := fsm.ClockJump{To: to + 1}
		for _, n := range nodes {
			body.Readings = append(body.Readings, fsm.ClockReading{Node: n})
		}
		unbacked := w.jump(to + 1)
		unbacked.Body = fsm.EncodeBody(fsm.KindClockJump, body)
		w.want(fsm.CodeInvalid, unbacked)
	}
	if w.s.Time() != to {
		t.Errorf("time moved to %d", w.s.Time())
	}
	w.want(fsm.CodeOK, w.jump(to+1))
}

func TestDutiesAreFencedByTerm(t *testing.T) {
	w := newWorld(t)
	c := w.tick()
	c.Term = 1
	w.want(fsm.CodeOK, c)
	w.Term = 2
	w.want(fsm.CodeFenced, c)
	c.Term = 2
	w.want(fsm.CodeOK, c)
}

// One bad record spoils none of its neighbours.
func TestBadRecordStandsAlone(t *testing.T) {
	w := newWorld(t)
	good := func(n uint32) []byte { return fsm.EncodeCommand(w.Put("ml", "db", n)) }
	withBody := func(body []byte) []byte {
		c := w.Put("ml", "db", 2)
		c.Body = body
		return fsm.EncodeCommand(c)
	}
	many := w.Put("ml", "db", 2)
	many.Audits = make([]fsm.Audit, fsm.MaxRefs+1)
	deep := w.Put("ml", "db", 2)
	deep.Reads = make([]fsm.Read, fsm.MaxReads+1)
	strange := w.Put("ml", "db", 2)
	strange.Reads = []fsm.Read{{Object: "data/ml/db\x00\x00\x00\x00\x01"}}
	nobody := w.Put("ml", "db", 2)
	nobody.Principal = ""
	bad := [][]byte{
		nil, {fsm.CommandFormat}, {fsm.CommandFormat, 0xc1}, make([]byte, fsm.MaxRecord+1), withBody(nil), withBody([]byte{fsm.BodyFormat}),
		withBody([]byte{fsm.BodyFormat, 0x93}), fsm.EncodeCommand(many), fsm.EncodeCommand(deep), fsm.EncodeCommand(strange), fsm.EncodeCommand(nobody),
	}
	e := fsm.Entry{Time: w.Now()}
	for i, b := range bad {
		e.Records = append(e.Records, b, good(uint32(2+i)))
	}
	results := w.s.Apply(w.Log(e)).([]fsm.Result)
	for i, r := range results {
		if want := []fsm.Code{fsm.CodeInvalid, fsm.CodeOK}[i%2]; r.Code != want {
			t.Errorf("record %d: %+v", i, r)
		}
	}
	if head, _ := w.s.Secret("ml", "db"); int(head.Current) != 1+len(bad) {
		t.Errorf("version %d is current", head.Current)
	}
}

// What another version of Hizo wrote stops the node before anything of it is visible.
func TestUnknownFormatHalts(t *testing.T) {
	build := &fsmtest.Builder{}
	good := fsm.EncodeCommand(build.Genesis())
	unknownKind := build.Genesis()
	unknownKind.Kind = 4711
	unknownBody := build.Genesis()
	unknownBody.Body[0] = 9
	for name, data := range map[string][]byte{
		"entry format":   append([]byte{9}, fsm.EncodeEntry(fsm.Entry{Records: [][]byte{good}})[1:]...),
		"command format": fsm.EncodeEntry(fsm.Entry{Records: [][]byte{good, append([]byte{9}, good[1:]...)}}),
		"command kind":   fsm.EncodeEntry(fsm.Entry{Records: [][]byte{good, fsm.EncodeCommand(unknownKind)}}),
		"body format":    fsm.EncodeEntry(fsm.Entry{Records: [][]byte{good, fsm.EncodeCommand(unknownBody)}}),
	} {
		t.Run(name, func(t *testing.T) {
			var halted error
			s, err := fsm.Open(fsm.Options{Dir: "state", FS: vfs.NewMem(), Halt: func(err error) { halted = err }})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			func() {
				defer func() {
					if recover() == nil {
						t.Error("Apply returned")
					}
				}()
				s.Apply(&raft.Log{Index: 7, Term: 1, Data: data})
			}()
			if _, ok := errors.AsType[*fsm.UnknownFormatError](halted); !ok {
				t.Errorf("halted with %v", halted)
			}
			if _, ok := s.Cluster(); ok || s.Position().Index != 0 || s.AuditSize() != 0 {
				t.Error("part of the entry is visible")
			}
		})
	}
}

// An entry of garbage that is not another version's is every replica's garbage: it changes nothing but the position.
func TestMalformedEntryIsSkipped(t *testing.T) {
	w := newWorld(t)
	before, err := fsmtest.Hash(w.s)
	if err != nil {
		t.Fatal(err)
	}
	entry := w.Entry(w.user("x"))
	entry.Data = entry.Data[:len(entry.Data)/2]
	if err, ok := w.s.Apply(entry).(error); !ok || !errors.Is(err, fsm.ErrMalformed) {
		t.Errorf("%v", err)
	}
	after, err := fsmtest.Hash(w.s)
	if err != nil || after != before || w.s.Position().Index != entry.Index {
		t.Errorf("state changed, or position is %+v (%v)", w.s.Position(), err)
	}
	// What was applied is skipped.
	entry = w.Entry(w.user("y"))
	if r := w.s.Apply(entry).([]fsm.Result); len(r) != 1 || r[0].Code != fsm.CodeOK {
		t.Fatalf("%+v", r)
	}
	if r := w.s.Apply(entry).([]fsm.Result); r != nil {
		t.Errorf("applied twice: %+v", r)
	}
}

func TestWaitApplied(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	next := w.s.Position().Index + 1
	go func() { done <- w.s.WaitApplied(ctx, next) }()
	changed := w.s.Changed()
	w.ok(w.tick())
	if err := <-done; err != nil {
		t.Error(err)
	}
	<-changed
	cancel()
	if err := w.s.WaitApplied(ctx, next+100); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
