// Package seal makes and opens sealed values: encrypted environment variables that stand in a job's own configuration,
// made offline by anybody and opened by the cluster alone. docs/seal-format.md describes the format for others.
//
//	text  = "hizo:v1:" base64url(raw), without padding
//	raw   = key id(16) seal id(16) expires(8, Unix seconds) hybrid message
//	info  = tuple(domain, cluster, vault, pipeline, variable, key id, seal id, expires)
//	plain = info uint32(len(value)) value zeros, up to the next size of a fixed row
//
// Info is bound by HPKE and stands inside as well: that it opens says for what place it was made, whoever carried it
// where. The names are not in the clear; which pipeline it is follows from who asks, which variable from where it stood.
//
// HPKE's base mode authenticates no sender: a sealed value says nothing about who made it.
package seal

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
)

// Prefix begins every sealed value of this format.
const Prefix = "hizo:v1:"

// Sizes and bounds.
const (
	KeyIDSize = 16
	IDSize    = 16
	MaxValue  = 64 << 10 // bytes of a value: half of what Linux allows one variable

	headSize = KeyIDSize + IDSize + 8
	infoSize = 8*4 + len(domain) + 16 + name.MaxVault + name.MaxPipeline + name.MaxVariable + headSize
	maxRaw   = headSize + hybrid.Overhead + infoSize + maxPadded
	minRaw   = headSize + hybrid.Overhead + minPadded

	// MaxText bounds the text of a sealed value, in bytes.
	MaxText = len(Prefix) + (maxRaw*8+5)/6
)

// MaxLifetime is how far ahead a sealed value may expire.
const MaxLifetime = 366 * 24 * time.Hour

const domain = "hizo/seal/v1"

var (
	// ErrFormat says that a text is no sealed value of this format, whole.
	ErrFormat = errors.New("not a sealed value (hizo:v1:…): it was cut off, changed, or is of another version; copy it again or seal anew")
	// ErrOpen says that a sealed value is not for this place, or was changed.
	ErrOpen = errors.New("the sealed value does not open here: it was sealed for another variable, pipeline or cluster, or was changed")
	// ErrTooLarge says that a value is larger than a sealed one may be.
	ErrTooLarge = fmt.Errorf("the value has more than %d bytes: store it with `hizo secret put` and give the pipeline a reference", MaxValue)
	// ErrExpiry says that a time to expire at is past or too far ahead.
	ErrExpiry = fmt.Errorf("a sealed value expires in the future and within %d days", int(MaxLifetime/(24*time.Hour)))
)

// Place is where a sealed value belongs.
type Place struct {
	Cluster  [16]byte
	Vault    string
	Pipeline string
	Variable string
}

// Sealed is a sealed value. Its head is readable, and authenticated only once it has opened.
type Sealed struct {
	KeyID   [KeyIDSize]byte
	ID      [IDSize]byte // random
	Expires int64        // Unix seconds

	text    string
	message []byte
}

// Is tells a sealed value from a plain one, as a file of variables holds both. It promises nothing about the rest.
func Is(text string) bool { return strings.HasPrefix(text, Prefix) }

// KeyID names a public key.
func KeyID(public []byte) [KeyIDSize]byte {
	sum := sha256.Sum256(public)
	return [KeyIDSize]byte(sum[:KeyIDSize])
}

// Parse reads the text of a sealed value. A text has one form only, so that its digest names it.
func Parse(text string) (*Sealed, error) {
	digits, ok := strings.CutPrefix(text, Prefix)
	if !ok || len(text) > MaxText {
		return nil, ErrFormat
	}
	raw, err := base64.RawURLEncoding.DecodeString(digits)
	if err != nil || len(raw) < minRaw || len(raw) > maxRaw || base64.RawURLEncoding.EncodeToString(raw) != digits {
		return nil, ErrFormat
	}
	s := &Sealed{text: text, message: raw[headSize:]}
	copy(s.KeyID[:], raw)
	copy(s.ID[:], raw[KeyIDSize:])
	expires := binary.BigEndian.Uint64(raw[KeyIDSize+IDSize:])
	if expires == 0 || expires > math.MaxInt64/1000 { // room for milliseconds
		return nil, ErrFormat
	}
	s.Expires = int64(expires)
	return s, nil
}

// Text is the sealed value as it stands in configurations.
func (s *Sealed) Text() string { return s.text }

// Digest is the SHA-256 of the text.
func (s *Sealed) Digest() [sha256.Size]byte { return sha256.Sum256([]byte(s.text)) }

func (s *Sealed) head() []byte {
	b := append(make([]byte, 0, maxRaw/16), s.KeyID[:]...)
	b = append(b, s.ID[:]...)
	return binary.BigEndian.AppendUint64(b, uint64(s.Expires))
}

func (s *Sealed) info(p Place) []byte {
	b := aad.AppendString(make([]byte, 0, infoSize), domain)
	b = aad.AppendBytes(b, p.Cluster[:])
	b = aad.AppendString(b, p.Vault)
	b = aad.AppendString(b, p.Pipeline)
	b = aad.AppendString(b, p.Variable)
	b = aad.AppendBytes(b, s.KeyID[:])
	b = aad.AppendBytes(b, s.ID[:])
	return aad.AppendUint64(b, uint64(s.Expires))
}

// New seals a value for a place to the public key of its pipeline. expires is in Unix seconds; that it lies in the
// future and within MaxLifetime, CheckExpiry says.
func New(public []byte, p Place, expires int64, value secret.Bytes) (*Sealed, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	if value.Len() > MaxValue {
		return nil, ErrTooLarge
	}
	s := &Sealed{KeyID: KeyID(public), Expires: expires}
	rand.Read(s.ID[:])
	info := s.info(p)
	plain := pad(info, value)
	defer plain.Wipe()
	var err error
	if s.message, err = hybrid.Seal(public, info, plain.Reveal()); err != nil {
		return nil, err
	}
	s.text = Prefix + base64.RawURLEncoding.EncodeToString(append(s.head(), s.message...))
	return s, nil
}

func (p Place) check() error {
	if _, err := name.Vault(p.Vault); err != nil {
		return err
	}
	if _, err := name.Pipeline(p.Pipeline); err != nil {
		return err
	}
	_, err := name.Variable(p.Variable)
	return err
}

// CheckExpiry returns ErrExpiry unless a sealed value may expire then.
func CheckExpiry(now time.Time, expires int64) error {
	if at := time.Unix(expires, 0); !at.After(now) || at.After(now.Add(MaxLifetime)) {
		return ErrExpiry
	}
	return nil
}

// Open opens a sealed value for a place with the key that it names. Whether that key still opens, and whether the value
// has expired or was revoked, is the caller's to know.
func (s *Sealed) Open(key *hybrid.Key, p Place) (secret.Bytes, error) {
	if KeyID(key.Public()) != s.KeyID {
		return secret.Bytes{}, ErrOpen
	}
	info := s.info(p)
	plain, err := key.Open(s.message, info)
	if err != nil {
		return secret.Bytes{}, ErrOpen
	}
	defer plain.Wipe()
	rest, ok := bytes.CutPrefix(plain.Reveal(), info)
	if !ok {
		return secret.Bytes{}, ErrOpen
	}
	return unpad(rest)
}
