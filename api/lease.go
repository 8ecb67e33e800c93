package api

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/cluster/lease"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
	"github.com/hizo/hizo/fsm"
)

// leaseService makes users of databases for one run. What happens at the servers is the engine's (cluster/lease); what
// is recorded before and after, and who may, is decided here.
type leaseService struct {
	hizov1.UnimplementedLeaseServiceServer
	*Server
}

// engine refuses where this server was made without targets.
func (s *leaseService) engine() (*lease.Engine, error) {
	if s.conf.Leases == nil {
		return nil, &Error{Reason: hizov1.ReasonTarget, Message: "this node knows no kind of lease target"}
	}
	return s.conf.Leases, nil
}

func onLeaseRole(action policy.Action, vault, role string) (target, error) {
	r := name.LeaseRole{Vault: vault, Role: role}
	if _, err := name.ParseLeaseRole(r.String()); err != nil {
		return target{}, err
	}
	return target{action: action, resource: policy.LeaseRole(vault, role), name: r.String()}, nil
}

// making is one lease on its way from the first record to the release.
type making struct {
	role     fsm.LeaseRole
	lease    fsm.Lease
	password secret.Bytes
	admin    lease.Admin
}

func (m *making) wipe() {
	m.password.Wipe()
	m.admin.Wipe()
}

// Issue makes a user and releases its credential, sealed to the key of one execution. Between the two records, creating
// and active, stands the call to the server; whatever ends it leaves a lease that ends by itself.
func (s *leaseService) Issue(ctx context.Context, req *hizov1.IssueLeaseRequest) (*hizov1.IssueLeaseResponse, error) {
	engine, err := s.engine()
	if err != nil {
		return nil, err
	}
	t, err := onLeaseRole(policy.Lease, req.GetVault(), req.GetRole())
	if err != nil {
		return nil, err
	}
	if err := s.text("execution", req.GetExecution()); err != nil {
		return nil, err
	}
	if err := leaseTTL(req.GetTtlSeconds()); err != nil {
		return nil, err
	}
	wish := &leaseWish{leaseService: s, target: t}
	m := &making{}
	defer func() { m.wipe() }()
	if _, err := s.gate.do(ctx, &call{
		method: "LeaseService/Issue", kind: fsm.KindLeaseCreate, prepare: wish.prepare, message: req, reason: req.GetExecution(),
		body: func(r *round) (any, error) {
			if err := hybrid.CheckPublic(req.GetExecutionKey()); err != nil {
				return nil, err
			}
			m.wipe()
			var err error
			if m, err = wish.open(ctx, engine, r, req); err != nil {
				return nil, err
			}
			return &fsm.LeaseCreate{Lease: m.lease}, nil
		},
	}); err != nil {
		return nil, err
	}
	if err := engine.Create(ctx, m.role, m.lease, m.password, m.admin); err != nil {
		return nil, s.abandon(ctx, engine, m, s.targetError(engine, m.lease, "user could not be made", err))
	}
	// Decided anew: what was revoked while the user was made gets nothing.
	answer, err := s.gate.do(ctx, &call{
		kind: fsm.KindLeaseActivate, prepare: wish.prepare, reason: req.GetExecution(),
		body: func(*round) (any, error) { return &fsm.LeaseActivate{ID: m.lease.ID}, nil },
	})
	if err != nil {
		return nil, s.abandon(ctx, engine, m, err)
	}
	return s.release(answer, req, m)
}

// leaseWish is the wish for a lease, or for its renewal. A pipeline that declares a reference to the role grants it to the
// workloads that run it.
type leaseWish struct {
	*leaseService
	target   target
	pipeline string // of the caller: VAULT/NAME, or none
}

func (w *leaseWish) prepare(r *round) error {
	p, runs, err := w.gate.pipelineOf(r)
	if err != nil {
		return err
	}
	t := w.target
	w.pipeline = ""
	if runs {
		w.pipeline = p.Vault + "/" + p.Name
		t.granted = leases(&p, t.name)
	}
	r.targets = []target{t}
	return nil
}

// leases says whether a pipeline declares a reference to leases of a role.
func leases(p *fsm.Pipeline, role string) bool {
	return slices.ContainsFunc(p.Variables, func(v fsm.PipelineVariable) bool {
		return strings.HasPrefix(v.Reference, name.LeaseScheme+role+"#")
	})
}

// open makes a lease and its password. The credential for making the user is read here, behind the authorisation.
func (w *leaseWish) open(ctx context.Context, engine *lease.Engine, r *round, req *hizov1.IssueLeaseRequest) (*making, error) {
	m := &making{}
	r.rest(fsm.ObjLeaseRole(req.GetVault(), req.GetRole()))
	var ok bool
	if m.role, ok = r.store.LeaseRole(req.GetVault(), req.GetRole()); !ok {
		return m, &Error{Reason: hizov1.ReasonNotFound, Message: fmt.Sprintf("there is no lease role %s/%s: make it with `hizo lease role put`", req.GetVault(), req.GetRole())}
	}
	if err := w.gate.verify(r.footing, m.role, m.role.MAC, fsm.ObjLeaseRole(m.role.Vault, m.role.Name)); err != nil {
		return m, err
	}
	ttl := m.role.DefaultTTL
	if req.GetTtlSeconds() > 0 {
		ttl = req.GetTtlSeconds() * 1000
	}
	if ttl > m.role.MaxTTL {
		return m, invalid("ttl_seconds", "leases of %s/%s last at most %s", m.role.Vault, m.role.Name, millis(m.role.MaxTTL))
	}
	var err error
	if m.admin, err = engine.Admin(ctx, w.node, m.role, "to make a user of "+m.role.Vault+"/"+m.role.Name+" for "+r.caller.text); err != nil {
		if errors.Is(err, lease.ErrAdmin) {
			return m, &Error{Reason: hizov1.ReasonTarget, Message: err.Error()}
		}
		return m, err
	}
	l := fsm.Lease{
		Vault: m.role.Vault, Role: m.role.Name, Revision: m.role.Revision, Target: m.role.Target, Principal: r.caller.text, Pipeline: w.pipeline,
		Issued: r.now, Expires: r.now + ttl, MaxExpires: r.now + m.role.MaxTTL, AdminVersion: m.admin.Version,
	}
	rand.Read(l.ID[:])
	l.Username, m.password = lease.NewUser(l.ID)
	l.MAC, err = r.mac(l)
	m.lease = l
	return m, err
}

// release seals the credential. It is not in the state, so an answer that is lost is lost: the client asks again.
func (s *leaseService) release(answer *answer, req *hizov1.IssueLeaseRequest, m *making) (*hizov1.IssueLeaseResponse, error) {
	l, ok := answer.store.Lease(m.lease.ID)
	if !ok {
		l = m.lease
	}
	out := &hizov1.IssueLeaseResponse{
		Lease: leaseOf(l), ClusterId: inject.ClusterText(answer.cluster.ID), AuditSequence: answer.Audit,
	}
	for field, half := range map[string]struct {
		value secret.Bytes
		to    *[]byte
	}{
		name.LeaseUsername: {secret.Copy([]byte(l.Username)), &out.SealedUsername},
		name.LeasePassword: {m.password, &out.SealedPassword},
	} {
		var err error
		*half.to, err = inject.SealLease(req.GetExecutionKey(), inject.LeaseTarget{
			Cluster: out.ClusterId, Principal: l.Principal, Vault: l.Vault, Role: l.Role, Lease: out.Lease.Id, Field: field,
		}, half.value)
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// abandon ends a lease that will not be released, at once rather than at its deadline. A node that can't record that, as
// it does not lead any more, drops the user itself: it may have been stopped for so long that all others have done with
// the lease. Nobody has the password.
func (s *leaseService) abandon(ctx context.Context, engine *lease.Engine, m *making, why error) error {
	ctx = context.WithoutCancel(ctx)
	recording, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := s.node.Propose(recording, fsm.Command{
		Kind: fsm.KindLeaseRevoke, Principal: "node/" + s.node.ID(),
		Audits: []fsm.Audit{{Action: string(policy.LeaseRevoke), Resource: m.lease.Principal, Decision: fsm.Allowed, Detail: "not released"}},
		Body:   fsm.EncodeBody(fsm.KindLeaseRevoke, &fsm.LeaseRevoke{ID: m.lease.ID}),
	})
	if err != nil {
		dropped := engine.Drop(ctx, m.role, m.lease, m.admin)
		s.log.Info("a lease that was not released ends at its deadline", "lease", fsm.LeaseText(m.lease.ID), "error", err, "dropped", dropped == nil)
	}
	return why
}

// targetError is what a client hears of a server that did not do what was asked.
func (s *leaseService) targetError(engine *lease.Engine, l fsm.Lease, what string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	s.log.Warn("a lease target failed", "server", l.Target, "lease", fsm.LeaseText(l.ID), "what", what, "error", engine.Told(err))
	return &Error{
		Reason: hizov1.ReasonTarget, cause: err,
		Message: fmt.Sprintf("%s/%s: the %s at its server: %s", l.Vault, l.Role, what, engine.Told(err)),
	}
}

// Renew moves the expiry of one's own lease. The right to lease is decided anew: who has lost it can't renew.
func (s *leaseService) Renew(ctx context.Context, req *hizov1.RenewLeaseRequest) (*hizov1.Lease, error) {
	engine, err := s.engine()
	if err != nil {
		return nil, err
	}
	id, err := leaseID(req.GetId())
	if err != nil {
		return nil, err
	}
	if err := leaseTTL(req.GetTtlSeconds()); err != nil {
		return nil, err
	}
	foot, err := s.gate.footing()
	if err != nil {
		return nil, err
	}
	l, ok := foot.store.Lease(id)
	if !ok {
		return nil, s.noLease(ctx, req.GetId())
	}
	t, err := onLeaseRole(policy.Lease, l.Vault, l.Role)
	if err != nil {
		return nil, err
	}
	t.detail = "renew"
	answer, err := s.gate.do(ctx, &call{
		method: "LeaseService/Renew", kind: fsm.KindLeaseRenew, prepare: (&leaseWish{leaseService: s, target: t}).prepare, message: req,
		body: func(r *round) (any, error) {
			have, ok := r.store.Lease(id)
			if !ok {
				return nil, noSuchLease(req.GetId())
			}
			if have.Principal != r.caller.text {
				return nil, &denial{why: "a lease is renewed by its owner only"}
			}
			if err := s.gate.verify(r.footing, have, have.MAC, fsm.ObjLease(id)); err != nil {
				return nil, err
			}
			role, _, ok := r.store.LeaseTerms(have.Revision)
			if !ok {
				return nil, noSuchLease(req.GetId())
			}
			ttl := role.DefaultTTL
			if req.GetTtlSeconds() > 0 {
				ttl = req.GetTtlSeconds() * 1000
			}
			if r.now >= have.MaxExpires {
				return nil, &Error{Reason: hizov1.ReasonExpired, Message: "the lease has reached the longest that its role allows: get another one"}
			}
			r.rest(fsm.ObjLease(id))
			have.Expires = min(r.now+ttl, have.MaxExpires)
			mac, err := r.mac(have)
			return &fsm.LeaseRenew{ID: id, Expires: have.Expires, MAC: mac}, err
		},
	})
	if err != nil {
		return nil, leaseOver(err)
	}
	l, ok = answer.store.Lease(id)
	role, _, known := answer.store.LeaseTerms(l.Revision)
	if !ok || !known {
		return nil, noSuchLease(req.GetId())
	}
	// The server's own bound, after the record: should this fail, the user ends earlier than the lease, never later.
	admin, err := engine.Admin(ctx, s.node, role, "to renew a user of "+role.Vault+"/"+role.Name)
	if err == nil {
		err = s.gate.verify(answer.footing, role, role.MAC, fsm.ObjLeaseRole(role.Vault, role.Name))
	}
	if err == nil {
		defer admin.Wipe()
		err = engine.Renew(ctx, role, l, admin)
	}
	if err != nil {
		return nil, s.targetError(engine, l, "user could not be renewed", err)
	}
	return leaseOf(l), nil
}

// noLease answers for a lease that is not there, or not any more, after the caller is known.
func (s *leaseService) noLease(ctx context.Context, id string) error {
	if err := s.gate.show(ctx, &call{kind: fsm.KindRecord, self: policy.LeaseList}, func(*answer) error { return nil }); err != nil {
		return err
	}
	return noSuchLease(id)
}

func noSuchLease(id string) error {
	return &Error{Reason: hizov1.ReasonNotFound, Message: fmt.Sprintf("there is no lease %s: it has ended and its user is dropped, or it never was", id)}
}

// leaseOver says what a conflict means here.
func leaseOver(err error) error {
	if e, ok := errors.AsType[*Error](err); ok && e.Reason == hizov1.ReasonConflict {
		return &Error{Reason: hizov1.ReasonExpired, Message: "the lease is being revoked: get another one"}
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Reason == hizov1.ReasonExpired && e.Message == "" {
		return &Error{Reason: hizov1.ReasonExpired, Message: "the lease has expired: get another one"}
	}
	return err
}

func leaseID(text string) ([16]byte, error) {
	id, err := fsm.ParseLease(text)
	if err != nil {
		return id, invalid("id", "%s", err)
	}
	return id, nil
}

// leaseTTL checks a wished-for duration; the role's own bound is checked where the role is known.
func leaseTTL(seconds int64) error {
	if seconds < 0 || seconds > int64(maxLeaseTTL/time.Second) {
		return invalid("ttl_seconds", "a lease lasts from 1 second to %s", maxLeaseTTL)
	}
	return nil
}

func millis(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }

var leaseStates = map[fsm.LeaseState]string{
	fsm.LeaseCreating: "creating", fsm.LeaseActive: "active", fsm.LeaseRevoking: "revoking", fsm.LeaseDead: "dead",
}

func leaseOf(l fsm.Lease) *hizov1.Lease {
	return &hizov1.Lease{
		Id: fsm.LeaseText(l.ID), Vault: l.Vault, Role: l.Role, Principal: l.Principal, Pipeline: l.Pipeline,
		Username: l.Username, State: leaseStates[l.State], IssuedUnix: l.Issued / 1000, ExpiresUnix: l.Expires / 1000,
		MaxExpiresUnix: l.MaxExpires / 1000, Server: l.Target, AdminVersion: l.AdminVersion, Tries: l.Tries,
		NextTryUnix: l.NextTry / 1000, LastError: l.LastError,
	}
}
