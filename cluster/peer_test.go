package cluster_test

import (
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/fsm"
)

// A member has its own records proposed, in words of the leader's, and nothing else.
func TestForwardedRecords(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	before, _ := c.Leader().Store().Cluster()
	c.Must(fsm.Command{
		Kind: fsm.KindSealFlag, Principal: "user/test", Body: fsm.EncodeBody(fsm.KindSealFlag, &fsm.SealFlag{Sealed: true}),
		Audits: []fsm.Audit{{Action: "cluster.seal", Resource: "cluster", Decision: fsm.Allowed}},
	})
	type follower = *clustertest.Node
	for _, body := range []func(member, other follower) fsm.Unsealed{
		func(member, _ follower) fsm.Unsealed {
			return fsm.Unsealed{Node: member.ID, Method: "operators", Changed: before.Changed}
		},
		func(_, other follower) fsm.Unsealed {
			return fsm.Unsealed{Node: other.ID, Method: "handover", Changed: before.Changed}
		},
		func(_, other follower) fsm.Unsealed {
			return fsm.Unsealed{Node: other.ID, Method: "handover", Changed: c.Leader().Store().Index(fsm.ObjCluster)}
		},
	} {
		c.Await("a leader to take it", func() bool { // another node may lead meanwhile
			leader := c.Leader()
			followers := slices.DeleteFunc(slices.Clone(c.Nodes), func(n *clustertest.Node) bool { return n == leader })
			record := body(followers[0], followers[1])
			err := followers[0].ForwardTo(t.Context(), leader.ID, followers[0].DutyCommand(fsm.KindUnsealed, &record))
			if _, moved := errors.AsType[*cluster.NotLeaderError](err); err != nil && !moved {
				t.Fatal(err)
			}
			return err == nil
		})
	}
	if cl, _ := c.Leader().Store().Cluster(); !cl.Sealed {
		t.Error("the seal was undone")
	}
}

// Shares come from the leader, of the deal that the log has open.
func TestPushedShares(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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

// What a follower's clients did reaches the log through the leader, marked with the node that said so, and only in the
// forms that a member may speak for others.
func TestForwardRecord(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	leader := c.Leader()
	member := c.Nodes[0]
	if member == leader {
		member = c.Nodes[1]
	}
	record := func(change func(*fsm.Command, *fsm.Audit)) fsm.Command {
		a := fsm.Audit{Action: "watch", Resource: "vault/ml", Decision: fsm.Allowed, Detail: "prefix db/", Count: 3, Sealed: rnd(t)}
		cmd := fsm.Command{Kind: fsm.KindRecord, Principal: "user/alice"}
		if change != nil {
			change(&cmd, &a)
		}
		if cmd.Audits == nil {
			cmd.Audits = []fsm.Audit{a}
		}
		return cmd
	}
	result, err := member.ForwardRecord(t.Context(), record(nil))
	if err != nil || result.Code != fsm.CodeOK || result.Index > member.Store().Position().Index {
		t.Fatalf("%+v, %v", result, err)
	}
	if !audited(t, member, func(r fsm.AuditRecord) bool {
		return r.Index == result.Index && r.Principal == "user/alice" && r.Action == "watch" && r.Count == 3 && r.Detail == "prefix db/ via="+member.ID
	}) {
		t.Error("the record is not in the member's log, or does not say who forwarded it")
	}
	if _, err := leader.ForwardRecord(t.Context(), record(func(_ *fsm.Command, a *fsm.Audit) { a.Detail = "here" })); err != nil {
		t.Fatal(err)
	}
	if !audited(t, leader, func(r fsm.AuditRecord) bool { return r.Action == "watch" && r.Detail == "here" }) {
		t.Error("the leader's own record says that it was forwarded")
	}
	changed := record(func(cmd *fsm.Command, _ *fsm.Audit) {
		cmd.Reads = []fsm.Read{{Object: fsm.ObjUser("alice"), Index: 7}}
	})
	if result, err := member.ForwardRecord(t.Context(), changed); err != nil || result.Code != fsm.CodeSuperseded {
		t.Errorf("a decision that rests on what has changed: %+v, %v", result, err)
	}
	before := leader.Store().AuditSize()
	for name, cmd := range map[string]fsm.Command{
		"an allowed reveal":      record(func(_ *fsm.Command, a *fsm.Audit) { a.Action = "reveal" }),
		"a genesis":              record(func(_ *fsm.Command, a *fsm.Audit) { a.Action = fsm.ActionGenesis }),
		"a join":                 record(func(_ *fsm.Command, a *fsm.Audit) { a.Action = fsm.ActionJoin }),
		"an approval":            record(func(_ *fsm.Command, a *fsm.Audit) { a.Action = fsm.ActionApprove }),
		"a removal":              record(func(_ *fsm.Command, a *fsm.Audit) { a.Action = fsm.ActionRemove }),
		"no decision":            record(func(_ *fsm.Command, a *fsm.Audit) { a.Decision = 0 }),
		"another node's record":  record(func(cmd *fsm.Command, _ *fsm.Audit) { cmd.Principal = "node/" + leader.ID }),
		"its own record":         record(func(cmd *fsm.Command, _ *fsm.Audit) { cmd.Principal = "node/" + member.ID }),
		"a nameless user":        record(func(cmd *fsm.Command, _ *fsm.Audit) { cmd.Principal = "user/" }),
		"another's mark":         record(func(_ *fsm.Command, a *fsm.Audit) { a.Detail = "via=" + leader.ID }),
		"a line of its own":      record(func(_ *fsm.Command, a *fsm.Audit) { a.Resource = "x\ny" }),
		"nothing sealed":         record(func(_ *fsm.Command, a *fsm.Audit) { a.Sealed = nil }),
		"too much sealed":        record(func(_ *fsm.Command, a *fsm.Audit) { a.Sealed = make([]byte, 16<<10+1) }),
		"too many policies":      record(func(_ *fsm.Command, a *fsm.Audit) { a.Policies = make([]string, 33) }),
		"a request to remember":  record(func(cmd *fsm.Command, _ *fsm.Audit) { cmd.Request[0] = 1 }),
		"a duty of a term":       record(func(cmd *fsm.Command, _ *fsm.Audit) { cmd.Term = 1 }),
		"a body":                 record(func(cmd *fsm.Command, _ *fsm.Audit) { cmd.Body = []byte{1} }),
		"no audit":               record(func(cmd *fsm.Command, _ *fsm.Audit) { cmd.Audits = []fsm.Audit{} }),
		"more audits than allow": record(func(cmd *fsm.Command, a *fsm.Audit) { cmd.Audits = slices.Repeat([]fsm.Audit{*a}, 65) }),
		"another kind":           record(func(cmd *fsm.Command, _ *fsm.Audit) { cmd.Kind = fsm.KindPolicyDelete }),
	} {
		// As a member that does not ask itself first.
		if err := member.ForwardTo(t.Context(), leader.ID, cmd); err == nil {
			t.Errorf("%s was taken", name)
		}
		if _, err := member.ForwardRecord(t.Context(), cmd); !errors.Is(err, cluster.ErrNotAllowed) {
			t.Errorf("%s at home: %v", name, err)
		}
	}
	for r, err := range leader.Store().AuditRecords(before, leader.Store().AuditSize()) {
		if err != nil || strings.HasPrefix(r.Principal, "user/") {
			t.Errorf("%+v, %v", r, err)
		}
	}
	// What one member may fill the log with is bounded, in bytes.
	large := record(func(_ *fsm.Command, a *fsm.Audit) { a.Decision, a.Sealed = fsm.Failed, make([]byte, 16<<10) })
	large.Audits = slices.Repeat(large.Audits, 7)
	var stopped error
	for tries := 0; stopped == nil && tries < 10_000; tries++ {
		stopped = member.ForwardTo(t.Context(), leader.ID, large)
	}
	if !errors.Is(stopped, cluster.ErrOverloaded) {
		t.Errorf("a flood of records: %v", stopped)
	}
}

// Members that may not have keys may not speak for clients either.
func TestForwardRecordNeedsStanding(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, clustertest.Options{Nodes: 2}) // no node set: who restarts stays sealed
	c.Init()
	leader, member := c.Nodes[0], c.Nodes[1]
	c.Join(member)
	failure := fsm.Command{Kind: fsm.KindRecord, Principal: "anonymous", Audits: []fsm.Audit{{
		Action: "cluster.unseal", Resource: "cluster", Decision: fsm.Failed, Detail: "share refused", Sealed: rnd(t)}}}
	if _, err := member.ForwardRecord(t.Context(), failure); !errors.Is(err, cluster.ErrNotAllowed) {
		t.Errorf("a member that is not approved: %v", err)
	}
	c.Approve(member.ID)
	c.Await("the member to vote", func() bool {
		s := leader.Status()
		return len(s.Members) == 2 && s.Members[1].Voter
	})
	c.Restart(member)
	c.Await("the unsealed node to lead", func() bool {
		l, _ := member.Node.Leader()
		return leader.Leading() && l.ID == leader.ID
	})
	denial := fsm.Command{Kind: fsm.KindRecord, Principal: "user/alice", Audits: []fsm.Audit{{
		Action: "reveal", Resource: "ml/db", Decision: fsm.Denied, Sealed: rnd(t)}}}
	if _, err := member.ForwardRecord(t.Context(), denial); !errors.Is(err, cluster.ErrSealed) {
		t.Errorf("a sealed node speaks for alice: %v", err)
	}
	if result, err := member.ForwardRecord(t.Context(), failure); err != nil || result.Code != fsm.CodeOK {
		t.Errorf("a refused share of a sealed node: %+v, %v", result, err)
	}
	quarantine(t, c, member.ID, true)
	failure.Audits[0].Sealed = rnd(t)
	if err := member.ForwardTo(t.Context(), leader.ID, failure); err == nil {
		t.Error("a quarantined member speaks for its clients")
	}
}

func rnd(t *testing.T) []byte {
	t.Helper()
	b := make([]byte, 32)
	rand.Read(b)
	return b
}
