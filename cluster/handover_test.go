package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
)

// Records that come while leadership moves wait and learn who leads: none is refused without a hint, none is lost.
func TestTransferUnderLoad(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	var stop atomic.Bool
	var wg sync.WaitGroup
	var hintless, unknown, acked atomic.Int64
	var at atomic.Pointer[clustertest.Node]
	at.Store(c.Leader())
	byID := map[string]*clustertest.Node{}
	for _, n := range c.Nodes {
		byID[n.ID] = n
	}
	for w := range 8 {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				_, err := at.Load().Propose(t.Context(), record(fmt.Sprintf("load/%d/%d", w, i)))
				var moved *cluster.NotLeaderError
				var u *cluster.UnknownOutcomeError
				switch {
				case err == nil:
					acked.Add(1)
				case errors.As(err, &moved) && byID[moved.Leader.ID] != nil:
					at.Store(byID[moved.Leader.ID])
				case errors.As(err, &moved):
					hintless.Add(1)
				case errors.As(err, &u):
					unknown.Add(1)
				default:
					t.Errorf("record %d/%d: %v", w, i, err)
					return
				}
			}
		})
	}
	// A machine under load may hold an election of its own, which is no hand-over: only terms that follow each other count.
	for clean, tries := 0, 0; clean < 3; tries++ {
		if tries == 15 {
			t.Fatal("no three hand-overs without an election beside them")
		}
		from := c.Leader()
		term, before := from.Status().Term, [...]int64{acked.Load(), unknown.Load(), hintless.Load()}
		if err := from.TransferLeadership(t.Context(), ""); err != nil {
			t.Logf("transfer from %s: %v", from.ID, err)
			continue
		}
		c.Await("records of the new term", func() bool { return acked.Load() > before[0]+20 })
		to := c.Leader()
		if to == from || to.Status().Term != term+1 {
			continue
		}
		clean++
		if n := unknown.Load() - before[1]; n != 0 {
			t.Errorf("%d records of unknown fate: they were in flight when leadership moved", n)
		}
		if n := hintless.Load() - before[2]; n != 0 {
			t.Errorf("%d records refused without saying who leads", n)
		}
	}
	stop.Store(true)
	wg.Wait()
}

func TestTransferToANamedNode(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	leader := c.Leader()
	var to, other *clustertest.Node
	for _, n := range c.Nodes {
		switch {
		case n == leader:
		case to == nil:
			to = n
		default:
			other = n
		}
	}
	if err := leader.TransferLeadership(t.Context(), to.ID); err != nil {
		t.Fatal(err)
	}
	if got, _ := leader.Leader(); got.ID != to.ID {
		t.Errorf("%s leads for %s, not %s", got.ID, leader.ID, to.ID)
	}
	var moved *cluster.NotLeaderError
	if err := leader.TransferLeadership(t.Context(), ""); !errors.As(err, &moved) || moved.Leader.ID != to.ID {
		t.Errorf("a follower's transfer: %v", err)
	}
	c.Await("the new leader to take records", to.Leading)
	for target, want := range map[string]error{to.ID: cluster.ErrHandOver, "n9": cluster.ErrUnknownMember} {
		if err := to.TransferLeadership(t.Context(), target); !errors.Is(err, want) {
			t.Errorf("to %s: %v", target, err)
		}
	}
	// Not to a node that is gone, and the leader goes on.
	c.Kill(other)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := to.TransferLeadership(ctx, other.ID); !errors.Is(err, cluster.ErrHandOver) {
		t.Errorf("to a dead node: %v", err)
	}
	if _, err := to.Propose(t.Context(), record("still")); err != nil {
		t.Errorf("after a transfer that failed: %v", err)
	}
	// With nothing named, the one that lives.
	if err := to.TransferLeadership(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if got, _ := to.Leader(); got.ID != leader.ID {
		t.Errorf("%s leads, not %s", got.ID, leader.ID)
	}
}
