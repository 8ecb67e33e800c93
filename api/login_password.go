package api

import (
	"context"
	"fmt"
	"sync"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/fsm"
)

// Login of a person by password.
func (s *authService) Login(ctx context.Context, req *hizov1.LoginRequest) (*hizov1.LoginResponse, error) {
	user, err := name.User(req.GetUser())
	if err != nil {
		return nil, err
	}
	ttl, err := lifetime(req.GetTtlSeconds(), maxTTL)
	if err != nil {
		return nil, err
	}
	password := req.GetPassword()
	defer clear(password)
	return s.login(ctx, &login{
		account: name.Principal{Kind: name.KindUser, Name: user}, method: methodPassword, ttl: ttl, command: storeToken,
		prove: func(ctx context.Context, r *loginRound) (bool, error) {
			r.rest(fsm.ObjUser(user))
			hash, err := s.passwordHash(r.footing, user)
			if err != nil {
				return false, err
			}
			return s.hasher.Verify(ctx, hash, password)
		},
	})
}

// passwordHash is empty for a user who does not exist, is disabled, or has no password: the hasher then
// does the same work and says no.
func (s *Server) passwordHash(f footing, user string) (string, error) {
	u, ok := f.store.User(user)
	if !ok || u.Disabled || len(u.Password) == 0 {
		return "", nil
	}
	if err := s.gate.verify(f, u, u.MAC, fsm.ObjUser(user)); err != nil {
		return "", err
	}
	hash, err := f.keys.Open(keyring.Password, u.Generation, u.Password, passwordAAD(f, user))
	if err != nil {
		return "", fmt.Errorf("open the password hash: %w", err)
	}
	return string(hash), nil
}

func passwordAAD(f footing, user string) []byte {
	return aad.Tuple("hizo/password/v1", f.cluster.ID[:], []byte(user))
}

// hashOnce hashes a new password when it is first asked for, so that a call costs one argon2id however often
// it is decided anew. The hash of no password is empty.
func (s *Server) hashOnce(ctx context.Context, password []byte) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		if len(password) == 0 {
			return "", nil
		}
		return s.hasher.Hash(ctx, password)
	})
}

// sealPassword encrypts the hash of a password.
func sealPassword(f footing, user, hash string) ([]byte, uint32, error) {
	generation := generationOf(f.store, keyring.Password)
	sealed, err := f.keys.Seal(keyring.Password, generation, []byte(hash), passwordAAD(f, user))
	return sealed, generation, err
}
