package fsm

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

func TestSmoke(t *testing.T) {
	s, err := Open(Options{Dir: "d", FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	g := Command{Kind: KindGenesis, Principal: "anonymous", Audits: []Audit{{Action: "init", Decision: Allowed}}, Body: EncodeBody(KindGenesis, Genesis{Cluster: Cluster{ID: [16]byte{1}}, Member: Member{ID: "n1", Key: []byte("k")}})}
	v := Command{Kind: KindVaultCreate, Principal: "user/a", Audits: []Audit{{Action: "vault", Decision: Allowed}}, Body: EncodeBody(KindVaultCreate, VaultCreate{Vault: Vault{Name: "ml", Generation: 1}, Key: WrappedKey{Purpose: "vault/ml", Generation: 1, Ciphertext: []byte("c")}})}
	p := Command{Kind: KindSecretPut, Principal: "user/a", Audits: []Audit{{Action: "put", Decision: Allowed}}, Body: EncodeBody(KindSecretPut, SecretPut{Vault: "ml", Path: "a/b", Version: 1, CAS: -1, Data: SealedValue{Generation: 1, WrappedKey: []byte("k"), Ciphertext: []byte("c")}})}
	r := Command{Kind: KindRead, Principal: "user/a", Audits: []Audit{{Action: "reveal", Decision: Allowed}}, Body: EncodeBody(KindRead, ReadVersions{[]Ref{{Vault: "ml", Path: "a/b"}}})}
	e := Entry{Time: 1000}
	for _, c := range []Command{g, v, p, r} {
		e.Records = append(e.Records, EncodeCommand(c))
	}
	t.Logf("%+v", s.Apply(&raft.Log{Index: 5, Term: 1, Data: EncodeEntry(e)}))
	t.Log(s.Secret("ml", "a/b"))
	t.Log(s.Versions("ml", "a/b"), s.Vaults(), s.Members(), s.Secrets("ml", "", "", 10))
	for r, err := range s.AuditRecords(0, 10) {
		t.Logf("%+v %v", r, err)
	}
	t.Log(s.TreeRoot(4))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
