package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/hizo/hizo/api/audit"
	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
)

// Membership makes the records by which members come and go; the gate authorises and proposes them.
type Membership interface {
	NewJoinToken(node string, fingerprint [32]byte, ttl time.Duration, nonVoter bool) (text string, body fsm.JoinTokenPut, err error)
	ApproveBody(id string, key []byte) (fsm.MemberApprove, error)
	QuarantineBody(id string, on bool) (fsm.Quarantine, error)
	VoteBody(id string, voter bool) (fsm.MemberVote, error)
	MembershipBody(m fsm.Membership) (fsm.MembershipSet, error)
	LoseVote(ctx context.Context, id string, removed bool) error
	Stabilise() time.Duration
	TransferLeadership(ctx context.Context, to string) error
	IssueClientCertificate(principal string, request []byte, ttl time.Duration) ([]byte, fsm.Certificate, error)
}

// clusterService begins, unseals, shows and changes a cluster.
type clusterService struct {
	hizov1.UnimplementedClusterServiceServer
	*Server
}

// Bounds of an initialisation.
const (
	maxOperators = 32
	enrolmentTTL = 24 * time.Hour
)

// Init starts a cluster on this node. Whoever can read the node's bootstrap file may; the shares leave
// encrypted to their operators' keys only.
func (s *clusterService) Init(ctx context.Context, req *hizov1.InitRequest) (*hizov1.InitResponse, error) {
	if wait, ok := s.gate.floods.ceremony(clientAddr(ctx)); !ok {
		return nil, rateLimited(wait)
	}
	if s.node.Initialised() {
		return nil, cluster.ErrAlreadyInitialised
	}
	if s.conf.BootstrapToken == "" || subtle.ConstantTimeCompare([]byte(req.GetBootstrapToken()), []byte(s.conf.BootstrapToken)) != 1 {
		return nil, &Error{Reason: hizov1.ReasonUnauthenticated, Message: "this is not the token of the node's bootstrap file: read the file on the node that is to be initialised"}
	}
	recipients, err := recipientsOf(req.GetOperators())
	if err != nil {
		return nil, err
	}
	if t := req.GetThreshold(); t == 0 || int(t) > len(recipients) {
		return nil, invalid("threshold", "the threshold is between 1 and the number of operators, %d", len(recipients))
	}
	if err := s.text("name", req.GetName()); err != nil {
		return nil, err
	}
	if req.GetName() != "" {
		if _, err := name.Vault(req.GetName()); err != nil { // the same rule for short names
			return nil, invalid("name", "%s", strings.Replace(err.Error(), "vault name", "cluster name", 1))
		}
	}
	code := auth.NewToken(auth.EnrolmentCode)
	hash := code.Hash()
	status := s.node.Status()
	if req.GetRequireHardware() && status.SealKind == fsm.SealSoftware {
		return nil, invalid("require_hardware", "this node's keys are in a file: configure its PKCS#11 token, or initialise without demanding hardware")
	}
	result, err := s.node.Init(ctx, cluster.InitRequest{
		Name: req.GetName(), Operators: len(recipients), Threshold: int(req.GetThreshold()), Recipients: req.GetOperators(),
		EnrolmentHash: hash[:], EnrolmentRoles: []string{policy.SecurityEngineer}, EnrolmentTTL: enrolmentTTL,
		Development: s.conf.Development, RequireHardware: req.GetRequireHardware(),
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, share := range result.Shares {
			share.Wipe()
		}
	}()
	out := &hizov1.InitResponse{
		ClusterId: inject.ClusterText(result.ClusterID), CaPem: result.CA, EnrolmentCode: code.Reveal(),
	}
	if stored, ok := s.node.Store().Enrolment(hash[:]); ok {
		out.EnrolmentExpiresUnix = stored.Expires / 1000
	}
	for i, share := range result.Shares {
		file, err := share.Encrypt(recipients[i])
		if err != nil {
			return nil, fmt.Errorf("encrypt the share of operator %d: %w", i+1, err)
		}
		out.OperatorShares = append(out.OperatorShares, file)
	}
	trust, err := s.trust()
	if err != nil {
		return nil, err
	}
	out.Trust = trust.String()
	s.log.Info("the cluster was initialised", "cluster", out.ClusterId, "node", status.ID, "operators", len(recipients), "threshold", req.GetThreshold())
	return out, nil
}

// trust is what an offline verification begins with.
func (s *Server) trust() (audit.Trust, error) { return TrustOf(s.node.Store()) }

// TrustOf is the trust in a cluster's audit log as this state has it: its first record, and those that no majority of the
// members of before could sign for: of restores, of recoveries, and of removals that left too few of them.
func TrustOf(store *fsm.Store) (audit.Trust, error) {
	c, ok := store.Cluster()
	if !ok {
		return audit.Trust{}, cluster.ErrNotInitialised
	}
	leaf, err := store.AuditLeaf(0)
	if err != nil {
		return audit.Trust{}, fmt.Errorf("the first audit record: %w", err)
	}
	trust := audit.Trust{Cluster: inject.ClusterText(c.ID), Genesis: audit.LeafHash(leaf)}
	var records []uint64
	for _, r := range c.Restored {
		records = append(records, r.Record)
	}
	first := uint64(0)
	if len(records) > 0 {
		first = records[len(records)-1]
	}
	recovery, _ := store.Recovery()
	records = append(append(records, recovery.Records...), store.SignerGaps(first)...)
	for _, seq := range records {
		if leaf, err = store.AuditLeaf(seq); err != nil {
			return audit.Trust{}, fmt.Errorf("record %d, which a verification has to trust: %w", seq, err)
		}
		trust.Restores = append(trust.Restores, audit.LeafHash(leaf))
	}
	return trust, nil
}

// recipientsOf parses one age recipient per operator. Keys that appear twice are a mistake: one person
// would hold two shares.
func recipientsOf(texts []string) ([]age.Recipient, error) {
	if len(texts) == 0 || len(texts) > maxOperators {
		return nil, invalid("operators", "name 1 to %d operators by their age recipients (`hizo operator keygen`)", maxOperators)
	}
	seen := make(map[string]bool)
	out := make([]age.Recipient, 0, len(texts))
	for i, text := range texts {
		to, err := shares.ParseRecipient(text)
		if err != nil {
			return nil, invalid("operators", "operator %d: %s", i+1, err)
		}
		if seen[text] {
			return nil, invalid("operators", "operator %d has the same key as another: each share needs a holder of its own", i+1)
		}
		seen[text] = true
		out = append(out, to)
	}
	return out, nil
}

// Status says how this node is, to anybody what it takes to unseal it and find the leader, and to whoever
// has a token the rest.
func (s *clusterService) Status(ctx context.Context, _ *hizov1.StatusRequest) (*hizov1.StatusResponse, error) {
	st, progress := s.node.Status(), s.node.Progress()
	out := &hizov1.StatusResponse{
		NodeId: st.ID, ClusterName: st.ClusterName, Initialised: st.Initialised, Sealed: st.Sealed, SealFlag: st.SealedFlag,
		SealKind: string(st.SealKind), Role: "follower", LeaderId: st.Leader.ID, LeaderAddr: st.Leader.ClientAddr,
		UnsealHave: uint32(progress.Have), UnsealNeed: uint32(progress.Need),
		Development: st.Development, Version: s.conf.Version,
	}
	if st.Initialised {
		out.ClusterId = inject.ClusterText(st.ClusterID)
	}
	switch {
	case st.IsLeader:
		out.Role = "leader"
	case st.Leader.ID == "":
		out.Role = "candidate"
	}
	from := originOf(ctx)
	if !from.bears {
		return out, nil
	}
	// With a token the leader answers in full, on record. Another node knows only itself: it tells the
	// owner of a token that is good by its own state, and releases nothing by that.
	if st.IsLeader && !st.Sealed {
		if _, err := s.gate.do(ctx, &call{kind: fsm.KindRecord, targets: []target{onSystem(policy.ClusterStatus)}}); err != nil {
			return nil, err
		}
	} else if !s.knows(from) {
		return out, nil
	}
	out.Term, out.LastIndex, out.AppliedIndex = st.Term, st.LastIndex, st.Applied
	out.ClusterTimeUnixMs, out.Level = s.node.Store().Time(), s.node.Store().Level()
	out.Warnings = warnings(st)
	return out, nil
}

// knows looks a token up without the leader.
func (s *Server) knows(from origin) bool {
	keys, err := s.node.Keyring()
	if err != nil {
		return false
	}
	store := s.node.Store()
	c, ok := store.Cluster()
	if !ok {
		return false
	}
	r := &round{footing: footing{store: store, keys: keys, cluster: c}, origin: from, now: s.gate.now(store)}
	_, err = s.gate.authenticate(r)
	return err == nil
}

func warnings(st cluster.Status) []string {
	var out []string
	if st.Development {
		out = append(out, "development cluster: its operators' shares lie on this machine")
	}
	voters, software, waiting := 0, 0, 0
	for _, m := range st.Members {
		if m.Voter {
			voters++
		}
		if m.SealKind == fsm.SealSoftware {
			software++
		}
		if !m.Approved {
			waiting++
		}
	}
	if software > 0 {
		out = append(out, fmt.Sprintf("%d of %d members keep their keys in files, not in hardware", software, len(st.Members)))
	}
	if waiting > 0 {
		out = append(out, fmt.Sprintf("%d members wait for `hizo cluster approve`", waiting))
	}
	if st.Initialised && st.NodeEpoch == 0 {
		out = append(out, "no node set yet: after a restart operators have to unseal (it takes three voters)")
	}
	if voters == 2 {
		out = append(out, "two voters: if one is lost, so is the quorum; add a third")
	}
	return out
}

// Members lists the members.
func (s *clusterService) Members(ctx context.Context, _ *hizov1.MembersRequest) (*hizov1.MembersResponse, error) {
	var out *hizov1.MembersResponse
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onSystem(policy.ClusterMembers)}}, func(*answer) error {
		out = &hizov1.MembersResponse{}
		st := s.node.Status()
		for _, m := range st.Members {
			out.Members = append(out.Members, memberOut(st, m))
		}
		return nil
	})
	return sent(out, err)
}

func memberOut(st cluster.Status, m cluster.MemberStatus) *hizov1.Member {
	return &hizov1.Member{
		Id: m.ID, PeerAddr: m.PeerAddr, ClientAddr: m.ClientAddr, KeyFingerprint: keyFingerprint(m.Key),
		SealKind: m.SealKind, Approved: m.Approved, Quarantined: m.Quarantined, Voter: m.Voter,
		Leader: m.ID == st.Leader.ID, HoldsShare: m.HasShare, NonVoter: m.NonVoter, Level: max(1, m.Level),
		SilentMs: m.Silent.Milliseconds(), AppliedIndex: m.AppliedIndex,
	}
}

func keyFingerprint(pkix []byte) string {
	sum := sha256.Sum256(pkix)
	return hex.EncodeToString(sum[:])
}

// member is one member after a change.
func (s *clusterService) member(id string) (*hizov1.Member, error) {
	st := s.node.Status()
	for _, m := range st.Members {
		if m.ID == id {
			return memberOut(st, m), nil
		}
	}
	return nil, fault(hizov1.ReasonNotFound)
}

// Unseal takes one operator's share at this node. A share is its own credential. Failed attempts count
// against their address, and what comes of it is on record: the unsealing by the node itself, a refused
// share here, as far as this node can write records.
func (s *clusterService) Unseal(ctx context.Context, req *hizov1.UnsealRequest) (*hizov1.UnsealResponse, error) {
	addr := clientAddr(ctx)
	if wait, ok := s.gate.floods.ceremony(addr); !ok {
		return nil, rateLimited(wait)
	}
	p, err := s.submit(ctx, req.GetShare())
	if err != nil {
		s.log.Warn("a share was refused", "client", addr, "reason", toError(err).Reason)
		s.refusedShare(addr)
		return nil, err
	}
	return &hizov1.UnsealResponse{Sealed: !p.Done, Have: uint32(p.Have), Need: uint32(p.Need)}, nil
}

func (s *clusterService) submit(ctx context.Context, text string) (cluster.UnsealProgress, error) {
	if len(text) > 4<<10 {
		return cluster.UnsealProgress{}, shares.ErrText
	}
	return s.node.SubmitShare(ctx, text)
}

// actionUnseal is the audit action of a refused share.
const actionUnseal = "cluster.unseal"

func (s *clusterService) refusedShare(addr netip.Addr) {
	s.gate.floods.count(floodKey{principal: anonymousText, action: actionUnseal, addr: addr, decision: fsm.Failed, detail: "share refused"})
}

// Seal seals the cluster: nodes drop their keys and refuse each other's shares until operators unseal.
func (s *clusterService) Seal(ctx context.Context, req *hizov1.SealRequest) (*hizov1.SealResponse, error) {
	_, err := s.gate.do(ctx, &call{
		method: "ClusterService/Seal", kind: fsm.KindSealFlag, message: req, targets: []target{onSystem(policy.ClusterSeal)},
		body: func(*round) (any, error) { return &fsm.SealFlag{Sealed: true}, nil },
	})
	if err != nil {
		return nil, err
	}
	return &hizov1.SealResponse{}, nil
}

func onNode(action policy.Action, id string) target {
	return onIdentity(action, name.Principal{Kind: name.KindNode, Name: id})
}

// CreateJoinToken lets one node, named by its key, ask to join.
func (s *clusterService) CreateJoinToken(ctx context.Context, req *hizov1.JoinTokenRequest) (*hizov1.JoinTokenResponse, error) {
	if _, err := name.Node(req.GetNode()); err != nil {
		return nil, err
	}
	var fingerprint [32]byte
	raw, err := hex.DecodeString(req.GetKeyFingerprint())
	if err != nil || len(raw) != len(fingerprint) {
		return nil, invalid("key_fingerprint", "send the 64 hex digits of the joining node's key: its data directory holds them in the file identity")
	}
	copy(fingerprint[:], raw)
	ttl, err := lifetime(req.GetTtlSeconds(), 7*24*time.Hour)
	if err != nil {
		return nil, err
	}
	t := onNode(policy.ClusterJoinToken, req.GetNode())
	t.detail = "key " + hex.EncodeToString(raw)
	if req.GetNonVoter() {
		t.detail += ", no vote"
	}
	var text string
	answer, err := s.gate.do(ctx, &call{
		method: "ClusterService/CreateJoinToken", kind: fsm.KindJoinTokenPut, message: req, targets: []target{t},
		body: func(r *round) (any, error) {
			var body fsm.JoinTokenPut
			if _, there := r.store.Member(req.GetNode()); there {
				return nil, conflict("%s is a member: if it is to be replaced, because its disk or its HSM is gone, `hizo cluster remove %s` first", req.GetNode(), req.GetNode())
			}
			var err error
			text, body, err = s.node.NewJoinToken(req.GetNode(), fingerprint, ttl, req.GetNonVoter())
			return &body, err
		},
	})
	if err != nil {
		return nil, err
	}
	if answer.Duplicate { // the token of the first try was random and is shown once
		return nil, fault(hizov1.ReasonAnswerLost)
	}
	return &hizov1.JoinTokenResponse{Token: text, ExpiresUnix: (answer.now + ttl.Milliseconds()) / 1000}, nil
}

// Approve admits a member's key to the share set. It names the key and not only the node: a name alone would
// approve whatever has joined under it since somebody looked.
func (s *clusterService) Approve(ctx context.Context, req *hizov1.ApproveRequest) (*hizov1.Member, error) {
	if _, err := name.Node(req.GetNode()); err != nil {
		return nil, err
	}
	want := strings.ToLower(req.GetKeyFingerprint())
	if raw, err := hex.DecodeString(want); err != nil || len(raw) != sha256.Size {
		return nil, invalid("key_fingerprint", "name the key that is approved by its 64 hex digits: `hizo cluster members` shows it, the node's data directory holds it in the file identity")
	}
	_, err := s.gate.do(ctx, &call{
		method: "ClusterService/Approve", kind: fsm.KindMemberApprove, message: req,
		targets: []target{onNode(policy.ClusterApprove, req.GetNode())},
		body: func(r *round) (any, error) {
			r.rest(fsm.ObjMember(req.GetNode()))
			m, ok := r.store.Member(req.GetNode())
			if !ok {
				return nil, &Error{Reason: hizov1.ReasonNotFound, Message: fmt.Sprintf("%s has not asked to join: start it with its join token first", req.GetNode())}
			}
			if want != keyFingerprint(m.Key) {
				return nil, invalid("key_fingerprint", "the key of %s is %s, not the one given: find out which node this is before approving it", m.ID, keyFingerprint(m.Key))
			}
			body, err := s.node.ApproveBody(m.ID, m.Key)
			return &body, err
		},
	})
	if err != nil {
		return nil, err
	}
	return s.member(req.GetNode())
}

// Quarantine stops share releases to a member, or resumes them.
func (s *clusterService) Quarantine(ctx context.Context, req *hizov1.QuarantineRequest) (*hizov1.Member, error) {
	if _, err := name.Node(req.GetNode()); err != nil {
		return nil, err
	}
	t := onNode(policy.ClusterQuarantine, req.GetNode())
	if req.GetLift() { // lets it open the cluster's keys again, as an approval does
		t = onNode(policy.ClusterLift, req.GetNode())
	}
	_, err := s.gate.do(ctx, &call{
		method: "ClusterService/Quarantine", kind: fsm.KindQuarantine, message: req, targets: []target{t},
		body: func(r *round) (any, error) {
			r.rest(fsm.ObjMember(req.GetNode()))
			body, err := s.node.QuarantineBody(req.GetNode(), !req.GetLift())
			return &body, err
		},
	})
	if err != nil {
		return nil, err
	}
	return s.member(req.GetNode())
}

// Remove removes a member: it loses its streams at once, and its share is dealt anew among the others. It is refused
// where too few voters would be left that answer: nothing could be decided after that, not even to take it back.
func (s *clusterService) Remove(ctx context.Context, req *hizov1.RemoveRequest) (*hizov1.RemoveResponse, error) {
	if _, err := name.Node(req.GetNode()); err != nil {
		return nil, err
	}
	_, err := s.gate.do(ctx, &call{
		method: "ClusterService/Remove", kind: fsm.KindMemberRemove, message: req, targets: []target{onNode(policy.ClusterRemove, req.GetNode())},
		body: func(r *round) (any, error) {
			if err := s.survives(ctx, req.GetNode(), true); err != nil {
				return nil, err
			}
			return &fsm.MemberRemove{ID: req.GetNode()}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	return &hizov1.RemoveResponse{}, nil
}
