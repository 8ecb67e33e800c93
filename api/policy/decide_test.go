package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"

	"github.com/hizo/hizo/api/name"
)

func inject(path string) Request {
	return Request{Principal: train, Action: Inject, Resource: Secret("ml", path), Time: time.Unix(1_700_000_000, 0)}
}

func TestDecideNamesWhoDecided(t *testing.T) {
	set := compile(t,
		Source{"b-permit", `permit(principal == Hizo::Workload::"train", action == Hizo::Action::"inject", resource in Hizo::Vault::"ml");`},
		Source{"a-permit", `permit(principal == Hizo::Workload::"other", action, resource); permit(principal is Hizo::Workload, action, resource);`},
		Source{"c-forbid", `forbid(principal, action, resource == Hizo::Secret::"ml/locked");`},
	)
	for _, c := range []struct {
		request  Request
		allowed  bool
		policies string
	}{
		{inject("db"), true, "a-permit#2 b-permit"},
		{inject("locked"), false, "c-forbid"},
		{Request{Principal: alice, Action: Inject, Resource: Secret("ml", "db")}, false, "shipped/only-workloads-inject"},
		{Request{Principal: train, Action: Inject, Resource: Secret("other", "db")}, true, "a-permit#2"},
		{Request{Principal: alice, Action: WhoAmI, Resource: System()}, true, "shipped/everybody"},
		{Request{Principal: alice, Action: Reveal, Resource: Secret("ml", "db"), Roles: []string{SecurityEngineer}}, true, "shipped/security-engineer-secrets"},
		{Request{Principal: alice, Action: "no-such-action", Resource: System(), Roles: Roles()}, false, ""},
		{Request{Principal: name.Principal{Kind: "robot", Name: "x"}, Action: WhoAmI, Resource: System()}, false, ""},
		{Request{Action: WhoAmI, Resource: System()}, false, ""},
	} {
		d := set.Decide(c.request)
		if d.Allowed != c.allowed || strings.Join(d.Policies, " ") != c.policies || len(d.Errors) != 0 {
			t.Errorf("%s %s on %s: %+v; want %v by %q", c.request.Principal, c.request.Action, c.request.Resource, d, c.allowed, c.policies)
		}
	}
}

// TestFailingPolicies: cedar-go skips a policy that fails; a skipped forbid
// would open what it guards.
func TestFailingPolicies(t *testing.T) {
	const (
		permit  = `permit(principal, action, resource);`
		fails   = `(principal, action, resource) when { context.missing == 1 };`
		badType = `forbid(principal, action, resource) when { 1 + resource.path == 2 };`
	)
	for _, c := range []struct {
		why     string
		sources []Source
		allowed bool
		decided string
		errors  int
	}{
		{"a failing permit does not match", []Source{{"p", "permit" + fails}}, false, "", 1},
		{"a failing permit beside a good one", []Source{{"p", "permit" + fails}, {"q", permit}}, true, "q", 1},
		{"a failing forbid denies", []Source{{"f", "forbid" + fails}, {"q", permit}}, false, "f", 1},
		{"a forbid of wrong types denies", []Source{{"f", badType}, {"q", permit}}, false, "f", 1},
		{"a failing forbid beside one that matches", []Source{{"f", "forbid" + fails}, {"g", `forbid(principal, action, resource);`}, {"q", permit}}, false, "g f", 1},
		{"a failing forbid alone", []Source{{"f", "forbid" + fails}}, false, "f", 1},
		{"a forbid for others does not fail", []Source{{"f", `forbid(principal == Hizo::Workload::"other", action, resource) when { context.missing };`}, {"q", permit}}, true, "q", 0},
	} {
		d := compile(t, c.sources...).Decide(inject("db"))
		if d.Allowed != c.allowed || strings.Join(d.Policies, " ") != c.decided || len(d.Errors) != c.errors {
			t.Errorf("%s: %+v", c.why, d)
		}
	}
}

func TestFacts(t *testing.T) {
	base := inject("train/db")
	base.Addr, base.Method = netip.MustParseAddr("10.1.2.3"), "secret-id"
	base.Claims = map[string]string{"repository": "acme/train"}
	with := func(change func(*Request)) Request { r := base; change(&r); return r }
	for _, c := range []struct {
		when      string
		yes, no   Request
		cacheable bool
	}{
		{`context.time < datetime("2024-01-01")`, base, with(func(r *Request) { r.Time = time.Unix(1_800_000_000, 0) }), false},
		{`context has addr && context.addr.isInRange(ip("10.0.0.0/8"))`, base, with(func(r *Request) { r.Addr = netip.MustParseAddr("192.0.2.1") }), false},
		{`context has addr && context.addr.isInRange(ip("10.0.0.0/8"))`, with(func(r *Request) { r.Addr = netip.MustParseAddr("::ffff:10.0.0.1") }), with(func(r *Request) { r.Addr = netip.Addr{} }), false},
		{`context has addr && context.addr.isIpv6()`, with(func(r *Request) { r.Addr = netip.MustParseAddr("fe80::1%eth0") }), base, false},
		{`context.method == "secret-id"`, base, with(func(r *Request) { r.Method = "password" }), false},
		{`context.claims.hasTag("repository") && context.claims.getTag("repository") == "acme/train"`, base, with(func(r *Request) { r.Claims = nil }), false},
		{`resource.path like "train/*" && resource.vault == "ml"`, base, with(func(r *Request) { r.Resource = Secret("ml", "other/db") }), true},
		{`principal.name like "tr*"`, base, with(func(r *Request) { r.Principal.Name = "x" }), true},
		{`resource in Hizo::Vault::"ml"`, base, with(func(r *Request) { r.Resource = Secret("mm", "train/db") }), true},
		{`[principal, Hizo::Workload::"x"].contains(Hizo::Workload::"train") && {"a": [resource.path]}.a.contains("train/db")`, base, with(func(r *Request) { r.Resource = Secret("ml", "db") }), true},
		{`if context.method == "x" then false else resource.path == "train/db"`, base, with(func(r *Request) { r.Method = "x" }), false},
	} {
		text := `permit(principal is Hizo::Workload, action == Hizo::Action::"inject", resource) when { ` + c.when + ` };`
		if err := Validate("p", text); err != nil {
			t.Errorf("%s: %v", c.when, err)
		}
		set := compile(t, Source{"p", text})
		for want, r := range map[bool]Request{true: c.yes, false: c.no} {
			d := set.Decide(r)
			if d.Allowed != want || len(d.Errors) > 0 {
				t.Errorf("%s: %+v, want %v", c.when, d, want)
			}
			if d.Cacheable != c.cacheable {
				t.Errorf("%s: cacheable is %v", c.when, d.Cacheable)
			}
		}
	}
}

// TestCacheableMeansFactsDoNotCount: a decision that is called cacheable is
// the same at any time, from anywhere, with any claims.
func TestCacheableMeansFactsDoNotCount(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var cacheable, not int
	for range 2000 {
		set := compile(t, randomSources(random)...)
		r := randomRequest(random)
		d := set.Decide(r)
		if !d.Cacheable {
			not++
			continue
		}
		cacheable++
		r.Time, r.Addr, r.Method, r.Claims = r.Time.Add(24*time.Hour), netip.Addr{}, "other", nil
		if again := set.Decide(r); again.Allowed != d.Allowed || !slices.Equal(again.Policies, d.Policies) {
			t.Fatalf("%+v and then %+v", d, again)
		}
	}
	if cacheable < 100 || not < 100 {
		t.Fatalf("%d cacheable, %d not: the test does not test", cacheable, not)
	}
}

// TestDecideAgreesWithCedar compares Decide, which leaves out what cannot
// match and builds only what is looked at, with Cedar over everything.
func TestDecideAgreesWithCedar(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	var allowed, failed int
	for range 5000 {
		set := compile(t, randomSources(random)...)
		r := randomRequest(random)
		got := set.Decide(r)

		w := newWorld(r)
		w.fields = true
		all := rulesInQuestion(set.byAction[r.Action])
		answer, diagnostic := cedar.Authorize(all, w, cedar.Request{
			Principal: w.principal, Action: actionUID(r.Action), Resource: r.Resource.uid, Context: w.facts(),
		})
		var deciding []string
		for _, reason := range diagnostic.Reasons {
			deciding = append(deciding, string(reason.PolicyID))
		}
		var broken []string
		for _, e := range diagnostic.Errors {
			failed++
			if all.find(e.PolicyID).forbid {
				broken = append(broken, string(e.PolicyID))
			}
		}
		want := answer == cedar.Allow && len(broken) == 0
		if len(broken) > 0 {
			if answer == cedar.Allow {
				deciding = nil
			}
			deciding = append(deciding, broken...)
		}
		if got.Allowed != want || !slices.Equal(got.Policies, deciding) || len(got.Errors) != len(diagnostic.Errors) {
			t.Fatalf("%+v\nDecide: %+v\nCedar:  %v by %v, %v", r, got, want, deciding, diagnostic.Errors)
		}
		if want {
			allowed++
		}
		if e := set.Explain(r); e.Allowed != want {
			t.Fatalf("Explain says %v", e.Allowed)
		}
	}
	if allowed < 100 || failed < 100 {
		t.Fatalf("%d allowed, %d failures: the test does not test", allowed, failed)
	}
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func randomSources(r *rand.Rand) []Source {
	var sources []Source
	for i := range r.IntN(5) {
		var text strings.Builder
		for range 1 + r.IntN(3) {
			fmt.Fprintf(&text, "%s(%s, %s, %s)%s;\n",
				pick(r, "permit", "permit", "permit", "forbid"),
				pick(r, "principal", `principal == Hizo::Workload::"train"`, `principal == Hizo::User::"alice"`, `principal in Hizo::Role::"SecurityEngineer"`,
					`principal in Hizo::Role::"PipelineOwner"`, `principal is Hizo::Workload`, `principal is Hizo::User in Hizo::Role::"PipelineOwner"`, `principal in Hizo::Workload::"train"`),
				pick(r, "action", `action == Hizo::Action::"inject"`, `action in [Hizo::Action::"inject", Hizo::Action::"list"]`, `action in Hizo::Action::"reveal"`, `action in []`),
				pick(r, "resource", `resource == Hizo::Secret::"ml/db"`, `resource in Hizo::Vault::"ml"`, `resource == Hizo::Vault::"ml"`, `resource is Hizo::Secret`, `resource is Hizo::Secret in Hizo::Vault::"ml"`, `resource in Hizo::Secret::"ml/db"`),
				pick(r, "", "", ` when { resource.path == "db" }`, ` unless { principal.name like "a*" }`, ` when { context.method == "password" }`, ` when { context.missing }`, ` when { context.addr.isLoopback() }`, ` when { principal has name && resource has vault }`),
			)
		}
		sources = append(sources, Source{fmt.Sprintf("p%d", i), text.String()})
	}
	return sources
}

func randomRequest(r *rand.Rand) Request {
	return Request{
		Principal: pick(r, alice, bob, train, train, n1),
		Roles:     pick(r, nil, []string{SecurityEngineer}, []string{PipelineOwner}, []string{Operator, PipelineOwner}, Roles()),
		Action:    pick(r, Inject, Inject, List, Reveal, Versions, Put, PolicyPut),
		Resource:  pick(r, Secret("ml", "db"), Secret("ml", "other"), Secret("hr", "db"), Vault("ml"), Vault("hr"), System()),
		Time:      time.Unix(1_700_000_000, 0),
		Addr:      pick(r, netip.Addr{}, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.0.0.1")),
		Method:    pick(r, "password", "secret-id"),
	}
}

func TestCompileLimits(t *testing.T) {
	many := make([]Source, MaxPolicies+1)
	for i := range many {
		many[i] = Source{fmt.Sprintf("p%d", i), widest}
	}
	for why, sources := range map[string][]Source{
		"too many":       many,
		"twice one name": {{"p", widest}, {"q", widest}, {"p", widest}},
		"a shipped name": {{"shipped/everybody", widest}},
		"upper case":     {{"P", widest}},
		"no policy":      {{"p", "permit"}},
	} {
		if set, err := Compile(sources); err == nil || set != nil {
			t.Errorf("%s: compiled", why)
		}
	}
	if _, err := Compile(many[1:]); err != nil {
		t.Errorf("%d policies: %v", MaxPolicies, err)
	}
}

// BenchmarkDecide is the hot path: every request is decided at least once.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{0, 50, 500} {
		var plain, conditional []Source
		for i := range n {
			scope := fmt.Sprintf(`permit(principal == Hizo::Workload::"w%d", action == Hizo::Action::"inject", resource in Hizo::Vault::"v%d")`, i, i%7)
			plain = append(plain, Source{fmt.Sprintf("p%d", i), scope + ";"})
			conditional = append(conditional, Source{fmt.Sprintf("p%d", i), fmt.Sprintf(
				`permit(principal is Hizo::Workload, action == Hizo::Action::"inject", resource) when { resource.path like "w%d/*" && context.method == "secret-id" };`, i)})
		}
		run := func(kind string, sources []Source, r Request) {
			set := compile(b, sources...)
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					set.Decide(r)
				}
			})
		}
		run("reveal", plain, Request{Principal: alice, Roles: []string{SecurityEngineer}, Action: Reveal, Resource: Secret("v3", "w3/db")})
		w := Request{Principal: name.Principal{Kind: name.KindWorkload, Name: "w3"}, Action: Inject, Resource: Secret("v3", "w3/db"), Method: "secret-id", Time: time.Unix(1_700_000_000, 0), Addr: netip.MustParseAddr("10.0.0.1")}
		run("inject", plain, w)
		run("inject-conditions", conditional, w)
	}
}
