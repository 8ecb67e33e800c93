package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"golang.org/x/term"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// table is a result for people. Without head it is a list of pairs.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// show prints a result: the message as JSON or YAML under its proto names, or the table.
func (s *session) show(m proto.Message, t table) error {
	if s.g.Format == "table" {
		return s.showTable(t)
	}
	b, err := messageJSON(m)
	if err != nil {
		return err
	}
	return s.showJSON(b)
}

// showValue is show for what is no message.
func (s *session) showValue(v any, t table) error {
	if s.g.Format == "table" {
		return s.showTable(t)
	}
	b, err := marshalJSON(v)
	if err != nil {
		return err
	}
	return s.showJSON(b)
}

// showText prints one bare text, such as a token, where the format is table.
func (s *session) showText(m proto.Message, text string) error {
	if s.g.Format != "table" {
		return s.show(m, table{})
	}
	_, err := fmt.Fprintln(s.stdout, text)
	return err
}

// showSecretText prints a one-time secret, or writes it to a new private file.
func (s *session) showSecretText(m proto.Message, text, path string) error {
	if path == "" {
		return s.showText(m, text)
	}
	return writeNew(path, []byte(text+"\n"), 0o600)
}

func (s *session) showJSON(compact []byte) error {
	b, err := encode(s.g.Format, compact)
	if err != nil {
		return err
	}
	_, err = s.stdout.Write(b)
	return err
}

// encode makes indented JSON or YAML of compact JSON, in the same order.
func encode(format string, compact []byte) ([]byte, error) {
	compact = escapeJSON(compact)
	if format == "yaml" {
		b, err := yaml.JSONToYAML(compact)
		if err == nil && sameAsJSON(b, compact) {
			return b, nil
		}
		// The encoder has no form for every string (control characters). JSON is YAML too.
	}
	var b bytes.Buffer
	if err := json.Indent(&b, compact, "", "  "); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

func sameAsJSON(text, compact []byte) bool {
	if bytes.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
		return false
	}
	back, err := yaml.YAMLToJSON(text)
	if err != nil {
		return false
	}
	var got, want any
	return json.Unmarshal(back, &got) == nil && json.Unmarshal(compact, &want) == nil && reflect.DeepEqual(got, want)
}

// escapeJSON escapes what a terminal would act on or hide; encoders leave most of it as it is. Outside of strings
// JSON is plain ASCII.
func escapeJSON(compact []byte) []byte {
	hidden := func(r rune) bool { return r >= 0x7f && !unicode.IsPrint(r) }
	if !bytes.ContainsFunc(compact, hidden) {
		return compact
	}
	var b []byte
	for _, r := range string(compact) {
		switch {
		case !hidden(r):
			b = utf8.AppendRune(b, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			b = fmt.Appendf(b, `\u%04x\u%04x`, high, low)
		default:
			b = fmt.Appendf(b, `\u%04x`, r)
		}
	}
	return b
}

// messageJSON is compact; protojson's own spacing is random on purpose.
func messageJSON(m proto.Message) ([]byte, error) {
	b, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = json.Compact(&out, b)
	return out.Bytes(), err
}

func marshalJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

func (s *session) showTable(t table) error {
	var b strings.Builder
	t.write(&b)
	_, err := io.WriteString(s.stdout, b.String())
	return err
}

// write aligns columns by characters.
func (t table) write(b *strings.Builder) {
	var widths []int
	lines := t.rows
	if t.head != nil {
		lines = append([][]string{t.head}, t.rows...)
	}
	for _, row := range lines {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(printable(cell)))
		}
	}
	for _, row := range lines {
		var line strings.Builder
		for i, cell := range row {
			cell = printable(cell)
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
}

// printable escapes what a terminal would act on or hide: texts of others are shown here.
func printable(s string) string {
	clean := func(r rune) bool { return r == utf8.RuneError || r != ' ' && !unicode.IsPrint(r) }
	if strings.IndexFunc(s, clean) < 0 {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == utf8.RuneError || r == ' ' || unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// clock shows a time; the same everywhere, so in UTC.
func clock(unix int64) string {
	if unix == 0 {
		return "-"
	}
	return time.Unix(unix, 0).UTC().Format("2006-01-02 15:04:05Z")
}

func clockMilli(ms int64) string {
	if ms == 0 {
		return "-"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05.000Z")
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// toTerminal reports whether a person reads stdout.
func (s *session) toTerminal() bool { return term.IsTerminal(int(s.stdout.Fd())) }
