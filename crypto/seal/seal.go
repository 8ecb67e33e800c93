// Package seal is the small interface to a node's hardware: it wraps and unwraps small secrets under
// keys that never leave it, and signs with the node's identity.
//
// Implementations: pkcs11 (any PKCS#11 token, SoftHSM2 in tests) and software (a key file, for trying
// things out). sealtest holds the suite that both pass.
package seal

import (
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/internal/durable"
	"github.com/hizo/hizo/crypto/secret"
)

// Kind tells hardware from software. It is recorded in the membership.
type Kind string

// The kinds.
const (
	PKCS11   Kind = "pkcs11"
	Software Kind = "software"
)

// Handle names a wrapping key: 1 to 64 characters of a-z, 0-9 and '-'.
type Handle string

// Local is the handle for a node's own small files. Create makes it where it is missing.
const Local Handle = "local"

// ShareHandle names the key that wraps a node's share of one deal.
func ShareHandle(deal [8]byte) Handle { return Handle("share-" + hex.EncodeToString(deal[:])) }

// Check returns ErrHandle unless h is a name as described above.
func (h Handle) Check() error {
	if len(h) == 0 || len(h) > 64 {
		return ErrHandle
	}
	for i := range len(h) {
		if c := h[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return ErrHandle
		}
	}
	return nil
}

// MaxPlaintext bounds what one Wrap takes: wrapping is for keys and small records.
const MaxPlaintext = 64 << 10

var (
	// ErrNoKey says that there is no key of this handle.
	ErrNoKey = errors.New("the seal has no key of this handle")
	// ErrKeyExists says that a key of this handle is there already.
	ErrKeyExists = errors.New("the seal already has a key of this handle")
	// ErrAuth says that a ciphertext was changed, or made under another key or for another place.
	ErrAuth = errors.New("wrapped data does not authenticate: changed, or made under another key or for another place")
	// ErrDevice says that the HSM does not answer. The next call tries to reach it again.
	ErrDevice = errors.New("the HSM does not answer; check that it is connected and its service runs")
	// ErrPIN says that the token refused the PIN. It is not tried again: tokens lock after a few attempts.
	ErrPIN = errors.New("the token refused the PIN; correct the PIN file and restart the node")
	// ErrNoToken says that no token has the configured label or serial number.
	ErrNoToken = errors.New("no token with this label or serial number; check the configuration, and that the token is initialised")
	// ErrExtractable says that a key could leave the HSM.
	ErrExtractable = errors.New("the token holds this key as extractable or not sensitive; it must not be used")
	// ErrAmbiguous says that a token holds two keys of one name, or a module two tokens.
	ErrAmbiguous = errors.New("more than one match")
	// ErrIdentity says that the identity key is not the one that the seal was opened with.
	ErrIdentity = errors.New("the token's identity key is not the one this node started with")
	// ErrPermissions says that others could read a file that holds a key or PIN.
	ErrPermissions = errors.New("others may read this file; give it to the node's user with mode 0600")
	// ErrInUse says that another process has the key file open.
	ErrInUse = errors.New("another process uses this seal")
	// ErrHandle says that a handle is not a valid name.
	ErrHandle = errors.New("a key handle has 1 to 64 characters of a-z, 0-9 and '-'")
	// ErrTooLarge says that a plaintext is above MaxPlaintext.
	ErrTooLarge = fmt.Errorf("a seal wraps at most %d bytes", MaxPlaintext)
	// ErrClosed says that the seal was closed.
	ErrClosed = errors.New("the seal is closed")
)

// Seal wraps by keys that cannot be read out. All methods may be called concurrently; they end when
// their context does, although an operation inside the HSM may go on unobserved.
//
// Which error means what is the same for all implementations and tested by sealtest.
type Seal interface {
	Kind() Kind

	// Identity signs for the node, in TLS and on checkpoints. It is a P-256 key that takes SHA-256
	// digests, created when the seal is first opened, and stays valid until Close.
	Identity() crypto.Signer

	// CreateKey makes an AES-256 key that cannot be extracted. ErrKeyExists if there is one.
	CreateKey(ctx context.Context, h Handle) error

	// Wrap encrypts by AES-256-GCM with a random nonce of 12 bytes. ErrNoKey, ErrTooLarge, ErrDevice.
	Wrap(ctx context.Context, h Handle, plaintext, aad []byte) ([]byte, error)

	// Unwrap decrypts what Wrap made for the same handle and aad. ErrNoKey, ErrAuth, ErrDevice.
	Unwrap(ctx context.Context, h Handle, ciphertext, aad []byte) ([]byte, error)

	// DestroyKey deletes a key for good. It succeeds if there is none.
	DestroyKey(ctx context.Context, h Handle) error

	// Keys lists the handles, sorted.
	Keys(ctx context.Context) ([]Handle, error)

	// Healthy asks the device for a sign of life.
	Healthy(ctx context.Context) error

	Close() error
}

// Ciphertexts of every seal look alike, but only the seal that made one opens it:
//
//	format(1) nonce(12) sealed(n) tag(16)
const (
	Format    = 1
	NonceSize = 12
	TagSize   = 16
	Overhead  = 1 + NonceSize + TagSize
)

// EnsureKey makes a key unless it is there.
func EnsureKey(ctx context.Context, s Seal, h Handle) error {
	if err := s.CreateKey(ctx, h); err != nil && !errors.Is(err, ErrKeyExists) {
		return err
	}
	return nil
}

func fileAAD(name string) []byte { return aad.Tuple("hizo/seal/file/v1", []byte(name)) }

// WriteFile keeps a small record (at most MaxPlaintext) in a file that only this seal can make and read,
// under the key Local. name says what the record is, so that one file cannot stand in for another. An
// older file of the same name, put back, is not noticed.
//
// After a crash the file holds the old record or the new one.
func WriteFile(ctx context.Context, s Seal, path, name string, record []byte) error {
	if err := EnsureKey(ctx, s, Local); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	b, err := s.Wrap(ctx, Local, record, fileAAD(name))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return durable.WriteFile(path, b)
}

// ReadFile reads what WriteFile wrote under the same name. A missing file is fs.ErrNotExist; a changed
// one, or one of another seal or name, ErrAuth.
func ReadFile(ctx context.Context, s Seal, path, name string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if info.Size() > MaxPlaintext+Overhead {
		return nil, fmt.Errorf("read %s: %w", path, ErrAuth)
	}
	b := make([]byte, info.Size())
	if n, err := f.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	record, err := s.Unwrap(ctx, Local, b, fileAAD(name))
	if errors.Is(err, ErrNoKey) {
		err = errors.Join(ErrAuth, err) // this seal has never written a file
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return record, nil
}

// maxSecretFile bounds PIN and key files.
const maxSecretFile = 4 << 20

// ReadSecretFile reads a file that holds a PIN or a key, and refuses one that others could read or
// exchange. A pipe (a descriptor under /dev/fd) passes: nobody else can open it.
func ReadSecretFile(path string) (secret.Bytes, error) {
	f, err := os.Open(path)
	if err != nil {
		return secret.Bytes{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return secret.Bytes{}, err
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		if mode.Perm()&0o077 != 0 {
			return secret.Bytes{}, fmt.Errorf("%s has mode %04o: %w", path, mode.Perm(), ErrPermissions)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			return secret.Bytes{}, fmt.Errorf("%s belongs to user %d: %w", path, st.Uid, ErrPermissions)
		}
	case mode&fs.ModeNamedPipe != 0:
	default:
		return secret.Bytes{}, fmt.Errorf("%s is neither a file nor a pipe: %w", path, ErrPermissions)
	}
	b := make([]byte, 0, max(512, min(info.Size(), maxSecretFile)+1))
	for {
		n, err := f.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return secret.New(b), nil
		}
		if err == nil && len(b) > maxSecretFile {
			err = fmt.Errorf("%s is larger than %d bytes", path, maxSecretFile)
		}
		if err != nil {
			clear(b)
			return secret.Bytes{}, err
		}
		if len(b) == cap(b) {
			grown := append(make([]byte, 0, 2*cap(b)), b...)
			clear(b)
			b = grown
		}
	}
}

// ErrDigest says that an identity was asked to sign anything but a SHA-256 digest.
var ErrDigest = errors.New("identity keys sign SHA-256 digests only")

// CheckDigest is what every identity signer checks first. Tokens differ in what they do with digests
// longer than the curve.
func CheckDigest(digest []byte, opts crypto.SignerOpts) error {
	if opts == nil || opts.HashFunc() != crypto.SHA256 || len(digest) != crypto.SHA256.Size() {
		return ErrDigest
	}
	return nil
}
