package api

import (
	"context"
	"fmt"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/crypto/envelope"
	"github.com/hizo/hizo/crypto/secret"
	"github.com/hizo/hizo/fsm"
)

// secretService stores and releases values.
type secretService struct {
	hizov1.UnimplementedSecretServiceServer
	*Server
}

// onSecret is the target of an action on one secret.
func onSecret(action policy.Action, vault, path string) (target, error) {
	if _, err := name.Vault(vault); err != nil {
		return target{}, err
	}
	if _, err := name.Path(path); err != nil {
		return target{}, err
	}
	return target{action: action, resource: policy.Secret(vault, path), name: vault + "/" + path}, nil
}

func bindOf(f footing, vault, path string, version uint32) envelope.Bind {
	return envelope.Bind{Cluster: f.cluster.ID, Vault: vault, Path: path, Version: uint64(version)}
}

// Put encrypts a value for the next version of its path and stores it.
func (s *secretService) Put(ctx context.Context, req *hizov1.PutRequest) (*hizov1.PutResponse, error) {
	t, err := onSecret(policy.Put, req.GetVault(), req.GetPath())
	if err != nil {
		return nil, err
	}
	value, err := s.value(req.GetFields())
	if err != nil {
		return nil, err
	}
	defer envelope.WipeValue(value)
	cas := int64(-1)
	if req.Cas != nil {
		cas = int64(req.GetCas())
	}

	var place *reservation
	done := func(ok bool) {
		if place != nil {
			place.done(ok)
			place = nil
		}
	}
	defer func() { done(false) }()

	answer, err := s.gate.do(ctx, &call{
		method: "SecretService/Put", kind: fsm.KindSecretPut, targets: []target{t}, message: req,
		body: func(r *round) (any, error) {
			done(false) // an earlier round's
			vault, ok := r.store.Vault(req.GetVault())
			if !ok {
				return nil, &Error{Reason: hizov1.ReasonNotFound, Message: fmt.Sprintf("there is no vault %s: create it with `hizo vault create`", req.GetVault())}
			}
			if err := s.gate.verify(r.footing, vault, vault.MAC, fsm.ObjVault(vault.Name)); err != nil {
				return nil, err
			}
			var err error
			place, err = s.paths.reserve(ctx, t.name, r.number == rounds-1, func() uint32 {
				if sec, ok := r.store.Secret(req.GetVault(), req.GetPath()); ok {
					return sec.Next
				}
				return 1
			})
			if err != nil {
				return nil, err
			}
			sealed, err := envelope.SealValue(r.keys, bindOf(r.footing, vault.Name, req.GetPath(), place.version), vault.Generation, value)
			if err != nil {
				return nil, err
			}
			return &fsm.SecretPut{
				Vault: vault.Name, Path: req.GetPath(), Version: place.version, CAS: cas, Data: fsm.SealedValue(sealed),
			}, nil
		},
		propose: func(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
			if place.before != nil {
				select {
				case <-place.before:
				case <-ctx.Done():
					return fsm.Result{}, ctx.Err()
				}
			}
			result, err := s.node.ProposeAfter(ctx, cmd, place.placed)
			done(err == nil && result.Code == fsm.CodeOK && !result.Duplicate)
			return result, err
		},
	})
	if err != nil {
		return nil, err
	}
	return &hizov1.PutResponse{Version: answer.Version, CreatedUnix: answer.Time / 1000}, nil
}

// value checks and takes over the fields of a new version.
func (s *Server) value(fields map[string][]byte) (map[string]secret.Bytes, error) {
	if len(fields) == 0 {
		return nil, invalid("fields", "a secret needs at least one field")
	}
	if len(fields) > s.limits.Fields {
		return nil, invalid("fields", "a secret has at most %d fields: use several secrets", s.limits.Fields)
	}
	size := 0
	value := make(map[string]secret.Bytes, len(fields))
	for field, b := range fields {
		if _, err := name.Field(field); err != nil {
			return nil, err
		}
		size += len(field) + len(b)
		value[field] = secret.New(b)
	}
	if size > s.limits.Value {
		return nil, &Error{Reason: hizov1.ReasonTooLarge, Message: fmt.Sprintf("the value has %d bytes, at most %d are allowed: store large data elsewhere and its key here", size, s.limits.Value)}
	}
	return value, nil
}

// Reveal releases a value in the clear, after its record has committed.
func (s *secretService) Reveal(ctx context.Context, req *hizov1.RevealRequest) (*hizov1.RevealResponse, error) {
	t, err := onSecret(policy.Reveal, req.GetVault(), req.GetPath())
	if err != nil {
		return nil, err
	}
	if err := s.field(req.GetField()); err != nil {
		return nil, err
	}
	if err := s.text("reason", req.GetReason()); err != nil {
		return nil, err
	}
	ref := fsm.Ref{Vault: req.GetVault(), Path: req.GetPath(), Version: req.GetVersion()}
	answer, err := s.gate.do(ctx, &call{
		kind: fsm.KindRead, targets: []target{t}, reason: req.GetReason(),
		body: func(*round) (any, error) { return &fsm.ReadVersions{Refs: []fsm.Ref{ref}}, nil },
	})
	if err != nil {
		return nil, err
	}
	data, err := answer.released(1)
	if err != nil {
		return nil, err
	}
	value, err := answer.decrypt(data[0])
	if err != nil {
		return nil, err
	}
	out := &hizov1.RevealResponse{
		Version: data[0].Ref.Version, CreatedUnix: data[0].Created / 1000, AuditSequence: answer.Audit,
	}
	if f := req.GetField(); f != "" {
		b, ok := value[f]
		if !ok {
			envelope.WipeValue(value)
			return nil, noField(t.name, f)
		}
		out.Fields = map[string][]byte{f: b.Reveal()}
		return out, nil
	}
	out.Fields = make(map[string][]byte, len(value))
	for f, b := range value {
		out.Fields[f] = b.Reveal()
	}
	return out, nil
}

func noField(secret, field string) error {
	return &Error{Reason: hizov1.ReasonNotFound, Message: fmt.Sprintf("%s has no field %s", secret, field)}
}

// released is what Apply has released: only these ciphertexts are decrypted, never the state's.
func (a *answer) released(n int) ([]fsm.VersionData, error) {
	data, ok := a.Value.([]fsm.VersionData)
	if !ok || len(data) != n {
		return nil, fmt.Errorf("a read of %d references gave %T", n, a.Value)
	}
	return data, nil
}

func (a *answer) decrypt(d fsm.VersionData) (map[string]secret.Bytes, error) {
	return envelope.OpenValue(a.keys, bindOf(a.footing, d.Ref.Vault, d.Ref.Path, d.Ref.Version), envelope.Sealed(d.Data))
}

// List names the secrets of a vault.
func (s *secretService) List(ctx context.Context, req *hizov1.ListSecretsRequest) (*hizov1.ListSecretsResponse, error) {
	vault := req.GetVault()
	if _, err := name.Vault(vault); err != nil {
		return nil, err
	}
	limit, err := s.page(req.GetLimit())
	if err != nil {
		return nil, err
	}
	// A prefix and a cursor select, they name nothing; they only have to be of bounded size.
	if len(req.GetPrefix()) > name.MaxPath || len(req.GetAfter()) > name.MaxPath {
		return nil, invalid("prefix", "a prefix has at most %d bytes", name.MaxPath)
	}
	var out *hizov1.ListSecretsResponse
	err = s.gate.show(ctx, &call{
		kind: fsm.KindRecord, targets: []target{{action: policy.List, resource: policy.Vault(vault), name: vault}},
	}, func(answer *answer) error {
		if _, ok := answer.store.Vault(vault); !ok {
			return fault(hizov1.ReasonNotFound)
		}
		found := answer.store.Secrets(vault, req.GetPrefix(), req.GetAfter(), limit+1)
		out = &hizov1.ListSecretsResponse{More: len(found) > limit}
		for _, sec := range found[:min(limit, len(found))] {
			item := &hizov1.ListSecretsResponse_Item{Path: sec.Path, Current: sec.Current}
			if versions := answer.store.Versions(vault, sec.Path); len(versions) > 0 {
				item.UpdatedUnix = versions[len(versions)-1].Created / 1000
			}
			out.Items = append(out.Items, item)
		}
		return nil
	})
	return sent(out, err)
}

// Versions describes the versions of a secret.
func (s *secretService) Versions(ctx context.Context, req *hizov1.VersionsRequest) (*hizov1.VersionsResponse, error) {
	t, err := onSecret(policy.Versions, req.GetVault(), req.GetPath())
	if err != nil {
		return nil, err
	}
	var out *hizov1.VersionsResponse
	err = s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{t}}, func(answer *answer) error {
		versions := answer.store.Versions(req.GetVault(), req.GetPath())
		if len(versions) == 0 {
			return fault(hizov1.ReasonNotFound)
		}
		out = &hizov1.VersionsResponse{}
		for _, v := range versions {
			item := &hizov1.VersionsResponse_Item{
				Version: v.Number, Stage: stageText[v.Stage], CreatedUnix: v.Created / 1000, By: v.By,
			}
			if v.Deleted != 0 {
				item.DeletedUnix = max(1, v.Deleted/1000)
			}
			out.Items = append(out.Items, item)
		}
		return nil
	})
	return sent(out, err)
}

var stageText = map[fsm.Stage]string{
	fsm.StagePending: "pending", fsm.StageCurrent: "current", fsm.StagePrevious: "previous",
	fsm.StageOld: "old", fsm.StageDestroyed: "destroyed",
}

// Delete hides versions until they are undeleted.
func (s *secretService) Delete(ctx context.Context, req *hizov1.ChangeVersionsRequest) (*hizov1.ChangeVersionsResponse, error) {
	return s.change(ctx, "Delete", policy.Delete, fsm.KindSecretDelete, req)
}

// Undelete brings deleted versions back.
func (s *secretService) Undelete(ctx context.Context, req *hizov1.ChangeVersionsRequest) (*hizov1.ChangeVersionsResponse, error) {
	return s.change(ctx, "Undelete", policy.Undelete, fsm.KindSecretRestore, req)
}

// Destroy removes versions and their data keys for good.
func (s *secretService) Destroy(ctx context.Context, req *hizov1.ChangeVersionsRequest) (*hizov1.ChangeVersionsResponse, error) {
	if len(req.GetVersions()) == 0 {
		return nil, invalid("versions", "say which versions to destroy: it can't be taken back")
	}
	return s.change(ctx, "Destroy", policy.Destroy, fsm.KindSecretDestroy, req)
}

func (s *secretService) change(ctx context.Context, method string, action policy.Action, kind fsm.Kind, req *hizov1.ChangeVersionsRequest) (*hizov1.ChangeVersionsResponse, error) {
	t, err := onSecret(action, req.GetVault(), req.GetPath())
	if err != nil {
		return nil, err
	}
	if len(req.GetVersions()) > s.limits.Versions {
		return nil, invalid("versions", "at most %d versions at a time", s.limits.Versions)
	}
	for _, v := range req.GetVersions() {
		if v == 0 {
			return nil, invalid("versions", "versions are numbered from 1")
		}
	}
	answer, err := s.gate.do(ctx, &call{
		method: "SecretService/" + method, kind: kind, targets: []target{t}, message: req,
		body: func(*round) (any, error) {
			return &fsm.SecretVersions{Vault: req.GetVault(), Path: req.GetPath(), Versions: req.GetVersions()}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	versions := req.GetVersions()
	if len(versions) == 0 {
		versions = []uint32{answer.Version}
	}
	return &hizov1.ChangeVersionsResponse{Versions: versions}, nil
}

// page is the size of a page of a list.
func (s *Server) page(limit uint32) (int, error) {
	if limit > uint32(s.limits.ListPage) {
		return 0, invalid("limit", "a page has at most %d items", s.limits.ListPage)
	}
	if limit == 0 {
		return s.limits.ListPage, nil
	}
	return int(limit), nil
}

// field checks an optional field name.
func (s *Server) field(f string) error {
	if f == "" {
		return nil
	}
	_, err := name.Field(f)
	return err
}

// text checks free text.
func (s *Server) text(what, t string) error {
	if len(t) > s.limits.Text {
		return invalid(what, "the %s has %d bytes, at most %d are allowed", what, len(t), s.limits.Text)
	}
	return nil
}
