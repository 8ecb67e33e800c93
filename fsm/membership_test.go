package fsm_test

import (
	"bytes"
	"testing"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

func (w *world) vote(node string, voter bool) fsm.Command {
	return w.do(fsm.KindMemberVote, fsm.MemberVote{ID: node, Voter: voter, MAC: []byte("vote")})
}

func TestVotes(t *testing.T) {
	w := newWorld(t)
	w.ok(w.joinToken("n2"), w.join("n2", nil))
	w.want(fsm.CodeNotFound, w.vote("n9", true))
	w.want(fsm.CodeDenied, w.vote("n2", true))   // not approved
	w.want(fsm.CodeInvalid, w.vote("n1", false)) // n2 does not count before it is
	w.ok(w.approve("n2"))
	w.want(fsm.CodeOK, w.vote("n1", false))
	w.want(fsm.CodeInvalid, w.vote("n2", false)) // the last one
	w.want(fsm.CodeInvalid, w.do(fsm.KindMemberRemove, fsm.MemberRemove{ID: "n2"}))
	if m, _ := w.s.Member("n1"); !m.NonVoter || string(m.MAC) != "vote" || !m.Approved {
		t.Errorf("%+v", m)
	}
	w.want(fsm.CodeDenied, w.do(fsm.KindDealPropose, fsm.DealPropose{Deal: fsm.Deal{
		Members: []string{"n1", "n2"}, Threshold: 2, Root: []byte("root"), RootGeneration: 1, Body: []byte("c"),
	}}))
	w.ok(w.do(fsm.KindQuarantine, fsm.Quarantine{ID: "n1", On: true, MAC: []byte("q")}))
	w.want(fsm.CodeDenied, w.vote("n1", true)) // no vote, which brings a share, past a quarantine
	w.ok(w.do(fsm.KindQuarantine, fsm.Quarantine{ID: "n1", MAC: []byte("q")}))
	w.want(fsm.CodeOK, w.vote("n1", true))
	w.want(fsm.CodeOK, w.do(fsm.KindMemberRemove, fsm.MemberRemove{ID: "n2"}))
}

// The token says whether a node votes, and the node cannot say otherwise.
func TestNonVoterJoins(t *testing.T) {
	w := newWorld(t)
	w.ok(w.do(fsm.KindJoinTokenPut, fsm.JoinTokenPut{JoinToken: fsm.JoinToken{
		Hash: fsmtest.HashOf("join n2"), Node: "n2", Fingerprint: fsmtest.Fingerprint("n2"), Expires: w.Now() + hour, NonVoter: true,
	}}), w.joinToken("n3"))
	w.want(fsm.CodeDenied, w.join("n2", nil))
	w.want(fsm.CodeDenied, w.join("n3", func(b *fsm.MemberJoin) { b.Member.NonVoter = true }))
	w.want(fsm.CodeOK, w.join("n2", func(b *fsm.MemberJoin) { b.Member.NonVoter = true }))
	w.ok(w.approve("n2"))
	if m, _ := w.s.Member("n2"); !m.NonVoter || !m.Approved {
		t.Errorf("after its approval: %+v", m)
	}
}

func TestMembershipSettings(t *testing.T) {
	w := newWorld(t)
	if _, set := w.s.Membership(); set || w.s.Index(fsm.ObjMembership) != 0 {
		t.Error("settings before anybody made some")
	}
	set := func(stabilise, cleanUp int64) fsm.Command {
		return w.do(fsm.KindMembershipSet, fsm.MembershipSet{Membership: fsm.Membership{Stabilise: stabilise, CleanUpAfter: cleanUp, MAC: []byte("m")}})
	}
	w.want(fsm.CodeInvalid, set(-1, 0))
	w.want(fsm.CodeInvalid, set(0, -1))
	before := w.reads(fsm.ObjMembership)
	w.want(fsm.CodeOK, set(3, 4))
	if m, ok := w.s.Membership(); !ok || m.Stabilise != 3 || m.CleanUpAfter != 4 || m.Changed != w.Index {
		t.Errorf("%+v, %v", m, ok)
	}
	late := w.do(fsm.KindMemberRemove, fsm.MemberRemove{ID: "n1"})
	late.Reads = before
	w.want(fsm.CodeSuperseded, late) // a clean-up that rests on older settings
}

// What an edited disk could change is under the MAC, and records of voters have the MAC that they had before.
func TestMembershipMACs(t *testing.T) {
	voter := fsm.Member{ID: "n1", Key: []byte("k"), SealKind: "pkcs11", Approved: true}
	without := voter
	without.NonVoter = true
	if bytes.Equal(voter.MACBody(), without.MACBody()) {
		t.Error("a member's vote is not under its MAC")
	}
	want := "\x02n1\x01k\x06pkcs11\x01\x01\x01\x00"
	if string(voter.MACBody()) != want {
		t.Errorf("%q", voter.MACBody())
	}
	token, other := fsm.JoinToken{Hash: []byte("h")}, fsm.JoinToken{Hash: []byte("h"), NonVoter: true}
	if bytes.Equal(token.MACBody(), other.MACBody()) {
		t.Error("a token's vote is not under its MAC")
	}
	a, b, c := fsm.Membership{Stabilise: 1}, fsm.Membership{CleanUpAfter: 1}, fsm.Membership{}
	if bytes.Equal(a.MACBody(), b.MACBody()) || bytes.Equal(b.MACBody(), c.MACBody()) {
		t.Error("settings are not under their MAC")
	}
}
