package cluster

import (
	"crypto/x509"
	"encoding/pem"
	"time"

	"github.com/hizo/hizo/cluster/meter"
)

// nodeMeter counts what a node does beside proposing.
type nodeMeter struct {
	leaderChanges    meter.Counter // as this node learned of them, to no leader and from none included
	snapshotFailures meter.Counter
	appends          *meter.Histogram // ns of appending to the log, with its sync
}

func newNodeMeter() *nodeMeter { return &nodeMeter{appends: meter.NewDurations()} }

// Numbers are what a node counts and measures, for whoever shows them. Counters begin with the process.
type Numbers struct {
	RaftState   string // leader, follower, candidate or shutdown
	CommitIndex uint64
	LastContact time.Time // with the leader; zero: never, or this node leads

	Committed, Refused, Overloaded, Unknown uint64 // records that were proposed here, by what became of them

	QueueRecords, QueueBytes int // waiting to be proposed
	Commit                   meter.Distribution
	EntryRecords, EntryBytes meter.Distribution
	Appends                  meter.Distribution
	LeaderChanges            uint64

	LogBytes         int64 // held, about
	LogBytesAfter    int64 // behind the newest snapshot
	Snapshots        int
	SnapshotIndex    uint64
	SnapshotBytes    int64
	SnapshotFailures uint64

	CertificateEnds time.Time // of this node's certificate for clients; zero: it has none
	CAEnds          time.Time
}

// Numbers reads them all. It takes a few locks for a moment and decodes two certificates: for every few seconds.
func (n *Node) Numbers() Numbers {
	m := n.proposer.meter
	out := Numbers{
		RaftState: raftState(n.raft.State().String()), CommitIndex: n.raft.CommitIndex(),
		Committed: m.committed.Load(), Refused: m.refused.Load(), Overloaded: m.overloaded.Load(), Unknown: m.unknown.Load(),
		Commit: m.latency.Load(), EntryRecords: m.records.Load(), EntryBytes: m.bytes.Load(),
		Appends: n.meter.appends.Load(), LeaderChanges: n.meter.leaderChanges.Load(),
		LogBytes: n.logs.Bytes(), SnapshotFailures: n.meter.snapshotFailures.Load(),
	}
	if !n.IsLeader() {
		out.LastContact = n.raft.LastContact()
	}
	out.QueueRecords, out.QueueBytes = n.proposer.waiting()
	if list, err := n.snaps.List(); err == nil && len(list) > 0 {
		out.Snapshots, out.SnapshotIndex, out.SnapshotBytes = len(list), list[0].Index, list[0].Size
	}
	out.LogBytesAfter = n.logs.BytesAfter(out.SnapshotIndex)
	if cl, ok := n.store.Cluster(); ok {
		out.CAEnds = ends(cl.CA)
	}
	if m, ok := n.store.Member(n.cfg.ID); ok {
		out.CertificateEnds = ends(m.ClientCert)
	}
	return out
}

func raftState(s string) string {
	switch s {
	case "Leader":
		return "leader"
	case "Follower":
		return "follower"
	case "Candidate":
		return "candidate"
	}
	return "shutdown"
}

// ends is when the first certificate of a chain does.
func ends(chain []byte) time.Time {
	block, _ := pem.Decode(chain)
	if block == nil {
		return time.Time{}
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}
	}
	return cert.NotAfter
}

// waiting is how much waits to be proposed.
func (p *proposer) waiting() (records, bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue), p.bytes
}
