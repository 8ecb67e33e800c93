package fsmtest

import (
	"fmt"

	"github.com/hizo/hizo/fsm"
)

// LeaseID is the id of a lease, or the revision of a role, by name.
func LeaseID(name string) [16]byte { return [16]byte(HashOf(name)) }

// LeaseRole makes or changes a role of leases of an hour, renewable to four.
func (b *Builder) LeaseRole(vault, name, revision, target string) fsm.Command {
	return b.Command(fsm.KindLeaseRolePut, "user/alice", "lease.role.put", vault+"/"+name, fsm.LeaseRolePut{Role: fsm.LeaseRole{
		Vault: vault, Name: name, Revision: LeaseID(revision), Kind: "postgresql", Target: target, Limit: 1000,
		Config: []fsm.LeaseOption{{Key: "host", Value: target}, {Key: "port", Value: "5432"}}, AdminVault: vault, AdminPath: "admin",
		DefaultTTL: 3_600_000, MaxTTL: 4 * 3_600_000, By: "user/alice", MAC: []byte("mac"),
	}})
}

// NewLease is a lease as a proposer makes it.
func (b *Builder) NewLease(role fsm.LeaseRole, id, principal string) fsm.Lease {
	return fsm.Lease{
		ID: LeaseID(id), Vault: role.Vault, Role: role.Name, Revision: role.Revision, Target: role.Target,
		Principal: principal, Username: "hizo_" + id, Issued: b.Now(), Expires: b.Now() + role.DefaultTTL,
		MaxExpires: b.Now() + role.MaxTTL, AdminVersion: 1, MAC: []byte("mac"),
	}
}

// Lease opens a lease for its principal.
func (b *Builder) Lease(l fsm.Lease) fsm.Command {
	return b.Command(fsm.KindLeaseCreate, l.Principal, "lease", l.Vault+"/"+l.Role, fsm.LeaseCreate{Lease: l})
}

// Activate releases a lease.
func (b *Builder) Activate(l fsm.Lease) fsm.Command {
	c := b.Command(fsm.KindLeaseActivate, l.Principal, "lease", l.Vault+"/"+l.Role, fsm.LeaseActivate{ID: l.ID})
	c.Request, c.Fingerprint = [16]byte{}, nil
	return c
}

// Sweep lets what is due be revoked.
func (b *Builder) Sweep(limit uint32) fsm.Command {
	c := b.Command(fsm.KindLeaseSweep, "node/n1", "", "", fsm.LeaseSweep{Limit: limit})
	c.Request, c.Fingerprint = [16]byte{}, nil
	return c
}

// Outcomes says what became of drops.
func (b *Builder) Outcomes(list ...fsm.LeaseOutcome) fsm.Command {
	c := b.Command(fsm.KindLeaseOutcomes, "node/n1", "lease.drop", "", fsm.LeaseOutcomes{Outcomes: list})
	c.Request, c.Fingerprint = [16]byte{}, nil
	return c
}

// lease makes a command about leases: few roles, and leases that are soon at every state.
func (r *Random) lease(who, vault string) fsm.Command {
	role := r.name("r", 2)
	all, _ := r.store.Leases("", "", "", 64)
	pick := func(states ...fsm.LeaseState) (out []fsm.Lease) {
		for _, l := range all {
			for _, s := range states {
				if l.State == s && r.rng.IntN(2) == 0 {
					out = append(out, l)
				}
			}
		}
		return out
	}
	one := func(states ...fsm.LeaseState) fsm.Lease {
		if list := pick(states...); len(list) > 0 {
			return list[r.rng.IntN(len(list))]
		}
		return fsm.Lease{ID: LeaseID("none"), Principal: who}
	}
	switch r.rng.IntN(14) {
	case 0:
		c := r.LeaseRole(vault, role, fmt.Sprint("revision", r.rng.IntN(1000)), r.name("db", 2))
		return c
	case 1:
		if r.rng.IntN(4) > 0 {
			break
		}
		return r.Command(fsm.KindLeaseRoleDelete, who, "lease.role.delete", role, fsm.LeaseRoleDelete{Vault: vault, Name: role})
	case 2, 3, 4, 5:
		have, _ := r.store.LeaseRole(vault, role)
		l := r.NewLease(have, fmt.Sprint("lease", r.rng.Uint32()), "workload/"+r.name("w", 3))
		if r.rng.IntN(2) == 0 {
			l.Pipeline = vault + "/" + r.name("p", 2)
		}
		l.Expires -= int64(r.rng.IntN(3_600_000))
		l.AdminVersion = uint32(1 + r.rng.IntN(3))
		return r.Lease(l)
	case 6, 7:
		return r.Activate(one(fsm.LeaseCreating, fsm.LeaseCreating, fsm.LeaseRevoking))
	case 8:
		l := one(fsm.LeaseActive, fsm.LeaseActive, fsm.LeaseRevoking)
		return r.Command(fsm.KindLeaseRenew, l.Principal, "lease.renew", "", fsm.LeaseRenew{ID: l.ID, Expires: r.expires(), MAC: []byte("m")})
	case 9:
		body := []fsm.LeaseRevoke{
			{ID: one(fsm.LeaseActive, fsm.LeaseCreating, fsm.LeaseDead).ID}, {Of: fsm.LeasesOfRole, Name: vault + "/" + role},
			{Of: fsm.LeasesOfPrincipal, Name: "workload/" + r.name("w", 3)}, {Of: fsm.LeasesOfPipeline, Name: vault + "/" + r.name("p", 2)},
			{Of: fsm.LeasesOfAdmin, Name: vault + "/admin", Version: uint32(r.rng.IntN(3))}, {Of: "nothing", Name: "x"},
		}[r.rng.IntN(6)]
		return r.Command(fsm.KindLeaseRevoke, who, "lease.revoke", "", body)
	case 10:
		return r.Sweep(uint32(r.rng.IntN(4)))
	case 11, 12:
		var list []fsm.LeaseOutcome
		for _, l := range pick(fsm.LeaseRevoking, fsm.LeaseActive) {
			o := fsm.LeaseOutcome{ID: l.ID, Changed: l.Changed, Dropped: r.rng.IntN(3) == 0, Error: "no", Permanent: r.rng.IntN(2) == 0}
			if r.rng.IntN(8) == 0 {
				o.Changed--
			}
			list = append(list, o)
		}
		return r.Outcomes(list...)
	case 13:
		var ids [][16]byte
		for _, l := range pick(fsm.LeaseDead) {
			ids = append(ids, l.ID)
		}
		return r.Command([]fsm.Kind{fsm.KindLeaseRetry, fsm.KindLeaseForget}[r.rng.IntN(2)], who, "lease.dead", "", fsm.DeadLeases{IDs: ids})
	}
	return r.Sweep(uint32(r.rng.IntN(200)))
}
