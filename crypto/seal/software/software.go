// Package software is a seal without hardware: its keys lie in a file. It is for trying things out and
// for development, and protects against nothing that can read the file. Nodes say so at every start.
//
// The file is JSON, mode 0600, replaced whole at every change; with its format version first:
//
//	{"format":1,"identity":"<PKCS#8>","keys":{"share-…":"<32 bytes>"}}
//
// A crash while a key is created or destroyed leaves the file as it was before or after.
package software

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/hizo/hizo/crypto/aesgcm"
	"github.com/hizo/hizo/crypto/internal/durable"
	"github.com/hizo/hizo/crypto/seal"
)

const fileFormat = 1

// ErrFile says that the key file is not one, or of a newer release.
var ErrFile = errors.New("not a key file of a known format")

type file struct {
	Format   int                    `json:"format"`
	Identity []byte                 `json:"identity"` // PKCS#8
	Keys     map[seal.Handle][]byte `json:"keys"`
}

// Seal implements seal.Seal over a key file.
type Seal struct {
	path     string
	lock     *os.File
	identity *signer

	mu     sync.RWMutex
	keys   map[seal.Handle][]byte
	aeads  map[seal.Handle]*aesgcm.Cipher
	closed bool
}

var _ seal.Seal = (*Seal)(nil)

// Open opens a key file, creating it with a new identity where there is none. It refuses a file that
// others can read (seal.ErrPermissions) or that another process has open (seal.ErrInUse).
func Open(path string) (_ *Seal, err error) {
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open software seal: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open software seal %s: %w", path, err), lock.Close())
		}
	}()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("%w (%w)", seal.ErrInUse, err)
	}
	s := &Seal{path: path, lock: lock, keys: map[seal.Handle][]byte{}, aeads: map[seal.Handle]*aesgcm.Cipher{}}

	content, err := seal.ReadSecretFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		s.identity = &signer{seal: s, key: key}
		if err := s.write(s.keys); err != nil {
			return nil, err
		}
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	defer content.Wipe()
	if err := s.load(content.Reveal()); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Seal) load(content []byte) error {
	var f file
	if err := json.Unmarshal(content, &f); err != nil || f.Format != fileFormat {
		return ErrFile // the cause could quote the file
	}
	defer clear(f.Identity)
	parsed, err := x509.ParsePKCS8PrivateKey(f.Identity)
	if err != nil {
		return ErrFile
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return ErrFile
	}
	s.identity = &signer{seal: s, key: key}
	for h, k := range f.Keys {
		if h.Check() != nil {
			return ErrFile
		}
		a, err := aesgcm.New(k)
		if err != nil {
			return ErrFile
		}
		s.keys[h], s.aeads[h] = k, a
	}
	return nil
}

// write replaces the file. The caller holds mu, or is Open.
func (s *Seal) write(keys map[seal.Handle][]byte) error {
	identity, err := x509.MarshalPKCS8PrivateKey(s.identity.key)
	if err != nil {
		return err
	}
	defer clear(identity)
	content, err := json.Marshal(file{Format: fileFormat, Identity: identity, Keys: keys})
	if err != nil {
		return err
	}
	defer clear(content)
	return durable.WriteFile(s.path, content)
}

// Kind implements seal.Seal.
func (*Seal) Kind() seal.Kind { return seal.Software }

// Identity implements seal.Seal.
func (s *Seal) Identity() crypto.Signer { return s.identity }

// CreateKey implements seal.Seal.
func (s *Seal) CreateKey(ctx context.Context, h seal.Handle) error {
	if err := errors.Join(ctx.Err(), h.Check()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return seal.ErrClosed
	}
	if _, ok := s.keys[h]; ok {
		return fmt.Errorf("create key %s: %w", h, seal.ErrKeyExists)
	}
	key := make([]byte, 32)
	rand.Read(key)
	a, err := aesgcm.New(key)
	if err != nil {
		return err
	}
	keys := maps.Clone(s.keys)
	keys[h] = key
	if err := s.write(keys); err != nil {
		return fmt.Errorf("create key %s: %w", h, err)
	}
	s.keys, s.aeads[h] = keys, a
	return nil
}

func (s *Seal) aead(ctx context.Context, h seal.Handle) (*aesgcm.Cipher, error) {
	if err := errors.Join(ctx.Err(), h.Check()); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, seal.ErrClosed
	}
	a, ok := s.aeads[h]
	if !ok {
		return nil, fmt.Errorf("key %s: %w", h, seal.ErrNoKey)
	}
	return a, nil
}

// Wrap implements seal.Seal.
func (s *Seal) Wrap(ctx context.Context, h seal.Handle, plaintext, aad []byte) ([]byte, error) {
	a, err := s.aead(ctx, h)
	if err != nil {
		return nil, fmt.Errorf("wrap: %w", err)
	}
	if len(plaintext) > seal.MaxPlaintext {
		return nil, fmt.Errorf("wrap: %w", seal.ErrTooLarge)
	}
	return a.Seal(plaintext, aad), nil
}

// Unwrap implements seal.Seal.
func (s *Seal) Unwrap(ctx context.Context, h seal.Handle, ciphertext, aad []byte) ([]byte, error) {
	a, err := s.aead(ctx, h)
	if err != nil {
		return nil, fmt.Errorf("unwrap: %w", err)
	}
	plain, err := a.Open(ciphertext, aad)
	if err != nil {
		return nil, fmt.Errorf("unwrap with key %s: %w", h, seal.ErrAuth)
	}
	return plain, nil
}

// DestroyKey implements seal.Seal. Old copies of the file, and what a file system or disk keeps of
// them, still hold the key: only hardware destroys for good.
func (s *Seal) DestroyKey(ctx context.Context, h seal.Handle) error {
	if err := errors.Join(ctx.Err(), h.Check()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return seal.ErrClosed
	}
	key, ok := s.keys[h]
	if !ok {
		return nil
	}
	keys := maps.Clone(s.keys)
	delete(keys, h)
	if err := s.write(keys); err != nil {
		return fmt.Errorf("destroy key %s: %w", h, err)
	}
	clear(key)
	s.keys = keys
	delete(s.aeads, h)
	return nil
}

// Keys implements seal.Seal.
func (s *Seal) Keys(ctx context.Context) ([]seal.Handle, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, seal.ErrClosed
	}
	return slices.Sorted(maps.Keys(s.keys)), nil
}

// Healthy implements seal.Seal.
func (s *Seal) Healthy(ctx context.Context) error {
	_, err := s.Keys(ctx)
	return err
}

// Close wipes the keys from memory, best effort, and lets go of the file.
func (s *Seal) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	for _, k := range s.keys {
		clear(k)
	}
	s.keys, s.aeads = nil, nil
	return s.lock.Close()
}

// signer refuses to sign once its seal is closed, as a token would.
type signer struct {
	seal *Seal
	key  *ecdsa.PrivateKey
}

func (s *signer) Public() crypto.PublicKey { return s.key.Public() }

func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := seal.CheckDigest(digest, opts); err != nil {
		return nil, err
	}
	s.seal.mu.RLock()
	defer s.seal.mu.RUnlock()
	if s.seal.closed {
		return nil, seal.ErrClosed
	}
	return ecdsa.SignASN1(rand.Reader, s.key, digest)
}
