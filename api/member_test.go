package api_test

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/fsm"
)

// Votes come and go by an Operator's word, each on record, and never below what the cluster needs.
func TestVotesAtTheDoor(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	op := c.User("bob", "Operator")
	carol := c.User("carol", "SecurityEngineer")
	leader := c.Leader()
	var other *clustertest.Node
	for _, n := range c.Nodes {
		if n != leader {
			other = n
		}
	}
	reason := apitest.Reason

	if _, err := carol.Cluster().Demote(ctx, &hizov1.DemoteRequest{Node: other.ID}); reason(err) != hizov1.ReasonPermissionDenied {
		t.Errorf("demoted by a SecurityEngineer: %v", err)
	}
	m, err := op.Cluster().Demote(ctx, &hizov1.DemoteRequest{Node: other.ID})
	if err != nil || m.GetVoter() || !m.GetNonVoter() || m.GetHoldsShare() {
		t.Fatalf("demote: %+v, %v", m, err)
	}
	// Two voters are left: the one without the other could not go on.
	for what, call := range map[string]func() error{
		"demote a follower": func() error {
			_, err := op.Cluster().Demote(ctx, &hizov1.DemoteRequest{Node: "n9"})
			return err
		},
		"promote nobody": func() error {
			_, err := op.Cluster().Promote(ctx, &hizov1.PromoteRequest{Node: "n9"})
			return err
		},
		"transfer to nobody": func() error {
			_, err := op.Cluster().TransferLeader(ctx, &hizov1.TransferLeaderRequest{Node: "n9"})
			return err
		},
	} {
		if err := call(); reason(err) != hizov1.ReasonNotFound {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := op.Cluster().TransferLeader(ctx, &hizov1.TransferLeaderRequest{Node: other.ID}); reason(err) != hizov1.ReasonHandOver {
		t.Errorf("leadership to a follower without a vote: %v", err)
	}
	m, err = op.Cluster().Promote(ctx, &hizov1.PromoteRequest{Node: other.ID})
	if err != nil || m.GetNonVoter() || !m.GetVoter() {
		t.Fatalf("promote: %+v, %v", m, err)
	}
	c.AwaitReady()

	out, err := op.Cluster().TransferLeader(ctx, &hizov1.TransferLeaderRequest{Node: other.ID})
	if err != nil || out.GetLeaderId() != other.ID || out.GetLeaderAddr() != c.Addr(other.ID) {
		t.Errorf("transfer: %+v, %v", out, err)
	}
	if out, err = op.Cluster().TransferLeader(ctx, &hizov1.TransferLeaderRequest{Node: other.ID}); err != nil || out.GetLeaderId() != other.ID {
		t.Errorf("transfer to the leader: %+v, %v", out, err)
	}

	c.Kill(leader)
	third := c.Nodes[0]
	for _, n := range c.Nodes {
		if n != leader && n != other {
			third = n
		}
	}
	for what, call := range map[string]func() error{
		"demote": func() error {
			_, err := op.Cluster().Demote(ctx, &hizov1.DemoteRequest{Node: third.ID})
			return err
		},
		"remove": func() error {
			_, err := op.Cluster().Remove(ctx, &hizov1.RemoveRequest{Node: third.ID})
			return err
		},
	} {
		if err := call(); reason(err) != hizov1.ReasonConflict || !strings.Contains(err.Error(), "silent: "+leader.ID) {
			t.Errorf("%s with one voter down: %v", what, err)
		}
	}
	seen := map[string]int{}
	store := other.Store()
	for r, err := range store.AuditRecords(0, store.AuditSize()) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(r.Action, "cluster.") {
			seen[r.Action+" "+r.Principal+" "+r.Resource+" "+decision(r.Decision)]++
		}
	}
	for _, want := range []string{
		"cluster.demote user/carol node/" + other.ID + " denied", "cluster.demote user/bob node/" + other.ID + " allowed",
		"cluster.promote user/bob node/" + other.ID + " allowed", "cluster.transfer-leader user/bob node/" + other.ID + " allowed",
		"cluster.demote user/bob node/" + third.ID + " failed", "cluster.remove user/bob node/" + third.ID + " failed",
	} {
		if seen[want] == 0 {
			t.Errorf("not on record: %s", want)
		}
	}
	if t.Failed() {
		t.Logf("%v", seen)
	}
}

func decision(d fsm.Decision) string {
	return map[fsm.Decision]string{fsm.Allowed: "allowed", fsm.Denied: "denied", fsm.Failed: "failed"}[d]
}

func TestMembershipAtTheDoor(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	op, carol := c.User("bob", "Operator"), c.User("carol", "SecurityEngineer")
	ms := func(d time.Duration) *int64 {
		n := d.Milliseconds()
		return &n
	}
	if got, err := carol.Cluster().GetMembership(ctx, &hizov1.GetMembershipRequest{}); err != nil || got.GetSet() || got.GetCleanUpAfterMs() != 0 {
		t.Errorf("as a cluster begins: %v, %v", got, err)
	}
	if _, err := carol.Cluster().SetMembership(ctx, &hizov1.SetMembershipRequest{CleanUpAfterMs: ms(time.Hour)}); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
		t.Errorf("set by a SecurityEngineer: %v", err)
	}
	for _, bad := range []*hizov1.SetMembershipRequest{
		{CleanUpAfterMs: ms(time.Second)}, {CleanUpAfterMs: ms(-time.Hour)}, {CleanUpAfterMs: ms(20_000 * time.Hour)},
		{StabiliseMs: ms(-time.Second)}, {StabiliseMs: ms(2 * time.Hour)},
	} {
		if _, err := op.Cluster().SetMembership(ctx, bad); apitest.Reason(err) != hizov1.ReasonInvalid {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if _, err := op.Cluster().SetMembership(ctx, &hizov1.SetMembershipRequest{CleanUpAfterMs: ms(time.Hour), StabiliseMs: ms(0)}); err != nil {
		t.Fatal(err)
	}
	got, err := op.Cluster().SetMembership(ctx, &hizov1.SetMembershipRequest{StabiliseMs: ms(time.Minute)})
	if err != nil || got.GetStabiliseMs() != 60_000 || got.GetCleanUpAfterMs() != 3_600_000 || !got.GetSet() {
		t.Errorf("the one without the other: %v, %v", got, err)
	}
	// A name that is taken: the disk behind it may be gone, and then it has to be removed first.
	key := c.Nodes[1].Key()
	if _, err := op.Cluster().CreateJoinToken(ctx, &hizov1.JoinTokenRequest{Node: "n2", KeyFingerprint: hex.EncodeToString(key[:])}); apitest.Reason(err) != hizov1.ReasonConflict || !strings.Contains(err.Error(), "hizo cluster remove n2") {
		t.Errorf("a join token for a member's name: %v", err)
	}
	members, err := op.Cluster().Members(ctx, &hizov1.MembersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members.GetMembers() {
		if m.GetAppliedIndex() == 0 || m.GetSilentMs() != 0 {
			t.Errorf("a member that answers: %+v", m)
		}
	}
}
