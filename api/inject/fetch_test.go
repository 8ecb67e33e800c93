package inject_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
)

// liar is a cluster that answers a right answer with one thing changed.
type liar struct {
	t      *testing.T
	change func(*hizov1.InjectResponse)
	asked  *hizov1.InjectRequest
}

func (l *liar) Inject(_ context.Context, req *hizov1.InjectRequest, _ ...grpc.CallOption) (*hizov1.InjectResponse, error) {
	l.asked = req
	out := &hizov1.InjectResponse{
		ClusterId: strings.Repeat("ab", 16), Principal: "workload/train", Pipeline: "ml/train", OfflineSeconds: 60, Missing: []string{"GONE"},
	}
	for _, r := range req.GetRefs() {
		sealed, err := inject.SealValue(req.GetExecutionKey(), inject.Target{
			Cluster: out.ClusterId, Principal: out.Principal, Vault: r.GetVault(), Path: r.GetPath(), Field: r.GetField(), Version: 3,
		}, secret.New([]byte("value of "+r.GetField())))
		if err != nil {
			l.t.Error(err)
		}
		out.Values = append(out.Values, &hizov1.InjectResponse_Value{Version: 3, Sealed: sealed})
	}
	variable := func(n, source string, version uint32) {
		v := &hizov1.InjectResponse_Variable{Name: n, Source: source, Version: version}
		var err error
		v.Sealed, err = inject.SealVariable(req.GetExecutionKey(), inject.VariableTarget{
			Cluster: out.ClusterId, Principal: out.Principal, Pipeline: out.Pipeline, Variable: n, Source: source, Version: version,
		}, secret.New([]byte("value of "+n)))
		if err != nil {
			l.t.Error(err)
		}
		out.Variables = append(out.Variables, v)
	}
	for _, s := range req.GetSealed() {
		variable(s.GetName(), "seal:00", 0)
	}
	variable("PIPELINE", "hizo://ml/db#f", 2)
	out.Variables = append(out.Variables, &hizov1.InjectResponse_Variable{Name: "USER", Source: "hizo-lease://ml/db#username"})
	if l.change != nil {
		l.change(out)
	}
	return out, nil
}

func TestFetchBelievesNothing(t *testing.T) {
	ref := name.Reference{Resource: name.Resource{Vault: "ml", Path: "db"}, Field: "password", Version: 3}
	request := inject.Request{
		Execution: "run", Pipeline: true, References: []name.Reference{ref},
		Sealed: []inject.Sealed{{Name: "A", Text: "hizo:v1:a"}, {Name: "B", Text: "hizo:v1:b"}},
	}
	honest := &liar{t: t}
	got, err := inject.Fetch(t.Context(), honest, request)
	if err != nil {
		t.Fatal(err)
	}
	if honest.asked.GetSealed()[1].GetName() != "B" || !honest.asked.GetPipeline() || honest.asked.GetRefs()[0].GetVersion() != 3 {
		t.Errorf("asked for %v", honest.asked)
	}
	var names []string
	for _, v := range got.Variables {
		if v.Lease != (v.Name == "USER") || !v.Lease && string(v.Value.Reveal()) != "value of "+v.Name {
			t.Errorf("variable %+v", v)
		}
		names = append(names, v.Name)
	}
	if strings.Join(names, " ") != "A B PIPELINE USER" || string(got.Values[0].Value.Reveal()) != "value of password" || got.Values[0].Version != 3 ||
		got.Offline != time.Minute || strings.Join(got.Missing, " ") != "GONE" || got.Pipeline != "ml/train" || got.Principal != "workload/train" {
		t.Errorf("got %+v", got)
	}
	kept := got.Variables[0].Value
	got.Wipe()
	if strings.Trim(string(kept.Reveal()), "\x00") != "" {
		t.Error("a value outlives Wipe")
	}

	for what, c := range map[string]struct {
		change func(*hizov1.InjectResponse)
		opens  bool // it is noticed because it does not open
	}{
		"two variables swapped":        {func(r *hizov1.InjectResponse) { r.Variables[0], r.Variables[1] = r.Variables[1], r.Variables[0] }, false},
		"one under another's name":     {func(r *hizov1.InjectResponse) { r.Variables[0].Sealed = r.Variables[1].Sealed }, true},
		"the same variable twice":      {func(r *hizov1.InjectResponse) { r.Variables = append(r.Variables, r.Variables[2]) }, false},
		"another source":               {func(r *hizov1.InjectResponse) { r.Variables[2].Source = "hizo://ml/other#f" }, true},
		"another version of it":        {func(r *hizov1.InjectResponse) { r.Variables[2].Version++ }, true},
		"another pipeline":             {func(r *hizov1.InjectResponse) { r.Pipeline = "ml/other" }, true},
		"another cluster":              {func(r *hizov1.InjectResponse) { r.ClusterId = strings.Repeat("ac", 16) }, true},
		"another version than pinned":  {func(r *hizov1.InjectResponse) { r.Values[0].Version = 2 }, false},
		"fewer values":                 {func(r *hizov1.InjectResponse) { r.Values = nil }, false},
		"fewer variables":              {func(r *hizov1.InjectResponse) { r.Variables = r.Variables[:1] }, false},
		"a name that is no variable's": {func(r *hizov1.InjectResponse) { r.Variables[2].Name = "A=B" }, false},
	} {
		_, err := inject.Fetch(t.Context(), &liar{t: t, change: c.change}, request)
		if err == nil || errors.Is(err, hybrid.ErrOpen) != c.opens {
			t.Errorf("%s: %v", what, err)
		}
	}
}
