package api

import (
	"cmp"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/fsm"
)

// verdict is a decision about one target with everything it rests on. Immutable.
type verdict struct {
	decision policy.Decision
	reads    []fsm.Read // token, principal, roles, policies; shared by requests
	audit    fsm.Audit  // of an allowed request, without its sealed part
	bind     []byte     // what a sealed part is bound to
	set      *policy.Set
	missing  string // what a rule beyond the policies has against it
}

// verdictKey is what a cacheable decision is a function of, beside reads.
type verdictKey struct {
	token    [32]byte
	action   policy.Action
	resource policy.Resource
	detail   string
	granted  bool
}

// verdicts remembers decisions. An entry counts only while its reads are current, and its reads go into
// the command: a stale allow is refused by Apply.
type verdicts struct {
	mu    sync.RWMutex
	byKey map[verdictKey]*verdict
}

const maxVerdicts = 32 << 10

func newVerdicts() *verdicts { return &verdicts{byKey: make(map[verdictKey]*verdict)} }

func (vs *verdicts) get(k *verdictKey) *verdict {
	vs.mu.RLock()
	defer vs.mu.RUnlock()
	return vs.byKey[*k]
}

func (vs *verdicts) put(k *verdictKey, v *verdict) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	if len(vs.byKey) >= maxVerdicts {
		clear(vs.byKey)
	}
	vs.byKey[*k] = v
}

// forget drops what is remembered of a caller whose request was superseded.
func (g *gate) forget(r *round) { g.callers.drop(r.caller.token) }

// policies is the compiled policy set, as of one change index.
type policies struct {
	mu    sync.Mutex
	set   *policy.Set
	index uint64
	err   error
	known bool
}

// get compiles the policies in the state, once per change. A stored policy that does not compile or whose
// MAC does not verify closes everything that policies rule: without it a forbid could be missing.
func (p *policies) get(g *gate, f footing) (*policy.Set, uint64, error) {
	index := f.store.Index(fsm.ObjPolicies) // before the texts; see identify
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known && p.index == index && !errors.Is(p.err, errTransient) {
		return p.set, p.index, p.err
	}
	p.known, p.index = true, index
	p.set, p.err = g.compile(f)
	return p.set, p.index, p.err
}

// errTransient marks an error that is not a property of the policies.
var errTransient = errors.New("policies could not be read now")

func (g *gate) compile(f footing) (*policy.Set, error) {
	stored := f.store.Policies()
	sources := make([]policy.Source, 0, len(stored))
	for _, p := range stored {
		if err := g.verify(f, p, p.MAC, fsm.ObjPolicy(p.Name)); err != nil {
			return nil, fmt.Errorf("policy %s: %w: %w", p.Name, errTransient, err)
		}
		sources = append(sources, policy.Source{Name: p.Name, Text: p.Text})
	}
	return policy.Compile(sources)
}

// authorise decides about every target, and leaves what the decisions rest on in r.reads.
func (g *gate) authorise(r *round) ([]*verdict, error) {
	verdicts := make([]*verdict, len(r.targets))
	for i := range r.targets {
		v, err := g.decide(r, &r.targets[i])
		if err != nil {
			return nil, err
		}
		verdicts[i] = v
	}
	// All verdicts of one caller rest on the same objects.
	r.reads, r.shared = verdicts[0].reads, true
	for _, v := range verdicts[1:] {
		if v.reads[len(v.reads)-1] != r.reads[len(r.reads)-1] {
			return nil, errSuperseded // policies changed between two targets
		}
	}
	if len(r.more) > 0 {
		r.reads, r.shared = append(append(make([]fsm.Read, 0, len(r.reads)+len(r.more)+2), r.reads...), r.more...), false
	}
	return verdicts, nil
}

func (g *gate) decide(r *round, t *target) (*verdict, error) {
	key := verdictKey{token: r.caller.token, action: t.action, resource: t.resource, detail: t.detail, granted: t.granted}
	if v := g.verdict.get(&key); v != nil && current(r.store, v.reads) {
		return v, nil
	}
	set, index, err := g.policy.get(g, r.footing)
	if err != nil {
		return nil, err
	}
	decision := set.Decide(g.question(r, t))
	if t.otherwise != "" && !decision.Allowed && len(decision.Policies) == 0 {
		q, before := g.question(r, t), decision
		q.Action = t.otherwise
		if decision = set.Decide(q); !decision.Allowed {
			decision = before // and with it the explanation of what is missing
		}
		decision.Cacheable = decision.Cacheable && before.Cacheable
	}
	v := &verdict{
		decision: decision,
		set:      set,
		reads:    append(append(make([]fsm.Read, 0, len(r.caller.reads)+1), r.caller.reads...), fsm.Read{Object: fsm.ObjPolicies, Index: index}),
		bind:     auditBind(r.caller.text, string(t.action), t.name),
	}
	v.audit = fsm.Audit{
		Action: string(t.action), Resource: t.name, Detail: t.detail,
		Decision: fsm.Allowed, Policies: v.decision.Policies, Generation: r.cluster.AuditGeneration,
	}
	for _, e := range v.decision.Errors {
		g.log.Warn("a policy failed while deciding", "policy", e)
	}
	if v.decision.Cacheable {
		g.verdict.put(&key, v)
	}
	return v, nil
}

func (g *gate) question(r *round, t *target) policy.Request {
	return policy.Request{
		Principal: r.caller.principal, Roles: r.caller.roles, Action: t.action, Resource: t.resource,
		Time: time.UnixMilli(r.now), Addr: r.origin.addr, Method: r.caller.method, Granted: t.granted,
		Claims: r.caller.facts,
	}
}

// auditBind ties a sealed part to its record: it can't be moved to another one.
func auditBind(principal, action, resource string) []byte {
	b := aad.AppendString(make([]byte, 0, 12+len(principal)+len(action)+len(resource)), principal)
	b = aad.AppendString(b, action)
	return aad.AppendString(b, resource)
}

func firstDenied(verdicts []*verdict) *verdict {
	for _, v := range verdicts {
		if !v.decision.Allowed {
			return v
		}
	}
	return nil
}

// denied is what the caller is told, after the denial is on record.
func (v *verdict) denied(g *gate, r *round) error {
	t, missing := r.targets[0], v.missing
	for i := range r.targets {
		if v.set != nil && r.targets[i].name == v.audit.Resource && string(r.targets[i].action) == v.audit.Action && r.targets[i].detail == v.audit.Detail {
			t = r.targets[i]
		}
	}
	if v.set != nil && !t.granted {
		missing = cmp.Or(missing, t.why)
	}
	if missing == "" && v.set != nil {
		if e := v.set.Explain(g.question(r, &t)); len(e.Missing) > 0 {
			missing = e.Missing[0]
		}
	}
	on := ""
	if t.name != "" {
		on = " " + t.name
	}
	e := &Error{
		Reason:  hizov1.ReasonPermissionDenied,
		Message: fmt.Sprintf("%s may not %s%s: %s", r.caller.text, t.action, on, missing),
		Info:    map[string]string{hizov1.InfoMissing: missing},
	}
	if missing == "" {
		e.Message = fmt.Sprintf("%s may not %s%s: `hizo policy explain` says why", r.caller.text, t.action, on)
		e.Info = nil
	}
	return e
}
