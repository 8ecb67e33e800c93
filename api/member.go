package api

import (
	"context"
	"errors"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/fsm"
)

// Bounds of how members are treated.
const (
	maxStabilise = time.Hour
	minCleanUp   = 30 * time.Second // restarts are shorter than that, upgrades may not be: docs/membership.md
	maxCleanUp   = 366 * 24 * time.Hour

	voteWait = 5 * time.Second // for Raft's configuration to follow; Promote and Demote answer after it at the latest
)

// Promote gives a member a vote. Its key was approved, so there is nothing left to approve.
func (s *clusterService) Promote(ctx context.Context, req *hizov1.PromoteRequest) (*hizov1.Member, error) {
	return s.vote(ctx, req.GetNode(), true, &call{
		method: "ClusterService/Promote", message: req, targets: []target{onNode(policy.ClusterPromote, req.GetNode())},
	})
}

// Demote takes a member's vote, unless too few of the others answer.
func (s *clusterService) Demote(ctx context.Context, req *hizov1.DemoteRequest) (*hizov1.Member, error) {
	return s.vote(ctx, req.GetNode(), false, &call{
		method: "ClusterService/Demote", message: req, targets: []target{onNode(policy.ClusterDemote, req.GetNode())},
	})
}

func (s *clusterService) vote(ctx context.Context, id string, voter bool, c *call) (*hizov1.Member, error) {
	if _, err := name.Node(id); err != nil {
		return nil, err
	}
	c.kind = fsm.KindMemberVote
	c.body = func(r *round) (any, error) {
		r.rest(fsm.ObjMember(id))
		m, ok := r.store.Member(id)
		switch {
		case !ok:
			return nil, fault(hizov1.ReasonNotFound)
		case voter && !m.Approved:
			return nil, conflict("%s is not approved: `hizo cluster approve %s` first", id, id)
		case voter && m.Quarantined:
			return nil, conflict("%s is quarantined: `hizo cluster quarantine --lift %s` first", id, id)
		case !voter:
			if err := s.survives(ctx, id, false); err != nil {
				return nil, err
			}
		}
		body, err := s.node.VoteBody(id, voter)
		return &body, err
	}
	if _, err := s.gate.do(ctx, c); err != nil {
		return nil, err
	}
	s.awaitVote(ctx, id, voter)
	return s.member(id)
}

// survives refuses what would leave too few voters.
func (s *clusterService) survives(ctx context.Context, id string, removed bool) error {
	err := s.node.LoseVote(ctx, id, removed)
	if few, ok := errors.AsType[*cluster.QuorumError](err); ok {
		return conflict("the cluster could not go on without the vote of %s: %s", id, few)
	}
	return err
}

// awaitVote waits a moment for Raft's configuration. A vote that takes longer comes by itself.
func (s *clusterService) awaitVote(ctx context.Context, id string, voter bool) {
	ctx, cancel := context.WithTimeout(ctx, voteWait)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond) // Raft does not tell of changes of its configuration
	defer tick.Stop()
	for {
		m, err := s.member(id)
		if err != nil || m.GetVoter() == voter {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// TransferLeader has another voter lead. The record is that of the attempt.
func (s *clusterService) TransferLeader(ctx context.Context, req *hizov1.TransferLeaderRequest) (*hizov1.TransferLeaderResponse, error) {
	to := req.GetNode()
	t := target{action: policy.ClusterTransfer, resource: policy.System()}
	if to != "" {
		if _, err := name.Node(to); err != nil {
			return nil, err
		}
		t = onNode(policy.ClusterTransfer, to)
	}
	if _, err := s.gate.do(ctx, &call{kind: fsm.KindRecord, targets: []target{t}}); err != nil {
		return nil, err
	}
	if to == s.node.ID() { // it leads: a retry, whose first answer was lost
		return s.leads(), nil
	}
	if err := s.node.TransferLeadership(ctx, to); err != nil {
		return nil, err
	}
	return s.leads(), nil
}

func (s *clusterService) leads() *hizov1.TransferLeaderResponse {
	leader, _ := s.node.Leader()
	return &hizov1.TransferLeaderResponse{LeaderId: leader.ID, LeaderAddr: leader.ClientAddr}
}

// GetMembership shows how members are treated.
func (s *clusterService) GetMembership(ctx context.Context, _ *hizov1.GetMembershipRequest) (*hizov1.MembershipSettings, error) {
	var out *hizov1.MembershipSettings
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onSystem(policy.ClusterMembers)}}, func(a *answer) error {
		settings, set := a.store.Membership()
		if set {
			if err := s.gate.verify(a.footing, settings, settings.MAC, fsm.ObjMembership); err != nil {
				return err
			}
		}
		out = s.membershipOut(settings, set)
		return nil
	})
	return sent(out, err)
}

func (s *clusterService) membershipOut(m fsm.Membership, set bool) *hizov1.MembershipSettings {
	if !set {
		m.Stabilise = s.node.Stabilise().Milliseconds()
	}
	return &hizov1.MembershipSettings{StabiliseMs: m.Stabilise, CleanUpAfterMs: m.CleanUpAfter, Set: set}
}

// SetMembership changes what the request names and leaves the rest.
func (s *clusterService) SetMembership(ctx context.Context, req *hizov1.SetMembershipRequest) (*hizov1.MembershipSettings, error) {
	stabilise, cleanUp := time.Duration(req.GetStabiliseMs())*time.Millisecond, time.Duration(req.GetCleanUpAfterMs())*time.Millisecond
	if req.GetStabiliseMs() < 0 || req.GetStabiliseMs() > maxStabilise.Milliseconds() {
		return nil, invalid("stabilise_ms", "the stabilisation time is between 0 and %v", maxStabilise)
	}
	if req.GetCleanUpAfterMs() != 0 && (req.GetCleanUpAfterMs() < minCleanUp.Milliseconds() || req.GetCleanUpAfterMs() > maxCleanUp.Milliseconds()) {
		return nil, invalid("clean_up_after_ms", "members are removed after %v at the earliest and a year at the latest, or never (0)", minCleanUp)
	}
	t := onSystem(policy.ClusterConfigure)
	if req.StabiliseMs != nil {
		t.detail = "stabilise " + stabilise.String()
	}
	if req.CleanUpAfterMs != nil {
		t.detail += " clean-up " + cleanUp.String()
	}
	a, err := s.gate.do(ctx, &call{
		method: "ClusterService/SetMembership", kind: fsm.KindMembershipSet, message: req, targets: []target{t},
		body: func(r *round) (any, error) {
			r.rest(fsm.ObjMembership)
			next, set := r.store.Membership()
			if !set {
				next.Stabilise = s.node.Stabilise().Milliseconds()
			} else if err := s.gate.verify(r.footing, next, next.MAC, fsm.ObjMembership); err != nil {
				return nil, err
			}
			if req.StabiliseMs != nil {
				next.Stabilise = req.GetStabiliseMs()
			}
			if req.CleanUpAfterMs != nil {
				next.CleanUpAfter = req.GetCleanUpAfterMs()
			}
			body, err := s.node.MembershipBody(next)
			return &body, err
		},
	})
	if err != nil {
		return nil, err
	}
	settings, set := a.store.Membership()
	return s.membershipOut(settings, set), nil
}
