package api

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/fsm"
)

// pipelineOf returns the pipeline that the caller runs. It follows from who the caller is and from nothing that a request
// says. For prepare: what is decided then rests on it.
func (g *gate) pipelineOf(r *round) (fsm.Pipeline, bool, error) {
	who := r.caller.text
	if r.caller.principal.Kind != name.KindWorkload {
		return fsm.Pipeline{}, false, nil
	}
	r.follow(fsm.ObjRunner(who), r.store.Index(fsm.ObjRunner(who))) // before the object; see identify
	p, ok := r.store.PipelineOf(who)
	if !ok {
		return fsm.Pipeline{}, false, nil
	}
	if err := g.follow(r, &p); err != nil {
		return fsm.Pipeline{}, false, err
	}
	if !slices.Contains(p.Identities, who) {
		return fsm.Pipeline{}, false, fmt.Errorf("the index names %s/%s as the pipeline of %s, which does not: restore the state from another node", p.Vault, p.Name, who)
	}
	return p, true, nil
}

// pipeline returns a pipeline for prepare.
func (g *gate) pipeline(r *round, p name.PipelineName) (fsm.Pipeline, bool, error) {
	found, ok := r.store.Pipeline(p.Vault, p.Name)
	if !ok {
		r.follow(fsm.ObjPipeline(p.Vault, p.Name), 0)
		return found, false, nil
	}
	return found, true, g.follow(r, &found)
}

func (g *gate) follow(r *round, p *fsm.Pipeline) error {
	object := fsm.ObjPipeline(p.Vault, p.Name)
	r.follow(object, p.Changed)
	return g.verify(r.footing, p, p.MAC, object)
}

// declares reports whether one of a pipeline's variables is this reference, version and all.
func declares(p *fsm.Pipeline, reference string) bool {
	return slices.ContainsFunc(p.Variables, func(v fsm.PipelineVariable) bool { return v.Reference == reference })
}

// granted says for an explanation whether a principal's pipeline was granted something on a resource.
func (g *gate) granted(store *fsm.Store, principal string, action policy.Action, resource string) bool {
	p, ok := store.PipelineOf(principal)
	if !ok {
		return false
	}
	switch action {
	case policy.Open:
		return resource == p.Vault+"/"+p.Name
	case policy.Lease:
		return leases(&p, resource)
	case policy.Inject, policy.Watch, policy.Consume:
		return refers(&p, resource)
	}
	return false
}

// refers reports whether one of a pipeline's variables is of a secret, VAULT/PATH.
func refers(p *fsm.Pipeline, secret string) bool {
	return slices.ContainsFunc(p.Variables, func(v fsm.PipelineVariable) bool {
		return strings.HasPrefix(v.Reference, name.Scheme+secret+"#")
	})
}

// referring makes the targets of a round out of a call's, which are secrets that a run follows or uses.
func (g *gate) referring(r *round, targets []target) error {
	p, runs, err := g.pipelineOf(r)
	if err != nil {
		return err
	}
	r.targets = slices.Clone(targets)
	for i := range r.targets {
		r.targets[i].granted = runs && refers(&p, r.targets[i].name)
	}
	return nil
}
