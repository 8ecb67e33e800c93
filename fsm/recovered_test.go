package fsm_test

import (
	"testing"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// A recovery is recorded once, also while the cluster is sealed, with Apply's own words; the nodes that it gives up are
// known by their keys until they join anew.
func TestRecovered(t *testing.T) {
	w := newWorld(t)
	join := func(node string) {
		t.Helper()
		token := fsmtest.HashOf("join " + node + string(rune(w.Index)))
		w.ok(w.do(fsm.KindJoinTokenPut, fsm.JoinTokenPut{JoinToken: fsm.JoinToken{
			Hash: token, Node: node, Fingerprint: fsmtest.Fingerprint(node), Expires: w.Now() + 3_600_000,
		}}), w.Command(fsm.KindMemberJoin, "node/"+node, "join", node, fsm.MemberJoin{
			Token: token, Member: fsm.Member{ID: node, PeerAddr: node + ":1", Key: fsmtest.Key(node), SealKind: "pkcs11"},
		}))
	}
	join("n2")
	join("n3")
	record := fsm.Recovered{
		ID: [16]byte{9}, Node: "n1", By: "alice", Reason: "fire in hall 2", At: 7, LastIndex: 40, LastTerm: 3,
		Survivors: []string{"n2"}, GivenUp: []string{"n3"},
	}
	do := func(r fsm.Recovered) fsm.Command {
		return w.Command(fsm.KindRecovered, "node/n1", "recover", "cluster", r)
	}
	for what, change := range map[string]func(*fsm.Recovered){
		"no id":                  func(r *fsm.Recovered) { r.ID = [16]byte{} },
		"nobody given up":        func(r *fsm.Recovered) { r.GivenUp = nil },
		"no name of a node":      func(r *fsm.Recovered) { r.GivenUp = []string{"n3", "n9 by=mallory"} },
		"itself given up":        func(r *fsm.Recovered) { r.GivenUp = []string{"n1"} },
		"a stranger goes on":     func(r *fsm.Recovered) { r.Node = "n9" },
		"more than a few words":  func(r *fsm.Recovered) { r.Reason = string(make([]byte, 1000)) },
		"somebody with no end":   func(r *fsm.Recovered) { r.By = string(make([]byte, 1000)) },
		"given up twice, one is": func(r *fsm.Recovered) { r.GivenUp = []string{"n3", "n1"} },
	} {
		r := record
		change(&r)
		if got := w.want(fsm.CodeInvalid, do(r)); got.Code == fsm.CodeOK {
			t.Error(what)
		}
	}
	if _, ok := w.s.GivenUp(fsmtest.Key("n3")); ok {
		t.Error("a refused recovery left its mark")
	}
	w.ok(w.do(fsm.KindSealFlag, fsm.SealFlag{Sealed: true}))
	record.GivenUp = []string{"n3", "n9"} // the end of the log has removed n9
	w.want(fsm.CodeOK, do(record))
	leaf := w.leaf(w.s.AuditSize() - 1)
	if want := `gave_up=n3,n9 survivors=n2 last_index=40 last_term=3 at=7 by="alice" reason="fire in hall 2"`; leaf.Action != "recover" || leaf.Detail != want {
		t.Errorf("the leaf says %q: %s", leaf.Action, leaf.Detail)
	}
	w.want(fsm.CodeExists, do(record))
	if r, ok := w.s.Recovery(); !ok || len(r.Records) != 1 || r.Records[0] != w.s.AuditSize()-2 || r.Recovered.LastIndex != 40 {
		t.Errorf("the last recovery: %+v", r)
	}
	w.ok(w.do(fsm.KindMemberRemove, fsm.MemberRemove{ID: "n3"}))
	if g, ok := w.s.GivenUp(fsmtest.Key("n3")); !ok || g.Node != "n3" || g.By != "n1" {
		t.Errorf("n3 is not known as given up: %+v", g)
	}
	if _, ok := w.s.GivenUp(fsmtest.Key("n2")); ok {
		t.Error("n2, which survived, is known as given up")
	}
	w.ok(w.do(fsm.KindUnsealed, fsm.Unsealed{Node: "n1", Method: "operators", Changed: w.s.Index(fsm.ObjCluster)}))
	join("n3")
	if _, ok := w.s.GivenUp(fsmtest.Key("n3")); ok {
		t.Error("n3 has joined anew and is still known as given up")
	}
}
