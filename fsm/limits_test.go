package fsm

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// A key wraps MaxWraps data keys and not one more; a path ends where its numbers do. Neither is reached by doing it.
func TestExhaustion(t *testing.T) {
	s, err := Open(Options{Dir: "state", FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	index := uint64(0)
	apply := func(kind Kind, body any) Code {
		t.Helper()
		index++
		c := Command{Kind: kind, Principal: "user/a", Body: EncodeBody(kind, body), Audits: []Audit{{Action: "x", Decision: Allowed}}}
		return s.Apply(&raft.Log{Index: index, Term: 1, Data: EncodeEntry(Entry{Time: 1, Records: [][]byte{EncodeCommand(c)}})}).([]Result)[0].Code
	}
	change := func(name string, o object) {
		index++
		tx := newTx(s, index, 1)
		tx.put(name, o)
		tx.accept()
		tx.commit()
	}
	put := func(version uint32) Code {
		return apply(KindSecretPut, SecretPut{
			Vault: "ml", Path: "p", Version: version, CAS: -1, Data: SealedValue{Generation: 1, WrappedKey: []byte("k"), Ciphertext: []byte("c")},
		})
	}
	if apply(KindGenesis, Genesis{Cluster: Cluster{ID: [16]byte{1}}, Member: Member{ID: "n", Key: []byte("k")}}) != CodeOK ||
		apply(KindVaultCreate, VaultCreate{Vault: Vault{Name: "ml", Generation: 1}, Key: WrappedKey{Purpose: "vault/ml", Generation: 1, Ciphertext: []byte("k")}}) != CodeOK {
		t.Fatal("setup")
	}
	key, _ := s.Key("vault/ml", 1)
	key.Wraps = MaxWraps - 1
	change(objKeyGen("vault/ml", 1), &key)
	if code := put(1); code != CodeOK {
		t.Errorf("the last wrap came to %d", code)
	}
	if code := put(2); code != CodeKeyExhausted {
		t.Errorf("one more came to %d", code)
	}
	key.Wraps = 0
	change(objKeyGen("vault/ml", 1), &key)
	head, _ := s.Secret("ml", "p")
	head.Next, head.Current, head.Oldest = 1<<32-1, 1<<32-2, 1<<32-2
	change(ObjSecret("ml", "p"), &head)
	if code := put(1<<32 - 1); code != CodeLimit {
		t.Errorf("the version after the last came to %d", code)
	}
}

// The cache stays within its budget, and what left it is read again.
func TestCacheIsBounded(t *testing.T) {
	c := newCache(10_000)
	for i := range 1000 {
		c.put(string(rune('a'+i%26))+string(be64(uint64(i))), &Policy{Text: "text"})
		if c.used > c.limit {
			t.Fatalf("%d bytes of %d", c.used, c.limit)
		}
	}
	if n := len(c.byName); n == 0 || n > 50 {
		t.Errorf("%d objects are kept", n)
	}
	c.put("x", &Policy{Name: "1"})
	for i := range 15 {
		c.put(string(be64(uint64(i))), nil)
		if o, known := c.get("x"); !known || o.(*Policy).Name != "1" {
			t.Fatal("what is used all the time left first")
		}
	}
	if o, known := c.get(string(be64(14))); !known || o != nil {
		t.Error("absence is not remembered")
	}
}

// The switch in dispatch and the one in NewBody name the same kinds.
func TestEveryKindIsApplied(t *testing.T) {
	s, err := Open(Options{Dir: "state", FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, kind := range Kinds() {
		body, _ := NewBody(kind)
		tx := newTx(s, 1, 1)
		tx.overlay = map[string]object{ObjCluster: &Cluster{ID: [16]byte{1}}}
		if out := tx.dispatch(&Command{Kind: kind}, body, nil, true); out.Code == 0 {
			t.Errorf("kind %d has no outcome", kind)
		}
	}
}
