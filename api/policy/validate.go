package policy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"github.com/hizo/hizo/api/name"
)

// Problem is one thing wrong with a policy's text. Validate joins several.
type Problem struct {
	Policy  string
	Line    int // from 1
	Column  int // from 1, in characters
	Message string
}

func (p *Problem) Error() string {
	return fmt.Sprintf("policy %s, line %d, column %d: %s", p.Policy, p.Line, p.Column, p.Message)
}

var schemaValidator = sync.OnceValue(func() *validate.Validator {
	text, err := shippedFiles.ReadFile("shipped/schema.cedarschema")
	if err != nil {
		panic(fmt.Sprintf("policy: embedded schema: %v", err))
	}
	var s schema.Schema
	if err := s.UnmarshalCedar(text); err != nil {
		panic(fmt.Sprintf("policy: embedded schema: %v", err))
	}
	resolved, err := s.Resolve()
	if err != nil {
		panic(fmt.Sprintf("policy: embedded schema: %v", err))
	}
	return validate.New(resolved)
})

// Validate says whether a policy may be put: it parses, it fits the schema,
// and it speaks only of what put policies can rule. The error is of type
// *Problem, or several of them joined.
func Validate(policy, text string) error {
	if _, err := name.Policy(policy); err != nil {
		return err
	}
	list, err := parse(policy, text)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return &Problem{Policy: policy, Line: 1, Column: 1, Message: "holds no permit or forbid"}
	}
	var problems []error
	for i, p := range list {
		end := len(text)
		if i+1 < len(list) {
			end = list[i+1].Position().Offset
		}
		at := place{policy: policy, text: text, from: p.Position().Offset, to: end}
		problems = append(problems, validateStatement(at, p)...)
	}
	return errors.Join(problems...)
}

func validateStatement(at place, p *cedar.Policy) []error {
	tree := (*ast.Policy)(p.AST())
	var problems []error
	if err := schemaValidator().Policy("", tree); err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			problems = append(problems, at.problem(line))
		}
	}
	for uid := range entities(tree) {
		if message := checkEntity(uid); message != "" {
			problems = append(problems, at.problem(message))
		}
	}
	var named []types.EntityUID
	switch scope := tree.Action.(type) {
	case ast.ScopeTypeEq:
		named = []types.EntityUID{scope.Entity}
	case ast.ScopeTypeIn:
		named = []types.EntityUID{scope.Entity}
	case ast.ScopeTypeInSet:
		named = scope.Entities
	}
	for _, uid := range named {
		action := Action(uid.ID)
		switch {
		case uid.Type != typeAction || !slices.Contains(Actions(), action):
			// The schema has said so.
		case !slices.Contains(secretActions(), action):
			problems = append(problems, at.problem(fmt.Sprintf("`%s` is ruled by the shipped policies alone", uid)))
		case p.Effect() == cedar.Permit && !slices.Contains(grantableActions(), action):
			problems = append(problems, at.problem(fmt.Sprintf("`%s` cannot be permitted by a policy: it comes with the role %s", uid, SecurityEngineer)))
		}
	}
	return problems
}

// entities yields the entities that a statement names, each as often as named.
func entities(tree *ast.Policy) func(yield func(types.EntityUID) bool) {
	return func(yield func(types.EntityUID) bool) {
		more := true
		visit := func(uid types.EntityUID) {
			if more {
				more = yield(uid)
			}
		}
		scope := func(n ast.IsScopeNode) {
			switch n := n.(type) {
			case ast.ScopeTypeEq:
				visit(n.Entity)
			case ast.ScopeTypeIn:
				visit(n.Entity)
			case ast.ScopeTypeIsIn:
				visit(n.Entity)
			}
		}
		scope(tree.Principal)
		scope(tree.Resource)
		for _, c := range tree.Conditions {
			ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
				if value, ok := n.(ast.NodeValue); ok {
					if uid, ok := value.Value.(types.EntityUID); ok {
						visit(uid)
					}
				}
				return true
			})
		}
	}
}

// checkEntity finds names that can never exist, so that a policy with a typo
// is refused instead of matching nothing for ever.
func checkEntity(uid types.EntityUID) string {
	var err error
	id := string(uid.ID)
	switch uid.Type {
	case typeUser:
		_, err = name.User(id)
	case typeWorkload:
		_, err = name.Workload(id)
	case typeNode:
		_, err = name.Node(id)
	case typeVault:
		_, err = name.Vault(id)
	case typeSecret:
		_, err = name.ParseResource(id)
	case typeRole:
		if !IsRole(id) {
			err = fmt.Errorf("there is no such role; there are %s", strings.Join(Roles(), ", "))
		}
	}
	if err == nil {
		return ""
	}
	return fmt.Sprintf("`%s`: %v", uid, err)
}

// parse reads the statements of a put policy, within the limits.
func parse(policy, text string) (cedar.PolicyList, error) {
	whole := place{policy: policy, text: text, to: len(text)}
	switch {
	case len(text) > MaxText:
		return nil, &Problem{Policy: policy, Line: 1, Column: 1, Message: fmt.Sprintf("has %d bytes, at most %d are allowed: split it", len(text), MaxText)}
	case !utf8.ValidString(text):
		return nil, &Problem{Policy: policy, Line: 1, Column: 1, Message: "is not valid UTF-8"}
	}
	if offset, ok := tooDeep(text); ok {
		return nil, whole.problemAt(offset, fmt.Sprintf("nests brackets more than %d deep", maxNesting))
	}
	list, err := cedar.NewPolicyListFromBytes(policy, []byte(text))
	if err != nil {
		return nil, whole.syntax(err)
	}
	if len(list) > MaxStatements {
		return nil, whole.problemAt(list[MaxStatements].Position().Offset, fmt.Sprintf("has %d statements, at most %d are allowed: split it", len(list), MaxStatements))
	}
	return list, nil
}

// tooDeep finds the bracket that is nested too deeply, before a recursive
// parser sees it.
func tooDeep(text string) (int, bool) {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		case '/':
			if strings.HasPrefix(text[i:], "//") {
				for i < len(text) && text[i] != '\n' {
					i++
				}
			}
		case '(', '[', '{':
			if depth++; depth > maxNesting {
				return i, true
			}
		case ')', ']', '}':
			depth--
		}
	}
	return 0, false
}

// place turns messages into Problems with a position in a policy's text.
type place struct {
	policy   string
	text     string
	from, to int // the statement's bytes
}

var (
	position = regexp.MustCompile(`(?:<input>:)?(\d+):(\d+)`)
	quoted   = regexp.MustCompile("`([^`]+)`")
)

// syntax reads the position out of a parser's error, which has it as text.
func (p place) syntax(err error) error {
	problem := &Problem{Policy: p.policy, Line: 1, Column: 1, Message: err.Error()}
	if at := position.FindStringSubmatch(problem.Message); at != nil {
		problem.Line, _ = strconv.Atoi(at[1])
		problem.Column, _ = strconv.Atoi(at[2])
		problem.Message = strings.Replace(problem.Message, " at "+at[0], "", 1)
	}
	return problem
}

// problem points at the first place of the statement where what the message
// quotes stands, or at the statement: the validator itself gives no position.
func (p place) problem(message string) error {
	for _, match := range quoted.FindAllStringSubmatch(message, -1) {
		if i := strings.Index(p.text[p.from:p.to], match[1]); i >= 0 {
			return p.problemAt(p.from+i, message)
		}
	}
	return p.problemAt(p.from, message)
}

func (p place) problemAt(offset int, message string) error {
	before := p.text[:min(offset, len(p.text))]
	lineStart := strings.LastIndexByte(before, '\n') + 1
	return &Problem{
		Policy:  p.policy,
		Line:    strings.Count(before, "\n") + 1,
		Column:  utf8.RuneCountInString(before[lineStart:]) + 1,
		Message: message,
	}
}
