package api

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/hizo/hizo/api/hizov1"
)

// While there is no leader, calls wait here for one instead of asking every node again and again: an election takes
// less than a second, and the nodes have better to do meanwhile than to refuse. A call that waits has changed nothing.

// leaderless says whether any node answers a method by itself.
func leaderless(method string) bool {
	switch method {
	case hizov1.ClusterService_Init_FullMethodName, hizov1.ClusterService_Status_FullMethodName, hizov1.ClusterService_Unseal_FullMethodName,
		hizov1.WatchService_Watch_FullMethodName:
		return true
	}
	return !strings.HasPrefix(method, "/hizo.")
}

// atLeader waits where it helps before a call begins: a handler may wipe its request, so that it can't run twice. Whatever
// comes of it, the handler says; a node that can't lead now has nothing to wait for.
func (s *Server) atLeader(ctx context.Context, method string) {
	if leaderless(method) || s.node.TermBegun() {
		return
	}
	if c, ok := s.node.Store().Cluster(); !ok || c.Sealed {
		return
	}
	if _, err := s.node.Keyring(); err != nil {
		return
	}
	s.awaitLeader(ctx)
}

// awaitLeader returns once this node leads or knows who does: at once, unless nobody is known to or the client has found
// the one who is known gone.
func (s *Server) awaitLeader(ctx context.Context) {
	var gone []string
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		gone = md.Get(hizov1.MetaLeaderGone)
	}
	var limit <-chan time.Time
	for {
		changed := s.node.LeaderChanged()
		leader, _ := s.node.Leader()
		known := leader.ID != s.node.ID() && leader.ClientAddr != "" && !slices.Contains(gone, leader.ClientAddr)
		if known || s.node.TermBegun() {
			return
		}
		if limit == nil {
			if hold(s.waits) != nil {
				return
			}
			defer unhold(s.waits)
			timer := time.NewTimer(s.limits.Wait)
			defer timer.Stop()
			limit = timer.C
		}
		select {
		case <-changed:
		case <-limit:
			return
		case <-s.ctx.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}
