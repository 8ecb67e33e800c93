package api_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/auth/issuer"
	"github.com/hizo/hizo/api/auth/issuer/issuertest"
	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/crypto/hybrid"
)

// ci is a cluster with an issuer "ci" whose keys are static, and the binding "main": who runs on main of org/model is
// the workload train.
type ci struct {
	*apitest.Cluster
	*issuertest.Issuer
	t        *testing.T
	audience string
}

func startCI(t *testing.T) *ci {
	t.Helper()
	c := &ci{Cluster: apitest.Start(t, apitest.Options{}), Issuer: issuertest.New(t), t: t}
	c.audience = fmt.Sprintf("%s%x", hizov1.AudiencePrefix, c.Cluster.ID)
	c.issuer(&hizov1.Issuer{Name: "ci", Url: c.URL, Keys: c.JWKS()})
	c.workload("train")
	c.bind(&hizov1.Binding{Name: "main", Issuer: "ci", Workload: "train", Match: match("repository", "org/model", "ref", "refs/heads/main"), Carry: []string{"environment"}})
	return c
}

func match(pairs ...string) (out []*hizov1.Claim) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, &hizov1.Claim{Name: pairs[i], Value: pairs[i+1]})
	}
	return out
}

func (c *ci) issuer(i *hizov1.Issuer) {
	c.t.Helper()
	if _, err := c.Engineer.Issuers().PutIssuer(c.t.Context(), &hizov1.PutIssuerRequest{Issuer: i}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *ci) workload(name string) {
	c.t.Helper()
	if _, err := c.Engineer.Identities().CreateWorkload(c.t.Context(), &hizov1.CreateWorkloadRequest{Name: name}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *ci) bind(b *hizov1.Binding) {
	c.t.Helper()
	if _, err := c.Engineer.Issuers().PutBinding(c.t.Context(), &hizov1.PutBindingRequest{Binding: b}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *ci) try(token, workload string) (*hizov1.LoginResponse, error) {
	return c.Client().Auth().LoginToken(c.t.Context(), &hizov1.LoginTokenRequest{
		Token: token, Workload: workload, ClientKey: apitest.ClientKey(),
	})
}

func (c *ci) login(changes map[string]any) *apitest.Session {
	c.t.Helper()
	out, err := c.try(c.GitHub(c.audience, changes), "")
	if err != nil {
		c.t.Fatal(err)
	}
	return c.As(out)
}

// alive says what a session's next request meets.
func alive(t *testing.T, s *apitest.Session) string {
	_, err := s.Auth().WhoAmI(t.Context(), &hizov1.WhoAmIRequest{})
	return apitest.Reason(err)
}

// newest is the newest record of logins with this decision.
func (c *ci) newest(decision string) *hizov1.AuditRecord {
	c.t.Helper()
	out, err := c.Engineer.Audit().Search(c.t.Context(), &hizov1.SearchRequest{Action: "login", Decision: decision, Limit: 1})
	if err != nil || len(out.GetRecords()) == 0 {
		c.t.Fatalf("no record of a login that is %s: %v", decision, err)
	}
	return out.GetRecords()[0]
}

func TestWorkloadIdentity(t *testing.T) {
	t.Parallel()
	c := startCI(t)
	ctx := t.Context()
	t.Run("login", func(t *testing.T) {
		s := c.login(map[string]any{"environment": "production"})
		me, err := s.Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if me.GetPrincipal() != "workload/train" || me.GetMethod() != "oidc" || me.GetIssuer() != "ci" || me.GetBinding() != "main" {
			t.Errorf("%v", me)
		}
		want := map[string]string{"repository": "org/model", "ref": "refs/heads/main", "environment": "production", "iss": c.URL, "sub": "repo:org/model:ref:refs/heads/main"}
		if fmt.Sprint(me.GetClaims()) != fmt.Sprint(want) {
			t.Errorf("claims %v, want %v", me.GetClaims(), want)
		}
		if most := time.Now().Add(time.Hour + time.Minute).Unix(); me.GetMaxExpiresUnix() > most {
			t.Errorf("renewable until %d, beyond the binding's hour", me.GetMaxExpiresUnix())
		}
		r := c.newest("allowed")
		if r.GetPrincipal() != "workload/train" || r.GetDetail() != "oidc" || r.GetClaims()["claim.repository"] != "org/model" ||
			r.GetClaims()["claim.ref"] != "refs/heads/main" || r.GetClaims()["issuer"] != "ci" || r.GetClaims()["binding"] != "main" {
			t.Errorf("record %v", r)
		}
	})

	t.Run("refused", func(t *testing.T) {
		other := issuertest.New(t)
		other.Rotate("rsa-1", true)
		claims := func(changes map[string]any) string { return c.GitHub(c.audience, changes) }
		for name, a := range map[string]struct{ token, workload, detail string }{
			"another cluster's audience":      {c.GitHub(hizov1.AudiencePrefix+"00112233445566778899aabbccddeeff", nil), "", "oidc: for another audience"},
			"expired":                         {claims(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}), "", "oidc: expired"},
			"of the future":                   {claims(map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}), "", "oidc: not valid yet"},
			"an issuer that is not ours":      {other.GitHub(c.audience, nil), "", "oidc: no such issuer"},
			"our issuer's name, another key":  {other.GitHub(c.audience, map[string]any{"iss": c.URL}), "", "oidc: signed with an unknown key"},
			"another branch":                  {claims(map[string]any{"ref": "refs/heads/dev"}), "", "oidc: no binding matches"},
			"another repository":              {claims(map[string]any{"repository": "org/Model"}), "", "oidc: no binding matches"},
			"without the claim":               {claims(map[string]any{"ref": nil}), "", "oidc: no binding matches"},
			"a workload that it is not":       {claims(nil), "eval", "oidc: no binding matches"},
			"a name that nobody has":          {claims(nil), "nobody", "oidc: no binding matches"},
			"claims larger than may be kept":  {claims(map[string]any{"environment": strings.Repeat("x", 9<<10)}), "", "oidc: too large"},
			"a SPIFFE ID of no trust domain":  {claims(map[string]any{"sub": "spiffe://nowhere/x", "ref": "x"}), "", "oidc: no binding matches"},
			"an algorithm that is not pinned": {rs512(t, c), "", "oidc: signature algorithm not allowed"},
		} {
			_, err := c.try(a.token, a.workload)
			if apitest.Reason(err) != hizov1.ReasonUnauthenticated {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if r := c.newest("failed"); r.GetDetail() != a.detail || r.GetPrincipal() != "anonymous" {
				t.Errorf("%s: record %v", name, r)
			}
		}
		for name, token := range map[string]string{"no JWT": "secret", "oversize": strings.Repeat("x", issuer.MaxToken+1), "none": "eyJhbGciOiJub25lIn0.e30."} {
			if _, err := c.try(token, ""); apitest.Reason(err) != hizov1.ReasonInvalid || strings.Contains(err.Error(), token) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if r := c.newest("failed"); r.GetClaims()["unverified.sub"] == "" && r.GetClaims()["claim.sub"] == "" {
			t.Errorf("the record does not say who it said to be: %v", r.GetClaims())
		}
	})

	t.Run("ambiguous", func(t *testing.T) {
		c.workload("eval")
		c.bind(&hizov1.Binding{Name: "eval", Issuer: "ci", Workload: "eval", Match: match("repository", "org/model")})
		if _, err := c.try(c.GitHub(c.audience, nil), ""); apitest.Reason(err) != hizov1.ReasonUnauthenticated || c.newest("failed").GetDetail() != "oidc: bindings of several workloads match" {
			t.Errorf("%v", err)
		}
		for _, workload := range []string{"train", "eval"} {
			if out, err := c.try(c.GitHub(c.audience, nil), workload); err != nil || out.GetPrincipal() != "workload/"+workload {
				t.Errorf("%s: %v, %v", workload, out, err)
			}
		}
		if _, err := c.Engineer.Issuers().DeleteBinding(ctx, &hizov1.DeleteBindingRequest{Name: "eval"}); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("a token comes again", func(t *testing.T) {
		token := c.GitHub(c.audience, nil)
		for range 2 {
			if _, err := c.try(token, ""); err != nil {
				t.Error(err)
			}
		}
		c.issuer(&hizov1.Issuer{Name: "ci", Url: c.URL, Keys: c.JWKS(), Once: true})
		if _, err := c.try(token, ""); err != nil {
			t.Error(err)
		}
		if _, err := c.try(token, ""); apitest.Reason(err) != hizov1.ReasonUsed {
			t.Errorf("logged in twice: %v", err)
		}
		if _, err := c.try(c.GitHub(c.audience, nil), ""); err != nil {
			t.Error(err)
		}
		c.issuer(&hizov1.Issuer{Name: "ci", Url: c.URL, Keys: c.JWKS()})
	})

	t.Run("policies see claims", func(t *testing.T) {
		c.Vault("ml")
		c.Put("ml", "db", "password", "x")
		if _, err := c.Engineer.Policies().PutPolicy(ctx, &hizov1.PutPolicyRequest{Name: "production", Text: `
			permit (principal == Hizo::Workload::"train", action == Hizo::Action::"inject", resource in Hizo::Vault::"ml")
			when { context.claims.hasTag("environment") && context.claims.getTag("environment") == "production" };`}); err != nil {
			t.Fatal(err)
		}
		production, staging := c.login(map[string]any{"environment": "production"}), c.login(map[string]any{"environment": "staging"})
		inject := func(s *apitest.Session) string {
			key, err := hybrid.NewKey()
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Secrets().Inject(ctx, &hizov1.InjectRequest{
				Refs: []*hizov1.InjectRequest_Ref{{Vault: "ml", Path: "db", Field: "password"}}, ExecutionKey: key.Public(), Execution: "test",
			})
			return apitest.Reason(err)
		}
		for range 3 { // one decision is never the other's
			if got := inject(production); got != "" {
				t.Errorf("production: %s", got)
			}
			if got := inject(staging); got != hizov1.ReasonPermissionDenied {
				t.Errorf("staging: %s", got)
			}
		}
	})

	t.Run("a login ends with its binding", func(t *testing.T) {
		main := &hizov1.Binding{Name: "main", Issuer: "ci", Workload: "train", Match: match("repository", "org/model", "ref", "refs/heads/main")}
		s := c.login(nil)
		c.bind(main)
		if got := alive(t, s); got != "" {
			t.Errorf("the binding still matches: %s", got)
		}
		main.Match = match("repository", "org/model", "ref", "refs/heads/release")
		c.bind(main)
		if got := alive(t, s); got != hizov1.ReasonUnauthenticated {
			t.Errorf("the claims no longer match: %q", got)
		}
		if _, err := s.Auth().Renew(ctx, &hizov1.RenewRequest{TtlSeconds: 60}); apitest.Reason(err) != hizov1.ReasonUnauthenticated {
			t.Errorf("renewed: %v", err)
		}
		main.Match, main.Condition = match("repository", "org/model"), `context.claims.hasTag("ref") && context.claims.getTag("ref") like "refs/heads/m*"`
		c.bind(main)
		if got := alive(t, s); got != "" {
			t.Errorf("the condition holds: %s", got)
		}
		if _, err := s.Auth().Renew(ctx, &hizov1.RenewRequest{TtlSeconds: 60}); err != nil {
			t.Error(err)
		}
		if _, err := c.Engineer.Issuers().DeleteBinding(ctx, &hizov1.DeleteBindingRequest{Name: "main"}); err != nil {
			t.Fatal(err)
		}
		if got := alive(t, s); got != hizov1.ReasonUnauthenticated {
			t.Errorf("the binding is gone: %q", got)
		}
		c.bind(main)
		if got := alive(t, s); got != hizov1.ReasonUnauthenticated {
			t.Errorf("a new binding of the same name: %q", got)
		}
	})

	t.Run("a login ends with its issuer and its workload", func(t *testing.T) {
		s := c.login(nil)
		if _, err := c.Engineer.Issuers().PutIssuer(ctx, &hizov1.PutIssuerRequest{Issuer: &hizov1.Issuer{Name: "ci", Url: c.URL, Keys: c.JWKS()}, EndLogins: true}); err != nil {
			t.Fatal(err)
		}
		if got := alive(t, s); got != hizov1.ReasonUnauthenticated {
			t.Errorf("logins were ended: %q", got)
		}
		s = c.login(nil)
		disable := func(enable bool) {
			if _, err := c.Engineer.Identities().DisableWorkload(ctx, &hizov1.DisableRequest{Name: "train", Enable: enable}); err != nil {
				t.Fatal(err)
			}
		}
		disable(false)
		if got := alive(t, s); got != hizov1.ReasonUnauthenticated {
			t.Errorf("the workload is disabled: %q", got)
		}
		if _, err := c.try(c.GitHub(c.audience, nil), ""); apitest.Reason(err) != hizov1.ReasonUnauthenticated || c.newest("failed").GetDetail() != "oidc: the workload is disabled" {
			t.Errorf("%v", err)
		}
		disable(true)
		s = c.login(nil)
		if _, err := c.Engineer.Issuers().DeleteIssuer(ctx, &hizov1.DeleteIssuerRequest{Name: "ci"}); err != nil {
			t.Fatal(err)
		}
		if got := alive(t, s); got != hizov1.ReasonUnauthenticated {
			t.Errorf("the issuer is gone: %q", got)
		}
		if _, err := c.try(c.GitHub(c.audience, nil), ""); apitest.Reason(err) != hizov1.ReasonUnauthenticated {
			t.Errorf("logged in: %v", err)
		}
	})
}

// rs512 is a token whose header names an algorithm of the same key that is not pinned.
func rs512(t *testing.T, c *ci) string {
	t.Helper()
	part := strings.SplitN(c.GitHub(c.audience, nil), ".", 2)
	return "eyJhbGciOiJSUzUxMiIsImtpZCI6InJzYS0xIn0." + part[1] // {"alg":"RS512","kid":"rsa-1"}
}

// TestUnreachableIssuerStallsNobody: while one issuer hangs, others log in, and so do people.
func TestUnreachableIssuerStallsNobody(t *testing.T) {
	t.Parallel()
	c := startCI(t)
	c.User("bob")
	slow := issuertest.New(t)
	c.issuer(&hizov1.Issuer{Name: "slow", Url: slow.URL, Ca: slow.CA, AllowLocal: true})
	c.bind(&hizov1.Binding{Name: "slow", Issuer: "slow", Workload: "train", Match: match("repository", "org/model")})
	release, arrived := make(chan struct{}), make(chan struct{}, 10)
	slow.Answer(func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
		}
		slow.Serve(w, r)
	})
	waiting := make(chan error, 1)
	go func() {
		_, err := c.try(slow.GitHub(c.audience, nil), "")
		waiting <- err
	}()
	<-arrived
	if got := alive(t, c.login(nil)); got != "" {
		t.Errorf("another issuer: %s", got)
	}
	c.Login("bob")
	select {
	case err := <-waiting:
		t.Fatalf("the hanging issuer's login ended: %v", err)
	default:
	}
	close(release)
	if err := <-waiting; err != nil {
		t.Errorf("the login that waited: %v", err)
	}
}

func TestSPIFFELogin(t *testing.T) {
	t.Parallel()
	c := startCI(t)
	ctx := t.Context()
	d, foreign := issuertest.NewTrustDomain(t, "prod.example"), issuertest.NewTrustDomain(t, "evil.example")
	forged := issuertest.NewTrustDomain(t, "prod.example") // the name, with other keys
	c.issuer(&hizov1.Issuer{Name: "prod", Kind: "spiffe", Url: d.URL(), Keys: d.Bundle()})
	c.bind(&hizov1.Binding{Name: "svid", Issuer: "prod", Workload: "train", Match: match("sub", d.URL()+"/ns/ml/sa/train")})
	by := func(cert tls.Certificate) (*hizov1.LoginResponse, error) {
		cl, err := client.New(client.Config{
			Addrs: c.Addrs(), CA: c.Cluster.CA, Certificate: func() (*tls.Certificate, error) { return &cert, nil }, Patience: time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		return cl.Auth().LoginSPIFFE(ctx, &hizov1.LoginSPIFFERequest{})
	}
	out, err := by(d.SVID("/ns/ml/sa/train", 10*time.Minute, nil))
	if err != nil {
		t.Fatal(err)
	}
	me, err := c.As(out).Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{})
	if err != nil || me.GetPrincipal() != "workload/train" || me.GetMethod() != "spiffe" || me.GetClaims()["sub"] != d.URL()+"/ns/ml/sa/train" {
		t.Fatalf("%v, %v", me, err)
	}
	if me.GetMaxExpiresUnix() > time.Now().Add(10*time.Minute+time.Minute).Unix() {
		t.Error("the login outlives the SVID")
	}
	for name, a := range map[string]struct {
		cert   tls.Certificate
		detail string
	}{
		"another ID":   {d.SVID("/ns/ml/sa/eval", time.Minute, nil), "spiffe: no binding matches"},
		"another path": {d.SVID("/ns/ml/sa/train/x", time.Minute, nil), "spiffe: no binding matches"},
		"forged":       {forged.SVID("/ns/ml/sa/train", time.Minute, nil), "spiffe: certificate not of the trust domain"},
		"expired":      {d.SVID("/ns/ml/sa/train", -time.Second, nil), "spiffe: certificate not of the trust domain"},
	} {
		if _, err := by(a.cert); apitest.Reason(err) != hizov1.ReasonUnauthenticated {
			t.Errorf("%s: %v", name, err)
		} else if r := c.newest("failed"); r.GetDetail() != a.detail {
			t.Errorf("%s: record %v", name, r)
		}
	}
	if _, err := by(foreign.SVID("/ns/ml/sa/train", time.Minute, nil)); err == nil || apitest.Reason(err) == hizov1.ReasonUnauthenticated {
		t.Errorf("a trust domain that nobody configured gets through the handshake: %v", err)
	}
	if _, err := c.Client().Auth().LoginSPIFFE(ctx, &hizov1.LoginSPIFFERequest{}); apitest.Reason(err) != hizov1.ReasonUnauthenticated {
		t.Errorf("without a certificate: %v", err)
	}
	// An SVID is no certificate of the cluster, not even over a key that has one.
	cert := d.SVID("/ns/ml/sa/train", time.Minute, nil)
	csr := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, cert.PrivateKey))
	must(c.Engineer.Identities().IssueCertificate(ctx, &hizov1.IssueCertificateRequest{Principal: "workload/train", Csr: csr}))
	cl, err := client.New(client.Config{Addrs: c.Addrs(), CA: c.Cluster.CA, Certificate: func() (*tls.Certificate, error) { return &cert, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := cl.Auth().LoginCertificate(ctx, &hizov1.LoginCertificateRequest{}); apitest.Reason(err) != hizov1.ReasonUnauthenticated {
		t.Errorf("LoginCertificate by an SVID: %v", err)
	}
	// A JWT-SVID of the same trust domain.
	out, err = c.try(d.JWT("/ns/ml/sa/train", c.audience, time.Minute), "")
	if err != nil || out.GetPrincipal() != "workload/train" {
		t.Errorf("JWT-SVID: %v, %v", out, err)
	}
	if _, err := c.try(d.JWT("/ns/ml/sa/train", "another", time.Minute), ""); apitest.Reason(err) != hizov1.ReasonUnauthenticated {
		t.Errorf("JWT-SVID for another audience: %v", err)
	}
}

func TestIssuersAndBindings(t *testing.T) {
	t.Parallel()
	c := startCI(t)
	ctx := t.Context()
	put := func(i *hizov1.Issuer) error {
		_, err := c.Engineer.Issuers().PutIssuer(ctx, &hizov1.PutIssuerRequest{Issuer: i})
		return err
	}
	bind := func(b *hizov1.Binding) error {
		_, err := c.Engineer.Issuers().PutBinding(ctx, &hizov1.PutBindingRequest{Binding: b})
		return err
	}
	b := func(change func(*hizov1.Binding)) error {
		one := &hizov1.Binding{Name: "b", Issuer: "ci", Workload: "train", Match: match("repository", "x")}
		change(one)
		return bind(one)
	}
	if err := put(&hizov1.Issuer{Name: "github", Url: "https://token.actions.githubusercontent.com"}); err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]struct {
		err  error
		want string
	}{
		"HS256":                 {put(&hizov1.Issuer{Name: "x", Url: "https://x.example", Algorithms: []string{"HS256"}}), hizov1.ReasonInvalid},
		"http":                  {put(&hizov1.Issuer{Name: "x", Url: "http://x.example"}), hizov1.ReasonInvalid},
		"no name":               {put(&hizov1.Issuer{Url: "https://x.example"}), hizov1.ReasonInvalid},
		"another's URL":         {put(&hizov1.Issuer{Name: "x", Url: c.URL}), hizov1.ReasonExists},
		"once for SVIDs":        {put(&hizov1.Issuer{Name: "x", Kind: "spiffe", Url: "spiffe://x", Once: true}), hizov1.ReasonInvalid},
		"no trust bundle":       {put(&hizov1.Issuer{Name: "x", Kind: "spiffe", Url: "spiffe://x"}), hizov1.ReasonInvalid},
		"nothing demanded":      {b(func(b *hizov1.Binding) { b.Match = nil }), hizov1.ReasonInvalid},
		"a claim twice":         {b(func(b *hizov1.Binding) { b.Match = match("a", "1", "a", "2") }), hizov1.ReasonInvalid},
		"not Cedar":             {b(func(b *hizov1.Binding) { b.Condition = "repository is x" }), hizov1.ReasonInvalid},
		"no such issuer":        {b(func(b *hizov1.Binding) { b.Issuer = "x" }), hizov1.ReasonNotFound},
		"no such workload":      {b(func(b *hizov1.Binding) { b.Workload = "x" }), hizov1.ReasonNotFound},
		"too long":              {b(func(b *hizov1.Binding) { b.MaxTtlSeconds = 25 * 3600 }), hizov1.ReasonInvalid},
		"anybody's main branch": {b(func(b *hizov1.Binding) { b.Issuer, b.Match = "github", match("ref", "refs/heads/main") }), hizov1.ReasonInvalid},
		"anybody's, in Cedar": {b(func(b *hizov1.Binding) {
			b.Issuer, b.Match, b.Condition = "github", nil, `context.claims.hasTag("ref")`
		}), hizov1.ReasonInvalid},
		"one's own repository":   {b(func(b *hizov1.Binding) { b.Issuer = "github" }), ""},
		"delete what is not":     {errOnly(c.Engineer.Issuers().DeleteBinding(ctx, &hizov1.DeleteBindingRequest{Name: "x"})), hizov1.ReasonNotFound},
		"get what is not":        {errOnly(c.Engineer.Issuers().GetIssuer(ctx, &hizov1.GetIssuerRequest{Name: "x"})), hizov1.ReasonNotFound},
		"test what is not":       {errOnly(c.Engineer.Issuers().TestBinding(ctx, &hizov1.TestBindingRequest{Name: "x", Token: "y"})), hizov1.ReasonNotFound},
		"a workload may not put": {errOnly(c.login(nil).Issuers().PutBinding(ctx, &hizov1.PutBindingRequest{Binding: &hizov1.Binding{Name: "b", Issuer: "ci", Workload: "train", Match: match("a", "b")}})), hizov1.ReasonPermissionDenied},
	} {
		if got := apitest.Reason(a.err); got != a.want {
			t.Errorf("%s: %v", name, a.err)
		}
	}
	got, err := c.Engineer.Issuers().GetIssuer(ctx, &hizov1.GetIssuerRequest{Name: "ci"})
	if err != nil || got.GetAudiences()[0] != c.audience || got.GetBy() != "user/alice" || string(got.GetKeys()) != string(c.JWKS()) || got.GetMaxAgeSeconds() != 24*3600 {
		t.Errorf("%v, %v", got, err)
	}
	one, err := c.Engineer.Issuers().GetBinding(ctx, &hizov1.GetBindingRequest{Name: "main"})
	if err != nil || len(one.GetMatch()) != 2 || one.GetMaxTtlSeconds() != 3600 {
		t.Errorf("%v, %v", one, err)
	}
	issuers, err := c.Engineer.Issuers().ListIssuers(ctx, &hizov1.ListIssuersRequest{})
	if err != nil || len(issuers.GetIssuers()) != 2 {
		t.Errorf("%v, %v", issuers, err)
	}
	bindings, err := c.Engineer.Issuers().ListBindings(ctx, &hizov1.ListBindingsRequest{})
	if err != nil || len(bindings.GetBindings()) != 2 {
		t.Errorf("%v, %v", bindings, err)
	}
	found, err := c.Engineer.Audit().Search(ctx, &hizov1.SearchRequest{Action: "issuer.put", Resource: "issuer/github"})
	if err != nil || len(found.GetRecords()) != 1 || !strings.Contains(found.GetRecords()[0].GetDetail(), "https://token.actions.githubusercontent.com, keys by discovery") {
		t.Errorf("%v, %v", found, err)
	}
}

func errOnly[T any](_ T, err error) error { return err }

func TestBindingIsTested(t *testing.T) {
	t.Parallel()
	c := startCI(t)
	d := issuertest.NewTrustDomain(t, "prod.example")
	c.issuer(&hizov1.Issuer{Name: "prod", Kind: "spiffe", Url: d.URL(), Keys: d.Bundle()})
	c.bind(&hizov1.Binding{Name: "svid", Issuer: "prod", Workload: "train", Match: match("sub", d.URL()+"/train")})
	for name, a := range map[string]struct {
		binding, token string
		matches        bool
		says           string
	}{
		"good":           {"main", c.GitHub(c.audience, nil), true, `repository: is "org/model"`},
		"another branch": {"main", c.GitHub(c.audience, map[string]any{"ref": "refs/heads/dev"}), false, `ref: is "refs/heads/dev", must be "refs/heads/main"`},
		"no branch":      {"main", c.GitHub(c.audience, map[string]any{"ref": nil}), false, `ref: is absent, must be "refs/heads/main"`},
		"audience":       {"main", c.GitHub("x", nil), false, "aud is x, taken is " + c.audience},
		"expired":        {"main", c.GitHub(c.audience, map[string]any{"exp": 1_700_000_000}), false, "exp 2023-11-14T22:13:20Z"},
		"another issuer": {"svid", c.GitHub(c.audience, nil), false, "the binding's is spiffe://prod.example"},
		"garbage":        {"main", "x", false, "readable: malformed"},
		"JWT-SVID":       {"svid", d.JWT("/train", c.audience, time.Minute), true, "workload/train: is enabled"},
	} {
		out, err := c.Engineer.Issuers().TestBinding(t.Context(), &hizov1.TestBindingRequest{Name: a.binding, Token: a.token})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var text strings.Builder
		for _, check := range out.GetChecks() {
			fmt.Fprintf(&text, "%t %s: %s\n", check.GetOk(), check.GetWhat(), check.GetDetail())
		}
		if out.GetMatches() != a.matches || !strings.Contains(text.String(), a.says) {
			t.Errorf("%s: matches %t\n%s", name, out.GetMatches(), &text)
		}
	}
	if n := len(must(c.Engineer.Audit().Search(t.Context(), &hizov1.SearchRequest{Action: "binding.test"})).GetRecords()); n != 8 {
		t.Errorf("%d records", n)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
