package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/cluster/peerpb"
	"github.com/hizo/hizo/fsm"
)

// ApproveBody makes the record that admits a member's key to the share set. key is the PKIX key that was
// approved: it must be the member's. The caller authorises and proposes it.
func (n *Node) ApproveBody(id string, key []byte) (fsm.MemberApprove, error) {
	m, ok := n.store.Member(id)
	if !ok {
		return fsm.MemberApprove{}, ErrUnknownMember
	}
	if !bytes.Equal(m.Key, key) {
		return fsm.MemberApprove{}, fmt.Errorf("%s has another key than the one approved: %w", id, ErrNotAllowed)
	}
	m.Approved = true
	mac, err := n.macMember(m)
	return fsm.MemberApprove{ID: id, Key: key, MAC: mac}, err
}

// QuarantineBody makes the record that stops (or resumes) share releases to a member.
func (n *Node) QuarantineBody(id string, on bool) (fsm.Quarantine, error) {
	m, ok := n.store.Member(id)
	if !ok {
		return fsm.Quarantine{}, ErrUnknownMember
	}
	m.Quarantined = on
	mac, err := n.macMember(m)
	return fsm.Quarantine{ID: id, On: on, MAC: mac}, err
}

func (n *Node) macMember(m fsm.Member) ([]byte, error) {
	ring, err := n.Keyring()
	if err != nil {
		return nil, err
	}
	cl, _ := n.store.Cluster()
	return ring.MAC(cl.MACGeneration, m.MACDomain(), m.MACBody())
}

// followEvery bounds how often this node looks at what changed: under load entries apply by the thousand.
const followEvery = 10 * time.Millisecond

// followState has this node react to what the log says: whom transport may talk to, the seal flag, and
// shares that no deal needs any more.
func (n *Node) followState() {
	var members, cluster uint64
	seeded := n.seeded()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		changed := n.store.Changed()
		if c := n.store.Index(fsm.ObjCluster); c != cluster {
			cluster = c
			n.clusterChanged()
		}
		if m, s := n.membersIndex(), n.seeded(); m != members || s != seeded {
			members, seeded = m, s
			n.refreshDirectory()
			n.keepMembers()
		}
		select {
		case <-changed:
		case <-n.ctx.Done():
			return
		}
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return
		}
	}
}

// membersIndex changes whenever any member does.
func (n *Node) membersIndex() (newest uint64) {
	list := n.store.Members()
	for _, m := range list {
		newest = max(newest, m.Changed)
	}
	return newest<<16 | uint64(len(list)) // a removal changes the number only
}

func (n *Node) clusterChanged() {
	cl, ok := n.store.Cluster()
	if !ok {
		return
	}
	if cl.Sealed {
		n.sealedByFlag()
	}
	n.rootRotated(cl)
	n.retireShares(cl)
}

// keepMembers is rememberMembers where nobody waits for it: the next change, and the next deal, try again.
func (n *Node) keepMembers() {
	if err := n.rememberMembers(n.ctx); err != nil && !errors.Is(err, ErrSealed) && !errors.Is(err, ErrNotInitialised) && n.ctx.Err() == nil {
		n.log.Error("the verified members were not written: while sealed this node may refuse shares to new ones", "error", err)
	}
}

// seeded says whether the join answer is newer than this node's state.
func (n *Node) seeded() bool {
	seeds := n.seeds.Load()
	return seeds != nil && n.store.Position().Index < seeds.Index
}

// refreshDirectory pins the members of the state, or of the join answer until the state is as new as that,
// and cuts the streams of whoever is no longer one: the directory first, the streams second. Reading the
// state and setting the directory are one step: between two callers a removed key could come back.
func (n *Node) refreshDirectory() {
	n.directory.Lock()
	defer n.directory.Unlock()
	peers := peersOf(n.store.Members())
	if n.seeded() {
		peers = n.seeds.Load().peers()
	}
	for _, id := range n.cfg.Directory.set(peers) {
		n.cfg.Transport.Drop(id)
		if n.peers != nil {
			n.peers.drop(id)
		}
	}
}

// announceLoop tells the leader where this node is and what its build knows, when that is not what the state says, and keeps
// streams to the other members ready, so that an election does not begin with handshakes.
func (n *Node) announceLoop() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return
		}
		m, ok := n.store.Member(n.cfg.ID)
		if !ok {
			continue
		}
		ctx, cancel := context.WithTimeout(n.ctx, 2*time.Second)
		if m.PeerAddr != n.cfg.AdvertisePeer || m.ClientAddr != n.cfg.AdvertiseClient || m.Level != n.store.HighestLevel() {
			n.announce(ctx, m)
		}
		if trusted(m) { // nobody else is let in
			n.cfg.Transport.Warm(ctx, n.cfg.Directory.IDs())
		}
		cancel()
	}
}

func (n *Node) announce(ctx context.Context, m fsm.Member) {
	var err error
	if leader := n.leaderInfo().ID; leader == n.cfg.ID {
		err = n.takeAnnouncement(ctx, m, n.cfg.AdvertisePeer, n.cfg.AdvertiseClient, n.store.HighestLevel())
	} else if leader != "" {
		_, err = n.peers.of(leader).Announce(ctx, &peerpb.AnnounceRequest{PeerAddr: n.cfg.AdvertisePeer, ClientAddr: n.cfg.AdvertiseClient, Level: n.store.HighestLevel()})
	}
	if err != nil && ctx.Err() == nil {
		n.log.Info("this node's addresses and level were not updated", "error", err)
	}
}

// takeAnnouncement is the leader's end of Announce. Addresses and level are not covered by the member's MAC: where a
// node is and what it runs grants nothing, its key is what counts.
func (n *Node) takeAnnouncement(ctx context.Context, m fsm.Member, peer, client string, level uint32) error {
	if !n.IsLeader() {
		return &NotLeaderError{Leader: n.leaderInfo()}
	}
	if len(peer) > 255 || len(client) > 255 || peer == "" {
		return fmt.Errorf("address: %w", ErrNotAllowed)
	}
	if m.PeerAddr == peer && m.ClientAddr == client && m.Level == level {
		return nil
	}
	m.PeerAddr, m.ClientAddr, m.Level = peer, client, level
	return n.updateMember(ctx, 0, m)
}

func (n *Node) updateMember(ctx context.Context, term uint64, m fsm.Member) error {
	cmd := n.dutyCommand(fsm.KindMemberUpdate, &fsm.MemberUpdate{Member: m})
	cmd.Term = term
	cmd.Reads = []fsm.Read{{Object: fsm.ObjMember(m.ID), Index: m.Changed}}
	result, err := n.Propose(ctx, cmd)
	if err != nil {
		return err
	}
	return codeError(result)
}

// memberDuty makes Raft's configuration follow the members of the state: a member that joined becomes a
// non-voter, one that is approved and caught up a voter, one that was removed leaves. It also keeps the
// members' certificates for clients fresh.
func (n *Node) memberDuty(ctx context.Context, term uint64) {
	caughtUp := make(map[string]int)
	n.reconcile(ctx, func() error {
		if !n.Initialised() {
			return nil
		}
		members := n.store.Members()
		if err := n.reconcileServers(ctx, members, caughtUp); err != nil {
			return err
		}
		if n.keys.sealed() {
			return nil
		}
		for _, m := range members {
			if !trusted(m) || !n.needsCertificate(m) {
				continue // a certificate speaks for the whole cluster
			}
			if err := n.checkMember(m); err != nil {
				return err
			}
			cert, err := n.issueNodeCertificate(m)
			if err != nil {
				return fmt.Errorf("certificate of %s: %w", m.ID, err)
			}
			m.ClientCert = cert
			if err := n.updateMember(ctx, term, m); err != nil {
				return fmt.Errorf("certificate of %s: %w", m.ID, err)
			}
		}
		return nil
	})
}

// reconcile calls step after each change of the state, at most every minPause, and at least every maxPause.
func (n *Node) reconcile(ctx context.Context, step func() error) {
	const minPause, maxPause = 50 * time.Millisecond, 300 * time.Millisecond
	told := ""
	for {
		changed := n.store.Changed()
		err := step()
		if err == nil {
			told = ""
		} else if text := err.Error(); text != told && ctx.Err() == nil && !errors.Is(err, ErrSealed) {
			told = text // once: what keeps failing in the same way is no news
			n.log.Info("duty: will try again", "error", err)
		}
		least := time.NewTimer(minPause)
		select {
		case <-least.C:
		case <-ctx.Done():
			least.Stop()
			return
		}
		most := time.NewTimer(maxPause - minPause)
		select {
		case <-changed:
			most.Stop()
		case <-most.C:
		case <-ctx.Done():
			most.Stop()
			return
		}
	}
}

// confChange bounds how long a configuration change waits for raft's main loop.
const confChange = 5 * time.Second

func (n *Node) reconcileServers(ctx context.Context, members []fsm.Member, caughtUp map[string]int) error {
	future := n.raft.GetConfiguration()
	servers := make(map[string]raft.ServerSuffrage)
	for _, s := range future.Configuration().Servers {
		servers[string(s.ID)] = s.Suffrage
	}
	for _, m := range members {
		suffrage, there := servers[m.ID]
		switch {
		case !there:
			n.log.Info("adds a non-voter", "member", m.ID)
			return n.wait(ctx, n.raft.AddNonvoter(raft.ServerID(m.ID), raft.ServerAddress(m.ID), future.Index(), confChange))
		case suffrage != raft.Voter && m.Approved && !m.Quarantined:
			if err := n.checkMember(m); err != nil {
				return err
			}
			// Caught up twice in a row: a node that comes and goes does not become a voter.
			if !n.isCaughtUp(ctx, m.ID) {
				caughtUp[m.ID] = 0
				continue
			}
			if caughtUp[m.ID]++; caughtUp[m.ID] < 2 {
				continue
			}
			delete(caughtUp, m.ID)
			n.log.Info("makes a voter", "member", m.ID)
			return n.wait(ctx, n.raft.AddVoter(raft.ServerID(m.ID), raft.ServerAddress(m.ID), future.Index(), confChange))
		}
	}
	for id := range servers {
		if slices.ContainsFunc(members, func(m fsm.Member) bool { return m.ID == id }) {
			continue
		}
		if id == n.cfg.ID { // removing oneself needs another leader
			n.handOver(ctx, "this node was removed", "")
			return nil
		}
		n.log.Info("removes a server", "member", id)
		return n.wait(ctx, n.raft.RemoveServer(raft.ServerID(id), future.Index(), confChange))
	}
	return nil
}

func (n *Node) isCaughtUp(ctx context.Context, id string) bool {
	target := n.store.Position().Index
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	status, err := n.peers.of(id).Status(ctx, &peerpb.StatusRequest{})
	return err == nil && status.Applied+catchUpSlack >= target && status.Applied > 0
}

// wait waits for a raft future, which raft does not answer after a shutdown.
func (n *Node) wait(ctx context.Context, future raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- future.Error() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
