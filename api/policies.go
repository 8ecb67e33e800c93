package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/fsm"
)

// policyService keeps the policies that SecurityEngineers put.
type policyService struct {
	hizov1.UnimplementedPolicyServiceServer
	*Server
}

// policyName refuses what no put policy can be called, shipped ones with their own words.
func policyName(n string) error {
	if strings.HasPrefix(n, policy.ShippedPrefix) {
		return &Error{Reason: hizov1.ReasonInvalid, Message: "shipped policies are part of the server and can't be changed: put a policy of another name",
			Info: map[string]string{hizov1.InfoField: "name"}}
	}
	_, err := name.Policy(n)
	return err
}

func onPolicy(action policy.Action, n string) target {
	return target{action: action, resource: policy.System(), name: "policy/" + n}
}

// PutPolicy stores a policy, if it is valid and fits beside the others.
func (s *policyService) PutPolicy(ctx context.Context, req *hizov1.PutPolicyRequest) (*hizov1.Policy, error) {
	if err := policyName(req.GetName()); err != nil {
		return nil, err
	}
	if len(req.GetText()) > s.limits.Policy {
		return nil, invalid("text", "a policy has at most %d bytes: split it", s.limits.Policy)
	}
	// Only those who may put policies can have one parsed, and each request once.
	valid := sync.OnceValue(func() error { return policy.Validate(req.GetName(), req.GetText()) })
	answer, err := s.gate.do(ctx, &call{
		method: "PolicyService/PutPolicy", kind: fsm.KindPolicyPut, message: req,
		targets: []target{onPolicy(policy.PolicyPut, req.GetName())},
		body: func(r *round) (any, error) {
			if err := valid(); err != nil {
				return nil, err
			}
			// The read set holds the policies' index: the set checked here is the one it joins.
			sources := []policy.Source{{Name: req.GetName(), Text: req.GetText()}}
			for _, p := range r.store.Policies() {
				if p.Name != req.GetName() {
					sources = append(sources, policy.Source{Name: p.Name, Text: p.Text})
				}
			}
			if _, err := policy.Compile(sources); err != nil {
				return nil, err
			}
			p := fsm.Policy{Name: req.GetName(), Text: req.GetText(), By: r.caller.text, Created: r.now}
			var err error
			p.MAC, err = r.mac(p)
			return &fsm.PolicyPut{Policy: p}, err
		},
	})
	if err != nil {
		return nil, err
	}
	return &hizov1.Policy{Name: req.GetName(), Text: req.GetText(), By: answer.caller.text, CreatedUnix: answer.Time / 1000}, nil
}

// ListPolicies lists the shipped policies, then the others by name.
func (s *policyService) ListPolicies(ctx context.Context, _ *hizov1.ListPoliciesRequest) (*hizov1.ListPoliciesResponse, error) {
	var out *hizov1.ListPoliciesResponse
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onSystem(policy.PolicyList)}}, func(answer *answer) error {
		out = &hizov1.ListPoliciesResponse{}
		for _, p := range policy.Shipped() {
			out.Policies = append(out.Policies, &hizov1.Policy{Name: p.Name, Text: p.Text, Shipped: true})
		}
		for _, p := range answer.store.Policies() {
			out.Policies = append(out.Policies, policyOut(p))
		}
		return nil
	})
	return sent(out, err)
}

func policyOut(p fsm.Policy) *hizov1.Policy {
	return &hizov1.Policy{Name: p.Name, Text: p.Text, By: p.By, CreatedUnix: p.Created / 1000}
}

// GetPolicy returns one policy.
func (s *policyService) GetPolicy(ctx context.Context, req *hizov1.GetPolicyRequest) (*hizov1.Policy, error) {
	n := req.GetName()
	shipped := slices.IndexFunc(policy.Shipped(), func(p policy.Source) bool { return p.Name == n })
	if shipped < 0 {
		if err := policyName(n); err != nil {
			return nil, err
		}
	}
	var out *hizov1.Policy
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onPolicy(policy.PolicyGet, n)}}, func(answer *answer) error {
		if shipped >= 0 {
			out = &hizov1.Policy{Name: n, Text: policy.Shipped()[shipped].Text, Shipped: true}
			return nil
		}
		p, ok := answer.store.Policy(n)
		if !ok {
			return fault(hizov1.ReasonNotFound)
		}
		out = policyOut(p)
		return nil
	})
	return sent(out, err)
}

// DeletePolicy removes a policy.
func (s *policyService) DeletePolicy(ctx context.Context, req *hizov1.DeletePolicyRequest) (*hizov1.DeletePolicyResponse, error) {
	if err := policyName(req.GetName()); err != nil {
		return nil, err
	}
	_, err := s.gate.do(ctx, &call{
		method: "PolicyService/DeletePolicy", kind: fsm.KindPolicyDelete, message: req,
		targets: []target{onPolicy(policy.PolicyDelete, req.GetName())},
		body:    func(*round) (any, error) { return &fsm.PolicyDelete{Name: req.GetName()}, nil },
	})
	if err != nil {
		return nil, err
	}
	return &hizov1.DeletePolicyResponse{}, nil
}

// Explain says which policies decide a request, as things are now, and what is missing.
func (s *policyService) Explain(ctx context.Context, req *hizov1.ExplainRequest) (*hizov1.ExplainResponse, error) {
	p, err := name.ParsePrincipal(req.GetPrincipal())
	if err != nil {
		return nil, err
	}
	resource, err := resourceOf(policy.Action(req.GetAction()), req.GetResource())
	if err != nil {
		return nil, err
	}
	t := onIdentity(policy.PolicyExplain, p)
	t.detail = req.GetAction() + " " + req.GetResource()
	var out *hizov1.ExplainResponse
	err = s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{t}}, func(answer *answer) error {
		out, err = s.explain(answer, req, p, resource)
		return err
	})
	return sent(out, err)
}

func (s *policyService) explain(answer *answer, req *hizov1.ExplainRequest, p name.Principal, resource policy.Resource) (*hizov1.ExplainResponse, error) {
	set, _, err := s.gate.policy.get(s.gate, answer.footing)
	if err != nil {
		return nil, err
	}
	roles, err := s.gate.roles(answer.footing, p.String())
	if err != nil {
		return nil, err
	}
	question := policy.Request{
		Principal: p, Roles: roles, Action: policy.Action(req.GetAction()), Resource: resource,
		Time: time.UnixMilli(answer.now), Addr: answer.origin.addr,
		Granted: s.gate.granted(answer.store, p.String(), policy.Action(req.GetAction()), req.GetResource()),
	}
	if p == answer.caller.principal { // how somebody else would log in is not known
		question.Method, question.Claims = answer.caller.method, answer.caller.facts
	}
	e := set.Explain(question)
	out := &hizov1.ExplainResponse{Allowed: e.Allowed, Policies: e.Policies, Errors: e.Errors, Missing: e.Missing}
	enabled, err := s.gate.enabled(answer.footing, p)
	if err != nil {
		return nil, err
	}
	if !enabled {
		out.Allowed = false
		out.Missing = append([]string{fmt.Sprintf("%s does not exist or is disabled", p)}, out.Missing...)
	}
	return out, nil
}

// resourceOf reads the resource of an explanation: "VAULT/PATH", "VAULT", "user/NAME", …, or nothing.
// What kind it is follows from the action.
func resourceOf(action policy.Action, text string) (policy.Resource, error) {
	if !policy.IsAction(action) {
		return policy.Resource{}, invalid("action", "there is no such action: see docs/policies.md")
	}
	if len(text) > name.MaxVault+1+name.MaxPath {
		return policy.Resource{}, invalid("resource", "no resource has so long a name")
	}
	if text == "" {
		return policy.System(), nil
	}
	switch action {
	case policy.List, policy.VaultCreate, policy.VaultRotateKey:
		_, err := name.Vault(text)
		return policy.Vault(text), err
	case policy.Reveal, policy.Inject, policy.Put, policy.Versions, policy.Delete, policy.Undelete, policy.Destroy:
		r, err := name.ParseResource(text)
		return policy.Secret(r.Vault, r.Path), err
	case policy.Open, policy.PipelineCreate, policy.PipelineShow, policy.PipelineGrant, policy.PipelineSet, policy.PipelineDelete,
		policy.PipelineKey, policy.PipelineRotateKey, policy.PipelineRevokeSeal, policy.PipelineReseal:
		p, err := name.ParsePipeline(text)
		return policy.Pipeline(p.Vault, p.Name), err
	case policy.Lease, policy.LeaseRolePut, policy.LeaseRoleList, policy.LeaseRoleDelete:
		r, err := name.ParseLeaseRole(text)
		return policy.LeaseRole(r.Vault, r.Role), err
	case policy.RoleGrant, policy.RoleRevoke:
		if !policy.IsRole(text) {
			return policy.Resource{}, invalid("resource", "there is no such role; the roles are %s", strings.Join(policy.Roles(), ", "))
		}
		return policy.Role(text), nil
	}
	p, err := name.ParsePrincipal(text)
	if err != nil {
		return policy.Resource{}, invalid("resource", "%s is about a user, a workload or a node (user/NAME), or about the cluster: then leave the resource out", action)
	}
	return policy.Identity(p), nil
}
