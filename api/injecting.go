package api

import (
	"context"
	"sync"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/crypto/envelope"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
	"github.com/hizo/hizo/fsm"
)

// Inject releases values sealed to the key of one execution, after their records have committed: all of
// them or none.
func (s *secretService) Inject(ctx context.Context, req *hizov1.InjectRequest) (*hizov1.InjectResponse, error) {
	refs := req.GetRefs()
	switch {
	case len(refs) == 0:
		return nil, invalid("refs", "name at least one reference")
	case len(refs) > s.limits.Refs:
		return nil, invalid("refs", "at most %d references at a time: split the request", s.limits.Refs)
	}
	if err := s.text("execution", req.GetExecution()); err != nil {
		return nil, err
	}
	targets := make([]target, len(refs))
	read := make([]fsm.Ref, len(refs))
	for i, ref := range refs {
		var err error
		if targets[i], err = onSecret(policy.Inject, ref.GetVault(), ref.GetPath()); err != nil {
			return nil, err
		}
		if _, err := name.Field(ref.GetField()); err != nil {
			return nil, err
		}
		targets[i].detail = "field " + ref.GetField()
		read[i] = fsm.Ref{Vault: ref.GetVault(), Path: ref.GetPath(), Version: ref.GetVersion()}
	}
	// Checking a key costs as much as sealing to it: for those who may inject, once.
	checked := sync.OnceValue(func() error { return hybrid.CheckPublic(req.GetExecutionKey()) })
	answer, err := s.gate.do(ctx, &call{
		kind: fsm.KindRead, targets: targets, reason: req.GetExecution(),
		body: func(*round) (any, error) {
			if err := checked(); err != nil {
				return nil, err
			}
			return &fsm.ReadVersions{Refs: read}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	data, err := answer.released(len(refs))
	if err != nil {
		return nil, err
	}
	out := &hizov1.InjectResponse{
		ClusterId: inject.ClusterText(answer.cluster.ID), Principal: answer.caller.text,
		Values: make([]*hizov1.InjectResponse_Value, len(refs)),
	}
	opened := make(map[fsm.Ref]map[string]secret.Bytes, len(refs))
	defer func() {
		for _, value := range opened {
			envelope.WipeValue(value)
		}
	}()
	for i, d := range data {
		value, ok := opened[d.Ref]
		if !ok {
			if value, err = answer.decrypt(d); err != nil {
				return nil, err
			}
			opened[d.Ref] = value
		}
		field := refs[i].GetField()
		b, ok := value[field]
		if !ok {
			return nil, noField(targets[i].name, field)
		}
		sealed, err := inject.SealValue(req.GetExecutionKey(), inject.Target{
			Cluster: out.ClusterId, Principal: out.Principal,
			Vault: d.Ref.Vault, Path: d.Ref.Path, Field: field, Version: d.Ref.Version,
		}, b)
		if err != nil {
			return nil, err
		}
		out.Values[i] = &hizov1.InjectResponse_Value{
			Version: d.Ref.Version, Sealed: sealed, AuditSequence: answer.Audit + uint64(i),
		}
	}
	return out, nil
}
