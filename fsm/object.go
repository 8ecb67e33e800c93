package fsm

import (
	"encoding/hex"
	"strings"
	"unicode/utf8"
)

// The name of an object is its key in the store as well, so what a read set names and what the disk holds can't drift
// apart. Names keep the order of their parts; hashes are hex.

// ObjCluster is the cluster record: seal flag, epochs, generations.
const ObjCluster = "cluster"

// ObjPolicies changes whenever any policy is put or deleted.
const ObjPolicies = "policies"

// ObjUser names a user.
func ObjUser(name string) string { return "user/" + name }

// ObjWorkload names a workload.
func ObjWorkload(name string) string { return "workload/" + name }

// ObjPrincipal names the record behind a principal such as "user/alice".
func ObjPrincipal(principal string) string { return principal }

// ObjRoles names all role bindings of a principal; it changes when any of them does.
func ObjRoles(principal string) string { return "roles/" + principal }

// ObjToken names a token by its hash. Its index is 0 once it is revoked.
func ObjToken(hash []byte) string { return "token/" + hex.EncodeToString(hash) }

// ObjSecretID names a one-time secret id by its hash.
func ObjSecretID(hash []byte) string { return "secretid/" + hex.EncodeToString(hash) }

// ObjEnrolment names a one-time enrolment by its hash.
func ObjEnrolment(hash []byte) string { return "enrolment/" + hex.EncodeToString(hash) }

// ObjJoinToken names a join token by its hash.
func ObjJoinToken(hash []byte) string { return "jointoken/" + hex.EncodeToString(hash) }

// ObjCertificate names a client certificate by the SHA-256 of its PKIX public key.
func ObjCertificate(key []byte) string { return "certificate/" + hex.EncodeToString(key) }

// ObjPolicy names one policy.
func ObjPolicy(name string) string { return "policy/" + name }

// ObjVault names a vault.
func ObjVault(name string) string { return "vault/" + name }

// ObjSecret names a path of a vault.
func ObjSecret(vault, path string) string { return "secret/" + vault + "/" + path }

// ObjKey names a key purpose; it changes when a generation is added.
func ObjKey(purpose string) string { return "key/" + purpose }

// ObjMember names a member.
func ObjMember(id string) string { return "member/" + id }

// Names that read sets have no use for.
const (
	prefixHolder      = "holder/"      // role / principal: who holds a role
	prefixGeneration  = "generation/"  // principal: how often its tokens were revoked all at once
	prefixKeyGen      = "keygen/"      // purpose NUL be32(generation)
	prefixVersion     = "version/"     // vault / path NUL be32(number): description
	prefixData        = "data/"        // the same: ciphertext
	prefixDeal        = "deal/"        // be64(epoch)
	prefixCheckpoint  = "checkpoint/"  // be64(size)
	prefixKeyRotation = "keyrotation/" // subject
	prefixSigners     = "signers/"     // be64(size of the tree from which on they sign)
	prefixRequest     = "request/"     // request id (16 bytes), principal
	prefixExpiry      = "expiry/"      // be64(time in ms), object name
	prefixLeaf        = "leaf/"        // be64(seq)
	prefixHash        = "hash/"        // be64(seq): the hashes that leaf completed
	prefixConsumer    = "consumer/"    // principal / id
	prefixUsing       = "using/"       // vault / path NUL principal / id
	keyConsumers      = "consumers"    // how many there are; below it, of one principal
	prefixEvent       = "event/"       // be64(index) be32(ordinal)
	keyEvents         = "events"       // how many there are, and from where on
	keyEpoch          = "epoch"        // be64: of the history, changed by the restore of a backup
	keyTime           = "time"         // be64(cluster time in ms)
	keySize           = "size"         // be64(leaves of the audit tree)
)

// Node-local keys, left out of the canonical hash. They sort before everything replicated.
const (
	localPrefix        = "\x00"
	localPosition      = "\x00position"
	localConfiguration = "\x00configuration"
	localRestored      = "\x00restored" // be64: index of the state that the last restore brought
)

func objConsumerCount(principal string) string { return keyConsumers + "/" + principal }

func objGeneration(principal string) string   { return prefixGeneration + principal }
func objHolder(role, principal string) string { return prefixHolder + role + "/" + principal }
func objDeal(epoch uint64) string             { return prefixDeal + string(be64(epoch)) }
func objCheckpoint(size uint64) string        { return prefixCheckpoint + string(be64(size)) }

func objSigners(size uint64) string { return prefixSigners + string(be64(size)) }

func objKeyGen(purpose string, generation uint32) string {
	return prefixKeyGen + purpose + "\x00" + string(be32(generation))
}

func objVersion(vault, path string, number uint32) string {
	return versionPrefix(vault, path) + string(be32(number))
}

func versionPrefix(vault, path string) string {
	return prefixVersion + vault + "/" + path + "\x00"
}

func objData(vault, path string, number uint32) string {
	return prefixData + vault + "/" + path + "\x00" + string(be32(number))
}

func objRequest(id [16]byte, principal string) string {
	return prefixRequest + string(id[:]) + principal
}

func objExpiry(at int64, object string) string {
	return prefixExpiry + string(be64(uint64(at))) + object
}

// segment says whether s can be one part of an object's name. The door (api/name) is much stricter; this check only
// keeps keys injective whatever the door lets through.
func segment(s string) bool { return multi(s) && !strings.Contains(s, "/") }

// multi says whether s can be the last, possibly many-part, part of an object's name.
func multi(s string) bool {
	return s != "" && len(s) <= MaxName && utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}

// principal says whether s names a principal: kind and name.
func principal(s string) bool {
	kind, name, found := strings.Cut(s, "/")
	return found && segment(kind) && segment(name)
}

// hashed says whether h can be the hash of a credential.
func hashed(h []byte) bool { return len(h) >= 16 && len(h) <= 64 }
