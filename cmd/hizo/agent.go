package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/cmd/hizo/internal/agent"
	"github.com/hizo/hizo/cmd/hizo/internal/values"
)

type agentCmd struct {
	Config string `required:"" type:"path" placeholder:"FILE" help:"What to keep up to date, in YAML."`
	Check  bool   `help:"Check the configuration, say what it asks for, and end."`

	workloadLogin
	LoginWorkload string `xor:"who" placeholder:"NAME" help:"Log in as this workload first; the token stays in memory."`
	SecretIDFile  string `name:"secret-id-file" type:"path" placeholder:"FILE" help:"The one-time secret id for --login-workload."`
}

func (c *agentCmd) Run(s *session) error {
	data, err := readFile(c.Config, agent.MaxConfig)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	cfg, err := agent.ParseConfig(data, filepath.Dir(c.Config))
	if err != nil {
		return fmt.Errorf("configuration %s: %w", c.Config, err)
	}
	job, err := cfg.Job()
	if err != nil {
		return fmt.Errorf("configuration %s: %w", c.Config, err)
	}
	if c.Check {
		return c.show(s, job)
	}
	harden()
	ctx := s.ctx
	if cfg.Command == nil { // otherwise signals are the command's, with which the agent ends
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
	}
	conf, err := s.config()
	if err != nil {
		return err
	}
	login := &runCmd{workloadLogin: c.workloadLogin, LoginWorkload: c.LoginWorkload, SecretIDFile: c.SecretIDFile}
	cl, err := login.connect(s)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(s.stderr, nil))
	source := values.NewCluster(job, cl, s.note)
	defer s.closeSource(source)
	a, err := agent.New(agent.Options{Config: cfg, Source: source, Away: away, CA: conf.CA, Log: log})
	if err != nil {
		return err
	}
	keep, cancel := context.WithCancel(ctx)
	defer cancel()
	if !c.given() { // a workload identity logs in again by itself
		go values.KeepToken(keep, cl.Auth(), func(format string, args ...any) { log.Warn(fmt.Sprintf(format, args...)) })
	}
	code, err := a.Run(ctx)
	if err != nil {
		return s.cannotStart("the command", err)
	}
	if cfg.Command != nil {
		return &exitError{code}
	}
	return nil
}

// show lists what the configuration asks the cluster for.
func (c *agentCmd) show(s *session, job values.Job) error {
	t := table{head: []string{"VARIABLE", "SOURCE"}}
	for _, w := range job.Wants {
		switch {
		case w.Ref != nil:
			t.add(w.Name, w.Ref.String())
		case w.Lease != nil:
			t.add(w.Name, w.Lease.String())
		default:
			t.add(w.Name, "sealed value")
		}
	}
	if job.Pipeline {
		t.add("*", "the pipeline's variables")
	}
	return s.showTable(t)
}

// away reports whether an error says nothing about what the cluster would answer.
func away(err error) bool {
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		return false
	}
	switch e.Reason {
	case client.ReasonUnreachable, client.ReasonTimeout, hizov1.ReasonSealed, hizov1.ReasonNotLeader, hizov1.ReasonShutdown:
		return true
	}
	return false
}
