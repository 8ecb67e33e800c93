package api

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/fsm"
)

// Lifetimes of tokens.
const (
	defaultTTL = time.Hour
	maxTTL     = 24 * time.Hour // renewals included
)

// Methods of login.
const (
	methodPassword    = "password"
	methodSecretID    = "secret-id"
	methodCertificate = "certificate"
	methodEnrolment   = "enrolment"
)

// authService gives and takes tokens.
type authService struct {
	hizov1.UnimplementedAuthServiceServer
	*Server
}

// login is one attempt to get a token. It is the gate's counterpart for callers who have none yet.
type login struct {
	account name.Principal
	method  string
	ttl     time.Duration
	once    proto.Message // the request, of a login that is remembered by its request id
	code    string        // full method name, with once
	until   int64         // cluster time in ms that no token of this login outlives; 0: none
	// prove says whether the caller is who the account belongs to. It adds what that rests on.
	prove func(ctx context.Context, r *loginRound) (bool, error)
	// command makes the command that stores the token.
	command func(r *loginRound, token fsm.Token) (fsm.Kind, any, error)
}

type loginRound struct {
	footing
	origin  origin
	now     int64
	reads   []fsm.Read
	request [16]byte
}

func (r *loginRound) rest(object string) {
	r.reads = append(r.reads, fsm.Read{Object: object, Index: r.store.Index(object)})
}

// errLogin is the one answer to every attempt that fails to prove anything.
func errLogin() error {
	return &Error{Reason: hizov1.ReasonUnauthenticated, Message: "login failed: check name and password, or ask a SecurityEngineer whether the account is enabled"}
}

func lifetime(seconds int64, most time.Duration) (time.Duration, error) {
	if seconds == 0 {
		return min(defaultTTL, most), nil
	}
	if seconds < 0 || seconds > int64(most/time.Second) {
		return 0, invalid("ttl_seconds", "a lifetime is between 1 and %d seconds", int64(most/time.Second))
	}
	return time.Duration(seconds) * time.Second, nil
}

// login limits, proves, records, and only then gives a token. A failed attempt is on record before its
// answer, and costs the same whether the account exists or not.
func (s *authService) login(ctx context.Context, l *login) (*hizov1.LoginResponse, error) {
	from := originOf(ctx)
	var request [16]byte
	if l.once != nil {
		var err error
		if request, err = requestID(ctx); err != nil {
			return nil, err
		}
	}
	for n := range rounds {
		foot, err := s.gate.footing()
		if err != nil {
			return nil, err
		}
		if n == 0 {
			guessed := l.account
			if l.method != methodPassword {
				guessed = name.Principal{} // 256 random bits: a fleet of runs must not lock itself out
			}
			if wait, ok := s.gate.floods.attempt(from.addr, guessed); !ok {
				return nil, rateLimited(wait)
			}
		}
		r := &loginRound{footing: foot, origin: from, now: s.gate.now(foot.store), request: request}
		proven, err := l.prove(ctx, r)
		if err != nil {
			return nil, err
		}
		if !proven {
			err = s.failed(ctx, l, r)
		} else {
			var out *hizov1.LoginResponse
			if out, err = s.admit(ctx, l, r); err == nil {
				return out, nil
			}
		}
		if !errors.Is(err, errSuperseded) {
			return nil, err
		}
	}
	return nil, fault(hizov1.ReasonSuperseded)
}

// failed records a failed attempt, then says so. The account is readable only where it exists: people
// type passwords where names belong.
func (s *authService) failed(ctx context.Context, l *login, r *loginRound) error {
	resource := knownAccount(r.store, l.account.String())
	claims := encodeClaims(map[string]string{"account": l.account.String(), "method": l.method})
	sealed, err := r.seal(auditBind(anonymousText, actionLogin, resource), r.origin.addr, "", r.request, claims)
	if err != nil {
		return err
	}
	if resource != l.account.String() {
		r.reads = nil // the log would hold the typed name
	}
	result, err := s.node.Propose(ctx, fsm.Command{
		Format: fsm.CommandFormat, Kind: fsm.KindRecord, Principal: anonymousText, Reads: r.reads,
		Audits: []fsm.Audit{{
			Action: actionLogin, Resource: resource, Decision: fsm.Failed, Detail: l.method,
			Generation: r.cluster.AuditGeneration, Sealed: sealed,
		}},
	})
	if err != nil {
		return err
	}
	if result.Code == fsm.CodeSuperseded {
		return errSuperseded
	}
	if err := outcome(result); err != nil {
		return err
	}
	return errLogin()
}

func (s *authService) admit(ctx context.Context, l *login, r *loginRound) (*hizov1.LoginResponse, error) {
	text := auth.NewToken(auth.AccessToken)
	hash := text.Hash()
	who := l.account.String()
	token := fsm.Token{
		Hash: hash[:], Principal: who, Method: l.method, Issued: r.now,
		Expires: r.now + l.ttl.Milliseconds(), MaxExpires: r.now + maxTTL.Milliseconds(),
	}
	if l.until != 0 {
		token.MaxExpires = min(token.MaxExpires, l.until)
		token.Expires = min(token.Expires, token.MaxExpires)
	}
	var err error
	if token.MAC, err = r.mac(token); err != nil {
		return nil, err
	}
	kind, body, err := l.command(r, token)
	if err != nil {
		return nil, err
	}
	claims := encodeClaims(map[string]string{"method": l.method, "token": text.ID()})
	sealed, err := r.seal(auditBind(who, actionLogin, who), r.origin.addr, "", r.request, claims)
	if err != nil {
		return nil, err
	}
	cmd := fsm.Command{
		Format: fsm.CommandFormat, Kind: kind, Principal: who, Request: r.request, Reads: r.reads,
		Body: fsm.EncodeBody(kind, body),
		Audits: []fsm.Audit{{
			Action: actionLogin, Resource: who, Decision: fsm.Allowed, Detail: l.method,
			Generation: r.cluster.AuditGeneration, Sealed: sealed,
		}},
	}
	if l.once != nil {
		if cmd.Fingerprint, err = fingerprint(r.footing, l.code, l.once); err != nil {
			return nil, err
		}
	}
	result, err := s.node.Propose(ctx, cmd)
	if err != nil {
		return nil, err
	}
	if result.Code == fsm.CodeSuperseded {
		return nil, errSuperseded
	}
	if err := outcome(result); err != nil {
		return nil, err
	}
	out := &hizov1.LoginResponse{Token: text.Reveal(), Principal: who, ExpiresUnix: token.Expires / 1000}
	for _, b := range r.store.Roles(who) {
		out.Roles = append(out.Roles, b.Role)
	}
	return out, nil
}

func storeToken(_ *loginRound, token fsm.Token) (fsm.Kind, any, error) {
	return fsm.KindLogin, &fsm.Login{Token: token}, nil
}

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

// LoginCertificate of whoever holds the key of the connection's client certificate. The certificate's own
// names and dates play no part: the state says whose key it is, and until when.
func (s *authService) LoginCertificate(ctx context.Context, req *hizov1.LoginCertificateRequest) (*hizov1.LoginResponse, error) {
	ttl, err := lifetime(req.GetTtlSeconds(), maxTTL)
	if err != nil {
		return nil, err
	}
	key, ok := clientCertificateKey(ctx)
	if !ok {
		return nil, &Error{Reason: hizov1.ReasonUnauthenticated, Message: "the connection has no client certificate: connect with one, or log in another way"}
	}
	foot, err := s.gate.footing()
	if err != nil {
		return nil, err
	}
	// Whose login it is, is known from the key alone; for a key that nobody has it is nobody's.
	account := name.Principal{Kind: name.KindUser}
	if c, ok := foot.store.Certificate(key); ok {
		if account, err = name.ParsePrincipal(c.Principal); err != nil {
			return nil, err
		}
	}
	l := &login{
		account: account, method: methodCertificate, ttl: ttl,
		command: func(_ *loginRound, token fsm.Token) (fsm.Kind, any, error) {
			return fsm.KindLogin, &fsm.Login{Token: token, Certificate: key}, nil
		},
	}
	l.prove = func(_ context.Context, r *loginRound) (bool, error) {
		object := fsm.ObjCertificate(key)
		r.rest(object)
		c, ok := r.store.Certificate(key)
		if !ok || c.Principal != account.String() || c.Expires <= r.now {
			return false, nil
		}
		if err := s.gate.verify(r.footing, c, c.MAC, object); err != nil {
			return false, err
		}
		l.until = c.Expires
		r.rest(objPrincipal(account))
		return s.gate.enabled(r.footing, account)
	}
	return s.login(ctx, l)
}

// clientCertificateKey is the SHA-256 of the PKIX key that the TLS handshake proved. The handshake has
// verified the chain to the cluster's CA already (tls.go).
func clientCertificateKey(ctx context.Context) ([]byte, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return nil, false
	}
	pkix, err := x509.MarshalPKIXPublicKey(info.State.PeerCertificates[0].PublicKey)
	if err != nil {
		return nil, false
	}
	sum := sha256.Sum256(pkix)
	return sum[:], true
}

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
		ClusterId: fmt.Sprintf("%x", answer.cluster.ID),
	}, nil
}
