package api

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/cluster/lease"
	"github.com/hizo/hizo/fsm"
)

// Bounds of lease roles.
const (
	maxLeaseTTL       = 90 * 24 * time.Hour
	defaultLeaseTTL   = time.Hour
	defaultLeaseMax   = 24 * time.Hour
	defaultLeaseLimit = 1000
	maxLeaseConfig    = 16 << 10 // bytes of all options of a role
)

// PutRole creates or changes a role.
func (s *leaseService) PutRole(ctx context.Context, req *hizov1.PutLeaseRoleRequest) (*hizov1.LeaseRole, error) {
	engine, err := s.engine()
	if err != nil {
		return nil, err
	}
	t, err := onLeaseRole(policy.LeaseRolePut, req.GetVault(), req.GetName())
	if err != nil {
		return nil, err
	}
	admin, err := name.ParseResource(req.GetAdmin())
	if err != nil {
		return nil, err
	}
	role, err := leaseRoleOf(req, admin)
	if err != nil {
		return nil, err
	}
	if err := engine.Check(req.GetKind(), req.GetConfig()); err != nil {
		return nil, invalid("config", "%v", err)
	}
	t.detail = fmt.Sprintf("%s, admin %s", role.Target, admin)
	answer, err := s.gate.do(ctx, &call{
		method: "LeaseService/PutRole", kind: fsm.KindLeaseRolePut, targets: []target{t}, message: req,
		body: func(r *round) (any, error) {
			for _, vault := range []string{role.Vault, role.AdminVault} {
				v, ok := r.store.Vault(vault)
				if !ok {
					return nil, &Error{Reason: hizov1.ReasonNotFound, Message: fmt.Sprintf("there is no vault %s: create it with `hizo vault create`", vault)}
				}
				if err := s.gate.verify(r.footing, v, v.MAC, fsm.ObjVault(vault)); err != nil {
					return nil, err
				}
			}
			next := role
			next.By = r.caller.text
			rand.Read(next.Revision[:])
			var err error
			next.MAC, err = r.mac(next)
			return &fsm.LeaseRolePut{Role: next}, err
		},
	})
	if err != nil {
		return nil, err
	}
	return shownRole(answer.store, role.Vault, role.Name)
}

// leaseRoleOf checks what a request says of a role.
func leaseRoleOf(req *hizov1.PutLeaseRoleRequest, admin name.Resource) (fsm.LeaseRole, error) {
	ttl, longest, limit := req.GetTtlSeconds(), req.GetMaxTtlSeconds(), req.GetLimit()
	if ttl == 0 {
		ttl = int64(defaultLeaseTTL / time.Second)
	}
	if longest == 0 {
		longest = max(ttl, int64(defaultLeaseMax/time.Second))
	}
	if limit == 0 {
		limit = defaultLeaseLimit
	}
	role := fsm.LeaseRole{
		Vault: req.GetVault(), Name: req.GetName(), Kind: req.GetKind(), Config: lease.Options(req.GetConfig()),
		AdminVault: admin.Vault, AdminPath: admin.Path, DefaultTTL: ttl * 1000, MaxTTL: longest * 1000, Limit: limit,
	}
	size := 0
	for _, o := range role.Config {
		size += len(o.Key) + len(o.Value)
	}
	switch {
	case ttl < 1 || ttl > int64(maxLeaseTTL/time.Second):
		return role, invalid("ttl_seconds", "a lease lasts from 1 second to %s", maxLeaseTTL)
	case longest < ttl || longest > int64(maxLeaseTTL/time.Second):
		return role, invalid("max_ttl_seconds", "the longest time is at least the time of one lease and at most %s", maxLeaseTTL)
	case limit > fsm.MaxRoleLeases:
		return role, invalid("limit", "a role has at most %d leases at a time", fsm.MaxRoleLeases)
	case len(role.Config) > fsm.MaxLeaseOptions || size > maxLeaseConfig:
		return role, invalid("config", "a role has at most %d options of %d bytes together", fsm.MaxLeaseOptions, maxLeaseConfig)
	}
	role.Target = lease.Server(role.Kind, req.GetConfig())
	return role, nil
}

func shownRole(store *fsm.Store, vault, role string) (*hizov1.LeaseRole, error) {
	r, ok := store.LeaseRole(vault, role)
	if !ok {
		return nil, fault(hizov1.ReasonNotFound)
	}
	_, leases, _ := store.LeaseTerms(r.Revision)
	out := &hizov1.LeaseRole{
		Vault: r.Vault, Name: r.Name, Kind: r.Kind, Config: make(map[string]string, len(r.Config)),
		Admin: r.AdminVault + "/" + r.AdminPath, TtlSeconds: r.DefaultTTL / 1000, MaxTtlSeconds: r.MaxTTL / 1000,
		Limit: r.Limit, By: r.By, ChangedUnix: r.Created / 1000, Leases: leases,
	}
	for _, o := range r.Config {
		out.Config[o.Key] = o.Value
	}
	return out, nil
}

// ListRoles lists the roles of a vault.
func (s *leaseService) ListRoles(ctx context.Context, req *hizov1.ListLeaseRolesRequest) (*hizov1.ListLeaseRolesResponse, error) {
	if _, err := name.Vault(req.GetVault()); err != nil {
		return nil, err
	}
	t := onSystem(policy.LeaseRoleList)
	t.name = req.GetVault()
	var out *hizov1.ListLeaseRolesResponse
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{t}}, func(answer *answer) error {
		out = &hizov1.ListLeaseRolesResponse{}
		for _, r := range answer.store.LeaseRoles(req.GetVault()) {
			shown, err := shownRole(answer.store, r.Vault, r.Name)
			if err != nil {
				continue // deleted in between
			}
			out.Roles = append(out.Roles, shown)
		}
		return nil
	})
	return sent(out, err)
}

// ShowRole shows one role.
func (s *leaseService) ShowRole(ctx context.Context, req *hizov1.LeaseRoleRequest) (*hizov1.LeaseRole, error) {
	t, err := onLeaseRole(policy.LeaseRoleList, req.GetVault(), req.GetName())
	if err != nil {
		return nil, err
	}
	var out *hizov1.LeaseRole
	err = s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{t}}, func(answer *answer) (err error) {
		out, err = shownRole(answer.store, req.GetVault(), req.GetName())
		return err
	})
	return sent(out, err)
}

// DeleteRole removes a role and revokes its leases.
func (s *leaseService) DeleteRole(ctx context.Context, req *hizov1.LeaseRoleRequest) (*hizov1.DeleteLeaseRoleResponse, error) {
	t, err := onLeaseRole(policy.LeaseRoleDelete, req.GetVault(), req.GetName())
	if err != nil {
		return nil, err
	}
	if _, err := s.gate.do(ctx, &call{
		method: "LeaseService/DeleteRole", kind: fsm.KindLeaseRoleDelete, targets: []target{t}, message: req,
		body: func(*round) (any, error) {
			return &fsm.LeaseRoleDelete{Vault: req.GetVault(), Name: req.GetName()}, nil
		},
	}); err != nil {
		return nil, err
	}
	return &hizov1.DeleteLeaseRoleResponse{}, nil
}
