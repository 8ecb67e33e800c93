// Package policy decides who may do what, with Cedar policies: the shipped
// ones, compiled in, and the ones that SecurityEngineers put.
//
// The two kinds are not equal. Put policies are looked at for actions on
// secrets only; managing anything, the audit log and the cluster are ruled by
// the shipped policies alone. For actions on secrets a shipped forbid (only
// SecurityEngineers reveal, only workloads inject) beats every put permit.
//
// A Set is immutable and safe for concurrent use. Decide reads no clock and
// no state: what it answers is a function of the request and of the set.
package policy

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/hizo/hizo/api/name"
)

// Limits on put policies.
const (
	MaxText       = 16 << 10 // bytes of one policy's text
	MaxStatements = 64       // permits and forbids in one policy
	MaxPolicies   = 512      // policies in a set
	maxNesting    = 64       // brackets, unary operators and ifs within one another
)

// ShippedPrefix begins the IDs of the shipped policies. No put policy's name
// can hold the slash.
const ShippedPrefix = "shipped/"

var (
	// ErrTooMany means that the set would have more than MaxPolicies.
	ErrTooMany = fmt.Errorf("a cluster holds at most %d policies: delete one first", MaxPolicies)
	// ErrDuplicate means that two sources have one name.
	ErrDuplicate = errors.New("two policies have the same name")
)

// Source is the text of one put policy.
type Source struct {
	Name string
	Text string
}

// Set is a compiled policy set.
type Set struct {
	// rules that can match an action, shipped first, then by ID.
	byAction map[Action][]*rule
}

// rule is one permit or forbid statement.
type rule struct {
	id      string
	shipped bool
	reason  string // of a shipped forbid
	policy  *cedar.Policy
	tree    *ast.Policy

	forbid      bool
	readsFacts  bool // looks at context
	varies      bool // looks at more of it than granted, which is no fact of one request alone
	readsFields bool // looks at attributes of entities
}

//go:embed shipped
var shippedFiles embed.FS

// shippedRules are parsed once: they are part of the program text.
var shippedRules = sync.OnceValue(func() []*rule {
	var rules []*rule
	for _, file := range []string{"shipped/forbid.cedar", "shipped/permit.cedar"} {
		text, err := shippedFiles.ReadFile(file)
		if err != nil {
			panic(fmt.Sprintf("policy: embedded %s: %v", file, err))
		}
		list, err := cedar.NewPolicyListFromBytes(file, text)
		if err != nil {
			panic(fmt.Sprintf("policy: embedded %s: %v", file, err))
		}
		for _, p := range list {
			notes := p.Annotations()
			r := newRule(string(notes["id"]), p)
			r.shipped, r.reason = true, string(notes["reason"])
			rules = append(rules, r)
		}
	}
	return rules
})

// Shipped returns the shipped policies for people to read, one statement each,
// named by its ID.
func Shipped() []Source {
	var out []Source
	for _, r := range shippedRules() {
		out = append(out, Source{Name: r.id, Text: string(r.policy.MarshalCedar()) + "\n"})
	}
	return out
}

// Compile makes a set of the shipped policies and these. It does not apply
// Validate's rules, which may have been others when a policy was put; a text
// that does not parse is an error, and the caller keeps refusing.
func Compile(sources []Source) (*Set, error) {
	if len(sources) > MaxPolicies {
		return nil, ErrTooMany
	}
	set := &Set{byAction: make(map[Action][]*rule)}
	for _, r := range shippedRules() {
		set.add(r, Actions())
	}
	sources = slices.SortedFunc(slices.Values(sources), func(a, b Source) int { return cmp.Compare(a.Name, b.Name) })
	for i, source := range sources {
		if i > 0 && sources[i-1].Name == source.Name {
			return nil, fmt.Errorf("%w: %s", ErrDuplicate, source.Name)
		}
		if _, err := name.Policy(source.Name); err != nil {
			return nil, err
		}
		list, err := parse(source.Name, source.Text)
		if err != nil {
			return nil, err
		}
		for n, p := range list {
			set.add(newRule(statementID(source.Name, n, len(list)), p), secretActions())
		}
	}
	return set, nil
}

// statementID names a statement: the policy's name, with "#2" for the second
// of several.
func statementID(policy string, n, of int) string {
	if of == 1 {
		return policy
	}
	return fmt.Sprintf("%s#%d", policy, n+1)
}

func newRule(id string, p *cedar.Policy) *rule {
	r := &rule{id: id, policy: p, tree: (*ast.Policy)(p.AST()), forbid: p.Effect() == cedar.Forbid}
	for _, c := range r.tree.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			switch n := n.(type) {
			case ast.NodeTypeVariable:
				if n.Name == "context" {
					r.readsFacts, r.varies = true, true
				}
			case ast.NodeTypeAccess:
				if v, ok := n.Arg.(ast.NodeTypeVariable); ok && v.Name == "context" && n.Value == "granted" {
					r.readsFacts = true
					return false
				}
				r.readsFields = true
			case ast.NodeTypeHas:
				r.readsFields = true
			}
			return true
		})
	}
	return r
}

// add files the rule under those of the actions that its scope allows.
func (s *Set) add(r *rule, actions []Action) {
	for _, action := range actions {
		uid := actionUID(action)
		var may bool
		switch scope := r.tree.Action.(type) {
		case ast.ScopeTypeEq:
			may = scope.Entity == uid
		case ast.ScopeTypeIn:
			may = scope.Entity == uid // the schema has no action groups
		case ast.ScopeTypeInSet:
			may = slices.Contains(scope.Entities, uid)
		default:
			may = true
		}
		if may {
			s.byAction[action] = append(s.byAction[action], r)
		}
	}
}

func actionUID(a Action) types.EntityUID { return types.NewEntityUID(typeAction, types.String(a)) }
