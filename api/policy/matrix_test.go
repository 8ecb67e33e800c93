package policy

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/api/name"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var (
	alice = name.Principal{Kind: name.KindUser, Name: "alice"}
	bob   = name.Principal{Kind: name.KindUser, Name: "bob"}
	train = name.Principal{Kind: name.KindWorkload, Name: "train"}
	n1    = name.Principal{Kind: name.KindNode, Name: "n1"}
)

func compile(t testing.TB, sources ...Source) *Set {
	t.Helper()
	set, err := Compile(sources)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// resourceOf is what the API asks an action on; others is somebody else's.
func resourceOf(a Action) Resource {
	switch a {
	case Reveal, Inject, Put, Versions, Delete, Undelete, Destroy,
		RotationSet, RotationUse, RotationShow, RotationRun, RotationPause, RotationDelete,
		Watch, Consume:
		return Secret("ml", "db/password")
	case Open, PipelineCreate, PipelineShow, PipelineGrant, PipelineSet, PipelineDelete, PipelineKey, PipelineRotateKey, PipelineRevokeSeal, PipelineReseal:
		return Pipeline("ml", "train")
	case Lease, LeaseRolePut, LeaseRoleDelete:
		return LeaseRole("ml", "db")
	case List, VaultCreate, ConsumerList, VaultRotateKey:
		return Vault("ml")
	case RoleGrant, RoleRevoke:
		return Role(Operator)
	case UserDisable, PasswordSet, CertificateIssue, TokenRevoke, TokenRenew, PolicyExplain, LeaseList, LeaseRevoke:
		return Identity(bob)
	}
	return System()
}

// widest is the worst that could be put by somebody who wants to give all.
const widest = `permit(principal, action, resource);`

// owners is what a SecurityEngineer would put for a pipeline.
const owners = `
permit(principal in Hizo::Role::"PipelineOwner", action in [Hizo::Action::"list", Hizo::Action::"versions"], resource in Hizo::Vault::"ml");
permit(principal == Hizo::Workload::"train", action == Hizo::Action::"inject", resource in Hizo::Vault::"ml");
`

// freeze is what a SecurityEngineer would put to stop a pipeline.
const freeze = `forbid(principal, action in [Hizo::Action::"inject", Hizo::Action::"open"], resource in Hizo::Vault::"ml");`

// TestMatrix is the whole of who may do what, in a table that people review.
func TestMatrix(t *testing.T) {
	who := []struct {
		column    string
		principal name.Principal
		roles     []string
	}{
		{"SecEng", alice, []string{SecurityEngineer}},
		{"Operator", alice, []string{Operator}},
		{"Auditor", alice, []string{Auditor}},
		{"Owner", alice, []string{PipelineOwner}},
		{"no role", alice, nil},
		{"workload", train, nil},
		{"workload+SecEng", train, []string{SecurityEngineer}},
		{"node+all", n1, Roles()},
		{"nobody", name.Principal{}, Roles()},
	}
	tables := []struct {
		title   string
		sources []Source
		granted bool
	}{
		{"The shipped policies alone", nil, false},
		{"With a pipeline's policy: " + strings.TrimSpace(owners), []Source{{"pipeline", owners}}, false},
		{"With the widest permit that can be put: " + widest, []Source{{"widest", widest}}, false},
		{"Where the pipeline that the principal runs was granted it", nil, true},
		{"The same with a policy that forbids it: " + freeze, []Source{{"freeze", freeze}}, true},
	}
	var b strings.Builder
	b.WriteString("# Who may do what. Written by go test ./api/policy -run TestMatrix -update\n")
	b.WriteString("# 'own' is an action on oneself where it differs from the action on another.\n")
	for _, table := range tables {
		set := compile(t, table.sources...)
		fmt.Fprintf(&b, "\n## %s\n\n%-20s", table.title, "")
		for _, w := range who {
			fmt.Fprintf(&b, " %-15s", w.column)
		}
		b.WriteString("\n")
		for _, action := range Actions() {
			fmt.Fprintf(&b, "%-20s", action)
			for _, w := range who {
				r := Request{Principal: w.principal, Roles: w.roles, Action: action, Resource: resourceOf(action), Time: time.Unix(1_700_000_000, 0), Granted: table.granted}
				d := set.Decide(r)
				cell := "-"
				if d.Allowed {
					cell = "yes"
				}
				if len(d.Errors) > 0 {
					t.Errorf("%s by %s: %v", action, w.column, d.Errors)
				}
				if e := set.Explain(r); e.Allowed != d.Allowed || !e.Allowed && len(e.Missing) == 0 {
					t.Errorf("%s by %s: decided %v, explained as %+v", action, w.column, d.Allowed, e)
				}
				if r.Resource = Identity(w.principal); w.principal != (name.Principal{}) && set.Decide(r).Allowed != d.Allowed {
					switch action {
					case PasswordSet, TokenRevoke, TokenRenew, PolicyExplain, LeaseList, LeaseRevoke, Watch, Consume:
						cell = "own"
					default:
						// A principal is no secret and no vault: policies
						// about those need not match it.
						if action != List && action != Inject && action != Versions && action != Open && action != Lease && action != ConsumerList {
							t.Errorf("%s by %s differs on oneself", action, w.column)
						}
					}
				}
				fmt.Fprintf(&b, " %-15s", cell)
			}
			b.WriteString("\n")
		}
	}
	golden(t, "matrix.txt", trimLines(b.String()))
}

func trimLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got:\n%s", path, got)
	}
}

// TestPutPoliciesNeverWiden states what the golden table must never be
// updated to say.
func TestPutPoliciesNeverWiden(t *testing.T) {
	bare := compile(t)
	put := compile(t, Source{"widest", widest}, Source{"more", `permit(principal, action, resource) when { true };`})
	grantable := map[Action]bool{Inject: true, List: true, Versions: true, Lease: true, Watch: true, Consume: true, ConsumerList: true}
	for _, principal := range []name.Principal{alice, train, n1} {
		for mask := range 1 << len(Roles()) {
			var roles []string
			for i, role := range Roles() {
				if mask&(1<<i) != 0 {
					roles = append(roles, role)
				}
			}
			for _, action := range Actions() {
				r := Request{Principal: principal, Roles: roles, Action: action, Resource: resourceOf(action)}
				before, after := bare.Decide(r).Allowed, put.Decide(r).Allowed
				if after && !before && !grantable[action] {
					t.Errorf("a put policy gave %s to %s with %v", action, principal, roles)
				}
				if before && !after {
					t.Errorf("a put permit took %s from %s with %v", action, principal, roles)
				}
				isEngineer := principal.Kind == name.KindUser && mask&1 != 0
				if action == Reveal && after && !isEngineer {
					t.Errorf("%s with %v reveals", principal, roles)
				}
				if (action == Inject || action == Open || action == Lease) && after && principal.Kind != name.KindWorkload {
					t.Errorf("%s with %v injects", principal, roles)
				}
			}
		}
	}
}

// TestShippedForbidsStandAlone: what the shipped policies do not permit they
// forbid, unless it can be granted. So a permit could slip in anywhere and
// still give nothing.
func TestShippedForbidsStandAlone(t *testing.T) {
	set := compile(t)
	for _, action := range Actions() {
		for _, principal := range []name.Principal{alice, train, n1} {
			for _, role := range append(Roles(), "") {
				r := Request{Principal: principal, Roles: []string{role}, Action: action, Resource: resourceOf(action)}
				d := set.Decide(r)
				canBeGranted := (action == Inject || action == Lease || action == Consume) && principal == train ||
					(action == List || action == Versions || action == Watch || action == ConsumerList) && (principal == train || principal == alice && role == PipelineOwner)
				if !d.Allowed && len(d.Policies) == 0 && !canBeGranted {
					t.Errorf("%s by %s with %q is not permitted, and not forbidden either", action, principal, role)
				}
				if canBeGranted && len(d.Policies) > 0 {
					t.Errorf("%s by %s with %q can't be granted: %v", action, principal, role, d.Policies)
				}
			}
		}
	}
}

// TestPutForbidsLockNobodyOut: whoever put a bad policy can delete it.
func TestPutForbidsLockNobodyOut(t *testing.T) {
	bare := compile(t)
	locked := compile(t, Source{"lock", `forbid(principal, action, resource);`}, Source{"broken", `forbid(principal, action, resource) when { context.nothing };`})
	for _, action := range Actions() {
		for _, role := range Roles() {
			r := Request{Principal: alice, Roles: []string{role}, Action: action, Resource: resourceOf(action)}
			before, after := bare.Decide(r).Allowed, locked.Decide(r).Allowed
			onSecrets := false
			for _, a := range secretActions() {
				onSecrets = onSecrets || a == action
			}
			if onSecrets && after {
				t.Errorf("the forbid does not stop %s by %s", action, role)
			}
			if !onSecrets && before != after {
				t.Errorf("a put forbid rules %s by %s", action, role)
			}
		}
	}
}

func TestGrantMatrix(t *testing.T) {
	set := compile(t)
	for _, held := range append(Roles(), "", "securityengineer") {
		for _, role := range append(Roles(), "", "Root", "securityengineer") {
			want := held == SecurityEngineer && IsRole(role)
			if got := CanGrant([]string{held}, role); got != want {
				t.Errorf("CanGrant(%q, %q) is %v", held, role, got)
			}
			if !IsRole(role) {
				continue
			}
			for _, action := range []Action{RoleGrant, RoleRevoke} {
				d := set.Decide(Request{Principal: alice, Roles: []string{held}, Action: action, Resource: Role(role)})
				if d.Allowed != want {
					t.Errorf("%s of %s by %q: the policies say %v, the matrix %v", action, role, held, d.Allowed, want)
				}
			}
		}
	}
}
