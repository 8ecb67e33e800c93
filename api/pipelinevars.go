package api

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/api/seal"
	"github.com/hizo/hizo/fsm"
)

// SetVariables sets and unsets variables of a pipeline. Whatever gives a reference, replaces one or takes one away is a
// matter of grants.
func (s *pipelineService) SetVariables(ctx context.Context, req *hizov1.SetVariablesRequest) (*hizov1.Pipeline, error) {
	p, err := pipelineName(req.GetVault(), req.GetName())
	if err != nil {
		return nil, err
	}
	if err := checkVariables(req); err != nil {
		return nil, err
	}
	answer, err := s.change(ctx, pipelineChange{
		method: "SetVariables", message: req, name: p,
		targets: func(have *fsm.Pipeline) ([]target, error) { return variableTargets(p, have, req), nil },
		edit:    func(r *round, next *fsm.Pipeline) error { return s.setVariables(r, next, req) },
	})
	if err != nil {
		return nil, err
	}
	return pipelineNow(answer, p)
}

func checkVariables(req *hizov1.SetVariablesRequest) error {
	named := map[string]bool{}
	check := func(n string) error {
		if _, err := name.Variable(n); err != nil {
			return err
		}
		if named[n] {
			return invalid(n, "the variable %s is given twice", n)
		}
		named[n] = true
		return nil
	}
	if n := len(req.GetSet()) + len(req.GetUnset()); n == 0 || n > fsm.MaxPipelineVariables {
		return invalid("set", "name one variable at least and %d at most", fsm.MaxPipelineVariables)
	}
	for _, n := range req.GetUnset() {
		if err := check(n); err != nil {
			return err
		}
	}
	for _, v := range req.GetSet() {
		n := v.GetName()
		if err := check(n); err != nil {
			return err
		}
		if name.ReservedVariable(n) {
			return invalid(n, "%s is not to be set, it decides what runs and how: use another name", n)
		}
		if v.GetReference() != "" && v.GetSeal() != "" {
			return invalid(n, "the variable %s is a reference or sealed, not both", n)
		}
		if err := checkReference(n, v.GetReference()); err != nil {
			return err
		}
		if v.GetSeal() != "" {
			if _, err := seal.Parse(v.GetSeal()); err != nil {
				return invalid(n, "variable %s: %v", n, err)
			}
		}
	}
	return nil
}

// checkReference accepts what a run can be given, in its one spelling.
func checkReference(variable, text string) error {
	if text == "" {
		return nil
	}
	if name.IsLeaseReference(text) {
		_, err := name.ParseLeaseReference(text)
		return err
	}
	ref, err := name.ParseReference(text)
	if err != nil {
		return err
	}
	if ref.Version > math.MaxUint32 {
		return invalid(variable, "%s: there is no such version", text)
	}
	return nil
}

// variableTargets says for every variable what is asked for: a grant where a reference is or was, else a sealed one.
func variableTargets(p name.PipelineName, have *fsm.Pipeline, req *hizov1.SetVariablesRequest) []target {
	var out []target
	for _, v := range req.GetSet() {
		action, is := policy.PipelineSet, "is sealed and comes with the job"
		if v.GetSeal() != "" {
			is = "is sealed"
		}
		if old, _ := have.Variable(v.GetName()); v.GetReference() != "" || old.Reference != "" {
			action = policy.PipelineGrant
			if old.Reference != "" && old.Reference != v.GetReference() {
				is += ", no longer " + old.Reference
			}
		}
		if v.GetReference() != "" {
			is = "is " + v.GetReference()
		}
		out = append(out, onPipeline(action, p, "variable "+v.GetName()+" "+is))
	}
	for _, n := range req.GetUnset() {
		action, was := policy.PipelineSet, ""
		if old, _ := have.Variable(n); old.Reference != "" {
			action, was = policy.PipelineGrant, ", was "+old.Reference
		}
		out = append(out, onPipeline(action, p, "variable "+n+" is removed"+was))
	}
	return out
}

// setVariables edits. A sealed value that is to be kept must open as a run's would: who sets one learns of a mistake now.
func (s *pipelineService) setVariables(r *round, next *fsm.Pipeline, req *hizov1.SetVariablesRequest) error {
	for _, n := range req.GetUnset() {
		if _, ok := next.Variable(n); !ok {
			return &Error{Reason: hizov1.ReasonNotFound, Message: fmt.Sprintf("the pipeline has no variable %s: `hizo pipeline show` lists them", n)}
		}
	}
	for _, v := range req.GetSet() {
		if v.GetSeal() == "" {
			continue
		}
		o, err := s.unseal(r, next, v.GetName(), v.GetSeal())
		if err != nil {
			return err
		}
		o.value.Wipe()
	}
	next.Variables = slices.DeleteFunc(next.Variables, func(old fsm.PipelineVariable) bool {
		return slices.Contains(req.GetUnset(), old.Name) ||
			slices.ContainsFunc(req.GetSet(), func(v *hizov1.PipelineVariable) bool { return v.GetName() == old.Name })
	})
	sealed := 0
	for _, v := range req.GetSet() {
		next.Variables = append(next.Variables, fsm.PipelineVariable{Name: v.GetName(), Reference: v.GetReference(), Seal: []byte(v.GetSeal())})
	}
	for _, v := range next.Variables {
		sealed += len(v.Seal)
	}
	switch {
	case len(next.Variables) > fsm.MaxPipelineVariables:
		return invalid("set", "a pipeline has at most %d variables", fsm.MaxPipelineVariables)
	case sealed > fsm.MaxPipelineSealed:
		return invalid("set", "a pipeline keeps at most %d bytes of sealed values: leave them in the job's configuration (NAME=sealed), or use references", fsm.MaxPipelineSealed)
	}
	slices.SortFunc(next.Variables, func(a, b fsm.PipelineVariable) int { return strings.Compare(a.Name, b.Name) })
	return nil
}
