package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/hizo/hizo/api/hizov1"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// The scripts ask the program itself, so they know live vaults and paths and never grow old.
var completionScripts = map[string]string{
	"bash": `# hizo completion for bash:  source <(hizo completion bash)
_hizo() {
	local IFS=$'\n'
	COMPREPLY=($(hizo __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
	[[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]] && compopt -o nospace
}
complete -o default -F _hizo hizo
`,
	"zsh": `#compdef hizo
# hizo completion for zsh:  source <(hizo completion zsh)
_hizo() {
	local -a found
	found=("${(@f)$(hizo __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	if [[ -n ${found[1]} ]]; then compadd -S '' -- $found; else _files; fi
}
compdef _hizo hizo
`,
	"fish": `# hizo completion for fish:  hizo completion fish | source
complete -c hizo -a '(hizo __complete -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
`,
}

func (c *completionCmd) Run(s *session) error {
	_, err := s.stdout.WriteString(completionScripts[c.Shell])
	return err
}

type completeCmd struct {
	Words []string `arg:"" optional:"" passthrough:""`
}

// Run prints what the last word may become.
func (c *completeCmd) Run(s *session) error {
	words := c.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	parser, err := newParser(&cli{})
	if err != nil {
		return err
	}
	last := ""
	if len(words) > 0 {
		last, words = words[len(words)-1], words[:len(words)-1]
	}
	for _, candidate := range s.complete(parser.Model.Node, words, last) {
		if strings.HasPrefix(candidate, last) {
			fmt.Fprintln(s.stdout, candidate)
		}
	}
	return nil
}

// complete walks the grammar along words.
func (s *session) complete(node *kong.Node, words []string, last string) []string {
	flags := slices.Clone(node.Flags)
	position := 0
	for i := 0; i < len(words); i++ {
		w := words[i]
		if strings.HasPrefix(w, "-") {
			if f := findFlag(flags, w); f != nil && !f.IsBool() && !strings.Contains(w, "=") {
				i++ // its value
				if i >= len(words) {
					return flagValues(f)
				}
			}
			continue
		}
		child := slices.IndexFunc(node.Children, func(n *kong.Node) bool { return n.Name == w })
		if child < 0 {
			position++
			continue
		}
		node, position = node.Children[child], 0
		flags = append(flags, node.Flags...)
	}
	if strings.HasPrefix(last, "-") {
		return flagNames(flags)
	}
	var out []string
	for _, n := range node.Children {
		if !n.Hidden {
			out = append(out, n.Name)
		}
	}
	if position < len(node.Positional) {
		out = append(out, s.liveValues(node.Positional[position], last)...)
	}
	return out
}

func findFlag(flags []*kong.Flag, word string) *kong.Flag {
	name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
	for _, f := range flags {
		if f.Name == name || len(name) == 1 && f.Short == rune(name[0]) {
			return f
		}
	}
	return nil
}

func flagNames(flags []*kong.Flag) (out []string) {
	for _, f := range flags {
		if !f.Hidden {
			out = append(out, "--"+f.Name)
		}
	}
	return out
}

func flagValues(f *kong.Flag) []string {
	if f.Enum == "" {
		return nil
	}
	return strings.Split(f.Enum, ",")
}

// liveValues asks the cluster, quickly or not at all. Listing needs no right to read values.
func (s *session) liveValues(p *kong.Positional, last string) []string {
	if p.Enum != "" {
		return strings.Split(p.Enum, ",")
	}
	if p.Name == "role" {
		return []string{"SecurityEngineer", "Auditor", "Operator", "PipelineOwner"}
	}
	if p.Name != "vault/path" && p.Name != "vault[/prefix]" && p.Name != "vault[/path]" {
		return nil
	}
	s.g.Timeout = 2 * time.Second
	ctx, cancel := context.WithTimeout(s.ctx, s.g.Timeout)
	defer cancel()
	cl, err := s.connect()
	if err != nil {
		return nil
	}
	vault, prefix, inside := strings.Cut(last, "/")
	if !inside {
		l, err := cl.Vaults().ListVaults(ctx, &hizov1.ListVaultsRequest{})
		if err != nil {
			return nil
		}
		var out []string
		for _, v := range l.GetVaults() {
			out = append(out, v.GetName()+"/")
		}
		return out
	}
	l, err := cl.Secrets().List(ctx, &hizov1.ListSecretsRequest{Vault: vault, Prefix: prefix, Limit: 200})
	if err != nil {
		return nil
	}
	var out []string
	for _, i := range l.GetItems() {
		out = append(out, vault+"/"+i.GetPath())
	}
	return out
}
