package keyring

import "testing"

// A key that is forgotten between finding and using it is all zeros: no sub-key may come of it.
func TestDeriveFromForgotten(t *testing.T) {
	cluster := [16]byte{1}
	var keys []WrappedKey
	kr, err := Open(NewRoot(), 1, cluster, func(p string, gen uint32) (WrappedKey, error) { return Static(keys...)(p, gen) })
	if err != nil {
		t.Fatal(err)
	}
	w, err := kr.Generate(Gossip, 1)
	if err != nil {
		t.Fatal(err)
	}
	keys = append(keys, w)
	id := keyID{Gossip, 1}
	k, err := kr.get(id.purpose, id.generation)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := kr.deriveFrom(k, id, "x", 32); !ok || err != nil {
		t.Fatalf("before: %v, %v", ok, err)
	}
	kr.Forget(Gossip, 1)
	if _, ok, _ := kr.deriveFrom(k, id, "x", 32); ok {
		t.Error("derived from a forgotten key")
	}
	if _, err := kr.Derive(Gossip, 1, "x", 32); err != nil {
		t.Errorf("opened again: %v", err)
	}
	k, err = kr.get(id.purpose, id.generation)
	if err != nil {
		t.Fatal(err)
	}
	kr.Close()
	if _, ok, _ := kr.deriveFrom(k, id, "x", 32); ok {
		t.Error("derived from a closed keyring")
	}
}
