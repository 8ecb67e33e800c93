package policy

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"github.com/hizo/hizo/api/name"
)

// TextError says what is wrong with a policy's text, in the order of the text.
type TextError struct {
	Policy   string
	Problems []Problem // at least one
}

// Problem is one thing wrong with a policy's text.
type Problem struct {
	Line    int // from 1
	Column  int // from 1, in characters
	Message string
}

// maxProblems bounds an answer: who has more mistakes corrects these first.
const maxProblems = 10

func (e *TextError) Error() string {
	lines := make([]string, 0, len(e.Problems))
	for _, p := range e.Problems {
		lines = append(lines, fmt.Sprintf("policy %s, line %d, column %d: %s", e.Policy, p.Line, p.Column, p.Message))
	}
	return strings.Join(lines, "\n")
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
// and it speaks only of what put policies can rule. The error is a *TextError,
// or that of name.Policy.
func Validate(policy, text string) error {
	if _, err := name.Policy(policy); err != nil {
		return err
	}
	list, err := parse(policy, text)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return textError(policy, Problem{Line: 1, Column: 1, Message: "holds no permit or forbid"})
	}
	var problems []Problem
	for i, p := range list {
		end := len(text)
		if i+1 < len(list) {
			end = list[i+1].Position().Offset
		}
		problems = append(problems, validateStatement(place{text: text, from: p.Position().Offset, to: end}, p)...)
	}
	if len(problems) == 0 {
		return nil
	}
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	problems = slices.Compact(problems)
	return textError(policy, problems[:min(len(problems), maxProblems)]...)
}

func textError(policy string, problems ...Problem) error {
	return &TextError{Policy: policy, Problems: problems}
}

func validateStatement(at place, p *cedar.Policy) []Problem {
	tree := (*ast.Policy)(p.AST())
	var problems []Problem
	if err := schemaValidator().Policy("", tree); err != nil {
		for message := range strings.SplitSeq(err.Error(), "\n") {
			problems = append(problems, at.problem(clearer(message)))
		}
		// An unknown name has no applicable action either: the name is the
		// mistake.
		if slices.ContainsFunc(problems, func(p Problem) bool { return strings.HasPrefix(p.Message, "unrecognized ") }) {
			problems = slices.DeleteFunc(problems, func(p Problem) bool { return p.Message == clearer(noAction) })
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
		case uid.Type != typeAction || !IsAction(action):
			// The schema has said so.
		case !slices.Contains(secretActions(), action):
			problems = append(problems, at.problem(fmt.Sprintf("`%s` is ruled by the shipped policies alone", uid)))
		case p.Effect() == cedar.Permit && !slices.Contains(grantableActions(), action):
			problems = append(problems, at.problem(fmt.Sprintf("`%s` cannot be permitted by a policy: it comes with the role %s", uid, SecurityEngineer)))
		}
	}
	return problems
}

// noAction is the validator's message where no action fits a scope.
const noAction = "unable to find an applicable action given the policy scope constraints"

var unknownType = regexp.MustCompile("^unrecognized entity type `([A-Za-z]+)`$")

// clearer adds to the validator's message what to write instead.
func clearer(message string) string {
	if message == noAction {
		return "no action fits such a principal and resource: inject is for a Workload on a Secret, reveal for a User on a Secret, list is on a Vault, lease is for a Workload on a LeaseRole"
	}
	return unknownType.ReplaceAllString(message, "$0: write Hizo::$1 if you mean ours")
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
	case typePipeline:
		_, err = name.ParsePipeline(id)
	case typeLease:
		_, err = name.ParseLeaseRole(id)
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
	whole := place{text: text, to: len(text)}
	switch {
	case len(text) > MaxText:
		return nil, textError(policy, Problem{Line: 1, Column: 1, Message: fmt.Sprintf("has %d bytes, at most %d are allowed: split it", len(text), MaxText)})
	case !utf8.ValidString(text):
		return nil, textError(policy, Problem{Line: 1, Column: 1, Message: "is not valid UTF-8"})
	}
	// Terminals act on these, and cedar-go's scanner gives them no position.
	if i := strings.IndexFunc(text, func(r rune) bool { return unicode.IsControl(r) && !strings.ContainsRune("\n\r\t", r) }); i >= 0 {
		return nil, textError(policy, whole.problemAt(i, "has a control character"))
	}
	if offset, ok := tooDeep(text); ok {
		return nil, textError(policy, whole.problemAt(offset, fmt.Sprintf("nests brackets, unary operators or ifs more than %d deep", maxNesting)))
	}
	list, err := cedar.NewPolicyListFromBytes(policy, []byte(text))
	if err != nil {
		return nil, textError(policy, whole.syntax(err))
	}
	if len(list) > MaxStatements {
		return nil, textError(policy, whole.problemAt(list[MaxStatements].Position().Offset, fmt.Sprintf("has %d statements, at most %d are allowed: split it", len(list), MaxStatements)))
	}
	return list, nil
}

// tooDeep finds the token that is nested too deeply, before a recursive parser
// sees it. What nests are brackets, unary operators in a row, and the ifs of
// one expression: "if a then b else if …" nests to the right. It may count too
// much where operators follow an if, never too little.
func tooDeep(text string) (int, bool) {
	var (
		outer []level // around the innermost open bracket
		here  level
		unary int // operators just before this token
	)
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			continue
		case c == '/' && strings.HasPrefix(text[i:], "//"):
			for i < len(text) && text[i] != '\n' {
				i++
			}
			continue
		case c == '!' && strings.HasPrefix(text[i:], "!="):
			i++
			unary = 0
		case c == '!' || c == '-':
			unary++
		case c == '"':
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
			unary = 0
		case c == '(' || c == '[' || c == '{':
			outer = append(outer, here)
			here, unary = level{base: here.base + here.ifs + unary + 1}, 0
		case c == ')' || c == ']' || c == '}':
			if n := len(outer); n > 0 {
				here, outer = outer[n-1], outer[:n-1]
			}
			unary = 0
		case c == ',' || c == ';':
			here.ifs, unary = 0, 0
		case letter(c):
			start := i
			for i+1 < len(text) && (letter(text[i+1]) || '0' <= text[i+1] && text[i+1] <= '9') {
				i++
			}
			if text[start:i+1] == "if" {
				here.ifs++
			}
			unary = 0
		default:
			unary = 0
		}
		if here.base+here.ifs+unary > maxNesting {
			return i, true
		}
	}
	return 0, false
}

// level is how deep an open bracket is, and how many ifs its expression has.
type level struct{ base, ifs int }

func letter(c byte) bool { return c == '_' || 'a' <= c|0x20 && c|0x20 <= 'z' }

// place turns messages into Problems with a position in a policy's text.
type place struct {
	text     string
	from, to int // the statement's bytes
}

var (
	position = regexp.MustCompile(` at (?:<input>:)?(\d+):(\d+)|^<input>:(\d+):(\d+): `)
	wanted   = regexp.MustCompile(`exact got (.*) want (.*)$`)
	quoted   = regexp.MustCompile("`([^`]+)`")
)

// syntax reads the position out of a parser's error, which has it as text.
func (p place) syntax(err error) Problem {
	problem := Problem{Line: 1, Column: 1, Message: strings.TrimPrefix(err.Error(), "parser error: ")}
	if at := position.FindStringSubmatch(problem.Message); at != nil {
		line, _ := strconv.Atoi(at[1] + at[3])
		column, _ := strconv.Atoi(at[2] + at[4])
		problem.Line, problem.Column = max(line, 1), max(column, 1)
		problem.Message = strings.Replace(problem.Message, at[0], "", 1)
	}
	if got := wanted.FindStringSubmatch(problem.Message); got != nil {
		problem.Message = fmt.Sprintf("expected %q, got %q", got[2], got[1])
		if got[1] == "" {
			problem.Message = fmt.Sprintf("expected %q, got the end of the text", got[2])
		}
	}
	return problem
}

// problem points at the first place of the statement where what the message
// quotes stands, or at the statement: the validator itself gives no position.
func (p place) problem(message string) Problem {
	for _, match := range quoted.FindAllStringSubmatch(message, -1) {
		if i := strings.Index(p.text[p.from:p.to], match[1]); i >= 0 {
			return p.problemAt(p.from+i, message)
		}
	}
	return p.problemAt(p.from, message)
}

func (p place) problemAt(offset int, message string) Problem {
	before := p.text[:min(offset, len(p.text))]
	lineStart := strings.LastIndexByte(before, '\n') + 1
	return Problem{
		Line:    strings.Count(before, "\n") + 1,
		Column:  utf8.RuneCountInString(before[lineStart:]) + 1,
		Message: message,
	}
}
