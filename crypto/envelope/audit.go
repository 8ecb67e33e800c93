package envelope

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/keyring"
)

// The sealed part of an audit record is made by the proposer: under the audit key, or, by a node that is
// itself sealed, to the replicated audit public key.
//
//	body = scheme(1) generation(4) ciphertext of salt(16) ‖ plaintext
//
// Scheme 3 encrypts under a key of each keyring's own (keyring.SealSalted): every request makes a body, too many for
// the random nonces of one key. Scheme 1, directly under the audit key, is read and not made any more.
//
// The salt keeps a leaf of the audit tree from being guessed by whoever knows the key's ciphertexts.
const (
	auditKeyring = 1
	auditHPKE    = 2
	auditSalted  = 3
	saltSize     = 16
	auditHead    = 5
)

// ErrAuditBody says that bytes are no sealed audit body.
var ErrAuditBody = errors.New("not a sealed audit body of a known scheme")

func auditAAD(cluster [16]byte, scheme byte, generation uint32, bind []byte) []byte {
	b := aad.AppendString(make([]byte, 0, 96+len(bind)), "hizo/audit/body/v1")
	b = aad.AppendBytes(b, cluster[:])
	b = aad.AppendByte(b, scheme)
	b = aad.AppendUint32(b, generation)
	return aad.AppendBytes(b, bind)
}

func salted(body []byte) []byte {
	b := make([]byte, saltSize, saltSize+len(body))
	rand.Read(b)
	return append(b, body...)
}

// SealAudit seals an audit body under the audit key. bind ties it to its record (what the proposer
// already knows of it, such as principal, action and resource); OpenAudit must be given the same.
func SealAudit(kr *keyring.Keyring, generation uint32, bind, body []byte) ([]byte, error) {
	plain := salted(body)
	sealed, err := kr.SealSalted(keyring.Audit, generation, plain, auditAAD(kr.Cluster(), auditSalted, generation, bind))
	if err != nil {
		return nil, fmt.Errorf("seal audit body: %w", err)
	}
	return auditBody(auditSalted, generation, sealed), nil
}

// SealAuditTo seals an audit body to the audit public key, without a keyring. generation is that of the
// AuditHPKE key.
func SealAuditTo(public []byte, cluster [16]byte, generation uint32, bind, body []byte) ([]byte, error) {
	sealed, err := hybrid.Seal(public, auditAAD(cluster, auditHPKE, generation, bind), salted(body))
	if err != nil {
		return nil, fmt.Errorf("seal audit body: %w", err)
	}
	return auditBody(auditHPKE, generation, sealed), nil
}

func auditBody(scheme byte, generation uint32, sealed []byte) []byte {
	b := make([]byte, 0, auditHead+len(sealed))
	b = append(b, scheme)
	b = binary.BigEndian.AppendUint32(b, generation)
	return append(b, sealed...)
}

// OpenAudit opens what SealAudit or SealAuditTo made.
func OpenAudit(kr *keyring.Keyring, bind, sealed []byte) ([]byte, error) {
	if len(sealed) < auditHead {
		return nil, ErrAuditBody
	}
	scheme, generation, rest := sealed[0], binary.BigEndian.Uint32(sealed[1:]), sealed[auditHead:]
	a := auditAAD(kr.Cluster(), scheme, generation, bind)
	var plain []byte
	switch scheme {
	case auditKeyring:
		var err error
		if plain, err = kr.Open(keyring.Audit, generation, rest, a); err != nil {
			return nil, fmt.Errorf("open audit body: %w", err)
		}
	case auditSalted:
		var err error
		if plain, err = kr.OpenSalted(keyring.Audit, generation, rest, a); err != nil {
			return nil, fmt.Errorf("open audit body: %w", err)
		}
	case auditHPKE:
		key, err := kr.HPKE(keyring.AuditHPKE, generation)
		if err != nil {
			return nil, fmt.Errorf("open audit body: %w", err)
		}
		b, err := key.Open(rest, a)
		if err != nil {
			return nil, fmt.Errorf("open audit body: %w", ErrAuth)
		}
		plain = b.Reveal()
	default:
		return nil, ErrAuditBody
	}
	if len(plain) < saltSize {
		return nil, ErrAuditBody
	}
	return plain[saltSize:], nil
}
