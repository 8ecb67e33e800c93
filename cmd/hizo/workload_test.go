package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/auth/issuer/issuertest"
	"github.com/hizo/hizo/api/hizov1"
)

func TestMatchExpressions(t *testing.T) {
	for text, want := range map[string]string{
		`repository == "org/model" && ref == "refs/heads/main"`: `repository=org/model;ref=refs/heads/main`,
		`repository=org/model`:          `repository=org/model`,
		`sub=a=b==c`:                    `sub=a=b==c`,
		`kubernetes.io.namespace=="ml"`: `kubernetes.io.namespace=ml`,
		`a == "x \" && b == \"y"`:       `a=x " && b == "y`,
		`empty=`:                        `empty=`,
		`a == "x" || b == "y"`:          "",
		`a != "x"`:                      "",
		`a == x`:                        "",
		`a == 'x'`:                      "",
		`a == "x" &&`:                   "",
		`a == "x" b == "y"`:             "",
		`!a == "x"`:                     "",
		`a`:                             "",
		``:                              "",
		`== "x"`:                        "",
	} {
		claims, err := parseMatch(text)
		var got []string
		for _, c := range claims {
			got = append(got, c.GetName()+"="+c.GetValue())
		}
		if strings.Join(got, ";") != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
}

// A token is used until it is nearly over, then the machine logs in again; while that fails it is used to its end.
func TestWorkloadTokensStayAlive(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	logins, failing := 0, false
	tokens := &workloadTokens{now: func() time.Time { return now }, login: func(context.Context) (*hizov1.LoginResponse, error) {
		if failing {
			return nil, errors.New("away")
		}
		logins++
		return &hizov1.LoginResponse{Token: fmt.Sprint("token-", logins), ExpiresUnix: now.Add(100 * time.Second).Unix()}, nil
	}}
	for _, step := range []struct {
		after   time.Duration
		failing bool
		want    string
	}{
		{0, false, "token-1"}, {79 * time.Second, false, "token-1"}, {time.Second, false, "token-2"},
		{85 * time.Second, true, "token-2"}, {14 * time.Second, true, "token-2"}, {2 * time.Second, true, ""}, {0, false, "token-3"},
	} {
		now, failing = now.Add(step.after), step.failing
		got, err := tokens.get(t.Context())
		if got != step.want || (err == nil) != (step.want != "") {
			t.Errorf("after %v: %q, %v; want %q", step.after, got, err, step.want)
		}
	}
}

// federation is what scripts and the guide log in by: an issuer that signs as GitHub, GitLab and Kubernetes do.
type federation struct {
	ci       *issuertest.Issuer
	domain   *issuertest.TrustDomain
	audience string
}

func newFederation(t *testing.T, c *apitest.Cluster) *federation {
	t.Helper()
	f := &federation{ci: issuertest.New(t), domain: issuertest.NewTrustDomain(t, "prod.example")}
	f.audience = fmt.Sprintf("%s%x", hizov1.AudiencePrefix, c.ID)
	f.ci.Answer(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/job/identity" {
			f.ci.Serve(w, r)
			return
		}
		// What GitHub answers to a job that may ask for its identity.
		if r.Header.Get("Authorization") != "Bearer of-the-job" || r.URL.Query().Get("api-version") != "2.0" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		token := f.ci.GitHub(r.URL.Query().Get("audience"), map[string]any{"iss": githubIssuer})
		_ = json.NewEncoder(w).Encode(map[string]any{"count": 1, "value": token})
	})
	return f
}

// environ prepares a directory for scripts: tokens, keys, and the variables of a CI job.
func (f *federation) environ(t *testing.T, dir string) []string {
	t.Helper()
	for name, content := range map[string]string{
		"issuer-ca.pem": string(f.ci.CA), "jwks.json": string(f.ci.JWKS()), "bundle.json": string(f.domain.Bundle()),
		"pod-token":   f.ci.Kubernetes(f.audience, map[string]any{"iss": "https://kubernetes.default.svc.cluster.local"}),
		"other-token": f.ci.Kubernetes(f.audience, map[string]any{"iss": "https://kubernetes.default.svc.cluster.local", "sub": "system:serviceaccount:web:frontend", "kubernetes.io": map[string]any{"namespace": "web", "serviceaccount": map[string]any{"name": "frontend"}}}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return []string{
		"SSL_CERT_FILE=" + filepath.Join(dir, "issuer-ca.pem"), // of the server that stands for GitHub's
		"ACTIONS_ID_TOKEN_REQUEST_URL=" + f.ci.URL + "/job/identity?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=of-the-job",
		"HIZO_KUBERNETES_TOKEN_FILE=" + filepath.Join(dir, "pod-token"),
		"HIZO_ID_TOKEN=" + f.ci.GitLab(f.audience, map[string]any{"iss": gitlabIssuer}),
		"SPIFFE_ENDPOINT_SOCKET=" + f.domain.WorkloadAPI(t, "/ns/ml/sa/train", time.Hour),
	}
}
