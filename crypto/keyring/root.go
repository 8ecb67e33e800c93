package keyring

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"

	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/aesgcm"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
)

// RootSize is the length of a root key.
const RootSize = 32

// ErrRoot says that bytes are no root key.
var ErrRoot = errors.New("not a root key")

// Root is the key that wraps the keyring. It is never stored whole and bare: only wrapped for the node
// set and sealed to the operators' key, and in the memory of unsealed nodes.
type Root struct{ key secret.Bytes }

// RootID is a public fingerprint of a root key.
type RootID [8]byte

// String returns the fingerprint in hex.
func (id RootID) String() string { return hex.EncodeToString(id[:]) }

// Bytes returns the fingerprint as bytes.
func (id RootID) Bytes() []byte { return id[:] }

// NewRoot makes a random root key.
func NewRoot() Root { return Root{key: secret.Random(RootSize)} }

// RootFrom takes ownership of 32 bytes that RootBytes once returned.
func RootFrom(key secret.Bytes) (Root, error) {
	if key.Len() != RootSize {
		return Root{}, ErrRoot
	}
	return Root{key: key}, nil
}

// Format implements fmt.Formatter: it redacts, and names the key by its fingerprint.
func (r Root) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "root key %s %s", r.ID(), secret.Redacted) }

// LogValue implements slog.LogValuer.
func (r Root) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(r)) }

// Valid tells whether there is a key in r at all.
func (r Root) Valid() bool { return r.key.Len() == RootSize }

// Bytes returns the key itself, for sealing it to another node. It shares r's memory.
func (r Root) Bytes() secret.Bytes { return r.key }

// Equal compares in constant time.
func (r Root) Equal(other Root) bool { return r.key.Equal(other.key) }

// Wipe overwrites the key, best effort (see package secret).
func (r Root) Wipe() { r.key.Wipe() }

// ID returns the public fingerprint. It is derived by HKDF and tells nothing of the key.
func (r Root) ID() RootID {
	var id RootID
	b, err := derive(r.key, nil, "hizo/root/id/v1", len(id))
	if err != nil {
		return id // a root without a key has no fingerprint
	}
	copy(id[:], b.Reveal())
	return id
}

// BackupMAC authenticates a backup's digest (HMAC-SHA256) under a key that only the root key of that time gives: an
// older root, whose shares others may have, does not make it.
func BackupMAC(root Root, cluster [16]byte, digest []byte) ([]byte, error) {
	if !root.Valid() {
		return nil, ErrRoot
	}
	key, err := derive(root.key, nil, "hizo/root/backup/v1", 32)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	h := hmac.New(sha256.New, key.Reveal())
	h.Write(aad.Tuple("hizo/mac/backup/1", cluster[:], digest))
	return h.Sum(nil), nil
}

// Context is what a wrapped root key is bound to.
type Context struct {
	Cluster    [16]byte
	Generation uint32  // of the root key
	Deal       [8]byte // whose secret opens the wrapping
}

func (c Context) aad(domain string) []byte {
	b := aad.AppendString(make([]byte, 0, 96), domain)
	b = aad.AppendBytes(b, c.Cluster[:])
	b = aad.AppendUint32(b, c.Generation)
	return aad.AppendBytes(b, c.Deal[:])
}

// derive is HKDF-SHA256 (RFC 5869).
func derive(key secret.Bytes, salt []byte, info string, n int) (secret.Bytes, error) {
	if key.Len() < 32 {
		return secret.Bytes{}, fmt.Errorf("derive %s: the key has %d bytes and needs 32", info, key.Len())
	}
	b, err := hkdf.Key(sha256.New, key.Reveal(), salt, info, n)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("derive %s: %w", info, err)
	}
	return secret.New(b), nil
}

// WrapForNodes wraps the root key under a key derived from the node set's secret.
func WrapForNodes(nodeSecret secret.Bytes, root Root, ctx Context) ([]byte, error) {
	if !root.Valid() {
		return nil, ErrRoot
	}
	key, err := derive(nodeSecret, nil, "hizo/root/nodes/key/v1", 32)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	a, err := aesgcm.New(key.Reveal())
	if err != nil {
		return nil, err
	}
	return a.Seal(root.key.Reveal(), ctx.aad("hizo/root/nodes/v1")), nil
}

// OpenForNodes opens what WrapForNodes made.
func OpenForNodes(nodeSecret secret.Bytes, wrapped []byte, ctx Context) (Root, error) {
	key, err := derive(nodeSecret, nil, "hizo/root/nodes/key/v1", 32)
	if err != nil {
		return Root{}, err
	}
	defer key.Wipe()
	a, err := aesgcm.New(key.Reveal())
	if err != nil {
		return Root{}, err
	}
	b, err := a.Open(wrapped, ctx.aad("hizo/root/nodes/v1"))
	if err != nil {
		return Root{}, fmt.Errorf("open the root key with the node set's secret: %w", err)
	}
	return RootFrom(secret.New(b))
}

// OperatorKey derives the operators' key pair from the secret of their set. Its public half is
// replicated, so a new root can be sealed to it with no operator present.
func OperatorKey(seed secret.Bytes) (*hybrid.Key, error) { return hybrid.DeriveKey(seed) }

// SealForOperators seals the root key to the operators' public key.
func SealForOperators(public []byte, root Root, ctx Context) ([]byte, error) {
	if !root.Valid() {
		return nil, ErrRoot
	}
	return hybrid.Seal(public, ctx.aad("hizo/root/operators/v1"), root.key.Reveal())
}

// OpenForOperators opens what SealForOperators made.
func OpenForOperators(seed secret.Bytes, sealed []byte, ctx Context) (Root, error) {
	key, err := OperatorKey(seed)
	if err != nil {
		return Root{}, err
	}
	b, err := key.Open(sealed, ctx.aad("hizo/root/operators/v1"))
	if err != nil {
		return Root{}, fmt.Errorf("open the root key with the operators' secret: %w", err)
	}
	return RootFrom(b)
}

// SealRootTo seals the root key to a member's key made for one call. node is that member's id.
func SealRootTo(public []byte, root Root, ctx Context, node string) ([]byte, error) {
	if !root.Valid() {
		return nil, ErrRoot
	}
	return hybrid.Seal(public, aad.AppendString(ctx.aad("hizo/root/handover/v1"), node), root.key.Reveal())
}

// OpenRoot opens what SealRootTo made.
func OpenRoot(key *hybrid.Key, sealed []byte, ctx Context, node string) (Root, error) {
	b, err := key.Open(sealed, aad.AppendString(ctx.aad("hizo/root/handover/v1"), node))
	if err != nil {
		return Root{}, fmt.Errorf("open the root key handed over: %w", err)
	}
	return RootFrom(b)
}
