package cluster_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/fsm"
)

// A member has its own records proposed, in words of the leader's, and nothing else.
func TestForwardedRecords(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{})
	leader := c.Leader()
	var member, other *clustertest.Node
	for _, n := range c.Nodes {
		if n != leader {
			member, other = n, member
		}
	}
	cl, _ := leader.Store().Cluster()
	lie := fsm.Audit{Action: "reveal", Resource: "vault/x", Decision: fsm.Allowed}
	for name, cmd := range map[string]fsm.Command{
		"a share of another holder": member.DutyCommand(fsm.KindShareRelease, &fsm.ShareRelease{Epoch: cl.NodeEpoch, Holder: other.ID, Node: member.ID}, lie),
		"another's unsealing":       member.DutyCommand(fsm.KindUnsealed, &fsm.Unsealed{Node: other.ID, Method: "quorum"}, lie),
		"operators at another node": member.DutyCommand(fsm.KindUnsealed, &fsm.Unsealed{Node: other.ID, Method: "operators", Changed: cl.Changed}, lie),
		"a hand-over to itself":     member.DutyCommand(fsm.KindUnsealed, &fsm.Unsealed{Node: member.ID, Method: "handover"}, lie),
		"a release without a nonce": member.DutyCommand(fsm.KindShareRelease, &fsm.ShareRelease{Epoch: cl.NodeEpoch, Holder: member.ID, Node: other.ID}, lie),
		"a made-up method":          member.DutyCommand(fsm.KindUnsealed, &fsm.Unsealed{Node: member.ID, Method: "magic"}, lie),
		"the seal flag":             member.DutyCommand(fsm.KindSealFlag, &fsm.SealFlag{Sealed: true}, lie),
		"a removal":                 member.DutyCommand(fsm.KindMemberRemove, &fsm.MemberRemove{ID: other.ID}, lie),
		"an audit record":           {Kind: fsm.KindRecord, Principal: "user/alice", Audits: []fsm.Audit{lie}},
	} {
		if err := member.ForwardTo(t.Context(), leader.ID, cmd); !errors.Is(err, cluster.ErrNotAllowed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	own := member.DutyCommand(fsm.KindUnsealed, &fsm.Unsealed{Node: member.ID, Method: "quorum"}, lie)
	own.Principal = "user/alice"
	if err := member.ForwardTo(t.Context(), leader.ID, own); err != nil {
		t.Fatal(err)
	}
	if audited(t, leader, func(r fsm.AuditRecord) bool { return r.Action == "reveal" || r.Principal == "user/alice" }) {
		t.Error("the member's own words are in the audit log")
	}
	if err := leader.ForwardTo(t.Context(), member.ID, leader.DutyCommand(fsm.KindUnsealed, &fsm.Unsealed{Node: leader.ID, Method: "quorum"}, lie)); err == nil {
		t.Error("a follower took a record")
	}
}

// An unsealing under way when the cluster is sealed does not undo the seal, nor does a hand-over ever.
func TestSealStands(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{})
	leader := c.Leader()
	member, other := c.Nodes[0], c.Nodes[1]
	if member == leader {
		member = c.Nodes[2]
	} else if other == leader {
		other = c.Nodes[2]
	}
	before, _ := leader.Store().Cluster()
	c.Must(fsm.Command{
		Kind: fsm.KindSealFlag, Principal: "user/test", Body: fsm.EncodeBody(fsm.KindSealFlag, &fsm.SealFlag{Sealed: true}),
		Audits: []fsm.Audit{{Action: "cluster.seal", Resource: "cluster", Decision: fsm.Allowed}},
	})
	for _, body := range []fsm.Unsealed{
		{Node: member.ID, Method: "operators", Changed: before.Changed},
		{Node: other.ID, Method: "handover", Changed: before.Changed},
		{Node: other.ID, Method: "handover", Changed: leader.Store().Index(fsm.ObjCluster)},
	} {
		if err := member.ForwardTo(t.Context(), c.Leader().ID, member.DutyCommand(fsm.KindUnsealed, &body)); err != nil {
			t.Fatal(err)
		}
	}
	if cl, _ := c.Leader().Store().Cluster(); !cl.Sealed {
		t.Error("the seal was undone")
	}
}

// Shares come from the leader, of the deal that the log has open.
func TestPushedShares(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{})
	leader := c.Leader()
	cl, _ := leader.Store().Cluster()
	var followers []*clustertest.Node
	for _, n := range c.Nodes {
		if n != leader {
			followers = append(followers, n)
		}
	}
	if err := followers[0].PushShare(t.Context(), followers[1].ID, cl.NodeEpoch); !errors.Is(err, cluster.ErrNotAllowed) {
		t.Errorf("a share from a follower: %v", err)
	}
	if err := leader.PushShare(t.Context(), followers[1].ID, cl.NodeEpoch); !errors.Is(err, cluster.ErrNotAllowed) {
		t.Errorf("a share of a deal that is not open: %v", err)
	}
}

// One ceremony unseals the cluster, approved members only; and a root key of somebody's own making unseals
// nobody.
func TestHandOver(t *testing.T) {
	c := clustertest.New(t, clustertest.Options{Nodes: 2})
	c.Init()
	first, second := c.Nodes[0], c.Nodes[1]
	c.Join(second)
	if err := first.PushRoot(t.Context(), second.ID); err == nil || !strings.Contains(err.Error(), "not this cluster's root key") {
		t.Errorf("a root key of another's making: %v", err)
	}
	if _, err := second.SubmitShare(t.Context(), text(t, c.Shares[0])); !errors.Is(err, cluster.ErrNotAllowed) {
		t.Errorf("a node that is not approved took a share: %v", err)
	}
	unseal := func() {
		t.Helper()
		c.Restart(first)
		c.Leader() // either: shares are taken anywhere
		for _, s := range c.Shares[:2] {
			if _, err := first.SubmitShare(t.Context(), text(t, s)); err != nil {
				t.Fatal(err)
			}
		}
	}
	unseal()
	first.HandRootOver(t.Context())
	if !second.Status().Sealed {
		t.Fatal("an unapproved member was handed the root key")
	}
	c.Approve(second.ID)
	c.Await("the second node to vote", func() bool {
		s := first.Status()
		return len(s.Members) == 2 && s.Members[1].Voter
	})
	c.Restart(second)
	unseal()
	c.Await("the second node to be handed the root key", func() bool { return !second.Status().Sealed })
	if !audited(t, second, func(r fsm.AuditRecord) bool { return r.Action == "unseal" && r.Resource == "node/"+second.ID }) {
		t.Error("the hand-over was not recorded")
	}
}
