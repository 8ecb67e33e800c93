package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/hizo/hizo/api/hizov1"
)

type clusterPromoteCmd struct {
	Node string `arg:"" help:"Name of the node."`
}

func (c *clusterPromoteCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	m, err := cl.Cluster().Promote(s.ctx, &hizov1.PromoteRequest{Node: c.Node})
	if err != nil {
		return err
	}
	if !m.GetVoter() {
		s.note("%s becomes a voter when it has kept up for the stabilisation time (hizo cluster membership show)", c.Node)
	}
	return s.show(m, memberTable([]*hizov1.Member{m}))
}

type clusterDemoteCmd struct {
	Node string `arg:"" help:"Name of the node."`
}

func (c *clusterDemoteCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	m, err := cl.Cluster().Demote(s.ctx, &hizov1.DemoteRequest{Node: c.Node})
	if err != nil {
		return err
	}
	if m.GetVoter() {
		s.note("%s loses its vote once the shares are dealt to the others (hizo cluster members)", c.Node)
	}
	return s.show(m, memberTable([]*hizov1.Member{m}))
}

type clusterTransferCmd struct {
	Node string `arg:"" optional:"" help:"Who is to lead; without it the voter that is most up to date."`
}

func (c *clusterTransferCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Cluster().TransferLeader(s.ctx, &hizov1.TransferLeaderRequest{Node: c.Node})
	if err != nil {
		return err
	}
	return s.show(r, table{rows: [][]string{{"leader", orDash(r.GetLeaderId())}, {"address", orDash(r.GetLeaderAddr())}}})
}

type clusterMembershipCmd struct {
	Show clusterMembershipShowCmd `cmd:"" default:"1" help:"Show how members are treated."`
	Set  clusterMembershipSetCmd  `cmd:"" help:"Change it; what is not named stays as it is."`
}

type clusterMembershipShowCmd struct{}

func (clusterMembershipShowCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	m, err := cl.Cluster().GetMembership(s.ctx, &hizov1.GetMembershipRequest{})
	if err != nil {
		return err
	}
	return s.show(m, membershipTable(m))
}

type clusterMembershipSetCmd struct {
	Stabilise    *time.Duration `placeholder:"TIME" help:"How long a member has to keep up before it becomes a voter."`
	CleanUpAfter *time.Duration `xor:"cleanup" placeholder:"TIME" help:"Remove members that are silent for that long. Never below three voters, nor where too few others answer."`
	NoCleanUp    bool           `xor:"cleanup" help:"Remove nobody by itself (the default)."`
}

func (c *clusterMembershipSetCmd) Run(s *session) error {
	req := &hizov1.SetMembershipRequest{}
	if c.Stabilise != nil {
		ms := c.Stabilise.Milliseconds()
		req.StabiliseMs = &ms
	}
	if c.CleanUpAfter != nil || c.NoCleanUp {
		var ms int64
		if c.CleanUpAfter != nil {
			ms = c.CleanUpAfter.Milliseconds()
		}
		req.CleanUpAfterMs = &ms
	}
	if req.StabiliseMs == nil && req.CleanUpAfterMs == nil {
		return errors.New("say what to change: --stabilise, --clean-up-after or --no-clean-up")
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	m, err := cl.Cluster().SetMembership(s.ctx, req)
	if err != nil {
		return err
	}
	return s.show(m, membershipTable(m))
}

func membershipTable(m *hizov1.MembershipSettings) table {
	cleanUp := "never"
	if m.GetCleanUpAfterMs() > 0 {
		cleanUp = fmt.Sprintf("members silent for %v", time.Duration(m.GetCleanUpAfterMs())*time.Millisecond)
	}
	stabilise := (time.Duration(m.GetStabiliseMs()) * time.Millisecond).String()
	if !m.GetSet() {
		stabilise += " (default; the first three voters do not wait)"
	}
	return table{rows: [][]string{{"stabilise", stabilise}, {"clean up", cleanUp}}}
}
