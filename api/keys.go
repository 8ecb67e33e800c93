package api

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/rotate/schedule"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
)

// keyService renews the cluster's own keys. It only says what is to be done: the leader's duties do it.
type keyService struct {
	hizov1.UnimplementedKeyServiceServer
	*Server
}

// onKeys is an action on a subject's keys.
func onKeys(action policy.Action, subject string) target {
	return target{action: action, resource: policy.System(), name: subject}
}

// RotateVault adds a key generation to a vault.
func (s *keyService) RotateVault(ctx context.Context, req *hizov1.RotateVaultRequest) (*hizov1.RotateVaultResponse, error) {
	vault := req.GetVault()
	if _, err := name.Vault(vault); err != nil {
		return nil, err
	}
	answer, err := s.gate.do(ctx, &call{
		method: "KeyService/RotateVault", kind: fsm.KindKeyAdd, message: req,
		targets: []target{{action: policy.VaultRotateKey, resource: policy.Vault(vault), name: vault}},
		body: func(r *round) (any, error) {
			if _, ok := r.store.Vault(vault); !ok {
				return nil, fault(hizov1.ReasonNotFound)
			}
			body, err := s.node.VaultKeyBody(vault)
			return &body, err
		},
	})
	if err != nil {
		return nil, err
	}
	v, _ := answer.store.Vault(vault)
	return &hizov1.RotateVaultResponse{Vault: vault, KeyGeneration: v.Generation}, nil
}

// subject checks the name of what is to be rotated.
func subject(store *fsm.Store, text string) error {
	switch text {
	case fsm.RotateRoot, fsm.RotateNodeShares, fsm.RotateOperators, fsm.RotateCertificates, fsm.RotateVaults:
		return nil
	}
	if vault, ok := strings.CutPrefix(text, "vault/"); ok {
		if _, err := name.Vault(vault); err != nil {
			return err
		}
		if _, ok := store.Vault(vault); !ok {
			return fault(hizov1.ReasonNotFound)
		}
		return nil
	}
	return invalid("subject", "rotate root, node-shares, operator-shares, certificates, vaults, or vault/NAME")
}

// Rotate begins a rotation. One that is under way goes on.
func (s *keyService) Rotate(ctx context.Context, req *hizov1.RotateRequest) (*hizov1.KeyRotation, error) {
	what := req.GetSubject()
	t := onKeys(policy.KeysRotate, what)
	c := &call{method: "KeyService/Rotate", kind: fsm.KindKeyRotationBegin, message: req}
	if len(req.GetOperators()) > 0 || req.GetThreshold() > 0 {
		if what != fsm.RotateOperators {
			return nil, invalid("operators", "operators and threshold are for operator-shares only")
		}
		t.action = policy.KeysOperators
	}
	if len(what) > maxSubject {
		return nil, invalid("subject", "rotate root, node-shares, operator-shares, certificates, vaults, or vault/NAME")
	}
	c.body = func(r *round) (any, error) {
		if err := subject(r.store, what); err != nil {
			return nil, err
		}
		if err := s.node.Rotatable(what); err != nil {
			return nil, &Error{Reason: hizov1.ReasonConflict, Message: err.Error()}
		}
		return &fsm.KeyRotationBegin{Subject: what}, nil
	}
	if what == fsm.RotateOperators {
		c.kind = fsm.KindOperatorsPropose
		if len(req.GetOperators()) > 0 {
			if _, err := recipientsOf(req.GetOperators()); err != nil {
				return nil, err
			}
		}
		c.body = func(r *round) (any, error) { return s.offer(r, req) }
	}
	c.targets = []target{t}
	a, err := s.gate.do(ctx, c)
	if err != nil {
		return nil, err
	}
	k, _ := a.store.KeyRotation(what)
	return rotationOut(k), nil
}

// maxSubject is a vault's name behind its prefix.
const maxSubject = 128

// offer makes new operators' shares.
func (s *keyService) offer(r *round, req *hizov1.RotateRequest) (any, error) {
	r.rest(fsm.ObjCluster)
	r.rest(fsm.ObjOperatorsNext)
	if next, _ := r.store.OperatorSets(); next != nil {
		return nil, &Error{Reason: hizov1.ReasonConflict, Message: "new operators' shares wait for their operators already: have them confirmed (hizo operator confirm), or drop them (hizo cluster rotate operator-shares --abort)"}
	}
	operators := len(req.GetOperators())
	if operators == 0 {
		operators = len(r.cluster.OperatorRecipients)
	}
	if t := int(req.GetThreshold()); t > operators && operators > 0 {
		return nil, invalid("threshold", "the threshold is between 1 and the number of operators, %d", operators)
	}
	body, err := s.node.OperatorsBody(req.GetOperators(), int(req.GetThreshold()))
	if errors.Is(err, cluster.ErrNoRecipients) {
		return nil, invalid("operators", "%s", err)
	}
	if errors.Is(err, shares.ErrThreshold) {
		return nil, invalid("threshold", "%s", err)
	}
	return &body, err
}

// SetKeySchedule sets or removes a schedule.
func (s *keyService) SetKeySchedule(ctx context.Context, req *hizov1.SetKeyScheduleRequest) (*hizov1.KeyRotation, error) {
	what := req.GetSubject()
	if len(what) > maxSubject {
		return nil, invalid("subject", "a subject is root, node-shares, operator-shares, certificates, vaults, or vault/NAME")
	}
	in := req.GetSchedule()
	a, err := s.gate.do(ctx, &call{
		method: "KeyService/SetKeySchedule", kind: fsm.KindKeySchedule, message: req, targets: []target{onKeys(policy.KeysSchedule, what)},
		body: func(r *round) (any, error) {
			if err := subject(r.store, what); err != nil {
				return nil, err
			}
			k := fsm.KeyRotation{Every: in.GetEverySeconds() * 1000, Cron: in.GetCron(), Zone: in.GetZone(), Window: in.GetWindow()}
			if in != nil && (in.GetEverySeconds() < 0 || in.GetEverySeconds() > int64(schedule.MaxEvery/time.Second) || k.Every == 0 && k.Cron == "") {
				return nil, invalid("schedule", "give an interval or a cron expression")
			}
			next, err := cluster.NextRotation(k, time.UnixMilli(r.now))
			if errors.Is(err, schedule.ErrSpec) {
				return nil, invalid("schedule", "%s", err)
			}
			return &fsm.KeySchedule{Subject: what, Every: k.Every, Cron: k.Cron, Zone: k.Zone, Window: k.Window, Next: next}, err
		},
	})
	if err != nil {
		return nil, err
	}
	k, _ := a.store.KeyRotation(what)
	return rotationOut(k), nil
}

func rotationOut(k fsm.KeyRotation) *hizov1.KeyRotation {
	out := &hizov1.KeyRotation{Subject: k.Subject, NextUnix: k.Next / 1000, SinceUnix: k.Due / 1000, LastUnix: k.Last / 1000}
	if k.Next != 0 {
		out.Schedule = &hizov1.KeySchedule{EverySeconds: k.Every / 1000, Cron: k.Cron, Zone: k.Zone, Window: k.Window}
	}
	return out
}

// ListKeyRotations lists what is scheduled, under way or done, and how far vaults are.
func (s *keyService) ListKeyRotations(ctx context.Context, _ *hizov1.ListKeyRotationsRequest) (*hizov1.ListKeyRotationsResponse, error) {
	var out *hizov1.ListKeyRotationsResponse
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onKeys(policy.KeysList, "")}}, func(a *answer) error {
		out = &hizov1.ListKeyRotationsResponse{}
		for _, k := range a.store.KeyRotations() {
			out.Rotations = append(out.Rotations, rotationOut(k))
		}
		vaults := make(map[string]*hizov1.VaultKeys)
		for _, k := range a.store.Keys() {
			vault, ok := strings.CutPrefix(k.Purpose, "vault/")
			if !ok {
				continue
			}
			v := vaults[vault]
			if v == nil {
				v = &hizov1.VaultKeys{Vault: vault}
				vaults[vault] = v
				out.Vaults = append(out.Vaults, v)
			}
			if k.Generation > v.KeyGeneration { // they come in the order of their numbers
				v.StaleDataKeys += v.DataKeys
				if v.KeyGeneration != 0 {
					v.OlderGenerations++
				}
				v.KeyGeneration, v.DataKeys = k.Generation, k.Live
			}
		}
		slices.SortFunc(out.Vaults, func(a, b *hizov1.VaultKeys) int { return strings.Compare(a.Vault, b.Vault) })
		return nil
	})
	return sent(out, err)
}

// OperatorShares returns share files; each opens with its operator's age identity only.
func (s *keyService) OperatorShares(ctx context.Context, _ *hizov1.OperatorSharesRequest) (*hizov1.OperatorSharesResponse, error) {
	var out *hizov1.OperatorSharesResponse
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onKeys(policy.KeysConfirm, fsm.RotateOperators)}}, func(a *answer) error {
		next, current := a.store.OperatorSets()
		set := next
		if set == nil {
			set = current
		}
		if set == nil {
			return &Error{Reason: hizov1.ReasonNotFound, Message: "the operators' shares have not been rotated: those of `hizo cluster init` are in force"}
		}
		if err := s.gate.verify(a.footing, *set, set.MAC, fsm.ObjOperatorsNext); err != nil {
			return err
		}
		out = operatorsOut(set, next == nil)
		return nil
	})
	return sent(out, err)
}

func operatorsOut(set *fsm.OperatorSet, inForce bool) *hizov1.OperatorSharesResponse {
	out := &hizov1.OperatorSharesResponse{
		InForce: inForce, Threshold: uint32(set.Threshold), Confirmed: uint32(set.Confirmations()), Needed: uint32(set.Need()),
		ProposedUnix: set.Proposed / 1000,
	}
	for i, r := range set.Recipients {
		out.Shares = append(out.Shares, &hizov1.OperatorShare{
			Operator: uint32(i + 1), Recipient: r, File: set.Files[i], ConfirmedUnix: set.Confirmed[i] / 1000,
		})
	}
	return out
}

// ConfirmOperatorShare takes an operator's code. The leader puts the set in force once enough have come.
func (s *keyService) ConfirmOperatorShare(ctx context.Context, req *hizov1.ConfirmOperatorShareRequest) (*hizov1.OperatorSharesResponse, error) {
	if len(req.GetCode()) != 32 || req.GetOperator() == 0 || req.GetOperator() > maxOperators {
		return nil, invalid("code", "send what `hizo operator confirm` makes of the new share")
	}
	t := onKeys(policy.KeysConfirm, fsm.RotateOperators)
	a, err := s.gate.do(ctx, &call{
		method: "KeyService/ConfirmOperatorShare", kind: fsm.KindOperatorsConfirm, message: req, targets: []target{t},
		body: func(*round) (any, error) {
			return &fsm.OperatorsConfirm{Index: int(req.GetOperator()), Code: req.GetCode()}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	next, current := a.store.OperatorSets()
	set := next
	if set == nil {
		set = current
	}
	if set == nil {
		return nil, fault(hizov1.ReasonNotFound)
	}
	out := operatorsOut(set, next == nil)
	for _, share := range out.Shares {
		share.File = nil // those are asked for with a record of their own
	}
	return out, nil
}

// AbortOperatorShares drops new shares that are not in force yet.
func (s *keyService) AbortOperatorShares(ctx context.Context, req *hizov1.AbortOperatorSharesRequest) (*hizov1.AbortOperatorSharesResponse, error) {
	_, err := s.gate.do(ctx, &call{
		method: "KeyService/AbortOperatorShares", kind: fsm.KindOperatorsAbort, message: req,
		targets: []target{onKeys(policy.KeysRotate, fsm.RotateOperators)},
		body: func(r *round) (any, error) {
			r.rest(fsm.ObjOperatorsNext)
			next, _ := r.store.OperatorSets()
			if next == nil {
				return nil, &Error{Reason: hizov1.ReasonNotFound, Message: "no operators' shares wait for their operators"}
			}
			return &fsm.OperatorsAbort{Deal: next.Deal}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	return &hizov1.AbortOperatorSharesResponse{}, nil
}
