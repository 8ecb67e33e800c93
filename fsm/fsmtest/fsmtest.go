// Package fsmtest is a test kit for the state machine: builders of commands, a generator of random ones, and the checks
// that every replica must pass at any time.
package fsmtest

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/hizo/hizo/fsm"
)

// Hash is the canonical hash of the replicated state: equal on all replicas at one index.
func Hash(s *fsm.Store) ([32]byte, error) {
	sum := sha256.New()
	var length [8]byte
	err := s.Replicated(func(key, value []byte) error {
		for _, b := range [][]byte{key, value} {
			binary.BigEndian.PutUint64(length[:], uint64(len(b)))
			sum.Write(length[:])
			sum.Write(b)
		}
		return nil
	})
	return [32]byte(sum.Sum(nil)), err
}

// Check checks each store by itself and, where two are at one index, that they hold the same.
func Check(t testing.TB, stores ...*fsm.Store) {
	t.Helper()
	type state struct {
		hash  [32]byte
		store int
	}
	seen := map[uint64]state{}
	for i, s := range stores {
		if err := s.Verify(); err != nil {
			t.Errorf("store %d at %+v: %v", i, s.Position(), err)
		}
		hash, err := Hash(s)
		if err != nil {
			t.Errorf("store %d: %v", i, err)
			continue
		}
		at := s.Position().Index
		if before, ok := seen[at]; ok && before.hash != hash {
			t.Errorf("stores %d and %d differ at index %d", before.store, i, at)
			explain(t, stores[before.store], s)
		}
		seen[at] = state{hash, i}
	}
}

// explain names the first keys that differ.
func explain(t testing.TB, a, b *fsm.Store) {
	t.Helper()
	left := map[string]string{}
	_ = a.Replicated(func(key, value []byte) error {
		left[string(key)] = string(value)
		return nil
	})
	shown := 0
	show := func(key string, a, b string) {
		if shown++; shown <= 10 {
			t.Logf("%q:\n  %x\n  %x", key, a, b)
		}
	}
	_ = b.Replicated(func(key, value []byte) error {
		if left[string(key)] != string(value) {
			show(string(key), left[string(key)], string(value))
		}
		delete(left, string(key))
		return nil
	})
	for key, value := range left {
		show(key, value, "")
	}
}
