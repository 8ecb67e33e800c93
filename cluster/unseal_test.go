package cluster_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
)

func text(t *testing.T, s shares.Share) string {
	t.Helper()
	out, err := s.Text()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A cluster that was off for a year, all nodes at once, comes back unsealed with nobody present.
func TestColdRestartAYearLater(t *testing.T) {
	t.Parallel()
	clock := &clustertest.Clock{}
	c := clustertest.Start(t, clustertest.Options{Clock: clock})
	before := c.Leader().Store().Time()
	for _, n := range c.Nodes {
		c.Kill(n)
	}
	clock.Advance(365 * 24 * time.Hour)
	for _, n := range c.Nodes {
		c.Restart(n)
	}
	c.AwaitReady()
	leader := c.Leader()
	if got := leader.Store().Time() - before; got < (365 * 24 * time.Hour).Milliseconds() {
		t.Errorf("cluster time moved %v ms in a year", got)
	}
	if !audited(t, leader, func(r fsm.AuditRecord) bool { return r.Action == "clock.jump" && r.Outcome == fsm.CodeOK }) {
		t.Error("the jump of cluster time was not recorded")
	}
	if !audited(t, leader, func(r fsm.AuditRecord) bool { return r.Action == "share.release" && r.Outcome == fsm.CodeOK }) {
		t.Error("no release of a share was recorded")
	}
	c.Must(record("list"))
}

func TestColdRestart(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	for round := range 2 {
		for _, n := range c.Nodes {
			c.Kill(n)
		}
		for _, n := range c.Nodes {
			c.Restart(n)
		}
		c.AwaitReady()
		if round == 0 && audited(t, c.Leader(), func(r fsm.AuditRecord) bool { return r.Action == "clock.jump" }) {
			t.Error("cluster time jumped without need")
		}
	}
}

func TestOperatorsUnseal(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, clustertest.Options{Nodes: 1})
	c.Init()
	n := c.Nodes[0]
	other := clustertest.New(t, clustertest.Options{Nodes: 1})
	other.Init()
	c.Restart(n)
	c.Leader()
	ctx := t.Context()
	if _, err := n.Keyring(); !errors.Is(err, cluster.ErrSealed) {
		t.Fatalf("keyring of a restarted node without a node set: %v, want ErrSealed", err)
	}
	if _, err := n.Propose(ctx, fsm.Command{Kind: fsm.KindRead}); !errors.Is(err, cluster.ErrSealed) {
		t.Fatalf("a sealed leader took a read: %v", err)
	}

	first := text(t, c.Shares[1])
	mistyped := first[:20] + "q" + first[21:]
	if first[20] == 'q' {
		mistyped = first[:20] + "p" + first[21:]
	}
	for name, bad := range map[string]struct {
		text string
		want error
	}{
		"mistyped":         {mistyped, shares.ErrText},
		"nonsense":         {"hizoshare1", shares.ErrText},
		"another cluster":  {text(t, other.Shares[0]), shares.ErrOtherCluster},
		"forged same deal": {forged(t, c.Shares[0], c.Shares[2]), shares.ErrWrongShare},
	} {
		if _, err := n.SubmitShare(ctx, bad.text); !errors.Is(err, bad.want) {
			t.Errorf("%s: %v, want %v", name, err, bad.want)
		}
	}
	if p := n.Progress(); p.Have != 0 || p.Need != 2 || p.Done {
		t.Fatalf("after wrong shares only: %+v", p)
	}
	p, err := n.SubmitShare(ctx, first)
	if err != nil || p != (cluster.UnsealProgress{Have: 1, Need: 2}) {
		t.Fatalf("first share: %+v, %v", p, err)
	}
	var duplicate *shares.DuplicateShareError
	if _, err := n.SubmitShare(ctx, first); !errors.As(err, &duplicate) || duplicate.Index != 2 {
		t.Fatalf("the same share again: %v", err)
	}
	p, err = n.SubmitShare(ctx, " "+text(t, c.Shares[2])+"\n")
	if err != nil || !p.Done {
		t.Fatalf("second share: %+v, %v", p, err)
	}
	if _, err := n.Keyring(); err != nil {
		t.Fatalf("keyring after the unseal: %v", err)
	}
	if !audited(t, n, func(r fsm.AuditRecord) bool { return r.Action == "unseal" && r.Detail == "method=operators" }) {
		t.Error("the unsealing was not recorded")
	}
}

// forged is a share that says it is like's, with from's value.
func forged(t *testing.T, like, from shares.Share) string {
	t.Helper()
	a, err := like.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	b, err := from.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var s shares.Share
	if err := s.UnmarshalBinary(append(a[:28:28], b[28:]...)); err != nil {
		t.Fatal(err)
	}
	return text(t, s)
}

// hizo cluster seal: every node drops its keys, nobody gets a share, and operators at one node unseal all.
func TestSealFlag(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	c.Must(fsm.Command{
		Kind: fsm.KindSealFlag, Principal: "user/test", Body: fsm.EncodeBody(fsm.KindSealFlag, &fsm.SealFlag{Sealed: true}),
		Audits: []fsm.Audit{{Action: "cluster.seal", Resource: "cluster", Decision: fsm.Allowed}},
	})
	c.Await("every node to be sealed", func() bool {
		for _, n := range c.Nodes {
			if !n.Status().Sealed {
				return false
			}
		}
		return true
	})
	// A restarted node asks, and is refused.
	c.Restart(c.Nodes[2])
	c.Leader()
	if !c.Nodes[2].Status().Sealed {
		t.Fatal("a node unsealed under the seal flag")
	}
	follower := c.Nodes[1]
	if follower.IsLeader() {
		follower = c.Nodes[0]
	}
	ctx := t.Context()
	if _, err := follower.SubmitShare(ctx, text(t, c.Shares[0])); err != nil {
		t.Fatal(err)
	}
	if p, err := follower.SubmitShare(ctx, text(t, c.Shares[1])); err != nil || !p.Done {
		t.Fatalf("operators at a follower: %+v, %v", p, err)
	}
	c.AwaitReady()
	if cl, _ := c.Leader().Store().Cluster(); cl.Sealed {
		t.Error("the flag is still set")
	}
}

// One HSM and disk alone, and any node that is quarantined, get nothing.
func TestQuarantinedNodeGetsNoShare(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	victim := c.Nodes[2]
	if victim.IsLeader() {
		victim = c.Nodes[1]
	}
	c.Stop(victim)
	body, err := c.Leader().QuarantineBody(victim.ID, true)
	if err != nil {
		t.Fatal(err)
	}
	c.Must(fsm.Command{
		Kind: fsm.KindQuarantine, Principal: "user/test", Body: fsm.EncodeBody(fsm.KindQuarantine, &body),
		Audits: []fsm.Audit{{Action: "cluster.quarantine", Resource: "node/" + victim.ID, Decision: fsm.Allowed}},
	})
	c.Restart(victim)
	c.Await("the quarantine to reach the node", func() bool {
		m, _ := victim.Store().Member(victim.ID)
		return m.Quarantined
	})
	for _, holder := range c.Running() {
		if holder == victim {
			continue
		}
		// The deal that leaves the quarantined node out may come in between: then it asks for that one.
		c.Await("a refusal by "+holder.ID, func() bool {
			err := victim.AskForShare(t.Context(), holder.ID)
			if err == nil {
				t.Fatalf("%s gave a quarantined node its share", holder.ID)
			}
			return errors.Is(err, cluster.ErrNotAllowed)
		})
	}
	if !audited(t, c.Leader(), func(r fsm.AuditRecord) bool {
		return r.Action == "share.release" && r.Resource == "node/"+victim.ID && r.Outcome == fsm.CodeDenied
	}) {
		t.Error("the refusal is not in the audit log")
	}
	if !victim.Status().Sealed {
		t.Fatal("a quarantined node unsealed")
	}
	if body, err = c.Leader().QuarantineBody(victim.ID, false); err != nil {
		t.Fatal(err)
	}
	c.Must(fsm.Command{
		Kind: fsm.KindQuarantine, Principal: "user/test", Body: fsm.EncodeBody(fsm.KindQuarantine, &body),
		Audits: []fsm.Audit{{Action: "cluster.quarantine", Resource: "node/" + victim.ID, Decision: fsm.Allowed}},
	})
	c.AwaitReady() // by itself: its rights changed
}

// A sealed leader hands leadership to an unsealed voter. With two voters there is no node set, so the
// restarted one stays sealed.
func TestSealedLeaderHandsOver(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, clustertest.Options{Nodes: 2})
	c.Init()
	c.Join(c.Nodes[1])
	c.Approve(c.Nodes[1].ID)
	c.Await("two voters", func() bool {
		s := c.Nodes[0].Status()
		return len(s.Members) == 2 && s.Members[1].Voter
	})
	sealed := c.Nodes[1]
	if !sealed.Status().Sealed {
		t.Fatal("the second node is unsealed without a node set")
	}
	c.Await("nothing but its seal to speak against it", func() bool {
		return c.Nodes[0].Leading() && sealed.Status().Applied == c.Nodes[0].Status().Applied
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := c.Nodes[0].TransferLeadership(ctx, sealed.ID); !errors.Is(err, cluster.ErrHandOver) {
		t.Errorf("leadership for a sealed node: %v", err)
	}
	c.Await("the sealed node to lead", func() bool {
		return c.Nodes[0].TransferRaw(sealed.ID) == nil || sealed.IsLeader()
	})
	c.Await("the unsealed node to lead again", func() bool { return c.Nodes[0].Leading() })
	c.Must(record("list"))
}

func audited(t *testing.T, n *clustertest.Node, match func(fsm.AuditRecord) bool) bool {
	t.Helper()
	for r, err := range n.Store().AuditRecords(0, n.Store().AuditSize()) {
		if err != nil {
			t.Fatal(err)
		}
		if match(r) {
			return true
		}
	}
	return false
}
