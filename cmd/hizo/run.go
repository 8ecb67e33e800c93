package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/cmd/hizo/internal/child"
	"github.com/hizo/hizo/cmd/hizo/internal/dotenv"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
)

// Exit codes of shells for a command that can't be started.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

type runCmd struct {
	Env        []string `short:"e" sep:"none" placeholder:"NAME=hizo://VAULT/PATH#FIELD" help:"Inject a value as a variable."`
	EnvFile    []string `type:"path" sep:"none" placeholder:"FILE" help:"Set the variables of a file; its references are injected. Later files win over earlier ones, --env over files."`
	SecretFile []string `sep:"none" placeholder:"NAME=hizo://VAULT/PATH#FIELD" help:"Inject a value as a file in memory, whose path is in the variable."`

	Pristine      bool `help:"Give the command these variables only, nothing of this environment."`
	AllowReserved bool `help:"Allow PATH, HOME, LD_* and LC_* to be set."`
	Mask          bool `help:"Hide the values in the command's output. It then runs as a child."`

	LoginWorkload string `placeholder:"NAME" help:"Log in as this workload first; the token stays in memory."`
	SecretIDFile  string `name:"secret-id-file" type:"path" placeholder:"FILE" help:"The one-time secret id for --login-workload."`
	Execution     string `placeholder:"TEXT" help:"Names this run in the audit log (default: the command's name)."`

	Command []string `arg:"" passthrough:"" name:"command" help:"The command and its arguments, after --."`
}

// variable of the command's environment.
type variable struct {
	name  string
	plain string          // the value, where ref is nil
	ref   *name.Reference // what to inject
	file  bool            // as a file
}

// Run has nothing done, and no one-time credential used, before everything that can be checked here is right.
func (c *runCmd) Run(s *session) error {
	argv := c.Command
	if len(argv) > 0 && argv[0] == "--" {
		argv = argv[1:]
	}
	if len(argv) == 0 {
		return errors.New("there is no command to run: hizo run --env NAME=hizo://VAULT/PATH#FIELD -- COMMAND")
	}
	vars, err := c.variables()
	if err != nil {
		return err
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return s.cannotStart(argv[0], err)
	}
	harden()
	values, err := c.inject(s, vars, argv)
	defer wipe(values)
	if err != nil {
		return err
	}
	env, files, err := environment(c.Pristine, os.Environ(), vars, values)
	if err != nil {
		return err
	}
	cmd := child.Command{Path: path, Argv: argv, Env: env, Files: files}
	if !c.Mask {
		wipe(values)
		s.close()
		return s.cannotStart(argv[0], cmd.Replace())
	}
	code, err := s.masked(cmd, values)
	if err != nil {
		return s.cannotStart(argv[0], err)
	}
	return &exitError{code}
}

// cannotStart says so in the way of shells.
func (s *session) cannotStart(command string, err error) error {
	if e, ok := errors.AsType[*exec.Error](err); ok {
		err = e.Err
	}
	s.note("hizo: cannot run %s: %v: check the command", command, err)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return &exitError{exitNotFound}
	}
	return &exitError{exitNotExecutable}
}

func wipe(values map[name.Reference]secret.Bytes) {
	for _, v := range values {
		v.Wipe()
	}
}

// variables reads files and flags in the order in which they win.
func (c *runCmd) variables() ([]variable, error) {
	var out []variable
	set := func(v variable) {
		out = slices.DeleteFunc(out, func(old variable) bool { return old.name == v.name })
		out = append(out, v)
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
	for i, flag := range slices.Concat(c.Env, c.SecretFile) {
		v, err := fromFlag(flag)
		if err != nil {
			return nil, err
		}
		v.file = i >= len(c.Env)
		set(v)
	}
	for _, v := range out {
		if !c.AllowReserved && reserved(v.name) {
			return nil, fmt.Errorf("%s is not to be set, it decides what runs and how: use another name, or --allow-reserved", v.name)
		}
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
		if name.IsReference(p.Value) {
			ref, err := parseReference(p.Value)
			if err != nil {
				return nil, fmt.Errorf("environment file %s, line %d: %w", path, p.Line, err)
			}
			v.plain, v.ref = "", &ref
		}
		out = append(out, v)
	}
	return out, nil
}

func fromFlag(flag string) (variable, error) {
	key, value, ok := strings.Cut(flag, "=")
	switch {
	case !ok || !dotenv.ValidName(key):
		return variable{}, errors.New("a variable is given as NAME=hizo://VAULT/PATH#FIELD, with a name of letters, digits and '_'")
	case !name.IsReference(value):
		// Not repeated here: it may be a secret.
		return variable{}, fmt.Errorf("%s is given something that is no reference (hizo://VAULT/PATH#FIELD): plain values belong into the environment or an --env-file", key)
	}
	ref, err := parseReference(value)
	if err != nil {
		return variable{}, fmt.Errorf("%s: %w", key, err)
	}
	return variable{name: key, ref: &ref}, nil
}

func parseReference(text string) (name.Reference, error) {
	ref, err := name.ParseReference(text)
	if err == nil && ref.Version > math.MaxUint32 {
		err = fmt.Errorf("reference %s: there is no such version", ref)
	}
	return ref, err
}

// reserved are the variables with which one program makes another run other code or read other files.
func reserved(key string) bool {
	return key == "PATH" || key == "HOME" || strings.HasPrefix(key, "LD_") || strings.HasPrefix(key, "LC_") || strings.HasPrefix(key, "DYLD_")
}

// inject gets all values in one call, sealed to a key that lives in this function only.
func (c *runCmd) inject(s *session, vars []variable, argv []string) (map[name.Reference]secret.Bytes, error) {
	var refs []name.Reference
	for _, v := range vars {
		if v.ref != nil && !slices.Contains(refs, *v.ref) {
			refs = append(refs, *v.ref)
		}
	}
	if len(refs) == 0 {
		return nil, nil
	}
	cl, err := c.connect(s)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	key, err := hybrid.NewKey()
	if err != nil {
		return nil, err
	}
	request := &hizov1.InjectRequest{ExecutionKey: key.Public(), Execution: c.Execution}
	if request.Execution == "" {
		request.Execution = filepath.Base(argv[0]) // arguments may be secrets
	}
	for _, r := range refs {
		request.Refs = append(request.Refs, &hizov1.InjectRequest_Ref{Vault: r.Vault, Path: r.Path, Field: r.Field, Version: uint32(r.Version)})
	}
	answer, err := cl.Secrets().Inject(s.ctx, request)
	if err != nil {
		return nil, err
	}
	return open(key, refs, answer)
}

func open(key *hybrid.Key, refs []name.Reference, answer *hizov1.InjectResponse) (map[name.Reference]secret.Bytes, error) {
	if len(answer.GetValues()) != len(refs) {
		return nil, fmt.Errorf("the cluster answered %d values for %d references: check that the server is of the same version", len(answer.GetValues()), len(refs))
	}
	values := make(map[name.Reference]secret.Bytes, len(refs))
	for i, r := range refs {
		v := answer.GetValues()[i]
		if r.Version != 0 && uint64(v.GetVersion()) != r.Version {
			return values, fmt.Errorf("the cluster answered version %d for %s: this must not happen, do not trust the server", v.GetVersion(), r)
		}
		value, err := inject.OpenValue(key, inject.Target{
			Cluster: answer.GetClusterId(), Principal: answer.GetPrincipal(),
			Vault: r.Vault, Path: r.Path, Field: r.Field, Version: v.GetVersion(),
		}, v.GetSealed())
		if err != nil {
			return values, err
		}
		values[r] = value
	}
	return values, nil
}

// connect logs in where asked to, with a token that is not written anywhere.
func (c *runCmd) connect(s *session) (*client.Client, error) {
	if c.LoginWorkload == "" {
		return s.connect()
	}
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	cl, err := client.New(cfg)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	login, err := loginWorkload(s.ctx, s, cl, c.LoginWorkload, c.SecretIDFile, 0)
	if err != nil {
		return nil, err
	}
	cfg.Token = client.Token(login.GetToken())
	return client.New(cfg)
}

// credentials are variables that let their reader act as us, which the command shall not.
var credentials = []string{"HIZO_TOKEN", "HIZO_TOKEN_FILE", "HIZO_SECRET_ID", "HIZO_SECRET_ID_FILE"}

// maxVariable is the kernel's bound on one NAME=VALUE with its NUL (MAX_ARG_STRLEN).
const maxVariable = 128 << 10

// environment builds the command's environment and the files that are to stay open for it.
func environment(pristine bool, inherited []string, vars []variable, values map[name.Reference]secret.Bytes) ([]string, []*os.File, error) {
	var env []string
	if !pristine {
		env = slices.DeleteFunc(slices.Clone(inherited), func(entry string) bool {
			key, _, _ := strings.Cut(entry, "=")
			return slices.Contains(credentials, key) ||
				slices.ContainsFunc(vars, func(v variable) bool { return v.name == key })
		})
	}
	var files []*os.File
	for _, v := range vars {
		value := v.plain
		switch {
		case v.file:
			f, err := memoryFile(v.name, values[*v.ref].Reveal())
			if err != nil {
				return nil, files, fmt.Errorf("%s: %w", v.name, err)
			}
			files = append(files, f)
			value = descriptorPath(f)
		case v.ref != nil:
			b := values[*v.ref].Reveal()
			if bytes.IndexByte(b, 0) >= 0 {
				return nil, files, fmt.Errorf("the value for %s has a NUL byte, which no variable can hold: use --secret-file", v.name)
			}
			value = string(b)
		}
		if len(v.name)+len(value)+2 > maxVariable {
			return nil, files, fmt.Errorf("the value for %s is larger than a variable may be (%d bytes): use --secret-file", v.name, maxVariable)
		}
		env = append(env, v.name+"="+value)
	}
	return env, files, nil
}
