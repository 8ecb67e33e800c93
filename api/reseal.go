package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/api/seal"
	"github.com/hizo/hizo/fsm"
)

func isRefusal(err error) bool {
	_, ok := errors.AsType[*denial](err)
	return ok
}

// Reseal opens values within the cluster and seals them to the newest key of their pipeline. By it nobody learns a value,
// nor makes one live longer or open elsewhere: place and expiry stay, and what would not open for a run is refused. So
// PipelineOwners may, and each value leaves its record.
func (s *pipelineService) Reseal(ctx context.Context, req *hizov1.ResealRequest) (*hizov1.ResealResponse, error) {
	re, err := s.resealing(req)
	if err != nil {
		return nil, err
	}
	_, err = s.gate.do(ctx, &call{
		kind: fsm.KindInject, prepare: re.prepare, body: re.body,
	})
	if err != nil {
		return nil, err
	}
	return &hizov1.ResealResponse{Items: re.out}, nil
}

// resealing is one Reseal on its way.
type resealing struct {
	*pipelineService
	named  name.PipelineName // empty: by key id
	items  []*hizov1.ResealRequest_Item
	sealed []*seal.Sealed

	// Of one round.
	pipeline fsm.Pipeline
	exists   bool
	out      []*hizov1.ResealResponse_Item
}

func (s *pipelineService) resealing(req *hizov1.ResealRequest) (*resealing, error) {
	re := &resealing{pipelineService: s, items: req.GetItems()}
	if req.GetVault() != "" || req.GetName() != "" {
		var err error
		if re.named, err = pipelineName(req.GetVault(), req.GetName()); err != nil {
			return nil, err
		}
	}
	if n := len(re.items); n == 0 || n > s.limits.Refs {
		return nil, invalid("items", "from 1 to %d sealed values at a time", s.limits.Refs)
	}
	for _, item := range re.items {
		if _, err := name.Variable(item.GetVariable()); err != nil {
			return nil, err
		}
		sealed, err := seal.Parse(item.GetSeal())
		if err != nil {
			return nil, invalid(item.GetVariable(), "variable %s: %v", item.GetVariable(), err)
		}
		re.sealed = append(re.sealed, sealed)
	}
	return re, nil
}

// prepare finds the pipeline. It is rare enough to look at all of them.
func (re *resealing) prepare(r *round) error {
	where := re.named
	if where == (name.PipelineName{}) {
		for _, p := range r.store.Pipelines("", "", math.MaxInt) {
			if _, ok := p.Key(re.sealed[0].KeyID[:]); ok {
				where = name.PipelineName{Vault: p.Vault, Name: p.Name}
				break
			}
		}
	}
	re.exists = false
	if where != (name.PipelineName{}) {
		var err error
		if re.pipeline, re.exists, err = re.gate.pipeline(r, where); err != nil {
			return err
		}
	}
	r.targets = nil
	for _, item := range re.items {
		digest := sha256.Sum256([]byte(item.GetSeal()))
		t := onPipeline(policy.PipelineReseal, where, "variable "+item.GetVariable()+" "+sealSource(digest[:]))
		if !re.exists {
			t.resource, t.name = policy.System(), ""
		}
		r.targets = append(r.targets, t)
	}
	return nil
}

func (re *resealing) body(r *round) (any, error) {
	p := &re.pipeline
	switch {
	case !re.exists && re.named != (name.PipelineName{}):
		return nil, noPipeline(re.named)
	case !re.exists:
		return nil, &Error{Reason: hizov1.ReasonNotFound, Message: fmt.Sprintf("no pipeline of this cluster has the key %x: seal the value anew", re.sealed[0].KeyID)}
	}
	current := &p.Keys[len(p.Keys)-1]
	pair, err := r.pipelineKey(p, current)
	if err != nil {
		return nil, err
	}
	re.out = nil
	body := &fsm.Injection{Vault: p.Vault, Pipeline: p.Name}
	for i, item := range re.items {
		o, err := re.unseal(r, p, item.GetVariable(), item.GetSeal())
		if err != nil {
			return nil, err
		}
		out := &hizov1.ResealResponse_Item{
			Seal: item.GetSeal(), Unchanged: !o.old, Pipeline: p.Vault + "/" + p.Name,
			KeyId: hex.EncodeToString(current.ID), ExpiresUnix: re.sealed[i].Expires,
		}
		if o.old {
			again, err := seal.New(pair.Public(), r.place(p, item.GetVariable()), re.sealed[i].Expires, o.value)
			if err != nil {
				o.value.Wipe()
				return nil, err
			}
			out.Seal = again.Text()
		}
		o.value.Wipe()
		re.out = append(re.out, out)
		body.Seals = append(body.Seals, o.digest)
	}
	return body, nil
}
