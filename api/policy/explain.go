package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/ast"

	"github.com/hizo/hizo/api/name"
)

// Result is what one statement said to a request.
type Result string

// The results of a statement.
const (
	Matched      Result = "matched"
	OutOfScope   Result = "out of scope"                // about another principal or resource
	ConditionNot Result = "its condition does not hold" // the scope matched, a when or unless did not
	Failed       Result = "failed"                      // counts as matched for a forbid only
)

// Verdict is one statement's part in a decision.
type Verdict struct {
	ID     string
	Forbid bool
	Result Result
	Detail string // why it failed, or the reason of a shipped forbid that matched
}

// Explanation is a Decision with its grounds.
type Explanation struct {
	Decision
	// Verdicts of every statement about this action, in the order of
	// evaluation: shipped ones first.
	Verdicts []Verdict
	// Missing says, for a denial, what would have to be there.
	Missing []string
}

// Explain decides like Decide and tells why. It is meant for people and costs
// many times a decision.
func (s *Set) Explain(r Request) Explanation {
	e := Explanation{Decision: s.Decide(r)}
	w := newWorld(r)
	for _, rule := range s.byAction[r.Action] {
		e.Verdicts = append(e.Verdicts, w.verdict(rule))
	}
	if !e.Allowed {
		e.Missing = s.missing(r, e)
	}
	return e
}

func (w *world) verdict(r *rule) Verdict {
	v := Verdict{ID: r.id, Forbid: r.forbid}
	alone := w.authorize(rulesInQuestion{r}, true, true)
	switch {
	case len(alone.Errors) > 0:
		v.Result, v.Detail = Failed, strings.TrimPrefix(alone.Errors[0], r.id+": ")
	case len(alone.Policies) > 0:
		v.Result, v.Detail = Matched, r.reason
	case w.inScope(r):
		v.Result = ConditionNot
	default:
		v.Result = OutOfScope
	}
	return v
}

// inScope evaluates a statement without its conditions.
func (w *world) inScope(r *rule) bool {
	bare := *r.tree
	bare.Conditions = nil
	scope := &rule{id: r.id, policy: cedar.NewPolicyFromAST((*ast.Policy)(&bare))}
	return len(w.authorize(rulesInQuestion{scope}, true, true).Policies) > 0
}

func (s *Set) missing(r Request, e Explanation) []string {
	var out []string
	if principalUID(r.Principal).Type == "" {
		return []string{"nobody is logged in"}
	}
	if !IsAction(r.Action) {
		return []string{fmt.Sprintf("there is no action %q", string(r.Action))}
	}
	shipped := false
	for _, v := range e.Verdicts {
		if !v.Forbid || v.Result != Matched && v.Result != Failed {
			continue
		}
		shipped = shipped || strings.HasPrefix(v.ID, ShippedPrefix)
		line := "forbidden by policy " + v.ID
		if v.Result == Failed {
			line += " (it failed, which counts as matched)"
		}
		if v.Detail != "" {
			line += ": " + v.Detail
		}
		out = append(out, line)
	}
	if shipped {
		return out // no permit helps; the reason says who may
	}
	for _, v := range e.Verdicts {
		switch {
		case v.Forbid, strings.HasPrefix(v.ID, ShippedPrefix) && v.Result == ConditionNot: // the hint says it better
		case v.Result == ConditionNot:
			out = append(out, fmt.Sprintf("permit %s is about this, but its condition does not hold", v.ID))
		case v.Result == Failed:
			out = append(out, fmt.Sprintf("permit %s failed and so does not count: %s", v.ID, v.Detail))
		}
	}
	matched := slices.ContainsFunc(e.Verdicts, func(v Verdict) bool { return !v.Forbid && v.Result == Matched })
	if !matched {
		out = append(out, "no permit matches: "+hint(r))
	}
	return out
}

// hint says what would permit a request that no shipped policy forbids. Those
// forbid everything to everybody but whom a shipped policy permits it, except
// the actions that can be granted; TestMatrix asks for every other case.
func hint(r Request) string {
	switch r.Principal.Kind {
	case name.KindWorkload:
		return "a workload needs a pipeline that it runs and that was granted this (`hizo pipeline env set`), or a policy like " + example(principalUID(r.Principal).String(), r, "principal ==")
	case name.KindUser:
		return fmt.Sprintf("it takes the role %s, or the role %s and a policy like %s",
			SecurityEngineer, PipelineOwner, example(Role(PipelineOwner).String(), r, "principal in"))
	}
	return "only users and workloads are granted anything"
}

func example(principal string, r Request, relation string) string {
	return fmt.Sprintf("permit(%s %s, action == %s, resource in %s);", relation, principal, actionUID(r.Action), vaultOf(r.Resource))
}

func vaultOf(r Resource) Resource {
	if r.vault != "" {
		return Vault(r.vault)
	}
	return r
}
