package cluster_test

import (
	"slices"
	"testing"

	"github.com/hizo/hizo/cluster/clustertest"
)

// A deal that its leader did not finish is aborted; the committed one goes on working, and what the
// unfinished one left on disk and in the HSM is destroyed.
func TestUnfinishedDealIsAborted(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{})
	leader := c.Leader()
	before, _ := leader.Store().Cluster()
	epoch, err := leader.ProposeDeal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Kill(leader)
	c.Await("the next leader to abort it", func() bool {
		cl, _ := c.Leader().Store().Cluster()
		_, there := c.Leader().Store().Deal(epoch)
		return cl.PendingEpoch == 0 && !there
	})
	if cl, _ := c.Leader().Store().Cluster(); cl.NodeEpoch != before.NodeEpoch {
		t.Errorf("node epoch %d, was %d", cl.NodeEpoch, before.NodeEpoch)
	}
	c.Restart(leader)
	c.AwaitReady()
	c.Await("the leftover share to be destroyed", func() bool {
		epochs, err := leader.ShareEpochs()
		if err != nil {
			t.Fatal(err)
		}
		return !slices.Contains(epochs, epoch)
	})
	keys, err := leader.Seal.Keys(t.Context())
	if err != nil || len(keys) != 2 { // local, and one share
		t.Errorf("HSM keys %v, %v", keys, err)
	}
}

// Growing deals anew to everybody and destroys what it replaces; a node that was away gets its share when
// it is back.
func TestGrow(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{})
	old, _ := c.Leader().Store().Cluster()
	for range 2 {
		n := c.Add()
		c.Join(n)
		c.Approve(n.ID)
	}
	c.AwaitReady()
	c.Await("older share keys to be destroyed everywhere", func() bool {
		cl, _ := c.Leader().Store().Cluster()
		for _, n := range c.Nodes {
			epochs, err := n.ShareEpochs()
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(epochs, []uint64{cl.NodeEpoch}) {
				return false
			}
		}
		return cl.NodeEpoch > old.NodeEpoch
	})
	if s := c.Leader().Status(); s.Threshold != 3 || len(s.Members) != 5 {
		t.Errorf("threshold %d of %d", s.Threshold, len(s.Members))
	}
}

func TestDevelopmentNode(t *testing.T) {
	c := clustertest.New(t, clustertest.Options{Nodes: 1, Development: true})
	c.Init()
	c.AwaitReady()
	c.Restart(c.Nodes[0])
	c.AwaitReady()
	if !c.Nodes[0].Status().Development {
		t.Error("a development cluster is not marked")
	}
}
