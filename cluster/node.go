// Package cluster is one node: Raft with the records of package fsm, the proposer that commits them in
// groups, the keys and how a node gets them (operators' shares, or a quorum of its peers), membership,
// and the duties of a leader.
//
// What is on the disk, below DataDir, and what a crash leaves of it:
//
//	raft.db      Raft's log and vote (package logstore): each write is there or not
//	state/       the replicated state (package fsm): behind the log at most, and replayed from it
//	snapshots/   of the state: whole, or not there
//	shares/      this node's share of each deal that is needed, wrapped by its HSM (sharefile.go)
//	reserve      takes disk space, for when there is no more (disk.go)
//	seeds        the members as the join answer named them, until the state has arrived
//	head         the last checkpoint that this node signed
//	gossip       the gossip keys
//	recovery     a recovery from a lost quorum that is not in the log yet
//	members      those whose MACs this node has checked, for when it is sealed (known.go)
//
// The last five are small records that only this node's HSM makes and reads (seal.WriteFile), the old one
// or the new one after a crash. No key is ever on the disk in the clear.
//
// DESIGN.md says why things are as they are.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/hizo/hizo/cluster/logstore"
	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/fsm"
)

// Transport is what a node needs of the peer port; transport.Mux is one. Every stream of Raft and Peers
// has been checked against the Directory, those of Joiners prove a key and nothing else.
type Transport interface {
	Raft() raft.StreamLayer
	Peers() net.Listener
	Joiners() net.Listener
	DialPeer(ctx context.Context, id string) (net.Conn, error)
	DialJoin(ctx context.Context, addr string, want [32]byte) (net.Conn, error)
	Credentials() credentials.TransportCredentials
	PeerOf(ctx context.Context) (Peer, bool)
	Warm(ctx context.Context, ids []string)
	Drop(id string)
}

// Config says what a node is made of. The node closes neither Transport nor Seal.
type Config struct {
	ID      string
	DataDir string

	AdvertisePeer   string // host:port where other nodes reach the peer port
	AdvertiseClient string // host:port where clients reach this node

	Seal      seal.Seal
	Directory *Directory
	Transport Transport
	Gossip    StartGossip // nil: no gossip

	// Seeds are addresses of peer ports where members may be found that are not where the state says. nil: none.
	Seeds func() []string

	Profile     Profile
	Development bool
	Clock       func() time.Time // default time.Now
	Logger      *slog.Logger

	// Level is the highest feature level that this node's build knows; 0: what package fsm knows. Tests of upgrades set it.
	Level uint32
	// Stabilise is how long a member has to keep up before it becomes a voter, until people set that
	// (fsm.Membership); default 5 s. The first three voters are not held up by the default.
	Stabilise time.Duration

	// CheckpointEvery is how often the leader asks for signatures while the audit tree grows; default 10 s.
	CheckpointEvery time.Duration

	// SnapshotBytes is how much log may follow a snapshot before the next one is taken; default 64 MiB.
	SnapshotBytes int64

	// DiskReserve is how many bytes of the file system are kept for this node, and at most a twentieth of it; 0: none.
	DiskReserve uint64

	// Duties are a leader's work beyond the cluster's own, such as rotating secrets.
	Duties []Duty

	// Exit ends the process when going on could lose or diverge data; default os.Exit after logging.
	Exit func(code int, why error)
}

func (cfg *Config) defaults() error {
	if cfg.ID == "" || cfg.DataDir == "" || cfg.Seal == nil || cfg.Directory == nil || cfg.Transport == nil {
		return errors.New("a node needs an ID, a DataDir, a Seal, a Directory and a Transport")
	}
	cfg.fill()
	return nil
}

func (cfg *Config) fill() {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Stabilise <= 0 {
		cfg.Stabilise = stabilise
	}
	if cfg.CheckpointEvery <= 0 {
		cfg.CheckpointEvery = 10 * time.Second
	}
	if cfg.SnapshotBytes <= 0 {
		cfg.SnapshotBytes = snapshotBytes
	}
	if cfg.Exit == nil {
		log := cfg.Logger
		cfg.Exit = func(code int, why error) {
			log.Error("this node stops", "error", why)
			os.Exit(code)
		}
	}
}

// halt stops the process: going on could lose or diverge data.
func (cfg *Config) halt(err error) { cfg.Exit(1, err) }

// Node is one member of a cluster, or one that is not a member yet. Its parts own their state:
//
//	store      the replicated state, written by Raft's FSM goroutine only
//	proposer   records on their way into the log
//	keys       the root key and keyring while unsealed
//	shareFiles this node's shares on disk, wrapped by the HSM
//	peers      connections to the other members
//	leadership the current term's duties
type Node struct {
	cfg Config
	log *slog.Logger

	disk   *disk
	store  *fsm.Store
	logs   *logstore.Store
	snaps  *fsm.Snapshots
	raft   *raft.Raft
	notify chan bool

	meter    *nodeMeter
	proposer *proposer
	keys     keys
	shares   *shareFiles
	peers    *peerClients
	calls    callKeys
	operator operatorShares
	clock    clockState
	heads    *signedHead
	known    *knownMembers
	census   *census
	hints    atomic.Pointer[map[string]string] // peer addresses that gossip shows, by member
	gossip   gossiper
	cert     nodeCertificate

	initMu  sync.Mutex // one Init or Join at a time
	seeds   atomic.Pointer[seedFile]
	servers []*grpc.Server

	ctx     context.Context // ends when Close begins
	cancel  context.CancelCauseFunc
	wg      sync.WaitGroup
	closed  atomic.Bool
	resign  resignation
	leaders leaderWatch
	begun   atomic.Uint64 // the last term of this node's whose beginning has been applied
	next    nextRoot
	wanted  atomic.Uint64 // audit records that a checkpoint is wanted over at once

	directory sync.Mutex // one refreshDirectory at a time

	recovery *recoveryFile // not in the log yet; a term's, which run one after the other
}

// Open starts a node. One that has no state waits for Init or Join; one that has state comes up sealed and
// unseals itself as soon as enough peers are there.
func Open(cfg Config) (_ *Node, err error) {
	if err := cfg.defaults(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: cfg.Logger.With("component", "cluster"), notify: make(chan bool, 16), meter: newNodeMeter()}
	n.keys.dropped = make(chan struct{}, 1)
	n.ctx, n.cancel = context.WithCancelCause(context.Background())
	var undo []func()
	defer func() {
		if err != nil {
			n.cancel(ErrShutdown)
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
		}
	}()

	if err := finishRestore(cfg.DataDir); err != nil {
		return nil, err
	}
	for _, dir := range []string{cfg.DataDir, n.path("state"), n.path("snapshots"), n.path("shares")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("data directory: %w", err)
		}
	}
	n.disk = openDisk(cfg.DataDir, n.path("reserve"), cfg.DiskReserve, n.log)
	if err := seal.EnsureKey(n.ctx, cfg.Seal, seal.Local); err != nil {
		return nil, fmt.Errorf("this node's own HSM key: %w", err)
	}
	if n.shares, err = openShareFiles(n.path("shares"), cfg.Seal, cfg.ID); err != nil {
		return nil, err
	}
	n.heads = &signedHead{path: n.path("head"), seal: cfg.Seal}
	n.known = &knownMembers{path: n.path("members"), seal: cfg.Seal}

	rc, err := raftConfig(cfg, n.notify)
	if err != nil {
		return nil, err
	}
	if err := n.openStorage(rc, &undo); err != nil {
		return nil, err
	}
	if cl, ok := n.store.Cluster(); ok && cl.Development && !cfg.Development {
		return nil, errors.New("this data directory was made by hizod dev and is marked for good: a server does not start on it")
	}
	if err := n.loadSeeds(); err != nil {
		return nil, err
	}
	if err := n.loadRecovery(); err != nil {
		return nil, err
	}
	n.refreshDirectory()

	trans := raftTransport(cfg.Transport.Raft(), cfg.Logger)
	undo = append(undo, func() { _ = trans.Close() })
	if n.raft, err = raft.NewRaft(rc, n.store, n.logs, n.logs, n.snaps, trans); err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	n.proposer = newProposer(n.raft, n.unixMilli, n.leaderInfo, n.IsLeader)
	n.peers = newPeerClients(cfg.Transport)
	n.census = &census{probe: n.askApplied}
	n.serve()

	n.leaders.follow(n.raft, &n.meter.leaderChanges)
	n.wg.Go(n.followState)
	n.wg.Go(n.followLeadership)
	n.wg.Go(n.unsealLoop)
	n.wg.Go(n.snapshotLoop)
	n.wg.Go(n.diskLoop)
	n.wg.Go(n.announceLoop)
	n.wg.Go(n.gossipLoop)
	n.wg.Go(n.locateLoop)
	return n, nil
}

func (n *Node) path(name string) string { return filepath.Join(n.cfg.DataDir, name) }

func (n *Node) unixMilli() int64 { return n.cfg.Clock().UnixMilli() }

// fatal stops the process: going on could lose or diverge data.
func (n *Node) fatal(err error) { n.cfg.Exit(1, err) }

// Close stops the node. Records in flight are answered with an unknown outcome, waiting ones with a
// definite no. A leader hands leadership over first, as long as ctx lasts.
func (n *Node) Close(ctx context.Context) error {
	if n.closed.Swap(true) {
		return nil
	}
	if n.raft.State() == raft.Leader {
		n.handOver(ctx, "this node stops", "")
	}
	n.cancel(ErrShutdown)
	for _, s := range n.servers {
		s.Stop()
	}
	n.leaders.stop(n.raft)
	future := n.raft.Shutdown()
	n.proposer.shutdown()
	err := future.Error()
	n.wg.Wait()
	n.peers.close()
	n.keys.seal()
	n.operator.clear()
	n.calls.clear()
	return errors.Join(err, n.store.Close(), n.logs.Close())
}

// ID names this node; its own records carry the principal "node/ID".
func (n *Node) ID() string { return n.cfg.ID }

// Store is the replicated state as this node has applied it.
func (n *Node) Store() *fsm.Store { return n.store }

// Initialised says whether this node has the state of a cluster.
func (n *Node) Initialised() bool {
	_, ok := n.store.Cluster()
	return ok
}

// Propose commits one record through this node, which must lead, and returns what Apply decided once it
// has applied here. The error is *NotLeaderError, ErrSealed, ErrOverloaded, ErrTooLarge, ErrClockSkew,
// ErrShutdown or the context's error: nothing was proposed; or *UnknownOutcomeError.
func (n *Node) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	return n.ProposeAfter(ctx, cmd, nil)
}

// ProposeAfter is Propose, and calls enqueued as soon as the record has its place in the queue. Records
// commit in the order of their places. enqueued must not block.
func (n *Node) ProposeAfter(ctx context.Context, cmd fsm.Command, enqueued func()) (fsm.Result, error) {
	if n.keys.sealed() && !allowedSealed(cmd.Kind) {
		if !n.IsLeader() { // the leader may well be unsealed: say where it is
			return fsm.Result{}, &NotLeaderError{Leader: n.leaderInfo()}
		}
		return fsm.Result{}, ErrSealed
	}
	if err := n.mayPropose(cmd.Kind); err != nil {
		return fsm.Result{}, err
	}
	if n.disk.refuses.Load() {
		return fsm.Result{}, ErrDiskFull
	}
	record, err := encodeRecord(cmd)
	if err != nil {
		return fsm.Result{}, err
	}
	return n.proposer.propose(ctx, record, enqueued)
}

// allowedSealed: what a leader accepts that cannot make or check MACs. Genesis makes the keys itself; an
// address is covered by no MAC; a checkpoint is signed by HSMs.
func allowedSealed(kind fsm.Kind) bool {
	switch kind {
	case fsm.KindRecord, fsm.KindGenesis, fsm.KindTick, fsm.KindClockJump, fsm.KindShareRelease, fsm.KindUnsealed,
		fsm.KindMemberUpdate, fsm.KindCheckpoint:
		return true
	}
	return false
}
