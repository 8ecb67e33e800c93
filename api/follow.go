package api

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/cluster"
)

// While there is no leader, calls wait here for one instead of asking every node again and again: an election takes
// less than a second, and the nodes have better to do meanwhile than to refuse. A call that waits has changed nothing.

// leaderless are the services and methods that any node answers by itself.
func leaderless(method string) bool {
	switch method {
	case hizov1.ClusterService_Init_FullMethodName, hizov1.ClusterService_Status_FullMethodName, hizov1.ClusterService_Unseal_FullMethodName,
		hizov1.WatchService_Watch_FullMethodName:
		return true
	}
	return false
}

// atLeader runs a call, and where it is refused because this node does not lead, waits until somebody does. If that is
// this node, it runs the call again: nothing was proposed, or it was under the same request id.
func (s *Server) atLeader(ctx context.Context, method string, req any, handler grpc.UnaryHandler) (any, error) {
	out, err := handler(ctx, req)
	if err == nil || leaderless(method) || toError(err).Reason != hizov1.ReasonNotLeader {
		return out, err
	}
	if moved := s.awaitLeader(ctx); moved != nil {
		return nil, moved
	}
	return handler(ctx, req)
}

// streamAtLeader is the same for streams, before they begin.
func (s *Server) streamAtLeader(ctx context.Context, method string) error {
	switch method {
	case hizov1.AuditService_Tail_FullMethodName, hizov1.AuditService_Export_FullMethodName:
		if !s.node.TermBegun() && s.node.Initialised() {
			return s.awaitLeader(ctx)
		}
	}
	return nil
}

// awaitLeader returns nil once this node leads, and otherwise says who does: at once, unless nobody is known to or the
// client has found the one who is known gone.
func (s *Server) awaitLeader(ctx context.Context) error {
	var gone []string
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		gone = md.Get(hizov1.MetaLeaderGone)
	}
	var limit <-chan time.Time
	for {
		changed := s.node.LeaderChanged()
		if s.node.TermBegun() {
			return nil
		}
		leader, _ := s.node.Leader()
		if leader.ID == s.node.ID() {
			leader = cluster.LeaderInfo{} // its term has not begun
		}
		if leader.ClientAddr != "" && !slices.Contains(gone, leader.ClientAddr) {
			return &cluster.NotLeaderError{Leader: leader}
		}
		if limit == nil {
			if hold(s.waits) != nil {
				return &cluster.NotLeaderError{Leader: leader}
			}
			defer unhold(s.waits)
			timer := time.NewTimer(s.limits.Wait)
			defer timer.Stop()
			limit = timer.C
		}
		select {
		case <-changed:
		case <-limit:
			return &cluster.NotLeaderError{Leader: leader}
		case <-s.ctx.Done():
			return cluster.ErrShutdown
		case <-ctx.Done():
			return &cluster.NotLeaderError{Leader: leader}
		}
	}
}
