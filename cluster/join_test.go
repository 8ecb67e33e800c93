package cluster_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/fsm"
)

func TestJoinTokens(t *testing.T) {
	t.Parallel()
	clock := &clustertest.Clock{}
	c := clustertest.New(t, clustertest.Options{Nodes: 3, Clock: clock})
	c.Init()
	first, second, third := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	good := c.Token(second, time.Hour)

	join := func(n *clustertest.Node, token string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return n.Join(ctx, token)
	}
	other := clustertest.New(t, clustertest.Options{Nodes: 1, Clock: clock})
	other.Init()
	short := c.Token(third, time.Minute)
	clock.Advance(2 * time.Minute)
	for name, bad := range map[string]struct {
		node  *clustertest.Node
		token string
		says  string
	}{
		"named for another node":  {third, good, "another node"},
		"expired":                 {third, short, "expired"},
		"mistyped":                {third, mistype(good), "mistyped"},
		"not a token":             {third, "hizojoin_", "mistyped"},
		"secret of nobody's":      {third, withSecret(t, good), "unknown token"},
		"of an approved member's": {third, strings.Repeat("x", 100<<10), "mistyped"},
	} {
		err := join(bad.node, bad.token)
		if err == nil || !strings.Contains(err.Error(), bad.says) {
			t.Errorf("%s: %v, want %q", name, err, bad.says)
		}
	}
	if err := join(first, good); !errors.Is(err, cluster.ErrAlreadyInitialised) {
		t.Errorf("join of a member: %v", err)
	}
	if len(first.Store().Members()) != 1 {
		t.Fatalf("members after refused joins: %+v", first.Store().Members())
	}
	if !audited(t, first, func(r fsm.AuditRecord) bool { return r.Action == "join" && r.Decision == fsm.Failed }) {
		t.Error("refused joins were not recorded")
	}

	if err := join(second, good); err != nil {
		t.Fatalf("join: %v", err)
	}
	m, ok := first.Store().Member(second.ID)
	if !ok || m.Approved {
		t.Fatalf("after the join: %+v, want an unapproved member", m)
	}
	if err := join(third, good); err == nil {
		t.Error("a used token admitted another node")
	}
	// A node of the same name with another key: the token names the key.
	imposter := clustertest.New(t, clustertest.Options{Nodes: 2, Clock: clock}).Nodes[1]
	if err := join(imposter, c.Token(third, time.Hour)); !errors.Is(err, cluster.ErrJoinToken) {
		t.Errorf("another key: %v", err)
	}
	if err := join(imposter, good); !errors.Is(err, cluster.ErrJoinToken) {
		t.Errorf("another key with a used token: %v", err)
	}
	// Not approved: no vote, no share.
	c.Await("the state to arrive", func() bool { return second.Initialised() })
	if s := first.Status(); len(s.Members) != 2 || s.Members[1].Voter {
		t.Fatalf("unapproved member votes: %+v", s.Members)
	}
	// The same node asks again after its answer was lost: from scratch, with the same token and key.
	c.Forget(second)
	if err := join(second, good); err != nil {
		t.Errorf("join again with the same token and key: %v", err)
	}
}

// mistype changes one character in the middle.
func mistype(text string) string {
	b := []byte(text)
	if at := len(b) / 2; b[at] == 'A' {
		b[at] = 'B'
	} else {
		b[at] = 'A'
	}
	return string(b)
}

// withSecret is a well-formed token whose secret nobody made.
func withSecret(t *testing.T, token string) string {
	t.Helper()
	other, err := cluster.TokenWithOtherSecret(token)
	if err != nil {
		t.Fatal(err)
	}
	return other
}

func TestInitTwice(t *testing.T) {
	c := clustertest.New(t, clustertest.Options{Nodes: 1})
	c.Init()
	if _, err := c.Nodes[0].Init(t.Context(), cluster.InitRequest{Operators: 1, Threshold: 1}); !errors.Is(err, cluster.ErrAlreadyInitialised) {
		t.Fatalf("init over a cluster: %v", err)
	}
	c.Restart(c.Nodes[0])
	if _, err := c.Nodes[0].Init(t.Context(), cluster.InitRequest{Operators: 1, Threshold: 1}); !errors.Is(err, cluster.ErrAlreadyInitialised) {
		t.Fatalf("init over a restarted cluster: %v", err)
	}
}

// A removed node is out at once, and what its share opened is replaced.
func TestRemoveRotatesTheRoot(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{Nodes: 4})
	gone := c.Nodes[3]
	if gone.IsLeader() {
		c.Transfer(gone, c.Nodes[0])
	}
	leader := c.Leader()
	before, _ := leader.Store().Cluster()
	c.Must(fsm.Command{
		Kind: fsm.KindMemberRemove, Principal: "user/test",
		Body:   fsm.EncodeBody(fsm.KindMemberRemove, &fsm.MemberRemove{ID: gone.ID}),
		Audits: []fsm.Audit{{Action: "remove", Resource: "node/" + gone.ID, Decision: fsm.Allowed}},
	})
	c.Kill(gone)
	c.Await("the root key to be rotated", func() bool {
		cl, _ := c.Leader().Store().Cluster()
		return cl.RootGeneration == before.RootGeneration+1 && cl.NodeEpoch > before.NodeEpoch
	})
	c.AwaitReady()
	s := c.Leader().Status()
	if len(s.Members) != 3 || s.Threshold != 2 {
		t.Errorf("after the removal: %d members, threshold %d", len(s.Members), s.Threshold)
	}
	now, _ := c.Leader().Store().Cluster()
	for _, k := range c.Leader().Store().Keys() {
		if k.RootGeneration != now.RootGeneration {
			t.Errorf("key %s/%d is still wrapped by root generation %d", k.Purpose, k.Generation, k.RootGeneration)
		}
	}
	// Everybody restarts: only the new root is there to be had, by quorum and by the same operators.
	for _, n := range c.Running() {
		c.Kill(n)
	}
	for _, n := range c.Nodes[:3] {
		c.Restart(n)
	}
	c.AwaitReady()
	// The removed node cannot even connect: it stays sealed.
	c.Restart(gone)
	c.Must(record("list"))
	if !gone.Status().Sealed {
		t.Error("a removed node unsealed")
	}
}

// The last one left has no node set to deal to, and rotates all the same: the shares of those that went open the
// old root. Its own share is destroyed, and operators unseal it.
func TestShrinkToOneRotatesTheRoot(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	last := c.Leader()
	c.Must(vault(t, last, "unused", 1))
	for _, n := range c.Nodes {
		if n == last {
			continue
		}
		before, _ := last.Store().Cluster()
		c.Must(fsm.Command{
			Kind: fsm.KindMemberRemove, Principal: "user/test", Body: fsm.EncodeBody(fsm.KindMemberRemove, &fsm.MemberRemove{ID: n.ID}),
			Audits: []fsm.Audit{{Action: "remove", Resource: "node/" + n.ID, Decision: fsm.Allowed}},
		})
		c.Await("the root key to be rotated", func() bool {
			cl, _ := last.Store().Cluster()
			return cl.RootGeneration > before.RootGeneration
		})
		c.Kill(n)
	}
	c.Await("the last share to be destroyed", func() bool {
		epochs, err := last.ShareEpochs()
		keys, keysErr := last.Seal.Keys(t.Context())
		return err == nil && keysErr == nil && len(epochs) == 0 && len(keys) == 1
	})
	cl, _ := last.Store().Cluster()
	if cl.NodeEpoch != 0 || cl.PendingEpoch != 0 || len(last.Store().Deals()) != 0 {
		t.Errorf("a node set is left: %+v", cl)
	}
	for _, k := range last.Store().Keys() {
		if k.RootGeneration != cl.RootGeneration {
			t.Errorf("key %s/%d is still wrapped by root generation %d", k.Purpose, k.Generation, k.RootGeneration)
		}
	}
	if _, there := last.Store().Key("vault/unused", 1); there || last.Store().KeyGeneration("vault/unused") < 2 {
		t.Error("a vault that is empty keeps its old key, or has no new one")
	}
	c.Must(record("list"))
	c.Kill(last)
	c.Restart(last)
	for _, share := range c.Shares[:2] {
		if _, err := last.SubmitShare(t.Context(), text(t, share)); err != nil {
			t.Fatal(err)
		}
	}
	c.Await("operators to have unsealed it", func() bool { return !last.Status().Sealed })
	c.Must(record("list"))
}
