package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/chaos/check"
	"github.com/hizo/hizo/chaos/history"
	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// The fast half of the chaos harness: Raft, the proposer and the state machine of three nodes in one process, with
// networks and disks in memory and virtual time. A seed fixes faults and operations; how goroutines interleave is drawn
// anew each time. `make chaos-fast` runs thousands of seeds, `go test` a few.
var (
	simSeed  = flag.Uint64("sim.seed", 1, "the first seed of TestSim")
	simSeeds = flag.Int("sim.seeds", 6, "how many seeds TestSim runs")
)

func TestSim(t *testing.T) {
	var mu sync.Mutex
	var calls, linear, refused int
	t.Cleanup(func() {
		t.Logf("%d seeds from %d: %d calls, %d of them in order, %d refused after their revocation", *simSeeds, *simSeed, calls, linear, refused)
	})
	for i := range *simSeeds {
		seed := *simSeed + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, seed, 3)
				w.live()
				mu.Lock()
				defer mu.Unlock()
				calls, linear, refused = calls+w.calls, linear+w.linear, refused+w.refused
			})
		})
	}
}

// world is nodes and the network between them.
type world struct {
	t    *testing.T
	rng  *rand.Rand // of the faults
	seed uint64
	log  *slog.Logger

	mu    sync.Mutex
	nodes []*simNode
	cut   map[[2]int]bool // from, to

	begun  time.Time
	hmu    sync.Mutex
	events []history.Event
	ids    uint64

	calls, linear, refused int

	duty func(ctx context.Context, n *simNode, term uint64) // of a leader; nil: none
	pin  func(at, of *simNode) bool                         // does a node let another one in; nil: all
}

// simNode is one node. Its log survives crashes, since the real one syncs every entry; of its disk survives what was
// synced and a part of the rest.
type simNode struct {
	number int
	id     raft.ServerID
	fs     *vfs.MemFS
	log    *raft.InmemStore

	store    *fsm.Store
	raft     *raft.Raft
	trans    *raft.InmemTransport
	proposer *proposer
	stop     chan struct{}
	wg       sync.WaitGroup
	up       bool
}

func newWorld(t *testing.T, seed uint64, size int) *world {
	w := &world{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), log: slog.New(slog.DiscardHandler), cut: map[[2]int]bool{}, begun: time.Now()}
	for i := range size {
		w.nodes = append(w.nodes, &simNode{number: i, id: raft.ServerID(fmt.Sprintf("n%d", i+1)), fs: vfs.NewCrashableMem(), log: raft.NewInmemStore()})
	}
	return w
}

// start opens a node on what it has. Clients see it when it is whole.
func (w *world) start(n *simNode, bootstrap bool) {
	halt := func(err error) { w.t.Errorf("%s halts: %v", n.id, err) }
	store, err := fsm.Open(fsm.Options{Dir: "state", FS: n.fs, Logger: w.log, Halt: halt})
	if err != nil {
		w.t.Fatal(err)
	}
	snaps, err := fsm.NewSnapshots(store, fsm.SnapshotOptions{Dir: "snapshots", FS: n.fs, Logger: w.log})
	if err != nil {
		w.t.Fatal(err)
	}
	notify := make(chan bool, 8)
	rc, err := raftConfig(Config{ID: string(n.id), Profile: LAN, Logger: w.log}, notify)
	if err != nil {
		w.t.Fatal(err)
	}
	rc.SnapshotThreshold, rc.SnapshotInterval, rc.TrailingLogs = 48, 700*time.Millisecond, 16
	if rc.NoSnapshotRestoreOnStart, err = store.Recover(snaps, n.log); err != nil {
		w.t.Fatalf("%s: %v", n.id, err)
	}
	_, trans := raft.NewInmemTransportWithTimeout(raft.ServerAddress(n.id), 200*time.Millisecond)
	if bootstrap {
		var servers []raft.Server
		for _, o := range w.nodes {
			servers = append(servers, raft.Server{ID: o.id, Address: raft.ServerAddress(o.id)})
		}
		if err := raft.BootstrapCluster(rc, n.log, n.log, snaps, trans, raft.Configuration{Servers: servers}); err != nil {
			w.t.Fatal(err)
		}
	}
	r, err := raft.NewRaft(rc, store, n.log, n.log, snaps, trans)
	if err != nil {
		w.t.Fatal(err)
	}
	p := newProposer(r, func() int64 { return time.Now().UnixMilli() }, func() LeaderInfo {
		_, id := r.LeaderWithID()
		return LeaderInfo{ID: string(id)}
	}, func() bool { return r.State() == raft.Leader })
	stop := make(chan struct{})
	w.mu.Lock()
	n.store, n.raft, n.trans, n.proposer, n.stop, n.up = store, r, trans, p, stop, true
	w.mu.Unlock()
	n.wg.Go(func() { w.follow(n, notify, stop) })
	w.wire()
}

// follow opens and closes the proposer with each term, as lead does.
func (w *world) follow(n *simNode, notify <-chan bool, stop <-chan struct{}) {
	end := func() {}
	defer func() { end() }()
	for {
		select {
		case up := <-notify:
			end()
			end = func() {}
			if !up {
				n.proposer.closeWith(errNotLeading)
				continue
			}
			n.proposer.hold()
			term := n.raft.CurrentTerm()
			if n.raft.Barrier(0).Error() == nil {
				n.proposer.openAt(n.store.Time(), nil)
				if w.duty != nil {
					ctx, cancel := context.WithCancel(context.Background())
					var wg sync.WaitGroup
					wg.Go(func() { w.duty(ctx, n, term) })
					end = func() {
						cancel()
						wg.Wait()
					}
				}
			}
		case <-stop:
			return
		}
	}
}

// wire connects who may speak to whom.
func (w *world) wire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.nodes {
		for _, b := range w.nodes {
			if a == b || !a.up {
				continue
			}
			if b.up && !w.cut[[2]int{a.number, b.number}] && (w.pin == nil || w.pin(a, b) && w.pin(b, a)) {
				a.trans.Connect(b.trans.LocalAddr(), b.trans)
			} else {
				a.trans.Disconnect(raft.ServerAddress(b.id))
			}
		}
	}
}

func (w *world) setCut(cut map[[2]int]bool) {
	w.mu.Lock()
	w.cut = cut
	w.mu.Unlock()
	w.wire()
}

// crash cuts a node off, so that nothing of what follows is seen, waits until Raft has answered its callers (it never
// would once it is shut down), and takes away what was not synced.
func (w *world) crash(n *simNode) {
	w.mu.Lock()
	if !n.up {
		w.mu.Unlock()
		return
	}
	n.up = false
	for _, o := range w.nodes {
		if o != n && o.up {
			o.trans.Disconnect(raft.ServerAddress(n.id))
		}
		n.trans.Disconnect(raft.ServerAddress(o.id))
	}
	w.mu.Unlock()
	for n.raft.State() == raft.Leader {
		time.Sleep(20 * time.Millisecond) // virtual
	}
	if err := n.raft.Shutdown().Error(); err != nil {
		w.t.Error(err)
	}
	n.proposer.shutdown()
	close(n.stop)
	n.wg.Wait()
	after := n.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 30 + w.rng.IntN(50), RNG: w.rng})
	if err := errors.Join(n.store.Close(), n.trans.Close()); err != nil {
		w.t.Error(err)
	}
	n.fs = after
}

// live is the whole life of a world.
func (w *world) live() {
	for _, n := range w.nodes {
		w.start(n, true)
	}
	w.found()
	ctx, stop := context.WithCancel(w.t.Context())
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() { w.registers(ctx, fmt.Sprintf("c%d", i), rand.New(rand.NewPCG(w.seed, 100+uint64(i)))) })
	}
	clients.Go(func() { w.sessions(ctx, rand.New(rand.NewPCG(w.seed, 200))) })
	for range 6 {
		w.fault()
	}
	// Liveness: everything is whole again, and all must get through.
	w.setCut(map[[2]int]bool{})
	for _, n := range w.nodes {
		if !n.up {
			w.start(n, false)
		}
	}
	time.Sleep(3 * time.Second)
	before := w.acknowledged()
	time.Sleep(2 * time.Second)
	if w.acknowledged() == before {
		w.t.Error("liveness: no call was acknowledged in two seconds without a fault")
	}
	stop()
	clients.Wait()
	w.judge()
	for _, n := range w.nodes {
		w.crash(n)
	}
}

func (w *world) acknowledged() (n int) {
	w.hmu.Lock()
	defer w.hmu.Unlock()
	for _, e := range w.events {
		if e.Outcome == history.OK {
			n++
		}
	}
	return n
}

// fault breaks something for a while.
func (w *world) fault() {
	i := w.rng.IntN(3)
	n, hold := w.nodes[i], time.Duration(200+w.rng.IntN(1500))*time.Millisecond
	if w.rng.IntN(2) == 0 {
		for _, o := range w.nodes {
			if o.raft.State() == raft.Leader {
				n, i = o, o.number
			}
		}
	}
	switch w.rng.IntN(5) {
	case 0, 1: // one node is cut off
		cut := map[[2]int]bool{}
		for o := range 3 {
			if o != i {
				cut[[2]int{i, o}], cut[[2]int{o, i}] = true, true
			}
		}
		w.setCut(cut)
	case 2: // one direction, or one pair
		o := (i + 1 + w.rng.IntN(2)) % 3
		cut := map[[2]int]bool{{i, o}: true}
		if w.rng.IntN(2) == 0 {
			cut[[2]int{o, i}] = true
		}
		w.setCut(cut)
	case 3:
		w.crash(n)
	case 4: // all of them, one after the other
		for _, o := range w.nodes {
			w.crash(o)
		}
	}
	time.Sleep(hold)
	w.setCut(map[[2]int]bool{})
	for _, o := range w.nodes {
		if !o.up {
			w.start(o, false)
		}
	}
	time.Sleep(time.Duration(100+w.rng.IntN(1200)) * time.Millisecond)
}

// Principals: simSession's commands are those of one login after the other.
const (
	simPrincipal = "user/alice"
	simSession   = "user/session"
)

// found makes the cluster, its user and its vault.
func (w *world) found() {
	b := fsmtest.Builder{Time: time.Now().UnixMilli()}
	for _, cmd := range []fsm.Command{b.Genesis(), b.Enrol("alice", "enrolled"), b.Vault("v")} {
		r, err := w.call(w.t.Context(), func(*fsm.Store) fsm.Command { return cmd })
		if err != nil || r.Code != fsm.CodeOK {
			w.t.Fatalf("set-up: %v, code %d", err, r.Code)
		}
	}
}

func (w *world) requestID() [16]byte {
	w.hmu.Lock()
	defer w.hmu.Unlock()
	w.ids++
	return fsmtest.RequestID(time.Now().UnixMilli(), w.ids)
}

func (w *world) record(e history.Event) {
	e.Return = time.Since(w.begun)
	w.hmu.Lock()
	defer w.hmu.Unlock()
	e.ID = len(w.events)
	w.events = append(w.events, e)
}

var errGaveUp = errors.New("gave up; nothing was proposed")

// call is what the client and the door do together: make the command from the state of whoever may lead, propose it, and
// go on elsewhere with the same request until the deadline.
func (w *world) call(ctx context.Context, make func(store *fsm.Store) fsm.Command) (fsm.Result, error) {
	return w.tries(ctx, 1<<20, make)
}

// tries does so with this many definite failures at most.
func (w *world) tries(ctx context.Context, most int, make func(store *fsm.Store) fsm.Command) (fsm.Result, error) {
	deadline := time.Now().Add(3 * time.Second)
	unknown := false
	for try := 0; ; try++ {
		if ctx.Err() != nil && try > 0 || try >= most || time.Now().After(deadline) {
			if unknown {
				return fsm.Result{}, &UnknownOutcomeError{Err: context.DeadlineExceeded}
			}
			return fsm.Result{}, errGaveUp
		}
		n := w.nodes[try%len(w.nodes)]
		w.mu.Lock()
		up, p, store := n.up, n.proposer, n.store
		w.mu.Unlock()
		if !up {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		record, err := encodeRecord(make(store))
		if err != nil {
			w.t.Error(err)
			return fsm.Result{}, err
		}
		attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), 700*time.Millisecond)
		r, err := p.propose(attempt, record, nil)
		cancel()
		var maybe *UnknownOutcomeError
		switch {
		case errors.As(err, &maybe):
			unknown = true
		case err != nil:
			time.Sleep(5 * time.Millisecond)
		case r.Code == fsm.CodeSuperseded || r.Code == fsm.CodeClock:
		default:
			return r, nil
		}
	}
}

func (w *world) outcome(e history.Event, err error) history.Event {
	var maybe *UnknownOutcomeError
	switch {
	case err == nil:
		e.Outcome = history.OK
	case errors.As(err, &maybe):
		e.Outcome = history.Unknown
	default:
		e.Outcome, e.Reason = history.No, err.Error()
	}
	return e
}

// registers puts, compares-and-sets and reads.
func (w *world) registers(ctx context.Context, client string, rng *rand.Rand) {
	seen := map[string]uint32{}
	for i := 0; ctx.Err() == nil; i++ {
		path := fmt.Sprintf("k%d", rng.IntN(3))
		e := history.Event{Client: client, Kind: history.Reveal, Key: "v/" + path, Call: time.Since(w.begun)}
		kind := rng.IntN(10)
		if kind < 5 {
			e = w.reveal(ctx, e, path, nil)
		} else {
			e.Kind, e.Value = history.Put, fmt.Sprintf("%s-%d", client, i)
			cas := int64(-1)
			if kind >= 8 {
				e.Kind, e.CAS = history.CAS, seen[e.Key]
				cas = int64(e.CAS)
			}
			e = w.put(ctx, e, path, cas)
		}
		if e.Version != 0 {
			seen[e.Key] = e.Version
		}
		w.record(e)
		time.Sleep(time.Duration(40+rng.IntN(300)) * time.Millisecond)
	}
}

func (w *world) put(ctx context.Context, e history.Event, path string, cas int64) history.Event {
	request, sum := w.requestID(), sha256.Sum256([]byte(path+e.Value))
	most := 1 << 20
	if len(e.Value)%2 == 0 {
		most = 3 // a client that gives up early learns from a definite no that it may
	}
	r, err := w.tries(ctx, most, func(store *fsm.Store) fsm.Command {
		version := uint32(1)
		if head, ok := store.Secret("v", path); ok {
			version = head.Next
		}
		data := fsmtest.Sealed("v", path, version)
		data.Ciphertext = []byte(e.Value)
		return fsm.Command{
			Kind: fsm.KindSecretPut, Principal: simPrincipal, Request: request, Fingerprint: sum[:8],
			Body:   fsm.EncodeBody(fsm.KindSecretPut, fsm.SecretPut{Vault: "v", Path: path, Version: version, CAS: cas, Data: data}),
			Audits: []fsm.Audit{{Action: "put", Resource: "v/" + path, Decision: fsm.Allowed}},
		}
	})
	e = w.outcome(e, err)
	switch {
	case err != nil:
	case r.Code == fsm.CodeConflict:
		e.Outcome, e.Reason = history.No, "CONFLICT"
	case r.Code != fsm.CodeOK:
		e.Outcome, e.Reason = history.No, fmt.Sprintf("code %d", r.Code)
	default:
		e.Version = r.Version
	}
	return e
}

// reveal reads, with a token in the read set where there is one.
func (w *world) reveal(ctx context.Context, e history.Event, path string, token []byte) history.Event {
	errToken := errors.New("UNAUTHENTICATED")
	refused := false
	r, err := w.call(ctx, func(store *fsm.Store) fsm.Command {
		cmd := (&fsmtest.Builder{}).Read(simPrincipal, fsm.Ref{Vault: "v", Path: path})
		if token != nil {
			object := fsm.ObjToken(token)
			index := store.Index(object)
			// The door refuses what this state says is not there; it knows no better than its node.
			if refused = index == 0; refused {
				return fsm.Command{Kind: fsm.KindRecord, Principal: simSession, Audits: []fsm.Audit{{Action: "reveal", Decision: fsm.Failed}}}
			}
			cmd.Reads = []fsm.Read{{Object: object, Index: index}}
			cmd.Principal = simSession
		}
		return cmd
	})
	if err == nil && refused {
		err = errToken
	}
	e = w.outcome(e, err)
	if err == nil {
		switch r.Code {
		case fsm.CodeOK:
			d := r.Value.([]fsm.VersionData)[0]
			e.Version, e.Value, e.Audit = d.Ref.Version, string(d.Data.Ciphertext), r.Audit
		case fsm.CodeNotFound:
		case fsm.CodeExpired:
			e.Outcome, e.Reason = history.No, "UNAUTHENTICATED"
		default:
			e.Outcome, e.Reason = history.No, fmt.Sprintf("code %d", r.Code)
		}
	}
	return e
}

// sessions logs in, has two clients use the token, revokes it, and lets them go on.
func (w *world) sessions(ctx context.Context, rng *rand.Rand) {
	for n := 0; ctx.Err() == nil; n++ {
		name := fmt.Sprintf("login %d", n)
		hash := fsmtest.HashOf(name)
		request := w.requestID()
		login := func(*fsm.Store) fsm.Command {
			token := (&fsmtest.Builder{Time: time.Now().UnixMilli()}).Token(simPrincipal, name)
			return fsm.Command{
				Kind: fsm.KindLogin, Principal: simSession, Request: request, Fingerprint: hash[:8],
				Body:   fsm.EncodeBody(fsm.KindLogin, fsm.Login{Token: token, ClientKey: hash}),
				Audits: []fsm.Audit{{Action: "login", Resource: simPrincipal, Decision: fsm.Allowed}},
			}
		}
		if r, err := w.call(ctx, login); err != nil || r.Code != fsm.CodeOK {
			continue
		}
		using, end := context.WithCancel(ctx)
		var users sync.WaitGroup
		for i := range 2 {
			rng := rand.New(rand.NewPCG(rng.Uint64(), uint64(i)))
			users.Go(func() {
				for using.Err() == nil {
					path := fmt.Sprintf("k%d", rng.IntN(3))
					e := history.Event{Client: name, Kind: history.UseOf, Key: "v/" + path, Token: name, Call: time.Since(w.begun)}
					w.record(w.reveal(using, e, path, hash))
					time.Sleep(time.Duration(40+rng.IntN(300)) * time.Millisecond)
				}
			})
		}
		time.Sleep(time.Duration(100+rng.IntN(400)) * time.Millisecond)
		e := history.Event{Client: name, Kind: history.Revoke, Token: name, Call: time.Since(w.begun)}
		request = w.requestID()
		r, err := w.call(ctx, func(*fsm.Store) fsm.Command {
			return fsm.Command{
				Kind: fsm.KindTokenRevoke, Principal: simSession, Request: request, Fingerprint: hash[:8],
				Body:   fsm.EncodeBody(fsm.KindTokenRevoke, fsm.TokenRevoke{Hash: hash}),
				Audits: []fsm.Audit{{Action: "token.revoke", Resource: simPrincipal, Decision: fsm.Allowed}},
			}
		})
		if e = w.outcome(e, err); err == nil && r.Code != fsm.CodeOK {
			e.Outcome = history.No
		}
		w.record(e)
		time.Sleep(150 * time.Millisecond)
		end()
		users.Wait()
	}
}

// whole are the nodes that belong to the cluster at the end.
func (w *world) whole() (list []*simNode) {
	for _, n := range w.nodes {
		if w.pin == nil || w.nodes[0] == n || w.pin(w.nodes[0], n) {
			list = append(list, n)
		}
	}
	return list
}

// judge waits until the replicas stand at one index, and checks all there is.
func (w *world) judge() {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		at := map[uint64]bool{}
		for _, n := range w.whole() {
			at[n.store.Position().Index] = true
		}
		if len(at) == 1 {
			break
		}
		if time.Now().After(deadline) {
			w.t.Errorf("liveness: the replicas stay apart: %v", at)
			break
		}
	}
	var stores []*fsm.Store
	for _, n := range w.whole() {
		stores = append(stores, n.store)
	}
	fsmtest.Check(w.t, stores...)
	violations := check.Requests(w.events)
	var more []string
	w.calls = len(w.events)
	w.linear, more = check.Linearizable(w.events, time.Minute)
	violations = append(violations, more...)
	w.refused, more = check.Revocation(w.events)
	violations = append(violations, more...)
	for _, e := range w.events {
		if e.Outcome == history.OK && e.Audit != 0 {
			violations = append(violations, w.recorded(e)...)
		}
	}
	violations = append(violations, w.inOrder()...)
	for _, v := range violations {
		w.t.Error(v)
	}
}

// recorded demands the record of a release in the audit tree.
func (w *world) recorded(e history.Event) []string {
	for r, err := range w.nodes[0].store.AuditRecords(e.Audit, e.Audit+1) {
		if err == nil && r.Action == "reveal" && r.Resource == e.Key && r.Version == e.Version && r.Outcome == fsm.CodeOK {
			return nil
		}
		return []string{fmt.Sprintf("audit: %s v%d was released by record %d, which says %s %s v%d (%v)", e.Key, e.Version, e.Audit, r.Action, r.Resource, r.Version, err)}
	}
	return []string{fmt.Sprintf("audit: record %d of a release is not there", e.Audit)}
}

// inOrder demands that the log releases nothing to simSession between a logout and the next login, which is more than
// clients can see from outside.
func (w *world) inOrder() (violations []string) {
	in := false
	for r, err := range w.nodes[0].store.AuditRecords(0, w.nodes[0].store.AuditSize()) {
		if err != nil {
			return append(violations, err.Error())
		}
		if r.Principal != simSession || r.Outcome != fsm.CodeOK {
			continue
		}
		switch r.Action {
		case "login":
			in = true
		case "token.revoke":
			in = false
		case "reveal":
			if !in {
				violations = append(violations, fmt.Sprintf("revocation: record %d releases %s after the logout", r.Seq, r.Resource))
			}
		}
	}
	return violations
}
