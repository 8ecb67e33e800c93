package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hizo/hizo/api/hizov1"
)

type bindingCmd struct {
	Put    bindingPutCmd    `cmd:"" help:"Make those who have certain claims from an issuer a workload."`
	List   bindingListCmd   `cmd:"" help:"List bindings."`
	Show   bindingShowCmd   `cmd:"" help:"Show a binding."`
	Delete bindingDeleteCmd `cmd:"" help:"Delete a binding: every login that rests on it ends."`
	Test   bindingTestCmd   `cmd:"" help:"Say why a token does or does not match, without logging in."`
}

type bindingPutCmd struct {
	Name      string        `arg:"" help:"Name of the binding."`
	Issuer    string        `required:"" placeholder:"NAME" help:"Whose word it is."`
	Workload  string        `required:"" placeholder:"NAME" help:"The workload that they are."`
	Match     []string      `sep:"none" placeholder:"EXPR" help:"Claims that must be equal: 'repository == \"org/model\" && ref == \"refs/heads/main\"', or repository=org/model; all of several must be."`
	Condition string        `placeholder:"CEDAR" help:"A Cedar expression over context.claims that must hold as well; @FILE reads it from a file."`
	Carry     []string      `placeholder:"CLAIM,..." help:"Further claims that policies shall see in context.claims."`
	MaxTTL    time.Duration `name:"max-ttl" placeholder:"DURATION" help:"How long a login lasts at most, renewals included (default: 1h; at most 24h)."`
}

func (c *bindingPutCmd) Run(s *session) error {
	in := &hizov1.Binding{
		Name: c.Name, Issuer: c.Issuer, Workload: c.Workload, Condition: c.Condition, Carry: c.Carry, MaxTtlSeconds: seconds(c.MaxTTL),
	}
	for _, text := range c.Match {
		claims, err := parseMatch(text)
		if err != nil {
			return err
		}
		in.Match = append(in.Match, claims...)
	}
	if path, ok := strings.CutPrefix(c.Condition, "@"); ok {
		text, err := readFile(path, maxPolicy)
		if err != nil {
			return fmt.Errorf("condition: %w", err)
		}
		in.Condition = string(text)
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	b, err := cl.Issuers().PutBinding(s.ctx, &hizov1.PutBindingRequest{Binding: in})
	if err != nil {
		return err
	}
	return s.show(b, bindingTable(b))
}

var errMatch = errors.New(`write what must be equal as 'CLAIM == "VALUE" && CLAIM == "VALUE"', or as CLAIM=VALUE; anything else is a --condition`)

// parseMatch reads one --match. Only equality and "and" exist here: more takes Cedar, which the server reads.
func parseMatch(text string) ([]*hizov1.Claim, error) {
	name, value, plain := strings.Cut(text, "=")
	if plain && !strings.HasPrefix(value, "=") && claimName(name) {
		return []*hizov1.Claim{{Name: name, Value: value}}, nil
	}
	var out []*hizov1.Claim
	for rest := text; ; {
		name, after, ok := strings.Cut(rest, "==")
		name = strings.TrimSpace(name)
		if !ok || !claimName(name) {
			return nil, errMatch
		}
		after = strings.TrimSpace(after)
		quoted, err := strconv.QuotedPrefix(after)
		if err != nil || quoted[0] != '"' {
			return nil, errMatch
		}
		value, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, errMatch
		}
		out = append(out, &hizov1.Claim{Name: name, Value: value})
		after = strings.TrimSpace(after[len(quoted):])
		if after == "" {
			return out, nil
		}
		if rest, ok = strings.CutPrefix(after, "&&"); !ok {
			return nil, errMatch
		}
	}
}

func claimName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || strings.ContainsRune(`"'!<>=&|()`, r)
	})
}

func bindingTable(b *hizov1.Binding) table {
	t := table{rows: [][]string{{"binding", b.GetName()}, {"issuer", b.GetIssuer()}, {"workload", b.GetWorkload()}}}
	for _, m := range b.GetMatch() {
		t.add("match", matchText(m))
	}
	if b.GetCondition() != "" {
		t.add("condition", b.GetCondition())
	}
	if len(b.GetCarry()) > 0 {
		t.add("carries", strings.Join(b.GetCarry(), ", "))
	}
	t.add("logins last", (time.Duration(b.GetMaxTtlSeconds()) * time.Second).String())
	t.add("by", b.GetBy())
	t.add("created", clock(b.GetCreatedUnix()))
	return t
}

func matchText(c *hizov1.Claim) string { return c.GetName() + " == " + strconv.Quote(c.GetValue()) }

type bindingListCmd struct{}

func (bindingListCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	l, err := cl.Issuers().ListBindings(s.ctx, &hizov1.ListBindingsRequest{})
	if err != nil {
		return err
	}
	t := table{head: []string{"BINDING", "ISSUER", "WORKLOAD", "DEMANDS"}}
	for _, b := range l.GetBindings() {
		var demands []string
		for _, m := range b.GetMatch() {
			demands = append(demands, matchText(m))
		}
		if b.GetCondition() != "" {
			demands = append(demands, b.GetCondition())
		}
		t.add(b.GetName(), b.GetIssuer(), b.GetWorkload(), strings.Join(demands, " && "))
	}
	return s.show(l, t)
}

type bindingShowCmd struct {
	Name string `arg:"" help:"Name of the binding."`
}

func (c *bindingShowCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	b, err := cl.Issuers().GetBinding(s.ctx, &hizov1.GetBindingRequest{Name: c.Name})
	if err != nil {
		return err
	}
	return s.show(b, bindingTable(b))
}

type bindingDeleteCmd struct {
	Name string `arg:"" help:"Name of the binding."`
	Yes  bool   `help:"Do not ask."`
}

func (c *bindingDeleteCmd) Run(s *session) error {
	if err := s.confirm(fmt.Sprintf("Delete the binding %s and end every login that rests on it?", c.Name), c.Yes); err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Issuers().DeleteBinding(s.ctx, &hizov1.DeleteBindingRequest{Name: c.Name})
	if err != nil {
		return err
	}
	return s.show(r, table{rows: [][]string{{"deleted", c.Name}}})
}

type bindingTestCmd struct {
	Name          string `arg:"" help:"Name of the binding."`
	WorkloadToken string `default:"-" placeholder:"FILE" help:"The token (JWT), or the certificates of an X.509-SVID in PEM; - for standard input."`
}

func (c *bindingTestCmd) Run(s *session) error {
	token, err := s.readSecretFile(c.WorkloadToken, "workload token")
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	out, err := cl.Issuers().TestBinding(s.ctx, &hizov1.TestBindingRequest{Name: c.Name, Token: strings.TrimSpace(string(token))})
	if err != nil {
		return err
	}
	t := table{}
	for _, check := range out.GetChecks() {
		t.add(map[bool]string{true: "ok", false: "NO"}[check.GetOk()], check.GetWhat(), check.GetDetail())
	}
	t.add("", "matches", yesNo(out.GetMatches()))
	if err := s.show(out, t); err != nil {
		return err
	}
	if !out.GetMatches() {
		return &exitError{exitRefused}
	}
	return nil
}
