package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/api/seal"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/fsm"
)

// newPipelineKey makes a key pair, of which only the salt and the id are stored.
func (r *round) newPipelineKey(p name.PipelineName) (fsm.PipelineKey, error) {
	k := fsm.PipelineKey{Salt: make([]byte, 16), Generation: generationOf(r.store, keyring.Pipeline), Created: r.now}
	rand.Read(k.Salt)
	pair, err := r.keys.PipelineKey(k.Generation, p.Vault, p.Name, k.Salt)
	if err != nil {
		return k, err
	}
	id := seal.KeyID(pair.Public())
	k.ID = id[:]
	return k, nil
}

// GetPipelineKey returns the file of the public key to seal to.
func (s *pipelineService) GetPipelineKey(ctx context.Context, req *hizov1.GetPipelineKeyRequest) (*hizov1.PipelineKeyResponse, error) {
	p, err := pipelineName(req.GetVault(), req.GetName())
	if err != nil {
		return nil, err
	}
	var out *hizov1.PipelineKeyResponse
	err = s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onPipeline(policy.PipelineKey, p, "")}}, func(a *answer) (err error) {
		out, err = s.keyFile(a, p)
		return err
	})
	return sent(out, err)
}

// keyFile is the current key of a pipeline, signed by the CA.
func (s *pipelineService) keyFile(a *answer, n name.PipelineName) (*hizov1.PipelineKeyResponse, error) {
	p, ok := a.store.Pipeline(n.Vault, n.Name)
	if !ok {
		return nil, noPipeline(n)
	}
	if err := s.gate.verify(a.footing, p, p.MAC, fsm.ObjPipeline(p.Vault, p.Name)); err != nil {
		return nil, err
	}
	current := p.Keys[len(p.Keys)-1]
	pair, err := a.pipelineKey(&p, &current)
	if err != nil {
		return nil, err
	}
	k := seal.Key{
		Cluster: a.cluster.ID, Vault: p.Vault, Pipeline: p.Name, Created: time.UnixMilli(current.Created).UTC().Truncate(time.Second), Public: pair.Public(),
	}
	if k.Signature, err = s.node.SignByCA(k.Statement()); err != nil {
		return nil, err
	}
	out := &hizov1.PipelineKeyResponse{File: k.File(), Key: keyOut(current)}
	if len(p.Keys) > 1 {
		old := p.Keys[len(p.Keys)-2]
		out.OldId, out.OldUntilUnix = hex.EncodeToString(old.ID), old.Until/1000
	}
	return out, nil
}

// RotatePipelineKey makes a new key. All older ones open until keep has passed, or their own earlier deadline; what the
// pipeline itself keeps is sealed to the new one at once.
func (s *pipelineService) RotatePipelineKey(ctx context.Context, req *hizov1.RotatePipelineKeyRequest) (*hizov1.PipelineKeyResponse, error) {
	p, err := pipelineName(req.GetVault(), req.GetName())
	if err != nil {
		return nil, err
	}
	if keep := req.GetKeepSeconds(); keep < 0 || keep > int64(seal.MaxLifetime/time.Second) {
		return nil, invalid("keep_seconds", "older keys are kept for 0 to %d days", int(seal.MaxLifetime/(24*time.Hour)))
	}
	keep := time.Duration(req.GetKeepSeconds()) * time.Second
	answer, err := s.change(ctx, pipelineChange{
		method: "RotatePipelineKey", message: req, name: p,
		targets: func(*fsm.Pipeline) ([]target, error) {
			return []target{onPipeline(policy.PipelineRotateKey, p, fmt.Sprintf("older keys open for %v more", keep))}, nil
		},
		edit: func(r *round, next *fsm.Pipeline) error {
			key, err := r.newPipelineKey(p)
			if err != nil {
				return err
			}
			// Before the old keys get their deadline, which may be now.
			if err := s.resealKept(r, next, &key); err != nil {
				return err
			}
			// At least one, or the key that was current would not end.
			until := max(r.now+keep.Milliseconds(), 1)
			for i := range next.Keys {
				if k := &next.Keys[i]; k.Until == 0 || k.Until > until {
					k.Until = until
				}
			}
			for len(next.Keys) >= fsm.MaxPipelineKeys && next.Keys[0].Until <= r.now {
				next.Keys = next.Keys[1:]
			}
			if len(next.Keys) >= fsm.MaxPipelineKeys {
				return &Error{Reason: hizov1.ReasonLimit, Message: fmt.Sprintf("%d older keys of the pipeline still open: rotate with a shorter --keep, or wait", fsm.MaxPipelineKeys-1)}
			}
			next.Keys = append(next.Keys, key)
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return s.keyFile(answer, p)
}

// resealKept seals what a pipeline keeps to a new key. What would not open for a run any more stays as it is.
func (s *pipelineService) resealKept(r *round, p *fsm.Pipeline, key *fsm.PipelineKey) error {
	pair, err := r.pipelineKey(p, key)
	if err != nil {
		return err
	}
	for i := range p.Variables {
		v := &p.Variables[i]
		if len(v.Seal) == 0 {
			continue
		}
		o, err := s.unseal(r, p, v.Name, string(v.Seal))
		if err != nil {
			if isRefusal(err) {
				continue
			}
			return err
		}
		again, err := seal.New(pair.Public(), r.place(p, v.Name), o.sealed.Expires, o.value)
		o.value.Wipe()
		if err != nil {
			return err
		}
		v.Seal = []byte(again.Text())
	}
	return nil
}

func (f footing) place(p *fsm.Pipeline, variable string) seal.Place {
	return seal.Place{Cluster: f.cluster.ID, Vault: p.Vault, Pipeline: p.Name, Variable: variable}
}

// RevokeSeal has one sealed value opened no more.
func (s *pipelineService) RevokeSeal(ctx context.Context, req *hizov1.RevokeSealRequest) (*hizov1.RevokeSealResponse, error) {
	p, err := pipelineName(req.GetVault(), req.GetName())
	if err != nil {
		return nil, err
	}
	digest, expires := req.GetDigest(), int64(0)
	switch {
	case (req.GetSeal() == "") == (len(digest) == 0):
		return nil, invalid("seal", "give the sealed value or its digest")
	case req.GetSeal() != "":
		sealed, err := seal.Parse(req.GetSeal())
		if err != nil {
			return nil, invalid("seal", "%v", err)
		}
		sum := sealed.Digest()
		digest, expires = sum[:], sealed.Expires
	case len(digest) != sha256.Size:
		return nil, invalid("digest", "a digest is the SHA-256 of the sealed value's text: 64 hex digits")
	}
	_, err = s.gate.do(ctx, &call{
		method: "PipelineService/RevokeSeal", kind: fsm.KindSealRevoke, message: req,
		targets: []target{onPipeline(policy.PipelineRevokeSeal, p, sealSource(digest))},
		body: func(r *round) (any, error) {
			if expires != 0 && expires*1000 <= r.now {
				return nil, &Error{Reason: hizov1.ReasonExpired, Message: fmt.Sprintf("the sealed value has expired at %s and opens no more: there is nothing to revoke", day(expires*1000))}
			}
			if _, ok := r.store.Pipeline(p.Vault, p.Name); !ok {
				return nil, noPipeline(p)
			}
			body := fsm.SealRevocation{Vault: p.Vault, Pipeline: p.Name, Digest: digest, By: r.caller.text, Expires: expires * 1000}
			var err error
			body.MAC, err = r.mac(body)
			return &body, err
		},
	})
	if err != nil {
		return nil, err
	}
	return &hizov1.RevokeSealResponse{Digest: digest, ExpiresUnix: expires}, nil
}
