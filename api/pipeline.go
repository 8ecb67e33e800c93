package api

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/fsm"
)

// pipelineService manages pipelines: who runs them and which variables a run gets.
type pipelineService struct {
	hizov1.UnimplementedPipelineServiceServer
	*Server
}

func pipelineName(vault, pipeline string) (name.PipelineName, error) {
	if _, err := name.Vault(vault); err != nil {
		return name.PipelineName{}, err
	}
	_, err := name.Pipeline(pipeline)
	return name.PipelineName{Vault: vault, Name: pipeline}, err
}

func onPipeline(action policy.Action, p name.PipelineName, detail string) target {
	return target{action: action, resource: policy.Pipeline(p.Vault, p.Name), name: p.String(), detail: detail}
}

func noPipeline(p name.PipelineName) error {
	return &Error{Reason: hizov1.ReasonNotFound, Message: fmt.Sprintf("there is no pipeline %s: create it with `hizo pipeline create`", p)}
}

// CreatePipeline makes a pipeline with a key of its own. Naming identities is a grant, and asked as one.
func (s *pipelineService) CreatePipeline(ctx context.Context, req *hizov1.CreatePipelineRequest) (*hizov1.Pipeline, error) {
	p, err := pipelineName(req.GetVault(), req.GetName())
	if err != nil {
		return nil, err
	}
	add, err := identities(req.GetIdentities())
	if err != nil {
		return nil, err
	}
	targets := append([]target{onPipeline(policy.PipelineCreate, p, "")}, identityTargets(p, add, nil)...)
	answer, err := s.gate.do(ctx, &call{
		method: "PipelineService/CreatePipeline", kind: fsm.KindPipelinePut, message: req, targets: targets,
		body: func(r *round) (any, error) {
			vault, ok := r.store.Vault(p.Vault)
			if !ok {
				return nil, &Error{Reason: hizov1.ReasonNotFound, Message: fmt.Sprintf("there is no vault %s: create it with `hizo vault create`", p.Vault)}
			}
			if err := s.gate.verify(r.footing, vault, vault.MAC, fsm.ObjVault(vault.Name)); err != nil {
				return nil, err
			}
			if err := s.runnable(r, p, add); err != nil {
				return nil, err
			}
			key, err := r.newPipelineKey(p)
			if err != nil {
				return nil, err
			}
			made := fsm.Pipeline{Vault: p.Vault, Name: p.Name, Identities: add, Keys: []fsm.PipelineKey{key}}
			made.MAC, err = r.mac(made)
			return &fsm.PipelinePut{Pipeline: made, Create: true}, err
		},
	})
	if err != nil {
		return nil, err
	}
	return pipelineNow(answer, p)
}

// runnable refuses identities that can't run a pipeline, saying why; Apply only says that it is so.
func (s *pipelineService) runnable(r *round, p name.PipelineName, add []string) error {
	for _, id := range add {
		r.rest(fsm.ObjRunner(id))
		if other, ok := r.store.PipelineOf(id); ok && (other.Vault != p.Vault || other.Name != p.Name) {
			return &Error{Reason: hizov1.ReasonExists, Message: fmt.Sprintf("%s runs the pipeline %s/%s already, and which one it is follows from the identity: make a workload for each pipeline", id, other.Vault, other.Name)}
		}
		w := strings.TrimPrefix(id, "workload/")
		if _, ok := r.store.Workload(w); !ok {
			return &Error{Reason: hizov1.ReasonNotFound, Message: fmt.Sprintf("there is no workload %s: create it with `hizo workload create %s`", w, w)}
		}
	}
	return nil
}

// identities reads "train" and "workload/train", and returns them in order.
func identities(given []string) ([]string, error) {
	if len(given) > fsm.MaxPipelineIdentities {
		return nil, invalid("identities", "at most %d identities run one pipeline", fsm.MaxPipelineIdentities)
	}
	var out []string
	for _, n := range given {
		n = strings.TrimPrefix(n, "workload/")
		p, err := workload(n)
		if err != nil {
			return nil, err
		}
		out = append(out, p.String())
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func identityTargets(p name.PipelineName, add, remove []string) []target {
	var out []target
	for _, id := range add {
		out = append(out, onPipeline(policy.PipelineGrant, p, "is run by "+id))
	}
	for _, id := range remove {
		out = append(out, onPipeline(policy.PipelineGrant, p, "is no longer run by "+id))
	}
	return out
}

// pipelineChange is a change of one pipeline.
type pipelineChange struct {
	method  string
	message proto.Message
	name    name.PipelineName
	targets func(p *fsm.Pipeline) ([]target, error) // p is empty where there is no such pipeline
	edit    func(r *round, p *fsm.Pipeline) error   // in place; its slices are the change's own
}

// change replaces a pipeline by an edited one. The command rests on the one that was edited.
func (s *pipelineService) change(ctx context.Context, c pipelineChange) (*answer, error) {
	var have fsm.Pipeline
	var exists bool
	return s.gate.do(ctx, &call{
		method: "PipelineService/" + c.method, kind: fsm.KindPipelinePut, message: c.message,
		prepare: func(r *round) (err error) {
			if have, exists, err = s.gate.pipeline(r, c.name); err != nil {
				return err
			}
			r.targets, err = c.targets(&have)
			return err
		},
		body: func(r *round) (any, error) {
			if !exists {
				return nil, noPipeline(c.name)
			}
			next := have
			next.Identities, next.Variables, next.Keys = slices.Clone(have.Identities), slices.Clone(have.Variables), slices.Clone(have.Keys)
			if err := c.edit(r, &next); err != nil {
				return nil, err
			}
			var err error
			next.MAC, err = r.mac(next)
			return &fsm.PipelinePut{Pipeline: next}, err
		},
	})
}

// SetIdentities says which workloads run a pipeline.
func (s *pipelineService) SetIdentities(ctx context.Context, req *hizov1.SetIdentitiesRequest) (*hizov1.Pipeline, error) {
	p, err := pipelineName(req.GetVault(), req.GetName())
	if err != nil {
		return nil, err
	}
	add, err := identities(req.GetAdd())
	if err != nil {
		return nil, err
	}
	remove, err := identities(req.GetRemove())
	if err != nil {
		return nil, err
	}
	if len(add)+len(remove) == 0 {
		return nil, invalid("add", "name at least one workload to add or to remove")
	}
	answer, err := s.change(ctx, pipelineChange{
		method: "SetIdentities", message: req, name: p,
		targets: func(*fsm.Pipeline) ([]target, error) { return identityTargets(p, add, remove), nil },
		edit: func(r *round, next *fsm.Pipeline) error {
			if err := s.runnable(r, p, add); err != nil {
				return err
			}
			next.Identities = append(next.Identities, add...)
			slices.Sort(next.Identities)
			next.Identities = slices.DeleteFunc(slices.Compact(next.Identities), func(id string) bool { return slices.Contains(remove, id) })
			if len(next.Identities) > fsm.MaxPipelineIdentities {
				return invalid("add", "at most %d identities run one pipeline", fsm.MaxPipelineIdentities)
			}
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return pipelineNow(answer, p)
}

// SetOffline says for how long a run's machine may keep values. What is kept is beyond revocation for as long, so it is a
// grant.
func (s *pipelineService) SetOffline(ctx context.Context, req *hizov1.SetOfflineRequest) (*hizov1.Pipeline, error) {
	p, err := pipelineName(req.GetVault(), req.GetName())
	if err != nil {
		return nil, err
	}
	if req.GetSeconds() > fsm.MaxPipelineOffline {
		return nil, invalid("seconds", "values are kept for %d hours at most", fsm.MaxPipelineOffline/3600)
	}
	answer, err := s.change(ctx, pipelineChange{
		method: "SetOffline", message: req, name: p,
		targets: func(*fsm.Pipeline) ([]target, error) {
			return []target{onPipeline(policy.PipelineGrant, p, fmt.Sprintf("values may be kept for %d s", req.GetSeconds()))}, nil
		},
		edit: func(_ *round, next *fsm.Pipeline) error {
			next.Offline = req.GetSeconds()
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return pipelineNow(answer, p)
}

// DeletePipeline removes a pipeline, its grants and its keys: what was sealed to them opens nowhere any more.
func (s *pipelineService) DeletePipeline(ctx context.Context, req *hizov1.DeletePipelineRequest) (*hizov1.DeletePipelineResponse, error) {
	p, err := pipelineName(req.GetVault(), req.GetName())
	if err != nil {
		return nil, err
	}
	_, err = s.gate.do(ctx, &call{
		method: "PipelineService/DeletePipeline", kind: fsm.KindPipelineDelete, message: req,
		targets: []target{onPipeline(policy.PipelineDelete, p, "")},
		body: func(*round) (any, error) {
			return &fsm.PipelineDelete{Vault: p.Vault, Name: p.Name}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	return &hizov1.DeletePipelineResponse{}, nil
}

// GetPipeline describes a pipeline.
func (s *pipelineService) GetPipeline(ctx context.Context, req *hizov1.GetPipelineRequest) (*hizov1.Pipeline, error) {
	p, err := pipelineName(req.GetVault(), req.GetName())
	if err != nil {
		return nil, err
	}
	var out *hizov1.Pipeline
	err = s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onPipeline(policy.PipelineShow, p, "")}}, func(a *answer) (err error) {
		if out, err = pipelineNow(a, p); err == nil {
			out.RevokedSeals = uint32(len(a.store.SealRevocations(p.Vault, p.Name)))
		}
		return err
	})
	return sent(out, err)
}

// ListPipelines lists pipelines.
func (s *pipelineService) ListPipelines(ctx context.Context, req *hizov1.ListPipelinesRequest) (*hizov1.ListPipelinesResponse, error) {
	vault := req.GetVault()
	if vault != "" {
		if _, err := name.Vault(vault); err != nil {
			return nil, err
		}
	}
	limit, err := s.page(req.GetLimit())
	if err != nil {
		return nil, err
	}
	if len(req.GetAfter()) > name.MaxVault+1+name.MaxPipeline {
		return nil, invalid("after", "no pipeline has so long a name")
	}
	t := target{action: policy.PipelineList, resource: policy.System(), name: vault}
	var out *hizov1.ListPipelinesResponse
	err = s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{t}}, func(a *answer) error {
		found := a.store.Pipelines(vault, req.GetAfter(), limit+1)
		out = &hizov1.ListPipelinesResponse{More: len(found) > limit}
		for _, p := range found[:min(limit, len(found))] {
			out.Items = append(out.Items, &hizov1.ListPipelinesResponse_Item{
				Vault: p.Vault, Name: p.Name, Identities: uint32(len(p.Identities)), Variables: uint32(len(p.Variables)), CreatedUnix: p.Created / 1000,
			})
		}
		return nil
	})
	return sent(out, err)
}

// pipelineNow describes a pipeline as it is.
func pipelineNow(a *answer, n name.PipelineName) (*hizov1.Pipeline, error) {
	p, ok := a.store.Pipeline(n.Vault, n.Name)
	if !ok {
		return nil, noPipeline(n)
	}
	out := &hizov1.Pipeline{Vault: p.Vault, Name: p.Name, Identities: p.Identities, CreatedUnix: p.Created / 1000, OfflineSeconds: p.Offline}
	for _, v := range p.Variables {
		out.Variables = append(out.Variables, &hizov1.PipelineVariable{Name: v.Name, Reference: v.Reference, Seal: string(v.Seal)})
	}
	for _, k := range p.Keys {
		out.Keys = append(out.Keys, keyOut(k))
	}
	return out, nil
}

func keyOut(k fsm.PipelineKey) *hizov1.PipelineKey {
	return &hizov1.PipelineKey{Id: hex.EncodeToString(k.ID), CreatedUnix: k.Created / 1000, UntilUnix: k.Until / 1000}
}
