package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hizo/hizo/api/hizov1"
)

// maxKeySet bounds a key set in bytes, as the server has it.
const maxKeySet = 256 << 10

type issuerCmd struct {
	Put    issuerPutCmd    `cmd:"" help:"Take the word of an issuer for who a machine is, or change how."`
	List   issuerListCmd   `cmd:"" help:"List issuers."`
	Show   issuerShowCmd   `cmd:"" help:"Show an issuer and its keys."`
	Delete issuerDeleteCmd `cmd:"" help:"Delete an issuer: every login that rests on it ends."`
}

type issuerPutCmd struct {
	Name string `arg:"" help:"Name of the issuer."`

	URL         string `name:"url" xor:"whose" placeholder:"URL" help:"The issuer (iss) of its tokens: https://…"`
	GitHub      bool   `name:"github" xor:"whose" help:"GitHub Actions: its issuer, RS256, and each token logs in once."`
	GitLab      bool   `name:"gitlab" xor:"whose" help:"gitlab.com: its issuer, RS256, and each token logs in once."`
	TrustDomain string `xor:"whose" placeholder:"NAME" help:"A SPIFFE trust domain, such as example.org; takes --bundle."`

	Keys       string `xor:"keys" type:"path" placeholder:"FILE" help:"Its keys, as a JWKS file. They change when the issuer is put again."`
	KeysURL    string `name:"keys-url" xor:"keys" placeholder:"URL" help:"Where its keys are published (default: found by discovery)."`
	Bundle     string `xor:"keys" type:"path" placeholder:"FILE" help:"The trust bundle of --trust-domain: SPIFFE JSON, or certificates in PEM."`
	CA         string `name:"ca" type:"path" placeholder:"FILE" help:"The CA of the issuer's server in PEM (default: the system's)."`
	AllowLocal bool   `help:"Allow its keys to be fetched from loopback and link-local addresses."`

	Audience  []string      `placeholder:"TEXT,..." help:"Whom its tokens must be for (default: this cluster)."`
	Algorithm []string      `placeholder:"ALG,..." help:"Signature algorithms that are taken (default: RS256,ES256)."`
	Once      bool          `help:"Each token logs in once."`
	MaxAge    time.Duration `placeholder:"DURATION" help:"How long after it was issued a token is taken (default: 24h)."`
	EndLogins bool          `help:"End every login that rests on the issuer."`
}

// Issuers that need no more than their names.
const (
	githubIssuer = "https://token.actions.githubusercontent.com"
	gitlabIssuer = "https://gitlab.com"
)

func (c *issuerPutCmd) Run(s *session) error {
	in := &hizov1.Issuer{
		Name: c.Name, Kind: "oidc", Url: c.URL, KeysUrl: c.KeysURL, AllowLocal: c.AllowLocal, Audiences: c.Audience,
		Algorithms: c.Algorithm, Once: c.Once, MaxAgeSeconds: seconds(c.MaxAge),
	}
	keys := c.Keys
	switch {
	case c.GitHub:
		in.Url, in.Once = githubIssuer, true
	case c.GitLab:
		in.Url, in.Once = gitlabIssuer, true
	case c.TrustDomain != "":
		in.Kind, in.Url = "spiffe", "spiffe://"+c.TrustDomain
		if keys = c.Bundle; keys == "" {
			return errors.New("a trust domain needs its trust bundle: --bundle FILE (spire-server bundle show -format spiffe)")
		}
	case c.URL == "":
		return errors.New("say whose tokens are taken: --url URL, --github, --gitlab, or --trust-domain NAME")
	}
	if c.Bundle != "" && c.TrustDomain == "" {
		return errors.New("--bundle is for --trust-domain: an issuer's keys are given with --keys")
	}
	if (c.GitHub || c.GitLab) && len(in.Algorithms) == 0 {
		in.Algorithms = []string{"RS256"}
	}
	var err error
	if keys != "" {
		if in.Keys, err = readFile(keys, maxKeySet); err != nil {
			return fmt.Errorf("keys of the issuer: %w", err)
		}
	}
	if c.CA != "" {
		if in.Ca, err = readFile(c.CA, maxKeySet); err != nil {
			return fmt.Errorf("CA of the issuer: %w", err)
		}
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	out, err := cl.Issuers().PutIssuer(s.ctx, &hizov1.PutIssuerRequest{Issuer: in, EndLogins: c.EndLogins})
	if err != nil {
		return err
	}
	return s.show(out, issuerTable(out))
}

func issuerTable(i *hizov1.Issuer) table {
	return table{rows: [][]string{
		{"issuer", i.GetName()},
		{"kind", i.GetKind()},
		{"url", i.GetUrl()},
		{"audiences", strings.Join(i.GetAudiences(), ", ")},
		{"algorithms", strings.Join(i.GetAlgorithms(), ", ")},
		{"keys", keysOf(i)},
		{"each token", map[bool]string{true: "logs in once", false: "logs in while it lasts"}[i.GetOnce()]},
		{"taken for", (time.Duration(i.GetMaxAgeSeconds()) * time.Second).String()},
		{"by", i.GetBy()},
		{"created", clock(i.GetCreatedUnix())},
	}}
}

func keysOf(i *hizov1.Issuer) string {
	switch {
	case i.GetKind() == "spiffe":
		return "trust bundle"
	case len(i.GetKeys()) > 0:
		return "from a file"
	case i.GetKeysUrl() != "":
		return i.GetKeysUrl()
	}
	return "by discovery"
}

type issuerListCmd struct{}

func (issuerListCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	l, err := cl.Issuers().ListIssuers(s.ctx, &hizov1.ListIssuersRequest{})
	if err != nil {
		return err
	}
	t := table{head: []string{"ISSUER", "KIND", "URL", "ONCE", "CREATED"}}
	for _, i := range l.GetIssuers() {
		t.add(i.GetName(), i.GetKind(), i.GetUrl(), yesNo(i.GetOnce()), clock(i.GetCreatedUnix()))
	}
	return s.show(l, t)
}

type issuerShowCmd struct {
	Name string `arg:"" help:"Name of the issuer."`
}

func (c *issuerShowCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	i, err := cl.Issuers().GetIssuer(s.ctx, &hizov1.GetIssuerRequest{Name: c.Name})
	if err != nil {
		return err
	}
	return s.show(i, issuerTable(i))
}

type issuerDeleteCmd struct {
	Name string `arg:"" help:"Name of the issuer."`
	Yes  bool   `help:"Do not ask."`
}

func (c *issuerDeleteCmd) Run(s *session) error {
	if err := s.confirm(fmt.Sprintf("Delete the issuer %s and end every login that rests on it?", c.Name), c.Yes); err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Issuers().DeleteIssuer(s.ctx, &hizov1.DeleteIssuerRequest{Name: c.Name})
	if err != nil {
		return err
	}
	return s.show(r, table{rows: [][]string{{"deleted", c.Name}}})
}
