package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"

	"github.com/go-jose/go-jose/v4"
)

// Bounds of a key set.
const (
	maxKeys    = 64
	minRSABits = 2048
	maxRSABits = 8192 // verifying costs more with every bit, and strangers ask for it
)

// keySet are the usable keys of an issuer.
type keySet []jose.JSONWebKey

// parseKeySet reads a JWKS (RFC 7517, section 5). Keys that can't verify signatures are left out, because issuers
// publish such; what must not be in a published set at all is an error.
func parseKeySet(data []byte) (keySet, error) {
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, wrong("keys", "are not a JWKS: a JSON object with the list \"keys\"")
	}
	if len(doc.Keys) > maxKeys {
		return nil, wrong("keys", "has more than %d keys", maxKeys)
	}
	var set keySet
	for _, raw := range doc.Keys {
		var k jose.JSONWebKey
		if err := k.UnmarshalJSON(raw); err != nil {
			continue // a kind of key that is not known here
		}
		if _, symmetric := k.Key.([]byte); !symmetric && !k.IsPublic() {
			return nil, wrong("keys", "hold a private key: publish public ones only, and replace this one")
		}
		if (k.Use == "" || k.Use == "sig") && usable(k.Key) {
			set = append(set, k)
		}
	}
	if len(set) == 0 {
		return nil, wrong("keys", "hold no public key that verifies signatures (RSA of %d to %d bits, P-256, P-384, P-521, Ed25519)", minRSABits, maxRSABits)
	}
	return set, nil
}

func usable(key any) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= minRSABits && k.N.BitLen() <= maxRSABits
	case *ecdsa.PublicKey:
		return k.Curve == elliptic.P256() || k.Curve == elliptic.P384() || k.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return len(k) == ed25519.PublicKeySize
	}
	return false
}

// named are the keys of a kid. A token that names none is taken where there is no choice.
func (set keySet) named(kid string) []jose.JSONWebKey {
	if kid == "" {
		if len(set) == 1 {
			return set
		}
		return nil
	}
	var out []jose.JSONWebKey
	for _, k := range set {
		if k.KeyID == kid {
			out = append(out, k)
		}
	}
	return out
}

type staticKeys keySet

func (s staticKeys) find(_ context.Context, kid string) ([]jose.JSONWebKey, error) {
	if keys := keySet(s).named(kid); len(keys) > 0 {
		return keys, nil
	}
	return nil, refuse(UnknownKey)
}
