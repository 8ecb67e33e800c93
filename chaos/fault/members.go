package fault

import (
	"bytes"
	"context"
	"syscall"
	"time"

	"github.com/hizo/hizo/chaos/lab"
)

// members are the faults that change who belongs to the cluster.
func members() []Fault {
	return []Fault{
		{Name: "wiped-node", Set: wipedNode},
		{Name: "remove-in-partition", Set: removeInPartition},
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
			s.Took(1, "old join token refused")
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
	cut := []*lab.Node{n, s.leader(ctx), s.any()}[s.Rand.IntN(3)]
	lift, err := s.cut(s.without(cut))
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
		// With the cables whole, a removal that hung can end.
		sleep(ctx, 2*time.Second)
		return stop(ctx)
	}, nil
}
