// Package envelope encrypts what users store: one fresh data key per version of a secret, wrapped by
// the vault's key, so that rotating a vault's key rewraps data keys and touches no value.
//
//	vault key (generation g) ─ wraps ─> data key, AAD: cluster, vault, path, version, format, g
//	data key ─ encrypts ─> value,                 AAD: cluster, vault, path, version, format
//
// A ciphertext opens only where it was made for. Destroying a version is deleting its wrapped data key.
//
// The length of a ciphertext gives the length of the value away.
package envelope

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/aesgcm"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/secret"
)

// Format is the version of value encoding and AAD that SealValue makes.
const Format = 1

const dataKeySize = 32

var (
	// ErrFormat says that a sealed value was made by a newer release.
	ErrFormat = errors.New("sealed value of an unknown format: made by a newer release?")
	// ErrEncoding says that a decrypted value is not a map of fields.
	ErrEncoding = errors.New("malformed value")
	// ErrAuth is keyring.ErrAuth: the ciphertext is not in the place it was made for, or was changed.
	ErrAuth = keyring.ErrAuth
)

// Bind is the place that a sealed value belongs to.
type Bind struct {
	Cluster [16]byte
	Vault   string
	Path    string
	Version uint64
}

func (b Bind) append(buf []byte, domain string, format uint8) []byte {
	buf = aad.AppendString(buf, domain)
	buf = aad.AppendBytes(buf, b.Cluster[:])
	buf = aad.AppendString(buf, b.Vault)
	buf = aad.AppendString(buf, b.Path)
	buf = aad.AppendUint64(buf, b.Version)
	return aad.AppendByte(buf, format)
}

func (b Bind) value(buf []byte, format uint8) []byte {
	return b.append(buf, "hizo/value/v1", format)
}

func (b Bind) dataKey(buf []byte, format uint8, generation uint32) []byte {
	return aad.AppendUint32(b.append(buf, "hizo/datakey/v1", format), generation)
}

// Sealed is an encrypted value as it is replicated.
type Sealed struct {
	Format     uint8
	Generation uint32 // of the vault's key
	WrappedKey []byte
	Ciphertext []byte
}

// SealValue encrypts a value under a fresh data key. The caller keeps value and wipes it.
func SealValue(kr *keyring.Keyring, bind Bind, generation uint32, value map[string]secret.Bytes) (Sealed, error) {
	var key [dataKeySize]byte
	rand.Read(key[:])
	defer clear(key[:])
	a, err := aesgcm.New(key[:])
	if err != nil {
		return Sealed{}, err
	}
	plain := encodeValue(value)
	defer clear(plain)

	var buf [256]byte
	s := Sealed{Format: Format, Generation: generation}
	s.WrappedKey, err = kr.Seal(keyring.Vault(bind.Vault), generation, key[:], bind.dataKey(buf[:0], Format, generation))
	if err != nil {
		return Sealed{}, fmt.Errorf("wrap data key: %w", err)
	}
	s.Ciphertext = a.Seal(plain, bind.value(buf[:0], Format))
	return s, nil
}

// OpenValue decrypts a value. The fields share one block of memory; WipeValue clears it.
func OpenValue(kr *keyring.Keyring, bind Bind, s Sealed) (map[string]secret.Bytes, error) {
	key, err := openDataKey(kr, bind, s)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	a, err := aesgcm.New(key)
	if err != nil {
		return nil, err
	}
	var buf [256]byte
	plain, err := a.Open(s.Ciphertext, bind.value(buf[:0], s.Format))
	if err != nil {
		return nil, fmt.Errorf("open value: %w", err)
	}
	return decodeValue(plain)
}

// Rewrap moves a value's data key to another generation of the vault's key. The ciphertext stays.
func Rewrap(kr *keyring.Keyring, bind Bind, s Sealed, generation uint32) (Sealed, error) {
	key, err := openDataKey(kr, bind, s)
	if err != nil {
		return Sealed{}, err
	}
	defer clear(key)
	var buf [256]byte
	s.WrappedKey, err = kr.Seal(keyring.Vault(bind.Vault), generation, key, bind.dataKey(buf[:0], s.Format, generation))
	if err != nil {
		return Sealed{}, fmt.Errorf("wrap data key: %w", err)
	}
	s.Generation = generation
	return s, nil
}

func openDataKey(kr *keyring.Keyring, bind Bind, s Sealed) ([]byte, error) {
	if s.Format != Format {
		return nil, ErrFormat
	}
	var buf [256]byte
	key, err := kr.Open(keyring.Vault(bind.Vault), s.Generation, s.WrappedKey, bind.dataKey(buf[:0], s.Format, s.Generation))
	if err != nil {
		return nil, fmt.Errorf("open data key: %w", err)
	}
	return key, nil
}

// WipeValue overwrites a value, best effort (see package secret).
func WipeValue(value map[string]secret.Bytes) {
	for _, v := range value {
		v.Wipe()
	}
}

// encodeValue writes fields in the order of their names, so that equal values encode equally:
//
//	uvarint(count) { uvarint(len) name uvarint(len) bytes } × count
func encodeValue(value map[string]secret.Bytes) []byte {
	names := slices.Sorted(maps.Keys(value))
	n := binary.MaxVarintLen64
	for _, name := range names {
		n += 2*binary.MaxVarintLen64 + len(name) + value[name].Len()
	}
	b := binary.AppendUvarint(make([]byte, 0, n), uint64(len(names)))
	for _, name := range names {
		b = binary.AppendUvarint(b, uint64(len(name)))
		b = append(b, name...)
		b = binary.AppendUvarint(b, uint64(value[name].Len()))
		b = append(b, value[name].Reveal()...)
	}
	return b
}

// decodeValue accepts exactly what encodeValue makes. The fields share b's memory.
func decodeValue(b []byte) (map[string]secret.Bytes, error) {
	count, b, ok := uvarint(b)
	if !ok || count > uint64(len(b))/2 { // a field takes two bytes at least
		return nil, ErrEncoding
	}
	value := make(map[string]secret.Bytes, count)
	last := ""
	for i := range count {
		var name, field []byte
		if name, b, ok = chunk(b); !ok {
			return nil, ErrEncoding
		}
		if field, b, ok = chunk(b); !ok {
			return nil, ErrEncoding
		}
		s := string(name)
		if i > 0 && s <= last {
			return nil, ErrEncoding
		}
		last = s
		value[s] = secret.New(field[:len(field):len(field)])
	}
	if len(b) != 0 {
		return nil, ErrEncoding
	}
	return value, nil
}

// uvarint reads a number in its shortest encoding.
func uvarint(b []byte) (uint64, []byte, bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}

func chunk(b []byte) (head, rest []byte, ok bool) {
	n, b, ok := uvarint(b)
	if !ok || n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}
