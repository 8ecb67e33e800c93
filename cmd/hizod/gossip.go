package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/transport"
)

// gossipStarter binds the configuration's part of gossip (where, on which networks) to what the node adds
// (who it is, the keys, who is admitted).
func gossipStarter(cfg GossipConfig, log *slog.Logger) (cluster.StartGossip, error) {
	networks, err := gossipNetworks(cfg)
	if err != nil {
		return nil, err
	}
	return func(of cluster.GossipConfig) (cluster.Gossip, error) {
		if len(of.Keys) == 0 {
			return nil, errors.New("gossip: no key yet")
		}
		list, err := transport.NewGossip(transport.GossipConfig{
			ID: of.ID, BindAddr: cfg.Listen, Key: of.Keys[0], Keys: of.Keys[1:], Label: of.Label,
			CIDRs: networks, Meta: transport.Meta(of.Meta), Admit: of.Admit, Logger: log,
		})
		if err != nil {
			return nil, err
		}
		return &gossip{list: list, keys: of.Keys, seeds: cfg.Seeds}, nil
	}, nil
}

// gossip is transport.Gossip as cluster wants it. It is used by one goroutine.
type gossip struct {
	list  *transport.Gossip
	keys  [][]byte
	seeds []string
}

func (g *gossip) SetMeta(m cluster.GossipMeta) error { return g.list.SetMeta(transport.Meta(m)) }

func (g *gossip) PeerAddrs() map[string]string {
	addrs := make(map[string]string)
	for _, h := range g.list.Hints() {
		if h.Alive {
			addrs[h.ID] = h.Meta.PeerAddr
		}
	}
	return addrs
}

func (g *gossip) Close() error { return g.list.Close() }

// SetKeys makes the new keys known before the first of them sends, and forgets the others last.
func (g *gossip) SetKeys(keys [][]byte) error {
	for _, k := range keys {
		if err := g.list.AddKey(k); err != nil {
			return err
		}
	}
	if err := g.list.UseKey(keys[0]); err != nil {
		return err
	}
	for _, old := range g.keys {
		if !slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, old) }) {
			if err := g.list.RemoveKey(old); err != nil {
				return err
			}
		}
	}
	g.keys = keys
	return nil
}

// Join contacts members that gossip does not show yet. Gossip answers one port above the peers' port.
func (g *gossip) Join(peerAddrs []string) error {
	alive := make(map[string]bool)
	for _, h := range g.list.Hints() {
		if h.Alive {
			alive[h.Meta.PeerAddr] = true
		}
	}
	var missing []string
	for _, addr := range peerAddrs {
		if alive[addr] {
			continue
		}
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return fmt.Errorf("member address %q: %w", addr, err)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return fmt.Errorf("member address %q: %w", addr, err)
		}
		missing = append(missing, net.JoinHostPort(host, strconv.FormatUint(n+1, 10)))
	}
	if len(missing) == 0 {
		return nil
	}
	_, err := g.list.Join(append(missing, g.seeds...))
	return err
}

// gossipNetworks are the networks that members live in. They must be named, except on loopback.
func gossipNetworks(cfg GossipConfig) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, s := range cfg.CIDRs {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("gossip.allowed_cidrs: %w", err)
		}
		list = append(list, p)
	}
	if len(list) > 0 {
		return list, nil
	}
	addr, err := netip.ParseAddrPort(cfg.Listen)
	if err != nil || !addr.Addr().IsLoopback() {
		return nil, errors.New("gossip.allowed_cidrs: missing; name the networks that the nodes live in, for example 10.1.0.0/16")
	}
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}, nil
}
