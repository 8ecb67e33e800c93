package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/cmd/hizo/internal/child"
	"github.com/hizo/hizo/cmd/hizo/internal/ramdir"
	"github.com/hizo/hizo/cmd/hizo/internal/supervise"
	"github.com/hizo/hizo/cmd/hizo/internal/values"
)

// Exit codes of shells for a command that can't be started.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

type runCmd struct {
	Env        []string `short:"e" sep:"none" placeholder:"NAME=hizo://VAULT/PATH#FIELD" help:"Inject a value as a variable: of a secret, of a lease (hizo-lease://VAULT/ROLE#username) or of a sealed value (hizo:v1:…)."`
	EnvFile    []string `type:"path" sep:"none" placeholder:"FILE" help:"Set the variables of a file; its references and sealed values are injected. Later files win over earlier ones, --env over files, all of them over the pipeline's."`
	Pipeline   *bool    `negatable:"" help:"Inject all variables of the pipeline that this workload runs. It is so by default where no --env, --env-file, --secret-file or --secret-fd is given."`
	SecretFile []string `sep:"none" placeholder:"NAME=hizo://VAULT/PATH#FIELD" help:"Inject a value as a file in memory (tmpfs), whose path is in the variable. It is gone when the command ends."`
	SecretFD   []string `name:"secret-fd" sep:"none" placeholder:"NAME=hizo://VAULT/PATH#FIELD" help:"Inject a value as an open descriptor without a name, whose path is in the variable."`
	SecretDir  string   `type:"path" placeholder:"DIR" help:"The directory in memory for --secret-file (default: XDG_RUNTIME_DIR, /run/user/UID or /dev/shm)."`
	SecretMode string   `default:"0400" placeholder:"MODE" help:"Mode of these files."`

	Pristine      bool `help:"Give the command these variables only, nothing of this environment."`
	AllowReserved bool `help:"Allow PATH, HOME, LD_*, LC_* and the like to be set."`
	Mask          bool `help:"Hide the values in the command's output. It then runs as a child."`

	Watch      bool          `help:"Follow the values while the command runs: files are kept up to date, and the versions in use are acknowledged, so that a rotation waits for them."`
	OnChange   string        `default:"none" placeholder:"none|restart|signal:NAME|exec:COMMAND" help:"With --watch: what else to do when a value has really changed."`
	Splay      time.Duration `default:"10s" help:"With --watch: act after a random time up to this, so that not all jobs do at once."`
	StopSignal string        `default:"TERM" placeholder:"NAME" help:"With --on-change restart: the signal that ends the command."`
	KillAfter  time.Duration `default:"30s" help:"With --on-change restart: the time that the command has to end, before SIGKILL. With exec: that of the reload command."`

	workloadLogin
	LoginWorkload string `xor:"who" placeholder:"NAME" help:"Log in as this workload first; the token stays in memory."`
	SecretIDFile  string `name:"secret-id-file" type:"path" placeholder:"FILE" help:"The one-time secret id for --login-workload."`
	Execution     string `placeholder:"TEXT" help:"Names this run in the audit log (default: the command's name)."`

	Command []string `arg:"" passthrough:"" name:"command" help:"The command and its arguments, after --."`
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
	job, err := c.job(argv)
	if err != nil {
		return err
	}
	reaction, stop, err := c.reaction()
	if err != nil {
		return err
	}
	if job.path, err = exec.LookPath(argv[0]); err != nil {
		return s.cannotStart(argv[0], err)
	}
	harden()
	source, err := c.source(s, job.wants)
	if err != nil {
		return err
	}
	defer s.closeSource(source)
	set, err := source.Fetch(s.ctx)
	if err != nil {
		return err
	}
	if !c.Mask && !c.Watch && !job.hasFiles() && !source.Leased() {
		cmd, err := job.Command(set)
		if err != nil {
			return err
		}
		set.Wipe()
		s.close()
		return s.cannotStart(argv[0], cmd.Replace())
	}
	status, err := c.supervise(s, job, source, set, supervise.Config{OnChange: reaction, Stop: stop})
	if err != nil {
		return s.cannotStart(argv[0], err)
	}
	return &exitError{status.ExitCode()}
}

// supervise runs the command as a child.
func (c *runCmd) supervise(s *session, job *runJob, source *values.Cluster, set *values.Set, cfg supervise.Config) (child.Status, error) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	if job.hasFiles() {
		dir, err := ramdir.New(c.SecretDir)
		if err != nil {
			return child.Status{}, err
		}
		defer func() {
			if err := dir.Close(); err != nil {
				s.note("hizo: files with secrets stay in memory: %v", err)
			}
		}()
		job.dir = dir
	}
	if c.Mask {
		job.masks = &maskings{note: s.note}
	}
	cfg.Job, cfg.First, cfg.Note, cfg.Output = job, set, s.note, s.stderr
	cfg.Splay, cfg.Grace = c.Splay, c.KillAfter
	if s.client != nil && !c.given() && (c.Watch || source.Leased()) {
		go values.KeepToken(ctx, s.client.Auth(), s.note)
	}
	if c.Watch {
		// Known as a consumer before the command has the values: from here on a rotation waits for it.
		said := set.Versions()
		if err := source.Uses(ctx, said); err != nil {
			return child.Status{}, err
		}
		cfg.InUse = values.NewAcknowledger(ctx, source, said, s.note).Uses
		cfg.News = values.Follow(ctx, source, false, s.note)
	}
	cfg.Keeper = child.NewKeeper(child.Streams{In: s.stdin, Out: s.stdout, Err: s.stderr})
	defer cfg.Keeper.Close()
	return supervise.Run(ctx, cfg)
}

// reaction reads the flags of --watch.
func (c *runCmd) reaction() (supervise.Reaction, syscall.Signal, error) {
	reaction, err := supervise.ParseReaction(c.OnChange)
	if err != nil {
		return reaction, 0, fmt.Errorf("--on-change: %w", err)
	}
	if reaction.Kind != supervise.Keep && !c.Watch {
		return reaction, 0, errors.New("--on-change needs --watch: without it nothing is followed")
	}
	stop, err := supervise.ParseSignal(c.StopSignal)
	if err != nil {
		return reaction, 0, fmt.Errorf("--stop-signal: %w", err)
	}
	return reaction, stop, nil
}

// job reads the flags that say what the command is given.
func (c *runCmd) job(argv []string) (*runJob, error) {
	mode, err := strconv.ParseUint(c.SecretMode, 8, 32)
	if err != nil || mode&^0o777 != 0 || mode&0o400 == 0 {
		return nil, fmt.Errorf("--secret-mode %s is no mode of a file that its owner can read: such as 0400", c.SecretMode)
	}
	vars, err := c.variables(os.Environ())
	if err != nil {
		return nil, err
	}
	job := &runJob{argv: argv, vars: vars, pristine: c.Pristine, inherited: c.inherited(os.Environ()), mode: os.FileMode(mode)}
	job.wants.Execution = c.Execution
	if job.wants.Execution == "" {
		job.wants.Execution = filepath.Base(argv[0]) // arguments may be secrets
	}
	for _, v := range vars {
		if v.want != nil {
			job.wants.Wants = append(job.wants.Wants, *v.want)
		}
	}
	job.wants.Pipeline = len(c.Env)+len(c.EnvFile)+len(c.SecretFile)+len(c.SecretFD) == 0
	if c.Pipeline != nil {
		job.wants.Pipeline = *c.Pipeline
	}
	return job, nil
}

// source logs in, if anything is wanted.
func (c *runCmd) source(s *session, wants values.Job) (*values.Cluster, error) {
	if wants.Empty() {
		return values.NewCluster(wants, nil, s.note), nil
	}
	cl, err := c.connect(s)
	if err != nil {
		return nil, err
	}
	return values.NewCluster(wants, cl, s.note), nil
}

// closing bounds how long the end of a run waits for the cluster.
const closing = 10 * time.Second

func (s *session) closeSource(source *values.Cluster) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), closing)
	defer cancel()
	if err := source.Close(ctx); err != nil {
		s.note("hizo: what this run had was not given back (%v): it ends by itself when its time is over", err)
	}
}

// cannotStart says so in the way of shells, where it was the system's word on the command.
func (s *session) cannotStart(command string, err error) error {
	if e, ok := errors.AsType[*exec.Error](err); ok {
		err = e.Err
	} else if e, ok := errors.AsType[*child.StartError](err); ok {
		err = e.Err
	} else {
		return err
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		err = e
	}
	s.note("hizo: cannot run %s: %v: check the command", command, err)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return &exitError{exitNotFound}
	}
	return &exitError{exitNotExecutable}
}

// connect logs in where asked to, with a token that is not written anywhere.
func (c *runCmd) connect(s *session) (*client.Client, error) {
	if c.LoginWorkload == "" && !c.given() {
		return s.connect()
	}
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	if c.given() {
		if cfg.Token, err = c.workloadLogin.source(s.ctx, s, cfg); err != nil {
			return nil, err
		}
		return client.New(cfg)
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
	s.client, err = client.New(cfg)
	return s.client, err
}
