package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/cmd/hizo/internal/dotenv"
	"github.com/hizo/hizo/cmd/hizo/internal/values"
)

// delivery is how a variable's value reaches the command.
type delivery int

const (
	asVariable   delivery = iota
	asFile                // in memory, under a path
	asDescriptor          // open
)

// variable of the command's environment.
type variable struct {
	name  string
	plain string       // the value, where want is nil
	want  *values.Want // what to inject
	as    delivery
}

// variables reads the environment, files and flags in the order in which they win.
func (c *runCmd) variables(environ []string) ([]variable, error) {
	var out []variable
	set := func(v variable) {
		out = slices.DeleteFunc(out, func(old variable) bool { return old.name == v.name })
		out = append(out, v)
	}
	if !c.Pristine {
		vars, err := fromEnvironment(environ)
		if err != nil {
			return nil, err
		}
		for _, v := range vars {
			set(v)
		}
	}
	for _, path := range c.EnvFile {
		vars, err := fromFile(path)
		if err != nil {
			return nil, err
		}
		for _, v := range vars {
			set(v)
		}
	}
	for as, flags := range [][]string{asVariable: c.Env, asFile: c.SecretFile, asDescriptor: c.SecretFD} {
		for _, flag := range flags {
			v, err := fromFlag(flag)
			if err != nil {
				return nil, err
			}
			v.as = delivery(as)
			set(v)
		}
	}
	for _, v := range out {
		if !c.AllowReserved && name.ReservedVariable(v.name) {
			return nil, fmt.Errorf("%s is not to be set, it decides what runs and how: use another name, or --allow-reserved", v.name)
		}
	}
	return out, nil
}

// fromEnvironment finds sealed values: whoever starts jobs puts them into the job's environment. References are taken
// from flags and files only, where this run was told of them.
func fromEnvironment(environ []string) ([]variable, error) {
	var out []variable
	for _, entry := range environ {
		key, text, _ := strings.Cut(entry, "=")
		if !values.Sealed(text) || !dotenv.ValidName(key) {
			continue
		}
		want, err := values.ParseWant(key, text)
		if err != nil {
			return nil, fmt.Errorf("the variable %s of this environment: %w", key, err)
		}
		out = append(out, variable{name: key, want: &want})
	}
	return out, nil
}

func fromFile(path string) ([]variable, error) {
	text, err := readFile(path, dotenv.MaxFile)
	if err != nil {
		return nil, fmt.Errorf("environment file: %w", err)
	}
	parsed, err := dotenv.Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("environment file %s: %w", path, err)
	}
	var out []variable
	for _, p := range parsed {
		v := variable{name: p.Name, plain: p.Value}
		if values.Wanted(p.Value) {
			want, err := values.ParseWant(p.Name, p.Value)
			if err != nil {
				return nil, fmt.Errorf("environment file %s, line %d: %w", path, p.Line, err)
			}
			v.plain, v.want = "", &want
		}
		out = append(out, v)
	}
	return out, nil
}

func fromFlag(flag string) (variable, error) {
	key, text, ok := strings.Cut(flag, "=")
	if !ok || !dotenv.ValidName(key) {
		return variable{}, errors.New("a variable is given as NAME=hizo://VAULT/PATH#FIELD, with a name of letters, digits and '_'")
	}
	want, err := values.ParseWant(key, text)
	if errors.Is(err, values.ErrPlain) {
		return variable{}, fmt.Errorf("%s is given something that is no reference (hizo://VAULT/PATH#FIELD): plain values belong into the environment or an --env-file", key)
	}
	if err != nil {
		return variable{}, fmt.Errorf("%s: %w", key, err)
	}
	return variable{name: key, want: &want}, nil
}
