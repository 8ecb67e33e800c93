package fsm_test

import (
	"testing"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// Data keys move only from where they are, a generation goes only when it wraps nothing, and counts are right all along.
func TestRewrapAndRetire(t *testing.T) {
	w := newWorld(t)
	put := func(path string, version, generation uint32) {
		t.Helper()
		data := fsmtest.Sealed("ml", path, version)
		data.Generation = generation
		w.ok(w.do(fsm.KindSecretPut, fsm.SecretPut{Vault: "ml", Path: path, Version: version, CAS: -1, Data: data}))
	}
	put("a", 1, 1)
	put("b", 1, 1)
	put("b", 2, 1)
	add := func(generation uint32) fsm.Command {
		return w.do(fsm.KindKeyAdd, fsm.KeyAdd{Key: fsm.WrappedKey{Purpose: "vault/ml", Generation: generation, RootGeneration: 1, Ciphertext: []byte("key")}})
	}
	retire := func(generation uint32) fsm.Command {
		return w.do(fsm.KindKeyRetire, fsm.KeyRetire{Purpose: "vault/ml", Generation: generation})
	}
	rewrap := func(generation uint32, items ...fsm.RewrappedKey) fsm.Command {
		c := w.do(fsm.KindKeyRewrap, fsm.KeyRewrap{Vault: "ml", Generation: generation, Items: items})
		c.Audits = nil
		return c
	}
	item := func(path string, version, from uint32) fsm.RewrappedKey {
		return fsm.RewrappedKey{Path: path, Version: version, From: from, WrappedKey: []byte("rewrapped")}
	}
	data := func(path string, version uint32) fsm.SealedValue {
		results := w.apply(w.Read("user/alice", fsm.Ref{Vault: "ml", Path: path, Version: version}))
		return results[0].Value.([]fsm.VersionData)[0].Data
	}
	live := func(generation uint32) uint64 { k, _ := w.s.Key("vault/ml", generation); return k.Live }
	w.want(fsm.CodeConflict, retire(1)) // the newest
	w.ok(add(2))
	put("c", 1, 2)
	w.want(fsm.CodeConflict, retire(1)) // in use
	w.want(fsm.CodeNotFound, retire(3))
	w.want(fsm.CodeSuperseded, rewrap(1, item("a", 1, 1)))
	w.want(fsm.CodeSuperseded, rewrap(3, item("a", 1, 1)))
	w.want(fsm.CodeInvalid, rewrap(2))
	w.want(fsm.CodeInvalid, rewrap(2, item("a", 1, 2)))
	ciphertext := string(data("a", 1).Ciphertext)
	w.ok(rewrap(2, item("a", 1, 1), item("a", 1, 1), item("gone", 1, 1), item("c", 1, 1)))
	if d := data("a", 1); d.Generation != 2 || string(d.WrappedKey) != "rewrapped" || string(d.Ciphertext) != ciphertext {
		t.Errorf("rewrapped: %+v", d)
	}
	if d := data("c", 1); string(d.WrappedKey) == "rewrapped" {
		t.Error("a data key was moved from where it was not")
	}
	if live(1) != 3 || live(2) != 2 { // ml/db is there from the beginning
		t.Errorf("live %d and %d", live(1), live(2))
	}
	w.ok(w.do(fsm.KindSecretDestroy, fsm.SecretVersions{Vault: "ml", Path: "b", Versions: []uint32{1}}))
	w.ok(rewrap(2, item("b", 1, 1), item("b", 2, 1), item("db", 1, 1)))
	if live(1) != 0 || live(2) != 4 {
		t.Errorf("live %d and %d", live(1), live(2))
	}
	w.ok(retire(1))
	if _, there := w.s.Key("vault/ml", 1); there {
		t.Error("the old generation is still there")
	}
	w.want(fsm.CodeExists, add(1))
	w.want(fsm.CodeInvalid, w.do(fsm.KindKeyRetire, fsm.KeyRetire{Purpose: "mac", Generation: 1}))
}

// A rotation is under way from its beginning to its end, however often it is asked for, and a schedule moves on by
// itself.
func TestKeyRotations(t *testing.T) {
	w := newWorld(t)
	begin := func(b fsm.KeyRotationBegin) fsm.Command {
		return w.do(fsm.KindKeyRotationBegin, b)
	}
	schedule := func(b fsm.KeySchedule) fsm.Command { return w.do(fsm.KindKeySchedule, b) }
	state := func(subject string) fsm.KeyRotation { k, _ := w.s.KeyRotation(subject); return k }
	for _, bad := range []fsm.KeySchedule{
		{Subject: "root", Every: 1000}, {Subject: "root", Next: 1}, {Subject: "root", Every: -1, Next: 1}, {Subject: "nothing", Every: 1000, Next: 1},
		{Subject: "vault/none", Every: 1000, Next: 1},
	} {
		w.want(fsm.CodeInvalid, schedule(bad))
	}
	w.ok(schedule(fsm.KeySchedule{Subject: "vault/ml", Every: 60_000, Next: w.Time + 60_000}))
	w.ok(begin(fsm.KeyRotationBegin{Subject: "vault/ml", Next: w.Time + 120_000}))
	first := state("vault/ml")
	if first.Due == 0 || first.Next != w.s.Time()+120_000 && first.Next == 0 {
		t.Fatalf("%+v", first)
	}
	w.Time += 5000
	w.ok(begin(fsm.KeyRotationBegin{Subject: "vault/ml"}))
	if now := state("vault/ml"); now.Due != first.Due || now.Next != first.Next {
		t.Errorf("asked for twice: %+v", now)
	}
	w.ok(begin(fsm.KeyRotationBegin{Subject: "vault/ml", Done: true}))
	if now := state("vault/ml"); now.Due != 0 || now.Last == 0 {
		t.Errorf("at its end: %+v", now)
	}
	w.ok(begin(fsm.KeyRotationBegin{Subject: "vault/ml", Next: w.Time + 240_000, Skip: true}))
	if now := state("vault/ml"); now.Due != 0 || now.Next <= first.Next {
		t.Errorf("left out: %+v", now)
	}
	w.ok(schedule(fsm.KeySchedule{Subject: "vault/ml"}))
	w.ok(begin(fsm.KeyRotationBegin{Subject: "vault/ml", Next: w.Time + 240_000, Skip: true}))
	if now := state("vault/ml"); now.Next != 0 {
		t.Error("a removed schedule came back")
	}
	w.want(fsm.CodeConflict, begin(fsm.KeyRotationBegin{Subject: "node-shares"})) // there is no node set
	w.want(fsm.CodeConflict, begin(fsm.KeyRotationBegin{Subject: "operator-shares"}))
	w.want(fsm.CodeInvalid, begin(fsm.KeyRotationBegin{Subject: "root", Skip: true, Done: true}))
	w.ok(begin(fsm.KeyRotationBegin{Subject: "root"})) // one member alone
}

// A new operators' set replaces the old one when one more than its threshold has confirmed, never before, and asks for a
// new root.
func TestOperatorSets(t *testing.T) {
	w := newWorld(t)
	set := fsmtest.Operators("deal", 2, "age1a", "age1b", "age1c", "age1d")
	propose := func(s fsm.OperatorSet) fsm.Command {
		return w.do(fsm.KindOperatorsPropose, fsm.OperatorsPropose{Set: s})
	}
	confirm := func(i int, code []byte) fsm.Command {
		return w.do(fsm.KindOperatorsConfirm, fsm.OperatorsConfirm{Index: i, Code: code})
	}
	commit := func(deal string) fsm.Command {
		return w.do(fsm.KindOperatorsCommit, fsm.OperatorsCommit{Deal: []byte(deal), OperatorRoot: []byte("root"), MAC: []byte("mac")})
	}
	abort := func() fsm.Command {
		return w.do(fsm.KindOperatorsAbort, fsm.OperatorsAbort{Deal: []byte("deal")})
	}
	w.want(fsm.CodeNotFound, abort())
	w.want(fsm.CodeNotFound, commit("deal"))
	for _, bad := range []fsm.OperatorSet{
		fsmtest.Operators("deal", 3, "age1a", "age1b"), fsmtest.Operators("deal", 0, "age1a"), fsmtest.Operators("deal", 1, "age1a", "age1a"),
		fsmtest.Operators("", 1, "age1a"), fsmtest.Operators("deal", 1), fsmtest.Operators("deal", 1, ""),
	} {
		w.want(fsm.CodeInvalid, propose(bad))
	}
	confirmed := set
	confirmed.Confirmed = []int64{1, 1, 1, 1}
	w.ok(propose(confirmed))
	w.want(fsm.CodeConflict, propose(set))
	w.want(fsm.CodeInvalid, commit("deal"))
	w.ok(abort())
	w.ok(propose(set))
	w.want(fsm.CodeNotFound, confirm(1, fsmtest.OperatorCode(2)))
	w.want(fsm.CodeNotFound, confirm(5, fsmtest.OperatorCode(5)))
	w.want(fsm.CodeNotFound, confirm(0, fsmtest.OperatorCode(1)))
	for range 3 {
		w.ok(confirm(1, fsmtest.OperatorCode(1))) // the same operator counts once
	}
	w.ok(confirm(3, fsmtest.OperatorCode(3)))
	w.want(fsm.CodeInvalid, commit("deal"))
	w.ok(confirm(4, fsmtest.OperatorCode(4)))
	w.want(fsm.CodeNotFound, commit("another"))
	w.ok(commit("deal"))
	cl, _ := w.s.Cluster()
	if string(cl.OperatorDeal) != "deal" || string(cl.OperatorRoot) != "root" || len(cl.OperatorRecipients) != 4 {
		t.Errorf("%+v", cl)
	}
	if k, _ := w.s.KeyRotation("root"); k.Due == 0 {
		t.Error("the old operators' root is kept")
	}
	w.ok(confirm(2, fsmtest.OperatorCode(2))) // late
	if next, current := w.s.OperatorSets(); next != nil || current == nil || current.Confirmations() != 4 {
		t.Errorf("%v, %+v", next, current)
	}
}
