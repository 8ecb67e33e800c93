package inject

import (
	"context"
	"fmt"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"

	"google.golang.org/grpc"
)

// Injector is the part of hizov1.SecretServiceClient that Fetch uses.
type Injector interface {
	Inject(ctx context.Context, in *hizov1.InjectRequest, opts ...grpc.CallOption) (*hizov1.InjectResponse, error)
}

// Request is what one execution needs. It is answered whole or not at all.
type Request struct {
	Execution  string // names the run in the audit log
	References []name.Reference
	Sealed     []Sealed // variables of the job's own configuration that hold sealed values
	Pipeline   bool     // all variables of the caller's pipeline
}

// Sealed is a sealed value with the name of the variable that it stood in.
type Sealed struct {
	Name string
	Text string // hizo:v1:…
}

// Values are what Fetch got. Wipe them after use.
type Values struct {
	Principal string
	Pipeline  string        // VAULT/NAME, where Sealed or Pipeline was asked for
	Values    []Value       // of References, in their order
	Variables []Variable    // of Sealed, in their order, then those of the pipeline by name
	Offline   time.Duration // for how long this machine may keep the values; 0: not at all
	Missing   []string      // variables that the pipeline declares as sealed and that Sealed did not have
}

// Value is one reference's.
type Value struct {
	Value   secret.Bytes
	Version uint32
}

// Variable is one variable's.
type Variable struct {
	Name    string
	Value   secret.Bytes // empty for a lease
	Source  string       // a reference as declared, or "seal:" and a digest
	Version uint32       // of a reference
	Lease   bool         // Source is a lease's reference: have it issued
}

// Wipe overwrites the values.
func (v *Values) Wipe() {
	for _, value := range v.Values {
		value.Value.Wipe()
	}
	for _, variable := range v.Variables {
		variable.Value.Wipe()
	}
}

// Fetch gets the values of one execution, sealed to a key that lives in this call only, and opens them.
func Fetch(ctx context.Context, cluster Injector, r Request) (*Values, error) {
	key, err := hybrid.NewKey()
	if err != nil {
		return nil, err
	}
	request := &hizov1.InjectRequest{ExecutionKey: key.Public(), Execution: r.Execution, Pipeline: r.Pipeline}
	for _, ref := range r.References {
		request.Refs = append(request.Refs, &hizov1.InjectRequest_Ref{Vault: ref.Vault, Path: ref.Path, Field: ref.Field, Version: uint32(ref.Version)})
	}
	for _, s := range r.Sealed {
		request.Sealed = append(request.Sealed, &hizov1.InjectRequest_Sealed{Name: s.Name, Text: s.Text})
	}
	answer, err := cluster.Inject(ctx, request)
	if err != nil {
		return nil, err
	}
	values, err := open(key, r, answer)
	if err != nil {
		values.Wipe()
		return nil, err
	}
	return values, nil
}

// open checks that the answer is one to the request, and opens it.
func open(key *hybrid.Key, r Request, answer *hizov1.InjectResponse) (*Values, error) {
	out := &Values{Principal: answer.GetPrincipal(), Pipeline: answer.GetPipeline(), Missing: answer.GetMissing()}
	out.Offline = time.Duration(answer.GetOfflineSeconds()) * time.Second
	if len(answer.GetValues()) != len(r.References) || len(answer.GetVariables()) < len(r.Sealed) {
		return out, fmt.Errorf("the cluster answered %d values for %d references: check that the server is of the same version", len(answer.GetValues()), len(r.References))
	}
	for i, ref := range r.References {
		v := answer.GetValues()[i]
		if ref.Version != 0 && uint64(v.GetVersion()) != ref.Version {
			return out, fmt.Errorf("the cluster answered version %d for %s: this must not happen, do not trust the server", v.GetVersion(), ref)
		}
		value, err := OpenValue(key, Target{
			Cluster: answer.GetClusterId(), Principal: answer.GetPrincipal(),
			Vault: ref.Vault, Path: ref.Path, Field: ref.Field, Version: v.GetVersion(),
		}, v.GetSealed())
		if err != nil {
			return out, err
		}
		out.Values = append(out.Values, Value{value, v.GetVersion()})
	}
	seen := map[string]bool{}
	for i, v := range answer.GetVariables() {
		if i < len(r.Sealed) && v.GetName() != r.Sealed[i].Name || seen[v.GetName()] {
			return out, fmt.Errorf("the cluster answered the variable %s where another was asked for: this must not happen, do not trust the server", v.GetName())
		}
		seen[v.GetName()] = true
		if _, err := name.Variable(v.GetName()); err != nil {
			return out, err
		}
		variable := Variable{Name: v.GetName(), Source: v.GetSource(), Version: v.GetVersion()}
		if len(v.GetSealed()) == 0 {
			variable.Lease = true
			out.Variables = append(out.Variables, variable)
			continue
		}
		var err error
		variable.Value, err = OpenVariable(key, VariableTarget{
			Cluster: answer.GetClusterId(), Principal: answer.GetPrincipal(), Pipeline: answer.GetPipeline(),
			Variable: v.GetName(), Source: v.GetSource(), Version: v.GetVersion(),
		}, v.GetSealed())
		if err != nil {
			return out, err
		}
		out.Variables = append(out.Variables, variable)
	}
	return out, nil
}
