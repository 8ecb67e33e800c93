package main

import (
	"fmt"
	"time"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

type clusterCmd struct {
	Init       clusterInitCmd       `cmd:"" help:"Start a cluster on its first node."`
	Status     clusterStatusCmd     `cmd:"" help:"Show the state of every node that can be reached."`
	Members    clusterMembersCmd    `cmd:"" help:"List the members."`
	JoinToken  clusterJoinTokenCmd  `cmd:"" name:"join-token" help:"Make a one-time token with which a node may join."`
	Approve    clusterApproveCmd    `cmd:"" help:"Let a joined node hold a share."`
	Unseal     clusterUnsealCmd     `cmd:"" help:"Enter an operator's share."`
	Seal       clusterSealCmd       `cmd:"" help:"Seal the cluster: nobody reads until operators unseal it."`
	Quarantine clusterQuarantineCmd `cmd:"" help:"Release no share to a node any more, at once."`
	Rotate     clusterRotateCmd     `cmd:"" help:"Renew a part of the cluster's own keys now."`
	Deal       clusterDealCmd       `cmd:"" help:"Deal the nodes' shares anew; the same as \"cluster rotate node-shares\"."`
	Schedule   clusterScheduleCmd   `cmd:"" help:"Renew the cluster's own keys on schedules."`
	Remove     clusterRemoveCmd     `cmd:"" help:"Remove a node for good; the root key is changed."`
	Promote    clusterPromoteCmd    `cmd:"" help:"Give a member that has none a vote, and with it a share."`
	Demote     clusterDemoteCmd     `cmd:"" help:"Take a member's vote; it goes on following, without a share."`
	Transfer   clusterTransferCmd   `cmd:"" name:"transfer-leader" help:"Have another voter lead."`
	Membership clusterMembershipCmd `cmd:"" help:"How members are treated: when they get their vote, and when silent ones are removed."`
}

type clusterMembersCmd struct{}

func (clusterMembersCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	m, err := cl.Cluster().Members(s.ctx, &hizov1.MembersRequest{})
	if err != nil {
		return err
	}
	return s.show(m, memberTable(m.GetMembers()))
}

func memberTable(members []*hizov1.Member) table {
	t := table{head: []string{"NODE", "STATE", "APPROVED", "SHARE", "ANSWERS", "LEVEL", "SEAL", "CLIENTS", "PEERS", "KEY"}}
	for _, m := range members {
		key := m.GetKeyFingerprint()
		if len(key) > 16 {
			key = key[:16] + "…"
		}
		t.add(m.GetId(), memberState(m), yesNo(m.GetApproved()), yesNo(m.GetHoldsShare()), answers(m), fmt.Sprint(max(1, m.GetLevel())), orDash(m.GetSealKind()),
			orDash(m.GetClientAddr()), orDash(m.GetPeerAddr()), key)
	}
	return t
}

func memberState(m *hizov1.Member) string {
	switch {
	case m.GetQuarantined():
		return "quarantined"
	case m.GetVoter() && m.GetNonVoter():
		return "demoting"
	case m.GetLeader():
		return "leader"
	case m.GetVoter():
		return "voter"
	case !m.GetApproved():
		return "waiting" // for its approval
	case m.GetNonVoter():
		return "non-voter"
	}
	return "joining" // catching up, or being watched for the stabilisation time
}

// answers says whether the leader hears of a member.
func answers(m *hizov1.Member) string {
	switch {
	case m.GetSilentMs() > 0:
		return "silent " + (time.Duration(m.GetSilentMs()) * time.Millisecond).Round(time.Second).String()
	case m.GetAppliedIndex() == 0:
		return "-" // not asked yet
	}
	return "yes"
}

type clusterJoinTokenCmd struct {
	Node        string        `required:"" placeholder:"NAME" help:"Name of the joining node."`
	Fingerprint string        `required:"" placeholder:"HEX" help:"Fingerprint of its key, as \"hizod identity\" prints it."`
	TTL         time.Duration `help:"How long the token can be used (default 1h)."`
	NonVoter    bool          `help:"The node joins without a vote, for good: it follows and serves, and holds no share."`
	Out         string        `type:"path" placeholder:"FILE" help:"Write the token into a new file that only its owner can read."`
}

func (c *clusterJoinTokenCmd) Run(s *session) error {
	if err := mayMake(c.Out); err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	j, err := cl.Cluster().CreateJoinToken(s.ctx, &hizov1.JoinTokenRequest{Node: c.Node, KeyFingerprint: c.Fingerprint, TtlSeconds: seconds(c.TTL), NonVoter: c.NonVoter})
	if err != nil {
		return err
	}
	s.note("good for node %s once, until %s; after it has joined: hizo cluster approve %s", c.Node, clock(j.GetExpiresUnix()), c.Node)
	return s.showSecretText(j, j.GetToken(), c.Out)
}

type clusterApproveCmd struct {
	Node        string `arg:"" help:"Name of the node."`
	Fingerprint string `placeholder:"HEX" help:"Approve this key only; without it the key that the node has now is shown and approved."`
}

func (c *clusterApproveCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	key, err := c.key(s, cl)
	if err != nil {
		return err
	}
	m, err := cl.Cluster().Approve(s.ctx, &hizov1.ApproveRequest{Node: c.Node, KeyFingerprint: key})
	if err != nil {
		return err
	}
	return s.show(m, memberTable([]*hizov1.Member{m}))
}

// key is the fingerprint to approve: the one that the caller knows, or the one that the cluster shows now. The
// latter is shown, so that it can be compared with what "hizod identity" prints on the node, and sent, so that a
// node that came in its place meanwhile is not approved.
func (c *clusterApproveCmd) key(s *session, cl *client.Client) (string, error) {
	if c.Fingerprint != "" {
		return c.Fingerprint, nil
	}
	list, err := cl.Cluster().Members(s.ctx, &hizov1.MembersRequest{})
	if err != nil {
		return "", err
	}
	for _, m := range list.GetMembers() {
		if m.GetId() == c.Node {
			s.note("approving %s with the key %s; it has to be what `hizod identity` prints there (pass --fingerprint to have that checked)", c.Node, m.GetKeyFingerprint())
			return m.GetKeyFingerprint(), nil
		}
	}
	return "", fmt.Errorf("%s has not asked to join: start it with its join token first", c.Node)
}

type clusterQuarantineCmd struct {
	Node string `arg:"" help:"Name of the node."`
	Lift bool   `help:"Take the quarantine back."`
}

func (c *clusterQuarantineCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	m, err := cl.Cluster().Quarantine(s.ctx, &hizov1.QuarantineRequest{Node: c.Node, Lift: c.Lift})
	if err != nil {
		return err
	}
	return s.show(m, memberTable([]*hizov1.Member{m}))
}

type clusterRemoveCmd struct {
	Node string `arg:"" help:"Name of the node."`
	Yes  bool   `help:"Do not ask."`
}

func (c *clusterRemoveCmd) Run(s *session) error {
	if err := s.confirm(fmt.Sprintf("Remove the node %s for good?", c.Node), c.Yes); err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Cluster().Remove(s.ctx, &hizov1.RemoveRequest{Node: c.Node})
	if err != nil {
		return err
	}
	return s.show(r, table{rows: [][]string{{"removed", c.Node}}})
}

type clusterSealCmd struct {
	Yes bool `help:"Do not ask."`
}

func (c *clusterSealCmd) Run(s *session) error {
	if err := s.confirm("Seal the whole cluster? Nobody can read or write until operators unseal it.", c.Yes); err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Cluster().Seal(s.ctx, &hizov1.SealRequest{})
	if err != nil {
		return err
	}
	return s.show(r, table{rows: [][]string{{"sealed", "yes"}}})
}
