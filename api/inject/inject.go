// Package inject is what server and client must agree on to deliver a value to one execution: the
// HPKE info that a sealed value is bound to.
//
// The execution makes a key, sends its public half with the request, and opens the answer with the
// private half, which never leaves its process. The info names the cluster, the principal, the whole
// reference and the version, so a value can't be passed off as another one's. HPKE's base mode
// authenticates no sender: that the answer is the cluster's, the TLS connection says.
package inject

import (
	"encoding/hex"
	"fmt"

	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
)

const domain = "hizo/inject/v1"

// Target is the place that a sealed value was made for.
type Target struct {
	Cluster   string // cluster id, 32 hex digits
	Principal string // "workload/train"
	Vault     string
	Path      string
	Field     string
	Version   uint32 // the one that was delivered, never 0
}

// Info is the HPKE info for a value delivered to t.
func (t Target) Info() []byte {
	n := len(domain) + len(t.Cluster) + len(t.Principal) + len(t.Vault) + len(t.Path) + len(t.Field) + 7*4 + 4
	b := aad.AppendString(make([]byte, 0, n), domain)
	b = aad.AppendString(b, t.Cluster)
	b = aad.AppendString(b, t.Principal)
	b = aad.AppendString(b, t.Vault)
	b = aad.AppendString(b, t.Path)
	b = aad.AppendString(b, t.Field)
	return aad.AppendUint32(b, t.Version)
}

// ClusterText is the form of a cluster id in a Target and on the wire.
func ClusterText(id [16]byte) string { return hex.EncodeToString(id[:]) }

// SealValue seals a value to an execution's public key.
func SealValue(executionKey []byte, t Target, value secret.Bytes) ([]byte, error) {
	sealed, err := hybrid.Seal(executionKey, t.Info(), value.Reveal())
	if err != nil {
		return nil, fmt.Errorf("seal %s/%s#%s for execution: %w", t.Vault, t.Path, t.Field, err)
	}
	return sealed, nil
}

// OpenValue opens what SealValue made for the same target.
func OpenValue(key *hybrid.Key, t Target, sealed []byte) (secret.Bytes, error) {
	value, err := key.Open(sealed, t.Info())
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("open %s/%s#%s@%d: %w", t.Vault, t.Path, t.Field, t.Version, err)
	}
	return value, nil
}
