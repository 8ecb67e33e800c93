package policy

import (
	"errors"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

// MaxCondition bounds the text of a condition in bytes.
const MaxCondition = 4 << 10

// Condition is what a binding demands of the claims of a login: a Cedar expression that sees context.claims and
// nothing else, because it is asked again whenever the login is used, when the rest of the login is long over.
//
//	context.claims.hasTag("ref") && context.claims.getTag("ref") like "refs/tags/v*"
type Condition struct {
	policy *cedar.Policy
	claims []string
}

// conditionSchema is what a condition may speak about, in the words of put policies.
const conditionSchema = `namespace Hizo {
  type Login = { "claims": Claims };
  entity Claims tags String;
  entity Workload;
  entity System;
  action "login" appliesTo { principal: [Workload], resource: [System], context: Login };
}`

var conditionValidator = sync.OnceValue(func() *validate.Validator {
	var s schema.Schema
	if err := s.UnmarshalCedar([]byte(conditionSchema)); err != nil {
		panic("policy: schema of conditions: " + err.Error())
	}
	resolved, err := s.Resolve()
	if err != nil {
		panic("policy: schema of conditions: " + err.Error())
	}
	return validate.New(resolved)
})

const (
	conditionName = "condition"
	conditionHead = `permit (principal is Hizo::Workload, action == Hizo::Action::"login", resource is Hizo::System) when {` + "\n"
	conditionTail = "\n};"
)

// ParseCondition reads a condition, or says with a *TextError what is wrong with it.
func ParseCondition(text string) (*Condition, error) {
	if len(text) > MaxCondition {
		return nil, textError(conditionName, Problem{Line: 1, Column: 1, Message: "is larger than a condition may be"})
	}
	c, problem, err := parseCondition(text)
	if err != nil {
		return nil, ownLines(err)
	}
	if problem != "" {
		return nil, ownLines(textError(conditionName, place{text: conditionHead + text, from: len(conditionHead), to: len(conditionHead) + len(text)}.problem(problem)))
	}
	return c, nil
}

func parseCondition(text string) (c *Condition, problem string, err error) {
	list, err := parse(conditionName, conditionHead+text+conditionTail)
	if err != nil {
		return nil, "", err
	}
	if len(list) != 1 || len((*ast.Policy)(list[0].AST()).Conditions) != 1 {
		return nil, "is one expression", nil // a brace that closes ours would let it say anything
	}
	tree := (*ast.Policy)(list[0].AST())
	if err := conditionValidator().Policy("", tree); err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return nil, clearer(first), nil
	}
	c = &Condition{policy: list[0]}
	ast.Inspect(ast.NewNode(tree.Conditions[0].Body), func(n ast.IsNode) bool {
		var claim ast.IsNode
		switch n := n.(type) {
		case ast.NodeTypeGetTag:
			claim = n.Right
		case ast.NodeTypeHasTag:
			claim = n.Right
		default:
			return true
		}
		value, literal := claim.(ast.NodeValue)
		name, text := value.Value.(types.String)
		if !literal || !text {
			problem = "names its claims as they are: context.claims.getTag(\"ref\")"
			return false
		}
		if !slices.Contains(c.claims, string(name)) {
			c.claims = append(c.claims, string(name))
		}
		return true
	})
	if problem == "" && len(c.claims) == 0 {
		problem = "asks for no claim, so it holds for everybody or nobody"
	}
	return c, problem, nil
}

// ownLines counts lines from the condition's first.
func ownLines(err error) error {
	if e, ok := errors.AsType[*TextError](err); ok {
		for i := range e.Problems {
			e.Problems[i].Line = max(1, e.Problems[i].Line-1)
		}
	}
	return err
}

// Claims are the names of the claims that the condition asks for.
func (c *Condition) Claims() []string { return c.claims }

// Holds evaluates the condition. One that fails does not hold.
func (c *Condition) Holds(claims map[string]string) bool {
	uid := types.NewEntityUID(typeClaims, "request")
	tags := make(types.RecordMap, len(claims))
	for k, v := range claims {
		tags[types.String(k)] = types.String(v)
	}
	answer, _ := cedar.Authorize(one{c.policy}, types.EntityMap{uid: {UID: uid, Tags: types.NewRecord(tags)}}, cedar.Request{
		Principal: types.NewEntityUID(typeWorkload, "login"), Action: types.NewEntityUID(typeAction, "login"),
		Resource: types.NewEntityUID(typeSystem, "hizo"), Context: types.NewRecord(types.RecordMap{"claims": uid}),
	})
	return answer == cedar.Allow
}

// one is a set of one policy.
type one struct{ policy *cedar.Policy }

// All implements cedar.PolicyIterator.
func (o one) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) { yield(conditionName, o.policy) }
}
