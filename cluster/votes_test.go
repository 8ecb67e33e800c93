package cluster_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/fsm"
)

func vote(t *testing.T, c *clustertest.Cluster, id string, voter bool) {
	t.Helper()
	body, err := c.Leader().VoteBody(id, voter)
	if err != nil {
		t.Fatal(err)
	}
	c.Must(fsm.Command{
		Kind: fsm.KindMemberVote, Principal: "user/test", Body: fsm.EncodeBody(fsm.KindMemberVote, &body),
		Audits: []fsm.Audit{{Action: "vote", Resource: "node/" + id, Decision: fsm.Allowed}},
	})
}

func membership(t *testing.T, c *clustertest.Cluster, settings fsm.Membership) {
	t.Helper()
	body, err := c.Leader().MembershipBody(settings)
	if err != nil {
		t.Fatal(err)
	}
	c.Must(fsm.Command{
		Kind: fsm.KindMembershipSet, Principal: "user/test", Body: fsm.EncodeBody(fsm.KindMembershipSet, &body),
		Audits: []fsm.Audit{{Action: "configure", Resource: "cluster", Decision: fsm.Allowed}},
	})
}

// holders are who holds shares of the deal in force.
func holders(c *clustertest.Cluster) []string {
	s := c.Leader().Store()
	cl, _ := s.Cluster()
	deal, _ := s.Deal(cl.NodeEpoch)
	return slices.Sorted(slices.Values(deal.Members))
}

func memberOf(s cluster.Status, id string) cluster.MemberStatus {
	for _, m := range s.Members {
		if m.ID == id {
			return m
		}
	}
	return cluster.MemberStatus{}
}

// A node that joined without a vote follows, unseals and serves, and gets neither a vote nor a share; promoted it gets
// both, and demoted it gives both back, the share first.
func TestNonVoter(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	n := c.Add()
	n.NonVoter = true
	c.Join(n)
	c.Approve(n.ID)
	c.Await("the non-voter to be unsealed", func() bool { return n.Initialised() && !n.Status().Sealed })
	c.Restart(n)
	c.Await("the non-voter to unseal itself again", func() bool { return !n.Status().Sealed })
	at := c.Must(record("list"))
	ctx, cancel := context.WithTimeout(t.Context(), clustertest.Patience)
	defer cancel()
	if err := n.Store().WaitApplied(ctx, at.Index); err != nil {
		t.Fatal(err)
	}
	if m := memberOf(c.Leader().Status(), n.ID); m.Voter || m.HasShare || !m.NonVoter || !m.Approved {
		t.Fatalf("a non-voter: %+v", m)
	}
	if _, err := n.Mux.Raft().Dial("n1", 10*time.Second); err == nil {
		t.Error("a non-voter opened a Raft stream")
	}
	if got := holders(c); !slices.Equal(got, []string{"n1", "n2", "n3"}) {
		t.Errorf("shares are held by %v", got)
	}

	vote(t, c, n.ID, true)
	c.AwaitReady()
	if got := holders(c); !slices.Equal(got, []string{"n1", "n2", "n3", "n4"}) {
		t.Errorf("after the promotion shares are held by %v", got)
	}

	c.Transfer(c.Leader(), n) // the leader itself is demoted
	vote(t, c, n.ID, false)
	c.Await("the vote to go", func() bool {
		m := memberOf(c.Leader().Status(), n.ID)
		if !m.Voter && slices.Contains(holders(c), n.ID) {
			t.Fatal("the vote went before the share")
		}
		return !m.Voter
	})
	c.Await("its share to be destroyed", func() bool {
		epochs, err := n.ShareEpochs()
		return err == nil && len(epochs) == 0
	})
	if s := c.Leader().Status(); s.Threshold != 2 || n.IsLeader() {
		t.Errorf("after the demotion: threshold %d, leader %s", s.Threshold, s.Leader.ID)
	}
	c.Await("it to be cut from Raft", func() bool {
		conn, err := n.Mux.Raft().Dial(raft.ServerAddress(c.Leader().ID), 10*time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	// All of them come up again by themselves: the shares of three open it.
	for _, n := range c.Nodes {
		c.Kill(n)
	}
	for _, n := range c.Nodes {
		c.Restart(n)
	}
	c.Await("all of them to unseal themselves", func() bool {
		return !slices.ContainsFunc(c.Nodes, func(n *clustertest.Node) bool { return n.Status().Sealed })
	})
	c.Must(record("list"))
}

// Down to one voter: no node set is left, and operators unseal from then on.
func TestDemoteToOne(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	last := c.Leader()
	for _, n := range c.Nodes {
		if n == last {
			continue
		}
		vote(t, c, n.ID, false)
		c.Await("the vote to go", func() bool { return !memberOf(last.Status(), n.ID).Voter })
	}
	if cl, _ := last.Store().Cluster(); cl.NodeEpoch != 0 {
		t.Errorf("a node set is left: epoch %d", cl.NodeEpoch)
	}
	for _, n := range c.Nodes {
		if n != last {
			c.Kill(n)
		}
	}
	c.Must(record("list"))
	if err := last.LoseVote(t.Context(), last.ID, false); err == nil {
		t.Error("the last voter may be demoted")
	}
}

// What the door asks before it takes a vote away.
func TestLoseVote(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{Nodes: 4})
	leader := c.Leader()
	var others []*clustertest.Node
	for _, n := range c.Nodes {
		if n != leader {
			others = append(others, n)
		}
	}
	down, up := others[0], others[1]
	for _, removed := range []bool{true, false} {
		if err := leader.LoseVote(t.Context(), up.ID, removed); err != nil {
			t.Errorf("everybody answers: %v", err)
		}
	}
	c.Kill(down)
	for name, tc := range map[string]struct {
		id      string
		removed bool
		want    *cluster.QuorumError
	}{
		"the dead one is removed":     {down.ID, true, nil},
		"a live one is removed":       {up.ID, true, &cluster.QuorumError{Silent: []string{down.ID}, Answer: 2, Needed: 3, DemoteFirst: true}},
		"the dead one is demoted":     {down.ID, false, nil},
		"a live one is demoted":       {up.ID, false, &cluster.QuorumError{Silent: []string{down.ID}, Answer: 2, Needed: 3}}, // three shares to be proven
		"somebody who has no vote is": {"n9", true, nil},
	} {
		err := leader.LoseVote(t.Context(), tc.id, tc.removed)
		var few *cluster.QuorumError
		if tc.want == nil && err == nil {
			continue
		}
		if !errors.As(err, &few) || tc.want == nil || !slices.Equal(few.Silent, tc.want.Silent) || few.Answer != tc.want.Answer ||
			few.Needed != tc.want.Needed || few.DemoteFirst != tc.want.DemoteFirst {
			t.Errorf("%s: %+v, want %+v", name, err, tc.want)
		}
	}
}

// Two of five die: both are removed, one after the other, and the three that are left unseal each other.
func TestCleanUp(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{Nodes: 5})
	leader := c.Leader()
	var dead []*clustertest.Node
	for _, n := range c.Nodes {
		if n != leader && len(dead) < 2 {
			dead = append(dead, n)
		}
	}
	for _, n := range dead {
		c.Kill(n)
	}
	c.Await("the leader to notice", func() bool {
		return memberOf(leader.Status(), dead[0].ID).Silent > time.Second && memberOf(leader.Status(), dead[1].ID).Silent > time.Second
	})
	if len(leader.Store().Members()) != 5 {
		t.Fatal("members were removed although clean-up is off")
	}
	membership(t, c, fsm.Membership{Stabilise: 1, CleanUpAfter: 100})
	c.Await("both to be removed", func() bool { return len(c.Leader().Store().Members()) == 3 })
	c.AwaitReady()
	why := 0
	for r, err := range leader.Store().AuditRecords(0, leader.Store().AuditSize()) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Action == "cluster.clean-up" && r.Principal == "node/"+leader.ID && r.Outcome == fsm.CodeOK {
			why++
		}
	}
	if why != 2 {
		t.Errorf("%d records say why a member was removed, want 2", why)
	}
	// The third is not: two voters survive nothing.
	for _, n := range c.Running() {
		if n != leader {
			c.Kill(n)
			break
		}
	}
	c.Await("the leader to notice", func() bool {
		return slices.ContainsFunc(c.Leader().Status().Members, func(m cluster.MemberStatus) bool { return m.Silent > time.Second })
	})
	if got := len(c.Leader().Store().Members()); got != 3 {
		t.Errorf("%d members are left", got)
	}
}

// Settings that somebody wrote on a disk do nothing.
func TestForgedSettings(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{Nodes: 4})
	leader := c.Leader()
	body, err := leader.MembershipBody(fsm.Membership{Stabilise: 1})
	if err != nil {
		t.Fatal(err)
	}
	body.Membership.CleanUpAfter = 50
	c.Must(fsm.Command{
		Kind: fsm.KindMembershipSet, Principal: "user/test", Body: fsm.EncodeBody(fsm.KindMembershipSet, &body),
		Audits: []fsm.Audit{{Action: "configure", Resource: "cluster", Decision: fsm.Allowed}},
	})
	gone := c.Nodes[0]
	if gone == leader {
		gone = c.Nodes[1]
	}
	c.Kill(gone)
	c.Await("the leader to notice", func() bool { return memberOf(c.Leader().Status(), gone.ID).Silent > time.Second })
	if got := len(c.Leader().Store().Members()); got != 4 {
		t.Errorf("%d members are left", got)
	}
}
