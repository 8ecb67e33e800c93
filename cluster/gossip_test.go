package cluster_test

import (
	"bytes"
	"slices"
	"sync"
	"testing"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
)

// recorder is a gossip that remembers what it was told: which keys, and about whom, is what cluster decides.
type recorder struct {
	mu     sync.Mutex
	config cluster.GossipConfig
	meta   cluster.GossipMeta
	joined []string
}

func (r *recorder) SetMeta(m cluster.GossipMeta) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.meta = m
	return nil
}

func (r *recorder) SetKeys(keys [][]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.config.Keys = keys
	return nil
}

func (r *recorder) Join(addrs []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.joined = addrs
	return nil
}

func (r *recorder) PeerAddrs() map[string]string { return nil }

func (r *recorder) keys() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.config.Keys
}

func (r *recorder) Close() error { return nil }

// Members share a gossip key that nobody else has; a sealed node has it too, from its HSM.
func TestGossipKeys(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	started := make(map[string][]*recorder)
	c := clustertest.Start(t, clustertest.Options{Gossip: func(config cluster.GossipConfig) (cluster.Gossip, error) {
		mu.Lock()
		defer mu.Unlock()
		r := &recorder{config: config, meta: config.Meta}
		started[config.ID] = append(started[config.ID], r)
		return r, nil
	}})
	newest := func(id string, at int) *recorder {
		var r *recorder
		c.Await("gossip of "+id, func() bool {
			mu.Lock()
			defer mu.Unlock()
			if len(started[id]) > at {
				r = started[id][at]
			}
			return r != nil
		})
		return r
	}
	first := newest("n1", 0)
	for _, n := range c.Nodes[1:] {
		r := newest(n.ID, 0)
		if keys := r.keys(); !slices.EqualFunc(keys, first.keys(), bytes.Equal) || len(keys[0]) != 32 {
			t.Errorf("%s has other gossip keys", n.ID)
		}
		if r.config.Label != first.config.Label || !r.config.Admit("n1") || r.config.Admit("stranger") {
			t.Errorf("%s: label %q, admits strangers %v", n.ID, r.config.Label, r.config.Admit("stranger"))
		}
	}
	// Two of three gone: the third comes up sealed, and gossips all the same.
	for _, n := range c.Nodes {
		c.Kill(n)
	}
	c.Restart(c.Nodes[2])
	again := newest("n3", 1)
	again.mu.Lock()
	defer again.mu.Unlock()
	if !again.meta.Sealed || !slices.EqualFunc(again.config.Keys, first.keys(), bytes.Equal) {
		t.Errorf("sealed %v, keys equal %v", again.meta.Sealed, slices.EqualFunc(again.config.Keys, first.keys(), bytes.Equal))
	}
}
