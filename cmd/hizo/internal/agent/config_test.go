package agent

import (
	"slices"
	"strings"
	"testing"

	"github.com/hizo/hizo/cmd/hizo/internal/values"
)

func TestConfigMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"pipelin: true":    "[1:1] unknown field \"pipelin\"",
		"":                 "nothing to keep up to date",
		"pipeline: true\n": "nothing to keep up to date",
		"files: [{path: a, template: x}]\ncommand:\n  argv: [a]\n  onchange: restart": "[4:3] unknown field \"onchange\"",
		"pipeline: true\npipeline: true":                                              "[2:1]",
		"files: [{path: a}]":                                                          "one of template and template_file",
		"files: [{path: a, template: x, template_file: y}]":                           "one of template and template_file",
		"files: [{template: x}]":                                                      "path is missing",
		"files: [{path: a, template: x}, {path: a, template: y}]":                     "there twice",
		"files: [{path: a, template: x, mode: \"999\"}]":                              "no mode",
		"files: [{path: a, template: x, owner: nobody-like-this}]":                    "nobody-like-this",
		"files: [{path: a, template: '{{variable \"X\"}}'}]":                          "not among variables",
		"files: [{path: a, template: '{{secret \"hunter2\"}}'}]":                      "no reference",
		"files: [{path: a, template: '{{secret (print \"a\" \"b\")}}'}]":              "stands there as it is",
		"files: [{path: a, template: '{{\"X\" | variable}}'}]":                        "stands there as it is",
		"files: [{path: a, template: '{{if variable .}}x{{end}}'}]":                   "stands there as it is",
		"files: [{path: a, template: '{{env \"X\"}}'}]":                               "env",
		"files: [{path: a, template: x, reload: {signal: HUP}}]":                      "pid_file",
		"files: [{path: a, template: x, reload: {signal: KILL, pid_file: p}}]":        "no signal",
		"variables: {X: hunter2}\nfiles: [{path: a, template: x}]":                    "neither a reference",
		"variables: {\"9\": hizo://ml/x#f}\nfiles: [{path: a, template: x}]":          "digit",
		"command: {}":                                                    "argv",
		"command: {argv: [a], on_change: x}":                             "on_change",
		"command: {argv: [a], splay: 3}":                                 "duration",
		"command: {argv: [a], variables: [X]}":                           "not among variables",
		"socket: {path: s}":                                              "allow",
		"socket: {path: s, allow: [{user: \"0\"}]}":                      "variables",
		"files: [{path: a, template: x}]\ncache: {file: c, key_file: k}": "beside what it locks",
		"files: [{path: a, template: x}]\ncache: {file: c}":              "needed",
	} {
		_, err := ParseConfig([]byte(text), "/etc")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the message repeats what may be a secret: %v", text, err)
		}
	}
}

func TestJobOfAConfig(t *testing.T) {
	cfg := configure(t, "/etc", `
pipeline: true
variables: {B: "hizo://ml/b#f", A: "hizo-lease://ml/reader#username"}
files:
  - path: x
    template: '{{if secret "hizo://ml/c#f"}}{{with variable "PIPE"}}{{.}}{{end}}{{else}}{{secret "hizo://ml/d#f@2"}}{{end}}{{define "t"}}{{secret "hizo://ml/e#f"}}{{end}}'
  - path: y
    template: '{{secret "hizo://ml/c#f"}}'
command: {argv: [run]}
`)
	job, err := cfg.Job()
	if err != nil || !job.Pipeline || job.Execution != "agent" {
		t.Fatalf("%+v, %v", job, err)
	}
	var names []string
	for _, w := range job.Wants {
		names = append(names, w.Name)
	}
	slices.Sort(names)
	if want := []string{"A", "B", "hizo://ml/c#f", "hizo://ml/d#f@2", "hizo://ml/e#f"}; !slices.Equal(names, want) {
		t.Errorf("wants %q, want %q", names, want)
	}
	if cfg.Files[0].Path != "/etc/x" {
		t.Errorf("path %s", cfg.Files[0].Path)
	}
	// The command gets variables, not the references of templates.
	part := cfg.Command.part(&values.Set{Values: []values.Value{{Name: "A"}, {Name: "hizo://ml/c#f"}, {Name: "PIPE"}}})
	if len(part.Values) != 2 || part.Values[1].Name != "PIPE" {
		t.Errorf("%+v", part)
	}
}

func TestTemplateFunctions(t *testing.T) {
	tpl, err := ParseTemplate("x", `{{variable "PW" | json}} {{variable "PW" | base64}} {{variable "PW" | shell}} {{variable "PW" | urlquery}}`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := tpl.Render(set(1, `a'b"<`, ""))
	if want := `"a'b\"<" YSdiIjw= 'a'\''b"<' a%27b%22%3C`; err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
	// The template engine's own errors quote what they choke on.
	tpl, err = ParseTemplate("x", `{{index (variable "PW") 100}}{{len 3}}`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tpl.Render(set(1, "hunter2", "")); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
	tpl, err = ParseTemplate("x", `{{variable "NONE"}}`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tpl.Render(set(1, "hunter2", "")); err == nil || !strings.Contains(err.Error(), "NONE") {
		t.Errorf("got %v", err)
	}
}
