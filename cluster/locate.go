package cluster

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hizo/hizo/cluster/peerpb"
)

// After a restart at other addresses nobody is where the state says, and the leader who would write the new addresses
// into it cannot be elected. So a node that hears of no leader, and a leader that does not hear of a member, looks for
// members elsewhere: at the addresses that gossip shows, at the configured seeds, and where a member says that it is, over
// a stream of its own. An address counts once the pinned key has been proven there; it is kept in memory until the
// state says something newer.
const (
	locateEvery = time.Second
	locateCall  = time.Second
)

func (n *Node) locateLoop() {
	tick := time.NewTicker(locateEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return
		}
		n.locate(n.ctx)
	}
}

// missing are the members to look for.
func (n *Node) missing() (ids []string) {
	leader := n.leaderInfo().ID
	for _, id := range n.cfg.Directory.IDs() {
		switch {
		case id == n.cfg.ID:
		case leader == "", leader == n.cfg.ID && n.census.silentFor(id, time.Now()) > 0:
			ids = append(ids, id)
		}
	}
	return ids
}

func (n *Node) locate(ctx context.Context) {
	if !n.Initialised() {
		return
	}
	missing := n.missing()
	if len(missing) == 0 {
		return
	}
	seeds := n.seedAddrs(ctx)
	var wg sync.WaitGroup
	for _, id := range missing {
		wg.Go(func() {
			p, ok := n.cfg.Directory.Peer(id)
			if !ok || !n.isAt(ctx, p, p.Addr) && !n.findElsewhere(ctx, p, seeds) {
				return
			}
			n.introduce(ctx, id)
		})
	}
	wg.Wait()
}

// seedAddrs are the configured addresses; a name may stand for several.
func (n *Node) seedAddrs(ctx context.Context) (list []string) {
	if n.cfg.Seeds == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, locateCall)
	defer cancel()
	for _, seed := range n.cfg.Seeds() {
		host, port, err := net.SplitHostPort(seed)
		if err != nil {
			continue
		}
		hosts, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			n.log.Debug("a seed cannot be resolved", "seed", seed, "error", err)
			continue
		}
		for _, h := range hosts {
			list = append(list, net.JoinHostPort(h, port))
		}
	}
	return list
}

// isAt says whether the member's key answers at an address.
func (n *Node) isAt(ctx context.Context, p Peer, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, locateCall)
	defer cancel()
	conn, err := n.cfg.Transport.DialJoin(ctx, addr, p.Key)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func (n *Node) findElsewhere(ctx context.Context, p Peer, seeds []string) bool {
	candidates := slices.Clone(seeds)
	if m, ok := n.store.Member(p.ID); ok {
		candidates = append(candidates, m.PeerAddr)
	}
	if hint := n.hint(p.ID); hint != "" {
		candidates = append(candidates, hint)
	}
	slices.Sort(candidates)
	found := make(chan string, len(candidates))
	var wg sync.WaitGroup
	for _, addr := range slices.Compact(candidates) {
		if addr == p.Addr || addr == n.cfg.AdvertisePeer {
			continue
		}
		wg.Go(func() {
			if n.isAt(ctx, p, addr) {
				found <- addr
			}
		})
	}
	wg.Wait()
	select {
	case addr := <-found:
		n.moved(p.ID, addr, "looked for")
		return true
	default:
		return false
	}
}

// moved takes an address that a member is at, whatever the state says.
func (n *Node) moved(id, addr, how string) {
	if n.cfg.Directory.move(id, addr) {
		n.log.Info("a member is at another address than the state says", "member", id, "address", addr, "how", how)
		n.peers.drop(id) // a connection of grpc would go on at the old one
	}
}

// introduce says to a member where this node is. The member may know who leads, where this node does not: the leader
// gets the same words then, and will know where to find this node.
func (n *Node) introduce(ctx context.Context, id string) {
	me, ok := n.store.Member(n.cfg.ID)
	if !ok || me.PeerAddr == n.cfg.AdvertisePeer && n.leaderInfo().ID != "" {
		return
	}
	req := &peerpb.AnnounceRequest{PeerAddr: n.cfg.AdvertisePeer, ClientAddr: n.cfg.AdvertiseClient, Level: n.store.HighestLevel()}
	ctx, cancel := context.WithTimeout(ctx, 2*locateCall)
	defer cancel()
	reply, err := n.peers.of(id).Announce(ctx, req)
	if err == nil && reply.Leader != "" && reply.Leader != n.cfg.ID && reply.Leader != id {
		_, err = n.peers.of(reply.Leader).Announce(ctx, req)
	}
	if err != nil && ctx.Err() == nil {
		n.log.Debug("a member was not told where this node is", "member", id, "error", peerError(err))
	}
}

// hint is where gossip shows a member, or "".
func (n *Node) hint(id string) string {
	hints := n.hints.Load()
	if hints == nil {
		return ""
	}
	return (*hints)[id]
}
