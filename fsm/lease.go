package fsm

import (
	"slices"
	"strings"
	"time"
)

// A lease is a user that the cluster makes at a database server for one run, and drops again. Its password is nowhere
// in the state. The order of its records is what keeps a crash from leaving a user behind:
//
//	LeaseCreate    creating   before anything happens at the server, with a deadline
//	               ─ the user is made ─
//	LeaseActivate  active     the release: only after it does the password leave
//	LeaseSweep     revoking   past the deadline of a creating lease, the expiry of an active one, or by a revocation
//	               ─ the user is dropped ─
//	LeaseOutcomes  (gone)     or another try later, or dead: the list that an operator sees
//
// On disk (object.go has the names):
//
//	leaserole/VAULT/NAME      LeaseRole, as new leases are issued
//	leaseterms/REVISION       leaseTerms: a role as leases were issued under it, and how many there are
//	lease/ID                  Lease
//	leasedue/TIME ID          creating and active ones, by when they end
//	leasequeue/TARGET 0 TIME ID   revoking ones, by server and next try: a server that is down holds up its own only
//	leasedead/ID              those that were given up
//	leaseof/SCOPE 0 INDEX ID  all, by role, principal and pipeline, in the order they were created
//	leasemark/SCOPE           a revocation of all in a scope, until LeaseSweep has come through it

// Bounds and times of leases; replicated behaviour like those of limits.go.
const (
	MaxLeaseBatch   = 128             // leases that one record changes
	MaxLeaseOptions = 64              // options of a role
	MaxRoleLeases   = 1_000_000       // leases of one role at a time, whatever the role says
	LeaseDeadline   = time.Minute     // for making the user, from LeaseCreate to LeaseActivate
	LeaseAftermath  = 5 * time.Minute // a user whose making was never confirmed is dropped once more that much later

	LeaseTries          = 12 // of dropping a user, before the lease is dead
	LeasePermanentTries = 3  // the same where the server's answer says that trying again won't help
	leaseFirstPause     = time.Second
	leaseLongestPause   = 15 * time.Minute
	maxLeaseError       = 256
)

// LeaseOption is one setting of a target, such as host or port. No secret.
type LeaseOption struct{ Key, Value string }

// LeaseRole says what users are made where, and for how long.
type LeaseRole struct {
	Vault, Name string
	Revision    [16]byte      // random, another one with each change: what leases refer to
	Kind        string        // of the target: "postgresql", "mariadb", "redis"
	Target      string        // the server, as revocations are queued by it: "postgresql db.example:5432"
	Config      []LeaseOption // of the target, sorted by key
	AdminVault  string        // the secret that holds the credential for making users
	AdminPath   string
	DefaultTTL  int64 // ms
	MaxTTL      int64 // ms: of a lease with all its renewals
	Limit       uint32
	By          string
	MAC         []byte

	Created int64  // set by Apply
	Changed uint64 // set by Apply
}

// leaseTerms is a role as leases were issued under it. It stays while there are any.
type leaseTerms struct {
	Role    LeaseRole
	Leases  uint32
	Changed uint64
}

// LeaseState is where a lease is.
type LeaseState uint8

// States of a lease. One whose user is dropped is not there any more.
const (
	LeaseCreating LeaseState = 1
	LeaseActive   LeaseState = 2
	LeaseRevoking LeaseState = 3
	LeaseDead     LeaseState = 4
)

// Lease is a user at a target.
type Lease struct {
	ID           [16]byte
	Vault, Role  string
	Revision     [16]byte // of the role
	Target       string   // the role's
	Principal    string
	Pipeline     string // "VAULT/NAME", or none
	Username     string
	Issued       int64 // cluster time in ms, as are the next two
	Expires      int64
	MaxExpires   int64
	AdminVersion uint32 // of the admin secret that made the user
	MAC          []byte

	State     LeaseState // this and what follows is set by Apply
	Created   uint64     // Raft index
	Deadline  int64      // for becoming active
	Confirmed bool       // it was active once: the user is as it was made, and one drop ends it
	Drops     uint32     // that the target confirmed; see LeaseAftermath
	Tries     uint32     // that failed since
	NextTry   int64
	LastError string
	Changed   uint64
}

// LeaseRolePut creates or changes a role. Leases that there are keep the terms they were issued under.
type LeaseRolePut struct{ Role LeaseRole }

// LeaseRoleDelete removes a role and revokes its leases.
type LeaseRoleDelete struct{ Vault, Name string }

// LeaseCreate opens a lease. A retry with the same request id revokes the first lease and opens another: its password
// may never have arrived, and a call that is still under way must not change the second's.
type LeaseCreate struct{ Lease Lease }

// LeaseActivate is the release. It is refused once the lease is being revoked.
type LeaseActivate struct{ ID [16]byte }

// LeaseRenew moves a lease's expiry; never beyond its MaxExpires.
type LeaseRenew struct {
	ID      [16]byte
	Expires int64
	MAC     []byte
}

func leaseRoleOf(vault, name string) string { return vault + "/" + name }

// due is when a lease ends by itself.
func (l *Lease) due() int64 {
	if l.State == LeaseCreating {
		return l.Deadline
	}
	return l.Expires
}

// scopes are what a lease can be found and revoked by.
func (l *Lease) scopes() []string {
	scopes := []string{leaseScope(LeasesOfRole, leaseRoleOf(l.Vault, l.Role)), leaseScope(LeasesOfPrincipal, l.Principal)}
	if l.Pipeline != "" {
		scopes = append(scopes, leaseScope(LeasesOfPipeline, l.Pipeline))
	}
	return scopes
}

func (r *LeaseRole) wellFormed() bool {
	if !segment(r.Vault) || !segment(r.Name) || r.Revision == [16]byte{} || !segment(r.Kind) || !multi(r.Target) ||
		!segment(r.AdminVault) || !multi(r.AdminPath) || len(r.Config) > MaxLeaseOptions || r.Limit == 0 || r.Limit > MaxRoleLeases ||
		r.DefaultTTL <= 0 || r.MaxTTL < r.DefaultTTL {
		return false
	}
	return slices.IsSortedFunc(r.Config, func(a, b LeaseOption) int { return strings.Compare(a.Key, b.Key) })
}

func (t *tx) leaseRolePut(b *LeaseRolePut) outcome {
	role := b.Role
	if !role.wellFormed() {
		return refuse(CodeInvalid)
	}
	if t.lookup(ObjVault(role.Vault)) == nil || t.lookup(ObjVault(role.AdminVault)) == nil {
		return refuse(CodeNotFound)
	}
	if t.lookup(objLeaseTerms(role.Revision)) != nil {
		return refuse(CodeExists)
	}
	name := ObjLeaseRole(role.Vault, role.Name)
	role.Created, role.Changed = t.time, t.index
	if have := find[LeaseRole](t, name); have != nil {
		role.Created = have.Created
		t.dropTerms(have.Revision)
	}
	t.put(name, &role)
	t.put(objLeaseTerms(role.Revision), &leaseTerms{Role: role, Changed: t.index})
	return done()
}

// dropTerms forgets the terms that no lease and no role stands on any more.
func (t *tx) dropTerms(revision [16]byte) {
	if terms := find[leaseTerms](t, objLeaseTerms(revision)); terms != nil && terms.Leases == 0 {
		t.del(objLeaseTerms(revision))
	}
}

func (t *tx) leaseRoleDelete(b *LeaseRoleDelete) outcome {
	name := ObjLeaseRole(b.Vault, b.Name)
	have := find[LeaseRole](t, name)
	if have == nil {
		return refuse(CodeNotFound)
	}
	t.del(name)
	t.dropTerms(have.Revision)
	t.markLeases(leaseMark{Scope: leaseScope(LeasesOfRole, leaseRoleOf(b.Vault, b.Name))})
	return done()
}

func (t *tx) leaseCreate(cmd *Command, b *LeaseCreate, before *request) outcome {
	l := b.Lease
	if l.ID == [16]byte{} || !segment(l.Vault) || !segment(l.Role) || !multi(l.Username) || !identity(l.Principal) ||
		l.Principal != cmd.Principal || l.Pipeline != "" && !multi(l.Pipeline) || l.MaxExpires < l.Expires {
		return refuse(CodeInvalid)
	}
	if l.Expires <= t.time {
		return refuse(CodeExpired)
	}
	if code := t.enabled(l.Principal); code != CodeOK {
		return refuse(code)
	}
	name := ObjLeaseRole(l.Vault, l.Role)
	role := find[LeaseRole](t, name)
	terms := find[leaseTerms](t, objLeaseTerms(l.Revision))
	switch {
	case role == nil:
		return refuse(CodeNotFound)
	case role.Revision != l.Revision || terms == nil:
		return superseded(name)
	case terms.Leases >= role.Limit:
		return refuse(CodeLimit)
	case l.Target != role.Target:
		return refuse(CodeInvalid)
	case t.lookup(ObjLease(l.ID)) != nil:
		return refuse(CodeExists)
	}
	out := done()
	if before != nil {
		if first := find[Lease](t, objLeaseHash(before.Token)); first != nil {
			t.beginRevocation(*first)
		}
		out.Duplicate, out.replaced = true, true
	}
	l.State, l.Created, l.Deadline, l.Changed = LeaseCreating, t.index, t.time+millis(LeaseDeadline), t.index
	l.Confirmed, l.Drops, l.Tries, l.NextTry, l.LastError = false, 0, 0, 0, ""
	t.put(ObjLease(l.ID), &l)
	t.setDue(&l)
	for _, scope := range l.scopes() {
		t.put(objLeaseOf(scope, l.Created, l.ID), &marker{})
	}
	more := *find[leaseTerms](t, objLeaseTerms(l.Revision))
	more.Leases++
	t.put(objLeaseTerms(l.Revision), &more)
	out.note = leaseNote(&l)
	return out
}

// leaseNote is what audit leaves say of a lease.
func leaseNote(l *Lease) string { return "lease " + LeaseText(l.ID) + " user " + l.Username }

func (t *tx) leaseActivate(cmd *Command, b *LeaseActivate) outcome {
	have := find[Lease](t, ObjLease(b.ID))
	switch {
	case have == nil:
		return refuse(CodeNotFound)
	case have.Principal != cmd.Principal:
		return refuse(CodeDenied)
	case have.State != LeaseCreating || t.marked(have):
		return refuse(CodeConflict)
	case have.Deadline <= t.time || have.Expires <= t.time:
		return refuse(CodeExpired)
	}
	t.clearDue(have)
	next := *have
	next.State, next.Confirmed, next.Changed = LeaseActive, true, t.index
	t.put(ObjLease(b.ID), &next)
	t.setDue(&next)
	out := done()
	out.note = leaseNote(&next)
	return out
}

func (t *tx) leaseRenew(cmd *Command, b *LeaseRenew) outcome {
	have := find[Lease](t, ObjLease(b.ID))
	switch {
	case have == nil:
		return refuse(CodeNotFound)
	case have.Principal != cmd.Principal:
		return refuse(CodeDenied)
	case have.State != LeaseActive || t.marked(have):
		return refuse(CodeConflict)
	case have.Expires <= t.time || b.Expires <= t.time:
		return refuse(CodeExpired)
	case b.Expires > have.MaxExpires:
		return refuse(CodeInvalid)
	}
	t.clearDue(have)
	next := *have
	next.Expires, next.MAC, next.Changed = b.Expires, b.MAC, t.index
	t.put(ObjLease(b.ID), &next)
	t.setDue(&next)
	out := done()
	out.note = leaseNote(&next)
	return out
}

func (t *tx) setDue(l *Lease) {
	key := objLeaseDue(l.due(), l.ID)
	t.put(key, &marker{})
	t.due.lease(key)
}

func (t *tx) clearDue(l *Lease) { t.del(objLeaseDue(l.due(), l.ID)) }
