package api

import (
	"context"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/fsm"
)

// vaultService makes and lists vaults.
type vaultService struct {
	hizov1.UnimplementedVaultServiceServer
	*Server
}

// CreateVault makes a vault with a key of its own.
func (s *vaultService) CreateVault(ctx context.Context, req *hizov1.CreateVaultRequest) (*hizov1.Vault, error) {
	vault := req.GetName()
	if _, err := name.Vault(vault); err != nil {
		return nil, err
	}
	answer, err := s.gate.do(ctx, &call{
		method: "VaultService/CreateVault", kind: fsm.KindVaultCreate, message: req,
		targets: []target{{action: policy.VaultCreate, resource: policy.Vault(vault), name: vault}},
		body: func(r *round) (any, error) {
			key, err := r.keys.Generate(keyring.Vault(vault), 1)
			if err != nil {
				return nil, err
			}
			v := fsm.Vault{Name: vault, Generation: 1, Created: r.now}
			if v.MAC, err = r.mac(v); err != nil {
				return nil, err
			}
			return &fsm.VaultCreate{Vault: v, Key: wrapped(key, r.now)}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	return &hizov1.Vault{Name: vault, KeyGeneration: 1, CreatedUnix: answer.Time / 1000}, nil
}

func wrapped(k keyring.WrappedKey, now int64) fsm.WrappedKey {
	return fsm.WrappedKey{
		Purpose: k.Purpose, Generation: k.Generation, RootGeneration: k.RootGeneration, Ciphertext: k.Ciphertext, Created: now,
	}
}

// ListVaults lists the vaults.
func (s *vaultService) ListVaults(ctx context.Context, _ *hizov1.ListVaultsRequest) (*hizov1.ListVaultsResponse, error) {
	var out *hizov1.ListVaultsResponse
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onSystem(policy.VaultList)}}, func(answer *answer) error {
		out = &hizov1.ListVaultsResponse{}
		for _, v := range answer.store.Vaults() {
			out.Vaults = append(out.Vaults, &hizov1.Vault{Name: v.Name, KeyGeneration: v.Generation, CreatedUnix: v.Created / 1000})
		}
		return nil
	})
	return sent(out, err)
}

func onSystem(action policy.Action) target { return target{action: action, resource: policy.System()} }

func onIdentity(action policy.Action, p name.Principal) target {
	return target{action: action, resource: policy.Identity(p), name: p.String()}
}
