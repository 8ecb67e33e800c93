package fsm

import "strings"

// leases holds roles, terms, leases and the indexes over them to each other.
func (v *verifier) leases() {
	expected := map[string]bool{}
	counts := map[string]uint32{}
	for name, o := range v.objects {
		l, ok := o.(*Lease)
		if !ok {
			continue
		}
		if name != ObjLease(l.ID) || l.Created == 0 || l.State == LeaseActive && !l.Confirmed ||
			l.State == LeaseCreating && l.Confirmed || l.Drops > 0 && l.Confirmed {
			v.problem("lease %q: %+v", name, *l)
		}
		terms := objLeaseTerms(l.Revision)
		counts[terms]++
		if find[leaseTerms](v, terms) == nil {
			v.problem("lease %q stands on no terms", name)
		}
		switch l.State {
		case LeaseCreating, LeaseActive:
			expected[objLeaseDue(l.due(), l.ID)] = true
		case LeaseRevoking:
			expected[objLeaseQueue(l.Target, l.NextTry, l.ID)] = true
		case LeaseDead:
			expected[objLeaseDead(l.ID)] = true
		default:
			v.problem("lease %q has state %d", name, l.State)
		}
		for _, scope := range l.scopes() {
			expected[objLeaseOf(scope, l.Created, l.ID)] = true
		}
	}
	for name, o := range v.objects {
		switch o := o.(type) {
		case *leaseTerms:
			role := find[LeaseRole](v, ObjLeaseRole(o.Role.Vault, o.Role.Name))
			if o.Leases != counts[name] || o.Leases == 0 && (role == nil || role.Revision != o.Role.Revision) {
				v.problem("%q counts %d leases, there are %d", name, o.Leases, counts[name])
			}
		case *LeaseRole:
			if find[leaseTerms](v, objLeaseTerms(o.Revision)) == nil || name != ObjLeaseRole(o.Vault, o.Name) {
				v.problem("lease role %q is out of place", name)
			}
		case *leaseMark:
			if name != o.name() || o.Index > v.s.Position().Index {
				v.problem("mark %q is out of place", name)
			}
		case *marker:
			if leaseIndex(name) && !expected[name] {
				v.problem("the index %q has no lease to it", name)
			}
		}
	}
	for name := range expected {
		if v.objects[name] == nil {
			v.problem("the index %q is missing", name)
		}
	}
	if floor := v.s.sweeps.lease; floor != "" {
		for name := range v.objects {
			if strings.HasPrefix(name, prefixLeaseDue) && name < floor {
				v.problem("%q is due and is not looked for", name)
			}
		}
	}
}
