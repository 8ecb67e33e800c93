package api

import (
	"context"
	"crypto/sha256"

	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/fsm"
)

// clientKeySize is the length of the random key by which a one-time login knows its own retries.
const clientKeySize = 32

func clientKey(key []byte) ([]byte, error) {
	if len(key) != clientKeySize {
		return nil, invalid("client_key", "send %d random bytes, the same over all retries of one login", clientKeySize)
	}
	sum := sha256.Sum256(key)
	return sum[:], nil
}

// LoginWorkload of a machine by its one-time secret id.
func (s *authService) LoginWorkload(ctx context.Context, req *hizov1.LoginWorkloadRequest) (*hizov1.LoginResponse, error) {
	workload, err := name.Workload(req.GetWorkload())
	if err != nil {
		return nil, err
	}
	ttl, err := lifetime(req.GetTtlSeconds(), maxTTL)
	if err != nil {
		return nil, err
	}
	client, err := clientKey(req.GetClientKey())
	if err != nil {
		return nil, err
	}
	id, err := auth.ParseToken(auth.SecretID, req.GetSecretId())
	if err != nil {
		return nil, invalid("secret_id", "not a secret id: it is cut, mistyped, or of another kind")
	}
	hash := id.Hash()
	return s.login(ctx, &login{
		account: name.Principal{Kind: name.KindWorkload, Name: workload}, method: methodSecretID, ttl: ttl,
		once: req, code: "AuthService/LoginWorkload",
		prove: func(_ context.Context, r *loginRound) (bool, error) {
			r.rest(fsm.ObjWorkload(workload))
			stored, ok := r.store.SecretID(hash[:])
			if !ok || stored.Workload != workload {
				return false, nil
			}
			if err := s.gate.verify(r.footing, stored, stored.MAC, fsm.ObjSecretID(hash[:])); err != nil {
				return false, err
			}
			return s.gate.enabled(r.footing, name.Principal{Kind: name.KindWorkload, Name: workload})
		},
		command: func(_ *loginRound, token fsm.Token) (fsm.Kind, any, error) {
			return fsm.KindLogin, &fsm.Login{Token: token, SecretID: hash[:], ClientKey: client}, nil
		},
	})
}
