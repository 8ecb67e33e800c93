package main

import (
	"fmt"
	"strings"

	"github.com/hizo/hizo/api/hizov1"
)

// maxPolicy bounds a policy's text in bytes; the server's bound is lower.
const maxPolicy = 256 << 10

type policyCmd struct {
	Put     policyPutCmd     `cmd:"" help:"Store a policy in Cedar."`
	List    policyListCmd    `cmd:"" help:"List policies, the shipped ones included."`
	Get     policyGetCmd     `cmd:"" help:"Print a policy's text."`
	Delete  policyDeleteCmd  `cmd:"" help:"Delete a policy."`
	Explain policyExplainCmd `cmd:"" help:"Say which policies decide a request, and what is missing."`
}

type policyPutCmd struct {
	Name string `arg:"" help:"Name of the policy."`
	File string `arg:"" name:"@file" help:"Its text: @FILE, FILE, or - for standard input."`
}

func (c *policyPutCmd) Run(s *session) error {
	var text []byte
	var err error
	if c.File == "-" {
		text, err = s.stdinAll()
	} else {
		text, err = readFile(strings.TrimPrefix(c.File, "@"), maxPolicy)
	}
	if err != nil {
		return fmt.Errorf("policy text: %w", err)
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	p, err := cl.Policies().PutPolicy(s.ctx, &hizov1.PutPolicyRequest{Name: c.Name, Text: string(text)})
	if err != nil {
		return err
	}
	return s.show(p, policyTable([]*hizov1.Policy{p}))
}

func policyTable(all []*hizov1.Policy) table {
	t := table{head: []string{"POLICY", "SHIPPED", "BY", "CREATED"}}
	for _, p := range all {
		t.add(p.GetName(), yesNo(p.GetShipped()), orDash(p.GetBy()), clock(p.GetCreatedUnix()))
	}
	return t
}

type policyListCmd struct{}

func (policyListCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	l, err := cl.Policies().ListPolicies(s.ctx, &hizov1.ListPoliciesRequest{})
	if err != nil {
		return err
	}
	return s.show(l, policyTable(l.GetPolicies()))
}

type policyGetCmd struct {
	Name string `arg:"" help:"Name of the policy."`
}

func (c *policyGetCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	p, err := cl.Policies().GetPolicy(s.ctx, &hizov1.GetPolicyRequest{Name: c.Name})
	if err != nil {
		return err
	}
	return s.showText(p, strings.TrimSuffix(p.GetText(), "\n"))
}

type policyDeleteCmd struct {
	Name string `arg:"" help:"Name of the policy."`
	Yes  bool   `help:"Do not ask."`
}

func (c *policyDeleteCmd) Run(s *session) error {
	if err := s.confirm(fmt.Sprintf("Delete the policy %s?", c.Name), c.Yes); err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Policies().DeletePolicy(s.ctx, &hizov1.DeletePolicyRequest{Name: c.Name})
	if err != nil {
		return err
	}
	return s.show(r, table{rows: [][]string{{"deleted", c.Name}}})
}

type policyExplainCmd struct {
	Principal string `arg:"" help:"user/NAME or workload/NAME."`
	Action    string `arg:"" help:"Such as reveal, inject or put."`
	Resource  string `arg:"" optional:"" help:"VAULT/PATH, a VAULT, or nothing for the system."`
}

func (c *policyExplainCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	e, err := cl.Policies().Explain(s.ctx, &hizov1.ExplainRequest{Principal: c.Principal, Action: c.Action, Resource: c.Resource})
	if err != nil {
		return err
	}
	decision := "denied"
	if e.GetAllowed() {
		decision = "allowed"
	}
	t := table{rows: [][]string{{"decision", decision}}}
	for i, list := range [][]string{e.GetPolicies(), e.GetErrors(), e.GetMissing()} {
		for _, item := range list {
			t.add([]string{"decided by", "error", "missing"}[i], item)
		}
	}
	return s.show(e, t)
}
