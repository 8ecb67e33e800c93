package logstore_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/cluster/logstore"
	"github.com/hizo/hizo/transport"
)

// These tests run hashicorp/raft for real: this log, TLS streams of package
// transport on loopback, raft's own file snapshots.

// directory is one node's view of the membership. Taking a node out of it, and
// dropping its streams, cuts the two off from each other.
type directory struct {
	mu    sync.Mutex
	peers map[string]transport.Peer
}

func (d *directory) Peer(id string) (transport.Peer, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.peers[id]
	return p, ok
}

func (d *directory) ByKey(key [32]byte) (transport.Peer, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.peers {
		if p.Key == key {
			return p, true
		}
	}
	return transport.Peer{}, false
}

func (d *directory) put(p transport.Peer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.peers[p.ID] = p
}

func (d *directory) remove(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.peers, id)
}

// list is a state machine that remembers what it applied.
type list struct {
	mu      sync.Mutex
	applied []string
}

func (l *list) Apply(e *raft.Log) any {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.applied = append(l.applied, string(e.Data))
	return len(l.applied)
}

func (l *list) Snapshot() (raft.FSMSnapshot, error) { return listSnapshot(l.get()), nil }

func (l *list) Restore(r io.ReadCloser) error {
	defer r.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.applied = nil
	return gob.NewDecoder(r).Decode(&l.applied)
}

func (l *list) get() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.applied)
}

type listSnapshot []string

func (s listSnapshot) Persist(sink raft.SnapshotSink) error {
	if err := gob.NewEncoder(sink).Encode([]string(s)); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (listSnapshot) Release() {}

// snapshots remembers the newest published one, as Config.Snapshot wants it.
type snapshots struct {
	raft.SnapshotStore
	newest atomic.Pointer[raft.SnapshotMeta]
}

func (s *snapshots) position() (uint64, uint64) {
	if m := s.newest.Load(); m != nil {
		return m.Index, m.Term
	}
	return 0, 0
}

func (s *snapshots) look() error {
	all, err := s.List()
	if err == nil && len(all) > 0 {
		s.newest.Store(all[0])
	}
	return err
}

func (s *snapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(v, index, term, c, ci, t)
	return &publishing{SnapshotSink: sink, s: s}, err
}

type publishing struct {
	raft.SnapshotSink
	s *snapshots
}

func (p *publishing) Close() error { return errors.Join(p.SnapshotSink.Close(), p.s.look()) }

type node struct {
	t     *testing.T
	id    string
	dir   string
	key   *ecdsa.PrivateKey
	peers *directory

	mux   *transport.Mux
	store *logstore.Store
	snaps *snapshots
	state *list
	raft  *raft.Raft
	trans *raft.NetworkTransport
}

func newNode(t *testing.T, id string) *node {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	n := &node{t: t, id: id, dir: t.TempDir(), key: key, peers: &directory{peers: map[string]transport.Peer{}}}
	t.Cleanup(func() { n.stop() })
	return n
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// listen opens the peer port, at a new address each time.
func (n *node) listen(cluster ...*node) {
	n.t.Helper()
	var err error
	n.mux, err = transport.Listen(transport.Config{Addr: "127.0.0.1:0", ID: n.id, Signer: n.key, Directory: n.peers})
	check(n.t, err)
	for _, other := range append(cluster, n) {
		other.peers.put(transport.Peer{ID: n.id, Addr: n.mux.Addr().String(), Key: n.mux.Key(), Raft: true})
		if other.mux != nil {
			n.peers.put(transport.Peer{ID: other.id, Addr: other.mux.Addr().String(), Key: other.mux.Key(), Raft: true})
		}
	}
}

func (n *node) start(bootstrap ...*node) {
	n.t.Helper()
	files, err := raft.NewFileSnapshotStoreWithLogger(n.dir, 2, hclog.NewNullLogger())
	check(n.t, err)
	n.snaps = &snapshots{SnapshotStore: files}
	check(n.t, n.snaps.look())
	n.store, err = logstore.Open(filepath.Join(n.dir, "raft.db"), logstore.Config{
		Snapshot: n.snaps.position,
		Exit:     func(err error) { panic(err) },
	})
	check(n.t, err)
	n.state = &list{}
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(n.id)
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
	conf.CommitTimeout = 10 * time.Millisecond
	conf.MaxAppendEntries = 8
	conf.SnapshotThreshold, conf.SnapshotInterval = 1<<40, time.Hour
	conf.Logger = hclog.NewNullLogger()
	n.trans = n.mux.RaftTransport(nil)
	n.raft, err = raft.NewRaft(conf, n.state, n.store, n.store, n.snaps, n.trans)
	check(n.t, err)
	if len(bootstrap) > 0 {
		var servers []raft.Server
		for _, b := range bootstrap {
			servers = append(servers, raft.Server{ID: raft.ServerID(b.id), Address: raft.ServerAddress(b.id)})
		}
		check(n.t, n.raft.BootstrapCluster(raft.Configuration{Servers: servers}).Error())
	}
}

func (n *node) stop() {
	n.t.Helper()
	if n.raft == nil {
		return
	}
	check(n.t, n.raft.Shutdown().Error())
	check(n.t, n.trans.Close())
	check(n.t, n.mux.Close())
	check(n.t, n.store.Close())
	n.raft, n.mux = nil, nil
}

func cluster(t *testing.T) []*node {
	t.Helper()
	nodes := []*node{newNode(t, "a"), newNode(t, "b"), newNode(t, "c")}
	for _, n := range nodes {
		n.listen(nodes...)
	}
	nodes[0].start(nodes...)
	nodes[1].start()
	nodes[2].start()
	return nodes
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	deadline := time.After(30 * time.Second)
	for !cond() {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// leader waits for one of the nodes to lead and to have committed in its term.
func leader(t *testing.T, nodes ...*node) *node {
	t.Helper()
	var l *node
	eventually(t, "a leader", func() bool {
		for _, n := range nodes {
			if n.raft.State() == raft.Leader && n.raft.Barrier(5*time.Second).Error() == nil {
				l = n
				return true
			}
		}
		return false
	})
	return l
}

func apply(t *testing.T, l *node, prefix string, n int) {
	t.Helper()
	for i := range n {
		check(t, l.raft.Apply(fmt.Appendf(nil, "%s %d", prefix, i), 10*time.Second).Error())
	}
}

func converge(t *testing.T, want int, nodes ...*node) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d entries everywhere", want), func() bool {
		for _, n := range nodes {
			if len(n.state.get()) != want {
				return false
			}
		}
		return true
	})
	for _, n := range nodes[1:] {
		if !slices.Equal(n.state.get(), nodes[0].state.get()) {
			t.Fatalf("nodes %s and %s differ", nodes[0].id, n.id)
		}
	}
}

func others(nodes []*node, without *node) []*node {
	return slices.DeleteFunc(slices.Clone(nodes), func(n *node) bool { return n == without })
}

// cut makes two nodes unknown to each other; heal undoes it.
func cut(a, b *node) {
	a.peers.remove(b.id)
	b.peers.remove(a.id)
	a.mux.Drop(b.id)
	b.mux.Drop(a.id)
}

func heal(a, b *node) {
	a.peers.put(transport.Peer{ID: b.id, Addr: b.mux.Addr().String(), Key: b.mux.Key(), Raft: true})
	b.peers.put(transport.Peer{ID: a.id, Addr: a.mux.Addr().String(), Key: a.mux.Key(), Raft: true})
}

func TestOneNodeRestarts(t *testing.T) {
	n := newNode(t, "a")
	n.listen()
	n.start(n)
	apply(t, leader(t, n), "first", 300)
	check(t, n.raft.ReloadConfig(raft.ReloadableConfig{TrailingLogs: 10, SnapshotInterval: time.Hour, SnapshotThreshold: 1 << 40, HeartbeatTimeout: 300 * time.Millisecond, ElectionTimeout: 300 * time.Millisecond}))
	before := n.store.Bytes()
	check(t, n.raft.Snapshot().Error())
	if n.store.Bytes() >= before {
		t.Errorf("a snapshot left the log at %d bytes, before %d", n.store.Bytes(), before)
	}
	apply(t, n, "second", 20)
	want := n.state.get()
	term := n.raft.CurrentTerm()
	n.stop()
	n.listen()
	n.start()
	converge(t, 320, leader(t, n))
	if !slices.Equal(n.state.get(), want) {
		t.Error("another state after the restart")
	}
	if n.raft.CurrentTerm() <= term {
		t.Errorf("term %d after the restart, %d before", n.raft.CurrentTerm(), term)
	}
}

func TestThreeNodesChangeTheirLeader(t *testing.T) {
	nodes := cluster(t)
	old := leader(t, nodes...)
	apply(t, old, "before", 50)
	converge(t, 50, nodes...)
	for _, n := range nodes {
		if addr, id := n.raft.LeaderWithID(); string(addr) != old.id || string(id) != old.id {
			t.Errorf("%s follows %q at %q, want %s at its ServerID", n.id, id, addr, old.id)
		}
	}
	old.stop()
	rest := others(nodes, old)
	next := leader(t, rest...)
	apply(t, next, "after", 50)
	converge(t, 100, rest...)
	// The old leader comes back at another address, which nobody's Raft
	// configuration mentions.
	old.listen(rest...)
	old.start()
	converge(t, 100, nodes...)
}

func TestRemovedNodeIsCutOff(t *testing.T) {
	nodes := cluster(t)
	l := leader(t, nodes...)
	apply(t, l, "entry", 10)
	converge(t, 10, nodes...)
	rest := others(nodes, l)
	gone, stays := rest[0], rest[1]
	check(t, l.raft.RemoveServer(raft.ServerID(gone.id), 0, 10*time.Second).Error())
	for _, n := range []*node{l, stays} {
		n.peers.remove(gone.id)
		n.mux.Drop(gone.id)
	}
	// The removed node still believes in its membership and tries to vote; its
	// streams do not come up again.
	for _, n := range []*node{l, stays} {
		if c, err := gone.mux.Raft().Dial(raft.ServerAddress(n.id), 10*time.Second); !errors.Is(err, transport.ErrRefused) {
			if c != nil {
				_ = c.Close()
			}
			t.Errorf("the removed node dials %s: %v, want ErrRefused", n.id, err)
		}
		if _, err := n.mux.Raft().Dial(raft.ServerAddress(gone.id), 10*time.Second); !errors.Is(err, transport.ErrNotMember) {
			t.Errorf("%s dials the removed node: %v, want ErrNotMember", n.id, err)
		}
	}
	term := l.raft.CurrentTerm()
	apply(t, l, "without it", 30)
	converge(t, 40, l, stays)
	if len(gone.state.get()) != 10 {
		t.Errorf("the removed node applied %d entries", len(gone.state.get()))
	}
	if l.raft.CurrentTerm() != term {
		t.Errorf("the removed node disturbed the term: %d, was %d", l.raft.CurrentTerm(), term)
	}
}

// Raft issue 697: a snapshot lands on a log with a longer, divergent tail.
func TestSnapshotOverADivergentTail(t *testing.T) {
	nodes := cluster(t)
	old := leader(t, nodes...)
	apply(t, old, "common", 20)
	converge(t, 20, nodes...)
	rest := others(nodes, old)
	for _, n := range rest {
		cut(old, n)
	}
	// Written by the old leader alone before its lease ends.
	var lost []raft.ApplyFuture
	for i := range 60 {
		lost = append(lost, old.raft.Apply(fmt.Appendf(nil, "lost %d", i), 10*time.Second))
	}
	next := leader(t, rest...)
	for _, f := range lost {
		if f.Error() == nil {
			t.Fatal("an entry without a majority was committed")
		}
	}
	if last := old.raft.LastIndex(); last < 50 {
		t.Fatalf("the tail did not get into the log: last index %d", last)
	}
	apply(t, next, "kept", 10)
	for _, n := range rest {
		check(t, n.raft.ReloadConfig(raft.ReloadableConfig{TrailingLogs: 1, SnapshotInterval: time.Hour, SnapshotThreshold: 1 << 40, HeartbeatTimeout: 300 * time.Millisecond, ElectionTimeout: 300 * time.Millisecond}))
		check(t, n.raft.Snapshot().Error())
	}
	if first, err := next.store.FirstIndex(); err != nil || first < 25 {
		t.Fatalf("the leader could still send its log from %d (%v)", first, err)
	}
	if tail := old.raft.LastIndex(); tail <= next.raft.LastIndex() {
		t.Fatalf("the divergent tail ends at %d, the leader's log at %d: it must be longer", tail, next.raft.LastIndex())
	}
	for _, n := range rest {
		heal(old, n)
	}
	converge(t, 30, nodes...)
	apply(t, leader(t, nodes...), "more", 100)
	converge(t, 130, nodes...)
	if state := fmt.Sprint(old.state.get()); bytes.Contains([]byte(state), []byte("lost")) {
		t.Error("a lost entry was applied")
	}
	// And it is still so after a restart.
	old.stop()
	old.listen(rest...)
	old.start()
	converge(t, 130, nodes...)
}

// A user's Restore reaches the followers although their logs have no gap.
func TestRestoreReachesTheFollowers(t *testing.T) {
	nodes := cluster(t)
	l := leader(t, nodes...)
	apply(t, l, "old", 30)
	converge(t, 30, nodes...)
	var buf bytes.Buffer
	check(t, gob.NewEncoder(&buf).Encode([]string{"restored 1", "restored 2"}))
	check(t, l.raft.Restore(&raft.SnapshotMeta{Version: 1, Index: 5, Term: 1, Size: int64(buf.Len())}, &buf, 20*time.Second))
	converge(t, 2, nodes...)
	apply(t, leader(t, nodes...), "new", 20)
	converge(t, 22, nodes...)
	for _, n := range nodes {
		n.stop()
	}
	for _, n := range nodes {
		n.listen(nodes...)
	}
	for _, n := range nodes {
		n.start()
	}
	leader(t, nodes...)
	converge(t, 22, nodes...)
}
