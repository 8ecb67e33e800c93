package agent

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/cmd/hizo/internal/child"
	"github.com/hizo/hizo/cmd/hizo/internal/values"
)

// part is what the command gets of a set.
func (c *CommandConfig) part(set *values.Set) *values.Set {
	out := &values.Set{Offline: set.Offline}
	for _, v := range set.Values {
		_, err := name.Variable(v.Name) // references of templates are none
		if err == nil && (len(c.Variables) == 0 || slices.Contains(c.Variables, v.Name)) {
			out.Values = append(out.Values, v)
		}
	}
	return out
}

// job is the command with its variables.
type job struct {
	path  string
	argv  []string
	needs []string
}

// Update implements supervise.Job: files are the agent's own.
func (j *job) Update(*values.Set) error { return nil }

// Live implements supervise.Job.
func (j *job) Live(string) bool { return false }

// Command implements supervise.Job.
func (j *job) Command(set *values.Set) (child.Command, error) {
	cmd := child.Command{Path: j.path, Argv: j.argv}
	cmd.Env = slices.DeleteFunc(withoutCredentials(os.Environ()), func(entry string) bool {
		key, _, _ := strings.Cut(entry, "=")
		_, injected := set.Get(key)
		return injected
	})
	for _, variable := range j.needs {
		if _, ok := set.Get(variable); !ok {
			return cmd, fmt.Errorf("there is no value for %s", variable)
		}
	}
	for _, v := range set.Values {
		if bytes.IndexByte(v.Bytes.Reveal(), 0) >= 0 {
			return cmd, fmt.Errorf("the value for %s has a NUL byte, which no variable can hold: give it as a file", v.Name)
		}
		cmd.Env = append(cmd.Env, v.Name+"="+string(v.Bytes.Reveal()))
	}
	return cmd, nil
}

// withoutCredentials leaves out what would let others act as the agent.
func withoutCredentials(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(entry string) bool {
		return strings.HasPrefix(entry, "HIZO_TOKEN") || strings.HasPrefix(entry, "HIZO_SECRET_ID")
	})
}
