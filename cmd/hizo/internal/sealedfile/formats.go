package sealedfile

import (
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/hizo/hizo/cmd/hizo/internal/dotenv"
)

func (f *finder) dotenv() error {
	variables, err := dotenv.Parse(f.text)
	if err != nil {
		if e, ok := errors.AsType[*dotenv.Error](err); ok {
			return &Error{Line: e.Line, Reason: e.Reason}
		}
		return err
	}
	for _, v := range variables {
		if err := f.add(entry{key: v.Name, value: v.Value, line: v.Line, start: f.line(v.Line)}); err != nil {
			return err
		}
	}
	return nil
}

// json walks the tokens; the decoder knows where each ends.
func (f *finder) json() error {
	d := json.NewDecoder(strings.NewReader(f.text))
	d.UseNumber()
	for {
		_, err := f.jsonValue(d, "")
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if e, ok := errors.AsType[*Error](err); ok {
				return e
			}
			return &Error{Line: f.lineAt(int(d.InputOffset())), Reason: "the file is no JSON"} // the library's text may quote it
		}
	}
}

func (f *finder) lineAt(offset int) int {
	return 1 + strings.Count(f.text[:min(offset, len(f.text))], "\n")
}

// jsonValue reads one value. What is a text is returned, for the mapping that it stands in.
func (f *finder) jsonValue(d *json.Decoder, key string) (*entry, error) {
	before := int(d.InputOffset())
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token := token.(type) {
	case string:
		end := int(d.InputOffset())
		return &entry{key: key, value: token, line: f.lineAt(end), start: before, end: end}, nil
	case json.Delim:
		var entries []entry
		for d.More() {
			inner := key
			if token == '{' {
				k, err := d.Token()
				if err != nil {
					return nil, err
				}
				inner = k.(string) // the decoder accepts nothing else
			}
			e, err := f.jsonValue(d, inner)
			if err != nil {
				return nil, err
			}
			if e != nil {
				entries = append(entries, *e)
			}
		}
		if _, err := d.Token(); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		return nil, f.group(entries)
	}
	return nil, nil
}

func (f *finder) yaml() error {
	file, err := parser.ParseBytes([]byte(f.text), 0)
	if err != nil {
		return &Error{Line: 1, Reason: "the file is no YAML"} // the library's text quotes it
	}
	for _, doc := range file.Docs {
		e, err := f.yamlNode(doc.Body, "")
		if err != nil {
			return err
		}
		if e != nil {
			if err := f.add(*e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *finder) yamlNode(node ast.Node, key string) (*entry, error) {
	var entries []entry
	collect := func(n ast.Node, key string) error {
		e, err := f.yamlNode(n, key)
		if e != nil {
			entries = append(entries, *e)
		}
		return err
	}
	pair := func(v *ast.MappingValueNode) error {
		k := ""
		if token := v.Key.GetToken(); token != nil {
			k = token.Value
		}
		return collect(v.Value, k)
	}
	switch n := node.(type) {
	case *ast.MappingNode:
		for _, v := range n.Values {
			if err := pair(v); err != nil {
				return nil, err
			}
		}
	case *ast.MappingValueNode:
		if err := pair(n); err != nil {
			return nil, err
		}
	case *ast.SequenceNode:
		for _, v := range n.Values {
			if err := collect(v, key); err != nil {
				return nil, err
			}
		}
	case *ast.AnchorNode:
		return f.yamlNode(n.Value, key)
	case *ast.TagNode:
		return f.yamlNode(n.Value, key)
	case *ast.StringNode:
		return f.yamlText(n.Value, n.GetToken().Position.Line, key), nil
	case *ast.LiteralNode:
		// A block begins on the line behind its indicator; its text is one line, or it is not sealed.
		return f.yamlText(strings.TrimRight(n.Value.Value, "\n"), n.GetToken().Position.Line+1, key), nil
	}
	return nil, f.group(entries)
}

func (f *finder) yamlText(value string, line int, key string) *entry {
	return &entry{key: key, value: value, line: line, start: f.line(line)}
}
