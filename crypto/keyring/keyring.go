// Package keyring holds the keys that the root key wraps: one per purpose and generation.
//
//	root key
//	  └ HKDF → wrapping key ─ AES-256-GCM ─> WrappedKey (replicated), AAD: cluster, purpose, both generations
//	                                            └ 32 random bytes, never used directly; HKDF by use:
//	                                                 encryption (Seal, Open), MAC, fingerprint, HPKE, Derive
//
// A Keyring opens wrapped keys when they are first used and keeps the derived ciphers: a Seal or Open
// afterwards takes one map lookup and one AES-GCM. It holds keys in memory only, and Close wipes what Go
// lets it wipe (the key schedules inside crypto/aes are out of reach).
//
// All methods may be called concurrently.
package keyring

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"strings"
	"sync"

	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/aesgcm"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
)

// Purposes of keys. A vault has a purpose of its own: see Vault.
const (
	Audit       = "audit"       // sealed parts of audit records
	AuditHPKE   = "audit-hpke"  // HPKE key pair to which a sealed node seals its audit records
	MAC         = "mac"         // records that grant something
	Password    = "password"    // encrypts password hashes
	Fingerprint = "fingerprint" // request fingerprints and the like
	CA          = "ca"          // encrypts the client CA's private key
	Gossip      = "gossip"      // memberlist's key
	Pipeline    = "pipeline"    // the key pairs of pipelines derive from it
)

const vaultPrefix = "vault/"

// Vault returns the purpose of a vault's key.
func Vault(name string) string { return vaultPrefix + name }

var (
	// ErrAuth is aesgcm.ErrAuth.
	ErrAuth = aesgcm.ErrAuth
	// ErrNoKey says that there is no key of this purpose and generation: never made, retired, or destroyed.
	ErrNoKey = errors.New("no such key in the keyring")
	// ErrClosed says that the node was sealed.
	ErrClosed = errors.New("the keyring is closed: the node is sealed")
	// ErrOtherRoot says that a key is wrapped by another root generation than this keyring's: while the root
	// rotates, a node's keyring is the old one for a moment. It is an ErrAuth, too.
	ErrOtherRoot = fmt.Errorf("the keyring is of another root generation: %w", ErrAuth)
	// ErrMAC says that a record was not made by this cluster, or was changed.
	ErrMAC = errors.New("the record's MAC does not verify: it was changed outside the cluster")
	// ErrPurpose says that a purpose is not one of this package's.
	ErrPurpose = errors.New("unknown key purpose")
)

// CheckPurpose returns ErrPurpose for anything but the purposes above.
func CheckPurpose(purpose string) error {
	switch purpose {
	case Audit, AuditHPKE, MAC, Password, Fingerprint, CA, Gossip, Pipeline:
		return nil
	}
	if name, ok := strings.CutPrefix(purpose, vaultPrefix); ok && name != "" && len(name) <= 255 {
		return nil
	}
	return ErrPurpose
}

// WrappedKey is a key as it is replicated. Only its ciphertext is secret, and that is one already.
type WrappedKey struct {
	Purpose        string
	Generation     uint32
	RootGeneration uint32
	Ciphertext     []byte
}

// Loader finds a wrapped key in the state. It returns ErrNoKey where there is none.
type Loader func(purpose string, generation uint32) (WrappedKey, error)

// Static is a Loader over keys that are not in the state yet, as when a cluster is initialised.
func Static(keys ...WrappedKey) Loader {
	return func(purpose string, generation uint32) (WrappedKey, error) {
		for _, k := range keys {
			if k.Purpose == purpose && k.Generation == generation {
				return k, nil
			}
		}
		return WrappedKey{}, ErrNoKey
	}
}

// Keyring opens and keeps keys.
type Keyring struct {
	cluster [16]byte
	rootGen uint32
	rootID  RootID
	load    Loader
	wrap    *aesgcm.Cipher // derived from the root key

	mu   sync.RWMutex
	keys map[keyID]*key // nil once closed
}

type keyID struct {
	purpose    string
	generation uint32
}

// key is an opened key with what was derived from it.
type key struct {
	raw    secret.Bytes
	aead   *aesgcm.Cipher
	salted salted

	macs sync.Pool // of hash.Hash, keyed; making one costs more than using it
	fps  sync.Pool

	hpke func() (*hybrid.Key, error)
}

// Open makes a keyring under a root key. It derives what it needs: root may be wiped afterwards.
func Open(root Root, rootGeneration uint32, cluster [16]byte, load Loader) (*Keyring, error) {
	wrap, err := wrapper(root)
	if err != nil {
		return nil, err
	}
	return &Keyring{
		cluster: cluster, rootGen: rootGeneration, load: load, wrap: wrap,
		keys: make(map[keyID]*key), rootID: root.ID(),
	}, nil
}

func wrapper(root Root) (*aesgcm.Cipher, error) {
	if !root.Valid() {
		return nil, ErrRoot
	}
	k, err := derive(root.key, nil, "hizo/keyring/wrap/v1", 32)
	if err != nil {
		return nil, err
	}
	defer k.Wipe()
	return aesgcm.New(k.Reveal())
}

// Cluster returns the cluster that the keyring belongs to.
func (kr *Keyring) Cluster() [16]byte { return kr.cluster }

// RootID returns the fingerprint of the root key that opened the keyring.
func (kr *Keyring) RootID() RootID { return kr.rootID }

// RootGeneration returns the generation of the root key that opened the keyring.
func (kr *Keyring) RootGeneration() uint32 { return kr.rootGen }

// Close wipes the keys. Calls under way end as if they had come before; later ones return ErrClosed.
func (kr *Keyring) Close() {
	kr.mu.Lock()
	defer kr.mu.Unlock()
	for _, k := range kr.keys {
		k.raw.Wipe()
	}
	kr.keys = nil
}

// Forget drops an opened key from memory, once its generation is retired.
func (kr *Keyring) Forget(purpose string, generation uint32) {
	kr.mu.Lock()
	defer kr.mu.Unlock()
	id := keyID{purpose, generation}
	if k, ok := kr.keys[id]; ok {
		k.raw.Wipe()
		delete(kr.keys, id)
	}
}

func wrapAAD(cluster [16]byte, purpose string, generation, rootGen uint32) []byte {
	b := aad.AppendString(make([]byte, 0, 96+len(purpose)), "hizo/keyring/key/v1")
	b = aad.AppendBytes(b, cluster[:])
	b = aad.AppendString(b, purpose)
	b = aad.AppendUint32(b, generation)
	return aad.AppendUint32(b, rootGen)
}

// Generate makes a new random key. It can be used once the Loader finds it: when it has committed.
func (kr *Keyring) Generate(purpose string, generation uint32) (WrappedKey, error) {
	if err := CheckPurpose(purpose); err != nil {
		return WrappedKey{}, err
	}
	if kr.isClosed() {
		return WrappedKey{}, ErrClosed
	}
	raw := secret.Random(32)
	defer raw.Wipe()
	return WrappedKey{
		Purpose: purpose, Generation: generation, RootGeneration: kr.rootGen,
		Ciphertext: kr.wrap.Seal(raw.Reveal(), wrapAAD(kr.cluster, purpose, generation, kr.rootGen)),
	}, nil
}

func (kr *Keyring) isClosed() bool {
	kr.mu.RLock()
	defer kr.mu.RUnlock()
	return kr.keys == nil
}

func (kr *Keyring) unwrap(w WrappedKey) (secret.Bytes, error) {
	if kr.isClosed() {
		return secret.Bytes{}, ErrClosed
	}
	if w.RootGeneration != kr.rootGen {
		return secret.Bytes{}, fmt.Errorf("key %s/%d is wrapped by root generation %d, this keyring has %d: %w",
			w.Purpose, w.Generation, w.RootGeneration, kr.rootGen, ErrOtherRoot)
	}
	raw, err := kr.wrap.Open(w.Ciphertext, wrapAAD(kr.cluster, w.Purpose, w.Generation, w.RootGeneration))
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("open key %s/%d: %w", w.Purpose, w.Generation, err)
	}
	if len(raw) != 32 {
		return secret.Bytes{}, fmt.Errorf("open key %s/%d: %w", w.Purpose, w.Generation, ErrAuth)
	}
	return secret.New(raw), nil
}

// Rewrap wraps a key under a new root key: the key itself stays, so nothing else has to change.
func (kr *Keyring) Rewrap(w WrappedKey, root Root, rootGeneration uint32) (WrappedKey, error) {
	wrap, err := wrapper(root)
	if err != nil {
		return WrappedKey{}, err
	}
	return kr.rewrap(w, wrap, rootGeneration)
}

// RewrapAll wraps keys under a new root key, all or none.
func (kr *Keyring) RewrapAll(keys []WrappedKey, root Root, rootGeneration uint32) ([]WrappedKey, error) {
	wrap, err := wrapper(root)
	if err != nil {
		return nil, err
	}
	out := make([]WrappedKey, len(keys))
	for i, w := range keys {
		if out[i], err = kr.rewrap(w, wrap, rootGeneration); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (kr *Keyring) rewrap(w WrappedKey, wrap *aesgcm.Cipher, rootGeneration uint32) (WrappedKey, error) {
	raw, err := kr.unwrap(w)
	if err != nil {
		return WrappedKey{}, err
	}
	defer raw.Wipe()
	w.RootGeneration = rootGeneration
	w.Ciphertext = wrap.Seal(raw.Reveal(), wrapAAD(kr.cluster, w.Purpose, w.Generation, rootGeneration))
	return w, nil
}

// get returns an opened key, opening it if need be.
func (kr *Keyring) get(purpose string, generation uint32) (*key, error) {
	id := keyID{purpose, generation}
	kr.mu.RLock()
	k, closed := kr.keys[id], kr.keys == nil
	kr.mu.RUnlock()
	if k != nil {
		return k, nil
	}
	if closed {
		return nil, ErrClosed
	}
	if err := CheckPurpose(purpose); err != nil {
		return nil, err
	}
	w, err := kr.load(purpose, generation) // without the lock: it may read a store
	if err != nil {
		return nil, fmt.Errorf("key %s/%d: %w", purpose, generation, err)
	}
	if w.Purpose != purpose || w.Generation != generation {
		return nil, fmt.Errorf("key %s/%d: the state holds %s/%d there: %w", purpose, generation, w.Purpose, w.Generation, ErrAuth)
	}
	secret.Do(func() {
		var raw secret.Bytes
		if raw, err = kr.unwrap(w); err == nil {
			k, err = newKey(raw)
		}
	})
	if err != nil {
		return nil, err
	}
	kr.mu.Lock()
	defer kr.mu.Unlock()
	if kr.keys == nil {
		k.raw.Wipe()
		return nil, ErrClosed
	}
	if first, ok := kr.keys[id]; ok { // another caller was faster
		k.raw.Wipe()
		return first, nil
	}
	kr.keys[id] = k
	return k, nil
}

// newKey takes ownership of raw.
func newKey(raw secret.Bytes) (*key, error) {
	enc, err := derive(raw, nil, "hizo/key/encrypt/v1", 32)
	if err != nil {
		return nil, err
	}
	defer enc.Wipe()
	a, err := aesgcm.New(enc.Reveal())
	if err != nil {
		return nil, err
	}
	k := &key{raw: raw, aead: a}
	for _, use := range []struct {
		pool *sync.Pool
		info string
	}{{&k.macs, "hizo/key/mac/v1"}, {&k.fps, "hizo/key/fingerprint/v1"}} {
		sub, err := derive(raw, nil, use.info, 32)
		if err != nil {
			return nil, err
		}
		use.pool.New = func() any { return hmac.New(sha256.New, sub.Reveal()) }
	}
	// Derived at once, not when first used: raw may be wiped by then.
	seed, err := derive(raw, nil, "hizo/key/hpke/v1", 32)
	if err != nil {
		return nil, err
	}
	if k.salted.base, err = derive(raw, nil, "hizo/key/salted/v1", 32); err != nil {
		return nil, err
	}
	k.hpke = sync.OnceValues(func() (*hybrid.Key, error) { return hybrid.DeriveKey(seed) })
	return k, nil
}

// Seal encrypts under a key. aad says where the ciphertext belongs.
func (kr *Keyring) Seal(purpose string, generation uint32, plaintext, aad []byte) ([]byte, error) {
	k, err := kr.get(purpose, generation)
	if err != nil {
		return nil, err
	}
	return k.aead.Seal(plaintext, aad), nil
}

// Open decrypts what Seal made with the same arguments. The caller owns the plaintext.
func (kr *Keyring) Open(purpose string, generation uint32, ciphertext, aad []byte) ([]byte, error) {
	k, err := kr.get(purpose, generation)
	if err != nil {
		return nil, err
	}
	return k.aead.Open(ciphertext, aad)
}

// HPKE returns the key pair that belongs to a key, for purposes that need one (AuditHPKE).
func (kr *Keyring) HPKE(purpose string, generation uint32) (*hybrid.Key, error) {
	k, err := kr.get(purpose, generation)
	if err != nil {
		return nil, err
	}
	return k.hpke()
}

// Derive returns a sub-key of n bytes for a use named by label, such as memberlist's key.
func (kr *Keyring) Derive(purpose string, generation uint32, label string, n int) (secret.Bytes, error) {
	for {
		k, err := kr.get(purpose, generation)
		if err != nil {
			return secret.Bytes{}, err
		}
		if sub, ok, err := kr.deriveFrom(k, keyID{purpose, generation}, label, n); ok {
			return sub, err
		}
		// Forgotten in between: its bytes are zeros by now. Open it again, or learn that all are closed.
	}
}

func (kr *Keyring) deriveFrom(k *key, id keyID, label string, n int) (sub secret.Bytes, ok bool, err error) {
	kr.mu.RLock()
	defer kr.mu.RUnlock()
	if kr.keys[id] != k {
		return secret.Bytes{}, false, nil
	}
	sub, err = derive(k.raw, nil, "hizo/key/derive/v1/"+label, n)
	return sub, true, err
}

// MACSize is the length of a MAC.
const MACSize = sha256.Size

// MAC authenticates the body of a record that grants something (HMAC-SHA256 over domain, cluster, body).
func (kr *Keyring) MAC(generation uint32, domain string, body []byte) ([]byte, error) {
	k, err := kr.get(MAC, generation)
	if err != nil {
		return nil, err
	}
	return kr.hmac(&k.macs, domain, body, make([]byte, 0, MACSize)), nil
}

// VerifyMAC returns ErrMAC unless mac is what MAC makes of the same arguments.
func (kr *Keyring) VerifyMAC(generation uint32, domain string, body, mac []byte) error {
	k, err := kr.get(MAC, generation)
	if err != nil {
		return err
	}
	var buf [MACSize]byte
	if !hmac.Equal(kr.hmac(&k.macs, domain, body, buf[:0]), mac) {
		return ErrMAC
	}
	return nil
}

// FingerprintSize is the length of a fingerprint.
const FingerprintSize = 16

// Fingerprint is a keyed digest: equal bodies have equal fingerprints within one generation, and
// nobody without the key can try out bodies.
func (kr *Keyring) Fingerprint(generation uint32, domain string, body []byte) ([]byte, error) {
	k, err := kr.get(Fingerprint, generation)
	if err != nil {
		return nil, err
	}
	return kr.hmac(&k.fps, domain, body, make([]byte, 0, sha256.Size))[:FingerprintSize], nil
}

// hmac hashes the aad tuple (domain, cluster, body) without building it.
func (kr *Keyring) hmac(pool *sync.Pool, domain string, body, dst []byte) []byte {
	h := pool.Get().(hash.Hash)
	defer pool.Put(h)
	h.Reset()
	var head [128]byte
	b := aad.AppendString(head[:0], domain)
	b = aad.AppendBytes(b, kr.cluster[:])
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	h.Write(b)
	h.Write(body)
	return h.Sum(dst)
}
