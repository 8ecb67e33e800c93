package policy

import (
	"fmt"
	"strings"
	"testing"
)

// TestExplain is a golden file that people read as the manual does.
func TestExplain(t *testing.T) {
	set := compile(t,
		Source{"pipeline", owners},
		Source{"freeze", `forbid(principal, action == Hizo::Action::"inject", resource == Hizo::Secret::"ml/frozen");`},
		Source{"by-repository", `permit(principal == Hizo::Workload::"eval", action == Hizo::Action::"inject", resource in Hizo::Vault::"ml") when { context.claims.hasTag("repository") && context.claims.getTag("repository") == "acme/eval" };`},
		Source{"broken", `forbid(principal, action, resource == Hizo::Secret::"ml/broken") when { context.missing };`},
	)
	eval := train
	eval.Name = "eval"
	var b strings.Builder
	for _, r := range []Request{
		{Principal: train, Action: Inject, Resource: Secret("ml", "db")},
		{Principal: train, Action: Inject, Resource: Secret("hr", "db")},
		{Principal: train, Action: Inject, Resource: Secret("ml", "frozen")},
		{Principal: train, Action: Inject, Resource: Secret("ml", "broken")},
		{Principal: eval, Action: Inject, Resource: Secret("ml", "db")},
		{Principal: alice, Roles: []string{SecurityEngineer}, Action: Inject, Resource: Secret("ml", "db")},
		{Principal: alice, Roles: []string{PipelineOwner}, Action: Reveal, Resource: Secret("ml", "db")},
		{Principal: alice, Roles: []string{SecurityEngineer}, Action: Reveal, Resource: Secret("ml", "db")},
		{Principal: alice, Roles: []string{PipelineOwner}, Action: List, Resource: Vault("ml")},
		{Principal: alice, Roles: []string{PipelineOwner}, Action: List, Resource: Vault("hr")},
		{Principal: alice, Roles: []string{Operator}, Action: List, Resource: Vault("ml")},
		{Principal: alice, Roles: []string{Operator}, Action: ClusterApprove, Resource: System()},
		{Principal: alice, Action: AuditRead, Resource: System()},
		{Principal: train, Action: Put, Resource: Secret("ml", "db")},
		{Principal: alice, Action: TokenRenew, Resource: Identity(bob)},
		{Principal: alice, Action: "fly", Resource: System()},
	} {
		e := set.Explain(r)
		answer := "denied"
		if e.Allowed {
			answer = "allowed"
		}
		fmt.Fprintf(&b, "%s %v %s on %s: %s by %v\n", r.Principal, r.Roles, r.Action, r.Resource, answer, e.Policies)
		for _, m := range e.Missing {
			fmt.Fprintf(&b, "  ! %s\n", m)
		}
		for _, v := range e.Verdicts {
			fmt.Fprintf(&b, "  - %s: %s\n", v.ID, v.Result)
		}
	}
	golden(t, "explain.txt", b.String())
}

// TestHintsHold: the policy that a hint proposes passes validation and then
// permits the request it was proposed for.
func TestHintsHold(t *testing.T) {
	for _, r := range []Request{
		{Principal: train, Action: Inject, Resource: Secret("ml", "db/x")},
		{Principal: train, Action: List, Resource: Vault("ml")},
		{Principal: alice, Roles: []string{PipelineOwner}, Action: List, Resource: Vault("ml")},
		{Principal: alice, Roles: []string{PipelineOwner}, Action: Versions, Resource: Secret("ml", "db")},
	} {
		missing := strings.Join(compile(t).Explain(r).Missing, "\n")
		i := strings.Index(missing, "permit(")
		if i < 0 {
			t.Errorf("%s %s: %s", r.Principal, r.Action, missing)
			continue
		}
		if err := Validate("hint", missing[i:]); err != nil {
			t.Error(err)
		}
		if d := compile(t, Source{"hint", missing[i:]}).Decide(r); !d.Allowed {
			t.Errorf("%s does not permit %s %s: %+v", missing[i:], r.Principal, r.Action, d)
		}
	}
}
