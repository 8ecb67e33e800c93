package fsm_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

func (w *world) joinToken(node string) fsm.Command {
	return w.do(fsm.KindJoinTokenPut, fsm.JoinTokenPut{JoinToken: fsm.JoinToken{
		Hash: fsmtest.HashOf("join " + node), Node: node, Fingerprint: fsmtest.Fingerprint(node), Expires: w.Now() + hour,
	}})
}

func (w *world) join(node string, change func(*fsm.MemberJoin)) fsm.Command {
	body := fsm.MemberJoin{
		Token:  fsmtest.HashOf("join " + node),
		Member: fsm.Member{ID: node, PeerAddr: node + ":1", Key: fsmtest.Key(node), SealKind: "pkcs11", MAC: []byte("m")},
	}
	if change != nil {
		change(&body)
	}
	return w.Command(fsm.KindMemberJoin, "node/"+node, "join", node, body)
}

func (w *world) approve(node string) fsm.Command {
	return w.do(fsm.KindMemberApprove, fsm.MemberApprove{ID: node, Key: fsmtest.Key(node), MAC: []byte("approved")})
}

func TestJoin(t *testing.T) {
	w := newWorld(t)
	w.want(fsm.CodeNotFound, w.join("n2", nil))
	w.ok(w.joinToken("n2"))
	w.want(fsm.CodeExists, w.joinToken("n2"))
	w.want(fsm.CodeDenied, w.join("n2", func(b *fsm.MemberJoin) { b.Member.Key = fsmtest.Key("thief") }))
	w.want(fsm.CodeDenied, w.join("n2", func(b *fsm.MemberJoin) { b.Member.ID = "n3" }))
	w.want(fsm.CodeInvalid, w.join("n2", func(b *fsm.MemberJoin) { b.Member.Approved = true }))
	w.want(fsm.CodeOK, w.join("n2", nil))
	if m, _ := w.s.Member("n2"); m.Approved || m.Joined != w.Index {
		t.Errorf("%+v", m)
	}
	if r := w.want(fsm.CodeOK, w.join("n2", nil)); !r.Duplicate {
		t.Errorf("%+v", r)
	}
	w.ok(w.do(fsm.KindMemberRemove, fsm.MemberRemove{ID: "n2"}))
	w.want(fsm.CodeUsed, w.join("n2", nil))
	// A token that ran out, and a node that is in already.
	w.ok(w.joinToken("n3"), w.joinToken("n1"))
	w.want(fsm.CodeExists, w.join("n1", nil))
	w.later(hour)
	w.want(fsm.CodeExpired, w.join("n3", nil))
	w.want(fsm.CodeNotFound, w.approve("n3"))
	w.want(fsm.CodeInvalid, w.do(fsm.KindMemberRemove, fsm.MemberRemove{ID: "n1"})) // the last one
	w.want(fsm.CodeNotFound, w.do(fsm.KindMemberRemove, fsm.MemberRemove{ID: "n9"}))
}

func TestHardwareIsDemanded(t *testing.T) {
	w := emptyWorld(t)
	body := fsm.Genesis{Cluster: fsm.Cluster{ID: [16]byte{9}, RequireHardware: true}, Member: fsm.Member{ID: "n1", Key: fsmtest.Key("n1"), SealKind: fsm.SealSoftware}}
	w.want(fsm.CodeDenied, w.do(fsm.KindGenesis, body))
	body.Member.SealKind = "pkcs11"
	w.want(fsm.CodeOK, w.do(fsm.KindGenesis, body))
	w.ok(w.joinToken("n2"))
	w.want(fsm.CodeDenied, w.join("n2", func(b *fsm.MemberJoin) { b.Member.SealKind = fsm.SealSoftware }))
	w.want(fsm.CodeOK, w.join("n2", nil))
}

func TestMemberChanges(t *testing.T) {
	w := newWorld(t)
	w.ok(w.joinToken("n2"), w.join("n2", nil))
	w.want(fsm.CodeDenied, w.do(fsm.KindMemberApprove, fsm.MemberApprove{ID: "n2", Key: fsmtest.Key("other")}))
	w.want(fsm.CodeOK, w.approve("n2"))
	update := func(m fsm.Member) fsm.Command {
		return w.do(fsm.KindMemberUpdate, fsm.MemberUpdate{Member: m})
	}
	w.want(fsm.CodeOK, update(fsm.Member{ID: "n2", PeerAddr: "new:1", ClientCert: []byte("cert"), Quarantined: true}))
	w.want(fsm.CodeDenied, update(fsm.Member{ID: "n2", Key: fsmtest.Key("other")}))
	w.want(fsm.CodeNotFound, update(fsm.Member{ID: "n9"}))
	w.want(fsm.CodeOK, w.do(fsm.KindQuarantine, fsm.Quarantine{ID: "n2", On: true, MAC: []byte("q")}))
	m, _ := w.s.Member("n2")
	if m.PeerAddr != "new:1" || !m.Approved || !m.Quarantined || string(m.MAC) != "q" || string(m.Key) != string(fsmtest.Key("n2")) {
		t.Errorf("%+v", m)
	}
}

// An offline verifier follows who may sign checkpoints by leaves that no proposer can word.
func TestSignerLeaves(t *testing.T) {
	w := emptyWorld(t)
	detail := func(node string) string {
		return "cluster=01020300000000000000000000000000 node=" + node + " key=" + base64.StdEncoding.EncodeToString(fsmtest.Key(node))
	}
	lie := func(c fsm.Command) fsm.Command {
		c.Audits[0].Action, c.Audits[0].Detail = "something", detail("liar")
		return c
	}
	check := func(c fsm.Command, action, detail string) {
		t.Helper()
		r := w.want(fsm.CodeOK, lie(c))
		if leaf := w.leaf(r.Audit); leaf.Action != action || leaf.Detail != detail {
			t.Errorf("leaf %+v", leaf)
		}
	}
	check(w.Genesis(), "genesis", detail("n1"))
	w.ok(w.joinToken("n2"))
	check(w.join("n2", nil), "join", detail("n2"))
	check(w.join("n2", nil), "join", "duplicate")
	approve := w.approve("n2")
	check(approve, "approve", detail("n2"))
	check(w.do(fsm.KindMemberRemove, fsm.MemberRemove{ID: "n2"}), "remove", detail("n2"))
	check(approve, "approve", "duplicate") // a retry that arrives after the removal brings nobody back
	for _, action := range []string{"genesis", "join", "approve", "remove"} {
		forged := w.do(fsm.KindRecord, nil)
		forged.Audits[0].Action, forged.Audits[0].Detail = action, detail("liar")
		w.want(fsm.CodeInvalid, forged)
	}
	// Kinds that leave no record carry none: nobody would look for an approval in a tick.
	for kind, body := range map[fsm.Kind]any{
		fsm.KindTick: fsm.Tick{}, fsm.KindMemberUpdate: fsm.MemberUpdate{Member: fsm.Member{ID: "n1"}}, fsm.KindDealAbort: fsm.DealAbort{},
		fsm.KindDealPropose: fsm.DealPropose{}, fsm.KindDealCommit: fsm.DealCommit{}, fsm.KindDealRetire: fsm.DealRetire{}, fsm.KindCheckpoint: fsm.Checkpoint{},
	} {
		forged := w.do(kind, body)
		forged.Audits = []fsm.Audit{{Action: "approve", Decision: fsm.Allowed, Detail: detail("liar")}}
		r := w.want(fsm.CodeInvalid, forged)
		if leaf := w.leaf(r.Audit); leaf.Outcome != fsm.CodeInvalid {
			t.Errorf("kind %d: leaf %+v", kind, leaf)
		}
	}
	double := w.approve("n1")
	double.Audits = append(double.Audits, double.Audits[0])
	w.want(fsm.CodeInvalid, double)
}

func (w *world) propose(threshold int, root uint32, members ...string) fsm.Command {
	return w.do(fsm.KindDealPropose, fsm.DealPropose{Deal: fsm.Deal{
		Members: members, Threshold: threshold, Root: []byte("root"), RootGeneration: root,
	}})
}

func (w *world) commitDeal(epoch uint64, provers ...string) fsm.Command {
	return w.do(fsm.KindDealCommit, fsm.DealCommit{Epoch: epoch, Provers: provers})
}

func threeNodes(t *testing.T) *world {
	w := newWorld(t)
	for _, n := range []string{"n2", "n3"} {
		w.ok(w.joinToken(n), w.join(n, nil), w.approve(n))
	}
	return w
}

func TestDeals(t *testing.T) {
	w := threeNodes(t)
	w.ok(w.joinToken("n4"), w.join("n4", nil))
	for _, c := range []struct {
		name string
		code fsm.Code
		cmd  fsm.Command
	}{
		{"not approved", fsm.CodeDenied, w.propose(2, 1, "n1", "n4")},
		{"unknown", fsm.CodeDenied, w.propose(2, 1, "n1", "n9")},
		{"twice the same", fsm.CodeInvalid, w.propose(2, 1, "n1", "n1")},
		{"nobody", fsm.CodeInvalid, w.propose(1, 1)},
		{"threshold above the number", fsm.CodeInvalid, w.propose(4, 1, "n1", "n2", "n3")},
		{"another root", fsm.CodeSuperseded, w.propose(2, 3, "n1", "n2", "n3")},
	} {
		t.Log(c.name)
		w.want(c.code, c.cmd)
	}
	w.want(fsm.CodeOK, w.propose(2, 1, "n1", "n2", "n3"))
	epoch := w.Index
	if c, _ := w.s.Cluster(); c.PendingEpoch != epoch || c.NodeEpoch != 0 {
		t.Errorf("%+v", c)
	}
	w.want(fsm.CodeConflict, w.propose(2, 1, "n1", "n2", "n3"))
	w.want(fsm.CodeInvalid, w.commitDeal(epoch, "n1", "n2")) // a quorum, but fewer than t+1
	w.want(fsm.CodeInvalid, w.commitDeal(epoch, "n1", "n2", "n1"))
	w.want(fsm.CodeDenied, w.commitDeal(epoch, "n1", "n2", "n4"))
	w.want(fsm.CodeNotFound, w.commitDeal(epoch+1, "n1", "n2", "n3"))
	w.want(fsm.CodeOK, w.commitDeal(epoch, "n3", "n1", "n2"))
	w.want(fsm.CodeNotFound, w.commitDeal(epoch, "n1", "n2", "n3"))
	w.want(fsm.CodeNotFound, w.do(fsm.KindDealAbort, fsm.DealAbort{Epoch: epoch}))

	w.want(fsm.CodeOK, w.propose(1, 1, "n1", "n2"))
	second := w.Index
	w.want(fsm.CodeOK, w.do(fsm.KindDealAbort, fsm.DealAbort{Epoch: second}))
	if _, ok := w.s.Deal(second); ok {
		t.Error("an aborted deal is still there")
	}
	w.want(fsm.CodeOK, w.propose(1, 1, "n1", "n2"))
	third := w.Index
	w.want(fsm.CodeNotFound, w.do(fsm.KindDealRetire, fsm.DealRetire{Epoch: third}))
	w.want(fsm.CodeOK, w.commitDeal(third, "n1", "n2"))
	if _, ok := w.s.Deal(epoch); !ok {
		t.Error("the old deal went before it was retired")
	}
	w.want(fsm.CodeOK, w.do(fsm.KindDealRetire, fsm.DealRetire{Epoch: third}))
	if c, _ := w.s.Cluster(); c.RetiredBelow != third || c.NodeEpoch != third || len(w.s.Deals()) != 1 {
		t.Errorf("%+v, %d deals", c, len(w.s.Deals()))
	}
}

func TestShareReleases(t *testing.T) {
	w := threeNodes(t)
	w.ok(w.joinToken("n4"), w.join("n4", nil))
	w.ok(w.propose(2, 1, "n1", "n2", "n3"))
	epoch := w.Index
	release := func(epoch uint64, holder, node string) fsm.Command {
		return w.do(fsm.KindShareRelease, fsm.ShareRelease{Epoch: epoch, Holder: holder, Node: node})
	}
	w.want(fsm.CodeNotFound, release(epoch, "n1", "n2")) // only proposed
	w.ok(w.commitDeal(epoch, "n1", "n2", "n3"))
	w.want(fsm.CodeOK, release(epoch, "n1", "n2"))
	w.want(fsm.CodeDenied, release(epoch, "n1", "n4")) // not approved
	w.want(fsm.CodeDenied, release(epoch, "n1", "n9"))
	w.want(fsm.CodeDenied, release(epoch, "n4", "n2"))
	w.want(fsm.CodeNotFound, release(epoch-1, "n1", "n2"))
	w.ok(w.do(fsm.KindQuarantine, fsm.Quarantine{ID: "n2", On: true}))
	w.want(fsm.CodeDenied, release(epoch, "n1", "n2"))
	w.ok(w.do(fsm.KindQuarantine, fsm.Quarantine{ID: "n2"}))
	w.want(fsm.CodeOK, release(epoch, "n1", "n2"))
	w.ok(w.do(fsm.KindSealFlag, fsm.SealFlag{Sealed: true}))
	w.want(fsm.CodeSealed, release(epoch, "n1", "n2"))
	w.ok(w.lift("n1"), w.do(fsm.KindMemberRemove, fsm.MemberRemove{ID: "n2"}))
	w.want(fsm.CodeDenied, release(epoch, "n1", "n2"))
}

// lift is an unsealing by operators that is decided now.
func (w *world) lift(node string) fsm.Command {
	c, _ := w.s.Cluster()
	return w.do(fsm.KindUnsealed, fsm.Unsealed{Node: node, Method: "operators", Changed: c.Changed})
}

// A member that is not approved, or is quarantined, never unseals, whoever says so, and loses what it spoke to
// clients by.
func TestUnsealingOfWhoMayNot(t *testing.T) {
	w := threeNodes(t)
	w.ok(w.joinToken("n7"))
	w.ok(w.join("n7", nil))
	for _, method := range []string{"quorum", "operators", "handover"} {
		w.want(fsm.CodeDenied, w.do(fsm.KindUnsealed, fsm.Unsealed{Node: "n7", Method: method}))
	}
	w.ok(w.do(fsm.KindMemberUpdate, fsm.MemberUpdate{Member: fsm.Member{ID: "n2", ClientCert: []byte("cert")}}))
	w.ok(w.do(fsm.KindQuarantine, fsm.Quarantine{ID: "n2", On: true}))
	if m, _ := w.s.Member("n2"); len(m.ClientCert) > 0 {
		t.Error("a quarantined member kept its certificate")
	}
	w.want(fsm.CodeDenied, w.do(fsm.KindUnsealed, fsm.Unsealed{Node: "n2", Method: "quorum"}))
	w.ok(w.do(fsm.KindQuarantine, fsm.Quarantine{ID: "n2"}))
	w.want(fsm.CodeOK, w.do(fsm.KindUnsealed, fsm.Unsealed{Node: "n2", Method: "quorum"}))
}

func TestSealFlagStopsWhatNeedsKeys(t *testing.T) {
	w := threeNodes(t)
	commands := func() []fsm.Command {
		return []fsm.Command{
			w.Read("user/alice", fsm.Ref{Vault: "ml", Path: "db"}), w.Put("ml", "db", 2), w.Vault("v"), w.user("x"),
			w.login("user/alice", "y"), w.grant("Auditor", "user/alice"), w.joinToken("n7"), w.propose(1, 1, "n1"),
		}
	}
	w.ok(w.do(fsm.KindSealFlag, fsm.SealFlag{Sealed: true}))
	for _, c := range commands() {
		if r := w.want(fsm.CodeSealed, c); r.Value != nil {
			t.Error("a sealed cluster released a value")
		}
	}
	w.want(fsm.CodeSealed, w.do(fsm.KindUnsealed, fsm.Unsealed{Node: "n1", Method: "quorum"}))
	w.want(fsm.CodeOK, w.do(fsm.KindRecord, nil))
	w.want(fsm.CodeOK, w.tick())
	w.want(fsm.CodeOK, w.do(fsm.KindQuarantine, fsm.Quarantine{ID: "n3", On: true}))
	w.want(fsm.CodeInvalid, w.do(fsm.KindUnsealed, fsm.Unsealed{Node: "n1", Method: "magic"}))
	w.want(fsm.CodeNotFound, w.do(fsm.KindUnsealed, fsm.Unsealed{Node: "n9", Method: "operators"}))
	w.want(fsm.CodeSealed, w.do(fsm.KindUnsealed, fsm.Unsealed{Node: "n1", Method: "handover"}))
	w.want(fsm.CodeDenied, w.lift("n3")) // quarantined
	before := w.lift("n1")
	w.ok(w.do(fsm.KindSealFlag, fsm.SealFlag{Sealed: true}))
	w.want(fsm.CodeSealed, before) // decided before the seal that is in force
	w.want(fsm.CodeOK, w.lift("n1"))
	w.want(fsm.CodeOK, w.do(fsm.KindUnsealed, fsm.Unsealed{Node: "n1", Method: "handover"}))
	for _, c := range commands() {
		w.want(fsm.CodeOK, c)
	}
	w.want(fsm.CodeOK, w.do(fsm.KindUnsealed, fsm.Unsealed{Node: "n1", Method: "quorum"}))
}

func TestRootRotation(t *testing.T) {
	w := threeNodes(t)
	body := func(epoch uint64, provers ...string) fsm.RootRotate {
		b := fsm.RootRotate{Epoch: epoch, Provers: provers, RootGeneration: 2, RootID: []byte("id 2"), OperatorRoot: []byte("o"), MAC: []byte("m")}
		for _, k := range w.s.Keys() {
			b.Keys = append(b.Keys, fsm.WrappedKey{Purpose: k.Purpose, Generation: k.Generation, RootGeneration: 2, Ciphertext: []byte("rewrapped")})
		}
		return b
	}
	rotate := func(b fsm.RootRotate) fsm.Command { return w.do(fsm.KindRootRotate, b) }
	w.ok(w.propose(2, 2, "n1", "n2", "n3"))
	epoch := w.Index
	w.want(fsm.CodeSuperseded, w.commitDeal(epoch, "n1", "n2", "n3")) // of a root that is not in force
	early := body(epoch, "n1", "n2", "n3")
	early.RootGeneration = 3
	w.want(fsm.CodeSuperseded, rotate(early))
	missing := body(epoch, "n1", "n2", "n3")
	missing.Keys = missing.Keys[1:]
	w.want(fsm.CodeSuperseded, rotate(missing))
	w.want(fsm.CodeInvalid, rotate(body(epoch, "n1", "n2")))
	if k, _ := w.s.Key("mac", 1); string(k.Ciphertext) != "mac 1" {
		t.Error("a refused rotation rewrapped keys")
	}
	w.ok(w.Vault("empty"))
	used := body(epoch, "n1", "n2", "n3") // leaves out a generation that values are encrypted under
	used.Keys = slices.DeleteFunc(used.Keys, func(k fsm.WrappedKey) bool { return k.Purpose == "vault/ml" })
	w.want(fsm.CodeSuperseded, rotate(used))
	current := body(epoch, "n1", "n2", "n3") // or one that is still current
	current.Keys = slices.DeleteFunc(current.Keys, func(k fsm.WrappedKey) bool { return k.Purpose == "vault/empty" })
	w.want(fsm.CodeSuperseded, rotate(current))
	good := body(epoch, "n1", "n2", "n3")
	good.Keys = slices.DeleteFunc(good.Keys, func(k fsm.WrappedKey) bool { return k.Purpose == "vault/empty" })
	good.Keys = append(good.Keys, fsm.WrappedKey{Purpose: "vault/empty", Generation: 2, RootGeneration: 2, Ciphertext: []byte("new")})
	good.Keys = append(good.Keys,
		fsm.WrappedKey{Purpose: "vault/ml", Generation: 2, RootGeneration: 2, Ciphertext: []byte("new")},
		fsm.WrappedKey{Purpose: "mac", Generation: 2, RootGeneration: 2, Ciphertext: []byte("new")})
	w.want(fsm.CodeOK, rotate(good))
	c, _ := w.s.Cluster()
	v, _ := w.s.Vault("ml")
	k, _ := w.s.Key("vault/ml", 1)
	if c.RootGeneration != 2 || c.NodeEpoch != epoch || c.PendingEpoch != 0 || string(c.RootID) != "id 2" || c.MACGeneration != 2 ||
		c.AuditGeneration != 1 || v.Generation != 2 || k.Wraps != 1 || string(k.Ciphertext) != "rewrapped" {
		t.Errorf("%+v, %+v, %+v", c, v, k)
	}
	if _, there := w.s.Key("vault/empty", 1); there {
		t.Error("a generation that encrypts nothing is kept")
	}
	again := body(0)
	again.RootGeneration = 3
	for i := range again.Keys {
		again.Keys[i].RootGeneration = 3
	}
	w.ok(w.propose(1, 2, "n1"))
	w.want(fsm.CodeOK, rotate(again))
	if c, _ := w.s.Cluster(); c.NodeEpoch != 0 || c.PendingEpoch != 0 {
		t.Errorf("a node set of the old root is in force: %+v", c)
	}
	if deals := w.s.Deals(); len(deals) != 0 {
		t.Errorf("deals of older roots are left: %+v", deals)
	}
}

// One record carries every key generation when the root is rotated: their number is bounded so that it fits, with
// names as long as they get, every prover, and new generations besides.
func TestKeysFitOneRotation(t *testing.T) {
	w := emptyWorld(t)
	var b fsm.RootRotate
	b.Epoch, b.RootGeneration, b.RootID, b.OperatorRoot, b.MAC = 1<<63, 1<<31, make([]byte, 8), make([]byte, 2048), make([]byte, 32)
	for range 255 {
		b.Provers = append(b.Provers, strings.Repeat("n", 64))
	}
	for range fsm.MaxKeys + 900 {
		b.Keys = append(b.Keys, fsm.WrappedKey{
			Purpose: "vault/" + strings.Repeat("v", 64), Generation: 1 << 31, RootGeneration: 1 << 31, Ciphertext: make([]byte, 61),
			Created: 1 << 62, Wraps: fsm.MaxWraps, Retired: true, Changed: 1 << 63,
		})
	}
	if n := len(fsm.EncodeCommand(w.do(fsm.KindRootRotate, b))); n > fsm.MaxRecord {
		t.Errorf("a rotation takes %d bytes, a record has %d", n, fsm.MaxRecord)
	}
	genesis := w.Genesis()
	body, err := fsm.DecodeBody(genesis.Kind, genesis.Body)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(body.(*fsm.Genesis).Keys); i < fsm.MaxKeys-1; i++ {
		body.(*fsm.Genesis).Keys = append(body.(*fsm.Genesis).Keys, fsm.WrappedKey{
			Purpose: fmt.Sprintf("other%d", i), Generation: 1, RootGeneration: 1, Ciphertext: []byte("k"),
		})
	}
	genesis.Body = fsm.EncodeBody(genesis.Kind, body)
	w.ok(genesis)
	w.ok(w.Vault("ml"))
	w.want(fsm.CodeLimit, w.Vault("toomany"))
	w.want(fsm.CodeLimit, w.do(fsm.KindKeyAdd, fsm.KeyAdd{Key: fsm.WrappedKey{
		Purpose: "vault/ml", Generation: 2, RootGeneration: 1, Ciphertext: []byte("k"),
	}}))
}

func TestCheckpoints(t *testing.T) {
	w := newWorld(t)
	root := func(size uint64) []byte {
		h, err := w.s.TreeRoot(size)
		if err != nil {
			t.Fatal(err)
		}
		return h[:]
	}
	checkpoint := func(size uint64, root []byte, node, signature string) fsm.Command {
		return w.do(fsm.KindCheckpoint, fsm.Checkpoint{
			Origin: "hizo/x", Size: size, Root: root, Time: 5, Signatures: []fsm.Signature{{Node: node, Signature: []byte(signature)}},
		})
	}
	size := w.s.AuditSize()
	w.want(fsm.CodeInvalid, checkpoint(size, root(size-1), "n1", "a"))
	w.want(fsm.CodeInvalid, checkpoint(size+1, root(size), "n1", "a"))
	w.want(fsm.CodeOK, checkpoint(size, root(size), "n2", "b"))
	w.want(fsm.CodeOK, checkpoint(size, root(size), "n1", "a"))
	w.want(fsm.CodeOK, checkpoint(size, root(size), "n2", "again"))
	// A signature covers the time: one over another time would not verify beside these.
	w.want(fsm.CodeConflict, w.do(fsm.KindCheckpoint, fsm.Checkpoint{
		Origin: "hizo/x", Size: size, Root: root(size), Time: 6, Signatures: []fsm.Signature{{Node: "n3", Signature: []byte("c")}},
	}))
	if w.s.AuditSize() != size {
		t.Error("checkpoints make the tree grow for ever")
	}
	w.ok(w.user("x"))
	w.want(fsm.CodeOK, checkpoint(size+1, root(size+1), "n1", "c"))
	latest, ok := w.s.LatestCheckpoint()
	all := w.s.Checkpoints(0)
	if !ok || latest.Size != size+1 || len(all) != 2 || len(w.s.Checkpoints(size+1)) != 1 {
		t.Errorf("%+v, %+v", latest, all)
	}
	if s := all[0].Signatures; len(s) != 2 || s[0].Node != "n1" || string(s[1].Signature) != "b" {
		t.Errorf("%+v", s)
	}
	want := fmt.Sprintf("hizo/x\n%d\n%s\ntime 5\n", size, base64.StdEncoding.EncodeToString(root(size)))
	if got := string(all[0].NoteText()); got != want {
		t.Errorf("%q", got)
	}
}

// Removals that leave no majority of those who signed before are gaps, whatever else came between.
func TestSignerGaps(t *testing.T) {
	w := newWorld(t)
	signed := func() {
		t.Helper()
		size := w.s.AuditSize()
		root, err := w.s.TreeRoot(size)
		if err != nil {
			t.Fatal(err)
		}
		w.ok(w.do(fsm.KindCheckpoint, fsm.Checkpoint{
			Origin: "hizo/x", Size: size, Root: root[:], Time: 5, Signatures: []fsm.Signature{{Node: "n1", Signature: []byte("a")}},
		}))
	}
	remove := func(node string) fsm.Command {
		return w.do(fsm.KindMemberRemove, fsm.MemberRemove{ID: node})
	}
	var want []uint64
	next := func(gap bool, change fsm.Command) {
		t.Helper()
		w.ok(change)
		if gap {
			want = append(want, w.s.AuditSize()-1)
		}
		if got := w.s.SignerGaps(0); !slices.Equal(got, want) {
			t.Errorf("gaps %v, want %v", got, want)
		}
	}
	grow := func(names ...string) {
		for _, n := range names {
			w.ok(w.joinToken(n), w.join(n, nil))
			next(false, w.approve(n))
		}
	}
	grow("n2", "n3", "n4", "n5")
	signed()
	next(false, remove("n5"))
	next(false, remove("n4"))
	next(true, remove("n3")) // two of the five who signed last
	signed()
	next(true, remove("n2")) // one of two
	signed()
	grow("n6", "n7", "n8")
	signed()
	next(false, remove("n6")) // three of four
	signed()
	next(false, remove("n7")) // two of three
	w.ok(w.user("x"))
	next(true, remove("n8")) // one of three
	if got := w.s.SignerGaps(want[1]); !slices.Equal(got, want[2:]) {
		t.Errorf("from record %d on: %v, want %v", want[1], got, want[2:])
	}
}

// Every record of every size is provable, and every size is a prefix of every later one (RFC 6962 section 2.1).
func TestAuditProofs(t *testing.T) {
	w := newWorld(t)
	for range 40 {
		w.ok(w.do(fsm.KindRecord, nil))
	}
	size := w.s.AuditSize()
	roots := make([]tlog.Hash, size+1)
	for n := range size + 1 {
		h, err := w.s.TreeRoot(n)
		if err != nil {
			t.Fatal(err)
		}
		roots[n] = h
	}
	for n := uint64(1); n <= size; n++ {
		for seq := range n {
			leaf, err := w.s.AuditLeaf(seq)
			if err != nil {
				t.Fatal(err)
			}
			p, err := w.s.ProveRecord(seq, n)
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckRecord(p, int64(n), roots[n], int64(seq), tlog.RecordHash(leaf)); err != nil {
				t.Fatalf("record %d of %d: %v", seq, n, err)
			}
			leaf[len(leaf)/2] ^= 1
			if tlog.CheckRecord(p, int64(n), roots[n], int64(seq), tlog.RecordHash(leaf)) == nil {
				t.Fatalf("record %d of %d: a changed byte is not noticed", seq, n)
			}
		}
		p, err := w.s.ProveTree(n, size)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckTree(p, int64(size), roots[size], int64(n), roots[n]); err != nil {
			t.Fatalf("%d of %d: %v", n, size, err)
		}
	}
	for name, err := range map[string]error{
		"root":   func() error { _, err := w.s.TreeRoot(size + 1); return err }(),
		"record": func() error { _, err := w.s.ProveRecord(size, size); return err }(),
		"tree":   func() error { _, err := w.s.ProveTree(0, size); return err }(),
		"leaf":   func() error { _, err := w.s.AuditLeaf(size); return err }(),
	} {
		if err == nil || !strings.Contains(err.Error(), "beyond") {
			t.Errorf("%s: %v", name, err)
		}
	}
	var forward, backward []uint64
	for r, err := range w.s.AuditRecords(3, 9) {
		if err != nil {
			t.Fatal(err)
		}
		forward = append(forward, r.Seq)
	}
	for r, err := range w.s.AuditRecordsBackward(3, 9) {
		if err != nil {
			t.Fatal(err)
		}
		backward = append(backward, r.Seq)
	}
	slices.Reverse(backward)
	if want := []uint64{3, 4, 5, 6, 7, 8}; !slices.Equal(forward, want) || !slices.Equal(backward, want) {
		t.Errorf("%v, %v", forward, backward)
	}
}
