package api

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/fsm"
)

// Bounds of a binding.
const (
	maxMatches    = 16
	maxCarry      = 16
	maxClaimName  = 256  // bytes
	maxClaimValue = 1024 // bytes
)

// defaultBindingTTL is how long a login by a binding lasts at most, unless the binding says otherwise.
const defaultBindingTTL = time.Hour

// PutBinding makes or changes a binding.
func (s *issuerService) PutBinding(ctx context.Context, req *hizov1.PutBindingRequest) (*hizov1.Binding, error) {
	in := req.GetBinding()
	if _, err := name.Binding(in.GetName()); err != nil {
		return nil, err
	}
	if _, err := name.Issuer(in.GetIssuer()); err != nil {
		return nil, err
	}
	if _, err := name.Workload(in.GetWorkload()); err != nil {
		return nil, err
	}
	if in.GetMaxTtlSeconds() == 0 {
		in.MaxTtlSeconds = int64(defaultBindingTTL / time.Second)
	}
	ttl, err := lifetime(in.GetMaxTtlSeconds(), maxTTL)
	if err != nil {
		return nil, err
	}
	match, err := matchesIn(in.GetMatch())
	if err != nil {
		return nil, err
	}
	if err := claimNames(in.GetCarry()); err != nil {
		return nil, err
	}
	record := fsm.ClaimBinding{
		Name: in.GetName(), Issuer: in.GetIssuer(), Workload: in.GetWorkload(), Match: match,
		Condition: in.GetCondition(), Carry: in.GetCarry(), MaxTTL: ttl.Milliseconds(),
	}
	if len(match) == 0 && record.Condition == "" {
		return nil, invalid("match", "a binding that demands nothing makes everybody of the issuer the workload: give --match or --condition")
	}
	condition := sync.OnceValues(func() (*policy.Condition, error) {
		if record.Condition == "" {
			return nil, nil
		}
		return policy.ParseCondition(record.Condition)
	})
	t := onBinding(policy.BindingPut, record.Name)
	t.detail = "workload/" + record.Workload + " by issuer " + record.Issuer
	answer, err := s.gate.do(ctx, &call{
		method: "IssuerService/PutBinding", kind: fsm.KindClaimBindingPut, message: req, targets: []target{t},
		body: func(r *round) (any, error) {
			c, err := condition()
			if err != nil {
				return nil, err
			}
			r.rest(fsm.ObjIssuer(record.Issuer))
			if i, ok := r.store.Issuer(record.Issuer); ok {
				if err := tenant(i.URL, match, c); err != nil {
					return nil, err
				}
			}
			record.By, record.Created = r.caller.text, r.now
			record.MAC, err = r.mac(record)
			return &fsm.ClaimBindingPut{Binding: record}, err
		},
	})
	if err != nil {
		return nil, err
	}
	if now, ok := answer.store.ClaimBinding(record.Name); ok {
		record = now
	}
	return bindingOut(record), nil
}

func matchesIn(in []*hizov1.Claim) ([]fsm.Claim, error) {
	if len(in) > maxMatches {
		return nil, invalid("match", "a binding compares at most %d claims", maxMatches)
	}
	var out []fsm.Claim
	for _, c := range in {
		if err := claimNames([]string{c.GetName()}); err != nil {
			return nil, err
		}
		if len(c.GetValue()) > maxClaimValue || !claimText(c.GetValue()) {
			return nil, invalid("match", "the value of a claim is text of at most %d bytes", maxClaimValue)
		}
		out = append(out, fsm.Claim{Name: c.GetName(), Value: c.GetValue()})
	}
	slices.SortFunc(out, func(a, b fsm.Claim) int { return strings.Compare(a.Name, b.Name) })
	for i := range len(out) - 1 {
		if out[i].Name == out[i+1].Name {
			return nil, invalid("match", "a claim is compared twice: no token has both values, so make two bindings")
		}
	}
	return out, nil
}

func claimNames(names []string) error {
	if len(names) > maxCarry {
		return invalid("carry", "a login carries at most %d further claims", maxCarry)
	}
	for _, n := range names {
		if n == "" || len(n) > maxClaimName || !claimText(n) {
			return invalid("claim", "the name of a claim is text of 1 to %d bytes", maxClaimName)
		}
	}
	return nil
}

func claimText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// shared are issuers that sign for anybody who has an account there, and the claims by which one's own jobs are told
// from those of everybody else.
var shared = map[string][]string{
	"https://token.actions.githubusercontent.com": {"sub", "repository", "repository_id", "repository_owner", "repository_owner_id", "job_workflow_ref", "workflow_ref"},
	"https://gitlab.com":                          {"sub", "project_path", "project_id", "namespace_path", "namespace_id"},
	"https://accounts.google.com":                 {"sub", "email"},
	"https://agent.buildkite.com":                 {"sub", "organization_slug", "organization_id"},
}

// tenant refuses a binding to an issuer of everybody that does not say whose jobs are meant: ref == "refs/heads/main"
// alone is true of anybody's repository.
func tenant(url string, match []fsm.Claim, c *policy.Condition) error {
	own, ok := shared[strings.TrimSuffix(url, "/")]
	if !ok || slices.ContainsFunc(match, func(m fsm.Claim) bool { return slices.Contains(own, m.Name) }) {
		return nil
	}
	if c != nil && slices.ContainsFunc(c.Claims(), func(n string) bool { return slices.Contains(own, n) }) {
		return nil
	}
	return invalid("match", "this issuer signs for everybody who has an account there: say whose jobs are meant, by one of %s", strings.Join(own, ", "))
}

func bindingOut(b fsm.ClaimBinding) *hizov1.Binding {
	return &hizov1.Binding{
		Name: b.Name, Issuer: b.Issuer, Workload: b.Workload, Match: claimsOut(b.Match), Condition: b.Condition, Carry: b.Carry,
		MaxTtlSeconds: b.MaxTTL / 1000, By: b.By, CreatedUnix: b.Created / 1000,
	}
}

func claimsOut(in []fsm.Claim) []*hizov1.Claim {
	var out []*hizov1.Claim
	for _, c := range in {
		out = append(out, &hizov1.Claim{Name: c.Name, Value: c.Value})
	}
	return out
}

// ListBindings lists the bindings by name.
func (s *issuerService) ListBindings(ctx context.Context, _ *hizov1.ListBindingsRequest) (*hizov1.ListBindingsResponse, error) {
	var out *hizov1.ListBindingsResponse
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onSystem(policy.BindingList)}}, func(answer *answer) error {
		out = &hizov1.ListBindingsResponse{}
		for _, b := range answer.store.ClaimBindings() {
			one := bindingOut(b)
			one.Condition = shorten(one.Condition, 80) // 2,048 long ones would not fit a message
			out.Bindings = append(out.Bindings, one)
		}
		return nil
	})
	return sent(out, err)
}

// GetBinding returns one binding.
func (s *issuerService) GetBinding(ctx context.Context, req *hizov1.GetBindingRequest) (*hizov1.Binding, error) {
	if _, err := name.Binding(req.GetName()); err != nil {
		return nil, err
	}
	var out *hizov1.Binding
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onBinding(policy.BindingGet, req.GetName())}}, func(answer *answer) error {
		b, ok := answer.store.ClaimBinding(req.GetName())
		if !ok {
			return fault(hizov1.ReasonNotFound)
		}
		out = bindingOut(b)
		return nil
	})
	return sent(out, err)
}

// DeleteBinding removes a binding; every login that rests on it ends.
func (s *issuerService) DeleteBinding(ctx context.Context, req *hizov1.DeleteBindingRequest) (*hizov1.DeleteBindingResponse, error) {
	if _, err := name.Binding(req.GetName()); err != nil {
		return nil, err
	}
	_, err := s.gate.do(ctx, &call{
		method: "IssuerService/DeleteBinding", kind: fsm.KindClaimBindingDelete, message: req,
		targets: []target{onBinding(policy.BindingDelete, req.GetName())},
		body:    func(*round) (any, error) { return &fsm.ClaimBindingDelete{Name: req.GetName()}, nil },
	})
	if err != nil {
		return nil, err
	}
	return &hizov1.DeleteBindingResponse{}, nil
}
