// Package aesgcm is AES-256-GCM with random nonces and a format byte in front: the one symmetric cipher of
// this project, in software.
//
//	ciphertext = format(1) nonce(12) sealed(n) tag(16)
package aesgcm

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
)

const (
	format = 1
	// Overhead is by how much a ciphertext is longer than its plaintext.
	Overhead = 1 + 12 + 16
)

// ErrAuth says that a ciphertext does not belong where it was found, or was changed.
var ErrAuth = errors.New("ciphertext does not authenticate: it was changed, moved from another place, or made under another key")

// KeySize is the length of a key.
const KeySize = 32

// Cipher is a key, ready for use. It may be used concurrently.
type Cipher struct{ aead cipher.AEAD }

// New prepares a key; key itself may be wiped afterwards, its schedule inside crypto/aes can't be. One
// key makes at most 2^31 ciphertexts: the caller counts.
func New(key []byte) (*Cipher, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("an AES-256 key has 32 bytes, not %d", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("AES-256: %w", err)
	}
	a, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("AES-256-GCM: %w", err)
	}
	return &Cipher{a}, nil
}

// Seal encrypts plaintext and binds it to aad.
func (c *Cipher) Seal(plaintext, aad []byte) []byte {
	out := make([]byte, 1, Overhead+len(plaintext))
	out[0] = format
	return c.aead.Seal(out, nil, plaintext, aad)
}

// AppendSeal is Seal behind what dst holds already.
func (c *Cipher) AppendSeal(dst, plaintext, aad []byte) []byte {
	return c.aead.Seal(append(dst, format), nil, plaintext, aad)
}

// Open decrypts what Seal made with the same aad, or returns ErrAuth. The caller owns the plaintext.
func (c *Cipher) Open(ciphertext, aad []byte) ([]byte, error) {
	if len(ciphertext) < Overhead || ciphertext[0] != format {
		return nil, ErrAuth
	}
	plain, err := c.aead.Open(nil, nil, ciphertext[1:], aad)
	if err != nil {
		return nil, ErrAuth
	}
	return plain, nil
}
