package name

import (
	"fmt"
	"strings"
)

// Limits, in bytes.
const (
	MaxPipeline = 64
	MaxVariable = 128
)

// Pipeline checks the name of a pipeline within its vault.
func Pipeline(s string) (string, error) { return label("pipeline name", s, MaxPipeline, "") }

// PipelineName names a pipeline: VAULT/NAME.
type PipelineName struct{ Vault, Name string }

func (p PipelineName) String() string { return p.Vault + "/" + p.Name }

// ParsePipeline reads "VAULT/NAME".
func ParsePipeline(s string) (PipelineName, error) {
	vault, pipeline, ok := strings.Cut(s, "/")
	if !ok {
		return PipelineName{}, &Error{What: "pipeline", Input: s, Reason: "must be VAULT/NAME"}
	}
	if _, err := Vault(vault); err != nil {
		return PipelineName{}, err
	}
	if _, err := Pipeline(pipeline); err != nil {
		return PipelineName{}, err
	}
	return PipelineName{Vault: vault, Name: pipeline}, nil
}

// Variable checks the name of an environment variable: letters (case counts), digits and '_', not beginning with a
// digit.
func Variable(s string) (string, error) {
	refuse := func(format string, args ...any) (string, error) {
		return "", &Error{What: "variable", Input: s, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case s == "":
		return refuse("is empty")
	case len(s) > MaxVariable:
		return refuse("is %d bytes long, at most %d are allowed", len(s), MaxVariable)
	case '0' <= s[0] && s[0] <= '9':
		return refuse("must not begin with a digit")
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '_' {
			return refuse("has a byte that is not allowed (0x%02x) at %d: use letters, digits and '_'", c, i)
		}
	}
	return s, nil
}

// ReservedVariable reports whether a variable decides what a program runs and which files it reads, or belongs to this
// system: who may set it runs the program.
func ReservedVariable(s string) bool {
	switch s {
	case "PATH", "HOME", "SHELL", "IFS", "ENV", "BASH_ENV", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONHOME",
		"NODE_OPTIONS", "PERL5LIB", "PERL5OPT", "RUBYOPT", "RUBYLIB", "JAVA_TOOL_OPTIONS", "GIT_SSH_COMMAND":
		return true
	}
	for _, prefix := range []string{"LD_", "LC_", "DYLD_", "HIZO_"} {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}
