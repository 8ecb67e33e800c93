package policy

import (
	"iter"
	"slices"
	"sync"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// Decide answers one request.
func (s *Set) Decide(r Request) Decision {
	w := newWorld(r)
	if w.principal.Type == "" {
		return Decision{} // somebody who is nobody, or of a kind unknown here
	}
	var (
		buffer [16]*rule
		rules  = rulesInQuestion(buffer[:0])
		facts  bool
		varies bool
		fields bool
	)
	for _, rule := range s.byAction[r.Action] {
		if w.mayMatch(rule) {
			rules = append(rules, rule)
			facts = facts || rule.readsFacts
			varies = varies || rule.varies
			fields = fields || rule.readsFields
		}
	}
	d := w.authorize(rules, facts, fields)
	d.Cacheable = !varies
	return d
}

// rulesInQuestion hands Cedar the rules in their fixed order, so that
// decisions list their policies in one order everywhere.
type rulesInQuestion []*rule

func (rules rulesInQuestion) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, r := range rules {
			if !yield(cedar.PolicyID(r.id), r.policy) {
				return
			}
		}
	}
}

func (rules rulesInQuestion) find(id cedar.PolicyID) *rule {
	i := slices.IndexFunc(rules, func(r *rule) bool { return r.id == string(id) })
	return rules[i] // Cedar answers only IDs that it was given
}

// world is what policies see of one request: the principal with its roles as
// parents, the resource with its vault as parent, and the facts.
type world struct {
	request   Request
	principal types.EntityUID
	roles     []string
	fields    bool // attributes are wanted: building them costs more than most decisions

	actor  *types.Entity // the principal, once asked for
	object *types.Entity // the resource, once asked for
}

func newWorld(r Request) *world {
	w := &world{request: r, principal: principalUID(r.Principal)}
	if CanHold(r.Principal.Kind) {
		w.roles = r.Roles
	}
	return w
}

// mayMatch is false where the rule's scope certainly does not match. It only
// saves time: Cedar evaluates the scope again. Entities have at most one
// level of parents, so comparing with them is enough.
func (w *world) mayMatch(r *rule) bool {
	switch scope := r.tree.Principal.(type) {
	case ast.ScopeTypeEq:
		if scope.Entity != w.principal {
			return false
		}
	case ast.ScopeTypeIn:
		if scope.Entity != w.principal && !(scope.Entity.Type == typeRole && slices.Contains(w.roles, string(scope.Entity.ID))) {
			return false
		}
	case ast.ScopeTypeIs:
		if scope.Type != w.principal.Type {
			return false
		}
	}
	resource := w.request.Resource
	switch scope := r.tree.Resource.(type) {
	case ast.ScopeTypeEq:
		return scope.Entity == resource.uid
	case ast.ScopeTypeIn:
		return scope.Entity == resource.uid ||
			scope.Entity.Type == typeVault && resource.vault != "" && string(scope.Entity.ID) == resource.vault
	case ast.ScopeTypeIs:
		return scope.Type == resource.uid.Type
	}
	return true
}

func (w *world) authorize(rules rulesInQuestion, facts, fields bool) Decision {
	if len(rules) == 0 {
		return Decision{}
	}
	w.fields, w.actor, w.object = fields, nil, nil
	request := cedar.Request{Principal: w.principal, Action: actionUID(w.request.Action), Resource: w.request.Resource.uid}
	if facts {
		request.Context = w.facts()
	}
	answer, diagnostic := cedar.Authorize(rules, w, request)

	d := Decision{Allowed: answer == cedar.Allow}
	// cedar-go skips a policy that fails. A permit may be skipped; a forbid
	// that could not be evaluated must not open what it guards.
	var failed []string
	for _, e := range diagnostic.Errors {
		d.Errors = append(d.Errors, string(e.PolicyID)+": "+e.Message)
		if rules.find(e.PolicyID).forbid {
			failed = append(failed, string(e.PolicyID))
		}
	}
	if len(failed) == 0 || !d.Allowed && len(diagnostic.Reasons) > 0 {
		for _, reason := range diagnostic.Reasons {
			d.Policies = append(d.Policies, string(reason.PolicyID))
		}
	}
	if len(failed) > 0 {
		d.Allowed = false
		d.Policies = append(d.Policies, failed...)
	}
	return d
}

// Get implements the entity store that Cedar looks things up in. Cedar asks
// for the same two entities for each policy, so they are built once.
func (w *world) Get(uid types.EntityUID) (types.Entity, bool) {
	switch {
	case uid == w.principal:
		if w.actor == nil {
			w.actor = &types.Entity{UID: uid, Parents: roleSet(w.roles)}
			if w.fields {
				w.actor.Attributes = named(w.request.Principal.Name)
			}
		}
		return *w.actor, true
	case uid == w.request.Resource.uid:
		if w.object == nil {
			w.object = w.resource()
		}
		return *w.object, true
	case uid.Type == typeClaims:
		return w.claims(uid), true
	}
	return types.Entity{}, false
}

func (w *world) resource() *types.Entity {
	r := w.request.Resource
	e := &types.Entity{UID: r.uid}
	if r.vault != "" {
		e.Parents = types.NewEntityUIDSet(types.NewEntityUID(typeVault, types.String(r.vault)))
	}
	if !w.fields {
		return e
	}
	switch r.uid.Type {
	case typeSecret:
		e.Attributes = types.NewRecord(types.RecordMap{"vault": types.String(r.vault), "path": types.String(r.path)})
	case typePipeline, typeLease:
		e.Attributes = types.NewRecord(types.RecordMap{"vault": types.String(r.vault), "name": types.String(r.path)})
	case typeVault, typeUser, typeWorkload, typeNode:
		e.Attributes = named(string(r.uid.ID))
	}
	return e
}

func named(s string) types.Record {
	return types.NewRecord(types.RecordMap{"name": types.String(s)})
}

func (w *world) claims(uid types.EntityUID) types.Entity {
	tags := make(types.RecordMap, len(w.request.Claims))
	for k, v := range w.request.Claims {
		tags[types.String(k)] = types.String(v)
	}
	return types.Entity{UID: uid, Tags: types.NewRecord(tags)}
}

func (w *world) facts() types.Record {
	facts := types.RecordMap{
		"time":    types.NewDatetime(w.request.Time),
		"method":  types.String(w.request.Method),
		"claims":  types.NewEntityUID(typeClaims, "request"),
		"granted": types.Boolean(w.request.Granted),
	}
	if addr := w.request.Addr; addr.IsValid() {
		addr = addr.Unmap().WithZone("")
		if prefix, err := addr.Prefix(addr.BitLen()); err == nil {
			facts["addr"] = types.IPAddr(prefix)
		}
	}
	return types.NewRecord(facts)
}

// roleSets are the parents of a user for each combination of roles, by bit
// mask in the order of Roles.
var roleSets = sync.OnceValue(func() []types.EntityUIDSet {
	sets := make([]types.EntityUIDSet, 1<<len(Roles()))
	for mask := range sets {
		var uids []types.EntityUID
		for i, role := range Roles() {
			if mask&(1<<i) != 0 {
				uids = append(uids, types.NewEntityUID(typeRole, types.String(role)))
			}
		}
		sets[mask] = types.NewEntityUIDSet(uids...)
	}
	return sets
})

// roleSet leaves out what is no role: nothing may come of holding it.
func roleSet(held []string) types.EntityUIDSet {
	mask := 0
	for _, role := range held {
		switch role {
		case SecurityEngineer:
			mask |= 1 << 0
		case Operator:
			mask |= 1 << 1
		case Auditor:
			mask |= 1 << 2
		case PipelineOwner:
			mask |= 1 << 3
		}
	}
	return roleSets()[mask]
}
