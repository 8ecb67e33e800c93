// Package sealedfile finds sealed values in files of configuration and puts others in their place. Everything else of a
// file stays as it is, byte for byte: comments, order, quotes, line ends.
//
// The name of the variable is what stands before the value:
//
//	dotenv        NAME=hizo:v1:…
//	YAML, JSON    NAME: hizo:v1:…                  the innermost key, in a list as well
//	              name: NAME, value: hizo:v1:…     in one mapping, as Kubernetes has it
//	              - NAME=hizo:v1:…                 in a list, as Compose has it
package sealedfile

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/seal"
)

// MaxFile bounds a file, in bytes.
const MaxFile = 4 << 20

// Format of a file.
type Format string

// Formats.
const (
	Dotenv Format = "dotenv"
	YAML   Format = "yaml"
	JSON   Format = "json"
)

// Value is a sealed value of a file.
type Value struct {
	Name   string
	Sealed *seal.Sealed
	Line   int

	start int // of its text, in bytes
}

// Error says where a file is wrong. It repeats nothing of what stands there.
type Error struct {
	Line   int
	Reason string
}

func (e *Error) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Reason) }

// ErrFormat says that a file's name does not tell its format.
var ErrFormat = errors.New("its name does not tell what it is: give --as dotenv, yaml or json")

// FormatOf tells a file's format by its name.
func FormatOf(path string) (Format, error) {
	base := strings.ToLower(filepath.Base(path))
	switch ext := filepath.Ext(base); {
	case ext == ".yaml", ext == ".yml":
		return YAML, nil
	case ext == ".json":
		return JSON, nil
	case ext == ".env", base == "env", base == "dotenv", strings.HasPrefix(base, ".env."):
		return Dotenv, nil
	}
	return "", ErrFormat
}

// Find returns the sealed values of a file in their order.
func Find(format Format, text []byte) ([]Value, error) {
	if len(text) > MaxFile {
		return nil, &Error{Line: 1, Reason: fmt.Sprintf("the file is larger than %d bytes", MaxFile)}
	}
	f := &finder{text: string(text)}
	var err error
	switch format {
	case Dotenv:
		err = f.dotenv()
	case YAML:
		err = f.yaml()
	case JSON:
		err = f.json()
	default:
		err = ErrFormat
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(f.found, func(a, b Value) int { return a.start - b.start })
	return f.found, nil
}

// Replace puts texts in the place of values that Find found in text, in their order.
func Replace(text []byte, values []Value, texts []string) []byte {
	var out []byte
	at := 0
	for i, v := range values {
		out = append(out, text[at:v.start]...)
		out = append(out, texts[i]...)
		at = v.start + len(v.Sealed.Text())
	}
	return append(out, text[at:]...)
}

type finder struct {
	text  string
	found []Value
}

// entry is a text somewhere in a structured file.
type entry struct {
	key   string // the innermost
	value string
	line  int
	start int // where to begin to look for value
	end   int // where to stop; 0: at the end of the line
}

// add takes a text over if it is sealed.
func (f *finder) add(e entry) error {
	value, variable := e.value, e.key
	if n, rest, ok := strings.Cut(value, "="); ok && seal.Is(rest) {
		variable, value = n, rest
	}
	if !seal.Is(value) {
		return nil
	}
	sealed, err := seal.Parse(value)
	if err != nil {
		return &Error{Line: e.line, Reason: err.Error()}
	}
	if _, err := name.Variable(variable); err != nil {
		return &Error{Line: e.line, Reason: fmt.Sprintf("the sealed value stands under no name of a variable: %v", err)}
	}
	end := e.end
	if end == 0 {
		end = len(f.text)
		if n := strings.IndexByte(f.text[e.start:], '\n'); n >= 0 {
			end = e.start + n
		}
	}
	i := strings.Index(f.text[e.start:end], value)
	if i < 0 {
		return &Error{Line: e.line, Reason: "the sealed value is written with escapes or over several lines: write it in one piece"}
	}
	start := e.start + i
	for _, v := range f.found {
		if v.start == start { // twice on one line
			return f.add(entry{key: e.key, value: e.value, line: e.line, start: start + len(value), end: end})
		}
	}
	f.found = append(f.found, Value{Name: variable, Sealed: sealed, Line: e.line, start: start})
	return nil
}

// group adds the texts of one mapping, in which a name may stand beside its value.
func (f *finder) group(entries []entry) error {
	called := ""
	for _, e := range entries {
		if e.key == "name" {
			called = e.value
		}
	}
	for _, e := range entries {
		if e.key == "value" && called != "" {
			e.key = called
		}
		if err := f.add(e); err != nil {
			return err
		}
	}
	return nil
}

// line is where a line begins, in bytes; lines count from 1.
func (f *finder) line(n int) int {
	at := 0
	for range n - 1 {
		i := strings.IndexByte(f.text[at:], '\n')
		if i < 0 {
			return len(f.text)
		}
		at += i + 1
	}
	return at
}
