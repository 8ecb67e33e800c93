package api

import (
	"context"
	"errors"
	"maps"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
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
	methodOIDC        = "oidc"
	methodSPIFFE      = "spiffe"
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
	// Of a workload identity, set by prove.
	ground *ground           // what it rests on, once proven
	why    string            // it was not, from a fixed set
	shown  map[string]string // further claims of the record's sealed part
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

// errFederated is the one answer to every workload identity that is not taken.
func errFederated() error {
	return &Error{Reason: hizov1.ReasonUnauthenticated, Message: "login failed: the cluster takes this workload identity for nobody; the audit log says why, and `hizo binding test` tries a token without logging in"}
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
				s.meters.limited.Add(1)
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
				s.meters.login(l.method, true)
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
	claims := encodeClaims(l.sealed(map[string]string{"account": l.account.String()}))
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
			Action: actionLogin, Resource: resource, Decision: fsm.Failed, Detail: l.detail(),
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
	s.meters.login(l.method, false)
	if l.why != "" {
		return errFederated()
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
	if g := l.ground; g != nil {
		token.Issuer, token.IssuerMade = g.issuer.Name, g.issuer.Made
		token.Binding, token.BindingMade, token.Claims = g.binding.Name, g.binding.Made, g.claims
	}
	var err error
	if token.MAC, err = r.mac(token); err != nil {
		return nil, err
	}
	kind, body, err := l.command(r, token)
	if err != nil {
		return nil, err
	}
	claims := encodeClaims(l.sealed(map[string]string{"token": text.ID()}))
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

// detail is what the record of a failed attempt tells readably.
func (l *login) detail() string {
	if l.why == "" {
		return l.method
	}
	return l.method + ": " + l.why
}

// sealed adds to what the sealed part of the record tells.
func (l *login) sealed(claims map[string]string) map[string]string {
	claims["method"] = l.method
	maps.Copy(claims, l.shown)
	return claims
}

func storeToken(_ *loginRound, token fsm.Token) (fsm.Kind, any, error) {
	return fsm.KindLogin, &fsm.Login{Token: token}, nil
}
