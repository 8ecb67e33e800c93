package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/fsm"
)

// vault is a mutation with a request id: it takes effect once.
func vault(t *testing.T, n *clustertest.Node, name string, request byte) fsm.Command {
	t.Helper()
	ring, err := n.Keyring()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ring.Generate(keyring.Vault(name), 1)
	if err != nil {
		t.Fatal(err)
	}
	cl, _ := n.Store().Cluster()
	v := fsm.Vault{Name: name, Generation: 1}
	if v.MAC, err = ring.MAC(cl.MACGeneration, v.MACDomain(), v.MACBody()); err != nil {
		t.Fatal(err)
	}
	return fsm.Command{
		Kind: fsm.KindVaultCreate, Principal: "user/test", Request: requestID(n, request), Fingerprint: []byte("0123456789abcdef"),
		Audits: []fsm.Audit{{Action: "vault.create", Resource: "vault/" + name, Decision: fsm.Allowed}},
		Body: fsm.EncodeBody(fsm.KindVaultCreate, &fsm.VaultCreate{Vault: v, Key: fsm.WrappedKey{
			Purpose: key.Purpose, Generation: key.Generation, RootGeneration: key.RootGeneration, Ciphertext: key.Ciphertext,
		}}),
	}
}

// requestID is a UUIDv7 of the cluster's present.
func requestID(n *clustertest.Node, b byte) (id [16]byte) {
	ms := uint64(n.Store().Time())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6], id[8], id[15] = 0x70, 0x80, b
	return id
}

// The leader dies; what it acknowledged is there, and the cluster goes on.
func TestKillLeader(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	old := c.Leader()
	c.Must(vault(t, old, "before", 1))
	size := old.Store().AuditSize()
	c.Kill(old)
	next := c.Leader()
	if next == old {
		t.Fatal("the dead node leads")
	}
	if _, ok := next.Store().Vault("before"); !ok || next.Store().AuditSize() < size {
		t.Error("an acknowledged record is gone")
	}
	c.Must(vault(t, next, "after", 2))
	c.Restart(old)
	c.AwaitReady()
	c.Await("the old leader to catch up", func() bool {
		_, ok := old.Store().Vault("after")
		return ok
	})
}

// A leader that lost its network answers "unknown" for what it had proposed, never success and never a
// plain failure; the client's retry with the same request id has one effect.
func TestCutLeader(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	old := c.Leader()
	cmd := vault(t, old, "cut", 9)
	c.Cut(old)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := old.Propose(ctx, cmd)
	var unknown *cluster.UnknownOutcomeError
	var not *cluster.NotLeaderError
	if !errors.As(err, &unknown) && !errors.As(err, &not) {
		t.Fatalf("a leader without a network answered %v", err)
	}
	if errors.As(err, &not) {
		t.Log("it had stepped down already: a definite no")
	}
	var next *clustertest.Node
	c.Await("another leader", func() bool {
		for _, n := range c.Nodes {
			if n != old && n.Leading() {
				next = n
				return true
			}
		}
		return false
	})
	first, err := next.Propose(ctx, cmd)
	if err != nil || first.Code != fsm.CodeOK {
		t.Fatalf("retry: %+v, %v", first, err)
	}
	second, err := next.Propose(ctx, cmd)
	if err != nil || second.Code != fsm.CodeOK || !second.Duplicate || second.Index != first.Index {
		t.Fatalf("second retry: %+v, %v; the first was %+v", second, err, first)
	}
	c.Kill(old)
	c.Restart(old)
	c.AwaitReady()
	for _, n := range c.Nodes {
		if v, ok := n.Store().Vault("cut"); !ok || v.Changed != first.Index {
			t.Errorf("%s has the vault of %d, want of %d", n.ID, v.Changed, first.Index)
		}
	}
}

// A follower and a minority take nothing.
func TestFollowerRefuses(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	leader := c.Leader()
	for _, n := range c.Nodes {
		if n == leader {
			continue
		}
		_, err := n.Propose(t.Context(), record("list"))
		var not *cluster.NotLeaderError
		if !errors.As(err, &not) || not.Leader.ID != leader.ID || not.Leader.ClientAddr == "" {
			t.Errorf("%s: %v, want a hint to %s", n.ID, err, leader.ID)
		}
	}
	for _, n := range c.Nodes {
		if n != leader {
			c.Kill(n)
		}
	}
	c.Await("the leader to step down", func() bool { return !leader.IsLeader() })
	_, err := leader.Propose(t.Context(), record("list"))
	var not *cluster.NotLeaderError
	if !errors.As(err, &not) {
		t.Errorf("a minority: %v", err)
	}
}

// Many at once: every acknowledged record is there once, in an order that all share.
func TestConcurrentRecords(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	leader := c.Leader()
	const writers, each = 32, 50
	before := leader.Store().AuditSize()
	var wg sync.WaitGroup
	errs := make(chan error, writers*each)
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				result, err := leader.Propose(t.Context(), record(fmt.Sprintf("w%d.%d", w, i)))
				if err != nil || result.Code != fsm.CodeOK {
					errs <- fmt.Errorf("record %d of %d: %+v %w", i, w, result, err)
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	seen := make(map[string]int)
	for r, err := range leader.Store().AuditRecords(before, leader.Store().AuditSize()) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Action[0] == 'w' {
			seen[r.Action]++
		}
	}
	for w := range writers {
		for i := range each {
			if n := seen[fmt.Sprintf("w%d.%d", w, i)]; n != 1 {
				t.Errorf("record %d of writer %d is there %d times", i, w, n)
			}
		}
	}
	size := leader.Store().AuditSize()
	want, err := leader.Store().TreeRoot(size)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		c.Await(n.ID+" to apply", func() bool { return n.Store().AuditSize() >= size })
		if got, err := n.Store().TreeRoot(size); err != nil || got != want {
			t.Errorf("%s has another tree: %v", n.ID, err)
		}
	}
}

// A leader whose clock is off proposes nothing and hands over; the others go on.
func TestClockSkew(t *testing.T) {
	t.Parallel()
	clocks := map[string]*clustertest.Clock{"n1": {}, "n2": {}, "n3": {}}
	c := clustertest.Start(t, clustertest.Options{Clocks: clocks})
	bad := c.Leader()
	c.Stop(bad)
	clocks[bad.ID].Advance(time.Hour)
	c.Restart(bad)
	c.AwaitReady()
	before := c.Leader().Store().Time()
	for range 3 {
		leader := c.Leader()
		if leader == bad {
			t.Fatal("the node with the wrong clock takes records")
		}
		_ = leader.TransferLeadership(t.Context(), bad.ID) // the condition below decides
		c.Await("a leader with a right clock", func() bool {
			l := c.Leader()
			return l != bad
		})
	}
	c.Must(record("list"))
	if moved := c.Leader().Store().Time() - before; moved > (10 * time.Minute).Milliseconds() {
		t.Errorf("cluster time moved by %d ms: the wrong clock got in", moved)
	}
}
