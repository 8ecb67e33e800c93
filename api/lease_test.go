package api_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/cluster/lease"
	"github.com/hizo/hizo/cluster/rotate/servertest"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/fsm"
)

// hook is called with the user a call is about.
type hook func(u target.User) error

// gates holds calls at a server up, before and after they are made. Tests kill nodes there.
type gates struct {
	target.Users
	mu     sync.Mutex
	before map[string]hook // by "create", "drop", "renew"
	after  map[string]hook
}

func (g *gates) set(when map[string]hook, stage string, f hook) {
	g.mu.Lock()
	defer g.mu.Unlock()
	when[stage] = f
}

func (g *gates) through(stage string, u target.User, call func() error) error {
	g.mu.Lock()
	before, after := g.before[stage], g.after[stage]
	g.mu.Unlock()
	if before != nil {
		if err := before(u); err != nil {
			return err
		}
	}
	err := call()
	if after != nil && err == nil {
		err = after(u)
	}
	return err
}

func (g *gates) Create(ctx context.Context, u target.User) error {
	return g.through("create", u, func() error { return g.Users.Create(ctx, u) })
}

func (g *gates) Renew(ctx context.Context, u target.User) error {
	return g.through("renew", u, func() error { return g.Users.Renew(ctx, u) })
}

func (g *gates) Drop(ctx context.Context, u target.User) error {
	return g.through("drop", u, func() error { return g.Users.Drop(ctx, u) })
}

// leases is a cluster with the role ml/db at a real PostgreSQL server, and the workload train that may lease of it.
type leases struct {
	*apitest.Cluster
	t     *testing.T
	pg    *servertest.Postgres
	clock *clustertest.Clock
	train *apitest.Session
	gates map[string]*gates // by node
}

func startLeases(t *testing.T) *leases {
	t.Helper()
	l := &leases{t: t, pg: servertest.StartPostgres(t), clock: &clustertest.Clock{}, gates: map[string]*gates{}}
	for _, id := range []string{"n1", "n2", "n3"} {
		l.gates[id] = &gates{
			Users: target.NewPostgresUsers(), before: map[string]hook{}, after: map[string]hook{},
		}
	}
	l.Cluster = apitest.Start(t, apitest.Options{
		Options: clustertest.Options{Clock: l.clock},
		Leases: func(id string) *lease.Engine {
			return lease.New(lease.Config{
				Users: map[string]target.Users{"postgresql": l.gates[id]}, Clock: l.clock.Now, Pause: 10 * time.Millisecond,
			})
		},
	})
	l.Vault("ml")
	l.must(l.Engineer.Secrets().Put(t.Context(), &hizov1.PutRequest{Vault: "ml", Path: "pg-admin", Fields: map[string][]byte{
		"username": []byte(l.pg.User), "password": []byte(l.pg.Password),
	}}))
	l.role()
	l.train = l.Workload("train", `permit (principal == Hizo::Workload::"train", action == Hizo::Action::"lease", resource in Hizo::Vault::"ml");`)
	return l
}

func (l *leases) role() {
	l.t.Helper()
	l.must(l.Engineer.Leases().PutRole(l.t.Context(), &hizov1.PutLeaseRoleRequest{
		Vault: "ml", Name: "db", Kind: "postgresql", Config: l.pg.Config(), Admin: "ml/pg-admin", TtlSeconds: 600, MaxTtlSeconds: 1200,
	}))
}

func (l *leases) must(_ any, err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// issued is a lease as its owner has it.
type issued struct {
	*hizov1.Lease
	username, password string
}

func (l *leases) issue(ctx context.Context, who *apitest.Session, role string) (*issued, error) {
	l.t.Helper()
	key, err := hybrid.NewKey()
	if err != nil {
		return nil, err
	}
	out, err := who.Leases().Issue(ctx, &hizov1.IssueLeaseRequest{Vault: "ml", Role: role, ExecutionKey: key.Public(), Execution: "run 1"})
	if err != nil {
		return nil, err
	}
	to := inject.LeaseTarget{Cluster: out.GetClusterId(), Principal: who.Principal, Vault: "ml", Role: role, Lease: out.GetLease().GetId()}
	to.Field = "username"
	username, err := inject.OpenLease(key, to, out.GetSealedUsername())
	if err != nil {
		return nil, err
	}
	if _, err := inject.OpenLease(key, to, out.GetSealedPassword()); err == nil {
		l.t.Error("the password opens as a user name")
	}
	to.Field = "password"
	password, err := inject.OpenLease(key, to, out.GetSealedPassword())
	if err != nil {
		return nil, err
	}
	return &issued{out.GetLease(), string(username.Reveal()), string(password.Reveal())}, nil
}

func (l *leases) mustIssue() *issued {
	l.t.Helper()
	got, err := l.issue(l.t.Context(), l.train, "db")
	if err != nil {
		l.t.Fatal(err)
	}
	return got
}

// users are those that leases have at the server.
func (l *leases) users() []string {
	l.t.Helper()
	return l.pg.Query(l.t, `SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'hizo%' ORDER BY 1`)
}

func (l *leases) awaitUsers(want ...string) {
	l.t.Helper()
	slices.Sort(want)
	l.Await(fmt.Sprintf("the users %v at the server", want), func() bool { return slices.Equal(l.users(), want) })
}

// later moves the clock, in steps that cluster time allows, each with an entry.
func (l *leases) later(d time.Duration) {
	l.t.Helper()
	for d > 0 {
		step := min(d, 4*time.Minute)
		d -= step
		l.clock.Advance(step)
		l.Must(fsm.Command{Kind: fsm.KindTick, Principal: "node/n1", Body: fsm.EncodeBody(fsm.KindTick, &fsm.Tick{})})
	}
}

func (l *leases) show(id string) (*hizov1.Lease, error) {
	return l.Engineer.Leases().Show(l.t.Context(), &hizov1.ShowLeaseRequest{Id: id})
}

// One cluster for what needs no time to pass and no node to die; the life of a lease comes last, because it ages tokens.
func TestLeases(t *testing.T) {
	t.Parallel()
	l := startLeases(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, *leases)
	}{
		{"rights", leaseTakesARight}, {"outlive their admin", leasesOutliveTheirAdmin}, {"a user that stays", leaseUserWithObjects},
		{"one run", leaseIsAUserForOneRun}, {"end with their identity", leasesEndWithTheirIdentity},
	} {
		t.Run(c.name, func(t *testing.T) {
			l.t = t
			l.role()
			c.test(t, l)
		})
		l.Engineer = l.Login("alice")
		if t.Failed() {
			return // what one leaves, the next would find
		}
	}
}

func leaseIsAUserForOneRun(t *testing.T, l *leases) {
	ctx := t.Context()
	got := l.mustIssue()
	if err := l.pg.Login(got.username, got.password); err != nil {
		t.Fatalf("the leased user gets in: %v", err)
	}
	if got.State != "active" || got.Username != got.username || !strings.HasPrefix(got.username, "hizo_") || got.Principal != "workload/train" || got.AdminVersion == 0 {
		t.Errorf("lease %+v", got.Lease)
	}
	records, err := l.Engineer.Audit().Search(ctx, &hizov1.SearchRequest{Resource: "ml/db", Action: "lease"})
	if err != nil {
		t.Fatal(err)
	}
	last := records.GetRecords()
	if len(last) < 2 {
		t.Fatalf("%d records of the lease, want that of its making and that of its release", len(last))
	}
	for _, r := range last[:2] { // the newest come first
		if r.GetPrincipal() != "workload/train" || !strings.Contains(r.GetDetail(), got.username) || r.GetReason() != "run 1" {
			t.Errorf("record %+v", r)
		}
	}
	if admin, err := l.Engineer.Audit().Search(ctx, &hizov1.SearchRequest{Resource: "ml/pg-admin", Action: "lease.admin"}); err != nil || len(admin.GetRecords()) == 0 {
		t.Errorf("reading the administrator's credential left %d records (%v)", len(admin.GetRecords()), err)
	}

	l.later(8 * time.Minute)
	renewed, err := l.train.Leases().Renew(ctx, &hizov1.RenewLeaseRequest{Id: got.Id})
	if err != nil || renewed.GetExpiresUnix() < got.ExpiresUnix+470 {
		t.Fatalf("renewed to %d, was %d (%v)", renewed.GetExpiresUnix(), got.ExpiresUnix, err)
	}
	if _, err := l.Engineer.Leases().Renew(ctx, &hizov1.RenewLeaseRequest{Id: got.Id}); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
		t.Errorf("somebody else renews: %v", err)
	}
	renewed, err = l.train.Leases().Renew(ctx, &hizov1.RenewLeaseRequest{Id: got.Id, TtlSeconds: 1200})
	if err != nil || renewed.GetExpiresUnix() != got.MaxExpiresUnix {
		t.Errorf("renewed to %d, the longest is %d (%v)", renewed.GetExpiresUnix(), got.MaxExpiresUnix, err)
	}
	l.later(11 * time.Minute)
	if err := l.pg.Login(got.username, got.password); err != nil {
		t.Errorf("the renewed user gets in: %v", err)
	}
	l.later(2 * time.Minute)
	l.awaitUsers()
	if err := l.pg.Login(got.username, got.password); err == nil {
		t.Error("the user of an expired lease gets in")
	}
	// EXPIRED until the drop is on record, then the lease is gone.
	_, err = l.train.Leases().Renew(ctx, &hizov1.RenewLeaseRequest{Id: got.Id})
	if reason := apitest.Reason(err); reason != hizov1.ReasonNotFound && reason != hizov1.ReasonExpired {
		t.Errorf("an expired lease is renewed: %v", err)
	}
}

func leaseTakesARight(t *testing.T, l *leases) {
	ctx := t.Context()
	other := l.Workload("other", "")
	if _, err := l.issue(ctx, other, "db"); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
		t.Errorf("a workload without a grant leases: %v", err)
	}
	if _, err := l.issue(ctx, l.Engineer, "db"); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
		t.Errorf("an engineer leases: %v", err)
	}
	if _, err := l.issue(ctx, l.train, "none"); apitest.Reason(err) != hizov1.ReasonNotFound {
		t.Errorf("a lease of a role that is not there: %v", err)
	}
	bob := l.User("bob", "Operator", "PipelineOwner", "Auditor")
	if _, err := bob.Leases().PutRole(ctx, &hizov1.PutLeaseRoleRequest{Vault: "ml", Name: "x", Kind: "postgresql", Config: l.pg.Config(), Admin: "ml/pg-admin"}); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
		t.Errorf("somebody else than a SecurityEngineer makes a role: %v", err)
	}
	got := l.mustIssue()
	for name, s := range map[string]*apitest.Session{"another workload": other, "an Operator": bob} {
		if _, err := s.Leases().Show(ctx, &hizov1.ShowLeaseRequest{Id: got.Id}); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
			t.Errorf("%s sees it: %v", name, err)
		}
		if _, err := s.Leases().Revoke(ctx, &hizov1.RevokeLeasesRequest{Id: got.Id}); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
			t.Errorf("%s revokes it: %v", name, err)
		}
		if _, err := s.Leases().List(ctx, &hizov1.ListLeasesRequest{Role: "ml/db"}); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
			t.Errorf("%s lists a role's: %v", name, err)
		}
		if _, err := s.Leases().Renew(ctx, &hizov1.RenewLeaseRequest{Id: got.Id}); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
			t.Errorf("%s renews it: %v", name, err)
		}
	}
	own, err := l.train.Leases().List(ctx, &hizov1.ListLeasesRequest{Identity: "workload/train"})
	if err != nil || len(own.GetLeases()) != 1 {
		t.Errorf("one's own: %v, %v", own, err)
	}

	// A lost grant ends renewals.
	l.must(l.Engineer.Policies().DeletePolicy(ctx, &hizov1.DeletePolicyRequest{Name: "workload-train"}))
	if _, err := l.train.Leases().Renew(ctx, &hizov1.RenewLeaseRequest{Id: got.Id}); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
		t.Errorf("renewed without a grant: %v", err)
	}
	// A pipeline grants what it declares, to those that run it; and a policy that forbids wins.
	l.must(l.Engineer.Pipelines().CreatePipeline(ctx, &hizov1.CreatePipelineRequest{Vault: "ml", Name: "nightly"}))
	l.must(l.Engineer.Pipelines().SetIdentities(ctx, &hizov1.SetIdentitiesRequest{Vault: "ml", Name: "nightly", Add: []string{"train"}}))
	l.must(l.Engineer.Pipelines().SetVariables(ctx, &hizov1.SetVariablesRequest{Vault: "ml", Name: "nightly", Set: []*hizov1.PipelineVariable{
		{Name: "DB_PASSWORD", Reference: "hizo-lease://ml/db#password"},
	}}))
	of, err := l.issue(ctx, l.train, "db")
	if err != nil || of.Pipeline != "ml/nightly" {
		t.Fatalf("granted by its pipeline: %+v, %v", of, err)
	}
	l.must(l.train.Leases().Renew(ctx, &hizov1.RenewLeaseRequest{Id: of.Id}))
	l.must(l.Engineer.Policies().PutPolicy(ctx, &hizov1.PutPolicyRequest{Name: "not-today", Text: `forbid (principal, action == Hizo::Action::"lease", resource == Hizo::LeaseRole::"ml/db");`}))
	if _, err := l.issue(ctx, l.train, "db"); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
		t.Errorf("a forbid does not win: %v", err)
	}
	l.must(l.Engineer.Leases().Revoke(ctx, &hizov1.RevokeLeasesRequest{Pipeline: "ml/nightly"}))
	l.awaitUsers(got.username)
	l.must(l.train.Leases().Revoke(ctx, &hizov1.RevokeLeasesRequest{Id: got.Id}))
	l.awaitUsers()
	l.must(l.Engineer.Policies().DeletePolicy(ctx, &hizov1.DeletePolicyRequest{Name: "not-today"}))
}

func leasesEndWithTheirIdentity(t *testing.T, l *leases) {
	ctx := t.Context()
	for name, end := range map[string]func() error{
		"identity": func() error {
			_, err := l.Engineer.Leases().Revoke(ctx, &hizov1.RevokeLeasesRequest{Identity: "workload/train"})
			return err
		},
		"role": func() error {
			_, err := l.Engineer.Leases().Revoke(ctx, &hizov1.RevokeLeasesRequest{Role: "ml/db"})
			return err
		},
		"secret": func() error { // as a rotation of the administrator's credential with --revoke-issued does
			_, err := l.Leader().Propose(ctx, fsm.Command{
				Kind: fsm.KindLeaseRevoke, Principal: "node/n1", Audits: []fsm.Audit{{Action: "rotation", Decision: fsm.Allowed}},
				Body: fsm.EncodeBody(fsm.KindLeaseRevoke, &fsm.LeaseRevoke{Of: fsm.LeasesOfAdmin, Name: "ml/pg-admin", Version: 2}),
			})
			return err
		},
	} {
		a, b := l.mustIssue(), l.mustIssue()
		l.awaitUsers(a.username, b.username)
		if err := end(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := l.train.Leases().Renew(ctx, &hizov1.RenewLeaseRequest{Id: a.Id}); err == nil {
			t.Errorf("%s: renewed after the revocation had committed", name)
		}
		l.awaitUsers()
	}
	l.mustIssue()
	l.must(l.Engineer.Identities().DisableWorkload(ctx, &hizov1.DisableRequest{Name: "train"}))
	l.awaitUsers()
}

// The administrator's credential may be rotated while leases stand: it is read when it is used.
func leasesOutliveTheirAdmin(t *testing.T, l *leases) {
	ctx := t.Context()
	got := l.mustIssue()
	l.pg.Exec(t, `CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'next'`)
	l.must(l.Engineer.Secrets().Put(ctx, &hizov1.PutRequest{Vault: "ml", Path: "pg-admin", Fields: map[string][]byte{
		"username": []byte("boss"), "password": []byte("next"),
	}}))
	next := l.mustIssue()
	if next.AdminVersion != 2 {
		t.Errorf("made with version %d", next.AdminVersion)
	}
	if err := l.pg.Login(got.username, got.password); err != nil {
		t.Errorf("the first lease: %v", err)
	}
	l.must(l.train.Leases().Renew(ctx, &hizov1.RenewLeaseRequest{Id: got.Id}))
	l.must(l.Engineer.Leases().DeleteRole(ctx, &hizov1.LeaseRoleRequest{Vault: "ml", Name: "db"}))
	l.awaitUsers()
}

// stop kills a node's part in Raft while one of its own calls is under way.
func (l *leases) stop(n *clustertest.Node) (killed <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Cluster.Cluster.Kill(n) // the API goes on without it: its call is the one that stops the node
	}()
	l.Await("another leader", func() bool {
		for _, other := range l.Nodes {
			if other != n && other.Leading() {
				return true
			}
		}
		return false
	})
	return done
}

// A leader is lost at every step of a lease's life. The client asks again under the same request id and has one user that
// gets in; in the end no user is left at the server and no lease in the state.
func TestLeaseLosesLeaders(t *testing.T) {
	t.Parallel()
	l := startLeases(t)
	for _, stage := range []string{"before create", "after create", "before drop", "after drop"} {
		leader := l.Leader()
		g := l.gates[leader.ID]
		when, call, _ := strings.Cut(stage, " ")
		at := g.before
		if when == "after" {
			at = g.after
		}
		var once sync.Once
		var first []string
		lost := make(chan (<-chan struct{}), 1)
		g.set(at, call, func(target.User) error {
			once.Do(func() {
				first = l.users()
				lost <- l.stop(leader)
			})
			return nil
		})
		got := l.mustIssue()
		if err := l.pg.Login(got.username, got.password); err != nil {
			t.Errorf("%s: the user: %v", stage, err)
		}
		if call == "create" {
			<-<-lost
			l.later(6 * time.Minute) // the first user's deadline, and its second drop
			if stage == "after create" && (len(first) != 1 || first[0] == got.username) {
				t.Errorf("%s: the first try had made %v, the second %s", stage, first, got.username)
			}
			l.awaitUsers(got.username)
		}
		l.must(l.train.Leases().Revoke(t.Context(), &hizov1.RevokeLeasesRequest{Id: got.Id}))
		if call == "drop" {
			<-<-lost
		}
		l.awaitUsers()
		l.later(6 * time.Minute)
		l.Await("no lease", func() bool {
			left, _ := l.Leader().Store().Leases("", "", "", 10)
			return len(left) == 0
		})
		g.set(at, call, nil)
		l.Restart(leader)
		l.AwaitReady()
	}
}

// A server that is down holds up its own revocations only; they are repeated, given up, shown, tried again, forgotten.
func TestLeaseServerDown(t *testing.T) {
	t.Parallel()
	l := startLeases(t)
	ctx := t.Context()
	second := servertest.StartPostgres(t)
	l.must(l.Engineer.Secrets().Put(ctx, &hizov1.PutRequest{Vault: "ml", Path: "second-admin", Fields: map[string][]byte{
		"username": []byte(second.User), "password": []byte(second.Password),
	}}))
	l.must(l.Engineer.Leases().PutRole(ctx, &hizov1.PutLeaseRoleRequest{
		Vault: "ml", Name: "second", Kind: "postgresql", Config: second.Config(), Admin: "ml/second-admin",
	}))
	var down []*issued
	for range 3 {
		got, err := l.issue(ctx, l.train, "second")
		if err != nil {
			t.Fatal(err)
		}
		down = append(down, got)
	}
	up := l.mustIssue()
	second.Stop(t)
	l.must(l.Engineer.Leases().Revoke(ctx, &hizov1.RevokeLeasesRequest{Identity: "workload/train"}))
	l.awaitUsers()
	l.Await("the lease at the server that is up to go", func() bool {
		_, err := l.show(up.Id)
		return apitest.Reason(err) == hizov1.ReasonNotFound
	})
	l.Await("the first tries", func() bool {
		s, err := l.show(down[0].Id)
		return err == nil && s.GetState() == "revoking" && s.GetTries() > 0 && s.GetLastError() != "" && s.GetNextTryUnix() > 0
	})
	if s, _ := l.show(down[0].Id); strings.Contains(s.GetLastError(), second.Password) {
		t.Error("the error holds the administrator's password")
	}
	if _, err := l.issue(ctx, l.train, "second"); apitest.Reason(err) != hizov1.ReasonTarget {
		t.Errorf("a lease at a server that is down: %v", err)
	}
	// Time passes until they are given up.
	l.Await("dead letters", func() bool {
		l.later(3 * time.Minute)
		dead, _ := l.Leader().Store().DeadLeases("", 10)
		return len(dead) >= 3
	})
	l.Engineer = l.Login("alice")
	bob := l.User("bob", "Operator")
	dead, err := bob.Leases().ListDead(ctx, &hizov1.ListDeadLeasesRequest{})
	if err != nil || len(dead.GetLeases()) < 3 || dead.GetLeases()[0].GetState() != "dead" {
		t.Fatalf("dead letters %v, %v", dead, err)
	}
	other := l.Workload("other", "")
	if _, err := other.Leases().ListDead(ctx, &hizov1.ListDeadLeasesRequest{}); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
		t.Errorf("a workload sees dead letters: %v", err)
	}
	l.must(bob.Leases().ClearDead(ctx, &hizov1.DeadLeasesRequest{Ids: []string{down[0].Id}}))
	if _, err := l.show(down[0].Id); apitest.Reason(err) != hizov1.ReasonNotFound {
		t.Errorf("cleared: %v", err)
	}
	second.Start(t)
	out, err := bob.Leases().RetryDead(ctx, &hizov1.DeadLeasesRequest{All: true})
	if err != nil || out.GetLeases() < 2 {
		t.Fatalf("retried %v: %v", out, err)
	}
	want := []string{down[0].username} // its user stays, as was said
	l.Await("the users at the second server to go", func() bool {
		l.later(time.Minute)
		return slices.Equal(second.Query(t, `SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'hizo%' ORDER BY 1`), want)
	})
}

// A user who can't be dropped, because something is in the way at the server, holds up nobody else.
func leaseUserWithObjects(t *testing.T, l *leases) {
	stuck := l.mustIssue()
	refuse := errors.New("this server's words may hold " + stuck.password)
	for _, g := range l.gates {
		g.set(g.before, "drop", func(u target.User) error {
			if u.Name == stuck.username {
				return refuse
			}
			return nil
		})
	}
	var others []*issued
	for range 5 {
		others = append(others, l.mustIssue())
	}
	l.must(l.Engineer.Leases().Revoke(t.Context(), &hizov1.RevokeLeasesRequest{Role: "ml/db"}))
	l.awaitUsers(stuck.username)
	for _, o := range others {
		l.Await("the lease to go", func() bool {
			_, err := l.show(o.Id)
			return apitest.Reason(err) == hizov1.ReasonNotFound
		})
	}
	l.Await("a failed try", func() bool {
		s, err := l.show(stuck.Id)
		return err == nil && s.GetTries() > 0
	})
	if s, _ := l.show(stuck.Id); strings.Contains(s.GetLastError(), stuck.password) {
		t.Errorf("the words of a server are in the state: %s", s.GetLastError())
	}
	for _, g := range l.gates {
		g.set(g.before, "drop", nil)
	}
	l.awaitUsers()
}
