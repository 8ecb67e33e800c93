package api_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/fsm"
)

// What costs work is looked at only for those who may ask for it.
func TestWorkComesAfterTheDecision(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	c.Vault("ml")
	c.Put("ml", "db", "f", "x")
	bob := c.User("bob", "Operator")
	train := c.Workload("train", `permit(principal, action == Hizo::Action::"inject", resource);`)
	put := func(s *client.Client) string {
		_, err := s.Policies().PutPolicy(ctx, &hizov1.PutPolicyRequest{Name: "p", Text: "permit("})
		return apitest.Reason(err)
	}
	inject := func(s *client.Client) string {
		_, err := s.Secrets().Inject(ctx, &hizov1.InjectRequest{
			Refs: []*hizov1.InjectRequest_Ref{{Vault: "ml", Path: "db", Field: "f"}}, ExecutionKey: []byte("none"),
		})
		return apitest.Reason(err)
	}
	for i, tc := range []struct{ got, want string }{
		{put(c.Client()), hizov1.ReasonUnauthenticated}, {put(bob.Client), hizov1.ReasonPermissionDenied}, {put(c.Engineer.Client), hizov1.ReasonInvalid},
		{inject(c.Client()), hizov1.ReasonUnauthenticated}, {inject(bob.Client), hizov1.ReasonPermissionDenied}, {inject(train.Client), hizov1.ReasonInvalid},
	} {
		if tc.got != tc.want {
			t.Errorf("call %d: %s, want %s", i, tc.got, tc.want)
		}
	}
}

// An attempt that was allowed and could not be carried out is on record before its answer.
func TestFailedAttemptsAreOnRecord(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	s := c.Engineer
	c.User("bob")
	for action, tc := range map[string]struct {
		call   func() error
		detail string
	}{
		"put": {func() error {
			_, err := s.Secrets().Put(ctx, &hizov1.PutRequest{Vault: "nowhere", Path: "db", Fields: map[string][]byte{"f": nil}})
			return err
		}, hizov1.ReasonNotFound},
		"policy.put": {func() error {
			_, err := s.Policies().PutPolicy(ctx, &hizov1.PutPolicyRequest{Name: "p", Text: "permit("})
			return err
		}, hizov1.ReasonInvalid},
		"cluster.approve": {func() error {
			_, err := s.Cluster().Approve(ctx, &hizov1.ApproveRequest{Node: c.Nodes[1].ID, KeyFingerprint: strings.Repeat("0", 64)})
			return err
		}, hizov1.ReasonInvalid},
		"certificate.issue": {func() error {
			_, err := s.Identities().IssueCertificate(ctx, &hizov1.IssueCertificateRequest{Principal: "user/bob", Csr: []byte("none")})
			return err
		}, hizov1.ReasonInvalid},
		"password.set": {func() error {
			_, err := s.Identities().SetPassword(ctx, &hizov1.SetPasswordRequest{Name: "alice", Password: []byte("another long password")})
			return err
		}, hizov1.ReasonInvalid},
	} {
		before := c.Leader().Store().AuditSize()
		if err := tc.call(); apitest.Reason(err) != tc.detail {
			t.Errorf("%s: %v", action, err)
		}
		found := 0
		for rec, err := range c.Leader().Store().AuditRecords(before, c.Leader().Store().AuditSize()) {
			if err != nil {
				t.Fatal(err)
			}
			if rec.Action == action {
				found++
				if rec.Decision != fsm.Failed || rec.Principal != "user/alice" || rec.Detail != "not carried out: "+tc.detail {
					t.Errorf("%s: %+v", action, rec)
				}
			}
		}
		if found != 1 {
			t.Errorf("%s: %d records", action, found)
		}
	}
}

// Whoever holds any token can't fill the log with what needs no right; secrets go on at full speed.
func TestSelfServiceHasALowRate(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{Limits: api.Limits{Self: auth.Rate{Every: time.Hour, Burst: 5}}})
	ctx := t.Context()
	c.Vault("ml")
	c.Put("ml", "db", "f", "x")
	bob := c.User("bob")
	identities := hizov1.NewAuthServiceClient(dial(t, c, c.Leader().ID))
	refused := 0
	for range 20 {
		if _, err := identities.WhoAmI(bearer(ctx, bob.Token), &hizov1.WhoAmIRequest{}); reasonOf(err) == hizov1.ReasonRateLimited {
			refused++
		}
	}
	if refused != 15 {
		t.Errorf("%d of 20 were refused", refused)
	}
	if _, err := hizov1.NewPolicyServiceClient(dial(t, c, c.Leader().ID)).Explain(bearer(ctx, bob.Token), &hizov1.ExplainRequest{Principal: "user/bob", Action: "reveal", Resource: "ml/db"}); reasonOf(err) != hizov1.ReasonRateLimited {
		t.Errorf("another action of the same sort: %v", err)
	}
	for range 50 {
		if _, err := c.Engineer.Secrets().Reveal(ctx, &hizov1.RevealRequest{Vault: "ml", Path: "db"}); err != nil {
			t.Fatal(err)
		}
	}
	c.Await("the count", func() bool { return counted(t, c, "user/bob", "whoami", fsm.Failed) == 15 })
	found, err := c.Engineer.Audit().Search(ctx, &hizov1.SearchRequest{Principal: "user/bob", Action: "policy.explain", Decision: "failed"})
	if err != nil || len(found.GetRecords()) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	if rec := found.GetRecords()[0]; rec.GetClientAddress() != "127.0.0.1" || rec.GetClaims()["resources"] != "user/bob" {
		t.Errorf("the count says neither where from nor about what: %v", rec)
	}
}

// between calls hook once between a record's commit and its answer.
type between struct {
	api.Node
	action string
	hook   func()
	armed  *atomic.Bool
}

func (b *between) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	r, err := b.Node.Propose(ctx, cmd)
	if err == nil && len(cmd.Audits) == 1 && cmd.Audits[0].Action == b.action && b.armed.CompareAndSwap(true, false) {
		b.hook()
	}
	return r, err
}

// What is read from the state after the record is not shown to somebody whose right has ended since.
func TestListsAreDecidedAnew(t *testing.T) {
	t.Parallel()
	for action, list := range map[string]func(ctx context.Context, s *apitest.Session) error{
		"list": func(ctx context.Context, s *apitest.Session) error {
			_, err := s.Secrets().List(ctx, &hizov1.ListSecretsRequest{Vault: "ml"})
			return err
		},
		"versions": func(ctx context.Context, s *apitest.Session) error {
			_, err := s.Secrets().Versions(ctx, &hizov1.VersionsRequest{Vault: "ml", Path: "db"})
			return err
		},
		"user.list": func(ctx context.Context, s *apitest.Session) error {
			_, err := s.Identities().ListUsers(ctx, &hizov1.ListIdentitiesRequest{})
			return err
		},
		"role.list": func(ctx context.Context, s *apitest.Session) error {
			_, err := s.Identities().ListRoles(ctx, &hizov1.ListRolesRequest{})
			return err
		},
		"policy.list": func(ctx context.Context, s *apitest.Session) error {
			_, err := s.Policies().ListPolicies(ctx, &hizov1.ListPoliciesRequest{})
			return err
		},
		"cluster.members": func(ctx context.Context, s *apitest.Session) error {
			_, err := s.Cluster().Members(ctx, &hizov1.MembersRequest{})
			return err
		},
		"keys.list": func(ctx context.Context, s *apitest.Session) error {
			_, err := s.Keys().ListKeyRotations(ctx, &hizov1.ListKeyRotationsRequest{})
			return err
		},
	} {
		t.Run(action, func(t *testing.T) {
			var armed atomic.Bool
			var revoke func()
			opts := apitest.Options{Wrap: func(_ string, n api.Node) api.Node {
				return &between{Node: n, action: action, armed: &armed, hook: func() { revoke() }}
			}}
			opts.Nodes, opts.Development = 1, true
			c := apitest.Start(t, opts)
			ctx := t.Context()
			c.Vault("ml")
			c.Put("ml", "db", "f", "x")
			bob := c.User("bob", "SecurityEngineer")
			revoke = func() {
				if _, err := c.Engineer.Identities().RevokeRole(ctx, &hizov1.RoleRequest{Role: "SecurityEngineer", Name: "bob"}); err != nil {
					t.Error(err)
				}
			}
			if err := list(ctx, bob); err != nil {
				t.Fatal(err)
			}
			armed.Store(true)
			if err := list(ctx, bob); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
				t.Errorf("%s after the revocation: %v", action, err)
			}
			if counted(t, c, "user/bob", action, fsm.Denied) != 1 {
				t.Error("the denial is not on record")
			}
		})
	}
}

func TestOnesOwnPassword(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	bob := c.User("bob")
	other := c.Login("bob")
	next := []byte("a new long password")
	set := func(ctx context.Context, s *apitest.Session, user string, current string) error {
		_, err := s.Identities().SetPassword(ctx, &hizov1.SetPasswordRequest{Name: user, Password: next, Current: []byte(current)})
		return err
	}
	alive := func(s *apitest.Session) bool {
		_, err := s.Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{})
		if err != nil && apitest.Reason(err) != hizov1.ReasonUnauthenticated {
			t.Fatal(err)
		}
		return err == nil
	}
	if err := set(ctx, bob, "bob", ""); apitest.Reason(err) != hizov1.ReasonInvalid {
		t.Errorf("without the current password: %v", err)
	}
	if err := set(ctx, bob, "bob", "a wrong password"); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
		t.Errorf("with a wrong one: %v", err)
	}
	if !alive(other) {
		t.Error("a refused change ended a login")
	}
	once := client.WithRequestID(ctx, client.NewRequestID())
	for try := range 2 { // the retry finds another password in force
		if err := set(once, bob, "bob", apitest.Password); err != nil {
			t.Errorf("try %d: %v", try, err)
		}
	}
	if !alive(bob) || alive(other) {
		t.Errorf("the login of the change lives: %t, the other: %t", alive(bob), alive(other))
	}
	if _, err := c.Client().Auth().Login(ctx, &hizov1.LoginRequest{User: "bob", Password: []byte(apitest.Password)}); apitest.Reason(err) != hizov1.ReasonUnauthenticated {
		t.Errorf("the old password: %v", err)
	}
	// Another's takes the right, no password, and ends every login.
	if err := set(ctx, c.Engineer, "bob", ""); err != nil {
		t.Fatal(err)
	}
	if alive(bob) {
		t.Error("a login outlived the change by a SecurityEngineer")
	}
	if !alive(c.Engineer) {
		t.Error("the SecurityEngineer is logged out")
	}
}

// Who holds a token can't guess the password by it: that counts as logins.
func TestGuessingByAToken(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{Limits: api.Limits{Anonymous: auth.LimiterConfig{
		Address: auth.Rate{Every: 1, Burst: 1 << 20}, Pair: auth.Rate{Every: time.Hour, Burst: 4},
	}}})
	bob := c.User("bob") // one login
	identities := hizov1.NewIdentityServiceClient(dial(t, c, c.Leader().ID))
	reasons := map[string]int{}
	for range 10 {
		_, err := identities.SetPassword(bearer(t.Context(), bob.Token), &hizov1.SetPasswordRequest{Name: "bob", Password: []byte("a new long password"), Current: []byte("a guess")})
		reasons[reasonOf(err)]++
	}
	if reasons[hizov1.ReasonPermissionDenied] != 3 || reasons[hizov1.ReasonRateLimited] != 7 {
		t.Errorf("%v", reasons)
	}
}

// Revoking everything of a principal leaves it nothing to come back by but its password.
func TestCredentialsDieWithTheTokens(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	c.User("bob")
	c.Workload("train", "")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(seconds int64) tls.Certificate {
		out, err := c.Engineer.Identities().IssueCertificate(ctx, &hizov1.IssueCertificateRequest{Principal: "user/bob", Csr: csr, TtlSeconds: seconds})
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(out.GetChainPem())
		return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
	}
	login := func(cert tls.Certificate) (*hizov1.LoginResponse, error) {
		cl, err := client.New(client.Config{Addrs: c.Addrs(), CA: c.CA, Certificate: func() (*tls.Certificate, error) { return &cert, nil }})
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		return cl.Auth().LoginCertificate(ctx, &hizov1.LoginCertificateRequest{})
	}
	// Its token ends with the certificate, and can't be renewed beyond it.
	end := time.Now().Add(600 * time.Second).Unix()
	short, err := login(issue(600))
	if err != nil || short.GetExpiresUnix() > end+30 {
		t.Fatalf("a login by a certificate of ten minutes: %v, %v", short, err)
	}
	renewed, err := c.As(short).Auth().Renew(ctx, &hizov1.RenewRequest{TtlSeconds: 3600})
	if err != nil || renewed.GetExpiresUnix() > end+30 {
		t.Errorf("renewed: %v, %v", renewed, err)
	}
	cert := issue(3600)
	id, err := c.Engineer.Identities().CreateSecretID(ctx, &hizov1.CreateSecretIDRequest{Workload: "train"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"user/bob", "workload/train"} {
		if _, err := c.Engineer.Identities().RevokeTokens(ctx, &hizov1.RevokeTokensRequest{Principal: p}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := login(cert); apitest.Reason(err) != hizov1.ReasonUnauthenticated {
		t.Errorf("by the certificate: %v", err)
	}
	if _, err := c.Client().Auth().LoginWorkload(ctx, &hizov1.LoginWorkloadRequest{Workload: "train", SecretId: id.GetSecretId(), ClientKey: apitest.ClientKey()}); apitest.Reason(err) != hizov1.ReasonUnauthenticated {
		t.Errorf("by the secret id: %v", err)
	}
	if _, err := login(issue(3600)); err != nil {
		t.Errorf("by a certificate that was issued since: %v", err)
	}
}

// refusing refuses records of counts while told to.
type refusing struct {
	api.Node
	mu   sync.Mutex
	code fsm.Code
	err  error
	seen int
}

func (f *refusing) ForwardRecord(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	return f.Propose(ctx, cmd) // it leads
}

func (f *refusing) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	f.mu.Lock()
	code, err := f.code, f.err
	if cmd.Principal == "anonymous" && (code != 0 || err != nil) {
		f.seen++
		f.mu.Unlock()
		return fsm.Result{Code: code}, err
	}
	f.mu.Unlock()
	return f.Node.Propose(ctx, cmd)
}

// Counts that did not get on record are kept, whatever the log said.
func TestCountsAreKeptUntilTheyAreOnRecord(t *testing.T) {
	t.Parallel()
	for what, fault := range map[string]*refusing{
		"superseded": {code: fsm.CodeSuperseded}, "fenced": {code: fsm.CodeFenced}, "error": {err: errors.New("no majority")},
	} {
		t.Run(what, func(t *testing.T) {
			opts := apitest.Options{Wrap: func(_ string, n api.Node) api.Node { fault.Node = n; return fault }}
			opts.Nodes, opts.Development = 1, true
			code, failure := fault.code, fault.err
			fault.code, fault.err = 0, nil
			c := apitest.Start(t, opts)
			fault.mu.Lock()
			fault.code, fault.err = code, failure
			fault.mu.Unlock()
			conn := hizov1.NewAuthServiceClient(dial(t, c, c.Leader().ID))
			for range 7 {
				_, _ = conn.WhoAmI(bearer(t.Context(), auth.NewToken(auth.AccessToken).Reveal()), &hizov1.WhoAmIRequest{})
			}
			c.Await("a refused record", func() bool {
				fault.mu.Lock()
				defer fault.mu.Unlock()
				return fault.seen > 0
			})
			fault.mu.Lock()
			fault.code, fault.err = 0, nil
			fault.mu.Unlock()
			c.Await("the counts", func() bool { return counted(t, c, "anonymous", "authenticate", fsm.Failed) == 7 })
		})
	}
}
