package cluster_test

import (
	"context"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/fsm"
)

// A new node replays the log from its first entry, through states that do not know today's leader.
func TestJoinLedByALaterMember(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, clustertest.Options{Nodes: 3})
	c.Init()
	for range 60 {
		c.Must(record("list"))
	}
	for _, n := range c.Nodes[1:] {
		c.Join(n)
		c.Approve(n.ID)
	}
	c.AwaitReady()
	if c.Nodes[0].IsLeader() {
		c.Transfer(c.Nodes[0], c.Nodes[1])
	}
	newcomer := c.Add()
	c.Join(newcomer)
	c.Await("the new node to catch up", func() bool {
		_, ok := newcomer.Store().Member(newcomer.ID)
		return ok
	})
	if m, _ := newcomer.Store().Member(newcomer.ID); m.Approved {
		t.Error("a node joined as approved")
	}
	c.Restart(newcomer)
	size := c.Must(record("list"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := newcomer.Store().WaitApplied(ctx, size.Index); err != nil {
		t.Errorf("the new node does not follow after a restart: %v", err)
	}
	// It follows, and that is all: it opens no Raft streams.
	if _, err := newcomer.Mux.Raft().Dial("n1", 10*time.Second); err == nil {
		t.Error("an unapproved member opened a Raft stream")
	}
	c.Approve(newcomer.ID)
	c.AwaitReady()
}

func quarantine(t *testing.T, c *clustertest.Cluster, id string, on bool) {
	t.Helper()
	body, err := c.Leader().QuarantineBody(id, on)
	if err != nil {
		t.Fatal(err)
	}
	c.Must(fsm.Command{Kind: fsm.KindQuarantine, Principal: "user/test", Body: fsm.EncodeBody(fsm.KindQuarantine, &body),
		Audits: []fsm.Audit{{Action: "quarantine", Resource: "node/" + id, Decision: fsm.Allowed}}})
}

// Nodes that have never been unsealed give their shares to those whom the dealer named: here the first deal may need
// two of them.
func TestFiveNodesUnsealEachOther(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{Nodes: 5})
	for _, n := range c.Nodes {
		c.Kill(n)
	}
	for _, n := range c.Nodes[1:4] {
		c.Restart(n)
	}
	c.Await("three of five to unseal each other", func() bool {
		for _, n := range c.Nodes[1:4] {
			if n.Status().Sealed {
				return false
			}
		}
		return true
	})
}
