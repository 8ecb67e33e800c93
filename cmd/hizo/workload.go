package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

// workloadLogin are the ways by which a machine proves who it is without holding a credential of the cluster. What
// proves it stays in memory, and so does the token that it is exchanged for.
type workloadLogin struct {
	WorkloadToken string `xor:"who" placeholder:"FILE" help:"Log in as a workload by the signed token (JWT) in a file, - for standard input."`
	Kubernetes    bool   `xor:"who" help:"Log in as a workload by the pod's projected token in /var/run/secrets/hizo/token (or the file named by HIZO_KUBERNETES_TOKEN_FILE)."`
	GitHub        bool   `name:"github" xor:"who" help:"Log in as a workload by the identity of this GitHub Actions job (permissions: id-token: write)."`
	GitLab        string `name:"gitlab" xor:"who" placeholder:"VARIABLE" help:"Log in as a workload by the GitLab id_tokens variable of this name."`
	SPIFFE        bool   `name:"spiffe" xor:"who" help:"Log in as a workload by the X.509-SVID that the SPIFFE Workload API gives (SPIFFE_ENDPOINT_SOCKET)."`
	SPIFFEJWT     bool   `name:"spiffe-jwt" xor:"who" help:"Log in as a workload by a JWT-SVID that the SPIFFE Workload API gives."`

	Audience string `placeholder:"TEXT" help:"Whom --github and --spiffe-jwt ask a token for (default: this cluster, by its CA)."`
	As       string `placeholder:"WORKLOAD" help:"Which workload, where the identity is bound to several."`
}

// kubernetesToken is where docs/guides mounts a projected token.
const kubernetesToken = "/var/run/secrets/hizo/token"

// Bounds and times of asking for identities.
const (
	maxIdentity     = 16 << 10 // bytes, as the server has it
	identityTimeout = 10 * time.Second
)

// given reports whether one of the ways was chosen.
func (w *workloadLogin) given() bool {
	return w.WorkloadToken != "" || w.Kubernetes || w.GitHub || w.GitLab != "" || w.SPIFFE || w.SPIFFEJWT
}

// inherited is an environment without the variable that holds a token for the cluster: a command has no use for it.
func (w *workloadLogin) inherited(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return w.GitLab != "" && name == w.GitLab
	})
}

// login logs in once.
func (w *workloadLogin) login(ctx context.Context, s *session, cfg client.Config, ttl int64) (*hizov1.LoginResponse, error) {
	if w.SPIFFE {
		cert, err := fetchSVID(ctx)
		if err != nil {
			return nil, err
		}
		return loginSPIFFE(ctx, cfg, cert, w.As, ttl)
	}
	token, err := w.token(ctx, s, cfg)
	if err != nil {
		return nil, err
	}
	cl, err := client.New(cfg)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	key := make([]byte, 32)
	rand.Read(key) // never fails
	return cl.Auth().LoginToken(ctx, &hizov1.LoginTokenRequest{Token: token, Workload: w.As, ClientKey: key, TtlSeconds: ttl})
}

func loginSPIFFE(ctx context.Context, cfg client.Config, cert *tls.Certificate, as string, ttl int64) (*hizov1.LoginResponse, error) {
	cfg.Certificate = func() (*tls.Certificate, error) { return cert, nil }
	cl, err := client.New(cfg)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	return cl.Auth().LoginSPIFFE(ctx, &hizov1.LoginSPIFFERequest{Workload: as, TtlSeconds: ttl})
}

// isSVID reports whether a certificate says to be an X.509-SVID.
func isSVID(cert *tls.Certificate) bool {
	return cert.Leaf != nil && len(cert.Leaf.URIs) == 1 && cert.Leaf.URIs[0].Scheme == "spiffe"
}

func fetchSVID(ctx context.Context) (*tls.Certificate, error) {
	if _, ok := workloadapi.GetDefaultAddress(); !ok {
		return nil, errNoWorkloadAPI
	}
	ctx, cancel := context.WithTimeout(ctx, identityTimeout)
	defer cancel()
	svid, err := workloadapi.FetchX509SVID(ctx)
	if err != nil {
		return nil, fmt.Errorf("the SPIFFE Workload API gives no X.509-SVID: %w: check that this workload is registered", err)
	}
	cert := &tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}
	for _, c := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert, nil
}

var errNoWorkloadAPI = errors.New("no SPIFFE Workload API is known: set SPIFFE_ENDPOINT_SOCKET, such as unix:///run/spire/agent.sock")

// token gets the JWT to log in with.
func (w *workloadLogin) token(ctx context.Context, s *session, cfg client.Config) (string, error) {
	switch {
	case w.Kubernetes:
		path := kubernetesToken
		if p := os.Getenv("HIZO_KUBERNETES_TOKEN_FILE"); p != "" {
			path = p
		}
		return tokenFrom(readFile(path, maxIdentity))
	case w.WorkloadToken == "-":
		return tokenFrom(s.stdinSecret("workload token"))
	case w.WorkloadToken != "":
		return tokenFrom(readFile(w.WorkloadToken, maxIdentity))
	case w.GitLab != "":
		value := os.Getenv(w.GitLab)
		if value == "" {
			return "", fmt.Errorf("the variable %s is not set: name it under id_tokens in the job", w.GitLab)
		}
		return tokenFrom([]byte(value), nil)
	}
	audience := w.Audience
	if audience == "" {
		var err error
		if audience, err = clusterAudience(cfg.CA); err != nil {
			return "", err
		}
	}
	if w.GitHub {
		return githubToken(ctx, audience)
	}
	if _, ok := workloadapi.GetDefaultAddress(); !ok {
		return "", errNoWorkloadAPI
	}
	ctx, cancel := context.WithTimeout(ctx, identityTimeout)
	defer cancel()
	svid, err := workloadapi.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return "", fmt.Errorf("the SPIFFE Workload API gives no JWT-SVID: %w: check that this workload is registered", err)
	}
	return svid.Marshal(), nil
}

func tokenFrom(data []byte, err error) (string, error) {
	if err != nil {
		return "", fmt.Errorf("workload token: %w", err)
	}
	text := string(bytes.TrimSpace(data))
	if strings.Count(text, ".") != 2 {
		return "", errors.New("workload token: not a signed JWT: check the file or variable that should hold it")
	}
	return text, nil
}

// clusterAudience is what tokens for this cluster are for, read from the certificate of its CA.
func clusterAudience(ca []byte) (string, error) {
	if block, _ := pem.Decode(ca); block != nil {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && cert.Subject.SerialNumber != "" {
			return hizov1.AudiencePrefix + cert.Subject.SerialNumber, nil
		}
	}
	return "", errors.New("the CA file does not name its cluster: pass --audience, as `hizo issuer show` lists it")
}

// githubToken asks GitHub for the identity of the job that this runs in.
func githubToken(ctx context.Context, audience string) (string, error) {
	address, bearer := os.Getenv("ACTIONS_ID_TOKEN_REQUEST_URL"), os.Getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
	if address == "" || bearer == "" {
		return "", errors.New("this job may not ask for its identity: give it `permissions: id-token: write`")
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is no https address: this is not GitHub Actions")
	}
	q := u.Query()
	q.Set("audience", audience)
	u.RawQuery = q.Encode()
	ctx, cancel := context.WithTimeout(ctx, identityTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is no address")
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	req.Header.Set("Accept", "application/json")
	// The bearer may ask for tokens as this job: it goes where the variable says and nowhere else.
	cl := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := cl.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // the URL itself is nobody's business
		}
		return "", fmt.Errorf("GitHub gives no identity: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("GitHub gives no identity (HTTP %d): check the job's permissions", resp.StatusCode)
	}
	var answer struct {
		Value string `json:"value"`
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4*maxIdentity))
	if err != nil || json.Unmarshal(body, &answer) != nil {
		return "", errors.New("GitHub gives no identity: its answer is not what it should be")
	}
	return tokenFrom([]byte(answer.Value), nil)
}

// source logs in and returns the token, and logs in again shortly before it ends. The identity is asked for anew each
// time: a pod's projected token, an SVID and a job's token change under us.
func (w *workloadLogin) source(ctx context.Context, s *session, cfg client.Config) (client.TokenSource, error) {
	t := &workloadTokens{now: time.Now, login: func(ctx context.Context) (*hizov1.LoginResponse, error) {
		return w.login(ctx, s, cfg, 0)
	}}
	if _, err := t.get(ctx); err != nil {
		return nil, err
	}
	return t.get, nil
}

// workloadTokens keeps one token alive.
type workloadTokens struct {
	login func(ctx context.Context) (*hizov1.LoginResponse, error)
	now   func() time.Time

	mu      sync.Mutex
	token   string
	renew   time.Time // log in again from here on
	expires time.Time
}

// retryLogin is how long a failed login is left alone while the token before still lives.
const retryLogin = 10 * time.Second

func (t *workloadTokens) get(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if t.token != "" && now.Before(t.renew) && now.Before(t.expires) {
		return t.token, nil
	}
	answer, err := t.login(ctx)
	if err != nil {
		if t.token != "" && now.Before(t.expires) {
			t.renew = now.Add(retryLogin)
			return t.token, nil
		}
		return "", err
	}
	t.token, t.expires = answer.GetToken(), time.Unix(answer.GetExpiresUnix(), 0)
	t.renew = t.expires.Add(-max(t.expires.Sub(now)/5, 0))
	return t.token, nil
}
