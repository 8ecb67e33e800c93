package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// The reference in the manual is the program's own grammar.
func TestManual(t *testing.T) {
	const path, marker = "../../docs/cli.md", "-run TestManual -update -->\n"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, reference, ok := strings.Cut(string(b), marker)
	if !ok {
		t.Fatalf("%s lost its marker %q", path, marker)
	}
	parser, err := newParser(&cli{})
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	want.WriteString("\n## Every command\n")
	describeNode(&want, parser.Model.Node)
	if reference == want.String() {
		return
	}
	if !*update {
		t.Fatalf("%s is not what the program says: run this test with -update", path)
	}
	if err := os.WriteFile(path, []byte(head+marker+want.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func describeNode(b *strings.Builder, n *kong.Node) {
	if n.Leaf() && !n.Hidden {
		fmt.Fprintf(b, "\n### `%s`\n\n%s\n", strings.TrimSpace(n.FullPath()+" "+positionals(n)), n.Help)
		var rows []string
		for _, p := range n.Positional {
			rows = append(rows, fmt.Sprintf("| `%s` | %s |", p.Name, cell(p.Help)))
		}
		for _, f := range n.Flags {
			rows = append(rows, fmt.Sprintf("| `%s` | %s |", flagText(f), cell(f.Help)))
		}
		if len(rows) > 0 {
			fmt.Fprintf(b, "\n| | |\n|---|---|\n%s\n", strings.Join(rows, "\n"))
		}
	}
	for _, c := range n.Children {
		describeNode(b, c)
	}
}

func positionals(n *kong.Node) string {
	var words []string
	for _, p := range n.Positional {
		words = append(words, p.Summary())
	}
	return strings.Join(words, " ")
}

func flagText(f *kong.Flag) string {
	text := "--" + f.Name
	if f.Short != 0 {
		text = "-" + string(f.Short) + ", " + text
	}
	if !f.IsBool() {
		text += "=" + f.FormatPlaceHolder()
	}
	return text
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
