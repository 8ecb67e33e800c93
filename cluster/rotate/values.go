package rotate

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/crypto/envelope"
	"github.com/hizo/hizo/fsm"
)

// Options of a rotation's target as targets read them.
func Options(r *fsm.Rotation) map[string]string {
	m := make(map[string]string, len(r.Options))
	for _, o := range r.Options {
		m[o.Name] = o.Value
	}
	return m
}

func bind(cl fsm.Cluster, vault, path string, version uint32) envelope.Bind {
	return envelope.Bind{Cluster: cl.ID, Vault: vault, Path: path, Version: uint64(version)}
}

// attempt gets the values that a step needs. They are decrypted only after the records of their release have committed,
// one for each value. wipe clears them.
func (t *turn) attempt(ctx context.Context, r *fsm.Rotation, stage string) (a target.Attempt, wipe func(), err error) {
	a = target.Attempt{ID: r.Attempt.ID, Vault: r.Vault, Path: r.Path, Config: Options(r)}
	var refs []fsm.Ref
	var into []*target.Value
	want := func(v *target.Value, ref fsm.Ref) { refs, into = append(refs, ref), append(into, v) }
	if admin := a.Config[target.OptionAdmin]; admin != "" {
		vault, path, _ := strings.Cut(admin, "/")
		want(&a.Admin, fsm.Ref{Vault: vault, Path: path})
	}
	if r.Attempt.Old != 0 {
		want(&a.Old, fsm.Ref{Vault: r.Vault, Path: r.Path, Version: r.Attempt.Old})
	}
	if r.Attempt.Version != 0 {
		want(&a.New, fsm.Ref{Vault: r.Vault, Path: r.Path, Version: r.Attempt.Version})
	}
	wipe = func() {
		for _, v := range into {
			envelope.WipeValue(*v)
		}
	}
	if len(refs) == 0 {
		return a, wipe, nil
	}
	body := fsm.RotationUse{Vault: r.Vault, Path: r.Path, Refs: refs}
	if r.Attempt.State != fsm.RotationIdle {
		body.ID = r.Attempt.ID
	}
	cmd := t.command(fsm.KindRotationUse, &body)
	for _, ref := range refs {
		cmd.Audits = append(cmd.Audits, fsm.Audit{
			Action: ActionUse, Resource: ref.Vault + "/" + ref.Path, Decision: fsm.Allowed,
			Detail: fmt.Sprintf("%s at %s, for %s/%s", stage, r.Target, r.Vault, r.Path),
		})
	}
	result, err := t.node.Propose(ctx, cmd)
	if err != nil {
		return a, wipe, err
	}
	switch result.Code {
	case fsm.CodeOK:
	case fsm.CodeNotFound, fsm.CodeDeleted, fsm.CodeDestroyed:
		return a, wipe, &failure{
			message:   "a value that it needs is missing, deleted or destroyed: the current version of the secret, or the admin secret",
			permanent: r.Attempt.State == fsm.RotationIdle,
		}
	default:
		return a, wipe, codeError(result)
	}
	data, ok := result.Value.([]fsm.VersionData)
	if !ok || len(data) != len(refs) {
		return a, wipe, fmt.Errorf("a use of %d values gave %T", len(refs), result.Value)
	}
	keys, err := t.node.Keyring()
	if err != nil {
		return a, wipe, err
	}
	cl, _ := t.node.Store().Cluster()
	for i, d := range data {
		if *into[i], err = envelope.OpenValue(keys, bind(cl, d.Ref.Vault, d.Ref.Path, d.Ref.Version), envelope.Sealed(d.Data)); err != nil {
			wipe()
			return a, wipe, err
		}
	}
	return a, wipe, nil
}

// maxValue bounds what a target makes: one version, as api.Limits has it by default.
const maxValue = 512 << 10

// whole checks and copies a value that a target has made: its fields may be those of the old one, which is wiped.
func whole(kind string, made target.Value) (target.Value, error) {
	value := make(target.Value, len(made))
	size := 0
	for field, b := range made {
		size += len(field) + b.Len()
		value[field] = b.Clone()
	}
	if len(value) == 0 || size > maxValue {
		envelope.WipeValue(value)
		return nil, &target.Error{
			Kind: kind, Stage: "stage", Message: fmt.Sprintf("the new value has %d fields and %d bytes; at least one field and at most %d bytes are possible", len(value), size, maxValue),
			Err: target.ErrPermanent,
		}
	}
	return value, nil
}

// command is a record of the engine: in the node's name, and of this term only.
func (t *turn) command(kind fsm.Kind, body any) fsm.Command {
	return fsm.Command{Kind: kind, Principal: "node/" + t.node.ID(), Term: t.term, Body: fsm.EncodeBody(kind, body)}
}

// propose commits one record of a rotation.
func (t *turn) propose(ctx context.Context, kind fsm.Kind, r *fsm.Rotation, action, detail string, body any) error {
	cmd := t.command(kind, body)
	cmd.Audits = []fsm.Audit{{Action: action, Resource: r.Vault + "/" + r.Path, Decision: fsm.Allowed, Detail: detail}}
	result, err := t.node.Propose(ctx, cmd)
	if err != nil {
		return err
	}
	if result.Code == fsm.CodeLimit || result.Code == fsm.CodeKeyExhausted {
		f := &failure{permanent: true, message: "the secret has as many versions as are kept, all but one of attempts that were given up: mend the target, then put a version by hand"}
		if result.Code == fsm.CodeKeyExhausted {
			f.message = "the vault's key has wrapped as many data keys as is safe: rotate the vault's key"
		}
		return f
	}
	return codeError(result)
}

func codeError(result fsm.Result) error {
	if result.Code == fsm.CodeOK {
		return nil
	}
	return &cluster.CodeError{Code: result.Code, Changed: result.Changed}
}

// superseded says that the state has moved on; it is looked at again.
func superseded(err error) bool {
	e, ok := errors.AsType[*cluster.CodeError](err)
	return ok && e.Code == fsm.CodeSuperseded
}
