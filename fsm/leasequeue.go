package fsm

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"time"
)

// Scopes by which leases are listed and revoked.
const (
	LeasesOfRole      = "role"      // VAULT/NAME
	LeasesOfPrincipal = "principal" // workload/NAME
	LeasesOfPipeline  = "pipeline"  // VAULT/NAME
	LeasesOfAdmin     = "admin"     // VAULT/PATH: made with that secret; revocation only
)

func leaseScope(kind, name string) string { return kind + "/" + name }

// leaseMark is a revocation of all leases of a scope that were created up to an index. It is one write, however many
// there are; LeaseSweep comes through them a batch at a time, and until it has, none of them is renewed or released.
type leaseMark struct {
	Scope   string // whose index is followed
	Index   uint64
	Admin   bool // only those made with AdminVersion or an older one of the secret AdminVault/AdminPath
	Vault   string
	Path    string
	Version uint32
	Cursor  string // the key handled last
	Changed uint64
}

// LeaseRevoke begins to revoke one lease, or with Of and Name all of a scope. With LeasesOfAdmin, Version is the newest
// version of the secret whose leases end.
type LeaseRevoke struct {
	ID      [16]byte
	Of      string
	Name    string
	Version uint32
}

// LeaseSweep lets what is due or marked begin to be revoked, at most Limit leases.
type LeaseSweep struct{ Limit uint32 }

// LeaseSwept is what a LeaseSweep returns.
type LeaseSwept struct {
	Leases int  // that were looked at
	More   bool // there is more to do at once
}

// LeaseOutcomes says what became of revocations at their targets.
type LeaseOutcomes struct{ Outcomes []LeaseOutcome }

// LeaseOutcome is one of them. Tried names the try: the outcome of an earlier one counts no more.
type LeaseOutcome struct {
	ID        [16]byte
	Changed   uint64 // of the lease, as it was when the drop began
	Dropped   bool
	Error     string // what to show people; never a value
	Permanent bool
}

// DeadLeases names dead letters: to try again (KindLeaseRetry), or to forget while their users stay (KindLeaseForget).
type DeadLeases struct{ IDs [][16]byte }

// beginRevocation ends a lease; its user is dropped by whoever leads. One that is being revoked already is left alone.
func (t *tx) beginRevocation(l Lease) {
	if l.State != LeaseCreating && l.State != LeaseActive {
		return
	}
	t.clearDue(&l)
	l.State, l.Tries, l.NextTry, l.Changed = LeaseRevoking, 0, t.time, t.index
	t.put(ObjLease(l.ID), &l)
	t.put(objLeaseQueue(l.Target, l.NextTry, l.ID), &marker{})
}

// forgetLease removes what there is of a lease.
func (t *tx) forgetLease(l *Lease) {
	switch l.State {
	case LeaseCreating, LeaseActive:
		t.clearDue(l)
	case LeaseRevoking:
		t.del(objLeaseQueue(l.Target, l.NextTry, l.ID))
	case LeaseDead:
		t.del(objLeaseDead(l.ID))
	}
	t.del(ObjLease(l.ID))
	for _, scope := range l.scopes() {
		t.del(objLeaseOf(scope, l.Created, l.ID))
	}
	name := objLeaseTerms(l.Revision)
	if have := find[leaseTerms](t, name); have != nil {
		less := *have
		less.Leases--
		t.put(name, &less)
		if role := find[LeaseRole](t, ObjLeaseRole(l.Vault, l.Role)); role == nil || role.Revision != l.Revision {
			t.dropTerms(l.Revision)
		}
	}
}

func (t *tx) leaseRevoke(b *LeaseRevoke) outcome {
	switch {
	case b.ID != [16]byte{} && b.Of == "" && b.Name == "" && b.Version == 0:
		have := find[Lease](t, ObjLease(b.ID))
		if have == nil {
			return refuse(CodeNotFound)
		}
		out := done()
		out.note = leaseNote(have)
		if have.State == LeaseCreating || have.State == LeaseActive {
			t.emit(Event{Kind: EventLeaseRevoked, Vault: have.Vault, Path: have.Role})
		}
		t.beginRevocation(*have)
		return out
	case b.ID != [16]byte{} || !multi(b.Name) || b.Version != 0 && b.Of != LeasesOfAdmin:
		return refuse(CodeInvalid)
	}
	switch b.Of {
	case LeasesOfRole, LeasesOfPipeline:
		t.revokeLeases(b.Of, b.Name)
	case LeasesOfPrincipal:
		if !identity(b.Name) {
			return refuse(CodeInvalid)
		}
		t.revokeLeases(b.Of, b.Name)
	case LeasesOfAdmin:
		vault, path, ok := strings.Cut(b.Name, "/")
		if !ok {
			return refuse(CodeInvalid)
		}
		t.revokeLeasesOfAdmin(vault, path, b.Version)
	default:
		return refuse(CodeInvalid)
	}
	return done()
}

// revokeLeases revokes all leases of a scope that there are now.
func (t *tx) revokeLeases(of, name string) { t.markLeases(leaseMark{Scope: leaseScope(of, name)}) }

// revokeLeasesOfAdmin revokes the leases whose users were made with a version of a secret up to the given one (0: with
// any). Rotations call it: roles are few, so looking at each is cheap.
func (t *tx) revokeLeasesOfAdmin(vault, path string, version uint32) {
	if version == 0 {
		version = math.MaxUint32
	}
	var scopes []string
	t.scan(prefixLeaseTerms, func(_ string, o object) bool {
		role := &o.(*leaseTerms).Role
		if scope := leaseScope(LeasesOfRole, leaseRoleOf(role.Vault, role.Name)); role.AdminVault == vault &&
			role.AdminPath == path && !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
		}
		return true
	})
	for _, scope := range scopes {
		t.markLeases(leaseMark{Scope: scope, Admin: true, Vault: vault, Path: path, Version: version})
	}
}

// markLeases leaves a mark if there is anything that it could be about.
func (t *tx) markLeases(m leaseMark) {
	any := false
	t.page(leasesOf(m.Scope), "", func(string) bool {
		any = true
		return false
	})
	if !any {
		return
	}
	if before := find[leaseMark](t, m.name()); before != nil {
		m.Version = max(m.Version, before.Version)
	}
	m.Index, m.Changed = t.index, t.index
	t.put(m.name(), &m)
	if kind, name, _ := strings.Cut(m.Scope, "/"); kind == LeasesOfRole {
		vault, role, _ := strings.Cut(name, "/")
		t.emit(Event{Kind: EventLeaseRevoked, Vault: vault, Path: role})
	}
}

// name of a mark: a revocation by the secret that made users stands beside one of the whole role.
func (m *leaseMark) name() string {
	if m.Admin {
		return prefixLeaseMark + LeasesOfAdmin + "/" + m.Vault + "/" + m.Path + "\x00" + m.Scope
	}
	return prefixLeaseMark + m.Scope
}

// covers says whether a mark is about a lease of its scope. The secret that made a user is part of its terms.
func (m *leaseMark) covers(f finder, l *Lease) bool {
	if l.Created > m.Index {
		return false
	}
	if !m.Admin {
		return true
	}
	terms := find[leaseTerms](f, objLeaseTerms(l.Revision))
	return terms != nil && terms.Role.AdminVault == m.Vault && terms.Role.AdminPath == m.Path && l.AdminVersion <= m.Version
}

// marked says whether a lease is about to be revoked.
func (t *tx) marked(l *Lease) bool {
	scopes := l.scopes()
	names := make([]string, 0, len(scopes)+1)
	for _, scope := range scopes {
		names = append(names, prefixLeaseMark+scope)
	}
	if terms := find[leaseTerms](t, objLeaseTerms(l.Revision)); terms != nil {
		admin := leaseMark{Admin: true, Vault: terms.Role.AdminVault, Path: terms.Role.AdminPath, Scope: scopes[0]}
		names = append(names, admin.name())
	}
	for _, name := range names {
		if m := find[leaseMark](t, name); m != nil && m.covers(t, l) {
			return true
		}
	}
	return false
}

// leaseSweep works through marks first, then what is due, oldest first. What it has done for one lease stands, whatever
// comes after it, so each is accepted by itself: with hundreds staged, looking anything up would walk through all.
func (t *tx) leaseSweep(b *LeaseSweep) outcome {
	limit := int(min(max(b.Limit, 1), MaxLeaseBatch))
	left := limit
	var marks []string
	t.page(prefixLeaseMark, "", func(name string) bool {
		marks = append(marks, name)
		return len(marks) < MaxLeaseBatch
	})
	for _, name := range marks {
		if left > 0 {
			left = t.followMark(name, left)
		}
	}
	left, more := t.sweepLeases(left)
	out := done()
	out.Value = LeaseSwept{Leases: limit - left, More: more || left == 0}
	return out
}

// followMark revokes up to left leases of a mark and returns how many may still be looked at.
func (t *tx) followMark(name string, left int) int {
	m := *find[leaseMark](t, name)
	root := leasesOf(m.Scope)
	from := ""
	if m.Cursor != "" {
		from = m.Cursor + "\x00"
	}
	var keys []string
	finished := true
	t.page(root, from, func(key string) bool {
		if created, _ := leaseOfKey(key[len(root):]); created > m.Index {
			return false
		}
		if len(keys) == left {
			finished = false
			return false
		}
		keys = append(keys, key)
		return true
	})
	for _, key := range keys {
		_, id := leaseOfKey(key[len(root):])
		if l := find[Lease](t, ObjLease(id)); l != nil && m.covers(t, l) {
			t.beginRevocation(*l)
			t.accept()
		}
		m.Cursor = key
	}
	if finished {
		t.del(name)
	} else {
		m.Changed = t.index
		t.put(name, &m)
	}
	t.accept()
	return max(0, left-max(1, len(keys)))
}

// sweepLeases revokes up to left leases that are due.
func (t *tx) sweepLeases(left int) (int, bool) {
	if left == 0 {
		return 0, true
	}
	var keys []string
	floor := after(prefixLeaseDue)
	more := false
	t.page(prefixLeaseDue, t.s.sweeps.lease, func(key string) bool {
		if leaseDueAt(key) > t.time {
			floor = []byte(key)
			return false
		}
		if len(keys) == left {
			floor, more = []byte(key), true
			return false
		}
		keys = append(keys, key)
		return true
	})
	for _, key := range keys {
		if l := find[Lease](t, ObjLease([16]byte([]byte(key[len(key)-16:])))); l != nil {
			t.beginRevocation(*l)
			t.accept()
		}
	}
	t.s.sweeps.lease = string(floor)
	return left - len(keys), more
}

func leaseDueAt(key string) int64 {
	return int64(binary.BigEndian.Uint64([]byte(key[len(prefixLeaseDue) : len(prefixLeaseDue)+8])))
}

// leaseOutcomes takes in what became of a batch of drops. An outcome that another leader was faster with is skipped.
func (t *tx) leaseOutcomes(b *LeaseOutcomes) outcome {
	if len(b.Outcomes) == 0 || len(b.Outcomes) > MaxLeaseBatch {
		return refuse(CodeInvalid)
	}
	for i := range b.Outcomes {
		o := &b.Outcomes[i]
		have := find[Lease](t, ObjLease(o.ID))
		if have == nil || have.State != LeaseRevoking || have.Changed != o.Changed {
			continue
		}
		t.leaseOutcome(*have, o)
		t.accept()
	}
	return done()
}

func (t *tx) leaseOutcome(l Lease, o *LeaseOutcome) {
	second := l.Deadline + millis(LeaseAftermath)
	if o.Dropped && (l.Confirmed || t.time >= second || l.Drops > 0) {
		t.forgetLease(&l)
		return
	}
	t.del(objLeaseQueue(l.Target, l.NextTry, l.ID))
	l.Changed = t.index
	if o.Dropped {
		// The call that was to make the user may be under way still, from a leader that was stopped: look again.
		l.Drops++
		l.Tries, l.LastError, l.NextTry = 0, "", second
	} else {
		l.Tries++
		l.LastError = strings.ToValidUTF8(o.Error[:min(len(o.Error), maxLeaseError)], "")
		l.NextTry = t.time + millis(leasePause(l.Tries))
	}
	if l.Tries >= LeaseTries || o.Permanent && l.Tries >= LeasePermanentTries {
		l.State, l.NextTry = LeaseDead, 0
		t.put(objLeaseDead(l.ID), &marker{})
	} else {
		t.put(objLeaseQueue(l.Target, l.NextTry, l.ID), &marker{})
	}
	t.put(ObjLease(l.ID), &l)
}

// leasePause doubles with every try, up to a quarter of an hour.
func leasePause(tries uint32) time.Duration {
	return min(leaseFirstPause<<min(tries-1, 20), leaseLongestPause)
}

// deadLeases retries or forgets dead letters: all that are named, or none.
func (t *tx) deadLeases(kind Kind, b *DeadLeases) outcome {
	if len(b.IDs) == 0 || len(b.IDs) > MaxLeaseBatch {
		return refuse(CodeInvalid)
	}
	for i, id := range b.IDs {
		have := find[Lease](t, ObjLease(id))
		if have == nil || have.State != LeaseDead || slices.Contains(b.IDs[:i], id) {
			return refuse(CodeNotFound)
		}
	}
	for _, id := range b.IDs {
		l := *find[Lease](t, ObjLease(id))
		if kind == KindLeaseForget {
			t.forgetLease(&l)
			t.accept()
			continue
		}
		t.del(objLeaseDead(id))
		l.State, l.Tries, l.NextTry, l.Changed = LeaseRevoking, 0, t.time, t.index
		t.put(objLeaseQueue(l.Target, l.NextTry, id), &marker{})
		t.put(ObjLease(id), &l)
		t.accept()
	}
	return done()
}
