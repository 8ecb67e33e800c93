package inject

import (
	"fmt"

	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
)

const variableDomain = "hizo/inject/variable/v1"

// VariableTarget is the variable of a run that a value was sealed for.
type VariableTarget struct {
	Cluster   string // cluster id, 32 hex digits
	Principal string // "workload/train"
	Pipeline  string // "ml/train"
	Variable  string
	Source    string // a reference, or "seal:" and a digest
	Version   uint32 // of a reference
}

// Info is the HPKE info for a value delivered to t.
func (t VariableTarget) Info() []byte {
	b := aad.AppendString(nil, variableDomain)
	b = aad.AppendString(b, t.Cluster)
	b = aad.AppendString(b, t.Principal)
	b = aad.AppendString(b, t.Pipeline)
	b = aad.AppendString(b, t.Variable)
	b = aad.AppendString(b, t.Source)
	return aad.AppendUint32(b, t.Version)
}

// SealVariable seals the value of a variable to an execution's public key.
func SealVariable(executionKey []byte, t VariableTarget, value secret.Bytes) ([]byte, error) {
	sealed, err := hybrid.Seal(executionKey, t.Info(), value.Reveal())
	if err != nil {
		return nil, fmt.Errorf("seal %s for execution: %w", t.Variable, err)
	}
	return sealed, nil
}

// OpenVariable opens what SealVariable made for the same target.
func OpenVariable(key *hybrid.Key, t VariableTarget, sealed []byte) (secret.Bytes, error) {
	value, err := key.Open(sealed, t.Info())
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("open the variable %s of %s: %w", t.Variable, t.Pipeline, err)
	}
	return value, nil
}
