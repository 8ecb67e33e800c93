package api_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/fsm"
)

// faulty makes proposals go wrong.
type faulty struct {
	api.Node
	fault *atomic.Pointer[fault]
}

type fault func(ctx context.Context, cmd fsm.Command, propose func(context.Context, fsm.Command) (fsm.Result, error)) (fsm.Result, error)

func (f *faulty) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	if p := f.fault.Load(); p != nil {
		return (*p)(ctx, cmd, f.Node.Propose)
	}
	return f.Node.Propose(ctx, cmd)
}

func (f *faulty) ProposeAfter(ctx context.Context, cmd fsm.Command, enqueued func()) (fsm.Result, error) {
	if p := f.fault.Load(); p != nil {
		return (*p)(ctx, cmd, func(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
			return f.Node.ProposeAfter(ctx, cmd, enqueued)
		})
	}
	return f.Node.ProposeAfter(ctx, cmd, enqueued)
}

// Promise 1: nothing leaves unrecorded. Whatever goes wrong with the record, no value and no decision
// comes back.
func TestNothingLeavesUnrecorded(t *testing.T) {
	t.Parallel()
	var wrong atomic.Pointer[fault]
	c := apitest.Start(t, apitest.Options{Wrap: func(_ string, n api.Node) api.Node { return &faulty{Node: n, fault: &wrong} }})
	c.Vault("ml")
	c.Put("ml", "db/main", "password", "hunter2")
	bob := c.User("bob")
	train := c.Workload("train", `permit(principal == Hizo::Workload::"train", action == Hizo::Action::"inject", resource in Hizo::Vault::"ml");`)
	key, err := hybrid.NewKey()
	if err != nil {
		t.Fatal(err)
	}

	faults := map[string]fault{
		"failed": func(context.Context, fsm.Command, func(context.Context, fsm.Command) (fsm.Result, error)) (fsm.Result, error) {
			return fsm.Result{}, cluster.ErrOverloaded
		},
		"failed but persisted": func(ctx context.Context, cmd fsm.Command, propose func(context.Context, fsm.Command) (fsm.Result, error)) (fsm.Result, error) {
			_, err := propose(ctx, cmd)
			return fsm.Result{}, &cluster.UnknownOutcomeError{Err: errors.Join(err, errors.New("leadership lost"))}
		},
		"hangs": func(ctx context.Context, _ fsm.Command, _ func(context.Context, fsm.Command) (fsm.Result, error)) (fsm.Result, error) {
			<-ctx.Done()
			return fsm.Result{}, &cluster.UnknownOutcomeError{Err: ctx.Err()}
		},
		"refused in Apply": func(context.Context, fsm.Command, func(context.Context, fsm.Command) (fsm.Result, error)) (fsm.Result, error) {
			return fsm.Result{Code: fsm.CodeSealed}, nil
		},
		"no value released": func(ctx context.Context, cmd fsm.Command, propose func(context.Context, fsm.Command) (fsm.Result, error)) (fsm.Result, error) {
			r, err := propose(ctx, cmd)
			r.Value = nil // what Apply did not release, the service must not find elsewhere
			return r, err
		},
	}
	for what, f := range faults {
		t.Run(what, func(t *testing.T) {
			wrong.Store(&f)
			defer wrong.Store(nil)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if out, err := c.Engineer.Secrets().Reveal(ctx, &hizov1.RevealRequest{Vault: "ml", Path: "db/main"}); err == nil {
				t.Errorf("a value left: version %d", out.GetVersion())
			}
			ctx2, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, err := train.Secrets().Inject(ctx2, &hizov1.InjectRequest{
				Refs: []*hizov1.InjectRequest_Ref{{Vault: "ml", Path: "db/main", Field: "password"}}, ExecutionKey: key.Public(),
			}); err == nil {
				t.Error("a value was injected")
			}
			if what == "no value released" {
				return
			}
			ctx3, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, err := bob.Secrets().Reveal(ctx3, &hizov1.RevealRequest{Vault: "ml", Path: "db/main"})
			if got := apitest.Reason(err); got == "" || got == hizov1.ReasonPermissionDenied {
				t.Errorf("a denial was answered without a record: %v", err)
			}
		})
	}
}

// Promise 2: once a revocation has been acknowledged, no reveal that starts later succeeds; and none
// commits behind it.
func TestRevocationIsLinearizable(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	c.Vault("ml")
	c.Put("ml", "db/main", "password", "hunter2")
	ids, pol := c.Engineer.Identities(), c.Engineer.Policies()
	cases := map[string]func(ctx context.Context, user string, s *apitest.Session) error{
		"logout": func(ctx context.Context, _ string, s *apitest.Session) error {
			_, err := s.Auth().Logout(ctx, &hizov1.LogoutRequest{})
			return err
		},
		"tokens": func(ctx context.Context, user string, _ *apitest.Session) error {
			_, err := ids.RevokeTokens(ctx, &hizov1.RevokeTokensRequest{Principal: "user/" + user})
			return err
		},
		"role": func(ctx context.Context, user string, _ *apitest.Session) error {
			_, err := ids.RevokeRole(ctx, &hizov1.RoleRequest{Role: "SecurityEngineer", Name: user})
			return err
		},
		"disabled": func(ctx context.Context, user string, _ *apitest.Session) error {
			_, err := ids.DisableUser(ctx, &hizov1.DisableRequest{Name: user})
			return err
		},
		"policy": func(ctx context.Context, user string, _ *apitest.Session) error {
			_, err := pol.PutPolicy(ctx, &hizov1.PutPolicyRequest{Name: "stop-" + user, Text: fmt.Sprintf(
				`forbid(principal == Hizo::User::%q, action == Hizo::Action::"reveal", resource);`, user)})
			return err
		},
	}
	actions := map[string]string{"logout": "token.revoke", "tokens": "token.revoke", "role": "role.revoke", "disabled": "user.disable", "policy": "policy.put"}
	for what, revoke := range cases {
		t.Run(what, func(t *testing.T) {
			user := "eve-" + what
			eve := c.User(user, "SecurityEngineer")
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			var revoked atomic.Bool
			var before, after atomic.Int64
			var wg sync.WaitGroup
			stop := make(chan struct{})
			for range 8 {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						late := revoked.Load()
						_, err := eve.Secrets().Reveal(ctx, &hizov1.RevealRequest{Vault: "ml", Path: "db/main"})
						switch {
						case err == nil && late:
							t.Error("a reveal that began after the acknowledged revocation succeeded")
							return
						case err == nil:
							before.Add(1)
						default:
							after.Add(1)
						}
					}
				})
			}
			await(t, "reveals under way", func() bool { return before.Load() > 20 })
			if err := revoke(ctx, user, eve); err != nil {
				t.Fatal(err)
			}
			revoked.Store(true)
			await(t, "refusals", func() bool { return after.Load() > 20 })
			close(stop)
			wg.Wait()

			// The log has the last word: the revocation's record, and no allowed reveal behind it.
			store := c.Leader().Store()
			var at uint64
			for rec, err := range store.AuditRecords(0, store.AuditSize()) {
				if err != nil {
					t.Fatal(err)
				}
				if (rec.Resource == "user/"+user || rec.Resource == "policy/stop-"+user) && rec.Action == actions[what] && rec.Outcome == fsm.CodeOK && rec.Decision == fsm.Allowed {
					at = rec.Seq
				}
				if at > 0 && rec.Principal == "user/"+user && rec.Action == "reveal" && rec.Outcome == fsm.CodeOK && rec.Decision == fsm.Allowed {
					t.Errorf("reveal %d committed behind the revocation %d", rec.Seq, at)
				}
			}
			if at == 0 {
				t.Error("the revocation is not on record")
			}
		})
	}
}

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// Promise 3: a mutation takes effect once, over fail-over too.
func TestRetriesTakeEffectOnce(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	c.Vault("ml")
	put := func(ctx context.Context, value string) (uint32, error) {
		out, err := c.Engineer.Secrets().Put(ctx, &hizov1.PutRequest{Vault: "ml", Path: "db/main", Fields: map[string][]byte{"password": []byte(value)}})
		return out.GetVersion(), err
	}
	once := client.WithRequestID(ctx, client.NewRequestID())
	if v, err := put(once, "one"); err != nil || v != 1 {
		t.Fatalf("first: %d, %v", v, err)
	}
	if v, err := put(once, "one"); err != nil || v != 1 {
		t.Fatalf("retry: %d, %v; want version 1 again", v, err)
	}
	if _, err := put(once, "two"); apitest.Reason(err) != hizov1.ReasonRequestReused {
		t.Errorf("another request under the same id: %v", err)
	}
	if v, err := put(ctx, "two"); err != nil || v != 2 {
		t.Fatalf("next: %d, %v", v, err)
	}
	if _, err := c.Engineer.Identities().CreateWorkload(ctx, &hizov1.CreateWorkloadRequest{Name: "train"}); err != nil {
		t.Fatal(err)
	}
	twice := client.WithRequestID(ctx, client.NewRequestID())
	first, err := c.Engineer.Identities().CreateSecretID(twice, &hizov1.CreateSecretIDRequest{Workload: "train"})
	if err != nil {
		t.Fatal(err)
	}
	taken := client.WithRequestID(ctx, client.NewRequestID())
	if _, err := c.Engineer.Identities().CreateUser(taken, &hizov1.CreateUserRequest{Name: "bob"}); err != nil {
		t.Fatal(err)
	}

	c.Kill(c.Leader())

	if v, err := put(once, "one"); err != nil || v != 1 {
		t.Errorf("retry at the next leader: %d, %v; want version 1", v, err)
	}
	again, err := c.Engineer.Identities().CreateSecretID(twice, &hizov1.CreateSecretIDRequest{Workload: "train"})
	if err != nil || again.GetSecretId() != first.GetSecretId() || again.GetExpiresUnix() != first.GetExpiresUnix() {
		t.Errorf("a retried secret id is another one, or %v", err)
	}
	if _, err := c.Engineer.Identities().CreateUser(taken, &hizov1.CreateUserRequest{Name: "bob"}); err != nil {
		t.Errorf("a retried creation: %v", err)
	}
	if _, err := c.Engineer.Identities().CreateUser(ctx, &hizov1.CreateUserRequest{Name: "bob"}); apitest.Reason(err) != hizov1.ReasonExists {
		t.Errorf("a second creation: %v", err)
	}
	versions, err := c.Engineer.Secrets().Versions(ctx, &hizov1.VersionsRequest{Vault: "ml", Path: "db/main"})
	if err != nil || len(versions.GetItems()) != 2 {
		t.Errorf("%d versions, %v; want 2", len(versions.GetItems()), err)
	}
}

// Promise 7: only SecurityEngineers reveal, only workloads inject, and neither can be had by a policy.
func TestWhoRevealsAndWhoInjects(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	c.Vault("ml")
	c.Put("ml", "db/main", "password", "hunter2")
	everything := `permit(principal, action == Hizo::Action::"inject", resource);`
	if _, err := c.Engineer.Policies().PutPolicy(ctx, &hizov1.PutPolicyRequest{Name: "everything", Text: everything}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Engineer.Policies().PutPolicy(ctx, &hizov1.PutPolicyRequest{
		Name: "reveal", Text: `permit(principal, action == Hizo::Action::"reveal", resource);`,
	}); apitest.Reason(err) != hizov1.ReasonInvalid {
		t.Errorf("a policy that permits reveal: %v", err)
	}
	key, err := hybrid.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	who := map[string]struct {
		s              *apitest.Session
		reveal, inject bool
	}{
		"SecurityEngineer": {c.User("eve", "SecurityEngineer"), true, false},
		"Operator":         {c.User("olga", "Operator"), false, false},
		"Auditor":          {c.User("anna", "Auditor"), false, false},
		"PipelineOwner":    {c.User("paul", "PipelineOwner"), false, false},
		"no role":          {c.User("bob"), false, false},
		"workload":         {c.Workload("train", ""), false, true},
	}
	for what, w := range who {
		t.Run(what, func(t *testing.T) {
			out, err := w.s.Secrets().Reveal(ctx, &hizov1.RevealRequest{Vault: "ml", Path: "db/main"})
			if (err == nil) != w.reveal {
				t.Errorf("reveal: %v", err)
			}
			if err == nil && string(out.GetFields()["password"]) != "hunter2" {
				t.Error("another value")
			}
			if !w.reveal && apitest.Reason(err) != hizov1.ReasonPermissionDenied {
				t.Errorf("reveal: %v, want PERMISSION_DENIED", err)
			}
			in, err := w.s.Secrets().Inject(ctx, &hizov1.InjectRequest{
				Refs: []*hizov1.InjectRequest_Ref{{Vault: "ml", Path: "db/main", Field: "password"}}, ExecutionKey: key.Public(), Execution: "run 1",
			})
			if (err == nil) != w.inject {
				t.Fatalf("inject: %v", err)
			}
			if err != nil {
				if apitest.Reason(err) != hizov1.ReasonPermissionDenied {
					t.Errorf("inject: %v, want PERMISSION_DENIED", err)
				}
				return
			}
			target := inject.Target{Cluster: in.GetClusterId(), Principal: in.GetPrincipal(), Vault: "ml", Path: "db/main", Field: "password", Version: in.GetValues()[0].GetVersion()}
			value, err := inject.OpenValue(key, target, in.GetValues()[0].GetSealed())
			if err != nil || string(value.Reveal()) != "hunter2" || target.Principal != "workload/train" {
				t.Errorf("the injected value does not open: %v", err)
			}
		})
	}
	// Each denial is on record, with who, what and why.
	found, err := c.Engineer.Audit().Search(ctx, &hizov1.SearchRequest{Resource: "ml/db/main", Decision: "denied"})
	if err != nil {
		t.Fatal(err)
	}
	denials := make(map[string]int)
	for _, rec := range found.GetRecords() {
		denials[rec.GetPrincipal()+" "+rec.GetAction()]++
		if len(rec.GetPolicies()) == 0 || rec.GetOutcome() != "denied" || rec.GetClientAddress() == "" {
			t.Errorf("denial without grounds: %v", rec)
		}
	}
	for _, want := range []string{"user/eve inject", "user/olga reveal", "user/olga inject", "user/anna reveal", "user/paul inject", "user/bob reveal", "workload/train reveal"} {
		if denials[want] != 1 {
			t.Errorf("%s: %d records, want 1", want, denials[want])
		}
	}
}
