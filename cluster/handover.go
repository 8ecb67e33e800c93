package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/cluster/peerpb"
)

// A hand-over costs clients a few round trips, because nothing is refused while it lasts:
//
//	choose    a voter that answers, is unsealed and has nearly the whole log
//	drain     the entry in flight commits; what arrives waits in the queue
//	transfer  raft brings the successor's log up to date and has it stand for election at once
//	answer    what waited is told who leads: a definite no with a hint that is right
//
// A crash in the middle is a leader's crash. A transfer that fails leaves this node leading, and the queue goes on.

// ErrHandOver says that leadership did not go where it was asked to go. The message says why.
var ErrHandOver = errors.New("leadership was not handed over")

// resignation keeps two duties from moving leadership at the same time.
type resignation struct {
	mu        sync.Mutex
	unhealthy time.Time // when this node last resigned for its seal's sake; healthDuty's
}

// Bounds of a hand-over.
const (
	askSuccessors = 500 * time.Millisecond // for their status
	catchUpSlack  = 64                     // entries that a successor may be behind when the drain begins
	awaitCatchUp  = 5 * time.Second        // of a successor that was named
	awaitDrain    = time.Second            // of the entry in flight, while everybody waits
	awaitLeader   = 2 * time.Second        // to be known, after this one has gone
	awaitRaft     = 3 * time.Second        // to take entries again after a transfer that failed
)

// TransferLeadership hands leadership to another voter, or to the best if to is empty. Requests that come meanwhile wait
// and are then sent to the successor. nil says that the successor leads. The error is *NotLeaderError if this node does not
// lead, ErrUnknownMember, or ErrHandOver; after an error this node leads on unless Leader says otherwise.
func (n *Node) TransferLeadership(ctx context.Context, to string) error {
	return n.transfer(ctx, "asked for", to)
}

// handOver is for duties: nothing depends on its success.
func (n *Node) handOver(ctx context.Context, why, to string) {
	if n.raft.State() == raft.Leader && len(n.voters()) > 1 {
		_ = n.transfer(ctx, why, to)
	}
}

func (n *Node) transfer(ctx context.Context, why, to string) (err error) {
	n.resign.mu.Lock()
	defer n.resign.mu.Unlock()
	if n.raft.State() != raft.Leader {
		return &NotLeaderError{Leader: n.leaderInfo()}
	}
	begun := time.Now()
	var chosen string
	defer func() {
		if err != nil {
			n.log.Warn("leadership was not handed over", "why", why, "to", cmp.Or(chosen, to), "error", err)
		} else {
			n.log.Info("handed leadership over", "why", why, "to", chosen, "took", time.Since(begun))
		}
	}()
	successors, err := n.successors(ctx, to)
	if err != nil {
		return err
	}
	for _, chosen = range successors {
		if err = n.transferTo(ctx, chosen); err == nil || n.raft.State() != raft.Leader || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// successors are the voters that could lead, best first, or the one that is named.
func (n *Node) successors(ctx context.Context, to string) ([]string, error) {
	voters := n.voters()
	if to != "" {
		if to == n.cfg.ID {
			return nil, fmt.Errorf("%w: %s leads already", ErrHandOver, to)
		}
		if _, ok := n.store.Member(to); !ok {
			return nil, fmt.Errorf("%s: %w", to, ErrUnknownMember)
		}
		if !slices.Contains(voters, to) {
			return nil, fmt.Errorf("%w: %s has no vote (hizo cluster members shows who has)", ErrHandOver, to)
		}
		return []string{to}, n.awaitFit(ctx, to)
	}
	type candidate struct {
		id      string
		sealed  bool
		applied uint64
	}
	ctx, cancel := context.WithTimeout(ctx, askSuccessors)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var found []candidate
	for _, id := range voters {
		if m, ok := n.store.Member(id); id == n.cfg.ID || !ok || !trusted(m) || m.NonVoter {
			continue
		}
		wg.Go(func() {
			if status, err := n.peers.of(id).Status(ctx, &peerpb.StatusRequest{}); err == nil && !status.DiskLow {
				mu.Lock()
				defer mu.Unlock()
				found = append(found, candidate{id, status.Sealed, status.Applied})
			}
		})
	}
	wg.Wait()
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: no other voter answers that has room on its disk", ErrHandOver)
	}
	slices.SortFunc(found, func(a, b candidate) int {
		if a.sealed != b.sealed {
			if a.sealed {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(b.applied, a.applied), cmp.Compare(a.id, b.id))
	})
	ids := make([]string, 0, len(found))
	for _, c := range found {
		ids = append(ids, c.id)
	}
	return ids, nil
}

// awaitFit waits until a voter is fit to lead: it would be asked for what it does not have otherwise, or take so long to
// catch up that raft gives the transfer up, with everybody waiting. A sealed leader may go to a sealed one.
func (n *Node) awaitFit(ctx context.Context, id string) error {
	if m, ok := n.store.Member(id); !ok || !trusted(m) {
		return fmt.Errorf("%w: %s is not approved, or quarantined", ErrHandOver, id)
	}
	ctx, cancel := context.WithTimeout(ctx, awaitCatchUp)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		status, err := n.peers.of(id).Status(ctx, &peerpb.StatusRequest{})
		switch {
		case err != nil:
			err = fmt.Errorf("%w: %s does not answer: %v", ErrHandOver, id, peerError(err))
		case status.Sealed && !n.keys.sealed():
			err = fmt.Errorf("%w: %s is sealed", ErrHandOver, id)
		case status.DiskLow:
			err = fmt.Errorf("%w: the disk of %s is nearly full", ErrHandOver, id)
		case status.Applied+catchUpSlack < n.store.Position().Index:
			err = fmt.Errorf("%w: %s is %d entries behind: try again when it has caught up", ErrHandOver, id, n.store.Position().Index-status.Applied)
		default:
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// transferTo drains and transfers. Once raft has been asked it goes on to the end whatever becomes of ctx, which raft
// bounds by two election time-outs: records must not be proposed into a transfer.
func (n *Node) transferTo(ctx context.Context, to string) error {
	defer n.proposer.undrain()
	draining, cancel := context.WithTimeout(ctx, awaitDrain)
	defer cancel()
	if err := n.proposer.drain(draining); err != nil {
		return fmt.Errorf("%w: the entry in flight does not commit: %v", ErrHandOver, err)
	}
	future := n.raft.LeadershipTransferToServer(raft.ServerID(to), raft.ServerAddress(to))
	done := make(chan error, 1)
	go func() { done <- future.Error() }() // not answered after a shutdown
	select {
	case err := <-done:
		if err != nil {
			n.awaitRefusals()
			return fmt.Errorf("%w: %v", ErrHandOver, err)
		}
	case <-n.ctx.Done():
		return ErrShutdown
	}
	return n.awaitSuccessor(to)
}

// awaitSuccessor waits until a leader is known, so that what waited can be told of it.
func (n *Node) awaitSuccessor(to string) error {
	limit := time.NewTimer(awaitLeader)
	defer limit.Stop()
	for {
		changed := n.LeaderChanged()
		switch leader := n.leaderInfo().ID; leader {
		case to:
			return nil
		case "":
		default:
			if leader != n.cfg.ID || n.raft.State() == raft.Leader {
				return fmt.Errorf("%w: %s leads instead", ErrHandOver, leader)
			}
		}
		select {
		case <-changed:
		case <-limit.C:
			return fmt.Errorf("%w: no node leads yet", ErrHandOver)
		case <-n.ctx.Done():
			return ErrShutdown
		}
	}
}

// awaitRefusals waits until raft takes entries again: it goes on to refuse them for as long as its call to the successor
// hangs, after it has answered that the transfer failed (raft.go, leaderLoop).
func (n *Node) awaitRefusals() {
	for end := time.Now().Add(awaitRaft); time.Now().Before(end); {
		barrier := n.raft.Barrier(awaitRaft)
		done := make(chan error, 1)
		go func() { done <- barrier.Error() }()
		select {
		case err := <-done:
			if !errors.Is(err, raft.ErrLeadershipTransferInProgress) {
				return
			}
		case <-time.After(awaitRaft):
			return
		case <-n.ctx.Done():
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-n.ctx.Done():
			return
		}
	}
}
