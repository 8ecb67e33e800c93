package cluster_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/crypto/seal"
)

// A deal that its leader did not finish is aborted; the committed one goes on working, and what the
// unfinished one left on disk and in the HSM is destroyed.
func TestUnfinishedDealIsAborted(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
	c := clustertest.New(t, clustertest.Options{Nodes: 1, Development: true})
	c.Init()
	c.AwaitReady()
	c.Restart(c.Nodes[0])
	c.AwaitReady()
	if !c.Nodes[0].Status().Development {
		t.Error("a development cluster is not marked")
	}
}

// Whoever has lost its share gets one of a new deal, however it was lost: without that the set would have one
// fewer for good, and the next loss could leave too few. The HSM key of the lost file is kept until then: the
// folder may be a disk that was not mounted.
func TestLostShareIsDealtAgain(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, c *clustertest.Cluster, n *clustertest.Node){
		"file of a member": func(t *testing.T, c *clustertest.Cluster, n *clustertest.Node) {
			c.Kill(n)
			if err := os.RemoveAll(filepath.Join(n.Dir, "data", "shares")); err != nil {
				t.Fatal(err)
			}
			c.Restart(n)
			if keys, err := n.Seal.Keys(t.Context()); err != nil || len(keys) < 2 {
				t.Errorf("the start without a folder destroyed HSM keys: %v, %v", keys, err)
			}
		},
		"HSM key of a member": func(t *testing.T, c *clustertest.Cluster, n *clustertest.Node) {
			c.Kill(n)
			c.Restart(n)
			destroyShareKeys(t, n)
		},
		"file of the leader": func(t *testing.T, c *clustertest.Cluster, n *clustertest.Node) {
			if err := os.RemoveAll(filepath.Join(c.Leader().Dir, "data", "shares")); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(c.Leader().Dir, "data", "shares"), 0o700); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := clustertest.Start(t, clustertest.Options{})
			leader, n := c.Leader(), c.Nodes[2]
			if n == leader {
				n = c.Nodes[1]
			}
			before, _ := leader.Store().Cluster()
			lose(t, c, n)
			c.Await("a new deal that everybody has proven, and no keys but its own", func() bool {
				cl, _ := c.Leader().Store().Cluster()
				deal, ok := c.Leader().Store().Deal(cl.NodeEpoch)
				if !ok || cl.NodeEpoch == before.NodeEpoch || len(deal.Provers) != 3 {
					return false
				}
				for _, n := range c.Nodes {
					epochs, err := n.ShareEpochs()
					keys, keysErr := n.Seal.Keys(t.Context())
					if err != nil || keysErr != nil || !slices.Equal(epochs, []uint64{cl.NodeEpoch}) || len(keys) != 2 {
						return false
					}
				}
				return true
			})
		})
	}
}

func destroyShareKeys(t *testing.T, n *clustertest.Node) {
	t.Helper()
	keys, err := n.Seal.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range keys {
		if h != seal.Local {
			if err := n.Seal.DestroyKey(t.Context(), h); err != nil {
				t.Fatal(err)
			}
		}
	}
}
