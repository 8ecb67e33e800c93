package fsm

import (
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// The checks that replicas are judged by find each kind of damage.
func TestVerifyFindsDamage(t *testing.T) {
	for name, c := range map[string]struct {
		key     string
		object  object // nil: the key is removed
		problem string
	}{
		"hash":           {prefixHash + string(be64(1)), nil, "hashes"},
		"leaf":           {prefixLeaf + string(be64(1)), nil, "leaves"},
		"version":        {objVersion("ml", "p", 1), nil, "lacks version"},
		"data":           {objData("ml", "p", 1), nil, "ciphertext is there"},
		"head":           {ObjSecret("ml", "p"), &Secret{Vault: "ml", Path: "p", Current: 1, Oldest: 1, Next: 3}, "secret"},
		"key":            {objKeyGen("vault/ml", 1), nil, "is missing"},
		"holder":         {objHolder("Auditor", "user/x"), &marker{}, "without a role binding"},
		"expiry":         {objExpiry(5, "token/00"), &marker{}, "which is not there"},
		"token":          {"token/00", &storedToken{Token: Token{Principal: "user/none"}}, "disabled"},
		"later than P":   {ObjPolicies, &policyMark{Changed: 99}, "after the last entry"},
		"request":        {prefixRequest + strings.Repeat("x", 16) + "user/x", &request{}, "remembered"},
		"event":          {objEvent(1, 0), nil, "are counted"},
		"event's place":  {objEvent(1, 0), &Event{Index: 1, Ordinal: 3, Kind: EventPut}, "out of place"},
		"other in cache": {ObjVault("ml"), &Vault{Name: "ml", Generation: 1, Created: 7}, "in the cache"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(Options{Dir: "state", FS: vfs.NewMem()})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			e := Entry{Time: 1}
			for _, c := range []struct {
				kind Kind
				body any
			}{
				{KindGenesis, Genesis{Cluster: Cluster{ID: [16]byte{1}}, Member: Member{ID: "n", Key: []byte("k")}}},
				{KindVaultCreate, VaultCreate{Vault: Vault{Name: "ml", Generation: 1}, Key: WrappedKey{Purpose: "vault/ml", Generation: 1, Ciphertext: []byte("k")}}},
				{KindSecretPut, SecretPut{Vault: "ml", Path: "p", Version: 1, CAS: -1, Data: SealedValue{Generation: 1, WrappedKey: []byte("k"), Ciphertext: []byte("c")}}},
			} {
				e.Records = append(e.Records, EncodeCommand(Command{
					Kind: c.kind, Principal: "user/a", Body: EncodeBody(c.kind, c.body), Audits: []Audit{{Action: "x", Decision: Allowed}},
				}))
			}
			s.Apply(&raft.Log{Index: 1, Term: 1, Data: EncodeEntry(e)})
			if err := s.Verify(); err != nil {
				t.Fatal(err)
			}
			if c.object == nil {
				err = s.db.Delete([]byte(c.key), pebble.NoSync)
			} else {
				err = s.db.Set([]byte(c.key), encodeObject(c.object), pebble.NoSync)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Verify(); err == nil || !strings.Contains(err.Error(), c.problem) {
				t.Errorf("%v", err)
			}
		})
	}
}
