package agent

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/cmd/hizo/internal/values"
)

// Template of a file, in Go's text/template, with the functions
//
//	secret "hizo://VAULT/PATH#FIELD"   a value by its reference (hizo-lease://… too)
//	variable "NAME"                    a value by its name
//	json, base64, shell                quote a value for JSON, encode it, quote it for a POSIX shell
//
// What secret and variable are given must stand there as it is, so that all values are known before one is fetched.
type Template struct {
	References []string
	Variables  []string
	parsed     *template.Template
}

// ParseTemplate reads a template and finds what it uses.
func ParseTemplate(file, text string) (*Template, error) {
	none := func(string) (string, error) { return "", errors.New("not rendered") }
	parsed, err := template.New(file).Option("missingkey=error").Funcs(functions(none, none)).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	t := &Template{parsed: parsed}
	for _, part := range parsed.Templates() {
		if part.Tree == nil {
			continue
		}
		if err := t.walk(part.Root); err != nil {
			return nil, fmt.Errorf("template: %w", err)
		}
	}
	return t, nil
}

func functions(secret, variable func(string) (string, error)) template.FuncMap {
	return template.FuncMap{
		"secret": secret, "variable": variable,
		"json": func(s string) (string, error) {
			var b bytes.Buffer
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(false)
			err := e.Encode(s)
			return strings.TrimSuffix(b.String(), "\n"), err
		},
		"base64": func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
		"shell":  func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" },
	}
}

// walk finds the uses of secret and variable.
func (t *Template) walk(node parse.Node) error {
	switch n := node.(type) {
	case *parse.ListNode:
		if n == nil {
			return nil
		}
		for _, child := range n.Nodes {
			if err := t.walk(child); err != nil {
				return err
			}
		}
	case *parse.ActionNode:
		return t.pipe(n.Pipe)
	case *parse.TemplateNode:
		return t.pipe(n.Pipe)
	case *parse.IfNode:
		return t.branch(&n.BranchNode)
	case *parse.RangeNode:
		return t.branch(&n.BranchNode)
	case *parse.WithNode:
		return t.branch(&n.BranchNode)
	}
	return nil
}

func (t *Template) branch(n *parse.BranchNode) error {
	return errors.Join(t.pipe(n.Pipe), t.walk(n.List), t.walk(n.ElseList))
}

func (t *Template) pipe(p *parse.PipeNode) error {
	if p == nil {
		return nil
	}
	for _, command := range p.Cmds {
		for i, arg := range command.Args {
			switch a := arg.(type) {
			case *parse.PipeNode:
				if err := t.pipe(a); err != nil {
					return err
				}
			case *parse.IdentifierNode:
				if a.Ident != "secret" && a.Ident != "variable" {
					continue
				}
				if i != 0 || len(command.Args) != 2 {
					return fmt.Errorf(`%s takes one text that stands there as it is: {{%s "…"}}`, a.Ident, a.Ident)
				}
				text, ok := command.Args[1].(*parse.StringNode)
				if !ok {
					return fmt.Errorf(`%s takes one text that stands there as it is: {{%s "…"}}`, a.Ident, a.Ident)
				}
				if err := t.uses(a.Ident, text.Text); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (t *Template) uses(function, text string) error {
	list := &t.Variables
	if function == "secret" {
		list = &t.References
		if !name.IsReference(text) && !name.IsLeaseReference(text) {
			return errors.New("secret is given something that is no reference: hizo://VAULT/PATH#FIELD")
		}
		if _, err := values.ParseWant(text, text); err != nil {
			return err
		}
	} else if _, err := name.Variable(text); err != nil {
		return err
	}
	if !slices.Contains(*list, text) {
		*list = append(*list, text)
	}
	return nil
}

// Render makes the file. Nothing of a value is in its error.
func (t *Template) Render(set *values.Set) ([]byte, error) {
	var missing string
	get := func(variable string) (string, error) {
		v, ok := set.Get(variable)
		if !ok {
			missing = variable
			return "", errors.New("missing")
		}
		return string(v.Bytes.Reveal()), nil
	}
	again, err := t.parsed.Clone()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := again.Funcs(functions(get, get)).Execute(&out, nil); err != nil {
		clear(out.Bytes())
		if missing != "" {
			return nil, fmt.Errorf("the template uses %s, for which there is no value", missing)
		}
		return nil, errors.New("the template can't be rendered with these values") // its error could repeat one
	}
	return out.Bytes(), nil
}

// Uses reports whether the template needs a value.
func (t *Template) Uses(variable string) bool {
	return slices.Contains(t.References, variable) || slices.Contains(t.Variables, variable)
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
