// Package dotenv reads environment files.
//
//	# a comment
//	PLAIN=value               # white space around is cut, " #" begins a comment
//	export ALSO=value
//	SINGLE='taken as it is, $and \n too, over
//	several lines'
//	DOUBLE="escapes \n \r \t \" \\ \$ work, over
//	several lines"
//	REFERENCE=hizo://vault/path#field
//
// Nothing is expanded: a '$' is a '$'. A name may stand once.
package dotenv

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of a file.
const (
	MaxFile      = 1 << 20 // bytes
	MaxVariables = 4096
)

// Variable of a file.
type Variable struct {
	Name, Value string
	Line        int
}

// Error says where a file is wrong. It never repeats what stands there, which may be a secret.
type Error struct {
	Line   int
	Reason string
}

func (e *Error) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Reason) }

// ValidName reports whether s can name a variable in any shell.
func ValidName(s string) bool {
	for i, c := range []byte(s) {
		switch {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', c == '_':
		case '0' <= c && c <= '9' && i > 0:
		default:
			return false
		}
	}
	return s != ""
}

// Parse reads a file.
func Parse(text string) ([]Variable, error) {
	p := &parser{text: strings.TrimPrefix(text, "\ufeff"), line: 1}
	switch {
	case len(text) > MaxFile:
		return nil, &Error{Line: 1, Reason: fmt.Sprintf("the file is larger than %d bytes", MaxFile)}
	case !utf8.ValidString(text):
		return nil, &Error{Line: 1, Reason: "the file is not UTF-8"}
	case strings.ContainsRune(text, 0):
		return nil, &Error{Line: 1, Reason: "the file has a NUL byte, which no variable can hold"}
	}
	p.text = strings.ReplaceAll(p.text, "\r\n", "\n")
	var out []Variable
	seen := map[string]int{}
	for {
		p.skipBlank()
		if p.text == "" {
			return out, nil
		}
		v, err := p.variable()
		if err != nil {
			return nil, err
		}
		if line, twice := seen[v.Name]; twice {
			return nil, &Error{Line: v.Line, Reason: fmt.Sprintf("%s is set a second time (first in line %d)", v.Name, line)}
		}
		seen[v.Name] = v.Line
		if out = append(out, v); len(out) > MaxVariables {
			return nil, &Error{Line: v.Line, Reason: fmt.Sprintf("more than %d variables", MaxVariables)}
		}
	}
}

type parser struct {
	text string // what is left
	line int
}

// take removes n bytes and counts lines.
func (p *parser) take(n int) string {
	s := p.text[:n]
	p.line += strings.Count(s, "\n")
	p.text = p.text[n:]
	return s
}

// skipBlank removes empty lines and comments.
func (p *parser) skipBlank() {
	for {
		p.take(len(p.text) - len(strings.TrimLeft(p.text, " \t\n")))
		if !strings.HasPrefix(p.text, "#") {
			return
		}
		p.restOfLine()
	}
}

func (p *parser) restOfLine() string {
	if n := strings.IndexByte(p.text, '\n'); n >= 0 {
		return p.take(n)
	}
	return p.take(len(p.text))
}

func (p *parser) variable() (Variable, error) {
	v := Variable{Line: p.line}
	refuse := func(reason string) (Variable, error) { return v, &Error{Line: v.Line, Reason: reason} }
	if rest, ok := strings.CutPrefix(p.text, "export"); ok && rest != "" && (rest[0] == ' ' || rest[0] == '\t') {
		p.take(len(p.text) - len(strings.TrimLeft(rest, " \t")))
	}
	n := strings.IndexAny(p.text, "=\n")
	if n < 0 || p.text[n] != '=' {
		return refuse("no NAME=VALUE")
	}
	v.Name = strings.TrimRight(p.take(n), " \t")
	if !ValidName(v.Name) {
		return refuse("the name before '=' is not made of letters, digits and '_'")
	}
	p.take(1)
	p.take(len(p.text) - len(strings.TrimLeft(p.text, " \t")))
	if p.text == "" || p.text[0] != '\'' && p.text[0] != '"' {
		v.Value = plain(p.restOfLine())
		return v, nil
	}
	quote := p.text[0]
	p.take(1)
	value, ok := p.quoted(quote)
	if !ok {
		return refuse("a quote is not closed")
	}
	v.Value = value
	if rest := strings.TrimLeft(p.restOfLine(), " \t"); rest != "" && rest[0] != '#' {
		return refuse("there is text behind the closing quote")
	}
	return v, nil
}

// plain cuts a comment, which white space must precede: references hold a '#'.
func plain(s string) string {
	if strings.HasPrefix(s, "#") {
		return ""
	}
	for i := 1; i < len(s); i++ {
		if s[i] == '#' && (s[i-1] == ' ' || s[i-1] == '\t') {
			s = s[:i]
			break
		}
	}
	return strings.TrimRight(s, " \t")
}

// quoted reads up to the closing quote.
func (p *parser) quoted(quote byte) (string, bool) {
	if quote == '\'' {
		n := strings.IndexByte(p.text, quote)
		if n < 0 {
			return "", false
		}
		s := p.take(n)
		p.take(1)
		return s, true
	}
	var b strings.Builder
	for i := 0; i < len(p.text); i++ {
		switch c := p.text[i]; {
		case c == quote:
			p.take(i + 1)
			return b.String(), true
		case c == '\\' && i+1 < len(p.text):
			i++
			b.WriteString(unescape(p.text[i]))
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

// unescape returns what "\c" stands for; an unknown escape stands for itself.
func unescape(c byte) string {
	switch c {
	case 'n':
		return "\n"
	case 'r':
		return "\r"
	case 't':
		return "\t"
	case '"', '\\', '$', '`':
		return string(rune(c))
	}
	return "\\" + string([]byte{c})
}
