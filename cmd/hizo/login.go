package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

type loginCmd struct {
	User          string `xor:"who" placeholder:"NAME" help:"Log in as a person, by password."`
	PasswordStdin bool   `help:"Read the password from standard input."`

	Enrol    bool   `help:"With --user: become a new user by a one-time enrolment code. Code and password are asked for, or read from standard input as two lines."`
	CodeFile string `type:"path" placeholder:"FILE" help:"Read the enrolment code from a file."`

	Workload      string `xor:"who" placeholder:"NAME" help:"Log in as a workload, by a one-time secret id."`
	SecretIDFile  string `name:"secret-id-file" xor:"secretid" placeholder:"FILE" help:"Read the secret id from a file."`
	SecretIDStdin bool   `name:"secret-id-stdin" xor:"secretid" help:"Read the secret id from standard input."`

	workloadLogin

	Cert string `xor:"who" type:"path" placeholder:"FILE" help:"Log in by a client certificate, or an X.509-SVID (PEM)."`
	Key  string `type:"path" placeholder:"FILE" help:"The certificate's private key (PEM)."`

	TTL time.Duration `help:"How long the login lasts (default and bounds are the server's)."`
}

func (c *loginCmd) Run(s *session) error {
	if err := c.check(); err != nil {
		return err
	}
	path, err := s.tokenPath()
	if err != nil {
		return err
	}
	cfg, err := s.config()
	if err != nil {
		return err
	}
	if c.Cert != "" {
		if cfg.Certificate, err = clientCertificate(c.Cert, c.Key); err != nil {
			return err
		}
	}
	before := s.whoIsIn(path)
	answer, err := c.login(s, cfg)
	if err != nil {
		return err
	}
	if before != "" && before != answer.GetPrincipal() {
		s.note("warning: this replaces the login of %s in %s, which lives on until it expires: set HIZO_TOKEN_FILE to keep several", before, path)
	}
	if err := writePrivate(path, []byte(answer.GetToken()+"\n")); err != nil {
		return fmt.Errorf("logged in, but the token can't be kept in %s (%w): mend that and log in again", path, err)
	}
	answer.Token = "" // it is in the file and nowhere else
	if s.g.Format == "table" {
		s.note("logged in as %s until %s%s", answer.GetPrincipal(), clock(answer.GetExpiresUnix()), roleList(answer.GetRoles()))
		return nil
	}
	return s.show(answer, table{})
}

// whoIsIn says whose login a token file holds: "" for nobody, and where that cannot be told now.
func (s *session) whoIsIn(path string) string {
	token, err := readFile(path, maxInput)
	if err != nil {
		return ""
	}
	cfg, err := s.config()
	if err != nil {
		return ""
	}
	cfg.Token = client.Token(string(trimNewline(token)))
	cl, err := client.New(cfg)
	if err != nil {
		return ""
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(s.ctx, 2*time.Second)
	defer cancel()
	me, err := cl.Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{})
	if err != nil {
		return ""
	}
	return me.GetPrincipal()
}

func roleList(roles []string) string {
	if len(roles) == 0 {
		return ""
	}
	return " (" + strings.Join(roles, ", ") + ")"
}

func (c *loginCmd) check() error {
	switch {
	case c.Enrol && c.User == "":
		return errors.New("--enrol makes a new user: name it with --user NAME")
	case c.User == "" && c.Workload == "" && c.Cert == "" && !c.given():
		return errors.New("say who logs in: --user NAME, --workload NAME, --cert FILE --key FILE, or as a workload --workload-token FILE, --kubernetes, --github, --gitlab VARIABLE, --spiffe")
	}
	return nil
}

func (c *loginCmd) login(s *session, cfg client.Config) (*hizov1.LoginResponse, error) {
	ttl := seconds(c.TTL)
	if c.given() {
		return c.workloadLogin.login(s.ctx, s, cfg, ttl)
	}
	if cfg.Certificate != nil {
		if cert, err := cfg.Certificate(); err == nil && isSVID(cert) {
			return loginSPIFFE(s.ctx, cfg, cert, c.As, ttl)
		}
	}
	cl, err := client.New(cfg)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	switch {
	case c.Enrol:
		return c.enrol(s, cl)
	case c.User != "":
		password, err := s.password("Password", c.PasswordStdin, false)
		if err != nil {
			return nil, err
		}
		defer clear(password)
		return cl.Auth().Login(s.ctx, &hizov1.LoginRequest{User: c.User, Password: password, TtlSeconds: ttl})
	case c.Workload != "":
		file := c.SecretIDFile
		if c.SecretIDStdin {
			file = "-"
		}
		return loginWorkload(s.ctx, s, cl, c.Workload, file, ttl)
	}
	return cl.Auth().LoginCertificate(s.ctx, &hizov1.LoginCertificateRequest{TtlSeconds: ttl})
}

func loginWorkload(ctx context.Context, s *session, cl *client.Client, workload, file string, ttl int64) (*hizov1.LoginResponse, error) {
	var id []byte
	var err error
	switch {
	case file != "":
		id, err = s.readSecretFile(file, "secret id")
	case s.interactive():
		id, err = s.ask("Secret id")
	default:
		err = errors.New("the secret id is missing: pass --secret-id-file FILE")
	}
	if err != nil {
		return nil, err
	}
	defer clear(id)
	key := make([]byte, 32)
	rand.Read(key) // never fails
	return cl.Auth().LoginWorkload(ctx, &hizov1.LoginWorkloadRequest{
		Workload: workload, SecretId: string(id), ClientKey: key, TtlSeconds: ttl,
	})
}

func (c *loginCmd) enrol(s *session, cl *client.Client) (*hizov1.LoginResponse, error) {
	code, password, err := c.enrolment(s)
	if err != nil {
		return nil, err
	}
	defer clear(password)
	key := make([]byte, 32)
	rand.Read(key) // never fails
	return cl.Auth().Enrol(s.ctx, &hizov1.EnrolRequest{Code: string(code), User: c.User, Password: password, ClientKey: key})
}

// enrolment gets code and password: what no file or flag gives, from standard input or by asking.
func (c *loginCmd) enrolment(s *session) (code, password []byte, err error) {
	var lines [][]byte
	if c.PasswordStdin || !s.interactive() {
		all, err := s.stdinAll()
		if err != nil {
			return nil, nil, err
		}
		lines = bytes.Split(trimNewline(all), []byte("\n"))
	}
	next := func() (line []byte) {
		if len(lines) > 0 {
			line, lines = bytes.TrimSuffix(lines[0], []byte("\r")), lines[1:]
		}
		return line
	}
	switch {
	case c.CodeFile != "":
		code, err = s.readSecretFile(c.CodeFile, "enrolment code")
	case lines != nil:
		code = next()
	default:
		code, err = s.ask("Enrolment code")
	}
	if err != nil {
		return nil, nil, err
	}
	if lines != nil {
		password = next()
	} else if password, err = s.password("New password", false, true); err != nil {
		return nil, nil, err
	}
	if len(code) == 0 || len(password) == 0 || len(lines) > 0 {
		return nil, nil, errors.New("standard input must hold the enrolment code and the new password, one line each (with --code-file the password alone)")
	}
	return bytes.TrimSpace(code), password, nil
}

func clientCertificate(cert, key string) (client.Certificate, error) {
	if key == "" {
		return nil, errors.New("a certificate needs its private key: pass --key FILE")
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	return func() (*tls.Certificate, error) { return &pair, nil }, nil
}

// seconds rounds up, so that a short duration does not become "the default".
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

type logoutCmd struct {
	All   bool `help:"Revoke every token of the principal, also those of other logins."`
	Force bool `help:"Delete the token file even when no node can be reached to revoke the token."`
}

func (c *logoutCmd) Run(s *session) error {
	path, err := s.tokenPath()
	if err != nil {
		return err
	}
	revoked := &hizov1.LogoutResponse{}
	if err := func() error {
		cl, err := s.connect()
		if err != nil {
			return err
		}
		revoked, err = cl.Auth().Logout(s.ctx, &hizov1.LogoutRequest{All: c.All})
		return err
	}(); err != nil {
		switch {
		case errors.Is(err, client.ErrNoToken):
			s.note("not logged in: there is nothing to do")
			return nil
		case client.IsReason(err, hizov1.ReasonUnauthenticated):
			s.note("the token had ended before")
		case !c.Force:
			return fmt.Errorf("%w; the token file stays (hizo logout --force deletes it, but the token lives until it expires)", err)
		default:
			s.note("warning: the token was not revoked and lives until it expires: %v", err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the token is revoked, but its file stays: %w", err)
	}
	if s.g.Format == "table" {
		s.note("logged out; %d tokens revoked", revoked.GetRevoked())
		return nil
	}
	return s.show(revoked, table{})
}

type whoamiCmd struct{}

func (whoamiCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	me, err := cl.Auth().WhoAmI(s.ctx, &hizov1.WhoAmIRequest{})
	if err != nil {
		return err
	}
	t := table{rows: [][]string{
		{"principal", me.GetPrincipal()},
		{"roles", orDash(strings.Join(me.GetRoles(), ", "))},
		{"logged in by", me.GetMethod()},
		{"until", clock(me.GetExpiresUnix())},
		{"renewable until", clock(me.GetMaxExpiresUnix())},
		{"cluster", me.GetClusterId()},
	}}
	if me.GetBinding() != "" {
		t.add("issuer", me.GetIssuer())
		t.add("binding", me.GetBinding())
	}
	for _, claim := range slices.Sorted(maps.Keys(me.GetClaims())) {
		t.add("claim "+claim, me.GetClaims()[claim])
	}
	return s.show(me, t)
}
