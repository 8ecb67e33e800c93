package cluster

import (
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/fsm"
)

// Status is what this node knows of itself and the cluster.
type Status struct {
	ID          string
	ClusterID   [16]byte
	ClusterName string
	Initialised bool
	Sealed      bool // this node holds no keys
	SealedFlag  bool // hizo cluster seal
	Development bool
	SealKind    seal.Kind

	Leader    LeaderInfo
	IsLeader  bool
	Term      uint64
	LastIndex uint64
	Applied   uint64
	NodeEpoch uint64 // of the node set that can unseal nodes; 0: none
	Threshold int    // of that set
	Level     uint32 // feature level that the cluster has agreed on
	Build     uint32 // the highest that this node's build knows
	ClockSkew time.Duration
	Disk      DiskStatus
	Members   []MemberStatus
}

// MemberStatus is one member as the replicated state has it.
type MemberStatus struct {
	fsm.Member
	Voter    bool
	HasShare bool // has proven its share of the current deal

	// As this node has heard itself while it leads.
	Silent       time.Duration // nothing for that long; 0: it answers, or was not asked yet
	AppliedIndex uint64        // when it answered last
}

// Status looks at this node only; it asks nobody.
func (n *Node) Status() Status {
	s := Status{
		ID: n.cfg.ID, Sealed: n.keys.sealed(), SealKind: n.cfg.Seal.Kind(),
		Leader: n.leaderInfo(), IsLeader: n.IsLeader(), Term: n.raft.CurrentTerm(), LastIndex: n.raft.LastIndex(),
		Disk: n.disk.Status(), Applied: n.store.Position().Index, ClockSkew: time.Duration(n.clock.offset.Load()) * time.Millisecond,
	}
	s.Build = n.store.HighestLevel()
	cl, ok := n.store.Cluster()
	if !ok {
		return s
	}
	s.Level = n.store.Level()
	s.Initialised, s.ClusterID, s.ClusterName = true, cl.ID, cl.Name
	s.SealedFlag, s.Development, s.NodeEpoch = cl.Sealed, cl.Development, cl.NodeEpoch
	provers := make(map[string]bool)
	if deal, ok := n.store.Deal(cl.NodeEpoch); ok && cl.NodeEpoch != 0 {
		s.Threshold = deal.Threshold
		for _, id := range deal.Provers {
			provers[id] = true
		}
	}
	voters := make(map[string]bool)
	for _, server := range n.raft.GetConfiguration().Configuration().Servers {
		voters[string(server.ID)] = server.Suffrage == raft.Voter
	}
	for _, m := range n.store.Members() {
		one := MemberStatus{Member: m, Voter: voters[m.ID], HasShare: provers[m.ID]}
		if m.ID == n.cfg.ID {
			one.AppliedIndex = s.Applied
		} else if seen, ok := n.census.of(m.ID); ok && s.IsLeader {
			one.AppliedIndex, one.Silent = seen.applied, n.census.silentFor(m.ID, time.Now())
		}
		s.Members = append(s.Members, one)
	}
	return s
}
