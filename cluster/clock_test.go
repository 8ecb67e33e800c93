package cluster_test

import (
	"testing"
	"time"

	"github.com/hizo/hizo/cluster/clustertest"
)

// A cluster that was off for long comes up with the voters it has. An approved member that is not a voter yet,
// and away, has no say in that.
func TestClockJumpNeedsVotersOnly(t *testing.T) {
	t.Parallel()
	clock := &clustertest.Clock{}
	c := clustertest.New(t, clustertest.Options{Nodes: 2, Clock: clock})
	c.Init()
	c.Join(c.Nodes[1])
	c.Kill(c.Nodes[1])
	c.Approve(c.Nodes[1].ID)
	n := c.Nodes[0]
	size := n.Store().AuditSize()
	c.Kill(n)
	clock.Advance(time.Hour)
	c.Restart(n)
	c.Await("the voter to lead", n.Leading)
	if now := n.Store().Time(); now < clock.Now().Add(-time.Minute).UnixMilli() {
		t.Errorf("cluster time stands at %v", time.UnixMilli(now))
	}
	jumps := 0
	for r, err := range n.Store().AuditRecords(size, n.Store().AuditSize()) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Action == "clock.jump" {
			jumps++
		}
	}
	if jumps != 1 {
		t.Errorf("%d jumps are recorded", jumps)
	}
}

// All machines were suspended and wake together, hours later, and nobody asks for anything: the leader's own tick is the
// first record that finds the clock too far ahead.
func TestIdleClusterAfterASuspension(t *testing.T) {
	t.Parallel()
	clock := &clustertest.Clock{}
	c := clustertest.Start(t, clustertest.Options{Clock: clock})
	index, since := uint64(0), time.Now()
	c.Await("the duties to have nothing left to do", func() bool {
		if now := c.Leader().Store().Position().Index; now != index {
			index, since = now, time.Now()
		}
		return time.Since(since) > 4*time.Second
	})
	clock.Advance(3 * time.Hour)
	due := clock.Now().UnixMilli()
	c.Await("cluster time to move on", func() bool { return c.Leader().Store().Time() >= due })
}
