package fsm

import (
	"slices"
	"strings"
)

func vaultOf(purpose string) (name string, ok bool) { return strings.CutPrefix(purpose, "vault/") }

// enabled says whether a principal exists and is not disabled.
func (t *tx) enabled(name string) Code {
	var disabled bool
	switch o := t.lookup(name).(type) {
	case *User:
		disabled = o.Disabled
	case *Workload:
		disabled = o.Disabled
	default:
		return CodeNotFound
	}
	if disabled {
		return CodeDenied
	}
	return CodeOK
}

// identity says whether a principal's name is that of a user or a workload.
func identity(name string) bool {
	return principal(name) && (strings.HasPrefix(name, "user/") || strings.HasPrefix(name, "workload/"))
}

func (t *tx) userPut(b *UserPut) outcome {
	if !segment(b.User.Name) {
		return refuse(CodeInvalid)
	}
	name := ObjUser(b.User.Name)
	have := find[User](t, name)
	user := b.User
	user.Created, user.Changed = t.time, t.index
	switch {
	case !b.Update && have != nil:
		return refuse(CodeExists)
	case b.Update && have == nil:
		return refuse(CodeNotFound)
	case b.Update && have.Disabled != user.Disabled, !b.Update && user.Disabled:
		return refuse(CodeInvalid) // PrincipalDisable does that: it revokes tokens and keeps the last engineer
	case b.Update:
		user.Created = have.Created
	}
	t.put(name, &user)
	if b.EndLogins {
		t.endLogins(name, b.Keep)
	}
	return done()
}

func (t *tx) workloadPut(b *WorkloadPut) outcome {
	w := b.Workload
	if !segment(w.Name) || w.Disabled {
		return refuse(CodeInvalid)
	}
	if t.lookup(ObjWorkload(w.Name)) != nil {
		return refuse(CodeExists)
	}
	w.Created, w.Changed = t.time, t.index
	t.put(ObjWorkload(w.Name), &w)
	return done()
}

func (t *tx) principalDisable(b *PrincipalDisable) outcome {
	if !identity(b.Principal) {
		return refuse(CodeInvalid)
	}
	if b.Disabled && t.lastEngineer(b.Principal) {
		return refuse(CodeLastSecurityEngineer)
	}
	switch have := t.lookup(b.Principal).(type) {
	case *User:
		next := *have
		next.Disabled, next.MAC, next.Changed = b.Disabled, b.MAC, t.index
		t.put(b.Principal, &next)
	case *Workload:
		next := *have
		next.Disabled, next.MAC, next.Changed = b.Disabled, b.MAC, t.index
		t.put(b.Principal, &next)
	default:
		return refuse(CodeNotFound)
	}
	if b.Disabled {
		t.revokeAll(b.Principal, true)
	}
	return done()
}

// revokeAll kills every token of a principal with one write, and with credentials its certificates and secret ids.
// What is left of them goes as each expires.
func (t *tx) revokeAll(name string, credentials bool) {
	next := generationOf(t, name)
	next.Count++
	if credentials {
		next.Credentials++
	}
	if credentials {
		t.revokeLeases(LeasesOfPrincipal, name)
	}
	next.Changed = t.index
	t.put(objGeneration(name), &next)
}

// endLogins kills every token of a principal but one, whose index stays: nothing about it has changed.
func (t *tx) endLogins(name string, keep []byte) {
	kept := find[storedToken](t, ObjToken(keep))
	live := kept != nil && kept.Token.Principal == name && alive(t, kept)
	t.revokeAll(name, false)
	if live {
		next := *kept
		next.Generation = generationOf(t, name).Count
		t.put(ObjToken(keep), &next)
	}
}

// lastEngineer says whether name is the only enabled holder of SecurityEngineer.
func (t *tx) lastEngineer(name string) bool {
	if t.lookup(objHolder(RoleSecurityEngineer, name)) == nil || t.enabled(name) != CodeOK {
		return false
	}
	another := false
	prefix := objHolder(RoleSecurityEngineer, "")
	t.scan(prefix, func(key string, _ object) bool {
		holder := strings.TrimPrefix(key, prefix)
		another = holder != name && t.enabled(holder) == CodeOK
		return !another
	})
	return !another
}

func (t *tx) roleGrant(b *RoleBinding) outcome {
	if !segment(b.Role) || !identity(b.Principal) {
		return refuse(CodeInvalid)
	}
	if t.lookup(b.Principal) == nil {
		return refuse(CodeNotFound)
	}
	if !t.bind(*b) {
		return refuse(CodeExists)
	}
	return done()
}

// bind adds a role binding, false if the principal has the role.
func (t *tx) bind(b RoleBinding) bool {
	b.Created, b.Changed = t.time, t.index
	next := roleSet{Changed: t.index}
	if have := find[roleSet](t, ObjRoles(b.Principal)); have != nil {
		next.Bindings = slices.Clone(have.Bindings)
	}
	at, found := slices.BinarySearchFunc(next.Bindings, b.Role, byRole)
	if found {
		return false
	}
	next.Bindings = slices.Insert(next.Bindings, at, b)
	t.put(ObjRoles(b.Principal), &next)
	t.put(objHolder(b.Role, b.Principal), &marker{})
	return true
}

func byRole(b RoleBinding, role string) int { return strings.Compare(b.Role, role) }

func (t *tx) roleRevoke(b *RoleRevoke) outcome {
	have := find[roleSet](t, ObjRoles(b.Principal))
	if have == nil {
		return refuse(CodeNotFound)
	}
	at, found := slices.BinarySearchFunc(have.Bindings, b.Role, byRole)
	if !found {
		return refuse(CodeNotFound)
	}
	if b.Role == RoleSecurityEngineer && t.lastEngineer(b.Principal) {
		return refuse(CodeLastSecurityEngineer)
	}
	t.del(objHolder(b.Role, b.Principal))
	if len(have.Bindings) == 1 {
		t.del(ObjRoles(b.Principal))
		return done()
	}
	t.put(ObjRoles(b.Principal), &roleSet{
		Bindings: slices.Delete(slices.Clone(have.Bindings), at, at+1), Changed: t.index,
	})
	return done()
}

func (t *tx) policyPut(b *PolicyPut) outcome {
	if !multi(b.Policy.Name) || b.Policy.Text == "" {
		return refuse(CodeInvalid)
	}
	p := b.Policy
	p.Created, p.Changed = t.time, t.index
	t.put(ObjPolicy(p.Name), &p)
	t.put(ObjPolicies, &policyMark{Changed: t.index})
	return done()
}

func (t *tx) policyDelete(b *PolicyDelete) outcome {
	if t.lookup(ObjPolicy(b.Name)) == nil {
		return refuse(CodeNotFound)
	}
	t.del(ObjPolicy(b.Name))
	t.put(ObjPolicies, &policyMark{Changed: t.index})
	return done()
}
