package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/hizo/hizo/api/name"
)

// TestShippedPoliciesFitTheSchema: they pass what put policies must pass, and
// each has an ID of its own; a forbid says why.
func TestShippedPoliciesFitTheSchema(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range shippedRules() {
		if err := schemaValidator().Policy(r.id, (*ast.Policy)(r.policy.AST())); err != nil {
			t.Errorf("%s: %v", r.id, err)
		}
		if !strings.HasPrefix(r.id, ShippedPrefix) || seen[r.id] {
			t.Errorf("ID %q", r.id)
		}
		seen[r.id] = true
		if r.forbid && r.reason == "" {
			t.Errorf("%s gives no reason", r.id)
		}
		if r.varies {
			t.Errorf("%s looks at facts: no decision would be cacheable", r.id)
		}
	}
	// What Shipped shows is what decides.
	for i, s := range Shipped() {
		list, err := parse("p", s.Text)
		if err != nil || len(list) != 1 || string(list[0].MarshalCedar()) != string(shippedRules()[i].policy.MarshalCedar()) || s.Name != shippedRules()[i].id {
			t.Errorf("%s: %v\n%s", s.Name, err, s.Text)
		}
	}
	// Every action is in the schema and is ruled by a shipped policy.
	set := compile(t)
	for _, action := range Actions() {
		if len(set.byAction[action]) == 0 {
			t.Errorf("no shipped policy is about %s", action)
		}
		text := fmt.Sprintf(`forbid(principal, action == %s, resource);`, actionUID(action))
		if err := Validate("p", text); err != nil && strings.Contains(err.Error(), "unrecognized") {
			t.Errorf("%s is not in the schema: %v", action, err)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, text := range []string{
		widest, owners,
		`permit(principal == Hizo::Workload::"train", action == Hizo::Action::"inject", resource == Hizo::Secret::"ml/db");`,
		`@why("audit finding 7") forbid(principal, action == Hizo::Action::"reveal", resource in Hizo::Vault::"hr") unless { context has addr && context.addr.isLoopback() };`,
		"// a comment with ((((\n" + widest,
		`forbid(principal, action in [Hizo::Action::"put", Hizo::Action::"destroy"], resource) when { resource.path like "((((*" };`,
		// Much of what nests, side by side.
		`forbid(principal, action == Hizo::Action::"put", resource) when { ` + strings.Repeat("!(1 != -1) && (if true then !true else false) && ", 100) + `"!!!" == "---" };`,
		strings.Repeat(`forbid(principal, action == Hizo::Action::"put", resource) when { if true then !false else -1 == 1 };`, 20) +
			`forbid(principal, action == Hizo::Action::"put", resource) when { ` + strings.Repeat("!", 62) + `true };`,
		strings.Repeat(widest+"\n", MaxStatements),
	} {
		if err := Validate("p", text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	const injects = `permit(principal, action == Hizo::Action::"inject", resource)`
	for _, c := range []struct {
		text         string
		line, column int
		says         string
	}{
		{"", 1, 1, "no permit or forbid"},
		{"// nothing", 1, 1, "no permit or forbid"},
		{"permit(", 1, 8, `expected "principal", got the end`},
		{"permit(principal, action, resource)", 1, 36, `expected ";", got the end`},
		{"\n\nallow(principal, action, resource);", 3, 6, "allow"},
		{injects + ` when { "open };`, 1, 70, "not terminated"},
		{"permit(principal,\n  action == Hizo::Action::\"injekt\",\n  resource);", 2, 13, "unrecognized action"},
		{`permit(principal == User::"x", action, resource);`, 1, 21, "write Hizo::User"},
		{`permit(principal == Hizo::User::"x", action == Hizo::Action::"inject", resource);`, 1, 1, "inject is for a Workload"},
		{`permit(principal in Hizo::Role::"Engineer", action == Hizo::Action::"list", resource);`, 1, 21, "no such role"},
		{`permit(principal == Hizo::Workload::"Train", action == Hizo::Action::"inject", resource);`, 1, 21, "upper-case"},
		{`permit(principal, action == Hizo::Action::"inject", resource == Hizo::Secret::"ml/../x");`, 1, 65, ".."},
		{`permit(principal, action == Hizo::Action::"inject", resource in Hizo::Vault::"ml/");`, 1, 65, "vault name"},
		{injects + ` when { resource in Hizo::Vault::"ML" };`, 1, 82, "vault name"},
		{injects + ` when { resource in [Hizo::Vault::"ml", Hizo::Vault::"ML"] };`, 1, 102, "vault name"},
		{injects + ` when { context.addres == ip("10.0.0.1") };`, 1, 78, "addres"},
		{injects + ` when { context.addr.isLoopback() };`, 1, 78, "optional attribute"},
		{injects + ` when { context.claims.getTag("r") == "x" };`, 1, 92, "tag"},
		{injects + ` when { 1 + "a" == 2 };`, 1, 1, "expected Long"},
		{injects + ` when { resource.value == "x" };`, 1, 79, "value"},
		{injects + ` when { ip("10.0.0").isLoopback() };`, 1, 73, "IP address"},
		{`permit(principal, action in [], resource);`, 1, 1, "empty set"},
		{`permit(principal == ?principal, action, resource);`, 1, 22, "expected ident"},
		{`permit(principal, action == Hizo::Action::"reveal", resource);`, 1, 29, "cannot be permitted"},
		{`permit(principal, action in [Hizo::Action::"list", Hizo::Action::"destroy"], resource);`, 1, 52, "cannot be permitted"},
		{`permit(principal, action == Hizo::Action::"role.grant", resource);`, 1, 29, "shipped policies alone"},
		{`forbid(principal, action == Hizo::Action::"policy.delete", resource);`, 1, 29, "shipped policies alone"},
		{widest + "\n" + widest + "\n  " + `forbid(principal, action == Hizo::Action::"audit.read", resource);`, 3, 31, "shipped policies alone"},
		{"permit(principal, action, resource) when { \xff };", 1, 1, "UTF-8"},
		{widest + "\n// \x1b[2J", 2, 4, "control character"},
		{widest + "\x00", 1, 37, "control character"},
		{strings.Repeat(" ", MaxText+1), 1, 1, "bytes"},
		{strings.Repeat(widest+"\n", MaxStatements+1), MaxStatements + 1, 1, "statements"},
		{injects + ` when { ` + strings.Repeat("!", 64) + "true };", 1, 133, "nests"},
		{injects + ` when { ` + strings.Repeat("! // not\n", 64) + "true };", 64, 1, "nests"},
		{injects + ` when { ` + strings.Repeat("- ", 64) + "1 == 1 };", 1, 196, "nests"},
		{injects + ` when { ` + strings.Repeat("if true then (1 == -1) else ", 64) + "true };", 1, 1797, "nests"},
		{injects + ` when { ` + strings.Repeat("(!!!", 16) + "true", 1, 133, "nests"},
		{injects + ` when { ` + strings.Repeat("(", 100) + "true" + strings.Repeat(")", 100) + ` };`, 1, 133, "nests"},
	} {
		err := Validate("p", c.text)
		textErr, ok := errors.AsType[*TextError](err)
		if !ok {
			t.Errorf("%.100q: %v; want a TextError", c.text, err)
			continue
		}
		found := slices.ContainsFunc(textErr.Problems, func(p Problem) bool {
			return p.Line == c.line && p.Column == c.column && strings.Contains(p.Message, c.says)
		})
		if !found {
			t.Errorf("%.100q:\n%v\nwant %d:%d %q", c.text, err, c.line, c.column, c.says)
		}
	}
	if err := Validate("shipped/p", widest); !errors.Is(err, name.ErrNotCanonical) {
		t.Errorf("a name with a slash: %v", err)
	}
	many := strings.Repeat(`forbid(principal, action == Hizo::Action::"audit.read", resource);`+"\n", MaxStatements)
	if textErr, ok := errors.AsType[*TextError](Validate("p", many)); !ok || len(textErr.Problems) != maxProblems {
		t.Errorf("%d mistakes: %v", MaxStatements, textErr)
	}
}

// TestHostileTexts: what is within the limits is answered soon, whatever it says.
func TestHostileTexts(t *testing.T) {
	const head = `permit(principal, action, resource) when { `
	fill := func(unit, end string) string {
		return head + strings.Repeat(unit, (MaxText-len(head)-len(end)-4)/len(unit)) + end + ` };`
	}
	for why, text := range map[string]string{
		"nots":          fill("!", "true"),
		"minuses":       fill("-", "1 == 1"),
		"ands":          fill("true && ", "true"),
		"ors":           fill("context.method == \"x\" || ", "true"),
		"sums":          fill("1+", "1 == 1"),
		"ifs":           fill("if true then true else ", "true"),
		"accesses":      fill("context.", "x"),
		"has":           fill("context has a && ", "true"),
		"set":           fill("[true].contains(true) && ", "true"),
		"nested sets":   head + strings.Repeat("[", maxNesting-2) + strings.Repeat("]", maxNesting-2) + `.isEmpty() };`,
		"likes":         fill(`"" like "*" && `, "true"),
		"a long like":   head + `resource.path like "` + strings.Repeat("a*", 7000) + `b" };`,
		"a long string": head + `resource.path == "` + strings.Repeat("x", MaxText-200) + `" };`,
	} {
		if len(text) > MaxText {
			t.Fatalf("%s has %d bytes", why, len(text))
		}
		start := time.Now()
		valid := Validate("p", text)
		if set, err := Compile([]Source{{"p", text}}); err == nil {
			set.Decide(inject(strings.Repeat("a", 500)))
			set.Explain(inject(strings.Repeat("a", 500)))
		}
		if n := strings.TrimRight(why, "s"); (n == "not" || n == "minuse" || n == "if") && !strings.Contains(fmt.Sprint(valid), "nests") {
			t.Errorf("%s reached the parser: %.100v", why, valid)
		}
		// Generous: the point is that nothing is exponential.
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s took %v (%.100v)", why, took, valid)
		} else {
			t.Logf("%s: %v", why, took)
		}
	}
}

func FuzzValidate(f *testing.F) {
	f.Add(widest)
	f.Add(owners)
	f.Add(`permit(principal, action == Hizo::Action::"inject", resource) when { context.claims.hasTag("r") && context.claims.getTag("r") == "x" };`)
	f.Add(`forbid(principal is Hizo::User in Hizo::Role::"Auditor", action, resource == Hizo::Secret::"ml/db") unless { -1 + 2 * 3 < 9223372036854775807 };`)
	f.Fuzz(func(t *testing.T, text string) {
		err := Validate("p", text)
		if err != nil {
			textErr, ok := errors.AsType[*TextError](err)
			if !ok {
				t.Fatalf("%T: %v", err, err)
			}
			for _, p := range textErr.Problems {
				if p.Line < 1 || p.Column < 1 || p.Message == "" || p.Line > strings.Count(text, "\n")+1 {
					t.Fatalf("%+v", p)
				}
			}
			return
		}
		set, err := Compile([]Source{{"p", text}})
		if err != nil {
			t.Fatalf("valid and does not compile: %v", err)
		}
		// Whatever is put, only SecurityEngineers reveal and manage, and
		// users never inject.
		for _, r := range []Request{
			{Principal: alice, Roles: []string{Operator, Auditor, PipelineOwner}, Action: Reveal, Resource: Secret("ml", "db")},
			{Principal: train, Action: Reveal, Resource: Secret("ml", "db")},
			{Principal: alice, Roles: Roles(), Action: Inject, Resource: Secret("ml", "db")},
			{Principal: train, Action: RoleGrant, Resource: Role(SecurityEngineer)},
			{Principal: alice, Roles: []string{Operator}, Action: PolicyPut, Resource: System()},
			{Principal: train, Action: Put, Resource: Secret("ml", "db")},
			{Principal: train, Action: Open, Resource: Pipeline("ml", "train")},
			{Principal: alice, Roles: Roles(), Action: Open, Resource: Pipeline("ml", "train"), Granted: true},
			{Principal: alice, Roles: Roles(), Action: Inject, Resource: Secret("ml", "db"), Granted: true},
		} {
			if set.Decide(r).Allowed {
				t.Fatalf("allows %+v", r)
			}
		}
	})
}
