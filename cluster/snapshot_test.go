package cluster_test

import (
	"fmt"
	"testing"

	"github.com/hizo/hizo/cluster/clustertest"
)

// A node that was away longer than the log reaches back gets a snapshot, goes on from there, survives a
// kill right after, and unseals.
func TestLaggingNodeGetsSnapshot(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	away := c.Nodes[2]
	if away.IsLeader() {
		away = c.Nodes[1]
	}
	c.Kill(away)
	for i := range 50 {
		c.Must(record(fmt.Sprint("r", i)))
	}
	leader := c.Leader()
	behind := away.Store().Position().Index
	c.Await("the log to begin after what the node has", func() bool {
		if err := leader.Compact(); err != nil {
			t.Logf("compact: %v", err)
			c.Must(record("more"))
		}
		return leader.FirstLog() > behind+1
	})
	size := leader.Store().AuditSize()
	want, err := leader.Store().TreeRoot(size)
	if err != nil {
		t.Fatal(err)
	}
	c.Restart(away)
	for range 2 {
		c.Await("the node to catch up", func() bool { return away.Store().AuditSize() >= size })
		if got, err := away.Store().TreeRoot(size); err != nil || got != want {
			t.Fatalf("another tree after the snapshot: %v", err)
		}
		c.AwaitReady()
		c.Restart(away)
	}
	c.AwaitReady()
}
