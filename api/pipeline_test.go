package api_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/seal"
	"github.com/hizo/hizo/crypto/secret"
)

// pipelines is a cluster with the vault ml, the secret ml/db (password, user) and the pipeline ml/train, which
// workload/train runs.
type pipelines struct {
	*apitest.Cluster
	t     *testing.T
	train *apitest.Session
	owner *apitest.Session
	audit *apitest.Session
	fault atomic.Pointer[fault] // between a decision and its record
}

func startPipelines(t *testing.T) *pipelines {
	t.Helper()
	p := &pipelines{t: t}
	c := apitest.Start(t, apitest.Options{Wrap: func(_ string, n api.Node) api.Node { return &faulty{Node: n, fault: &p.fault} }})
	p.Cluster = c
	c.Vault("ml")
	c.Put("ml", "db", "password", "hunter2")
	p.train = c.Workload("train", "")
	p.owner = c.User("olga", "PipelineOwner")
	p.audit = c.User("audrey", "Auditor")
	return p
}

// All of them share a cluster; each begins with a new pipeline ml/train. The order matters to none but the first, which
// counts versions.
func TestPipelines(t *testing.T) {
	t.Parallel()
	p := startPipelines(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, *pipelines)
	}{
		{"PipelineGetsItsVariables", testPipelineGetsItsVariables},
		{"PipelineWithoutValues", testPipelineWithoutValues},
		{"SealedValuesOpenInTheirPlaceOnly", testSealedValuesOpenInTheirPlaceOnly},
		{"SealedValuesEnd", testSealedValuesEnd},
		{"KeptSealsFollowTheKey", testKeptSealsFollowTheKey},
		{"Reseal", testReseal},
		{"GrantsOfPipelines", testGrantsOfPipelines},
		{"OwnersGrantNothing", testOwnersGrantNothing},
		{"WhatCommittedInBetweenCounts", testWhatCommittedInBetweenCounts},
		{"ForgedPipelinesGrantNothing", testForgedPipelinesGrantNothing},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.t = t
			for _, old := range p.Leader().Store().Pipelines("ml", "", 100) {
				if _, err := p.Engineer.Pipelines().DeletePipeline(t.Context(), &hizov1.DeletePipelineRequest{Vault: "ml", Name: old.Name}); err != nil {
					t.Fatal(err)
				}
			}
			p.create("train", "train")
			c.test(t, p)
		})
	}
}

func (p *pipelines) create(pipeline string, identities ...string) {
	p.t.Helper()
	_, err := p.Engineer.Pipelines().CreatePipeline(p.t.Context(), &hizov1.CreatePipelineRequest{Vault: "ml", Name: pipeline, Identities: identities})
	if err != nil {
		p.t.Fatal(err)
	}
}

// set takes NAME=reference, NAME=seal and NAME.
func (p *pipelines) set(as *apitest.Session, pipeline string, variables ...string) error {
	p.t.Helper()
	req := &hizov1.SetVariablesRequest{Vault: "ml", Name: pipeline}
	for _, v := range variables {
		n, value, _ := strings.Cut(v, "=")
		set := &hizov1.PipelineVariable{Name: n}
		if seal.Is(value) {
			set.Seal = value
		} else {
			set.Reference = value
		}
		req.Set = append(req.Set, set)
	}
	_, err := as.Pipelines().SetVariables(p.t.Context(), req)
	return err
}

func (p *pipelines) mustSet(pipeline string, variables ...string) {
	p.t.Helper()
	if err := p.set(p.Engineer, pipeline, variables...); err != nil {
		p.t.Fatal(err)
	}
}

// key is the pipeline's public key, checked as a client would.
func (p *pipelines) key(pipeline string) *seal.Key {
	p.t.Helper()
	out, err := p.owner.Pipelines().GetPipelineKey(p.t.Context(), &hizov1.GetPipelineKeyRequest{Vault: "ml", Name: pipeline})
	if err != nil {
		p.t.Fatal(err)
	}
	k, err := seal.ParseKey(out.GetFile())
	if err != nil {
		p.t.Fatal(err)
	}
	if err := k.Verify(p.CA); err != nil {
		p.t.Fatal(err)
	}
	return k
}

// seal seals a value for a day.
func (p *pipelines) seal(pipeline, variable, value string) string {
	p.t.Helper()
	return sealUntil(p.t, p.key(pipeline), variable, value, time.Now().Add(24*time.Hour).Unix())
}

func sealUntil(t *testing.T, k *seal.Key, variable, value string, expires int64) string {
	t.Helper()
	s, err := seal.New(k.Public, k.Place(variable), expires, secret.New([]byte(value)))
	if err != nil {
		t.Fatal(err)
	}
	return s.Text()
}

func fetch(ctx context.Context, as *apitest.Session, r inject.Request) (*inject.Values, error) {
	return inject.Fetch(ctx, as.Secrets(), r)
}

// variables is what a run of the caller's pipeline gets.
func variables(v *inject.Values) map[string]string {
	out := map[string]string{}
	for _, variable := range v.Variables {
		out[variable.Name] = string(variable.Value.Reveal())
	}
	return out
}

func sealed(variable, text string) inject.Request {
	return inject.Request{Sealed: []inject.Sealed{{Name: variable, Text: text}}}
}

// newest records of a principal.
func (p *pipelines) newest(principal string, n uint32) []*hizov1.AuditRecord {
	p.t.Helper()
	out, err := p.audit.Audit().Search(p.t.Context(), &hizov1.SearchRequest{Principal: principal, Limit: n})
	if err != nil {
		p.t.Fatal(err)
	}
	return out.GetRecords()
}

func testPipelineGetsItsVariables(t *testing.T, p *pipelines) {
	ctx := t.Context()
	p.Put("ml", "hub", "token", "hf_123")
	p.mustSet("train", "DB_PASSWORD=hizo://ml/db#password", "HF_TOKEN=hizo://ml/hub#token", "API_KEY", "KEPT")
	p.mustSet("train", "KEPT="+p.seal("train", "KEPT", "kept value"))

	got, err := fetch(ctx, p.train, inject.Request{Pipeline: true, Execution: "run 7"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"DB_PASSWORD": "hunter2", "HF_TOKEN": "hf_123", "KEPT": "kept value"}
	if fmt.Sprint(variables(got)) != fmt.Sprint(want) || got.Pipeline != "ml/train" || got.Principal != "workload/train" {
		t.Errorf("got %v of %s for %s", variables(got), got.Pipeline, got.Principal)
	}
	if !slices.Equal(got.Missing, []string{"API_KEY"}) {
		t.Errorf("missing %v", got.Missing)
	}
	// One record for each value, and each says for which variable.
	for i, r := range p.newest("workload/train", 3) {
		if r.GetPrincipal() != "workload/train" || r.GetDecision() != "allowed" || r.GetReason() != "run 7" ||
			!slices.Equal(r.GetPolicies(), []string{"shipped/granted-to-pipeline"}) {
			t.Errorf("record %d: %v", i, r)
		}
	}

	// What the job brings itself, beside a reference, in one call.
	got, err = fetch(ctx, p.train, inject.Request{
		Pipeline: true, Sealed: []inject.Sealed{{Name: "API_KEY", Text: p.seal("train", "API_KEY", "sk-1")}},
		References: []name.Reference{{Resource: name.Resource{Vault: "ml", Path: "db"}, Field: "password"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want["API_KEY"] = "sk-1"
	if fmt.Sprint(variables(got)) != fmt.Sprint(want) || len(got.Missing) != 0 || string(got.Values[0].Value.Reveal()) != "hunter2" {
		t.Errorf("got %v, missing %v", variables(got), got.Missing)
	}
	if got.Variables[0].Name != "API_KEY" || got.Variables[1].Version != 1 || got.Variables[1].Source != "hizo://ml/db#password" {
		t.Errorf("variables %+v", got.Variables)
	}

	// A reference follows the secret.
	p.Put("ml", "db", "password", "changed")
	if got, err = fetch(ctx, p.train, inject.Request{Pipeline: true}); err != nil || variables(got)["DB_PASSWORD"] != "changed" {
		t.Errorf("after a new version: %v, %v", got, err)
	}
}

func testPipelineWithoutValues(t *testing.T, p *pipelines) {
	got, err := fetch(t.Context(), p.train, inject.Request{Pipeline: true})
	if err != nil || got.Pipeline != "ml/train" || len(got.Variables) != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
	if r := p.newest("workload/train", 1)[0]; r.GetAction() != "open" || r.GetResource() != "ml/train" || r.GetDetail() != "no values" {
		t.Errorf("record %v", r)
	}
}
