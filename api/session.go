package api

import (
	"context"
	"fmt"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/fsm"
)

// Logout revokes the caller's token, or all of them.
func (s *authService) Logout(ctx context.Context, req *hizov1.LogoutRequest) (*hizov1.LogoutResponse, error) {
	_, err := s.gate.do(ctx, &call{
		method: "AuthService/Logout", kind: fsm.KindTokenRevoke, message: req, self: policy.TokenRevoke,
		body: func(r *round) (any, error) {
			if req.GetAll() {
				return &fsm.TokenRevoke{Principal: r.caller.text}, nil
			}
			return &fsm.TokenRevoke{Hash: r.caller.token[:]}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	return &hizov1.LogoutResponse{Revoked: 1}, nil
}

// Renew moves the expiry of the caller's token, at most to the maximum that its login set.
func (s *authService) Renew(ctx context.Context, req *hizov1.RenewRequest) (*hizov1.LoginResponse, error) {
	ttl, err := lifetime(req.GetTtlSeconds(), maxTTL)
	if err != nil {
		return nil, err
	}
	var expires int64
	answer, err := s.gate.do(ctx, &call{
		method: "AuthService/Renew", kind: fsm.KindTokenRenew, message: req, self: policy.TokenRenew,
		body: func(r *round) (any, error) {
			token, ok := r.store.Token(r.caller.token[:])
			if !ok {
				return nil, errSuperseded
			}
			expires = min(r.now+ttl.Milliseconds(), token.MaxExpires)
			token.Expires = expires
			mac, err := r.mac(token)
			if err != nil {
				return nil, err
			}
			return &fsm.TokenRenew{Hash: r.caller.token[:], Expires: expires, MAC: mac}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	if token, ok := answer.store.Token(answer.caller.token[:]); ok { // a retry's own expiry may be another
		expires = token.Expires
	}
	return &hizov1.LoginResponse{Principal: answer.caller.text, ExpiresUnix: expires / 1000, Roles: answer.caller.roles}, nil
}

// WhoAmI tells the caller what the cluster takes it for.
func (s *authService) WhoAmI(ctx context.Context, _ *hizov1.WhoAmIRequest) (*hizov1.WhoAmIResponse, error) {
	answer, err := s.gate.do(ctx, &call{kind: fsm.KindRecord, targets: []target{onSystem(policy.WhoAmI)}})
	if err != nil {
		return nil, err
	}
	c := answer.caller
	return &hizov1.WhoAmIResponse{
		Principal: c.text, Roles: c.roles, Method: c.method, ExpiresUnix: c.expires / 1000, MaxExpiresUnix: c.max / 1000,
		ClusterId: fmt.Sprintf("%x", answer.cluster.ID), Issuer: c.issuer, Binding: c.binding, Claims: c.facts,
	}, nil
}
