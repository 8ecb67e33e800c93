package api_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/hizov1"
)

func TestPolicies(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	p := c.Engineer.Policies()
	c.Vault("ml")
	c.Put("ml", "db/main", "password", "x")
	c.Put("ml", "db/other", "password", "x")
	train := c.Workload("train", "")
	bob := c.User("bob")
	inject := func(path string) string {
		_, err := train.Secrets().Inject(ctx, &hizov1.InjectRequest{
			Refs: []*hizov1.InjectRequest_Ref{{Vault: "ml", Path: path, Field: "password"}}, ExecutionKey: executionKey(t),
		})
		return apitest.Reason(err)
	}
	explain := func(s *apitest.Session, principal, action, resource string) (*hizov1.ExplainResponse, string) {
		out, err := s.Policies().Explain(ctx, &hizov1.ExplainRequest{Principal: principal, Action: action, Resource: resource})
		return out, apitest.Reason(err)
	}
	if got := inject("db/main"); got != hizov1.ReasonPermissionDenied {
		t.Errorf("without a policy: %q", got)
	}
	if out, r := explain(c.Engineer, "workload/train", "inject", "ml/db/main"); r != "" || out.GetAllowed() || len(out.GetMissing()) == 0 {
		t.Errorf("explain: %v %s", out, r)
	}
	const text = `permit(principal == Hizo::Workload::"train", action == Hizo::Action::"inject", resource == Hizo::Secret::"ml/db/main");`
	put, err := p.PutPolicy(ctx, &hizov1.PutPolicyRequest{Name: "train", Text: text})
	if err != nil || put.GetBy() != "user/alice" {
		t.Fatalf("%v, %v", put, err)
	}
	if got := inject("db/main"); got != "" {
		t.Errorf("with the policy: %q", got)
	}
	if got := inject("db/other"); got != hizov1.ReasonPermissionDenied {
		t.Errorf("another secret: %q", got)
	}
	if out, r := explain(c.Engineer, "workload/train", "inject", "ml/db/main"); r != "" || !out.GetAllowed() || !slices.Contains(out.GetPolicies(), "train") {
		t.Errorf("explain: %v %s", out, r)
	}
	// One may ask about oneself, not about others.
	if out, r := explain(bob, "user/bob", "reveal", "ml/db/main"); r != "" || out.GetAllowed() {
		t.Errorf("bob about himself: %v %s", out, r)
	}
	if _, r := explain(bob, "user/alice", "reveal", "ml/db/main"); r != hizov1.ReasonPermissionDenied {
		t.Errorf("bob about alice: %s", r)
	}
	for _, bad := range [][3]string{{"bob", "reveal", "ml/db"}, {"user/bob", "fly", ""}, {"user/bob", "reveal", "ml"}, {"user/bob", "whoami", "hunter2"}, {"user/bob", "role.grant", "King"}} {
		if _, r := explain(c.Engineer, bad[0], bad[1], bad[2]); r != hizov1.ReasonInvalid {
			t.Errorf("%v: %q", bad, r)
		}
	}
	if out, r := explain(c.Engineer, "user/nobody", "whoami", ""); r != "" || out.GetAllowed() || !strings.Contains(strings.Join(out.GetMissing(), " "), "does not exist") {
		t.Errorf("nobody: %v %s", out, r)
	}
	// Two references of which one is not granted: neither is released.
	_, err = train.Secrets().Inject(ctx, &hizov1.InjectRequest{
		Refs: []*hizov1.InjectRequest_Ref{{Vault: "ml", Path: "db/main", Field: "password"}, {Vault: "ml", Path: "db/other", Field: "password"}}, ExecutionKey: executionKey(t),
	})
	if apitest.Reason(err) != hizov1.ReasonPermissionDenied {
		t.Errorf("one of two: %v", err)
	}
	found, err := c.Engineer.Audit().Search(ctx, &hizov1.SearchRequest{Action: "inject", Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	if d := found.GetRecords(); d[0].GetDecision() != "denied" || d[0].GetResource() != "ml/db/other" || d[1].GetDecision() != "failed" || d[1].GetResource() != "ml/db/main" {
		t.Errorf("%v", d)
	}

	for text, where := range map[string]string{
		"permit(principal, action, resource)":                                                                  "line 1",
		`permit(principal == Hizo::Workload::"Train", action == Hizo::Action::"inject", resource);`:            "upper-case",
		"permit(principal, action == Hizo::Action::\"inject\", resource)\nwhen { context.colour == \"red\" };": "colour",
	} {
		if _, err := p.PutPolicy(ctx, &hizov1.PutPolicyRequest{Name: "bad", Text: text}); apitest.Reason(err) != hizov1.ReasonInvalid || !strings.Contains(err.Error(), where) {
			t.Errorf("%s: %v, want something of %q", text, err, where)
		}
	}
	list, err := p.ListPolicies(ctx, &hizov1.ListPoliciesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	shipped := 0
	for _, one := range list.GetPolicies() {
		if one.GetShipped() {
			shipped++
		}
	}
	if shipped < 10 || len(list.GetPolicies()) != shipped+1 {
		t.Errorf("%d policies, %d shipped", len(list.GetPolicies()), shipped)
	}
	if one, err := p.GetPolicy(ctx, &hizov1.GetPolicyRequest{Name: "shipped/only-security-engineers-reveal"}); err != nil || !one.GetShipped() || one.GetText() == "" {
		t.Errorf("a shipped policy: %v, %v", one, err)
	}
	if _, err := p.DeletePolicy(ctx, &hizov1.DeletePolicyRequest{Name: "shipped/only-security-engineers-reveal"}); apitest.Reason(err) != hizov1.ReasonInvalid {
		t.Errorf("a shipped policy goes: %v", err)
	}
	if _, err := p.DeletePolicy(ctx, &hizov1.DeletePolicyRequest{Name: "train"}); err != nil {
		t.Fatal(err)
	}
	if got := inject("db/main"); got != hizov1.ReasonPermissionDenied {
		t.Errorf("after the policy went: %q", got)
	}
	if _, err := p.GetPolicy(ctx, &hizov1.GetPolicyRequest{Name: "train"}); apitest.Reason(err) != hizov1.ReasonNotFound {
		t.Errorf("the policy afterwards: %v", err)
	}
}
