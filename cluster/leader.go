package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/cluster/meter"
	"github.com/hizo/hizo/cluster/peerpb"
)

var (
	errTermOver = errors.New("this node does not lead any more")
	errNewTerm  = errors.New("a new term has begun")
)

// followLeadership starts a term's duties and ends them. Raft's NotifyCh is buffered; the newest value
// counts, and two `true`s in a row mean that leadership was lost and regained.
func (n *Node) followLeadership() {
	end := func(error) {}
	defer func() { end(ErrShutdown) }()
	for {
		var up bool
		select {
		case up = <-n.notify:
		case <-n.ctx.Done():
			return
		}
	drain:
		for {
			select {
			case up = <-n.notify:
			default:
				break drain
			}
		}
		end(errNewTerm)
		end = func(error) {}
		if !up {
			n.proposer.closeWith(errNotLeading)
			n.log.Info("does not lead any more")
			continue
		}
		ctx, cancel := context.WithCancelCause(n.ctx)
		var wg sync.WaitGroup
		wg.Go(func() { n.lead(ctx) })
		end = func(why error) {
			if why == errNewTerm {
				why = errTermOver
			}
			cancel(why)
			n.proposer.closeWith(errNotLeading)
			wg.Wait()
		}
	}
}

// Duty is work that the leader does in each of its terms. It is called once the term's state is whole and its clock
// confirmed, possibly while the node is sealed, and returns when ctx ends. Its commands carry the term.
type Duty func(ctx context.Context, n *Node, term uint64)

// lead is one term. NotifyCh fires before the term's first entry commits: only after a Barrier does the
// state hold everything that earlier terms committed. Records that arrive meanwhile wait. Every duty
// command carries the term, and Apply refuses another term's: the context alone would not fence a leader
// that was stopped for a while.
func (n *Node) lead(ctx context.Context) {
	n.proposer.hold()
	term := n.raft.CurrentTerm()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { n.healthDuty(ctx) }) // first: a dead seal signs no clock reading, and the term would never open
	barrier := n.raft.Barrier(0)
	done := make(chan error, 1)
	go func() { done <- barrier.Error() }() // not answered after a shutdown
	select {
	case err := <-done:
		if err != nil {
			n.log.Info("the term ended before it began", "term", term, "error", err)
			return
		}
	case <-ctx.Done():
		return
	}
	n.begun.Store(term)
	n.leaders.tell()
	clock := newClockDuty(n, term)
	if err := clock.open(ctx); err != nil {
		return
	}
	n.log.Info("leads", "term", term, "sealed", n.keys.sealed())
	wg.Go(func() { clock.run(ctx) }) // before anything is proposed: a record may be held until the clock was looked at
	n.recordRecovery(ctx, term)
	wg.Go(func() { n.censusDuty(ctx) })
	wg.Go(func() { n.memberDuty(ctx, term) })
	wg.Go(func() { n.dealDuty(ctx, term) })
	wg.Go(func() { n.checkpointDuty(ctx, term) })
	wg.Go(func() { n.keyDuty(ctx, term) })
	wg.Go(func() { n.levelDuty(ctx, term) })
	wg.Go(func() { n.sealedDuty(ctx) })
	for _, duty := range n.cfg.Duties {
		wg.Go(func() { duty(ctx, n, term) })
	}
}

// sealedDuty hands leadership on while this leader is sealed and an unsealed voter can be reached. A
// leader that is just about to unseal gets a moment to do so.
func (n *Node) sealedDuty(ctx context.Context) {
	const pause, patience = 500 * time.Millisecond, 2 * time.Second
	var since time.Time
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !n.keys.sealed() || !n.Initialised() {
			since = time.Time{}
			continue
		}
		if since.IsZero() {
			since = time.Now()
		}
		if _, possible := n.unsealProspect(); possible && time.Since(since) < patience {
			continue
		}
		if to := n.unsealedVoter(ctx); to != "" {
			n.handOver(ctx, "this leader is sealed", to)
		}
	}
}

func (n *Node) unsealedVoter(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	found := make(chan string, 16)
	var wg sync.WaitGroup
	for _, id := range n.voters() {
		if id == n.cfg.ID {
			continue
		}
		wg.Go(func() {
			status, err := n.peers.of(id).Status(ctx, &peerpb.StatusRequest{})
			if err == nil && !status.Sealed {
				select {
				case found <- id:
				default:
				}
			}
		})
	}
	go func() {
		wg.Wait()
		close(found)
	}()
	return <-found
}

// Leading says whether this node leads and takes records: its term has begun and its clock is confirmed.
func (n *Node) Leading() bool { return n.IsLeader() && n.proposer.accepts() }

// TermBegun says whether this node believes that it leads, and its state holds all that earlier terms have committed.
// Before that a token that was just given out may not be there yet. LeaderChanged tells of it as well.
func (n *Node) TermBegun() bool { return n.IsLeader() && n.begun.Load() == n.raft.CurrentTerm() }

// IsLeader says whether this node believes that it leads. Only a commit proves it.
func (n *Node) IsLeader() bool { return n.raft.State() == raft.Leader }

// Leader says who leads, as far as this node knows.
func (n *Node) Leader() (LeaderInfo, bool) {
	info := n.leaderInfo()
	return info, info.ID != ""
}

func (n *Node) leaderInfo() LeaderInfo {
	_, id := n.raft.LeaderWithID()
	if id == "" {
		return LeaderInfo{}
	}
	info := LeaderInfo{ID: string(id)}
	if m, ok := n.store.Member(string(id)); ok {
		info.ClientAddr = m.ClientAddr
	}
	return info
}

// leaderWatch tells of changes of leadership.
type leaderWatch struct {
	mu       sync.Mutex
	changed  chan struct{}
	observer *raft.Observer
	done     chan struct{}
}

func (w *leaderWatch) follow(r *raft.Raft, changes *meter.Counter) {
	seen := make(chan raft.Observation, 16)
	w.changed, w.done = make(chan struct{}), make(chan struct{})
	// Not blocking: a change that finds the channel full comes with one that will be told anyway.
	w.observer = raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	r.RegisterObserver(w.observer)
	go func() {
		for {
			select {
			case <-seen:
				changes.Add(1)
			case <-w.done:
				return
			}
			w.tell()
		}
	}()
}

func (w *leaderWatch) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *leaderWatch) stop(r *raft.Raft) {
	r.DeregisterObserver(w.observer)
	close(w.done)
}

// LeaderChanged returns a channel that is closed when another node leads, or none, as far as this node
// knows, or when this node's term has begun. Take it before asking Leader or TermBegun.
func (n *Node) LeaderChanged() <-chan struct{} {
	n.leaders.mu.Lock()
	defer n.leaders.mu.Unlock()
	return n.leaders.changed
}
