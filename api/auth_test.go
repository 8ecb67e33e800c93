package api_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/cluster/clustertest"
)

// A failed login says and costs the same whether the account exists or not, and is on record before it
// is answered.
func TestLoginTellsNothing(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{Passwords: auth.Params{Memory: 64 << 10, Time: 2, Threads: 1}})
	ctx := t.Context()
	c.User("bob")
	if _, err := c.Engineer.Identities().CreateUser(ctx, &hizov1.CreateUserRequest{Name: "nopassword"}); err != nil {
		t.Fatal(err)
	}
	c.User("gone")
	if _, err := c.Engineer.Identities().DisableUser(ctx, &hizov1.DisableRequest{Name: "gone"}); err != nil {
		t.Fatal(err)
	}
	attempts := map[string]string{"bob": "a wrong password", "nobody": apitest.Password, "nopassword": apitest.Password, "gone": apitest.Password}
	var message string
	took := make(map[string]time.Duration)
	for user := range attempts {
		took[user] = time.Hour
	}
	// By turns, so that a busy moment of the machine slows all of them down; the fastest of each counts.
	for range 3 {
		for user, password := range attempts {
			start := time.Now()
			_, err := c.Client().Auth().Login(ctx, &hizov1.LoginRequest{User: user, Password: []byte(password)})
			took[user] = min(took[user], time.Since(start))
			if apitest.Reason(err) != hizov1.ReasonUnauthenticated {
				t.Fatalf("%s: %v", user, err)
			}
			if message == "" {
				message = err.Error()
			}
			if err.Error() != message {
				t.Errorf("%s is told %q, others %q", user, err, message)
			}
		}
	}
	// argon2id over 128 MiB takes far longer than everything else together: an account that skipped it
	// would stand out.
	for user, d := range took {
		if d < took["bob"]/2 {
			t.Errorf("a login of %s takes %v, of bob %v: no password is hashed for it", user, d, took["bob"])
		}
	}

	found, err := c.Engineer.Audit().Search(ctx, &hizov1.SearchRequest{Action: "login", Decision: "failed"})
	if err != nil {
		t.Fatal(err)
	}
	byResource := make(map[string]int)
	for _, rec := range found.GetRecords() {
		byResource[rec.GetResource()]++
		if rec.GetPrincipal() != "anonymous" || rec.GetClientAddress() == "" || rec.GetClaims()["account"] == "" {
			t.Errorf("record: %v", rec)
		}
	}
	// A name that nobody has is not readable: people type passwords where names belong.
	for resource, want := range map[string]int{"user/bob": 3, "user/?": 3, "user/nopassword": 3, "user/gone": 3} {
		if byResource[resource] != want {
			t.Errorf("%s: %d records, want %d", resource, byResource[resource], want)
		}
	}
}

func TestSecretIDWorksOnce(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	c.Workload("train", "")
	other := c.Workload("other", "")
	id, err := c.Engineer.Identities().CreateSecretID(ctx, &hizov1.CreateSecretIDRequest{Workload: "train"})
	if err != nil {
		t.Fatal(err)
	}
	key := apitest.ClientKey()
	req := &hizov1.LoginWorkloadRequest{Workload: "train", SecretId: id.GetSecretId(), ClientKey: key}
	wrong := &hizov1.LoginWorkloadRequest{Workload: "other", SecretId: id.GetSecretId(), ClientKey: key}
	if _, err := c.Client().Auth().LoginWorkload(ctx, wrong); apitest.Reason(err) != hizov1.ReasonUnauthenticated {
		t.Errorf("another workload's secret id: %v", err)
	}
	once := client.WithRequestID(ctx, client.NewRequestID())
	first, err := c.Client().Auth().LoginWorkload(once, req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.As(first).Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{}); err != nil {
		t.Fatal(err)
	}
	// The answer was lost: the same request gets another token, and the first one is dead.
	second, err := c.Client().Auth().LoginWorkload(once, req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.As(first).Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{}); apitest.Reason(err) != hizov1.ReasonUnauthenticated {
		t.Errorf("the first token after the retry: %v", err)
	}
	if _, err := c.As(second).Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{}); err != nil {
		t.Errorf("the second token: %v", err)
	}
	// A thief with the secret id alone has nothing.
	if _, err := c.Client().Auth().LoginWorkload(ctx, req); apitest.Reason(err) != hizov1.ReasonUsed {
		t.Errorf("another login by the used secret id: %v", err)
	}
	stolen := &hizov1.LoginWorkloadRequest{Workload: "train", SecretId: id.GetSecretId(), ClientKey: apitest.ClientKey()}
	if _, err := c.Client().Auth().LoginWorkload(once, stolen); apitest.Reason(err) != hizov1.ReasonRequestReused {
		t.Errorf("the same request id by another client: %v", err)
	}
	if _, err := other.Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{}); err != nil {
		t.Errorf("somebody else's token: %v", err)
	}
}

func TestCertificateLogin(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	c.User("bob")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.Engineer.Identities().IssueCertificate(ctx, &hizov1.IssueCertificateRequest{Principal: "user/bob", Csr: csr})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(out.GetChainPem())
	cert := tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
	with := func(cert tls.Certificate) *client.Client {
		cl, err := client.New(client.Config{Addrs: c.Addrs(), CA: c.CA, Certificate: func() (*tls.Certificate, error) { return &cert, nil }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cl.Close() })
		return cl
	}
	login, err := with(cert).Auth().LoginCertificate(ctx, &hizov1.LoginCertificateRequest{})
	if err != nil || login.GetPrincipal() != "user/bob" {
		t.Fatalf("login: %v, %v", login.GetPrincipal(), err)
	}
	me, err := c.As(login).Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{})
	if err != nil || me.GetPrincipal() != "user/bob" || me.GetMethod() != "certificate" {
		t.Errorf("whoami: %v, %v", me, err)
	}
	if _, err := c.Client().Auth().LoginCertificate(ctx, &hizov1.LoginCertificateRequest{}); apitest.Reason(err) != hizov1.ReasonUnauthenticated {
		t.Errorf("without a certificate: %v", err)
	}
	// A certificate of another CA doesn't even get a connection.
	self, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: block2serial(t, block)}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	forged := client.Config{Addrs: c.Addrs(), CA: c.CA, Patience: time.Second, Certificate: func() (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{self}, PrivateKey: key}, nil
	}}
	cl, err := client.New(forged)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := cl.Auth().LoginCertificate(ctx, &hizov1.LoginCertificateRequest{}); err == nil {
		t.Error("a certificate of another CA logged in")
	}
	// A disabled user's certificate opens nothing.
	if _, err := c.Engineer.Identities().DisableUser(ctx, &hizov1.DisableRequest{Name: "bob"}); err != nil {
		t.Fatal(err)
	}
	if _, err := with(cert).Auth().LoginCertificate(ctx, &hizov1.LoginCertificateRequest{}); apitest.Reason(err) != hizov1.ReasonUnauthenticated {
		t.Errorf("a disabled user: %v", err)
	}
}

func block2serial(t *testing.T, b *pem.Block) *big.Int {
	t.Helper()
	cert, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert.SerialNumber
}

func TestTokensEndAndRenew(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	login, err := c.Client().Auth().Login(ctx, &hizov1.LoginRequest{User: "alice", Password: []byte(apitest.Password), TtlSeconds: 60})
	if err != nil {
		t.Fatal(err)
	}
	s := c.As(login)
	renewed, err := s.Auth().Renew(ctx, &hizov1.RenewRequest{TtlSeconds: 3600})
	if err != nil || renewed.GetExpiresUnix() < login.GetExpiresUnix()+3000 {
		t.Fatalf("renew: %v, %v", renewed, err)
	}
	most, err := s.Auth().Renew(ctx, &hizov1.RenewRequest{TtlSeconds: 24 * 3600})
	if err != nil || most.GetExpiresUnix() > login.GetExpiresUnix()-60+24*3600+1 {
		t.Errorf("renewed beyond the maximum: %v, %v", most, err)
	}
	if _, err := s.Auth().Renew(ctx, &hizov1.RenewRequest{TtlSeconds: 25 * 3600}); apitest.Reason(err) != hizov1.ReasonInvalid {
		t.Errorf("25 hours: %v", err)
	}
	if out, err := s.Auth().Logout(ctx, &hizov1.LogoutRequest{All: true}); err != nil {
		t.Fatal(err, out)
	}
	for _, dead := range []*apitest.Session{s, c.Engineer} {
		if _, err := dead.Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{}); apitest.Reason(err) != hizov1.ReasonUnauthenticated {
			t.Errorf("after the logout of all: %v", err)
		}
	}
	again := c.Login("alice")
	if me, err := again.Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{}); err != nil || !slices.Contains(me.GetRoles(), "SecurityEngineer") {
		t.Errorf("the next login: %v, %v", me, err)
	}
}

func TestTokensExpireByClusterTime(t *testing.T) {
	t.Parallel()
	clock := &clustertest.Clock{}
	c := apitest.Start(t, apitest.Options{Options: clustertest.Options{Clock: clock}})
	ctx := t.Context()
	login, err := c.Client().Auth().Login(ctx, &hizov1.LoginRequest{User: "alice", Password: []byte(apitest.Password), TtlSeconds: 60})
	if err != nil {
		t.Fatal(err)
	}
	s := c.As(login)
	if _, err := s.Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{}); err != nil {
		t.Fatal(err)
	}
	before := c.Leader().Store().AuditSize()
	clock.Advance(61 * time.Second)
	if _, err := s.Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{}); apitest.Reason(err) != hizov1.ReasonUnauthenticated {
		t.Errorf("an expired token: %v", err)
	}
	for rec, err := range c.Leader().Store().AuditRecords(before, c.Leader().Store().AuditSize()) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Action == "whoami" { // refused at the door, it did not cost a record of its own
			t.Errorf("%+v", rec)
		}
	}
	if _, err := c.Engineer.Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{}); err != nil {
		t.Errorf("a token that lasts longer: %v", err)
	}
}

// One clock that is hours ahead, a follower's or the leader's, calls no login over: what a majority's clocks have not
// confirmed is not the time.
func TestOneWrongClockEndsNoLogin(t *testing.T) {
	t.Parallel()
	clocks := map[string]*clustertest.Clock{"n1": {}, "n2": {}, "n3": {}}
	c := apitest.Start(t, apitest.Options{Options: clustertest.Options{Clocks: clocks}})
	c.Vault("ml")
	c.Put("ml", "db", "f", "1")
	leader, others := followers(c)
	wrong := others[0]
	stream, _, err := opened(t, at(t, c, c.Engineer, wrong.ID), secretFilter("db"))
	if err != nil {
		t.Fatal(err)
	}
	clocks[wrong.ID].Advance(30 * time.Hour)
	c.Put("ml", "db", "f", "2")
	if got := take(t, stream, 1); got[0] != "put ml/db@2" {
		t.Errorf("a watch at a follower whose clock is ahead: %q", got)
	}
	if _, _, err := opened(t, at(t, c, c.Engineer, wrong.ID), secretFilter("db")); err != nil {
		t.Errorf("a new watch there: %v", err)
	}

	clocks[wrong.ID].Advance(-30 * time.Hour)
	clocks[leader.ID].Advance(30 * time.Hour)
	if got := c.Put("ml", "db", "f", "3"); got != 3 {
		t.Errorf("a put while the leader's clock is ahead made version %d", got)
	}
	if now := c.Leader(); now == leader {
		t.Error("the leader with the wrong clock leads on")
	}
}

func TestGrantMatrix(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	c.User("bob")
	c.Workload("train", "")
	for _, role := range []string{"Operator", "Auditor", "PipelineOwner"} {
		s := c.User("u-"+string(role[0]|0x20), role)
		for _, other := range []string{"SecurityEngineer", "Operator", "Auditor", "PipelineOwner"} {
			for _, to := range []string{"bob", s.Principal} {
				if _, err := s.Identities().GrantRole(ctx, &hizov1.RoleRequest{Role: other, Name: to}); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
					t.Errorf("%s grants %s to %s: %v", role, other, to, err)
				}
			}
			if _, err := s.Identities().RevokeRole(ctx, &hizov1.RoleRequest{Role: "SecurityEngineer", Name: "alice"}); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
				t.Errorf("%s revokes: %v", role, err)
			}
		}
		if _, err := s.Policies().PutPolicy(ctx, &hizov1.PutPolicyRequest{Name: "mine", Text: `permit(principal, action == Hizo::Action::"inject", resource);`}); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
			t.Errorf("%s puts a policy: %v", role, err)
		}
	}
	if _, err := c.Engineer.Identities().GrantRole(ctx, &hizov1.RoleRequest{Role: "SecurityEngineer", Name: "workload/train"}); apitest.Reason(err) != hizov1.ReasonInvalid {
		t.Errorf("a role for a workload: %v", err)
	}
	if _, err := c.Engineer.Identities().RevokeRole(ctx, &hizov1.RoleRequest{Role: "SecurityEngineer", Name: "alice"}); apitest.Reason(err) != hizov1.ReasonLastSecurityEngineer {
		t.Errorf("the last SecurityEngineer loses the role: %v", err)
	}
	if _, err := c.Engineer.Identities().DisableUser(ctx, &hizov1.DisableRequest{Name: "alice"}); apitest.Reason(err) != hizov1.ReasonLastSecurityEngineer {
		t.Errorf("the last SecurityEngineer is disabled: %v", err)
	}
}
