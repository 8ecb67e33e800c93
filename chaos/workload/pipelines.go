package workload

import (
	"context"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/chaos/history"
	"github.com/hizo/hizo/crypto/hybrid"
)

const (
	pipeline = "train"
	runner   = "runner" // the workload that runs it
	variable = "VALUE"  // k0's value
)

func (w *Workload) setupPipeline(ctx context.Context, c *client.Client) error {
	if _, err := c.Identities().CreateWorkload(ctx, &hizov1.CreateWorkloadRequest{Name: runner}); err != nil {
		return err
	}
	if _, err := c.Pipelines().CreatePipeline(ctx, &hizov1.CreatePipelineRequest{Vault: Vault, Name: pipeline, Identities: []string{runner}}); err != nil {
		return err
	}
	_, err := c.Pipelines().SetVariables(ctx, &hizov1.SetVariablesRequest{Vault: Vault, Name: pipeline, Set: []*hizov1.PipelineVariable{
		{Name: variable, Reference: "hizo://" + Vault + "/k0#v"},
	}})
	return err
}

// runs are runs of the pipeline: each logs in and has its variables injected.
func (w *Workload) runs(ctx context.Context) {
	admin, err := w.Connect(w.Admin)
	if err != nil {
		return
	}
	defer admin.Close()
	for ctx.Err() == nil {
		c, err := w.login(ctx, admin, "run", runner)
		if err != nil {
			pause(ctx, history.Event{Outcome: history.No})
			continue
		}
		for range 20 {
			pause(ctx, w.run(ctx, c))
			if ctx.Err() != nil {
				break
			}
		}
		_ = c.Close()
	}
}

func (w *Workload) run(ctx context.Context, c *client.Client) history.Event {
	e := history.Event{Client: "run", Kind: history.Inject, Key: Vault + "/k0"}
	key, err := hybrid.NewKey()
	if err != nil {
		return e
	}
	e = w.Record.Begin(e)
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := c.Secrets().Inject(call, &hizov1.InjectRequest{Pipeline: true, ExecutionKey: key.Public(), Execution: "run"})
	if e = outcome(e, err); err == nil {
		v := r.GetVariables()[0]
		value, err := inject.OpenVariable(key, inject.VariableTarget{
			Cluster: r.GetClusterId(), Principal: r.GetPrincipal(), Pipeline: r.GetPipeline(),
			Variable: v.GetName(), Source: v.GetSource(), Version: v.GetVersion(),
		}, v.GetSealed())
		if err != nil {
			e.Reason = "OTHER: " + err.Error()
		} else {
			e.Value = string(value.Reveal())
		}
		e.Version, e.Audit = v.GetVersion(), v.GetAuditSequence()
	}
	w.Record.End(e)
	return e
}
