package api_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/fsm"
)

func TestVersionsOfASecret(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	s := c.Engineer.Secrets()
	put := func(value string, cas *uint32) (uint32, error) {
		out, err := s.Put(ctx, &hizov1.PutRequest{Vault: "ml", Path: "db/main", Fields: map[string][]byte{"password": []byte(value)}, Cas: cas})
		return out.GetVersion(), err
	}
	n := func(v uint32) *uint32 { return &v }
	if _, err := put("x", nil); apitest.Reason(err) != hizov1.ReasonNotFound {
		t.Errorf("into no vault: %v", err)
	}
	c.Vault("ml")
	if _, err := c.Engineer.Vaults().CreateVault(ctx, &hizov1.CreateVaultRequest{Name: "ml"}); apitest.Reason(err) != hizov1.ReasonExists {
		t.Errorf("the vault again: %v", err)
	}
	if v, err := put("one", n(0)); err != nil || v != 1 {
		t.Fatalf("%d, %v", v, err)
	}
	if _, err := put("two", n(0)); apitest.Reason(err) != hizov1.ReasonConflict || !strings.Contains(err.Error(), "version is 1") {
		t.Errorf("must not exist: %v", err)
	}
	if v, err := put("two", n(1)); err != nil || v != 2 {
		t.Fatalf("%d, %v", v, err)
	}
	if v, err := put("three", nil); err != nil || v != 3 {
		t.Fatalf("%d, %v", v, err)
	}
	reveal := func(version uint32) string {
		out, err := s.Reveal(ctx, &hizov1.RevealRequest{Vault: "ml", Path: "db/main", Version: version, Field: "password"})
		if err != nil {
			return apitest.Reason(err)
		}
		return fmt.Sprintf("%d %s", out.GetVersion(), out.GetFields()["password"])
	}
	change := func(kind string, versions ...uint32) string {
		req := &hizov1.ChangeVersionsRequest{Vault: "ml", Path: "db/main", Versions: versions}
		out, err := map[string]func() (*hizov1.ChangeVersionsResponse, error){
			"delete":   func() (*hizov1.ChangeVersionsResponse, error) { return s.Delete(ctx, req) },
			"undelete": func() (*hizov1.ChangeVersionsResponse, error) { return s.Undelete(ctx, req) },
			"destroy":  func() (*hizov1.ChangeVersionsResponse, error) { return s.Destroy(ctx, req) },
		}[kind]()
		if err != nil {
			return apitest.Reason(err)
		}
		return fmt.Sprint(out.GetVersions())
	}
	steps := []struct{ got, want string }{
		{reveal(0), "3 three"}, {reveal(1), "1 one"}, {reveal(9), hizov1.ReasonNotFound},
		{change("delete"), "[3]"}, {reveal(0), hizov1.ReasonDeleted}, {reveal(2), "2 two"},
		{change("undelete", 3), "[3]"}, {reveal(0), "3 three"},
		{change("destroy"), hizov1.ReasonInvalid}, {change("destroy", 1), "[1]"}, {reveal(1), hizov1.ReasonDestroyed},
		{change("undelete", 1), hizov1.ReasonDestroyed}, {change("delete", 0), hizov1.ReasonInvalid},
	}
	for i, step := range steps {
		if step.got != step.want {
			t.Errorf("step %d: %q, want %q", i+1, step.got, step.want)
		}
	}
	out, err := s.Versions(ctx, &hizov1.VersionsRequest{Vault: "ml", Path: "db/main"})
	if err != nil {
		t.Fatal(err)
	}
	var stages []string
	for _, v := range out.GetItems() {
		stages = append(stages, fmt.Sprintf("%d %s %s", v.GetVersion(), v.GetStage(), v.GetBy()))
	}
	if want := []string{"1 destroyed user/alice", "2 previous user/alice", "3 current user/alice"}; !slices.Equal(stages, want) {
		t.Errorf("%v, want %v", stages, want)
	}
	for _, p := range []string{"a", "b/1", "b/2", "c"} {
		c.Put("ml", p, "f", "x")
	}
	list, err := s.List(ctx, &hizov1.ListSecretsRequest{Vault: "ml", Prefix: "b/", Limit: 1})
	if err != nil || len(list.GetItems()) != 1 || !list.GetMore() || list.GetItems()[0].GetPath() != "b/1" || list.GetItems()[0].GetUpdatedUnix() == 0 {
		t.Errorf("list: %v, %v", list, err)
	}
	list, err = s.List(ctx, &hizov1.ListSecretsRequest{Vault: "ml", Prefix: "b/", After: "b/1"})
	if err != nil || len(list.GetItems()) != 1 || list.GetMore() || list.GetItems()[0].GetPath() != "b/2" {
		t.Errorf("the next page: %v, %v", list, err)
	}
	if _, err := s.List(ctx, &hizov1.ListSecretsRequest{Vault: "other"}); apitest.Reason(err) != hizov1.ReasonNotFound {
		t.Errorf("a vault that is not there: %v", err)
	}
	if v, err := c.Engineer.Vaults().ListVaults(ctx, &hizov1.ListVaultsRequest{}); err != nil || len(v.GetVaults()) != 1 {
		t.Errorf("vaults: %v, %v", v, err)
	}
}

// Concurrent puts to one path each get a version of their own, and none gives up.
func TestConcurrentPutsToOnePath(t *testing.T) {
	t.Parallel()
	var superseded, done atomic.Int64
	count := fault(func(ctx context.Context, cmd fsm.Command, propose func(context.Context, fsm.Command) (fsm.Result, error)) (fsm.Result, error) {
		r, err := propose(ctx, cmd)
		if r.Code == fsm.CodeSuperseded {
			superseded.Add(1)
		} else {
			done.Add(1)
		}
		return r, err
	})
	var hook atomic.Pointer[fault]
	c := apitest.Start(t, apitest.Options{Wrap: func(_ string, n api.Node) api.Node { return &faulty{Node: n, fault: &hook} }})
	ctx := t.Context()
	c.Vault("ml")
	hook.Store(&count)
	const writers, each = 16, 5
	var mu sync.Mutex
	seen := make(map[uint32]string)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				value := fmt.Sprintf("%d/%d", w, i)
				out, err := c.Engineer.Secrets().Put(ctx, &hizov1.PutRequest{Vault: "ml", Path: "hot", Fields: map[string][]byte{"f": []byte(value)}})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if other, ok := seen[out.GetVersion()]; ok {
					t.Errorf("version %d given to %s and %s", out.GetVersion(), other, value)
				}
				seen[out.GetVersion()] = value
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	hook.Store(nil)
	// The leader reserves numbers in the order of the log: hardly a put encrypts for a number that is taken.
	if superseded.Load() > done.Load()/10 {
		t.Errorf("%d of %d puts were superseded", superseded.Load(), done.Load())
	}
	if len(seen) != writers*each {
		t.Fatalf("%d versions of %d puts", len(seen), writers*each)
	}
	for version, value := range seen {
		out, err := c.Engineer.Secrets().Reveal(ctx, &hizov1.RevealRequest{Vault: "ml", Path: "hot", Version: version})
		if err != nil || string(out.GetFields()["f"]) != value {
			t.Fatalf("version %d is %q, want %q: %v", version, out.GetFields()["f"], value, err)
		}
	}
}

// Records that grant something and were not made by the cluster's keys grant nothing, although they are
// in the state: as after an offline edit of a disk.
func TestForgedStateGrantsNothing(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	c.Vault("ml")
	c.Put("ml", "db/main", "password", "hunter2")
	forge := func(kind fsm.Kind, body any) {
		t.Helper()
		c.Must(fsm.Command{
			Kind: kind, Principal: "user/mallory", Body: fsm.EncodeBody(kind, body),
			Audits: []fsm.Audit{{Action: "forge", Decision: fsm.Allowed}},
		})
	}
	bob := c.User("bob")
	forge(fsm.KindRoleGrant, &fsm.RoleBinding{Role: "SecurityEngineer", Principal: "user/bob", By: "user/alice", MAC: make([]byte, 32)})
	if _, err := bob.Secrets().Reveal(ctx, &hizov1.RevealRequest{Vault: "ml", Path: "db/main"}); err == nil {
		t.Error("a forged role revealed a value")
	}
	train := c.Workload("train", "")
	forge(fsm.KindPolicyPut, &fsm.PolicyPut{Policy: fsm.Policy{Name: "forged", Text: `permit(principal, action == Hizo::Action::"inject", resource);`, MAC: make([]byte, 32)}})
	_, err := train.Secrets().Inject(ctx, &hizov1.InjectRequest{
		Refs: []*hizov1.InjectRequest_Ref{{Vault: "ml", Path: "db/main", Field: "password"}}, ExecutionKey: executionKey(t),
	})
	if err == nil {
		t.Error("a forged policy injected a value")
	}
}

func executionKey(t *testing.T) []byte {
	t.Helper()
	key, err := hybrid.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key.Public()
}
