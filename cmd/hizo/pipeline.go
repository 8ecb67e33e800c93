package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/seal"
)

type pipelineCmd struct {
	Create   pipelineCreateCmd   `cmd:"" help:"Create a pipeline with a key of its own."`
	List     pipelineListCmd     `cmd:"" help:"List pipelines."`
	Show     pipelineShowCmd     `cmd:"" help:"Show who runs a pipeline, its variables and its keys."`
	Delete   pipelineDeleteCmd   `cmd:"" help:"Delete a pipeline, its grants and its keys."`
	Identity pipelineIdentityCmd `cmd:"" help:"Say which workloads run a pipeline."`
	Env      pipelineEnvCmd      `cmd:"" help:"Say which variables a run gets."`
	Set      pipelineSetCmd      `cmd:"" help:"Say whether values may be kept where a pipeline runs."`
	Key      pipelineKeyCmd      `cmd:"" help:"Print the public key that values are sealed to, or rotate it."`
	Revoke   pipelineRevokeCmd   `cmd:"" name:"revoke-seal" help:"Have a sealed value opened no more."`
}

type pipelineCreateCmd struct {
	Pipeline string   `arg:"" name:"vault/name" help:"Name of the new pipeline."`
	Identity []string `placeholder:"WORKLOAD,..." help:"Workloads that run it; a workload runs one pipeline. Only SecurityEngineers may say."`
}

func (c *pipelineCreateCmd) Run(s *session) error {
	p, err := name.ParsePipeline(c.Pipeline)
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	made, err := cl.Pipelines().CreatePipeline(s.ctx, &hizov1.CreatePipelineRequest{Vault: p.Vault, Name: p.Name, Identities: c.Identity})
	if err != nil {
		return err
	}
	return s.show(made, pipelineTable(made))
}

func pipelineTable(p *hizov1.Pipeline) table {
	t := table{}
	t.add("pipeline", p.GetVault()+"/"+p.GetName())
	for _, id := range p.GetIdentities() {
		t.add("run by", id)
	}
	for _, v := range p.GetVariables() {
		t.add("variable", v.GetName()+"="+variableText(v))
	}
	for i, k := range p.GetKeys() {
		until := "current"
		if i < len(p.GetKeys())-1 {
			until = "opens until " + clock(k.GetUntilUnix())
		}
		t.add("key", k.GetId()+" of "+clock(k.GetCreatedUnix())+", "+until)
	}
	if n := p.GetOfflineSeconds(); n > 0 {
		t.add("offline for", (time.Duration(n) * time.Second).String())
	}
	if n := p.GetRevokedSeals(); n > 0 {
		t.add("revoked sealed values", fmt.Sprint(n))
	}
	return t
}

// variableText is what `env set` takes, short of a sealed value's whole text.
func variableText(v *hizov1.PipelineVariable) string {
	switch {
	case v.GetReference() != "":
		return v.GetReference()
	case v.GetSeal() == "":
		return "sealed"
	}
	sealed, err := seal.Parse(v.GetSeal())
	if err != nil {
		return "sealed, kept here, not readable"
	}
	return fmt.Sprintf("sealed, kept here, to key %x until %s", sealed.KeyID, clock(sealed.Expires))
}

type pipelineListCmd struct {
	Vault string `arg:"" optional:"" help:"Only those of this vault."`
}

func (c *pipelineListCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	all := &hizov1.ListPipelinesResponse{}
	for after := ""; ; {
		page, err := cl.Pipelines().ListPipelines(s.ctx, &hizov1.ListPipelinesRequest{Vault: c.Vault, After: after})
		if err != nil {
			return err
		}
		all.Items = append(all.Items, page.GetItems()...)
		if !page.GetMore() || len(page.GetItems()) == 0 {
			break
		}
		last := page.GetItems()[len(page.GetItems())-1]
		after = last.GetVault() + "/" + last.GetName()
	}
	t := table{head: []string{"PIPELINE", "RUN BY", "VARIABLES", "CREATED"}}
	for _, i := range all.GetItems() {
		t.add(i.GetVault()+"/"+i.GetName(), fmt.Sprint(i.GetIdentities()), fmt.Sprint(i.GetVariables()), clock(i.GetCreatedUnix()))
	}
	return s.show(all, t)
}

type pipelineShowCmd struct {
	Pipeline string `arg:"" name:"vault/name" help:"Which pipeline."`
}

func (c *pipelineShowCmd) Run(s *session) error {
	p, err := name.ParsePipeline(c.Pipeline)
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	shown, err := cl.Pipelines().GetPipeline(s.ctx, &hizov1.GetPipelineRequest{Vault: p.Vault, Name: p.Name})
	if err != nil {
		return err
	}
	return s.show(shown, pipelineTable(shown))
}

type pipelineDeleteCmd struct {
	Pipeline string `arg:"" name:"vault/name" help:"Which pipeline."`
	Yes      bool   `help:"Do not ask."`
}

func (c *pipelineDeleteCmd) Run(s *session) error {
	p, err := name.ParsePipeline(c.Pipeline)
	if err != nil {
		return err
	}
	if err := s.confirm(fmt.Sprintf("Delete the pipeline %s? What was sealed for it opens nowhere any more.", p), c.Yes); err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Pipelines().DeletePipeline(s.ctx, &hizov1.DeletePipelineRequest{Vault: p.Vault, Name: p.Name})
	if err != nil {
		return err
	}
	return s.show(r, table{rows: [][]string{{"deleted", p.String()}}})
}

type pipelineIdentityCmd struct {
	Add    pipelineIdentityAddCmd    `cmd:"" help:"Let workloads run a pipeline."`
	Remove pipelineIdentityRemoveCmd `cmd:"" help:"Let workloads no longer run a pipeline."`
}

type pipelineIdentityAddCmd struct {
	Pipeline string   `arg:"" name:"vault/name" help:"Which pipeline."`
	Workload []string `arg:"" help:"Workloads that run it; each runs one pipeline."`
}

func (c *pipelineIdentityAddCmd) Run(s *session) error {
	return s.setIdentities(c.Pipeline, c.Workload, nil)
}

type pipelineIdentityRemoveCmd struct {
	Pipeline string   `arg:"" name:"vault/name" help:"Which pipeline."`
	Workload []string `arg:"" help:"Workloads that no longer run it."`
}

func (c *pipelineIdentityRemoveCmd) Run(s *session) error {
	return s.setIdentities(c.Pipeline, nil, c.Workload)
}

func (s *session) setIdentities(pipeline string, add, remove []string) error {
	p, err := name.ParsePipeline(pipeline)
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	now, err := cl.Pipelines().SetIdentities(s.ctx, &hizov1.SetIdentitiesRequest{Vault: p.Vault, Name: p.Name, Add: add, Remove: remove})
	if err != nil {
		return err
	}
	return s.show(now, pipelineTable(now))
}

type pipelineEnvCmd struct {
	Set   pipelineEnvSetCmd   `cmd:"" help:"Give a pipeline variables."`
	Unset pipelineEnvUnsetCmd `cmd:"" help:"Take variables away."`
}

type pipelineEnvSetCmd struct {
	Pipeline string   `arg:"" name:"vault/name" help:"Which pipeline."`
	Variable []string `arg:"" sep:"none" name:"variable" help:"NAME=hizo://VAULT/PATH#FIELD injects a value of a vault (only SecurityEngineers grant it); NAME=sealed takes a sealed value from the job's own configuration; NAME=hizo:v1:... keeps a sealed value in the pipeline; NAME=@FILE reads that from a file."`
}

func (c *pipelineEnvSetCmd) Run(s *session) error {
	p, err := name.ParsePipeline(c.Pipeline)
	if err != nil {
		return err
	}
	req := &hizov1.SetVariablesRequest{Vault: p.Vault, Name: p.Name}
	for _, arg := range c.Variable {
		v, err := pipelineVariable(arg)
		if err != nil {
			return err
		}
		req.Set = append(req.Set, v)
	}
	return s.setVariables(req)
}

// pipelineVariable reads NAME=reference, NAME=sealed and NAME=hizo:v1:…. A plain value is refused and not repeated: it may
// be a secret.
func pipelineVariable(arg string) (*hizov1.PipelineVariable, error) {
	n, value, ok := strings.Cut(arg, "=")
	if !ok {
		return nil, errors.New("a variable is given as NAME=hizo://VAULT/PATH#FIELD, NAME=sealed or a sealed value (NAME=hizo:v1:…, NAME=@FILE)")
	}
	if _, err := name.Variable(n); err != nil {
		return nil, err
	}
	if path, ok := strings.CutPrefix(value, "@"); ok {
		text, err := readFile(path, int64(seal.MaxText+2))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n, err)
		}
		value = string(trimNewline(text))
	}
	v := &hizov1.PipelineVariable{Name: n}
	switch scheme, _, isReference := strings.Cut(value, "://"); {
	case value == "sealed":
	case seal.Is(value):
		if _, err := seal.Parse(value); err != nil {
			return nil, fmt.Errorf("%s: %w", n, err)
		}
		v.Seal = value
	case isReference && strings.HasPrefix(scheme, "hizo"):
		v.Reference = value
	default:
		return nil, fmt.Errorf("%s is given something that is neither a reference (hizo://VAULT/PATH#FIELD), nor sealed, nor the word \"sealed\": seal a plain value with `hizo seal`, or store it with `hizo secret put`", n)
	}
	return v, nil
}

type pipelineEnvUnsetCmd struct {
	Pipeline string   `arg:"" name:"vault/name" help:"Which pipeline."`
	Variable []string `arg:"" name:"name" help:"Names of variables."`
}

func (c *pipelineEnvUnsetCmd) Run(s *session) error {
	p, err := name.ParsePipeline(c.Pipeline)
	if err != nil {
		return err
	}
	return s.setVariables(&hizov1.SetVariablesRequest{Vault: p.Vault, Name: p.Name, Unset: c.Variable})
}

func (s *session) setVariables(req *hizov1.SetVariablesRequest) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	now, err := cl.Pipelines().SetVariables(s.ctx, req)
	if err != nil {
		return err
	}
	return s.show(now, pipelineTable(now))
}

type pipelineSetCmd struct {
	Pipeline string `arg:"" name:"vault/name" help:"Which pipeline."`
	Offline  span   `required:"" placeholder:"TIME" help:"For how long \"hizo agent\" may keep the values, encrypted, so that a run starts while the cluster is away; 24h at most, 0s: not at all. No revocation reaches what is kept."`
}

func (c *pipelineSetCmd) Run(s *session) error {
	p, err := name.ParsePipeline(c.Pipeline)
	if err != nil {
		return err
	}
	if c.Offline.seconds() > math.MaxUint32 {
		return errors.New("--offline is 24h at most")
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	now, err := cl.Pipelines().SetOffline(s.ctx, &hizov1.SetOfflineRequest{Vault: p.Vault, Name: p.Name, Seconds: uint32(c.Offline.seconds())})
	if err != nil {
		return err
	}
	return s.show(now, pipelineTable(now))
}

type pipelineKeyCmd struct {
	Pipeline string `arg:"" name:"vault/name" help:"Which pipeline."`
	Rotate   bool   `help:"Make a new key first. Then reseal what was sealed to the old one: hizo reseal FILE..."`
	Keep     span   `default:"30d" placeholder:"TIME" help:"With --rotate: how long older keys still open, for example 30d, 12h, or 0s."`
	Output   string `short:"o" type:"path" placeholder:"FILE" help:"Write the key to a file instead of standard output."`
}

func (c *pipelineKeyCmd) Run(s *session) error {
	p, err := name.ParsePipeline(c.Pipeline)
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	var out *hizov1.PipelineKeyResponse
	if c.Rotate {
		out, err = cl.Pipelines().RotatePipelineKey(s.ctx, &hizov1.RotatePipelineKeyRequest{Vault: p.Vault, Name: p.Name, KeepSeconds: c.Keep.seconds()})
	} else {
		out, err = cl.Pipelines().GetPipelineKey(s.ctx, &hizov1.GetPipelineKeyRequest{Vault: p.Vault, Name: p.Name})
	}
	if err != nil {
		return err
	}
	if c.Rotate {
		old := fmt.Sprintf("opens until %s: reseal before (hizo reseal FILE...)", clock(out.GetOldUntilUnix()))
		if c.Keep.seconds() == 0 {
			old = "opens nothing any more"
		}
		s.note("new key %s; %s %s", out.GetKey().GetId(), out.GetOldId(), old)
	}
	if c.Output != "" {
		return writeOver(c.Output, out.GetFile(), 0o644)
	}
	if s.g.Format != "table" {
		return s.show(out, table{})
	}
	_, err = s.stdout.Write(out.GetFile())
	return err
}

type pipelineRevokeCmd struct {
	Pipeline string `arg:"" name:"vault/name" help:"The pipeline that the value was sealed for."`
	Seal     string `arg:"" help:"The sealed value (hizo:v1:...), - for standard input, or its digest: the SHA-256 of its text in hex."`
}

func (c *pipelineRevokeCmd) Run(s *session) error {
	p, err := name.ParsePipeline(c.Pipeline)
	if err != nil {
		return err
	}
	req := &hizov1.RevokeSealRequest{Vault: p.Vault, Name: p.Name, Seal: c.Seal}
	if c.Seal == "-" {
		text, err := s.stdinAll()
		if err != nil {
			return err
		}
		req.Seal = string(trimNewline(text))
	}
	if digest, err := hex.DecodeString(strings.TrimPrefix(req.GetSeal(), "seal:")); err == nil {
		req.Seal, req.Digest = "", digest
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Pipelines().RevokeSeal(s.ctx, req)
	if err != nil {
		return err
	}
	return s.show(r, table{rows: [][]string{{"revoked", hex.EncodeToString(r.GetDigest())}, {"of", p.String()}}})
}
