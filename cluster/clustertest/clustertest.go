// Package clustertest starts whole clusters in one process: real sockets, real Raft, real disks below
// t.TempDir, software seals unless told otherwise. Tests of cluster and api use it.
//
//	c := clustertest.Start(t, clustertest.Options{})    // three voters, unsealed, shares dealt
//	leader := c.Leader()
//	leader.Propose(ctx, …)
//	c.Kill(leader)                                      // as SIGKILL: no hand-over
//	c.Leader()                                          // another one
//	c.Restart(leader)
package clustertest

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/crypto/seal/software"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/transport"
)

// Patience bounds every wait. It is generous: machines that run many tests at once are slow.
const Patience = 60 * time.Second

// Options of a cluster; the zero value is three nodes with software seals and two of three operators.
type Options struct {
	Nodes     int
	Operators int // default 3
	Threshold int // default 2

	// OpenSeal opens a node's seal, again after each restart. dir is the node's own.
	OpenSeal func(t testing.TB, dir, id string) seal.Seal

	Clock           *Clock // default: one that all nodes share
	Clocks          map[string]*Clock
	Seeds           bool // each node looks for the others at their peer ports, wherever those are now
	Profile         cluster.Profile
	CheckpointEvery time.Duration
	SnapshotBytes   int64         // default: a server's
	Stabilise       time.Duration // default: next to nothing
	DiskReserve     uint64        // default: none
	Development     bool
	Logger          *slog.Logger // default: quiet, or HIZO_TEST_LOG=1 to standard error
	Gossip          cluster.StartGossip
	Enrolment       []byte // hash of the first people's code
	EnrolmentRoles  []string
	ClientAddr      func(id string) string // what nodes advertise to clients; default a name that nobody answers
	// Levels are the highest feature levels that nodes' builds know; looked up again at each restart.
	Levels map[string]uint32
	// Duties of a node, beyond the cluster's own; asked again at each restart. nil: none.
	Duties func(id string) []cluster.Duty
}

// Clock is a clock that tests move.
type Clock struct{ ahead atomic.Int64 }

// Now is what the nodes see.
func (c *Clock) Now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// Advance moves the clock, also backwards.
func (c *Clock) Advance(d time.Duration) { c.ahead.Add(int64(d)) }

// Cluster is a running cluster.
type Cluster struct {
	T      testing.TB
	Nodes  []*Node
	ID     [16]byte
	CA     []byte // PEM
	Shares []shares.Share
	opts   Options
	dir    string
	mu     sync.Mutex // guards the nodes' addr
}

// Node is one of them. The embedded cluster.Node is another one after each restart.
type Node struct {
	*cluster.Node
	ID   string
	Dir  string
	Seal seal.Seal
	Mux  *transport.Mux

	NonVoter bool // joins without a vote

	c       *Cluster
	addr    string
	running bool
}

// New makes the nodes and starts them, without a cluster.
func New(t testing.TB, opts Options) *Cluster {
	t.Helper()
	if opts.Nodes == 0 {
		opts.Nodes = 3
	}
	if opts.Operators == 0 {
		opts.Operators, opts.Threshold = 3, 2
	}
	if opts.Stabilise == 0 {
		opts.Stabilise = time.Millisecond
	}
	if opts.Clock == nil {
		opts.Clock = &Clock{}
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
		if os.Getenv("HIZO_TEST_LOG") != "" {
			opts.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}
	}
	if opts.OpenSeal == nil {
		opts.OpenSeal = func(t testing.TB, dir, _ string) seal.Seal {
			s, err := software.Open(filepath.Join(dir, "seal"))
			if err != nil {
				t.Fatalf("open the software seal: %v", err)
			}
			return s
		}
	}
	c := &Cluster{T: t, opts: opts, dir: t.TempDir()} // before the clean-up below: it goes after it
	t.Cleanup(c.Close)
	for range opts.Nodes {
		c.Add()
	}
	return c
}

// Start makes a cluster that is ready: initialised by the first node, joined and approved by the others, every
// node a voter, shares dealt to all, everybody unsealed.
func Start(t testing.TB, opts Options) *Cluster {
	t.Helper()
	c := New(t, opts)
	c.Init()
	for _, n := range c.Nodes[1:] {
		c.Join(n)
		c.Approve(n.ID)
	}
	c.AwaitReady()
	return c
}

// Add makes and starts one more node, without joining it.
func (c *Cluster) Add() *Node {
	c.T.Helper()
	id := fmt.Sprintf("n%d", len(c.Nodes)+1)
	n := &Node{ID: id, Dir: filepath.Join(c.dir, id), c: c}
	if err := os.MkdirAll(n.Dir, 0o700); err != nil {
		c.T.Fatal(err)
	}
	c.Nodes = append(c.Nodes, n)
	c.Restart(n)
	return n
}

// Init makes the cluster at the first node.
func (c *Cluster) Init() {
	c.T.Helper()
	ctx, cancel := c.context()
	defer cancel()
	hash := c.opts.Enrolment
	if hash == nil {
		hash = bytes.Repeat([]byte{7}, 32)
	}
	result, err := c.Nodes[0].Init(ctx, cluster.InitRequest{
		Name: "test", Operators: c.opts.Operators, Threshold: c.opts.Threshold, Development: c.opts.Development,
		EnrolmentHash: hash, EnrolmentRoles: c.opts.EnrolmentRoles, EnrolmentTTL: time.Hour,
	})
	if err != nil {
		c.T.Fatalf("init: %v", err)
	}
	c.ID, c.CA, c.Shares = result.ClusterID, result.CA, result.Shares
}

// Token makes a committed join token for a node.
func (c *Cluster) Token(n *Node, ttl time.Duration) string {
	c.T.Helper()
	text, body, err := c.Leader().NewJoinToken(n.ID, n.Key(), ttl, n.NonVoter)
	if err != nil {
		c.T.Fatalf("join token: %v", err)
	}
	c.Must(fsm.Command{
		Kind: fsm.KindJoinTokenPut, Principal: "user/test", Body: fsm.EncodeBody(fsm.KindJoinTokenPut, &body),
		Audits: []fsm.Audit{{Action: "member.token", Resource: "node/" + n.ID, Decision: fsm.Allowed}},
	})
	return text
}

// Join joins a node by a fresh token.
func (c *Cluster) Join(n *Node) {
	c.T.Helper()
	ctx, cancel := c.context()
	defer cancel()
	if err := n.Join(ctx, c.Token(n, time.Hour)); err != nil {
		c.T.Fatalf("join %s: %v", n.ID, err)
	}
}

// Approve admits a member's key.
func (c *Cluster) Approve(id string) {
	c.T.Helper()
	leader := c.Leader()
	m, ok := leader.Store().Member(id)
	if !ok {
		c.T.Fatalf("approve: no member %s", id)
	}
	body, err := leader.ApproveBody(id, m.Key)
	for errors.Is(err, cluster.ErrSealed) { // another voter was elected before it got the keys
		body, err = c.unsealedLeader().ApproveBody(id, m.Key)
	}
	if err != nil {
		c.T.Fatalf("approve %s: %v", id, err)
	}
	c.Must(fsm.Command{
		Kind: fsm.KindMemberApprove, Principal: "user/test", Body: fsm.EncodeBody(fsm.KindMemberApprove, &body),
		Audits: []fsm.Audit{{Action: "approve", Resource: "node/" + id, Decision: fsm.Allowed}},
	})
}

// Must commits a command at the leader, whoever that is by then, and expects CodeOK. On a slow machine a
// leader may lose its term meanwhile: then the command is proposed again, and "exists" means that the first
// time counted.
func (c *Cluster) Must(cmd fsm.Command) fsm.Result {
	c.T.Helper()
	ctx, cancel := c.context()
	defer cancel()
	for again := false; ; {
		result, err := c.Leader().Propose(ctx, cmd)
		var notLeader *cluster.NotLeaderError
		var unknown *cluster.UnknownOutcomeError
		if again = again || errors.As(err, &unknown); err != nil {
			if (errors.As(err, &notLeader) || errors.As(err, &unknown)) && ctx.Err() == nil {
				continue
			}
			if errors.Is(err, cluster.ErrSealed) {
				c.unsealedLeader()
				continue
			}
			c.T.Fatalf("propose kind %d: %v", cmd.Kind, err)
		}
		if result.Code != fsm.CodeOK && !(again && result.Code == fsm.CodeExists) {
			c.T.Fatalf("propose kind %d: code %d %s", cmd.Kind, result.Code, result.Changed)
		}
		return result
	}
}

// Leader waits for a running node that leads and accepts records.
func (c *Cluster) Leader() *Node {
	c.T.Helper()
	var leader *Node
	c.Await("a leader", func() bool {
		for _, n := range c.Nodes {
			if n.running && n.Leading() {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

func (c *Cluster) unsealedLeader() (leader *Node) {
	c.T.Helper()
	c.Await("an unsealed leader", func() bool {
		leader = c.Leader()
		return !leader.Status().Sealed
	})
	return leader
}

// Running are the nodes that were neither killed nor stopped.
func (c *Cluster) Running() (list []*Node) {
	for _, n := range c.Nodes {
		if n.running {
			list = append(list, n)
		}
	}
	return list
}

// AwaitReady waits until all running nodes are voters that are unsealed and hold proven shares.
func (c *Cluster) AwaitReady() {
	c.T.Helper()
	running := c.Running()
	c.Await("all nodes to be unsealed voters with shares", func() bool {
		for _, n := range running {
			s := n.Status()
			if s.Sealed || s.NodeEpoch == 0 && (len(running) >= 3 || c.opts.Development) {
				return false
			}
			for _, other := range running {
				if !ready(s, other.ID, s.NodeEpoch != 0) {
					return false
				}
			}
		}
		return c.Leader() != nil
	})
}

func ready(s cluster.Status, id string, share bool) bool {
	for _, m := range s.Members {
		if m.ID == id {
			return m.Voter && (m.HasShare || !share)
		}
	}
	return false
}

// Await waits for a condition of the whole cluster. It looks again whenever a node has applied something,
// and, because leadership and keys are not part of the state, every few milliseconds.
func (c *Cluster) Await(what string, holds func() bool) {
	c.T.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			for _, n := range c.Running() {
				c.T.Logf("%s: %+v", n.ID, n.Status())
			}
			c.T.Fatalf("waited %v for %s", Patience, what)
		}
	}
}

// Stop stops a node in order: a leader hands leadership over.
func (c *Cluster) Stop(n *Node) {
	c.T.Helper()
	ctx, cancel := c.context()
	defer cancel()
	n.stop(ctx)
}

// Kill stops a node as SIGKILL would: its connections are gone first, it hands nothing over, and its state
// directory is afterwards what it was on the disk before, without what an orderly end flushes.
func (c *Cluster) Kill(n *Node) {
	c.T.Helper()
	if !n.running {
		return
	}
	_ = n.Mux.Close()
	state, aside := filepath.Join(n.Dir, "data", "state"), filepath.Join(n.Dir, "aside")
	// Pebble may be replacing files just now: then the copy is made again, until files came and went in none of it.
	var err error
	for range 50 {
		before := listing(state)
		if err = errors.Join(os.RemoveAll(aside), os.CopyFS(aside, os.DirFS(state))); err == nil && before == listing(state) {
			break
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n.stop(ctx)
	if err = errors.Join(err, os.RemoveAll(state), os.Rename(aside, state)); err != nil {
		c.T.Fatalf("kill %s: %v", n.ID, err)
	}
}

// listing names the files below a directory.
func listing(dir string) string {
	var names strings.Builder
	_ = fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			info, err := d.Info()
			if err == nil {
				fmt.Fprintln(&names, path, info.Size())
			}
		}
		return nil
	})
	return names.String()
}

// Cut takes a node's network away, for good; Restart brings it back.
func (c *Cluster) Cut(n *Node) { _ = n.Mux.Close() }

func (n *Node) stop(ctx context.Context) {
	if !n.running {
		return
	}
	n.running = false
	if err := n.Node.Close(ctx); err != nil {
		n.c.T.Errorf("close %s: %v", n.ID, err)
	}
	_ = n.Mux.Close()
	if err := n.Seal.Close(); err != nil {
		n.c.T.Errorf("close the seal of %s: %v", n.ID, err)
	}
}

// Restart starts a node that was stopped or killed, at the address that it had.
func (c *Cluster) Restart(n *Node) {
	c.T.Helper()
	if err := c.TryRestart(n); err != nil {
		c.T.Fatalf("open %s: %v", n.ID, err)
	}
}

// TryRestart is Restart of a node that may refuse to start.
func (c *Cluster) TryRestart(n *Node) error {
	c.T.Helper()
	if n.running {
		c.Kill(n)
	}
	n.Seal = c.opts.OpenSeal(c.T, n.Dir, n.ID)
	directory := cluster.NewDirectory()
	addr := n.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	log := c.opts.Logger.With("node", n.ID)
	var err error
	n.Mux, err = transport.Listen(transport.Config{
		Addr: addr, ID: n.ID, Signer: n.Seal.Identity(), Directory: directory, Logger: log,
	})
	if err != nil {
		c.T.Fatalf("listen %s: %v", n.ID, err)
	}
	c.mu.Lock()
	n.addr = n.Mux.Addr().String()
	c.mu.Unlock()
	clock := c.opts.Clock
	if own := c.opts.Clocks[n.ID]; own != nil {
		clock = own
	}
	client := net.JoinHostPort(n.ID+".test.invalid", "8443")
	if c.opts.ClientAddr != nil {
		client = c.opts.ClientAddr(n.ID)
	}
	var duties []cluster.Duty
	if c.opts.Duties != nil {
		duties = c.opts.Duties(n.ID)
	}
	var seeds func() []string
	if c.opts.Seeds {
		seeds = c.addrs
	}
	n.Node, err = cluster.Open(cluster.Config{
		Seeds: seeds,
		ID:    n.ID, DataDir: filepath.Join(n.Dir, "data"), AdvertisePeer: n.addr, AdvertiseClient: client,
		Seal: n.Seal, Directory: directory, Transport: n.Mux, Gossip: c.opts.Gossip,
		Profile: c.opts.Profile, Development: c.opts.Development, Clock: clock.Now, Logger: log,
		Stabilise: c.opts.Stabilise, DiskReserve: c.opts.DiskReserve, CheckpointEvery: c.opts.CheckpointEvery, SnapshotBytes: c.opts.SnapshotBytes, Duties: duties, Level: c.opts.Levels[n.ID],
		Exit: func(_ int, why error) { panic(fmt.Sprintf("%s: %v", n.ID, why)) },
	})
	if err != nil {
		return errors.Join(err, n.Mux.Close(), n.Seal.Close())
	}
	n.running = true
	return nil
}

// Move has a node listen at another address from its next start on.
func (n *Node) Move() {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	n.addr = ""
}

func (c *Cluster) addrs() (list []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.Nodes {
		if n.addr != "" {
			list = append(list, n.addr)
		}
	}
	return list
}

// Close stops every node.
func (c *Cluster) Close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, n := range c.Nodes {
		n.stop(ctx)
	}
}

// Key is the fingerprint of the node's identity key.
func (n *Node) Key() [32]byte { return transport.Fingerprint(n.Seal.Identity().Public()) }

// PublicKey is the identity key in PKIX.
func (n *Node) PublicKey() []byte {
	b, err := x509.MarshalPKIXPublicKey(n.Seal.Identity().Public())
	if err != nil {
		n.c.T.Fatal(err)
	}
	return b
}

// Addr is where the node's peer port listens.
func (n *Node) Addr() string { return n.addr }

func (c *Cluster) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), Patience)
}

// Transfer moves leadership from one node to another and waits until that one leads.
func (c *Cluster) Transfer(from, to *Node) {
	c.T.Helper()
	c.Await("leadership to move", func() bool {
		if from.IsLeader() {
			ctx, cancel := c.context()
			defer cancel()
			_ = from.TransferLeadership(ctx, to.ID) // the condition below decides
		}
		return to.IsLeader() || !from.IsLeader()
	})
}

// Forget kills a node, deletes all but its seal, and starts it again: as new, with the same key.
func (c *Cluster) Forget(n *Node) {
	c.T.Helper()
	c.Kill(n)
	if err := os.RemoveAll(filepath.Join(n.Dir, "data")); err != nil {
		c.T.Fatal(err)
	}
	c.Restart(n)
}
