package cluster

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
)

// InitRequest describes a new cluster.
type InitRequest struct {
	Name      string
	Operators int // how many shares
	Threshold int // how many of them unseal
	// Recipients are the operators' age recipients, in the order of their shares: a later rotation encrypts to them.
	// The shares of Init itself are returned bare.
	Recipients []string

	// The one-time enrolment of the first people: the hash of its code, the roles that it gives
	// (SecurityEngineer where empty) and how long it lasts.
	EnrolmentHash  []byte
	EnrolmentRoles []string
	EnrolmentTTL   time.Duration

	Development     bool
	RequireHardware bool // members with a software seal are refused
}

// InitResult is what only this one answer holds: the operators' shares exist nowhere else.
type InitResult struct {
	ClusterID [16]byte
	Shares    []shares.Share
	CA        []byte // PEM
}

var errInitBadRequest = errors.New("init: bad request")

// Init makes this node the first of a new cluster and leaves it unsealed. Over existing state it changes
// nothing and returns ErrAlreadyInitialised. A crash before the genesis record commits leaves a node that
// can be initialised again; the shares of the first attempt then open nothing.
func (n *Node) Init(ctx context.Context, req InitRequest) (InitResult, error) {
	n.initMu.Lock()
	defer n.initMu.Unlock()
	if n.Initialised() || n.seeds.Load() != nil {
		return InitResult{}, ErrAlreadyInitialised
	}
	if req.Development && !n.cfg.Development {
		return InitResult{}, fmt.Errorf("%w: only hizod dev makes development clusters", errInitBadRequest)
	}
	if req.RequireHardware && n.cfg.Seal.Kind() == seal.Software {
		return InitResult{}, fmt.Errorf("%w: hardware is required, and this node's seal is software", errInitBadRequest)
	}
	if len(req.EnrolmentRoles) == 0 {
		req.EnrolmentRoles = []string{fsm.RoleSecurityEngineer}
	}
	genesis, root, list, err := n.makeGenesis(req)
	if err != nil {
		return InitResult{}, err
	}
	fail := func(err error) (InitResult, error) {
		root.Wipe()
		for _, s := range list {
			s.Wipe()
		}
		return InitResult{}, err
	}
	if err := n.bootstrap(ctx); err != nil {
		return fail(err)
	}
	result, err := n.proposeAsLeader(ctx, n.dutyCommand(fsm.KindGenesis, genesis, fsm.Audit{
		Action: "genesis", Resource: "cluster", Decision: fsm.Allowed,
	}))
	if err != nil {
		return fail(err)
	}
	if result.Code == fsm.CodeInitialised {
		return fail(ErrAlreadyInitialised)
	}
	if err := codeError(result); err != nil {
		return fail(fmt.Errorf("genesis: %w", err))
	}
	cl, _ := n.store.Cluster()
	ring, err := n.openRing(root, cl)
	if err != nil {
		return fail(err)
	}
	n.keys.install(ring, root, cl.RootGeneration)
	n.refreshDirectory()
	n.keepMembers()
	n.log.Info("initialised", "cluster", fmt.Sprintf("%x", cl.ID))
	return InitResult{ClusterID: cl.ID, Shares: list, CA: cl.CA}, nil
}

// makeGenesis draws every key of a new cluster.
func (n *Node) makeGenesis(req InitRequest) (*fsm.Genesis, keyring.Root, []shares.Share, error) {
	fail := func(err error) (*fsm.Genesis, keyring.Root, []shares.Share, error) {
		return nil, keyring.Root{}, nil, err
	}
	var id [16]byte
	rand.Read(id[:])
	now := n.unixMilli()
	seed, deal, list, err := shares.Split(id, shares.OperatorSet, req.Threshold, req.Operators)
	if err != nil {
		return fail(err)
	}
	defer seed.Wipe()
	operators, err := keyring.OperatorKey(seed)
	if err != nil {
		return fail(err)
	}
	root := keyring.NewRoot()
	dealBody, err := deal.MarshalBinary()
	if err != nil {
		return fail(err)
	}
	operatorRoot, err := keyring.SealForOperators(operators.Public(), root, keyring.Context{Cluster: id, Generation: 1, Deal: deal.ID})
	if err != nil {
		return fail(err)
	}

	maker, err := keyring.Open(root, 1, id, keyring.Static())
	if err != nil {
		return fail(err)
	}
	defer maker.Close()
	var wrapped []keyring.WrappedKey
	genesis := &fsm.Genesis{Level: n.store.HighestLevel()}
	for _, purpose := range []string{
		keyring.Audit, keyring.AuditHPKE, keyring.CA, keyring.Fingerprint, keyring.Gossip, keyring.MAC, keyring.Password, keyring.Pipeline,
	} {
		w, err := maker.Generate(purpose, 1)
		if err != nil {
			return fail(err)
		}
		wrapped = append(wrapped, w)
		genesis.Keys = append(genesis.Keys, storedKey(w, now))
	}
	ring, err := keyring.Open(root, 1, id, keyring.Static(wrapped...))
	if err != nil {
		return fail(err)
	}
	defer ring.Close()
	auditKey, err := ring.HPKE(keyring.AuditHPKE, 1)
	if err != nil {
		return fail(err)
	}
	ca, err := makeCA(ring, 1, id, req.Name, n.cfg.Clock())
	if err != nil {
		return fail(err)
	}
	public, err := x509.MarshalPKIXPublicKey(n.cfg.Seal.Identity().Public())
	if err != nil {
		return fail(fmt.Errorf("this node's identity key: %w", err))
	}
	rootID := root.ID()
	genesis.Cluster = fsm.Cluster{
		ID: id, Name: req.Name, Created: now, Development: req.Development, RequireHardware: req.RequireHardware,
		RootGeneration: 1, RootID: rootID[:], MACGeneration: 1, AuditGeneration: 1, AuditPublicKey: auditKey.Public(),
		CA: ca, OperatorDeal: dealBody, OperatorKey: operators.Public(), OperatorRoot: operatorRoot,
		OperatorRecipients: req.Recipients,
	}
	genesis.Member = fsm.Member{
		ID: n.cfg.ID, PeerAddr: n.cfg.AdvertisePeer, ClientAddr: n.cfg.AdvertiseClient,
		Key: public, SealKind: string(n.cfg.Seal.Kind()), Approved: true, Level: n.store.HighestLevel(),
	}
	// Whoever initialised trusts the CA from now on, so this node has to show a certificate of it at once.
	genesis.Member.ClientCert, err = signByCA(ring, ca, nodeTemplate(genesis.Member, n.cfg.Clock()), n.cfg.Seal.Identity().Public())
	if err != nil {
		return fail(err)
	}
	genesis.Enrolment = fsm.Enrolment{Hash: req.EnrolmentHash, Roles: req.EnrolmentRoles, Expires: now + req.EnrolmentTTL.Milliseconds()}
	mac := func(record fsm.MACed) (m []byte) {
		if err == nil {
			m, err = ring.MAC(1, record.MACDomain(), record.MACBody())
		}
		return m
	}
	genesis.Cluster.MAC = mac(genesis.Cluster)
	genesis.Member.MAC = mac(genesis.Member)
	genesis.Enrolment.MAC = mac(genesis.Enrolment)
	if err != nil {
		return fail(err)
	}
	return genesis, root, list, nil
}

// bootstrap makes this node the only voter of a new Raft cluster. ErrCantBootstrap over a log without a
// genesis is what a crash in an earlier Init leaves: that log is ours and holds nobody else.
func (n *Node) bootstrap(ctx context.Context) error {
	err := n.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: raft.ServerID(n.cfg.ID), Address: raft.ServerAddress(n.cfg.ID),
	}}}).Error()
	if errors.Is(err, raft.ErrCantBootstrap) {
		servers := n.raft.GetConfiguration().Configuration().Servers
		if len(servers) != 1 || servers[0].ID != raft.ServerID(n.cfg.ID) {
			return ErrAlreadyInitialised
		}
		err = nil
	}
	if err != nil {
		return fmt.Errorf("bootstrap raft: %w", err)
	}
	return ctx.Err()
}

// proposeAsLeader proposes once this node leads. It is for a node that is alone: it will.
func (n *Node) proposeAsLeader(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	for {
		result, err := n.Propose(ctx, cmd)
		var notLeader *NotLeaderError
		if !errors.As(err, &notLeader) {
			return result, err
		}
		timer := time.NewTimer(20 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fsm.Result{}, ctx.Err()
		}
	}
}
