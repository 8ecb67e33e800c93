package api

import (
	"context"

	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/fsm"
)

// Enrol makes the holder of a one-time code a user with the code's roles.
func (s *authService) Enrol(ctx context.Context, req *hizov1.EnrolRequest) (*hizov1.LoginResponse, error) {
	user, err := name.User(req.GetUser())
	if err != nil {
		return nil, err
	}
	if _, err := clientKey(req.GetClientKey()); err != nil { // part of the fingerprint
		return nil, err
	}
	code, err := auth.ParseToken(auth.EnrolmentCode, req.GetCode())
	if err != nil {
		return nil, invalid("code", "not an enrolment code: it is cut, mistyped, or of another kind")
	}
	if err := auth.CheckPassword(user, req.GetPassword()); err != nil {
		return nil, err
	}
	hash, password := code.Hash(), s.hashOnce(ctx, req.GetPassword())
	var roles []string
	return s.login(ctx, &login{
		account: name.Principal{Kind: name.KindUser, Name: user}, method: methodEnrolment, ttl: defaultTTL,
		once: req, code: "AuthService/Enrol",
		prove: func(_ context.Context, r *loginRound) (bool, error) {
			stored, ok := r.store.Enrolment(hash[:])
			if !ok {
				return false, nil
			}
			roles = stored.Roles
			return true, s.gate.verify(r.footing, stored, stored.MAC, fsm.ObjEnrolment(hash[:]))
		},
		command: func(r *loginRound, token fsm.Token) (fsm.Kind, any, error) {
			u := fsm.User{Name: user, Created: r.now}
			text, err := password()
			if err != nil {
				return 0, nil, err
			}
			if u.Password, u.Generation, err = sealPassword(r.footing, user, text); err != nil {
				return 0, nil, err
			}
			if u.MAC, err = r.mac(u); err != nil {
				return 0, nil, err
			}
			body := &fsm.Enrol{Hash: hash[:], User: u, Token: token}
			for _, role := range roles {
				b := fsm.RoleBinding{Role: role, Principal: token.Principal, By: methodEnrolment, Created: r.now}
				if b.MAC, err = r.mac(b); err != nil {
					return 0, nil, err
				}
				body.Roles = append(body.Roles, b)
			}
			return fsm.KindEnrol, body, nil
		},
	})
}
