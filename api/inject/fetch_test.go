package inject_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/crypto/secret"
)

// answering is a server that seals what its answer says to the key of the request.
type answering func(key []byte) *hizov1.InjectResponse

func (f answering) Inject(_ context.Context, in *hizov1.InjectRequest, _ ...grpc.CallOption) (*hizov1.InjectResponse, error) {
	return f(in.GetExecutionKey()), nil
}

// A server, or somebody in its place, can't pass off one value as another's.
func TestFetchRefusesMisplacedValues(t *testing.T) {
	cluster := strings.Repeat("ab", 16)
	type sealer func(path string, version uint32, value string) *hizov1.InjectResponse_Value
	one := func(s sealer) *hizov1.InjectResponse_Value { return s("a", 7, "one") }
	two := func(s sealer) *hizov1.InjectResponse_Value { return s("b", 2, "two") }
	old := func(s sealer) *hizov1.InjectResponse_Value { return s("b", 1, "old") }
	refs := []name.Reference{
		{Resource: name.Resource{Vault: "ml", Path: "a"}, Field: "f"},
		{Resource: name.Resource{Vault: "ml", Path: "b"}, Field: "f", Version: 2},
	}
	fetch := func(principal string, values ...func(sealer) *hizov1.InjectResponse_Value) (*inject.Values, error) {
		return inject.Fetch(t.Context(), answering(func(key []byte) *hizov1.InjectResponse {
			out := &hizov1.InjectResponse{ClusterId: cluster, Principal: principal}
			for _, v := range values {
				out.Values = append(out.Values, v(func(path string, version uint32, value string) *hizov1.InjectResponse_Value {
					sealed, err := inject.SealValue(key, inject.Target{
						Cluster: cluster, Principal: "workload/train", Vault: "ml", Path: path, Field: "f", Version: version,
					}, secret.New([]byte(value)))
					if err != nil {
						t.Fatal(err)
					}
					return &hizov1.InjectResponse_Value{Version: version, Sealed: sealed}
				}))
			}
			return out
		}), inject.Request{References: refs})
	}
	got, err := fetch("workload/train", one, two)
	if err != nil || string(got.Values[0].Value.Reveal()) != "one" || string(got.Values[1].Value.Reveal()) != "two" || got.Values[0].Version != 7 {
		t.Fatalf("fetch: %+v, %v", got, err)
	}
	claims := func(s sealer) *hizov1.InjectResponse_Value {
		return &hizov1.InjectResponse_Value{Version: 2, Sealed: old(s).GetSealed()}
	}
	for what, values := range map[string][]func(sealer) *hizov1.InjectResponse_Value{
		"swapped": {two, one}, "one too few": {one}, "another version": {one, old}, "another version claimed": {one, claims},
	} {
		if _, err := fetch("workload/train", values...); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	if _, err := fetch("workload/other", one, two); err == nil {
		t.Error("sealed for another caller: accepted")
	}
}
