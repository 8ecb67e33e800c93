package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

// network leads addresses that tests make up to nodes, or nowhere.
type network struct {
	mu     sync.Mutex
	nodes  map[string]*node // nil: silent, as a machine without power is
	dialed map[string]int
	names  map[string][]string
}

func newNetwork() *network {
	return &network{nodes: map[string]*node{}, dialed: map[string]int{}, names: map[string][]string{}}
}

func (w *network) set(addr string, n *node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[addr] = n
}

func (w *network) name(host string, addrs ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names[host] = addrs
}

func (w *network) dials(addr string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dialed[addr]
}

func (w *network) dial(ctx context.Context, addr string) (net.Conn, error) {
	w.mu.Lock()
	w.dialed[addr]++
	n, known := w.nodes[addr]
	w.mu.Unlock()
	switch {
	case !known:
		return nil, errors.New("connection refused")
	case n == nil:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", n.addr)
}

func (w *network) resolve(_ context.Context, host string) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if addrs := w.names[host]; len(addrs) > 0 {
		return slices.Clone(addrs), nil
	}
	return nil, errors.New("no such host")
}

func (w *network) client(t *testing.T, ca *authority, addrs ...string) *client.Client {
	t.Helper()
	return newClient(t, ca, func(cfg *client.Config) {
		cfg.Addrs, cfg.Dial, cfg.Resolve, cfg.Timeout = addrs, w.dial, w.resolve, time.Minute
	})
}

func whoAmI(t *testing.T, c *client.Client) error {
	t.Helper()
	_, err := c.Auth().WhoAmI(t.Context(), &hizov1.WhoAmIRequest{})
	return err
}

// One name for the whole cluster: each of its addresses is a node.
func TestNameOfSeveralNodes(t *testing.T) {
	ca, w := newAuthority(t), newNetwork()
	leader := newNode(t, ca, ok)
	follower := newNode(t, ca, func(context.Context, int) error { return notLeader("") })
	w.name("hizo.example", "10.0.0.1", "10.0.0.2", "10.0.0.3")
	w.set("10.0.0.1:7902", follower)
	w.set("10.0.0.3:7902", leader) // .2 refuses connections
	c := w.client(t, ca, "hizo.example:7902")
	for range 3 {
		if err := whoAmI(t, c); err != nil {
			t.Fatal(err)
		}
	}
	if len(leader.calls()) != 3 {
		t.Errorf("the leader saw %d calls", len(leader.calls()))
	}
}

// All nodes have moved to other addresses: the name is looked up again before the call is given up.
func TestNameIsLookedUpAgain(t *testing.T) {
	ca, w := newAuthority(t), newNetwork()
	n := newNode(t, ca, ok)
	w.name("hizo.example", "10.0.0.1")
	w.set("10.0.0.1:7902", n)
	c := w.client(t, ca, "hizo.example:7902")
	if err := whoAmI(t, c); err != nil {
		t.Fatal(err)
	}
	moved := newNode(t, ca, ok)
	w.name("hizo.example", "10.0.9.1")
	w.set("10.0.9.1:7902", moved)
	n.server.Stop() // and its address refuses connections
	if err := whoAmI(t, c); err != nil {
		t.Fatal(err)
	}
	if len(moved.calls()) != 1 {
		t.Errorf("the new address saw %d calls", len(moved.calls()))
	}
	// What can't be resolved says so.
	lost := newClient(t, ca, func(cfg *client.Config) {
		cfg.Addrs, cfg.Resolve, cfg.Patience = []string{"nowhere.invalid:7902"}, w.resolve, 50*time.Millisecond
	})
	if err := whoAmI(t, lost); !client.IsReason(err, client.ReasonUnreachable) {
		t.Errorf("got %v", err)
	}
}

// The leader is named by its own name, which was never configured.
func TestHintByName(t *testing.T) {
	ca, w := newAuthority(t), newNetwork()
	leader := newNode(t, ca, ok)
	follower := newNode(t, ca, func(context.Context, int) error { return notLeader("n2.hizo.example:7902") })
	w.name("n2.hizo.example", "10.0.0.2")
	w.set("10.0.0.1:7902", follower)
	w.set("10.0.0.2:7902", leader)
	c := w.client(t, ca, "10.0.0.1:7902")
	for range 2 {
		if err := whoAmI(t, c); err != nil {
			t.Fatal(err)
		}
	}
	if len(follower.calls()) != 1 || len(leader.calls()) != 2 {
		t.Errorf("follower %d, leader %d calls", len(follower.calls()), len(leader.calls()))
	}
}

// Machines without power refuse no connection. The next address is tried beside them, long before an attempt's time is
// over, and the next call asks them last.
func TestSilentMachinesAreNotWaitedFor(t *testing.T) {
	ca, w := newAuthority(t), newNetwork()
	w.set("10.0.0.1:1", nil)
	w.set("10.0.0.2:1", nil)
	w.set("10.0.0.3:1", newNode(t, ca, ok))
	c := newClient(t, ca, func(cfg *client.Config) {
		cfg.Addrs = []string{"10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"}
		cfg.Dial, cfg.Timeout, cfg.AttemptTimeout = w.dial, 30*time.Second, 30*time.Second
	})
	for range 3 {
		if err := whoAmI(t, c); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.dials("10.0.0.3:1"); n != 1 {
		t.Errorf("%d connections to the node that lives", n)
	}
}

// A leader that hangs keeps its connections. The others have elected another one meanwhile, and the call goes there
// under the same request id instead of waiting until its attempt is over.
func TestHangingLeaderIsLeftForTheNextOne(t *testing.T) {
	ca := newAuthority(t)
	next := newNode(t, ca, ok)
	next.health = func(service string) bool { return service == hizov1.HealthLeader }
	hanging := newNode(t, ca, func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() })
	follower := newNode(t, ca, func(context.Context, int) error { return notLeader(hanging.addr) })
	c := newClient(t, ca, func(cfg *client.Config) {
		cfg.Timeout, cfg.AttemptTimeout, cfg.SuspectAfter = time.Minute, time.Minute, 50*time.Millisecond
	}, hanging, follower, next)
	if _, err := c.Secrets().Put(t.Context(), &hizov1.PutRequest{}); err != nil {
		t.Fatal(err)
	}
	oneID(t, 2, hanging, follower, next)
	if len(follower.calls()) != 0 {
		t.Error("a follower was asked although the leader had been found")
	}
}

// A slow answer of a node that leads is waited for.
func TestSlowLeaderIsWaitedFor(t *testing.T) {
	ca := newAuthority(t)
	var asked atomic.Int64
	slow := newNode(t, ca, func(ctx context.Context, _ int) error {
		for asked.Load() < 3 { // the other node was asked for its opinion
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
		return nil
	})
	other := newNode(t, ca, ok)
	other.health = func(string) bool { asked.Add(1); return false }
	c := newClient(t, ca, func(cfg *client.Config) {
		cfg.Timeout, cfg.AttemptTimeout, cfg.SuspectAfter = time.Minute, time.Minute, 100*time.Millisecond
	}, slow, other)
	if _, err := c.Secrets().Put(t.Context(), &hizov1.PutRequest{}); err != nil {
		t.Fatal(err)
	}
	oneID(t, 1, slow, other)
}

// A client that has seen the leader die tells the others, which still believe in it, so that they can make it wait for
// the next one instead of sending it back.
func TestNodesAreToldWhoIsGone(t *testing.T) {
	ca, w := newAuthority(t), newNetwork()
	dying := newNode(t, ca, ok)
	follower := newNode(t, ca, ok)
	w.name("n1.hizo.example", "10.0.0.1")
	w.set("10.0.0.1:7902", dying)
	w.set("10.0.0.2:7902", follower)
	c := w.client(t, ca, "n1.hizo.example:7902", "10.0.0.2:7902")
	if err := whoAmI(t, c); err != nil {
		t.Fatal(err)
	}
	dying.server.Stop()
	w.mu.Lock()
	delete(w.nodes, "10.0.0.1:7902")
	w.mu.Unlock()
	follower.answer = func(_ context.Context, attempt int) error {
		if attempt == 1 {
			return notLeader("n1.hizo.example:7902")
		}
		return nil
	}
	if err := whoAmI(t, c); err != nil {
		t.Fatal(err)
	}
	if got := follower.gone; !slices.Equal(got, []string{"n1.hizo.example:7902"}) {
		t.Errorf("told of %v", got)
	}
	// It has answered a call since: nothing is said of it any more.
	if err := whoAmI(t, c); err != nil || len(follower.gone) != 0 {
		t.Errorf("told of %v, %v", follower.gone, err)
	}
}

// A node may become the leader between an answer and the next question: it names itself, and is asked again at once.
func TestNodeThatNamesItself(t *testing.T) {
	ca := newAuthority(t)
	var self *node
	self = newNode(t, ca, func(_ context.Context, attempt int) error {
		if attempt == 1 {
			return notLeader(self.addr)
		}
		return nil
	})
	c := newClient(t, ca, func(cfg *client.Config) { cfg.BackoffBase = 10000 * time.Hour }, self)
	if err := whoAmI(t, c); err != nil {
		t.Fatal(err)
	}
	// One that goes on saying so is not asked without a pause.
	always := newNode(t, ca, nil)
	always.answer = func(context.Context, int) error { return notLeader(always.addr) }
	c = newClient(t, ca, func(cfg *client.Config) { cfg.BackoffBase = 10000 * time.Hour }, always)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := c.Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{})
	if !client.IsReason(err, hizov1.ReasonNotLeader) || len(always.calls()) != 2 {
		t.Errorf("%d attempts, %v", len(always.calls()), err)
	}
}

// A watch leaves a node that ends, goes on from its cursor at another one, and comes home when the first is ready again.
func TestWatchComesHome(t *testing.T) {
	ca := newAuthority(t)
	var nodes [3]*node
	var down [3]atomic.Bool
	for i := range nodes {
		nodes[i] = newNode(t, ca, ok)
		nodes[i].watch = func(int) error {
			if down[i].Load() {
				return status.Error(codes.Unavailable, "down")
			}
			return nil
		}
		nodes[i].health = func(service string) bool { return service == hizov1.HealthReady && !down[i].Load() }
	}
	number := func(addr string) int {
		return slices.IndexFunc(nodes[:], func(n *node) bool { return n.addr == addr })
	}
	retried := 0
	c := newClient(t, ca, func(cfg *client.Config) { cfg.ReturnEvery = 20 * time.Millisecond }, nodes[:]...)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var went []int
	for change, err := range c.Watch(ctx, client.WatchConfig{Prefixes: []string{"ml/"}, Retry: func(error) { retried++ }}) {
		if err != nil {
			t.Fatal(err)
		}
		at := number(change.Vault)
		went = append(went, at)
		switch len(went) {
		case 1: // the home dies
			down[at].Store(true)
			nodes[at].server.Stop()
			nodes[at].serve(t, ca, hizov1.ServerName, nodes[at].addr) // it listens again, and is not ready yet
		case 2:
			if at == went[0] {
				t.Fatal("the watch is at a node that is down")
			}
			down[went[0]].Store(false)
		case 3:
			if at != went[0] {
				t.Errorf("it went to %v", went)
			}
			cancel()
		}
		if len(went) == 3 {
			break
		}
	}
	if len(went) != 3 || retried != 1 {
		t.Errorf("it went to %v; %d failures were told, want the one", went, retried)
	}
}

// Resolvers sort addresses: without a shuffle all clients would begin at one node.
func TestNewClientsBeginAtDifferentNodes(t *testing.T) {
	ca, w := newAuthority(t), newNetwork()
	var list []string
	for i := range 4 {
		ip := fmt.Sprintf("10.0.0.%d", i+1)
		list = append(list, ip)
		w.set(ip+":1", newNode(t, ca, ok))
	}
	w.name("hizo.example", list...)
	used := map[string]bool{}
	for range 24 {
		c := w.client(t, ca, "hizo.example:1")
		if err := whoAmI(t, c); err != nil {
			t.Fatal(err)
		}
	}
	for _, ip := range list {
		if w.dials(ip+":1") > 0 {
			used[ip] = true
		}
	}
	if len(used) < 2 {
		t.Errorf("24 clients all began at %v: resolvers sort", used)
	}
}

// A client that lives on has connections in reserve before it needs them.
func TestConnectionsInReserve(t *testing.T) {
	ca, w := newAuthority(t), newNetwork()
	follower := newNode(t, ca, func(context.Context, int) error { return notLeader("") })
	w.set("10.0.0.1:1", newNode(t, ca, ok))
	w.set("10.0.0.2:1", follower)
	c := w.client(t, ca, "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1")
	if err := whoAmI(t, c); err != nil {
		t.Fatal(err)
	}
	if w.dials("10.0.0.2:1") != 0 {
		t.Error("a client that makes one call connects to other nodes")
	}
	for end := time.Now().Add(20 * time.Second); w.dials("10.0.0.2:1") == 0 || w.dials("10.0.0.3:1") == 0; {
		if err := whoAmI(t, c); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatal("no connection in reserve")
		}
	}
	if len(follower.calls()) != 0 {
		t.Error("a call went to a follower")
	}
}
