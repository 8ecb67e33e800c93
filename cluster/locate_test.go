package cluster_test

import (
	"maps"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
)

func everyAddress(c *clustertest.Cluster) bool {
	for _, n := range c.Nodes {
		for _, other := range c.Nodes {
			if m, ok := n.Store().Member(other.ID); !ok || m.PeerAddr != other.Addr() {
				return false
			}
		}
	}
	return true
}

func everybodyUnsealed(c *clustertest.Cluster) bool {
	return !slices.ContainsFunc(c.Nodes, func(n *clustertest.Node) bool { return n.Status().Sealed })
}

// blocker holds the addresses that nodes had, so that nobody gets one of them by chance.
func blocker(t *testing.T, c *clustertest.Cluster) {
	t.Helper()
	for _, n := range c.Nodes {
		l, err := net.Listen("tcp", n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		n.Move()
	}
}

// All nodes come up at other addresses. They find each other by the configured seeds, unseal each other, and the state
// has the new addresses.
func TestAllNodesMove(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{Seeds: true})
	for _, n := range c.Nodes {
		c.Kill(n)
	}
	blocker(t, c)
	for _, n := range c.Nodes {
		c.Restart(n)
	}
	c.Await("all to find each other, unseal and say where they are", func() bool { return everybodyUnsealed(c) && everyAddress(c) })
	c.Must(record("list"))
}

// square is a gossip in which all see at once what each one says.
type square struct {
	mu   sync.Mutex
	said map[string]string
}

type speaker struct {
	*square
	id string
}

func (s *speaker) SetMeta(m cluster.GossipMeta) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said[s.id] = m.PeerAddr
	return nil
}

func (s *speaker) PeerAddrs() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]string{"stranger": "127.0.0.1:1"}
	maps.Copy(seen, s.said)
	return seen
}

func (s *speaker) SetKeys([][]byte) error { return nil }
func (s *speaker) Join([]string) error    { return nil }
func (s *speaker) Close() error           { return nil }

// The same by what gossip shows. A lie there leads nowhere: the key is not at that address.
func TestAllNodesMoveAndGossip(t *testing.T) {
	t.Parallel()
	all := &square{said: map[string]string{}}
	c := clustertest.Start(t, clustertest.Options{Gossip: func(config cluster.GossipConfig) (cluster.Gossip, error) {
		s := &speaker{all, config.ID}
		return s, s.SetMeta(config.Meta)
	}})
	c.Await("everybody to have a gossip key", func() bool {
		all.mu.Lock()
		defer all.mu.Unlock()
		return len(all.said) == 3
	})
	for _, n := range c.Nodes {
		c.Kill(n)
	}
	blocker(t, c)
	c.Restart(c.Nodes[0])
	c.Restart(c.Nodes[1])
	all.mu.Lock()
	all.said["n3"] = c.Nodes[0].Addr() // n1's
	all.mu.Unlock()
	c.Await("two of three to find each other", func() bool {
		for _, n := range c.Nodes[:2] {
			m1, _ := n.Store().Member("n1")
			m2, _ := n.Store().Member("n2")
			if n.Status().Sealed || m1.PeerAddr != c.Nodes[0].Addr() || m2.PeerAddr != c.Nodes[1].Addr() {
				return false
			}
		}
		return true
	})
	c.Restart(c.Nodes[2])
	c.Await("the third to be found", func() bool { return everybodyUnsealed(c) && everyAddress(c) })
}

// One node moves, without seeds and without gossip: it finds the others where they were, and asks them who leads.
func TestOneNodeMoves(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	n := c.Nodes[0]
	if n.IsLeader() {
		n = c.Nodes[1]
	}
	c.Kill(n)
	l, err := net.Listen("tcp", n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n.Move()
	c.Restart(n)
	c.Await("it to be found", func() bool { return everybodyUnsealed(c) && everyAddress(c) })
}
