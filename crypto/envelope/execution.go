package envelope

import (
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
)

// NewExecutionKey makes the key of one execution. Its private half never leaves the process.
func NewExecutionKey() (*hybrid.Key, error) { return hybrid.NewKey() }

// SealToExecution seals plaintext to an execution's public key. info names the execution and what is
// delivered (an aad tuple).
func SealToExecution(public, info, plaintext []byte) ([]byte, error) {
	return hybrid.Seal(public, info, plaintext)
}

// OpenExecution opens what SealToExecution made for this key and info.
func OpenExecution(key *hybrid.Key, info, sealed []byte) (secret.Bytes, error) {
	return key.Open(sealed, info)
}
