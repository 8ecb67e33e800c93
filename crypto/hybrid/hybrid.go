// Package hybrid seals messages to a public key with HPKE (RFC 9180), in the one suite this project
// uses: KEM MLKEM768-X25519 (draft-ietf-hpke-pq), HKDF-SHA256, AES-256-GCM. It stays secret if either
// of the two key exchanges does.
//
// HPKE in its base mode authenticates no sender. Whoever needs to know where a message came from has
// to take it from a channel that says so.
//
//	sealed = format(1) enc(1120) ciphertext
package hybrid

import (
	"crypto/hpke"
	"errors"
	"fmt"

	"github.com/hizo/hizo/crypto/secret"
)

const (
	// PublicSize is the length of an encoded public key: ML-KEM-768 (1184) and X25519 (32).
	PublicSize = 1184 + 32
	// EncSize is the length of an encapsulated key: ML-KEM-768 (1088) and X25519 (32).
	EncSize = 1088 + 32
	// Overhead is by how much a sealed message is longer than its plaintext.
	Overhead = 1 + EncSize + 16

	format = 1
)

var (
	// ErrOpen says that a message was not sealed to this key and info, or was changed on its way.
	ErrOpen = errors.New("sealed message does not open: it was made for another key or purpose, or changed on its way")
	// ErrPublicKey says that bytes are no public key of this suite.
	ErrPublicKey = errors.New("not an MLKEM768-X25519 public key")
)

// Key is a private key. It is held in memory only, unless Bytes is stored by its owner.
type Key struct {
	private hpke.PrivateKey
	public  []byte
}

// NewKey makes a key for one use, such as one execution or one call.
func NewKey() (*Key, error) {
	k, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("generate HPKE key: %w", err)
	}
	return &Key{private: k, public: k.PublicKey().Bytes()}, nil
}

// DeriveKey makes the key that belongs to a seed of at least 32 uniformly random bytes
// (RFC 9180, section 7.1.3, DeriveKeyPair).
func DeriveKey(seed secret.Bytes) (*Key, error) {
	if seed.Len() < 32 {
		return nil, fmt.Errorf("derive HPKE key: the seed has %d bytes and needs 32", seed.Len())
	}
	k, err := hpke.MLKEM768X25519().DeriveKeyPair(seed.Reveal())
	if err != nil {
		return nil, fmt.Errorf("derive HPKE key: %w", err)
	}
	return &Key{private: k, public: k.PublicKey().Bytes()}, nil
}

// Public returns the encoded public key.
func (k *Key) Public() []byte { return k.public }

// Open opens a message that Seal made for this key with the same info.
func (k *Key) Open(sealed, info []byte) (secret.Bytes, error) {
	if len(sealed) < Overhead || sealed[0] != format {
		return secret.Bytes{}, ErrOpen
	}
	plain, err := hpke.Open(k.private, hpke.HKDFSHA256(), hpke.AES256GCM(), info, sealed[1:])
	if err != nil {
		return secret.Bytes{}, ErrOpen // the cause tells an attacker more than a user
	}
	return secret.New(plain), nil
}

// CheckPublic returns ErrPublicKey unless public is a public key of this suite.
func CheckPublic(public []byte) error {
	if _, err := hpke.MLKEM768X25519().NewPublicKey(public); err != nil {
		return ErrPublicKey
	}
	return nil
}

// Seal encrypts plaintext to a public key. info says what the message is for (an aad tuple); Open must
// be given the same.
func Seal(public, info, plaintext []byte) ([]byte, error) {
	pk, err := hpke.MLKEM768X25519().NewPublicKey(public)
	if err != nil {
		return nil, ErrPublicKey
	}
	sealed, err := hpke.Seal(pk, hpke.HKDFSHA256(), hpke.AES256GCM(), info, plaintext)
	if err != nil {
		return nil, fmt.Errorf("seal to public key: %w", err)
	}
	return append([]byte{format}, sealed...), nil
}
