package fsmtest

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/fsm"
)

// Start is the cluster time at which built histories begin: an ordinary day, in Unix milliseconds.
const Start = 1_750_000_000_000

// Builder makes commands and log entries. The zero Builder is ready and begins at index 1, term 1 and Start.
type Builder struct {
	Index, Term uint64
	Time        int64
	ids         uint64
}

// Entry makes the next log entry out of commands.
func (b *Builder) Entry(commands ...fsm.Command) *raft.Log {
	e := fsm.Entry{Time: b.Now()}
	for _, c := range commands {
		e.Records = append(e.Records, fsm.EncodeCommand(c))
	}
	return b.Log(e)
}

// Log makes the next log entry out of an entry.
func (b *Builder) Log(e fsm.Entry) *raft.Log {
	b.Index++
	b.Term = max(b.Term, 1)
	return &raft.Log{Index: b.Index, Term: b.Term, Type: raft.LogCommand, Data: fsm.EncodeEntry(e)}
}

// Now is the time of the next entry.
func (b *Builder) Now() int64 {
	if b.Time == 0 {
		b.Time = Start
	}
	return b.Time
}

// RequestID makes a UUIDv7 of now that was not made before.
func (b *Builder) RequestID() [16]byte {
	b.ids++
	return RequestID(b.Now(), b.ids)
}

// RequestID makes a UUIDv7 (RFC 9562 section 5.7) of a time in ms and a number.
func RequestID(ms int64, n uint64) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:8], uint64(ms)<<16)
	binary.BigEndian.PutUint64(id[8:], n)
	id[6], id[8] = 0x70, id[8]&0x3f|0x80
	return id
}

// Command makes a command that was allowed, with one audit record (unless it is a duty) and a request id.
func (b *Builder) Command(kind fsm.Kind, principal, action, resource string, body any) fsm.Command {
	c := fsm.Command{
		Kind: kind, Principal: principal, Body: fsm.EncodeBody(kind, body),
		Audits: []fsm.Audit{{Action: action, Resource: resource, Decision: fsm.Allowed, Policies: []string{"shipped"}}},
	}
	switch kind {
	case fsm.KindTick, fsm.KindMemberUpdate, fsm.KindDealPropose, fsm.KindDealCommit, fsm.KindDealAbort, fsm.KindDealRetire, fsm.KindCheckpoint,
		fsm.KindLeaseSweep:
		c.Audits = nil // duties leave no record
	}
	if kind != fsm.KindRecord && kind != fsm.KindRead && kind != fsm.KindInject {
		c.Request = b.RequestID()
		sum := sha256.Sum256(c.Body)
		c.Fingerprint = sum[:8]
	}
	return c
}

// Read makes a read of references, with an audit record for each.
func (b *Builder) Read(principal string, refs ...fsm.Ref) fsm.Command {
	c := b.Command(fsm.KindRead, principal, "reveal", "", fsm.ReadVersions{Refs: refs})
	c.Audits = nil
	for _, r := range refs {
		c.Audits = append(c.Audits, fsm.Audit{
			Action: "reveal", Resource: r.Vault + "/" + r.Path, Decision: fsm.Allowed, Policies: []string{"shipped"},
			Generation: 1, Sealed: []byte("sealed"),
		})
	}
	return c
}

// Genesis starts a cluster of the node n1, with an enrolment whose hash is HashOf("enrolment").
func (b *Builder) Genesis() fsm.Command {
	return b.Command(fsm.KindGenesis, "anonymous", "genesis", "cluster", fsm.Genesis{
		Cluster: fsm.Cluster{
			ID: [16]byte{1, 2, 3}, Name: "test", RootGeneration: 1, RootID: []byte("root"), MACGeneration: 1,
			AuditGeneration: 1, AuditPublicKey: []byte("audit"), OperatorRoot: []byte("sealed root"),
		},
		Member: fsm.Member{
			ID: "n1", PeerAddr: "n1:1", ClientAddr: "n1:2", Key: Key("n1"), SealKind: "pkcs11", Approved: true,
		},
		Keys: []fsm.WrappedKey{
			{Purpose: "mac", Generation: 1, RootGeneration: 1, Ciphertext: []byte("mac 1")},
			{Purpose: "audit", Generation: 1, RootGeneration: 1, Ciphertext: []byte("audit 1")},
		},
		Enrolment: fsm.Enrolment{
			Hash: HashOf("enrolment"), Roles: []string{fsm.RoleSecurityEngineer}, Expires: b.Now() + 3_600_000,
		},
	})
}

// Enrol makes name a SecurityEngineer by the enrolment of Genesis; the token's hash is HashOf(token).
func (b *Builder) Enrol(name, token string) fsm.Command {
	return b.Command(fsm.KindEnrol, "anonymous", "enrol", "user/"+name, fsm.Enrol{
		Hash: HashOf("enrolment"), User: fsm.User{Name: name, Password: []byte("sealed"), Generation: 1},
		Roles: []fsm.RoleBinding{{Role: fsm.RoleSecurityEngineer, Principal: "user/" + name, By: "enrolment"}},
		Token: b.Token("user/"+name, token),
	})
}

// Token makes a token of one hour, renewable to a day.
func (b *Builder) Token(principal, token string) fsm.Token {
	return fsm.Token{
		Hash: HashOf(token), Principal: principal, Method: "password", Issued: b.Now(),
		Expires: b.Now() + 3_600_000, MaxExpires: b.Now() + 24*3_600_000, MAC: []byte("mac"),
	}
}

// Vault makes a vault with its first key.
func (b *Builder) Vault(name string) fsm.Command {
	return b.Command(fsm.KindVaultCreate, "user/alice", "vault.create", name, fsm.VaultCreate{
		Vault: fsm.Vault{Name: name, Generation: 1, MAC: []byte("mac")},
		Key:   fsm.WrappedKey{Purpose: "vault/" + name, Generation: 1, RootGeneration: 1, Ciphertext: []byte("key")},
	})
}

// Put puts a version of a secret, whatever the current one is.
func (b *Builder) Put(vault, path string, version uint32) fsm.Command {
	return b.Command(fsm.KindSecretPut, "user/alice", "put", vault+"/"+path, fsm.SecretPut{
		Vault: vault, Path: path, Version: version, CAS: -1, Data: Sealed(vault, path, version),
	})
}

// Sealed is a stand-in for a ciphertext under generation 1.
func Sealed(vault, path string, version uint32) fsm.SealedValue {
	sum := HashOf(vault + "/" + path + string(rune(version)))
	return fsm.SealedValue{Format: 1, Generation: 1, WrappedKey: sum, Ciphertext: append([]byte("ciphertext "), sum...)}
}

// HashOf is the hash of a credential.
func HashOf(credential string) []byte {
	sum := sha256.Sum256([]byte(credential))
	return sum[:]
}

// Key is a stand-in for a node's PKIX key.
func Key(node string) []byte { return []byte("key of " + node) }

// Fingerprint is the SHA-256 of Key.
func Fingerprint(node string) []byte {
	sum := sha256.Sum256(Key(node))
	return sum[:]
}
