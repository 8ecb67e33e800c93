package keyring

import (
	"crypto/rand"
	"sync"
	"sync/atomic"

	"github.com/hizo/hizo/crypto/aesgcm"
	"github.com/hizo/hizo/crypto/secret"
)

// Keys that encrypt more often than one key may. Random nonces of 96 bits allow 2^32 messages (NIST SP 800-38D,
// section 8.3); one key for a record of every request reaches that within weeks. So each keyring, and with it each
// run of a node, encrypts under a key of its own, made by HKDF from a random salt that is part of the ciphertext.
const (
	saltSize     = 16
	saltMessages = 1 << 31 // then another salt
	saltsKept    = 256     // of those that were opened; how many runs one search usually meets
)

// salted makes and keeps the keys that belong to salts.
type salted struct {
	base secret.Bytes

	current atomic.Pointer[saltedCipher]

	mu   sync.Mutex
	kept map[[saltSize]byte]*aesgcm.Cipher
}

type saltedCipher struct {
	salt   [saltSize]byte
	cipher *aesgcm.Cipher
	used   atomic.Uint64
}

func (s *salted) derive(salt [saltSize]byte) (*aesgcm.Cipher, error) {
	k, err := derive(s.base, salt[:], "hizo/key/salted/encrypt/v1", aesgcm.KeySize)
	if err != nil {
		return nil, err
	}
	defer k.Wipe()
	return aesgcm.New(k.Reveal())
}

// sealing returns the cipher for one more message.
func (s *salted) sealing() (*saltedCipher, error) {
	if c := s.current.Load(); c != nil && c.used.Add(1) <= saltMessages {
		return c, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.current.Load(); c != nil && c.used.Add(1) <= saltMessages {
		return c, nil // another caller was faster
	}
	c := &saltedCipher{}
	rand.Read(c.salt[:])
	var err error
	if c.cipher, err = s.derive(c.salt); err != nil {
		return nil, err
	}
	c.used.Store(1)
	s.current.Store(c)
	return c, nil
}

func (s *salted) opening(salt [saltSize]byte) (*aesgcm.Cipher, error) {
	if c := s.current.Load(); c != nil && c.salt == salt {
		return c.cipher, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.kept[salt]; c != nil {
		return c, nil
	}
	c, err := s.derive(salt)
	if err != nil {
		return nil, err
	}
	if s.kept == nil || len(s.kept) >= saltsKept {
		s.kept = make(map[[saltSize]byte]*aesgcm.Cipher)
	}
	s.kept[salt] = c
	return c, nil
}

// SealSalted encrypts under a key derived from this one, for messages without number. It returns
//
//	salt(16) ciphertext
func (kr *Keyring) SealSalted(purpose string, generation uint32, plaintext, aad []byte) ([]byte, error) {
	k, err := kr.get(purpose, generation)
	if err != nil {
		return nil, err
	}
	c, err := k.salted.sealing()
	if err != nil {
		return nil, err
	}
	out := make([]byte, saltSize, saltSize+aesgcm.Overhead+len(plaintext))
	copy(out, c.salt[:])
	return c.cipher.AppendSeal(out, plaintext, aad), nil
}

// OpenSalted decrypts what SealSalted made with the same arguments. The caller owns the plaintext.
func (kr *Keyring) OpenSalted(purpose string, generation uint32, sealed, aad []byte) ([]byte, error) {
	if len(sealed) < saltSize+aesgcm.Overhead {
		return nil, ErrAuth
	}
	k, err := kr.get(purpose, generation)
	if err != nil {
		return nil, err
	}
	c, err := k.salted.opening([saltSize]byte(sealed[:saltSize]))
	if err != nil {
		return nil, err
	}
	return c.Open(sealed[saltSize:], aad)
}
