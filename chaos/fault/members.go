package fault

import (
	"bytes"
	"context"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/chaos/lab"
)

// members are the faults that change who belongs to the cluster.
func members() []Fault {
	return []Fault{
		{Name: "wiped-node", Set: wipedNode},
		{Name: "remove-in-partition", Set: removeInPartition},
		{Name: "demote-in-partition", Set: demoteInPartition},
		{Name: "transfer-leader", Set: transferLeader},
		{Name: "quarantine", Set: quarantine},
	}
}

// wipedNode empties a node's disk and starts it. It was a voter: its log counted for majorities, so it must not come back
// by itself, with its old join token or without one. Mend replaces it.
func wipedNode(ctx context.Context, s *Scene) (Lift, error) {
	n := s.any()
	if !s.C.Wreck(n, "wiped") {
		return nil, nil
	}
	if err := n.End(syscall.SIGKILL); err != nil {
		return nil, err
	}
	if err := s.C.Wipe(n, s.Rand.IntN(2) == 0); err != nil {
		return nil, err
	}
	s.Took(1, "disks emptied")
	n.MayEnd(true)
	from := len(n.LogText())
	if err := n.Start(); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		said := n.LogText()[from:]
		if bytes.Contains(said, []byte("was a voter")) || bytes.Contains(said, []byte("token of another key")) {
			s.Also(1, "old join token refused")
		}
		if voters, err := s.C.Voters(ctx); err == nil && n.Running() && len(voters) > 0 {
			if st, err := s.C.Status(ctx, n); err == nil && st.GetLeaderId() != "" && !st.GetSealed() {
				s.wrong("%s lost its disk and serves again without having been let in", n.Name)
			}
		}
		return nil
	}, nil
}

// removeInPartition removes a node while a cable is cut, with its disk, and has it join again later. Either the node
// that goes is cut off, or the leader, or any.
func removeInPartition(ctx context.Context, s *Scene) (Lift, error) {
	n := s.follower(ctx)
	if !s.C.Wreck(n, "removed") {
		return nil, nil
	}
	lift, err := s.someCut(ctx, n)
	if err != nil {
		return lift, err
	}
	n.MayEnd(true) // one that learns that it was removed may go
	stop := background(ctx, func(ctx context.Context) error {
		if err := s.C.Remove(ctx, n); err == nil {
			s.Took(1, "nodes removed")
		}
		return nil
	})
	return func(ctx context.Context) error {
		if err := lift(ctx); err != nil {
			return err
		}
		s.awaitEffect(ctx, 6*time.Second) // with the cables whole, a removal that hung can end
		return stop(ctx)
	}, nil
}

// calls makes a change of the membership again and again until it is accepted, or the fault is lifted: during a partition
// most are refused, with a sentence, or have no answer.
func (s *Scene) calls(ctx context.Context, what string, call func(ctx context.Context) error) Lift {
	return background(ctx, func(ctx context.Context) error {
		for {
			try, cancel := context.WithTimeout(ctx, 3*time.Second)
			err := call(try)
			cancel()
			if err == nil {
				s.Took(1, what)
				return nil
			}
			if !sleep(ctx, 100*time.Millisecond) {
				return nil
			}
		}
	})
}

// someCut cuts off the node, the leader, or any.
func (s *Scene) someCut(ctx context.Context, n *lab.Node) (Lift, error) {
	return s.cutFor(s.without([]*lab.Node{n, s.leader(ctx), s.any()}[s.Rand.IntN(3)]), s.Also)
}

// demoteInPartition takes a node's vote while a cable is cut, and gives it back.
func demoteInPartition(ctx context.Context, s *Scene) (Lift, error) {
	n := s.any()
	if !s.C.Wreck(n, "demoted") { // one voter fewer is as much as there is to spare
		return nil, nil
	}
	lift, err := s.someCut(ctx, n)
	if err != nil {
		return lift, err
	}
	stop := s.calls(ctx, "nodes demoted", func(ctx context.Context) error {
		_, err := s.C.Admin.Cluster().Demote(ctx, &hizov1.DemoteRequest{Node: n.Name})
		return err
	})
	return func(ctx context.Context) error {
		if err := lift(ctx); err != nil {
			return err
		}
		s.awaitEffect(ctx, 6*time.Second)
		sleep(ctx, s.between(0, time.Second))
		if err := stop(ctx); err != nil {
			return err
		}
		if err := s.C.Promote(ctx, n); err != nil {
			s.Log("%v", err) // Mend replaces it
			return nil
		}
		s.C.Spare(n)
		return nil
	}, nil
}

// transferLeader hands leadership on, and on, under load, to anybody or to one.
func transferLeader(ctx context.Context, s *Scene) (Lift, error) {
	return background(ctx, func(ctx context.Context) error {
		for {
			to := ""
			if s.Rand.IntN(2) == 0 {
				to = s.any().Name
			}
			call, cancel := context.WithTimeout(ctx, 3*time.Second)
			_, err := s.C.Admin.Cluster().TransferLeader(call, &hizov1.TransferLeaderRequest{Node: to})
			cancel()
			if err == nil {
				s.Took(1, "leaderships transferred")
			}
			if !sleep(ctx, s.between(100*time.Millisecond, time.Second)) {
				return nil
			}
		}
	}), nil
}

// quarantine has peers refuse a node its shares, and kills it: while it lasts the node may not come to its keys.
func quarantine(ctx context.Context, s *Scene) (Lift, error) {
	n := s.follower(ctx)
	if !s.C.Wreck(n, "quarantined") {
		return nil, nil
	}
	var from atomic.Int64 // where the log of its restart begins
	stop := background(ctx, func(ctx context.Context) error {
		for {
			call, cancel := context.WithTimeout(ctx, 3*time.Second)
			_, err := s.C.Admin.Cluster().Quarantine(call, &hizov1.QuarantineRequest{Node: n.Name})
			cancel()
			if err == nil {
				break
			}
			if !sleep(ctx, 100*time.Millisecond) {
				return nil
			}
		}
		s.Took(1, "nodes quarantined")
		if err := n.End(syscall.SIGKILL); err != nil {
			return err
		}
		from.Store(int64(len(n.LogText())))
		return n.Start()
	})
	return func(ctx context.Context) error {
		if err := stop(ctx); err != nil {
			return err
		}
		if at := from.Load(); at > 0 {
			sleep(ctx, 2*time.Second) // time to come to its keys in
			if bytes.Contains(n.LogText()[at:], []byte("msg=unsealed")) {
				s.wrong("%s is quarantined, was started and has its keys", n.Name)
			} else if n.Running() {
				s.Took(1, "nodes that stayed sealed")
			}
		}
		if err := s.C.Release(ctx, n); err != nil {
			s.Log("%v", err)
			return nil
		}
		s.C.Spare(n)
		return nil
	}, nil
}
