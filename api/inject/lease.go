package inject

import (
	"fmt"

	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
)

const leaseDomain = "hizo/lease/v1"

// LeaseTarget is what half of a leased credential was made for.
type LeaseTarget struct {
	Cluster   string // cluster id, 32 hex digits
	Principal string // "workload/train"
	Vault     string
	Role      string
	Lease     string // its id
	Field     string // "username" or "password"
}

// Info is the HPKE info for a credential delivered to t.
func (t LeaseTarget) Info() []byte {
	b := aad.AppendString(nil, leaseDomain)
	b = aad.AppendString(b, t.Cluster)
	b = aad.AppendString(b, t.Principal)
	b = aad.AppendString(b, t.Vault)
	b = aad.AppendString(b, t.Role)
	b = aad.AppendString(b, t.Lease)
	return aad.AppendString(b, t.Field)
}

// SealLease seals half of a credential to an execution's public key.
func SealLease(executionKey []byte, t LeaseTarget, value secret.Bytes) ([]byte, error) {
	sealed, err := hybrid.Seal(executionKey, t.Info(), value.Reveal())
	if err != nil {
		return nil, fmt.Errorf("seal the %s of a lease of %s/%s for execution: %w", t.Field, t.Vault, t.Role, err)
	}
	return sealed, nil
}

// OpenLease opens what SealLease made for the same target.
func OpenLease(key *hybrid.Key, t LeaseTarget, sealed []byte) (secret.Bytes, error) {
	value, err := key.Open(sealed, t.Info())
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("open the %s of lease %s of %s/%s: %w", t.Field, t.Lease, t.Vault, t.Role, err)
	}
	return value, nil
}
