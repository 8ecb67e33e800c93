package cluster

import (
	"context"

	"github.com/hizo/hizo/cluster/peerpb"
)

// LeaderPosition is how far the leader's state is, by the leader's own word: for saying whether this node is behind.
// Raft's commit index would not do, because a follower that lacks entries does not hear of it.
func (n *Node) LeaderPosition(ctx context.Context) (uint64, error) {
	leader := n.leaderInfo().ID
	switch leader {
	case "":
		return 0, &NotLeaderError{}
	case n.cfg.ID:
		return n.store.Position().Index, nil
	}
	reply, err := n.peers.of(leader).Status(ctx, &peerpb.StatusRequest{Brief: true})
	if err != nil {
		return 0, peerError(err)
	}
	return reply.Applied, nil
}
