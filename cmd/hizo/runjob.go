package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hizo/hizo/cmd/hizo/internal/child"
	"github.com/hizo/hizo/cmd/hizo/internal/mask"
	"github.com/hizo/hizo/cmd/hizo/internal/ramdir"
	"github.com/hizo/hizo/cmd/hizo/internal/values"
)

// runJob is the command of one `hizo run`, and how it gets its values.
type runJob struct {
	path      string
	argv      []string
	vars      []variable // as given here; the pipeline's come on top
	wants     values.Job
	pristine  bool
	inherited []string
	mode      os.FileMode // of files
	dir       *ramdir.Dir // where there are any
	masks     *maskings   // nil: nothing is masked
}

func (j *runJob) hasFiles() bool {
	return slices.ContainsFunc(j.vars, func(v variable) bool { return v.as == asFile })
}

// Live implements supervise.Job.
func (j *runJob) Live(name string) bool {
	return slices.ContainsFunc(j.vars, func(v variable) bool { return v.name == name && v.as == asFile })
}

// Update implements supervise.Job.
func (j *runJob) Update(set *values.Set) error {
	for _, v := range j.vars {
		if v.as != asFile {
			continue
		}
		value, ok := set.Get(v.name)
		if !ok {
			return fmt.Errorf("there is no value for %s", v.name)
		}
		if err := j.dir.Write(v.name, value.Bytes.Reveal(), j.mode); err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
	}
	return nil
}

// credentials are variables that let their reader act as us, which the command shall not.
var credentials = []string{"HIZO_TOKEN", "HIZO_TOKEN_FILE", "HIZO_SECRET_ID", "HIZO_SECRET_ID_FILE"}

// Command implements supervise.Job.
func (j *runJob) Command(set *values.Set) (child.Command, error) {
	cmd := child.Command{Path: j.path, Argv: j.argv}
	if err := j.Update(set); err != nil {
		return cmd, err
	}
	if !j.pristine {
		cmd.Env = slices.DeleteFunc(slices.Clone(j.inherited), func(entry string) bool {
			key, _, _ := strings.Cut(entry, "=")
			_, injected := set.Get(key)
			return injected || slices.Contains(credentials, key) ||
				slices.ContainsFunc(j.vars, func(v variable) bool { return v.name == key })
		})
	}
	for _, v := range j.vars {
		if v.want == nil {
			if err := addVariable(&cmd, v.name, []byte(v.plain)); err != nil {
				return cmd, err
			}
		}
	}
	for _, v := range set.Values {
		if err := j.add(&cmd, v); err != nil {
			for _, f := range cmd.Files {
				f.Close()
			}
			return cmd, err
		}
	}
	if j.masks != nil {
		cmd.Masks = j.masks.with(set)
	}
	return cmd, nil
}

func (j *runJob) add(cmd *child.Command, v values.Value) error {
	as := asVariable
	for _, given := range j.vars {
		if given.name == v.Name {
			as = given.as
		}
	}
	switch as {
	case asFile:
		return addVariable(cmd, v.Name, []byte(j.dir.Path(v.Name)))
	case asDescriptor:
		f, err := memoryFile(v.Name, v.Bytes.Reveal())
		if err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
		cmd.Files = append(cmd.Files, f)
		return addVariable(cmd, v.Name, []byte(descriptorPath(f)))
	}
	return addVariable(cmd, v.Name, v.Bytes.Reveal())
}

// maxVariable is the kernel's bound on one NAME=VALUE with its NUL (MAX_ARG_STRLEN).
const maxVariable = 128 << 10

func addVariable(cmd *child.Command, name string, value []byte) error {
	switch {
	case bytes.IndexByte(value, 0) >= 0:
		return fmt.Errorf("the value for %s has a NUL byte, which no variable can hold: use --secret-file", name)
	case len(name)+len(value)+2 > maxVariable:
		return fmt.Errorf("the value for %s is larger than a variable may be (%d bytes): use --secret-file", name, maxVariable)
	}
	cmd.Env = append(cmd.Env, name+"="+string(value))
	return nil
}

// maskings gathers what is to be hidden: the values of now and all that were there before, which the command may
// still have.
type maskings struct {
	note   func(format string, args ...any)
	values [][]byte
	made   *mask.Patterns
}

func (m *maskings) with(set *values.Set) *mask.Patterns {
	grown := m.made == nil
	for _, v := range set.Values {
		b := v.Bytes.Reveal()
		if slices.ContainsFunc(m.values, func(old []byte) bool { return bytes.Equal(old, b) }) {
			continue
		}
		if len(b) > 0 && len(b) < 4 {
			m.note("warning: a value of %d bytes is masked wherever these bytes occur", len(b))
		}
		m.values = append(m.values, bytes.Clone(b))
		grown = true
	}
	if grown {
		// The patterns before are still in use where something keeps the old command's output open.
		m.made = mask.New(m.values...)
	}
	return m.made
}

// guardCmd is the process that survives a killed `hizo run --secret-file`.
type guardCmd struct {
	Dir string `arg:""`
}

func (c *guardCmd) Run(s *session) error { return ramdir.Guard(c.Dir, s.stdin) }
