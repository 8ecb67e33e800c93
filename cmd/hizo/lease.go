package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
)

type leaseCmd struct {
	Role   leaseRoleCmd   `cmd:"" help:"Say what users are made where."`
	List   leaseListCmd   `cmd:"" help:"List leases."`
	Show   leaseShowCmd   `cmd:"" help:"Show one lease."`
	Renew  leaseRenewCmd  `cmd:"" help:"Renew one's own lease."`
	Revoke leaseRevokeCmd `cmd:"" help:"End one lease, or all of a role, pipeline or identity."`
	Dead   leaseDeadCmd   `cmd:"" help:"Users that could not be dropped."`
}

type leaseRoleCmd struct {
	Put    leaseRolePutCmd    `cmd:"" help:"Create or change a role; leases that there are keep what they were issued under."`
	List   leaseRoleListCmd   `cmd:"" help:"List the roles of a vault."`
	Show   leaseRoleShowCmd   `cmd:"" help:"Show a role."`
	Delete leaseRoleDeleteCmd `cmd:"" help:"Delete a role and revoke its leases."`
}

type leaseRolePutCmd struct {
	Role   string   `arg:"" name:"vault/role" help:"Name of the role."`
	Kind   string   `required:"" placeholder:"KIND" help:"Kind of server: postgresql, mariadb or redis."`
	Admin  string   `required:"" placeholder:"VAULT/PATH" help:"The secret that holds the credential for making users: its fields username and password."`
	Option []string `placeholder:"K=V" sep:"none" help:"Setting of the server, such as host=db.example; K=@FILE reads a file."`
	TTL    span     `name:"ttl" default:"1h" placeholder:"TIME" help:"How long a lease lasts."`
	MaxTTL span     `name:"max-ttl" default:"24h" placeholder:"TIME" help:"How long it lasts with all renewals."`
	Limit  uint32   `default:"1000" placeholder:"N" help:"At most so many leases at a time."`
}

func (c *leaseRolePutCmd) Run(s *session) error {
	role, err := name.ParseLeaseRole(c.Role)
	if err != nil {
		return err
	}
	config, err := leaseOptions(c.Option)
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	put, err := cl.Leases().PutRole(s.ctx, &hizov1.PutLeaseRoleRequest{
		Vault: role.Vault, Name: role.Role, Kind: c.Kind, Config: config, Admin: c.Admin,
		TtlSeconds: c.TTL.seconds(), MaxTtlSeconds: c.MaxTTL.seconds(), Limit: c.Limit,
	})
	if err != nil {
		return err
	}
	return s.show(put, leaseRoleTable(put))
}

// leaseOptions reads K=V and K=@FILE. Certificates come from files.
func leaseOptions(list []string) (map[string]string, error) {
	out := make(map[string]string, len(list))
	for _, text := range list {
		key, value, ok := strings.Cut(text, "=")
		if _, twice := out[key]; !ok || key == "" || twice {
			return nil, fmt.Errorf("--option %s: write KEY=VALUE or KEY=@FILE, each key once", key)
		}
		if file, is := strings.CutPrefix(value, "@"); is {
			content, err := readFile(file, maxInput)
			if err != nil {
				return nil, fmt.Errorf("--option %s: %w", key, err)
			}
			value = string(content)
		}
		out[key] = value
	}
	return out, nil
}

func leaseRoleTable(r *hizov1.LeaseRole) table {
	t := table{}
	t.add("role", r.GetVault()+"/"+r.GetName())
	t.add("kind", r.GetKind())
	for _, key := range slices.Sorted(maps.Keys(r.GetConfig())) {
		value := r.GetConfig()[key]
		if line, _, more := strings.Cut(value, "\n"); more {
			value = fmt.Sprintf("%s … (%d bytes)", line, len(value))
		}
		t.add("option "+key, value)
	}
	t.add("admin", r.GetAdmin())
	t.add("lasts", lasting(r.GetTtlSeconds())+", with renewals "+lasting(r.GetMaxTtlSeconds()))
	t.add("leases", fmt.Sprintf("%d of at most %d", r.GetLeases(), r.GetLimit()))
	t.add("by", r.GetBy())
	return t
}

func lasting(seconds int64) string { return (time.Duration(seconds) * time.Second).String() }

type leaseRoleListCmd struct {
	Vault string `arg:"" help:"Which vault."`
}

func (c *leaseRoleListCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	l, err := cl.Leases().ListRoles(s.ctx, &hizov1.ListLeaseRolesRequest{Vault: c.Vault})
	if err != nil {
		return err
	}
	t := table{head: []string{"ROLE", "KIND", "SERVER", "ADMIN", "LASTS", "LEASES"}}
	for _, r := range l.GetRoles() {
		server := r.GetConfig()["host"]
		if port := r.GetConfig()["port"]; port != "" {
			server += ":" + port
		}
		t.add(r.GetVault()+"/"+r.GetName(), r.GetKind(), server, r.GetAdmin(), lasting(r.GetTtlSeconds()), fmt.Sprint(r.GetLeases()))
	}
	return s.show(l, t)
}

type leaseRoleShowCmd struct {
	Role string `arg:"" name:"vault/role" help:"Which role."`
}

func (c *leaseRoleShowCmd) Run(s *session) error {
	role, err := name.ParseLeaseRole(c.Role)
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Leases().ShowRole(s.ctx, &hizov1.LeaseRoleRequest{Vault: role.Vault, Name: role.Role})
	if err != nil {
		return err
	}
	return s.show(r, leaseRoleTable(r))
}

type leaseRoleDeleteCmd struct {
	Role string `arg:"" name:"vault/role" help:"Which role."`
	Yes  bool   `help:"Do not ask."`
}

func (c *leaseRoleDeleteCmd) Run(s *session) error {
	role, err := name.ParseLeaseRole(c.Role)
	if err != nil {
		return err
	}
	if err := s.confirm(fmt.Sprintf("Delete the role %s and revoke its leases?", role), c.Yes); err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Leases().DeleteRole(s.ctx, &hizov1.LeaseRoleRequest{Vault: role.Vault, Name: role.Role})
	if err != nil {
		return err
	}
	return s.show(r, table{rows: [][]string{{"deleted", role.String() + "; its users are being dropped"}}})
}

// leaseScope names leases by what they have in common.
type leaseScope struct {
	Role     string `placeholder:"VAULT/ROLE" help:"Those of a role."`
	Pipeline string `placeholder:"VAULT/NAME" help:"Those of a pipeline."`
	Identity string `placeholder:"workload/NAME" help:"Those of an identity."`
}

type leaseListCmd struct {
	leaseScope
	Limit int `default:"0" help:"At most so many; 0: all."`
}

func (c *leaseListCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	return s.listLeases(c.Limit, func(after string, limit uint32) (*hizov1.ListLeasesResponse, error) {
		return cl.Leases().List(s.ctx, &hizov1.ListLeasesRequest{
			Role: c.Role, Pipeline: c.Pipeline, Identity: c.Identity, After: after, Limit: limit,
		})
	})
}

func (s *session) listLeases(limit int, page func(after string, limit uint32) (*hizov1.ListLeasesResponse, error)) error {
	all := &hizov1.ListLeasesResponse{}
	for {
		p, err := page(all.GetNext(), pageSize(limit, len(all.GetLeases())))
		if err != nil {
			return err
		}
		all.Leases, all.Next = append(all.Leases, p.GetLeases()...), p.GetNext()
		if p.GetNext() == "" || limit > 0 && len(all.GetLeases()) >= limit {
			break
		}
	}
	t := table{head: []string{"LEASE", "ROLE", "IDENTITY", "STATE", "EXPIRES", "TRIES", "LAST ERROR"}}
	for _, l := range all.GetLeases() {
		t.add(l.GetId(), l.GetVault()+"/"+l.GetRole(), l.GetPrincipal(), l.GetState(), clock(l.GetExpiresUnix()),
			fmt.Sprint(l.GetTries()), orDash(l.GetLastError()))
	}
	if s.g.Format == "table" && all.GetNext() != "" {
		s.note("there are more: raise --limit")
	}
	return s.show(all, t)
}

type leaseShowCmd struct {
	ID string `arg:"" name:"id" help:"Which lease."`
}

func (c *leaseShowCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	l, err := cl.Leases().Show(s.ctx, &hizov1.ShowLeaseRequest{Id: c.ID})
	if err != nil {
		return err
	}
	return s.show(l, leaseTable(l))
}

func leaseTable(l *hizov1.Lease) table {
	t := table{}
	t.add("lease", l.GetId())
	t.add("role", l.GetVault()+"/"+l.GetRole())
	t.add("identity", l.GetPrincipal())
	if l.GetPipeline() != "" {
		t.add("pipeline", l.GetPipeline())
	}
	t.add("user", l.GetUsername()+" at "+l.GetServer())
	t.add("state", l.GetState())
	t.add("issued", clock(l.GetIssuedUnix()))
	t.add("expires", clock(l.GetExpiresUnix())+", renewable to "+clock(l.GetMaxExpiresUnix()))
	t.add("admin version", fmt.Sprint(l.GetAdminVersion()))
	if l.GetLastError() != "" {
		t.add("last error", l.GetLastError())
		t.add("tries", fmt.Sprint(l.GetTries()))
	}
	if l.GetState() == "revoking" && l.GetNextTryUnix() > 0 {
		t.add("next try", clock(l.GetNextTryUnix()))
	}
	return t
}

type leaseRenewCmd struct {
	ID  string `arg:"" name:"id" help:"Which lease."`
	TTL span   `name:"ttl" default:"0s" placeholder:"TIME" help:"From now on; default: what its role says."`
}

func (c *leaseRenewCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	l, err := cl.Leases().Renew(s.ctx, &hizov1.RenewLeaseRequest{Id: c.ID, TtlSeconds: c.TTL.seconds()})
	if err != nil {
		return err
	}
	return s.show(l, leaseTable(l))
}

type leaseRevokeCmd struct {
	ID string `arg:"" optional:"" name:"id" help:"Which lease."`
	leaseScope
}

func (c *leaseRevokeCmd) Run(s *session) error {
	what, given := "", 0
	for _, w := range []struct{ kind, name string }{
		{"lease ", c.ID}, {"leases of the role ", c.Role}, {"leases of the pipeline ", c.Pipeline}, {"leases of ", c.Identity},
	} {
		if w.name != "" {
			what, given = w.kind+w.name, given+1
		}
	}
	if given != 1 {
		return errors.New("say which leases: an id, --role, --pipeline or --identity, one of them")
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Leases().Revoke(s.ctx, &hizov1.RevokeLeasesRequest{Id: c.ID, Role: c.Role, Pipeline: c.Pipeline, Identity: c.Identity})
	if err != nil {
		return err
	}
	return s.show(r, table{rows: [][]string{{"revoked", what}}})
}

type leaseDeadCmd struct {
	List  leaseDeadListCmd  `cmd:"" help:"List users that could not be dropped, with the last error."`
	Retry leaseDeadRetryCmd `cmd:"" help:"Try to drop them again."`
	Clear leaseDeadClearCmd `cmd:"" help:"Forget them; the users stay at their servers."`
}

type leaseDeadListCmd struct {
	Limit int `default:"0" help:"At most so many; 0: all."`
}

func (c *leaseDeadListCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	return s.listLeases(c.Limit, func(after string, limit uint32) (*hizov1.ListLeasesResponse, error) {
		return cl.Leases().ListDead(s.ctx, &hizov1.ListDeadLeasesRequest{After: after, Limit: limit})
	})
}

// deadLetters names them.
type deadLetters struct {
	ID  []string `arg:"" optional:"" name:"id" help:"Which ones."`
	All bool     `help:"All there are."`
}

type leaseDeadRetryCmd struct{ deadLetters }

func (c *leaseDeadRetryCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	return c.each(s, "tried again", func(r *hizov1.DeadLeasesRequest) (*hizov1.DeadLeasesResponse, error) {
		return cl.Leases().RetryDead(s.ctx, r)
	})
}

type leaseDeadClearCmd struct {
	deadLetters
	Yes bool `help:"Do not ask."`
}

func (c *leaseDeadClearCmd) Run(s *session) error {
	if err := s.confirm("Forget these users, though they stay at their servers?", c.Yes); err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	return c.each(s, "cleared", func(r *hizov1.DeadLeasesRequest) (*hizov1.DeadLeasesResponse, error) {
		return cl.Leases().ClearDead(s.ctx, r)
	})
}

// each asks as often as it takes: one record of the log names a bounded number.
func (c *deadLetters) each(s *session, done string, ask func(*hizov1.DeadLeasesRequest) (*hizov1.DeadLeasesResponse, error)) error {
	if c.All == (len(c.ID) > 0) {
		return errors.New("name dead letters by their ids, or say --all")
	}
	sum := &hizov1.DeadLeasesResponse{}
	for {
		r, err := ask(&hizov1.DeadLeasesRequest{Ids: c.ID, All: c.All})
		if err != nil {
			return err
		}
		sum.Leases += r.GetLeases()
		if !r.GetMore() {
			break
		}
	}
	return s.show(sum, table{rows: [][]string{{done, fmt.Sprint(sum.GetLeases())}}})
}
