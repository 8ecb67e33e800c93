package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/seal"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/fsm"
)

// refused asks and wants a refusal with this reason and text, and a record of it that says no.
func (p *pipelines) refused(what string, as *apitest.Session, r inject.Request, reason, says string) {
	p.t.Helper()
	got, err := fetch(p.t.Context(), as, r)
	if err == nil {
		p.t.Errorf("%s: got %v", what, variables(got))
		return
	}
	if apitest.Reason(err) != reason || !strings.Contains(err.Error(), says) {
		p.t.Errorf("%s: %s: %v; want %s with %q", what, apitest.Reason(err), err, reason, says)
	}
	if rec := p.newest(as.Principal, 1)[0]; rec.GetDecision() == "allowed" {
		p.t.Errorf("%s is recorded as %v", what, rec)
	}
}

// Every way to get at a sealed value that is not one's own. Each first opens where it belongs, so that what refuses it
// is the one thing that differs.
func testSealedValuesOpenInTheirPlaceOnly(t *testing.T, p *pipelines) {
	ctx := t.Context()
	fork := p.Workload("fork", "")
	stranger := p.Workload("stranger", "")
	p.create("fork", "fork")
	for _, pipeline := range []string{"train", "fork"} {
		p.mustSet(pipeline, "A", "B", "REF=hizo://ml/db#password")
	}
	a, b := p.seal("train", "A", "value of a"), p.seal("train", "B", "value of b")
	opens := func(what string, as *apitest.Session, variable, text, want string) {
		t.Helper()
		got, err := fetch(ctx, as, sealed(variable, text))
		if err != nil || variables(got)[variable] != want {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	opens("a in its place", p.train, "A", a, "value of a")
	opens("b in its place", p.train, "B", b, "value of b")
	const denied, elsewhere = hizov1.ReasonPermissionDenied, "does not open here"

	p.refused("a value under another variable", p.train, sealed("A", b), denied, "variable A: the sealed value does not open here")
	p.refused("two values swapped", p.train, inject.Request{Sealed: []inject.Sealed{{Name: "A", Text: b}, {Name: "B", Text: a}}}, denied, elsewhere)
	p.refused("a replay under another pipeline", fork, sealed("A", a), denied, "not sealed to a key of the pipeline ml/fork")
	p.refused("a fork's configuration, run by an identity of no pipeline", stranger, sealed("A", a), denied, "workload/stranger runs no pipeline")
	p.refused("a variable that is not declared", p.train, sealed("C", p.seal("train", "C", "x")), denied, "declares no variable C")
	p.refused("a variable that is a reference", p.train, sealed("REF", p.seal("train", "REF", "x")), denied, "as a reference")
	p.refused("a user", p.Engineer, sealed("A", a), denied, "sealed values are opened only for a run")
	p.refused("a user who asks for a pipeline", p.owner, inject.Request{Pipeline: true}, denied, "sealed values are opened only for a run")
	p.refused("an identity of no pipeline that asks for it", stranger, inject.Request{Pipeline: true}, denied, "workload/stranger runs no pipeline")

	// The pipeline is the caller's, whatever was sealed for whom: a key of one's own pipeline in the head of another's
	// value opens nothing.
	own, other := p.key("fork"), p.key("train")
	mixed := sealUntil(t, &seal.Key{Cluster: own.Cluster, Vault: "ml", Pipeline: "train", Public: own.Public}, "A", "x", inADay())
	p.refused("another pipeline's name under one's own key", fork, sealed("A", mixed), denied, elsewhere)
	mixed = sealUntil(t, &seal.Key{Cluster: [16]byte{1}, Vault: "ml", Pipeline: "train", Public: other.Public}, "A", "x", inADay())
	p.refused("another cluster's id", p.train, sealed("A", mixed), denied, elsewhere)

	// Every byte of the text counts. What no longer parses is invalid, the rest does not open or names another key.
	for _, i := range []int{0, 5, len(seal.Prefix), len(seal.Prefix) + 25, len(seal.Prefix) + 50, 200, 1600, len(a) - 1} {
		flipped := []byte(a)
		flipped[i] ^= 1
		if _, err := fetch(ctx, p.train, sealed("A", string(flipped))); err == nil {
			t.Errorf("a value with byte %d changed opens", i)
		}
	}
	invalid := hizov1.ReasonInvalid
	p.refused("cut off in the head", p.train, sealed("A", a[:30]), invalid, "variable A: not a sealed value")
	p.refused("cut off in the middle", p.train, sealed("A", a[:1000]), invalid, "variable A: not a sealed value")
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(a, seal.Prefix))
	if err != nil {
		t.Fatal(err)
	}
	rewritten := func(raw []byte) inject.Request {
		return sealed("A", seal.Prefix+base64.RawURLEncoding.EncodeToString(raw))
	}
	p.refused("cut off at the end", p.train, rewritten(raw[:len(raw)-1]), denied, elsewhere)
	p.refused("longer than it was", p.train, rewritten(append(raw, 0)), denied, elsewhere)
	p.refused("a plain value", p.train, sealed("A", "hunter2"), invalid, "variable A: not a sealed value")
	if _, err := fetch(ctx, p.train, sealed("A", a+strings.Repeat("A", seal.MaxText))); apitest.Reason(err) != invalid {
		t.Errorf("over-long: %v", err)
	}
	twice := inject.Request{Sealed: []inject.Sealed{{Name: "A", Text: a}, {Name: "A", Text: a}}}
	if _, err := fetch(ctx, p.train, twice); apitest.Reason(err) != invalid {
		t.Errorf("a variable given twice: %v", err)
	}
	if _, err := fetch(ctx, p.train, sealed("A=B", a)); apitest.Reason(err) != invalid {
		t.Errorf("a name that is none: %v", err)
	}

	// All or nothing: a good value does not come beside a refused one.
	p.refused("good beside bad", p.train, inject.Request{Pipeline: true, Sealed: []inject.Sealed{{Name: "A", Text: a}, {Name: "B", Text: a}}}, denied, elsewhere)
	opens("after all that", p.train, "A", a, "value of a")
}

func inADay() int64 { return time.Now().Add(24 * time.Hour).Unix() }

func testSealedValuesEnd(t *testing.T, p *pipelines) {
	ctx := t.Context()
	p.mustSet("train", "A", "B")
	const denied = hizov1.ReasonPermissionDenied
	key := p.key("train")

	now := time.Now()
	p.refused("expired", p.train, sealed("A", sealUntil(t, key, "A", "x", now.Add(-time.Second).Unix())), denied, "has expired")
	p.refused("for ever", p.train, sealed("A", sealUntil(t, key, "A", "x", now.Add(400*24*time.Hour).Unix())), denied, "expires in more than 366 days")
	if _, err := fetch(ctx, p.train, sealed("A", sealUntil(t, key, "A", "x", now.Add(365*24*time.Hour).Unix()))); err != nil {
		t.Errorf("for a year: %v", err)
	}

	// Revoked, by text and by digest. Others go on to open.
	a, again := p.seal("train", "A", "first"), p.seal("train", "A", "second")
	revoke := func(as *apitest.Session, req *hizov1.RevokeSealRequest) error {
		req.Vault, req.Name = "ml", "train"
		_, err := as.Pipelines().RevokeSeal(ctx, req)
		return err
	}
	if err := revoke(p.train, &hizov1.RevokeSealRequest{Seal: a}); apitest.Reason(err) != denied {
		t.Errorf("a workload revokes: %v", err)
	}
	if err := revoke(p.owner, &hizov1.RevokeSealRequest{Seal: a}); err != nil {
		t.Fatal(err)
	}
	p.refused("revoked", p.train, sealed("A", a), denied, "was revoked")
	if got, err := fetch(ctx, p.train, sealed("A", again)); err != nil || variables(got)["A"] != "second" {
		t.Errorf("a value beside a revoked one: %v", err)
	}
	digest := sha256.Sum256([]byte(again))
	if err := revoke(p.owner, &hizov1.RevokeSealRequest{Digest: digest[:]}); err != nil {
		t.Fatal(err)
	}
	p.refused("revoked by digest", p.train, sealed("A", again), denied, "was revoked")
	if err := revoke(p.owner, &hizov1.RevokeSealRequest{Seal: a}); apitest.Reason(err) != hizov1.ReasonExists {
		t.Errorf("revoked twice: %v", err)
	}
	for what, req := range map[string]*hizov1.RevokeSealRequest{
		"nothing": {}, "both": {Seal: a, Digest: digest[:]}, "a short digest": {Digest: digest[:8]}, "no seal": {Seal: "hizo:v1:"},
	} {
		if err := revoke(p.owner, req); apitest.Reason(err) != hizov1.ReasonInvalid {
			t.Errorf("%s: %v", what, err)
		}
	}

	// An old key opens until its deadline, and not after it.
	old := p.seal("train", "A", "to the old key")
	rotate := func(keep int64) *hizov1.PipelineKeyResponse {
		t.Helper()
		out, err := p.owner.Pipelines().RotatePipelineKey(ctx, &hizov1.RotatePipelineKeyRequest{Vault: "ml", Name: "train", KeepSeconds: keep})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	rotated := rotate(3600)
	oldID := key.ID()
	if rotated.GetOldId() != hex.EncodeToString(oldID[:]) || bytes.Equal(p.key("train").Public, key.Public) {
		t.Errorf("rotated to %v", rotated.GetKey())
	}
	if _, err := fetch(ctx, p.train, sealed("A", old)); err != nil {
		t.Errorf("before its key's deadline: %v", err)
	}
	fresh := p.seal("train", "A", "to the new key")
	rotate(0) // brings the older deadline forward as well
	p.refused("past its key's deadline", p.train, sealed("A", old), denied, "which opens nothing since")
	p.refused("past its key's deadline, the second key", p.train, sealed("A", fresh), denied, "which opens nothing since")

	// A pipeline that was deleted and made again under the same name opens nothing of the old one.
	current := p.seal("train", "A", "x")
	if _, err := p.Engineer.Pipelines().DeletePipeline(ctx, &hizov1.DeletePipelineRequest{Vault: "ml", Name: "train"}); err != nil {
		t.Fatal(err)
	}
	p.refused("of a deleted pipeline", p.train, sealed("A", current), denied, "runs no pipeline")
	p.create("train", "train")
	p.mustSet("train", "A")
	p.refused("of a pipeline that was made again", p.train, sealed("A", current), denied, "not sealed to a key")
}

func testKeptSealsFollowTheKey(t *testing.T, p *pipelines) {
	ctx := t.Context()
	if err := p.set(p.owner, "train", "KEPT="+p.seal("train", "OTHER", "x")); apitest.Reason(err) != hizov1.ReasonPermissionDenied || !strings.Contains(err.Error(), "variable KEPT") {
		t.Errorf("a value for another variable is kept: %v", err)
	}
	kept := p.seal("train", "KEPT", "kept value")
	if err := p.set(p.owner, "train", "KEPT="+kept); err != nil {
		t.Fatal(err)
	}
	if _, err := p.owner.Pipelines().RotatePipelineKey(ctx, &hizov1.RotatePipelineKeyRequest{Vault: "ml", Name: "train"}); err != nil {
		t.Fatal(err)
	}
	got, err := fetch(ctx, p.train, inject.Request{Pipeline: true})
	if err != nil || variables(got)["KEPT"] != "kept value" {
		t.Errorf("after the rotation: %v, %v", got, err)
	}
	p.refused("one's own in its place", p.train, sealed("KEPT", p.seal("train", "KEPT", "mine")), hizov1.ReasonPermissionDenied, "itself keeps the value")
}

func testReseal(t *testing.T, p *pipelines) {
	ctx := t.Context()
	p.mustSet("train", "A", "B")
	a, b := p.seal("train", "A", "value of a"), p.seal("train", "B", "value of b")
	reseal := func(as *apitest.Session, pairs ...string) (*hizov1.ResealResponse, error) {
		req := &hizov1.ResealRequest{}
		for i := 0; i < len(pairs); i += 2 {
			req.Items = append(req.Items, &hizov1.ResealRequest_Item{Variable: pairs[i], Seal: pairs[i+1]})
		}
		return as.Pipelines().Reseal(ctx, req)
	}
	out, err := reseal(p.owner, "A", a, "B", b)
	if err != nil || !out.GetItems()[0].GetUnchanged() || out.GetItems()[0].GetSeal() != a {
		t.Fatalf("before a rotation: %v, %v", out, err)
	}
	if _, err := p.owner.Pipelines().RotatePipelineKey(ctx, &hizov1.RotatePipelineKeyRequest{Vault: "ml", Name: "train", KeepSeconds: 60}); err != nil {
		t.Fatal(err)
	}
	if out, err = reseal(p.owner, "A", a, "B", b); err != nil {
		t.Fatal(err)
	}
	for i, r := range p.newest("user/olga", 2) {
		if r.GetAction() != "pipeline.reseal" || r.GetResource() != "ml/train" || !strings.Contains(r.GetDetail(), "seal:") || r.GetDecision() != "allowed" {
			t.Errorf("record %d: %v", i, r)
		}
	}
	for i, variable := range []string{"A", "B"} {
		text := out.GetItems()[i].GetSeal()
		was, _ := seal.Parse([]string{a, b}[i])
		is, err := seal.Parse(text)
		id := p.key("train").ID()
		if err != nil || is.KeyID != id || is.Expires != was.Expires || is.ID == was.ID || out.GetItems()[i].GetPipeline() != "ml/train" {
			t.Errorf("%s became %+v (%v)", variable, is, err)
		}
		if got, err := fetch(ctx, p.train, sealed(variable, text)); err != nil || !strings.HasPrefix(variables(got)[variable], "value of ") {
			t.Errorf("%s resealed: %v", variable, err)
		}
	}
	denied := hizov1.ReasonPermissionDenied
	for what, c := range map[string]struct {
		as           *apitest.Session
		reason, says string
		pairs        []string
	}{
		"swapped":            {p.owner, denied, "variable A: the sealed value does not open here", []string{"A", b, "B", a}},
		"by a workload":      {p.train, denied, "PipelineOwner", []string{"A", a}},
		"expired":            {p.owner, denied, "has expired", []string{"A", sealUntil(t, p.key("train"), "A", "x", 1)}},
		"of no pipeline":     {p.owner, hizov1.ReasonNotFound, "no pipeline", []string{"A", strangeSeal(t)}},
		"not a sealed value": {p.owner, hizov1.ReasonInvalid, "variable A", []string{"A", "hunter2"}},
	} {
		if _, err := reseal(c.as, c.pairs...); apitest.Reason(err) != c.reason || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// What was revoked does not come back under another digest.
	if _, err := p.owner.Pipelines().RevokeSeal(ctx, &hizov1.RevokeSealRequest{Vault: "ml", Name: "train", Seal: a}); err != nil {
		t.Fatal(err)
	}
	if _, err := reseal(p.owner, "A", a); apitest.Reason(err) != denied || !strings.Contains(err.Error(), "was revoked") {
		t.Errorf("revoked: %v", err)
	}
}

// strangeSeal is sealed to a key that no pipeline has.
func strangeSeal(t *testing.T) string {
	t.Helper()
	key, err := hybrid.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return sealUntil(t, &seal.Key{Vault: "ml", Pipeline: "train", Public: key.Public()}, "A", "x", inADay())
}

// References are grants: what a pipeline declares, its identities get, and nothing beside it.
func testGrantsOfPipelines(t *testing.T, p *pipelines) {
	ctx := t.Context()
	p.Put("ml", "db", "password", "second")
	ref := func(field string, version uint64) inject.Request {
		return inject.Request{References: []name.Reference{{Resource: name.Resource{Vault: "ml", Path: "db"}, Field: field, Version: version}}}
	}
	const denied = hizov1.ReasonPermissionDenied
	p.refused("before it is granted", p.train, ref("password", 0), denied, "workload/train may not inject ml/db")
	p.mustSet("train", "DB_PASSWORD=hizo://ml/db#password")
	if got, err := fetch(ctx, p.train, ref("password", 0)); err != nil || string(got.Values[0].Value.Reveal()) != "second" {
		t.Errorf("granted: %v", err)
	}
	p.refused("another version than granted", p.train, ref("password", 1), denied, "may not inject")
	p.refused("another field than granted", p.train, ref("user", 0), denied, "may not inject")
	other := p.Workload("other", "")
	p.refused("another workload", other, ref("password", 0), denied, "may not inject")
	p.refused("a user with every right", p.Engineer, ref("password", 0), denied, "only workloads")
	free := p.Workload("free", `permit (principal == Hizo::Workload::"free", action == Hizo::Action::"inject", resource in Hizo::Vault::"ml");`)
	if _, err := fetch(ctx, free, ref("password", 0)); err != nil {
		t.Errorf("by a policy, without a pipeline: %v", err)
	}
	both := ref("password", 0)
	both.Pipeline = true
	p.refused("the variables of a pipeline that it does not run", free, both, denied, "runs no pipeline")

	// A policy that forbids wins, for the whole request.
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(p.Engineer.Policies().PutPolicy(ctx, &hizov1.PutPolicyRequest{Name: "freeze", Text: `forbid(principal == Hizo::Workload::"train", action in [Hizo::Action::"inject", Hizo::Action::"open"], resource in Hizo::Vault::"ml");`}))
	p.refused("frozen", p.train, inject.Request{Pipeline: true}, denied, "forbidden by policy freeze")
	p.mustSet("train", "A")
	p.refused("frozen, sealed", p.train, sealed("A", p.seal("train", "A", "x")), denied, "forbidden by policy freeze")
	must(p.Engineer.Policies().DeletePolicy(ctx, &hizov1.DeletePolicyRequest{Name: "freeze"}))

	// What has committed counts: a reference that was taken away, an identity that was.
	must(p.Engineer.Pipelines().SetVariables(ctx, &hizov1.SetVariablesRequest{Vault: "ml", Name: "train", Unset: []string{"DB_PASSWORD"}}))
	p.refused("taken away", p.train, ref("password", 0), denied, "may not inject")
	p.mustSet("train", "DB_PASSWORD=hizo://ml/db#password")
	must(p.Engineer.Pipelines().SetIdentities(ctx, &hizov1.SetIdentitiesRequest{Vault: "ml", Name: "train", Remove: []string{"train"}}))
	p.refused("no longer its identity", p.train, ref("password", 0), denied, "may not inject")
	p.refused("no longer its identity, all", p.train, inject.Request{Pipeline: true}, denied, "runs no pipeline")
	explained, err := p.Engineer.Policies().Explain(ctx, &hizov1.ExplainRequest{Principal: "workload/train", Action: "inject", Resource: "ml/db"})
	if err != nil || explained.GetAllowed() || !strings.Contains(strings.Join(explained.GetMissing(), " "), "hizo pipeline env set") {
		t.Errorf("explained as %v, %v", explained, err)
	}
	must(p.Engineer.Pipelines().SetIdentities(ctx, &hizov1.SetIdentitiesRequest{Vault: "ml", Name: "train", Add: []string{"workload/train"}}))
	if explained, err = p.Engineer.Policies().Explain(ctx, &hizov1.ExplainRequest{Principal: "workload/train", Action: "inject", Resource: "ml/db"}); err != nil || !explained.GetAllowed() {
		t.Errorf("explained as %v, %v", explained, err)
	}
}

// PipelineOwners set what is sealed; who runs a pipeline and what it gets of vaults, SecurityEngineers say.
func testOwnersGrantNothing(t *testing.T, p *pipelines) {
	ctx := t.Context()
	p.Workload("mine", "")
	p.mustSet("train", "REF=hizo://ml/db#password")
	if err := p.set(p.owner, "train", "A"); err != nil {
		t.Errorf("an owner declares a sealed variable: %v", err)
	}
	const denied = hizov1.ReasonPermissionDenied
	pipelines := p.owner.Pipelines()
	if _, err := pipelines.CreatePipeline(ctx, &hizov1.CreatePipelineRequest{Vault: "ml", Name: "mine"}); err != nil {
		t.Errorf("an owner creates a pipeline: %v", err)
	}
	for what, err := range map[string]error{
		"a reference":              p.set(p.owner, "train", "B=hizo://ml/db#password"),
		"a reference among sealed": p.set(p.owner, "train", "C", "B=hizo://ml/db#password"),
		"a reference replaced":     p.set(p.owner, "train", "REF"),
		"a reference taken away": errorOf(pipelines.SetVariables(ctx, &hizov1.SetVariablesRequest{
			Vault: "ml", Name: "train", Unset: []string{"REF"},
		})),
		"an identity":            errorOf(pipelines.SetIdentities(ctx, &hizov1.SetIdentitiesRequest{Vault: "ml", Name: "mine", Add: []string{"mine"}})),
		"an identity at once":    errorOf(pipelines.CreatePipeline(ctx, &hizov1.CreatePipelineRequest{Vault: "ml", Name: "mine2", Identities: []string{"mine"}})),
		"an identity taken away": errorOf(pipelines.SetIdentities(ctx, &hizov1.SetIdentitiesRequest{Vault: "ml", Name: "train", Remove: []string{"train"}})),
		"values kept offline":    errorOf(pipelines.SetOffline(ctx, &hizov1.SetOfflineRequest{Vault: "ml", Name: "train", Seconds: 60})),
		"deleting":               errorOf(pipelines.DeletePipeline(ctx, &hizov1.DeletePipelineRequest{Vault: "ml", Name: "train"})),
		"by a workload":          p.set(p.train, "train", "D"),
	} {
		if apitest.Reason(err) != denied {
			t.Errorf("%s: %v", what, err)
		}
	}
	now, err := pipelines.GetPipeline(ctx, &hizov1.GetPipelineRequest{Vault: "ml", Name: "train"})
	if err != nil || len(now.GetVariables()) != 2 || now.GetVariables()[1].GetReference() != "hizo://ml/db#password" {
		t.Errorf("the pipeline is %v, %v", now, err)
	}
	for what, c := range map[string]struct {
		err    error
		reason string
	}{
		"an identity of another pipeline": {errorOf(p.Engineer.Pipelines().SetIdentities(ctx, &hizov1.SetIdentitiesRequest{Vault: "ml", Name: "mine", Add: []string{"train"}})), hizov1.ReasonExists},
		"an identity that is not there":   {errorOf(p.Engineer.Pipelines().SetIdentities(ctx, &hizov1.SetIdentitiesRequest{Vault: "ml", Name: "mine", Add: []string{"nobody"}})), hizov1.ReasonNotFound},
		"a user as identity":              {errorOf(p.Engineer.Pipelines().SetIdentities(ctx, &hizov1.SetIdentitiesRequest{Vault: "ml", Name: "mine", Add: []string{"user/olga"}})), hizov1.ReasonInvalid},
		"no vault":                        {errorOf(p.Engineer.Pipelines().CreatePipeline(ctx, &hizov1.CreatePipelineRequest{Vault: "hr", Name: "x"})), hizov1.ReasonNotFound},
		"no pipeline":                     {p.set(p.Engineer, "nothing", "A"), hizov1.ReasonNotFound},
		"a reserved variable":             {p.set(p.Engineer, "train", "LD_PRELOAD"), hizov1.ReasonInvalid},
		"a second spelling":               {p.set(p.Engineer, "train", "X=hizo://ml//db#password"), hizov1.ReasonInvalid},
		"both kinds":                      {errorOf(p.Engineer.Pipelines().SetVariables(ctx, &hizov1.SetVariablesRequest{Vault: "ml", Name: "train", Set: []*hizov1.PipelineVariable{{Name: "X", Reference: "hizo://ml/db#f", Seal: "hizo:v1:"}}})), hizov1.ReasonInvalid},
		"the name twice":                  {p.set(p.Engineer, "train", "X", "X"), hizov1.ReasonInvalid},
	} {
		if apitest.Reason(c.err) != c.reason {
			t.Errorf("%s: %v, want %s", what, c.err, c.reason)
		}
	}
}

func errorOf[T any](_ T, err error) error { return err }

// What was taken back after a request was decided, and before its record applied, is not released.
func testWhatCommittedInBetweenCounts(t *testing.T, p *pipelines) {
	ctx := t.Context()
	pipelines := p.Engineer.Pipelines()
	sealedValue := p.seal("train", "A", "x")
	all := inject.Request{Pipeline: true, Sealed: []inject.Sealed{{Name: "A", Text: sealedValue}}}
	for _, c := range []struct {
		what   string
		r      inject.Request
		change func() error
		says   string
	}{
		{"a reference", inject.Request{References: []name.Reference{{Resource: name.Resource{Vault: "ml", Path: "db"}, Field: "password"}}}, func() error {
			return errorOf(pipelines.SetVariables(ctx, &hizov1.SetVariablesRequest{Vault: "ml", Name: "train", Unset: []string{"DB"}}))
		}, "may not inject"},
		{"an identity", all, func() error {
			return errorOf(pipelines.SetIdentities(ctx, &hizov1.SetIdentitiesRequest{Vault: "ml", Name: "train", Remove: []string{"train"}}))
		}, "runs no pipeline"},
		{"the variable", all, func() error {
			return errorOf(pipelines.SetVariables(ctx, &hizov1.SetVariablesRequest{Vault: "ml", Name: "train", Unset: []string{"A"}}))
		}, "declares no variable A"},
		{"a sealed value", all, func() error {
			return errorOf(pipelines.RevokeSeal(ctx, &hizov1.RevokeSealRequest{Vault: "ml", Name: "train", Seal: sealedValue}))
		}, "was revoked"},
	} {
		p.mustSet("train", "DB=hizo://ml/db#password", "A")
		if _, err := pipelines.SetIdentities(ctx, &hizov1.SetIdentitiesRequest{Vault: "ml", Name: "train", Add: []string{"train"}}); err != nil {
			t.Fatal(err)
		}
		if _, err := fetch(ctx, p.train, c.r); err != nil {
			t.Errorf("%s, before: %v", c.what, err)
		}
		var once sync.Once
		change := fault(func(ctx context.Context, cmd fsm.Command, propose func(context.Context, fsm.Command) (fsm.Result, error)) (fsm.Result, error) {
			if cmd.Principal == p.train.Principal && (cmd.Kind == fsm.KindRead || cmd.Kind == fsm.KindInject) {
				once.Do(func() {
					if err := c.change(); err != nil {
						t.Errorf("%s: %v", c.what, err)
					}
				})
			}
			return propose(ctx, cmd)
		})
		p.fault.Store(&change)
		if got, err := fetch(ctx, p.train, c.r); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s was taken back in between: %v, %v", c.what, got, err)
		}
		p.fault.Store(nil)
	}
}

// A pipeline that a disk was edited to hold grants and opens nothing.
func testForgedPipelinesGrantNothing(t *testing.T, p *pipelines) {
	ctx := t.Context()
	p.mustSet("train", "A")
	a := p.seal("train", "A", "x")
	stored, _ := p.Leader().Store().Pipeline("ml", "train")
	forge := func(change func(*fsm.Pipeline)) {
		t.Helper()
		forged := stored
		change(&forged)
		result, err := p.Leader().Propose(ctx, fsm.Command{
			Format: fsm.CommandFormat, Kind: fsm.KindPipelinePut, Principal: "node/" + p.Leader().ID,
			Body:   fsm.EncodeBody(fsm.KindPipelinePut, &fsm.PipelinePut{Pipeline: forged}),
			Audits: []fsm.Audit{{Action: "forged", Decision: fsm.Allowed}},
		})
		if err != nil || result.Code != fsm.CodeOK {
			t.Fatalf("%+v, %v", result, err)
		}
	}
	forge(func(f *fsm.Pipeline) {
		f.Variables = []fsm.PipelineVariable{{Name: "A"}, {Name: "DB", Reference: "hizo://ml/db#password"}}
	})
	for what, r := range map[string]inject.Request{
		"all": {Pipeline: true}, "sealed": sealed("A", a),
		"reference": {References: []name.Reference{{Resource: name.Resource{Vault: "ml", Path: "db"}, Field: "password"}}},
	} {
		if got, err := fetch(ctx, p.train, r); err == nil {
			t.Errorf("%s: a forged pipeline gave %v", what, got)
		}
	}
	if err := p.set(p.Engineer, "train", "B"); err == nil {
		t.Error("a forged pipeline was taken over into an authentic one")
	}
	forge(func(*fsm.Pipeline) {}) // as it was: authentic again
	if _, err := fetch(ctx, p.train, sealed("A", a)); err != nil {
		t.Errorf("the authentic pipeline: %v", err)
	}
}
