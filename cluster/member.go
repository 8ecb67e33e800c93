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

// VoteBody makes the record that gives a member its vote, or takes it for good.
func (n *Node) VoteBody(id string, voter bool) (fsm.MemberVote, error) {
	m, ok := n.store.Member(id)
	if !ok {
		return fsm.MemberVote{}, ErrUnknownMember
	}
	m.NonVoter = !voter
	mac, err := n.macMember(m)
	return fsm.MemberVote{ID: id, Voter: voter, MAC: mac}, err
}

// MembershipBody makes the record of settings.
func (n *Node) MembershipBody(m fsm.Membership) (fsm.MembershipSet, error) {
	ring, err := n.Keyring()
	if err != nil {
		return fsm.MembershipSet{}, err
	}
	cl, _ := n.store.Cluster()
	m.MAC, err = ring.MAC(cl.MACGeneration, m.MACDomain(), m.MACBody())
	return fsm.MembershipSet{Membership: m}, err
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
	var voters []string
	seeded := n.seeded()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		changed := n.store.Changed()
		if c := n.store.Index(fsm.ObjCluster); c != cluster {
			cluster = c
			n.clusterChanged()
		}
		if m, v, s := n.membersIndex(), n.voters(), n.seeded(); m != members || !slices.Equal(v, voters) || s != seeded {
			members, voters, seeded = m, v, s
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
	peers := peersOf(n.store.Members(), n.mayVote)
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

// mayVote says whether a member is to vote, or still does: until its share is not needed any more.
func (n *Node) mayVote(m fsm.Member) bool {
	return !m.NonVoter || n.raft != nil && slices.Contains(n.voters(), m.ID)
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
		if trusted(m) && n.mayVote(m) { // nobody else is let in
			n.cfg.Transport.Warm(ctx, n.cfg.Directory.IDs())
			n.peers.warm(n.cfg.ID, n.cfg.Directory.IDs())
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
	if len(peer) > 255 || len(client) > 255 || peer == "" {
		return fmt.Errorf("address: %w", ErrNotAllowed)
	}
	if m.PeerAddr != peer && m.ID != n.cfg.ID { // its own word: a wrong one only makes itself unreachable
		n.moved(m.ID, peer, "says so")
	}
	if !n.IsLeader() {
		return &NotLeaderError{Leader: n.leaderInfo()}
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

// memberDuty makes Raft's configuration follow the members of the state, step by step (voters.go): a member that
// joined becomes a non-voter, one that is approved and keeps up a voter, one that was demoted loses its vote, one that
// was removed leaves. It also keeps the members' certificates for clients fresh.
func (n *Node) memberDuty(ctx context.Context, term uint64) {
	n.reconcile(ctx, func() error {
		if !n.Initialised() {
			return nil
		}
		if err := n.reconcileServers(ctx, term); err != nil {
			return err
		}
		members := n.store.Members()
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

// electorate is what this node knows about votes now. Sealed it cannot check what people have set, and goes by the
// defaults.
func (n *Node) electorate(servers []raft.Server) *electorate {
	e := &electorate{
		self: n.cfg.ID, members: n.store.Members(), servers: make(map[string]raft.ServerSuffrage, len(servers)),
		settings: n.membership(), wait: n.cfg.Stabilise, census: n.census, now: time.Now(),
	}
	for _, s := range servers {
		e.servers[string(s.ID)] = s.Suffrage
	}
	cl, _ := n.store.Cluster()
	if cl.NodeEpoch != 0 {
		e.deal, _ = n.store.Deal(cl.NodeEpoch)
	}
	ids, threshold := n.wantedSet(cl, e.members)
	e.settled = cl.PendingEpoch == 0 && !n.rotationDue(cl, e.members, threshold) && (len(ids) == 0 || !n.dealNeeded(cl, ids, threshold))
	return e
}

// membership is what people have set, if its MAC is right.
func (n *Node) membership() fsm.Membership {
	settings, ok := n.store.Membership()
	ring := n.keys.ring.Load()
	if !ok || ring == nil {
		return fsm.Membership{}
	}
	cl, _ := n.store.Cluster()
	if err := verifyMAC(ring, cl.MACGeneration, settings.MACDomain(), settings.MACBody(), settings.MAC); err != nil {
		n.log.Error("the membership's settings were changed outside the cluster: the defaults are taken", "error", err)
		return fsm.Membership{}
	}
	return settings
}

// reconcileServers takes one step. Changes name no index that they were decided at: raft 1.7.3 does not tell it
// (GetConfiguration().Index() is always 0). Only this duty makes changes, one after the other, and raft takes none before
// the last has committed in this term.
func (n *Node) reconcileServers(ctx context.Context, term uint64) error {
	c := n.electorate(n.raft.GetConfiguration().Configuration().Servers).next()
	id, addr := raft.ServerID(c.id), raft.ServerAddress(c.id)
	switch c.do {
	case voterForget:
		n.log.Info("removes a server", "member", c.id)
		return n.wait(ctx, n.raft.RemoveServer(id, 0, confChange))
	case voterAdd:
		n.log.Info("adds a non-voter", "member", c.id)
		return n.wait(ctx, n.raft.AddNonvoter(id, addr, 0, confChange))
	case voterDemote:
		n.log.Info("takes a vote back", "member", c.id)
		return n.wait(ctx, n.raft.DemoteVoter(id, 0, confChange))
	case voterPromote:
		m, ok := n.store.Member(c.id)
		if !ok {
			return nil
		}
		if err := n.checkMember(m); err != nil {
			return err
		}
		n.log.Info("makes a voter", "member", c.id)
		return n.wait(ctx, n.raft.AddVoter(id, addr, 0, confChange))
	case voterYield:
		n.handOver(ctx, "this node is to have no vote any more", "")
	case voterCleanUp:
		return n.cleanUp(ctx, term, c.id)
	}
	return nil
}

// cleanUp removes a member that nothing has been heard of. A record of its own says why, because the words of a removal
// are Apply's. Both rest on the settings and on the member as they were looked at: clean-up that was switched off
// meanwhile does not happen.
func (n *Node) cleanUp(ctx context.Context, term uint64, id string) error {
	silent := n.census.silentFor(id, time.Now()).Round(time.Second)
	m, ok := n.store.Member(id)
	settings, set := n.store.Membership()
	if !ok || !set {
		return nil
	}
	reads := []fsm.Read{{Object: fsm.ObjMember(id), Index: m.Changed}, {Object: fsm.ObjMembership, Index: settings.Changed}}
	for _, cmd := range []fsm.Command{
		n.dutyCommand(fsm.KindRecord, nil, fsm.Audit{
			Action: "cluster.clean-up", Resource: "node/" + id, Decision: fsm.Allowed,
			Detail: fmt.Sprintf("silent for %v, %v is set", silent, time.Duration(settings.CleanUpAfter)*time.Millisecond),
		}),
		n.dutyCommand(fsm.KindMemberRemove, &fsm.MemberRemove{ID: id}, fsm.Audit{Action: "cluster.remove", Resource: "node/" + id, Decision: fsm.Allowed}),
	} {
		cmd.Term, cmd.Reads = term, reads
		result, err := n.Propose(ctx, cmd)
		if err == nil {
			err = codeError(result)
		}
		if err != nil {
			return fmt.Errorf("clean up %s: %w", id, err)
		}
	}
	n.log.Warn("removed a member that was silent for too long", "member", id, "silent", silent)
	return nil
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
