package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/seal"
)

// Gossip carries hints between nodes: addresses, health, how far each has come. Nothing here decides by
// them: voters, membership, leadership, clean-up and time come from the log.
type Gossip interface {
	SetMeta(GossipMeta) error
	SetKeys(keys [][]byte) error // the first one sends, all are understood
	Join(peerAddrs []string) error
	PeerAddrs() map[string]string // of members that are alive, by id, as they say themselves
	Close() error
}

// GossipMeta is what a node says about itself.
type GossipMeta struct {
	PeerAddr, ClientAddr string
	Sealed               bool
	Applied              uint64
}

// GossipConfig is what a node knows when it starts to gossip.
type GossipConfig struct {
	ID    string
	Label string               // names the cluster
	Keys  [][]byte             // 32 bytes each, the one that sends first
	Admit func(id string) bool // is this a member
	Meta  GossipMeta
}

// StartGossip starts it; where and on which networks is its maker's business.
type StartGossip func(GossipConfig) (Gossip, error)

// gossiper is owned by gossipLoop.
type gossiper struct {
	running Gossip
	keys    [][]byte
}

const (
	gossipFile  = "gossip"
	gossipEvery = 2 * time.Second
)

// gossipLoop gossips as soon as there is a key: from the keyring while unsealed, else from the file that
// this node's HSM wraps, so that a sealed node can be seen too.
func (n *Node) gossipLoop() {
	if n.cfg.Gossip == nil {
		return
	}
	defer func() {
		if n.gossip.running != nil {
			_ = n.gossip.running.Close()
		}
	}()
	tick := time.NewTicker(gossipEvery)
	defer tick.Stop()
	told := ""
	for {
		if err := n.gossipStep(); err != nil {
			// Said once: a member that is down or sealed for long does not gossip, and that is no news.
			if text := err.Error(); text != told {
				n.log.Info("gossip does not reach everybody; trying again", "error", err)
				told = text
			}
		} else {
			told = ""
		}
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return
		}
	}
}

func (n *Node) gossipStep() error {
	cl, ok := n.store.Cluster()
	if !ok {
		return nil
	}
	keys, err := n.gossipKeys()
	if err != nil || len(keys) == 0 {
		return err
	}
	g := &n.gossip
	meta := GossipMeta{
		PeerAddr: n.cfg.AdvertisePeer, ClientAddr: n.cfg.AdvertiseClient,
		Sealed: n.keys.sealed(), Applied: n.store.Position().Index,
	}
	same := slices.EqualFunc(keys, g.keys, slices.Equal[[]byte])
	if g.running == nil {
		g.running, err = n.cfg.Gossip(GossipConfig{
			ID: n.cfg.ID, Label: fmt.Sprintf("hizo/%x", cl.ID), Keys: keys, Meta: meta,
			Admit: func(id string) bool { _, ok := n.cfg.Directory.Peer(id); return ok },
		})
		if err != nil {
			g.running = nil
			return err
		}
		g.keys = keys
	} else if !same {
		if err := g.running.SetKeys(keys); err != nil {
			return err
		}
		g.keys = keys
	}
	var others []string
	for _, m := range n.store.Members() {
		if p, ok := n.cfg.Directory.Peer(m.ID); ok && m.ID != n.cfg.ID {
			others = append(others, p.Addr)
		}
	}
	hints := g.running.PeerAddrs()
	n.hints.Store(&hints)
	err = g.running.SetMeta(meta)
	if len(others) > 0 {
		err = errors.Join(err, g.running.Join(others))
	}
	return err
}

// gossipKeys returns the newest key and the one before it, which nodes that lag still send with.
func (n *Node) gossipKeys() ([][]byte, error) {
	ring := n.keys.ring.Load()
	if ring == nil {
		b, err := seal.ReadFile(n.ctx, n.cfg.Seal, n.path(gossipFile), gossipFile)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		var keys [][]byte
		if err := json.Unmarshal(b, &keys); err != nil {
			return nil, fmt.Errorf("gossip keys: %w", err)
		}
		return keys, nil
	}
	var keys [][]byte
	newest := n.store.KeyGeneration(keyring.Gossip)
	for generation := newest; generation > 0 && newest-generation < 2; generation-- {
		key, err := ring.Derive(keyring.Gossip, generation, "memberlist", 32)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key.Reveal())
	}
	if !slices.EqualFunc(keys, n.gossip.keys, slices.Equal[[]byte]) {
		b, err := json.Marshal(keys)
		if err != nil {
			return nil, err
		}
		defer clear(b)
		if err := seal.WriteFile(n.ctx, n.cfg.Seal, n.path(gossipFile), gossipFile, b); err != nil {
			return nil, err
		}
	}
	return keys, nil
}
