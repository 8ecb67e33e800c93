package api

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/secret"
	"github.com/hizo/hizo/fsm"
)

// identityService manages users, workloads, roles and their credentials.
type identityService struct {
	hizov1.UnimplementedIdentityServiceServer
	*Server
}

func user(n string) (name.Principal, error) {
	_, err := name.User(n)
	return name.Principal{Kind: name.KindUser, Name: n}, err
}

func workload(n string) (name.Principal, error) {
	_, err := name.Workload(n)
	return name.Principal{Kind: name.KindWorkload, Name: n}, err
}

// CreateUser makes a user, with a password or without.
func (s *identityService) CreateUser(ctx context.Context, req *hizov1.CreateUserRequest) (*hizov1.Identity, error) {
	p, err := user(req.GetName())
	if err != nil {
		return nil, err
	}
	if len(req.GetPassword()) > 0 {
		if err := auth.CheckPassword(p.Name, req.GetPassword()); err != nil {
			return nil, err
		}
	}
	hash := s.hashOnce(ctx, req.GetPassword())
	answer, err := s.gate.do(ctx, &call{
		method: "IdentityService/CreateUser", kind: fsm.KindUserPut, message: req,
		targets: []target{onIdentity(policy.UserCreate, p)},
		body: func(r *round) (any, error) {
			u := fsm.User{Name: p.Name, Created: r.now}
			if err := s.setPassword(r, &u, hash); err != nil {
				return nil, err
			}
			return &fsm.UserPut{User: u}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	return s.identity(answer, p), nil
}

// setPassword gives u the password of a hash (none, if that is empty) and the MAC over it.
func (s *identityService) setPassword(r *round, u *fsm.User, hash func() (string, error)) error {
	u.Password, u.Generation = nil, 0
	text, err := hash()
	if err != nil {
		return err
	}
	if text != "" {
		if u.Password, u.Generation, err = sealPassword(r.footing, u.Name, text); err != nil {
			return err
		}
	}
	u.MAC, err = r.mac(*u)
	return err
}

// identity describes a principal as it is now.
func (s *identityService) identity(a *answer, p name.Principal) *hizov1.Identity {
	out := &hizov1.Identity{Principal: p.String()}
	switch p.Kind {
	case name.KindUser:
		u, _ := a.store.User(p.Name)
		out.Disabled, out.CreatedUnix = u.Disabled, u.Created/1000
	case name.KindWorkload:
		w, _ := a.store.Workload(p.Name)
		out.Disabled, out.CreatedUnix = w.Disabled, w.Created/1000
	}
	for _, b := range a.store.Roles(p.String()) {
		out.Roles = append(out.Roles, b.Role)
	}
	return out
}

// ListUsers lists the users.
func (s *identityService) ListUsers(ctx context.Context, _ *hizov1.ListIdentitiesRequest) (*hizov1.ListIdentitiesResponse, error) {
	var out *hizov1.ListIdentitiesResponse
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onSystem(policy.UserList)}}, func(answer *answer) error {
		out = &hizov1.ListIdentitiesResponse{}
		for _, u := range answer.store.Users() {
			out.Identities = append(out.Identities, s.identity(answer, name.Principal{Kind: name.KindUser, Name: u.Name}))
		}
		return nil
	})
	return sent(out, err)
}

// ListWorkloads lists the workloads.
func (s *identityService) ListWorkloads(ctx context.Context, _ *hizov1.ListIdentitiesRequest) (*hizov1.ListIdentitiesResponse, error) {
	var out *hizov1.ListIdentitiesResponse
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onSystem(policy.WorkloadList)}}, func(answer *answer) error {
		out = &hizov1.ListIdentitiesResponse{}
		for _, w := range answer.store.Workloads() {
			out.Identities = append(out.Identities, s.identity(answer, name.Principal{Kind: name.KindWorkload, Name: w.Name}))
		}
		return nil
	})
	return sent(out, err)
}

// DisableUser disables or enables a user. Disabling ends all its logins, certificates and secret ids.
func (s *identityService) DisableUser(ctx context.Context, req *hizov1.DisableRequest) (*hizov1.Identity, error) {
	p, err := user(req.GetName())
	if err != nil {
		return nil, err
	}
	return s.disable(ctx, "IdentityService/DisableUser", req, p)
}

// DisableWorkload disables or enables a workload. Disabling ends all its logins, certificates and secret ids.
func (s *identityService) DisableWorkload(ctx context.Context, req *hizov1.DisableRequest) (*hizov1.Identity, error) {
	p, err := workload(req.GetName())
	if err != nil {
		return nil, err
	}
	return s.disable(ctx, "IdentityService/DisableWorkload", req, p)
}

func (s *identityService) disable(ctx context.Context, method string, req *hizov1.DisableRequest, p name.Principal) (*hizov1.Identity, error) {
	t := onIdentity(policy.UserDisable, p)
	t.detail = "disable"
	if req.GetEnable() {
		t.detail = "enable"
	}
	answer, err := s.gate.do(ctx, &call{
		method: method, kind: fsm.KindUserDisable, message: req, targets: []target{t},
		body: func(r *round) (any, error) {
			r.rest(objPrincipal(p))
			body := &fsm.PrincipalDisable{Principal: p.String(), Disabled: !req.GetEnable()}
			var err error
			switch p.Kind {
			case name.KindUser:
				u, ok := r.store.User(p.Name)
				if !ok {
					return body, nil // Apply says what that is
				}
				if err := s.gate.verify(r.footing, u, u.MAC, p.String()); err != nil {
					return nil, err
				}
				u.Disabled = body.Disabled
				body.MAC, err = r.mac(u)
			default:
				w, ok := r.store.Workload(p.Name)
				if !ok {
					return body, nil
				}
				if err := s.gate.verify(r.footing, w, w.MAC, p.String()); err != nil {
					return nil, err
				}
				w.Disabled = body.Disabled
				body.MAC, err = r.mac(w)
			}
			return body, err
		},
	})
	if err != nil {
		return nil, err
	}
	return s.identity(answer, p), nil
}

// SetPassword changes a password; an empty one ends password logins. The user's other logins end with it:
// whoever had the old password may be in one of them. Changing one's own takes the current one, because a
// token alone may have been left open somewhere.
func (s *identityService) SetPassword(ctx context.Context, req *hizov1.SetPasswordRequest) (*hizov1.Identity, error) {
	p, err := user(req.GetName())
	if err != nil {
		return nil, err
	}
	if len(req.GetPassword()) > 0 {
		if err := auth.CheckPassword(p.Name, req.GetPassword()); err != nil {
			return nil, err
		}
	}
	hash := s.hashOnce(ctx, req.GetPassword())
	current := &currentPassword{Server: s.Server, user: p, given: req.GetCurrent()}
	answer, err := s.gate.do(ctx, &call{
		method: "IdentityService/SetPassword", kind: fsm.KindUserPut, message: req,
		targets: []target{onIdentity(policy.PasswordSet, p)},
		body: func(r *round) (any, error) {
			r.rest(fsm.ObjUser(p.Name))
			body := &fsm.UserPut{Update: true, EndLogins: true}
			u, ok := r.store.User(p.Name)
			if !ok {
				body.User = fsm.User{Name: p.Name}
				return body, nil // Apply says what that is
			}
			if err := s.gate.verify(r.footing, u, u.MAC, p.String()); err != nil {
				return nil, err
			}
			if r.caller.principal == p {
				body.Keep = r.caller.token[:]
				if err := current.prove(ctx, r, u); err != nil {
					return nil, err
				}
			}
			if err := s.setPassword(r, &u, hash); err != nil {
				return nil, err
			}
			body.User = u
			return body, nil
		},
	})
	if err != nil {
		return nil, err
	}
	return s.identity(answer, p), nil
}

// currentPassword is the proof that one's own password is changed by oneself.
type currentPassword struct {
	*Server
	user   name.Principal
	given  []byte
	proven string // the hash that it was proven against
}

func (c *currentPassword) prove(ctx context.Context, r *round, u fsm.User) error {
	if _, again := r.store.Remembered(r.caller.text, r.request); again {
		return nil // a retry of what has taken effect, after which another password is current; Apply knows it
	}
	if len(u.Password) == 0 {
		// Nothing to prove it by; a SecurityEngineer could do the same by way of another account.
		if slices.Contains(r.caller.roles, policy.SecurityEngineer) {
			return nil
		}
		return &denial{why: "the first password is set by the role " + policy.SecurityEngineer}
	}
	if len(c.given) == 0 {
		return invalid("current", "changing one's own password takes the current one")
	}
	hash, err := c.passwordHash(r.footing, u.Name)
	if err != nil || hash == c.proven {
		return err
	}
	if wait, ok := c.gate.floods.attempt(r.origin.addr, c.user); !ok { // a stolen token is no way to guess it
		return rateLimited(wait)
	}
	ok, err := c.hasher.VerifyForChange(ctx, hash, c.given)
	if err != nil {
		return err
	}
	if !ok {
		return &denial{why: "the current password is another one"}
	}
	c.proven = hash
	return nil
}

// holder reads "alice" or "user/alice".
func holder(n string) (name.Principal, error) {
	if !strings.Contains(n, "/") {
		return user(n)
	}
	return name.ParsePrincipal(n)
}

// GrantRole gives a role to a user.
func (s *identityService) GrantRole(ctx context.Context, req *hizov1.RoleRequest) (*hizov1.RoleResponse, error) {
	return s.role(ctx, "GrantRole", policy.RoleGrant, fsm.KindRoleGrant, req, func(r *round, who string) (any, error) {
		b := fsm.RoleBinding{Role: req.GetRole(), Principal: who, By: r.caller.text, Created: r.now}
		var err error
		b.MAC, err = r.mac(b)
		return &b, err
	})
}

// RevokeRole takes a role away.
func (s *identityService) RevokeRole(ctx context.Context, req *hizov1.RoleRequest) (*hizov1.RoleResponse, error) {
	return s.role(ctx, "RevokeRole", policy.RoleRevoke, fsm.KindRoleRevoke, req, func(_ *round, who string) (any, error) {
		return &fsm.RoleRevoke{Role: req.GetRole(), Principal: who}, nil
	})
}

func (s *identityService) role(ctx context.Context, method string, action policy.Action, kind fsm.Kind, req *hizov1.RoleRequest, body func(*round, string) (any, error)) (*hizov1.RoleResponse, error) {
	p, err := holder(req.GetName())
	if err != nil {
		return nil, err
	}
	if !policy.IsRole(req.GetRole()) {
		return nil, invalid("role", "there is no such role; the roles are %s", strings.Join(policy.Roles(), ", "))
	}
	if !policy.CanHold(p.Kind) {
		return nil, invalid("name", "only users hold roles: grant a workload its references by a policy")
	}
	t := target{action: action, resource: policy.Role(req.GetRole()), name: p.String(), detail: "role " + req.GetRole()}
	answer, err := s.gate.do(ctx, &call{
		method: "IdentityService/" + method, kind: kind, message: req, targets: []target{t},
		body: func(r *round) (any, error) {
			// The grant matrix stands beside the policies, so that no mistake in those opens it.
			if !policy.CanGrant(r.caller.roles, req.GetRole()) {
				return nil, &denial{why: "roles are granted and revoked by the role " + policy.SecurityEngineer}
			}
			return body(r, p.String())
		},
	})
	if err != nil {
		return nil, err
	}
	out := &hizov1.RoleResponse{}
	for _, b := range answer.store.Roles(p.String()) {
		out.Roles = append(out.Roles, b.Role)
	}
	return out, nil
}

// ListRoles lists who holds which role.
func (s *identityService) ListRoles(ctx context.Context, _ *hizov1.ListRolesRequest) (*hizov1.ListRolesResponse, error) {
	var out *hizov1.ListRolesResponse
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onSystem(policy.RoleList)}}, func(answer *answer) error {
		out = &hizov1.ListRolesResponse{}
		for _, b := range answer.store.Bindings() {
			out.Bindings = append(out.Bindings, &hizov1.ListRolesResponse_Binding{
				Role: b.Role, Principal: b.Principal, By: b.By, CreatedUnix: b.Created / 1000,
			})
		}
		slices.SortStableFunc(out.Bindings, func(a, b *hizov1.ListRolesResponse_Binding) int {
			return cmp.Or(strings.Compare(a.Role, b.Role), strings.Compare(a.Principal, b.Principal))
		})
		return nil
	})
	return sent(out, err)
}

// CreateWorkload makes a machine identity. What it may have injected, policies say.
func (s *identityService) CreateWorkload(ctx context.Context, req *hizov1.CreateWorkloadRequest) (*hizov1.Identity, error) {
	p, err := workload(req.GetName())
	if err != nil {
		return nil, err
	}
	answer, err := s.gate.do(ctx, &call{
		method: "IdentityService/CreateWorkload", kind: fsm.KindWorkloadPut, message: req,
		targets: []target{onIdentity(policy.WorkloadCreate, p)},
		body: func(r *round) (any, error) {
			w := fsm.Workload{Name: p.Name, Created: r.now}
			var err error
			w.MAC, err = r.mac(w)
			return &fsm.WorkloadPut{Workload: w}, err
		},
	})
	if err != nil {
		return nil, err
	}
	return s.identity(answer, p), nil
}

// CreateSecretID makes a one-time secret id. Its text follows from the request id under the keyring's MAC
// key, so a retry over fail-over gets the same one; nothing but its hash is stored.
func (s *identityService) CreateSecretID(ctx context.Context, req *hizov1.CreateSecretIDRequest) (*hizov1.CreateSecretIDResponse, error) {
	p, err := workload(req.GetWorkload())
	if err != nil {
		return nil, err
	}
	ttl, err := lifetime(req.GetTtlSeconds(), 30*24*time.Hour)
	if err != nil {
		return nil, err
	}
	var text auth.Token
	var expires int64
	answer, err := s.gate.do(ctx, &call{
		method: "IdentityService/CreateSecretID", kind: fsm.KindSecretIDPut, message: req,
		targets: []target{onIdentity(policy.WorkloadSecretID, p)},
		body: func(r *round) (any, error) {
			seed, err := r.keys.MAC(r.cluster.MACGeneration, "hizo/secret-id/v1",
				aad.Tuple("hizo/secret-id/v1", []byte(r.caller.text), r.request[:], []byte(p.Name)))
			if err != nil {
				return nil, err
			}
			defer secret.New(seed).Wipe()
			text = auth.DeriveToken(auth.SecretID, seed)
			hash := text.Hash()
			expires = r.now + ttl.Milliseconds()
			id := fsm.SecretID{Hash: hash[:], Workload: p.Name, Expires: expires}
			id.MAC, err = r.mac(id)
			return &fsm.SecretIDPut{SecretID: id}, err
		},
	})
	if err != nil {
		return nil, err
	}
	if answer.Duplicate {
		hash := text.Hash()
		stored, ok := answer.store.SecretID(hash[:])
		if !ok {
			return nil, fault(hizov1.ReasonAnswerLost)
		}
		expires = stored.Expires
	}
	return &hizov1.CreateSecretIDResponse{SecretId: text.Reveal(), ExpiresUnix: expires / 1000}, nil
}

// maxCertificateTTL bounds client certificates.
const maxCertificateTTL = 365 * 24 * time.Hour

// IssueCertificate signs a client certificate. Its key may log in once that is on record.
func (s *identityService) IssueCertificate(ctx context.Context, req *hizov1.IssueCertificateRequest) (*hizov1.IssueCertificateResponse, error) {
	p, err := name.ParsePrincipal(req.GetPrincipal())
	if err != nil {
		return nil, err
	}
	if p.Kind == name.KindNode {
		return nil, invalid("principal", "nodes get their certificates by themselves: name a user or a workload")
	}
	seconds := req.GetTtlSeconds()
	if seconds == 0 {
		seconds = int64(maxTTL / time.Second)
	}
	ttl, err := lifetime(seconds, maxCertificateTTL)
	if err != nil {
		return nil, err
	}
	if len(req.GetCsr()) > 8<<10 {
		return nil, invalid("csr", "a certificate request of more than 8 KiB is none")
	}
	var chain []byte
	answer, err := s.gate.do(ctx, &call{
		method: "IdentityService/IssueCertificate", kind: fsm.KindCertificate, message: req,
		targets: []target{onIdentity(policy.CertificateIssue, p)},
		body: func(*round) (any, error) {
			pem, body, err := s.node.IssueClientCertificate(p.String(), req.GetCsr(), ttl)
			chain = pem
			return &body, err
		},
	})
	if err != nil {
		return nil, err
	}
	// A retry gets a certificate over the same key: what the state knows is the key, not the certificate.
	return &hizov1.IssueCertificateResponse{ChainPem: chain, ExpiresUnix: (answer.now + ttl.Milliseconds()) / 1000}, nil
}

// RevokeTokens ends every login of a principal at once, and what it could log in again by without a password:
// client certificates and the secret ids that were given out.
func (s *identityService) RevokeTokens(ctx context.Context, req *hizov1.RevokeTokensRequest) (*hizov1.RevokeTokensResponse, error) {
	p, err := holder(req.GetPrincipal())
	if err != nil {
		return nil, err
	}
	_, err = s.gate.do(ctx, &call{
		method: "IdentityService/RevokeTokens", kind: fsm.KindTokenRevoke, message: req,
		targets: []target{onIdentity(policy.TokenRevoke, p)},
		body:    func(*round) (any, error) { return &fsm.TokenRevoke{Principal: p.String(), Credentials: true}, nil },
	})
	if err != nil {
		return nil, err
	}
	return &hizov1.RevokeTokensResponse{}, nil
}
