package api

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/api/seal"
	"github.com/hizo/hizo/crypto/envelope"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
	"github.com/hizo/hizo/fsm"
)

// Inject releases values sealed to the key of one execution, after their records have committed: all of
// them or none.
func (s *secretService) Inject(ctx context.Context, req *hizov1.InjectRequest) (*hizov1.InjectResponse, error) {
	in, err := s.injection(req)
	if err != nil {
		return nil, err
	}
	defer in.wipe()
	c := &call{reason: req.GetExecution(), body: in.body}
	c.prepare = func(r *round) error {
		err := in.prepare(r)
		c.kind = in.kind()
		return err
	}
	answer, err := s.gate.do(ctx, c)
	if err != nil {
		return nil, err
	}
	return in.answer(answer)
}

// injection is one Inject on its way.
type injection struct {
	*secretService
	req     *hizov1.InjectRequest
	given   []reference         // of the request
	checked func() error        // the execution key; checking costs as much as sealing to it, so once, for those who may
	sealed  map[string]struct{} // variables whose sealed values the request brings

	// Of one round.
	pipeline fsm.Pipeline
	runs     bool
	refs     []reference // those given, then the pipeline's
	seals    []sealedVariable
	leases   []fsm.PipelineVariable
	missing  []string
	values   []*opened // of seals
}

// reference is one that is injected, for a variable of the pipeline or as the request gave it.
type reference struct {
	name.Reference
	variable string
}

func (r reference) read() fsm.Ref {
	return fsm.Ref{Vault: r.Vault, Path: r.Path, Version: uint32(r.Version)}
}

// sealedVariable is a sealed value that is opened.
type sealedVariable struct{ variable, text string }

// injection checks what does not depend on the state.
func (s *secretService) injection(req *hizov1.InjectRequest) (*injection, error) {
	in := &injection{secretService: s, req: req, sealed: make(map[string]struct{}, len(req.GetSealed()))}
	switch {
	case len(req.GetRefs()) == 0 && len(req.GetSealed()) == 0 && !req.GetPipeline():
		return nil, invalid("refs", "name at least one reference, or ask for the pipeline's variables")
	case len(req.GetRefs()) > s.limits.Refs:
		return nil, invalid("refs", "at most %d references at a time: split the request", s.limits.Refs)
	case len(req.GetSealed()) > s.limits.Refs:
		return nil, invalid("sealed", "at most %d sealed values at a time: split the request", s.limits.Refs)
	}
	if err := s.text("execution", req.GetExecution()); err != nil {
		return nil, err
	}
	for _, ref := range req.GetRefs() {
		r := reference{Reference: name.Reference{
			Resource: name.Resource{Vault: ref.GetVault(), Path: ref.GetPath()}, Field: ref.GetField(), Version: uint64(ref.GetVersion()),
		}}
		if _, err := name.Vault(r.Vault); err != nil {
			return nil, err
		}
		if _, err := name.Path(r.Path); err != nil {
			return nil, err
		}
		if _, err := name.Field(r.Field); err != nil {
			return nil, err
		}
		in.given = append(in.given, r)
	}
	for _, v := range req.GetSealed() {
		if _, err := name.Variable(v.GetName()); err != nil {
			return nil, err
		}
		if _, twice := in.sealed[v.GetName()]; twice {
			return nil, invalid("sealed", "the variable %s is given twice", v.GetName())
		}
		if len(v.GetText()) > seal.MaxText {
			return nil, invalid(v.GetName(), "variable %s: %v", v.GetName(), seal.ErrFormat)
		}
		in.sealed[v.GetName()] = struct{}{}
	}
	in.checked = sync.OnceValue(func() error { return hybrid.CheckPublic(req.GetExecutionKey()) })
	return in, nil
}

// prepare finds out what is to be released and whether that was granted. The pipeline is the caller's.
func (in *injection) prepare(r *round) error {
	var err error
	if in.pipeline, in.runs, err = in.gate.pipelineOf(r); err != nil {
		return err
	}
	in.refs, in.seals, in.leases, in.missing = slices.Clone(in.given), nil, nil, nil
	for _, v := range in.req.GetSealed() {
		in.seals = append(in.seals, sealedVariable{v.GetName(), v.GetText()})
	}
	if in.req.GetPipeline() && in.runs {
		if err := in.declared(); err != nil {
			return err
		}
	}
	r.targets = nil
	for _, ref := range in.refs {
		t := target{action: policy.Inject, resource: policy.Secret(ref.Vault, ref.Path), name: ref.Resource.String(), detail: "field " + ref.Field}
		if ref.variable != "" {
			t.detail += " for the variable " + ref.variable
		}
		t.granted = in.runs && declares(&in.pipeline, ref.String())
		r.targets = append(r.targets, t)
	}
	for _, v := range in.seals {
		r.targets = append(r.targets, in.opening(r, v))
	}
	if len(r.targets) == 0 || in.req.GetPipeline() && !in.runs {
		r.targets = append(r.targets, in.onOwn(r, "no values"))
	}
	return nil
}

// declared adds what the pipeline declares.
func (in *injection) declared() error {
	for _, v := range in.pipeline.Variables {
		switch {
		case name.IsReference(v.Reference):
			ref, err := name.ParseReference(v.Reference)
			if err != nil {
				return err
			}
			if ref.Version > math.MaxUint32 {
				return fault(hizov1.ReasonNotFound)
			}
			in.refs = append(in.refs, reference{ref, v.Name})
		case v.Reference != "":
			in.leases = append(in.leases, v)
		case len(v.Seal) > 0:
			if _, given := in.sealed[v.Name]; !given { // the request's is refused
				in.seals = append(in.seals, sealedVariable{v.Name, string(v.Seal)})
			}
		default:
			if _, given := in.sealed[v.Name]; !given {
				in.missing = append(in.missing, v.Name)
			}
		}
	}
	return nil
}

// onOwn is the target of opening on the pipeline that the caller runs.
func (in *injection) onOwn(r *round, detail string) target {
	if !in.runs {
		t := onIdentity(policy.Open, r.caller.principal)
		t.detail = detail
		if r.caller.principal.Kind == name.KindWorkload {
			t.why = fmt.Sprintf("%s runs no pipeline: `hizo pipeline identity add VAULT/NAME %s`", r.caller.text, r.caller.principal.Name)
		}
		return t
	}
	where := in.pipeline.Vault + "/" + in.pipeline.Name
	return target{action: policy.Open, resource: policy.Pipeline(in.pipeline.Vault, in.pipeline.Name), name: where, detail: detail, granted: true}
}

// opening is the target of a sealed value. The digest in the record tells which one.
func (in *injection) opening(r *round, v sealedVariable) target {
	digest := sha256.Sum256([]byte(v.text))
	t := in.onOwn(r, "variable "+v.variable+" "+sealSource(digest[:]))
	if !in.runs {
		return t
	}
	_, given := in.sealed[v.variable]
	d, ok := in.pipeline.Variable(v.variable)
	switch {
	case !ok:
		t.why = fmt.Sprintf("the pipeline declares no variable %s: `hizo pipeline env set %s %s=sealed`", v.variable, t.name, v.variable)
	case d.Reference != "":
		t.why = fmt.Sprintf("the pipeline declares the variable %s as a reference, not as sealed", v.variable)
	case given && len(d.Seal) > 0:
		t.why = fmt.Sprintf("the pipeline itself keeps the value of the variable %s: take it out of the job's configuration", v.variable)
	}
	t.granted = t.why == ""
	return t
}

func (in *injection) kind() fsm.Kind {
	switch {
	case len(in.seals) > 0:
		return fsm.KindInject
	case len(in.refs) > 0:
		return fsm.KindRead
	}
	return fsm.KindRecord
}

// body opens the sealed values, so that one that does not open is refused and not recorded as released.
func (in *injection) body(r *round) (any, error) {
	in.wipe() // an earlier round's
	if err := in.checked(); err != nil {
		return nil, err
	}
	reads := make([]fsm.Ref, len(in.refs))
	for i, ref := range in.refs {
		reads[i] = ref.read()
	}
	switch in.kind() {
	case fsm.KindRecord:
		return nil, nil
	case fsm.KindRead:
		return &fsm.ReadVersions{Refs: reads}, nil
	}
	body := &fsm.Injection{Vault: in.pipeline.Vault, Pipeline: in.pipeline.Name, Refs: reads}
	for _, v := range in.seals {
		o, err := in.unseal(r, &in.pipeline, v.variable, v.text)
		if err != nil {
			return nil, err
		}
		in.values = append(in.values, o)
		body.Seals = append(body.Seals, o.digest)
	}
	return body, nil
}

func (in *injection) wipe() {
	for _, o := range in.values {
		o.value.Wipe()
	}
	in.values = nil
}

// answer seals what Apply has released to the execution.
func (in *injection) answer(a *answer) (*hizov1.InjectResponse, error) {
	out := &hizov1.InjectResponse{ClusterId: inject.ClusterText(a.cluster.ID), Principal: a.caller.text, Missing: in.missing}
	if in.runs {
		out.OfflineSeconds = in.pipeline.Offline
	}
	if in.runs && (in.req.GetPipeline() || len(in.sealed) > 0) {
		out.Pipeline = in.pipeline.Vault + "/" + in.pipeline.Name
	}
	given, declared, err := in.releasedRefs(a, out)
	if err != nil {
		return nil, err
	}
	out.Values = given
	for i, o := range in.values {
		v := &hizov1.InjectResponse_Variable{
			Name: in.seals[i].variable, Source: sealSource(o.digest), AuditSequence: a.Audit + uint64(len(in.refs)+i),
		}
		if err := in.sealVariable(out, v, o.value); err != nil {
			return nil, err
		}
		if _, ok := in.sealed[v.Name]; ok {
			out.Variables = append(out.Variables, v)
		} else {
			declared = append(declared, v)
		}
	}
	for _, v := range in.leases {
		declared = append(declared, &hizov1.InjectResponse_Variable{Name: v.Name, Source: v.Reference})
	}
	slices.SortFunc(declared, func(a, b *hizov1.InjectResponse_Variable) int {
		if a.Name < b.Name {
			return -1
		}
		return 1 // names differ
	})
	out.Variables = append(out.Variables, declared...)
	return out, nil
}

// releasedRefs seals the values of references: those that were given, and those of the pipeline.
func (in *injection) releasedRefs(a *answer, out *hizov1.InjectResponse) (given []*hizov1.InjectResponse_Value, declared []*hizov1.InjectResponse_Variable, err error) {
	if len(in.refs) == 0 {
		return nil, nil, nil
	}
	data, err := a.released(len(in.refs))
	if err != nil {
		return nil, nil, err
	}
	decrypted := make(map[fsm.Ref]map[string]secret.Bytes, len(data))
	defer func() {
		for _, value := range decrypted {
			envelope.WipeValue(value)
		}
	}()
	for i, d := range data {
		value, ok := decrypted[d.Ref]
		if !ok {
			if value, err = a.decrypt(d); err != nil {
				return nil, nil, err
			}
			decrypted[d.Ref] = value
		}
		ref, sequence := in.refs[i], a.Audit+uint64(i)
		b, ok := value[ref.Field]
		if !ok {
			return nil, nil, noField(ref.Resource.String(), ref.Field)
		}
		if ref.variable != "" {
			v := &hizov1.InjectResponse_Variable{Name: ref.variable, Source: ref.String(), Version: d.Ref.Version, AuditSequence: sequence}
			if err := in.sealVariable(out, v, b); err != nil {
				return nil, nil, err
			}
			declared = append(declared, v)
			continue
		}
		sealed, err := inject.SealValue(in.req.GetExecutionKey(), inject.Target{
			Cluster: out.ClusterId, Principal: out.Principal,
			Vault: d.Ref.Vault, Path: d.Ref.Path, Field: ref.Field, Version: d.Ref.Version,
		}, b)
		if err != nil {
			return nil, nil, err
		}
		given = append(given, &hizov1.InjectResponse_Value{Version: d.Ref.Version, Sealed: sealed, AuditSequence: sequence})
	}
	return given, declared, nil
}

func (in *injection) sealVariable(out *hizov1.InjectResponse, v *hizov1.InjectResponse_Variable, value secret.Bytes) (err error) {
	v.Sealed, err = inject.SealVariable(in.req.GetExecutionKey(), inject.VariableTarget{
		Cluster: out.GetClusterId(), Principal: out.GetPrincipal(), Pipeline: out.GetPipeline(),
		Variable: v.GetName(), Source: v.GetSource(), Version: v.GetVersion(),
	}, value)
	return err
}
