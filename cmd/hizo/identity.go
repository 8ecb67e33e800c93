package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hizo/hizo/api/hizov1"
)

type userCmd struct {
	Create   userCreateCmd   `cmd:"" help:"Create a person's identity."`
	List     userListCmd     `cmd:"" help:"List people."`
	Disable  userDisableCmd  `cmd:"" help:"Disable a person: every token ends at once."`
	Enable   userEnableCmd   `cmd:"" help:"Take a disabling back."`
	Password userPasswordCmd `cmd:"" help:"Set a person's password."`
}

type userCreateCmd struct {
	Name          string `arg:"" help:"Name of the new user."`
	PasswordStdin bool   `xor:"password" help:"Read the password from standard input."`
	NoPassword    bool   `xor:"password" help:"Allow no login by password."`
}

func (c *userCreateCmd) Run(s *session) error {
	var password []byte
	var err error
	if !c.NoPassword {
		if password, err = s.password("Password of "+c.Name, c.PasswordStdin, true); err != nil {
			return err
		}
		defer clear(password)
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	u, err := cl.Identities().CreateUser(s.ctx, &hizov1.CreateUserRequest{Name: c.Name, Password: password})
	if err != nil {
		return err
	}
	return s.showIdentities(u)
}

// showIdentities shows one.
func (s *session) showIdentities(one *hizov1.Identity) error {
	return s.show(one, identityTable([]*hizov1.Identity{one}))
}

func identityTable(all []*hizov1.Identity) table {
	t := table{head: []string{"PRINCIPAL", "ROLES", "DISABLED", "CREATED"}}
	for _, i := range all {
		t.add(i.GetPrincipal(), orDash(strings.Join(i.GetRoles(), ", ")), yesNo(i.GetDisabled()), clock(i.GetCreatedUnix()))
	}
	return t
}

type userListCmd struct{}

func (userListCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	l, err := cl.Identities().ListUsers(s.ctx, &hizov1.ListIdentitiesRequest{})
	if err != nil {
		return err
	}
	return s.show(l, identityTable(l.GetIdentities()))
}

type userDisableCmd struct {
	Name string `arg:"" help:"Name of the user."`
}

func (c *userDisableCmd) Run(s *session) error { return disableUser(s, c.Name, false) }

type userEnableCmd struct {
	Name string `arg:"" help:"Name of the user."`
}

func (c *userEnableCmd) Run(s *session) error { return disableUser(s, c.Name, true) }

func disableUser(s *session, name string, enable bool) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	u, err := cl.Identities().DisableUser(s.ctx, &hizov1.DisableRequest{Name: name, Enable: enable})
	if err != nil {
		return err
	}
	return s.showIdentities(u)
}

type userPasswordCmd struct {
	Name          string `arg:"" help:"Name of the user."`
	PasswordStdin bool   `help:"Read the password from standard input: for one's own, the current one in the line before it."`
}

func (c *userPasswordCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	me, err := cl.Auth().WhoAmI(s.ctx, &hizov1.WhoAmIRequest{})
	if err != nil {
		return err
	}
	var current, password []byte
	switch own := me.GetPrincipal() == "user/"+c.Name; {
	case own && c.PasswordStdin:
		both, err := s.stdinSecret("The current password, and the new one")
		if err != nil {
			return err
		}
		defer clear(both)
		var two bool
		if current, password, two = bytes.Cut(both, []byte("\n")); !two {
			return errors.New("one's own password is changed with the current one: pass that in the first line, the new one in the second")
		}
		current = bytes.TrimSuffix(current, []byte("\r"))
	case own:
		if current, err = s.password("Current password of "+c.Name, false, false); err != nil {
			return err
		}
		defer clear(current)
		fallthrough
	default:
		if password, err = s.password("New password of "+c.Name, c.PasswordStdin, true); err != nil {
			return err
		}
		defer clear(password)
	}
	u, err := cl.Identities().SetPassword(s.ctx, &hizov1.SetPasswordRequest{Name: c.Name, Password: password, Current: current})
	if err != nil {
		return err
	}
	return s.showIdentities(u)
}

type roleCmd struct {
	Grant  roleGrantCmd  `cmd:"" help:"Grant a role."`
	Revoke roleRevokeCmd `cmd:"" help:"Revoke a role."`
	List   roleListCmd   `cmd:"" help:"List who has which role."`
}

const roleHelp = "SecurityEngineer, Auditor, Operator or PipelineOwner."

type roleGrantCmd struct {
	Role string `arg:"" help:"${role}"`
	Name string `arg:"" help:"Whom: NAME of a user, or user/NAME."`
}

func (c *roleGrantCmd) Run(s *session) error { return changeRole(s, c.Role, c.Name, true) }

type roleRevokeCmd struct {
	Role string `arg:"" help:"${role}"`
	Name string `arg:"" help:"From whom: NAME of a user, or user/NAME."`
}

func (c *roleRevokeCmd) Run(s *session) error { return changeRole(s, c.Role, c.Name, false) }

func changeRole(s *session, role, name string, grant bool) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	change := cl.Identities().RevokeRole
	if grant {
		change = cl.Identities().GrantRole
	}
	r, err := change(s.ctx, &hizov1.RoleRequest{Role: role, Name: name})
	if err != nil {
		return err
	}
	return s.show(r, table{rows: [][]string{{"roles of " + name, orDash(strings.Join(r.GetRoles(), ", "))}}})
}

type roleListCmd struct{}

func (roleListCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	l, err := cl.Identities().ListRoles(s.ctx, &hizov1.ListRolesRequest{})
	if err != nil {
		return err
	}
	t := table{head: []string{"ROLE", "PRINCIPAL", "BY", "SINCE"}}
	for _, b := range l.GetBindings() {
		t.add(b.GetRole(), b.GetPrincipal(), orDash(b.GetBy()), clock(b.GetCreatedUnix()))
	}
	return s.show(l, t)
}

type workloadCmd struct {
	Create   workloadCreateCmd   `cmd:"" help:"Create the identity of a pipeline."`
	List     workloadListCmd     `cmd:"" help:"List workloads."`
	SecretID workloadSecretIDCmd `cmd:"" name:"secret-id" help:"Make a one-time secret id for the next login of a workload."`
	Disable  workloadDisableCmd  `cmd:"" help:"Disable a workload: every token ends at once."`
	Enable   workloadEnableCmd   `cmd:"" help:"Take a disabling back."`
}

type workloadCreateCmd struct {
	Name string `arg:"" help:"Name of the new workload."`
}

func (c *workloadCreateCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	w, err := cl.Identities().CreateWorkload(s.ctx, &hizov1.CreateWorkloadRequest{Name: c.Name})
	if err != nil {
		return err
	}
	return s.showIdentities(w)
}

type workloadListCmd struct{}

func (workloadListCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	l, err := cl.Identities().ListWorkloads(s.ctx, &hizov1.ListIdentitiesRequest{})
	if err != nil {
		return err
	}
	return s.show(l, identityTable(l.GetIdentities()))
}

type workloadSecretIDCmd struct {
	Name string        `arg:"" help:"Name of the workload."`
	TTL  time.Duration `help:"How long it can be used (default 1h)."`
	Out  string        `type:"path" placeholder:"FILE" help:"Write the secret id into a new file that only its owner can read."`
}

func (c *workloadSecretIDCmd) Run(s *session) error {
	if err := mayMake(c.Out); err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	id, err := cl.Identities().CreateSecretID(s.ctx, &hizov1.CreateSecretIDRequest{Workload: c.Name, TtlSeconds: seconds(c.TTL)})
	if err != nil {
		return err
	}
	s.note("good for one login as workload/%s until %s", c.Name, clock(id.GetExpiresUnix()))
	return s.showSecretText(id, id.GetSecretId(), c.Out)
}

type workloadDisableCmd struct {
	Name string `arg:"" help:"Name of the workload."`
}

func (c *workloadDisableCmd) Run(s *session) error { return disableWorkload(s, c.Name, false) }

type workloadEnableCmd struct {
	Name string `arg:"" help:"Name of the workload."`
}

func (c *workloadEnableCmd) Run(s *session) error { return disableWorkload(s, c.Name, true) }

func disableWorkload(s *session, name string, enable bool) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	w, err := cl.Identities().DisableWorkload(s.ctx, &hizov1.DisableRequest{Name: name, Enable: enable})
	if err != nil {
		return err
	}
	return s.showIdentities(w)
}

type certCmd struct {
	Issue certIssueCmd `cmd:"" help:"Make a key and have the cluster's CA sign a client certificate for it."`
}

type certIssueCmd struct {
	Principal string        `arg:"" help:"user/NAME or workload/NAME."`
	Cert      string        `required:"" type:"path" placeholder:"FILE" help:"Where the certificate goes; the file must not exist."`
	Key       string        `required:"" type:"path" placeholder:"FILE" help:"Where the new private key goes (mode 0600); the file must not exist."`
	TTL       time.Duration `help:"How long it is valid (default 24h)."`
}

func (c *certIssueCmd) Run(s *session) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: c.Principal}}, key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	defer clear(der)
	cl, err := s.connect()
	if err != nil {
		return err
	}
	if _, err := os.Lstat(c.Cert); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s exists: choose another name for the certificate", c.Cert)
	}
	// The key first: a certificate without its key would be of no use.
	if err := writeNew(c.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return fmt.Errorf("write the private key: %w", err)
	}
	issued, err := cl.Identities().IssueCertificate(s.ctx, &hizov1.IssueCertificateRequest{Principal: c.Principal, Csr: csr, TtlSeconds: seconds(c.TTL)})
	if err != nil {
		return errors.Join(err, os.Remove(c.Key))
	}
	if err := writeNew(c.Cert, issued.GetChainPem(), 0o644); err != nil {
		return fmt.Errorf("write the certificate: %w", err)
	}
	return s.show(issued, table{rows: [][]string{
		{"certificate", c.Cert}, {"private key", c.Key}, {"valid until", clock(issued.GetExpiresUnix())},
	}})
}

type tokenCmd struct {
	Revoke tokenRevokeCmd `cmd:"" help:"Revoke every token of a principal at once."`
}

type tokenRevokeCmd struct {
	Principal string `arg:"" help:"user/NAME or workload/NAME."`
}

func (c *tokenRevokeCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Identities().RevokeTokens(s.ctx, &hizov1.RevokeTokensRequest{Principal: c.Principal})
	if err != nil {
		return err
	}
	if s.g.Format == "table" {
		s.note("every token of %s is revoked", c.Principal)
		return nil
	}
	return s.show(r, table{})
}
