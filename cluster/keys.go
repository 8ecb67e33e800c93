package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/fsm"
)

// keys is what an unsealed node holds, in memory only. The keyring is read on every request, so it is an
// atomic pointer; the root key is needed for dealing only.
type keys struct {
	ring    atomic.Pointer[keyring.Keyring]
	dropped chan struct{} // capacity 1: keys were there and are gone

	mu         sync.Mutex
	root       keyring.Root
	generation uint32
}

func (k *keys) sealed() bool { return k.ring.Load() == nil }

// install makes the node unsealed. It takes ownership of root.
func (k *keys) install(ring *keyring.Keyring, root keyring.Root, generation uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.ring.Swap(ring); old != nil {
		old.Close()
	}
	if k.root.Valid() {
		k.root.Wipe()
	}
	k.root, k.generation = root, generation
}

// seal wipes what Go lets us wipe. Calls under way with the keyring end with keyring.ErrClosed or as if
// they had come before.
func (k *keys) seal() (was bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.ring.Swap(nil)
	if old != nil {
		old.Close()
	}
	if k.root.Valid() {
		k.root.Wipe()
	}
	k.root = keyring.Root{}
	if old != nil {
		select {
		case k.dropped <- struct{}{}:
		default:
		}
	}
	return old != nil
}

// withRoot calls f with the root key, which f must not keep.
func (k *keys) withRoot(f func(root keyring.Root, generation uint32) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.root.Valid() {
		return ErrSealed
	}
	return f(k.root, k.generation)
}

// Keyring returns the keys, or ErrSealed.
func (n *Node) Keyring() (*keyring.Keyring, error) {
	if ring := n.keys.ring.Load(); ring != nil {
		return ring, nil
	}
	if !n.Initialised() {
		return nil, ErrNotInitialised
	}
	return nil, ErrSealed
}

// storedKeys finds wrapped keys in a state.
func storedKeys(store *fsm.Store) keyring.Loader {
	return func(purpose string, generation uint32) (keyring.WrappedKey, error) {
		k, ok := store.Key(purpose, generation)
		if !ok {
			return keyring.WrappedKey{}, keyring.ErrNoKey
		}
		return wrappedKey(k), nil
	}
}

func wrappedKey(k fsm.WrappedKey) keyring.WrappedKey {
	return keyring.WrappedKey{Purpose: k.Purpose, Generation: k.Generation, RootGeneration: k.RootGeneration, Ciphertext: k.Ciphertext}
}

func storedKey(k keyring.WrappedKey, created int64) fsm.WrappedKey {
	return fsm.WrappedKey{Purpose: k.Purpose, Generation: k.Generation, RootGeneration: k.RootGeneration, Ciphertext: k.Ciphertext, Created: created}
}

// errWrongRoot says that what was combined is not this cluster's root key.
var errWrongRoot = errors.New("the key that came out is not this cluster's root key")

// openRing opens the keyring under a root key that somebody claims to be the cluster's, after checking
// that it is: by its fingerprint, and by the MAC of the cluster record.
func (n *Node) openRing(root keyring.Root, cl fsm.Cluster) (*keyring.Keyring, error) {
	return openRing(root, cl, storedKeys(n.store))
}

func openRing(root keyring.Root, cl fsm.Cluster, load keyring.Loader) (*keyring.Keyring, error) {
	id := root.ID()
	if !bytes.Equal(id[:], cl.RootID) {
		return nil, errWrongRoot
	}
	ring, err := keyring.Open(root, cl.RootGeneration, cl.ID, load)
	if err != nil {
		return nil, fmt.Errorf("open the keyring: %w", err)
	}
	if err := verifyMAC(ring, cl.MACGeneration, fsm.MACDomainCluster, cl.MACBody(), cl.MAC); err != nil {
		ring.Close()
		return nil, fmt.Errorf("the cluster record: %w", err)
	}
	return ring, nil
}

func verifyMAC(ring *keyring.Keyring, generation uint32, domain string, body, mac []byte) error {
	return ring.VerifyMAC(generation, domain, body, mac)
}

// checkMember verifies a member's MAC while this node can.
func (n *Node) checkMember(m fsm.Member) error {
	ring := n.keys.ring.Load()
	if ring == nil {
		return nil
	}
	cl, _ := n.store.Cluster()
	if err := verifyMAC(ring, cl.MACGeneration, fsm.MACDomainMember, m.MACBody(), m.MAC); err != nil {
		return fmt.Errorf("member %s: %w", m.ID, err)
	}
	return nil
}
