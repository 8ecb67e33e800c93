package api

import (
	"context"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/fsm"
)

// leaseSelection is what a list or a revocation is about.
type leaseSelection struct {
	of, name string // as fsm.Store.Leases takes them; "": all
	target   target
}

// selectLeases reads one of the three selectors. Whoever selects their own identity needs no role for it.
func selectLeases(action policy.Action, role, pipeline, identity string) (leaseSelection, error) {
	given := 0
	for _, v := range []string{role, pipeline, identity} {
		if v != "" {
			given++
		}
	}
	if given > 1 {
		return leaseSelection{}, invalid("role", "name a role, a pipeline or an identity: one of them")
	}
	sel := leaseSelection{target: onSystem(action)}
	switch {
	case role != "":
		if _, err := name.ParseLeaseRole(role); err != nil {
			return sel, err
		}
		sel.of, sel.name, sel.target.name, sel.target.detail = fsm.LeasesOfRole, role, role, "leases of the role"
	case pipeline != "":
		if _, err := name.ParseResource(pipeline); err != nil {
			return sel, err
		}
		sel.of, sel.name, sel.target.name, sel.target.detail = fsm.LeasesOfPipeline, pipeline, pipeline, "leases of the pipeline"
	case identity != "":
		p, err := name.ParsePrincipal(identity)
		if err != nil {
			return sel, err
		}
		sel.of, sel.name, sel.target = fsm.LeasesOfPrincipal, p.String(), onIdentity(action, p)
	}
	return sel, nil
}

// List lists leases by role, pipeline or identity, or all.
func (s *leaseService) List(ctx context.Context, req *hizov1.ListLeasesRequest) (*hizov1.ListLeasesResponse, error) {
	sel, err := selectLeases(policy.LeaseList, req.GetRole(), req.GetPipeline(), req.GetIdentity())
	if err != nil {
		return nil, err
	}
	return s.page(ctx, sel.target, req.GetAfter(), req.GetLimit(), func(store *fsm.Store, after string, limit int) ([]fsm.Lease, string) {
		return store.Leases(sel.of, sel.name, after, limit)
	})
}

// ListDead lists users that could not be dropped.
func (s *leaseService) ListDead(ctx context.Context, req *hizov1.ListDeadLeasesRequest) (*hizov1.ListLeasesResponse, error) {
	return s.page(ctx, onSystem(policy.LeaseDeadList), req.GetAfter(), req.GetLimit(), (*fsm.Store).DeadLeases)
}

func (s *leaseService) page(ctx context.Context, t target, after string, limit uint32, read func(*fsm.Store, string, int) ([]fsm.Lease, string)) (*hizov1.ListLeasesResponse, error) {
	n, err := s.Server.page(limit)
	if err != nil {
		return nil, err
	}
	if len(after) > 1024 {
		return nil, invalid("after", "is not the end of a page")
	}
	var out *hizov1.ListLeasesResponse
	err = s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{t}}, func(answer *answer) error {
		leases, next := read(answer.store, after, n)
		out = &hizov1.ListLeasesResponse{Next: next}
		for _, l := range leases {
			out.Leases = append(out.Leases, leaseOf(l))
		}
		return nil
	})
	return sent(out, err)
}

// onLease is an action on one lease, decided as one on its owner. A lease that is not there belongs to nobody: only who
// may see all hears that it is not.
func (s *leaseService) onLease(action policy.Action, id [16]byte) (target, error) {
	foot, err := s.gate.footing()
	if err != nil {
		return target{}, err
	}
	t := onSystem(action)
	if l, ok := foot.store.Lease(id); ok {
		p, err := name.ParsePrincipal(l.Principal)
		if err != nil {
			return t, err
		}
		t = onIdentity(action, p)
		t.detail = l.Vault + "/" + l.Role
	}
	return t, nil
}

// Show shows one lease.
func (s *leaseService) Show(ctx context.Context, req *hizov1.ShowLeaseRequest) (*hizov1.Lease, error) {
	id, err := leaseID(req.GetId())
	if err != nil {
		return nil, err
	}
	t, err := s.onLease(policy.LeaseList, id)
	if err != nil {
		return nil, err
	}
	var out *hizov1.Lease
	err = s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{t}}, func(answer *answer) error {
		l, ok := answer.store.Lease(id)
		if !ok {
			return noSuchLease(req.GetId())
		}
		out = leaseOf(l)
		return nil
	})
	return sent(out, err)
}

// Revoke ends one lease or many. It returns when that is on record: from then on nothing is renewed or released. The
// users are dropped right after, as fast as their servers answer.
func (s *leaseService) Revoke(ctx context.Context, req *hizov1.RevokeLeasesRequest) (*hizov1.RevokeLeasesResponse, error) {
	body := &fsm.LeaseRevoke{}
	var t target
	if req.GetId() != "" {
		if req.GetRole() != "" || req.GetPipeline() != "" || req.GetIdentity() != "" {
			return nil, invalid("id", "name one lease, or a role, a pipeline or an identity")
		}
		var err error
		if body.ID, err = leaseID(req.GetId()); err != nil {
			return nil, err
		}
		if t, err = s.onLease(policy.LeaseRevoke, body.ID); err != nil {
			return nil, err
		}
	} else {
		sel, err := selectLeases(policy.LeaseRevoke, req.GetRole(), req.GetPipeline(), req.GetIdentity())
		if err != nil {
			return nil, err
		}
		if sel.of == "" {
			return nil, invalid("id", "say which leases: one by its id, or those of a role, a pipeline or an identity")
		}
		body.Of, body.Name, t = sel.of, sel.name, sel.target
	}
	if _, err := s.gate.do(ctx, &call{
		method: "LeaseService/Revoke", kind: fsm.KindLeaseRevoke, targets: []target{t}, message: req,
		body: func(*round) (any, error) { return body, nil },
	}); err != nil {
		return nil, err
	}
	return &hizov1.RevokeLeasesResponse{}, nil
}

// RetryDead lets drops be tried again.
func (s *leaseService) RetryDead(ctx context.Context, req *hizov1.DeadLeasesRequest) (*hizov1.DeadLeasesResponse, error) {
	return s.dead(ctx, "LeaseService/RetryDead", policy.LeaseDeadRetry, fsm.KindLeaseRetry, req)
}

// ClearDead forgets users that could not be dropped.
func (s *leaseService) ClearDead(ctx context.Context, req *hizov1.DeadLeasesRequest) (*hizov1.DeadLeasesResponse, error) {
	return s.dead(ctx, "LeaseService/ClearDead", policy.LeaseDeadClear, fsm.KindLeaseForget, req)
}

func (s *leaseService) dead(ctx context.Context, method string, action policy.Action, kind fsm.Kind, req *hizov1.DeadLeasesRequest) (*hizov1.DeadLeasesResponse, error) {
	foot, err := s.gate.footing()
	if err != nil {
		return nil, err
	}
	if req.GetAll() == (len(req.GetIds()) > 0) {
		return nil, invalid("ids", "name dead letters by their ids, or all")
	}
	if len(req.GetIds()) > fsm.MaxLeaseBatch {
		return nil, invalid("ids", "at most %d at a time", fsm.MaxLeaseBatch)
	}
	out := &hizov1.DeadLeasesResponse{}
	var leases []fsm.Lease
	if req.GetAll() {
		var next string
		leases, next = foot.store.DeadLeases("", fsm.MaxLeaseBatch)
		out.More = next != ""
	}
	for _, text := range req.GetIds() {
		id, err := leaseID(text)
		if err != nil {
			return nil, err
		}
		l, ok := foot.store.Lease(id)
		if !ok {
			l = fsm.Lease{ID: id} // Apply says what that is
		}
		leases = append(leases, l)
	}
	body := &fsm.DeadLeases{}
	var targets []target
	for _, l := range leases {
		body.IDs = append(body.IDs, l.ID)
		t := onSystem(action)
		t.name = "lease " + fsm.LeaseText(l.ID)
		t.detail = "user " + l.Username + " at " + l.Target
		targets = append(targets, t)
	}
	if len(targets) == 0 { // none are dead: that is said to whom it may be said
		return out, s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onSystem(action)}}, func(*answer) error { return nil })
	}
	if _, err := s.gate.do(ctx, &call{
		method: method, kind: kind, targets: targets, message: req, body: func(*round) (any, error) { return body, nil },
	}); err != nil {
		return nil, err
	}
	out.Leases = uint32(len(body.IDs))
	return out, nil
}
