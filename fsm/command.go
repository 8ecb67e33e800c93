package fsm

// Kind names what a command does. Numbers are part of the log format: they are never reused or renumbered.
type Kind uint16

// Kinds of command. The comment names the body type that Command.Body encodes.
const (
	KindRecord        Kind = 1  // nil: audit only (denials, lists, failed logins, explain, …)
	KindGenesis       Kind = 2  // Genesis
	KindTick          Kind = 3  // Tick: cluster time moves on, expiry runs
	KindClockJump     Kind = 4  // ClockJump
	KindRead          Kind = 10 // ReadVersions: reveal and inject
	KindSecretPut     Kind = 11 // SecretPut
	KindSecretDelete  Kind = 12 // SecretVersions
	KindSecretRestore Kind = 13 // SecretVersions (undelete)
	KindSecretDestroy Kind = 14 // SecretVersions
	KindVaultCreate   Kind = 20 // VaultCreate
	KindKeyAdd        Kind = 21 // KeyAdd
	KindUserPut       Kind = 30 // UserPut
	KindUserDisable   Kind = 31 // PrincipalDisable
	KindRoleGrant     Kind = 32 // RoleBinding
	KindRoleRevoke    Kind = 33 // RoleRevoke
	KindWorkloadPut   Kind = 34 // WorkloadPut
	KindSecretIDPut   Kind = 35 // SecretIDPut
	KindLogin         Kind = 36 // Login
	KindTokenRevoke   Kind = 37 // TokenRevoke
	KindTokenRenew    Kind = 38 // TokenRenew
	KindEnrol         Kind = 39 // Enrol
	KindEnrolmentPut  Kind = 40 // EnrolmentPut
	KindCertificate   Kind = 41 // Certificate (client certificate issued)
	KindPolicyPut     Kind = 50 // PolicyPut
	KindPolicyDelete  Kind = 51 // PolicyDelete
	KindJoinTokenPut  Kind = 60 // JoinTokenPut
	KindMemberJoin    Kind = 61 // MemberJoin
	KindMemberApprove Kind = 62 // MemberApprove
	KindMemberUpdate  Kind = 63 // MemberUpdate (duty: address, client certificate)
	KindMemberRemove  Kind = 64 // MemberRemove
	KindQuarantine    Kind = 65 // Quarantine
	KindDealPropose   Kind = 70 // DealPropose
	KindDealCommit    Kind = 71 // DealCommit
	KindDealAbort     Kind = 72 // DealAbort
	KindDealRetire    Kind = 73 // DealRetire
	KindShareRelease  Kind = 74 // ShareRelease
	KindSealFlag      Kind = 75 // SealFlag
	KindUnsealed      Kind = 76 // Unsealed (audit of a node that unsealed)
	KindRootRotate    Kind = 77 // RootRotate
	KindCheckpoint    Kind = 80 // Checkpoint

	KindPipelinePut        Kind = 100 // PipelinePut
	KindPipelineDelete     Kind = 101 // PipelineDelete
	KindSealRevoke         Kind = 102 // SealRevocation
	KindInject             Kind = 103 // Injection: references and sealed values for one run
	KindIssuerPut          Kind = 110 // IssuerPut
	KindIssuerDelete       Kind = 111 // IssuerDelete
	KindClaimBindingPut    Kind = 112 // ClaimBindingPut
	KindClaimBindingDelete Kind = 113 // ClaimBindingDelete

	KindRotationSet     Kind = 120 // RotationSet
	KindRotationDelete  Kind = 121 // RotationDelete
	KindRotationPause   Kind = 122 // RotationPause
	KindRotationRun     Kind = 123 // RotationRun
	KindRotationStage   Kind = 124 // RotationStage (duty, as are the next three)
	KindRotationAdvance Kind = 125 // RotationAdvance
	KindRotationFail    Kind = 126 // RotationFail
	KindRotationUse     Kind = 127 // RotationUse: releases values to a target

	KindConsumerPut   Kind = 130 // ConsumerPut
	KindConsumerAck   Kind = 131 // ConsumerAck
	KindConsumerLeave Kind = 132 // ConsumerLeave
	KindConsumerSeen  Kind = 133 // ConsumerSeen

	KindLeaseRolePut    Kind = 140 // LeaseRolePut
	KindLeaseRoleDelete Kind = 141 // LeaseRoleDelete
	KindLeaseCreate     Kind = 142 // LeaseCreate
	KindLeaseActivate   Kind = 143 // LeaseActivate
	KindLeaseRenew      Kind = 144 // LeaseRenew
	KindLeaseRevoke     Kind = 145 // LeaseRevoke
	KindLeaseSweep      Kind = 146 // LeaseSweep (duty)
	KindLeaseOutcomes   Kind = 147 // LeaseOutcomes (duty)
	KindLeaseRetry      Kind = 148 // DeadLeases
	KindLeaseForget     Kind = 149 // DeadLeases

	KindKeySchedule      Kind = 150 // KeySchedule
	KindKeyRotationBegin Kind = 151 // KeyRotationBegin
	KindKeyRewrap        Kind = 152 // KeyRewrap (duty)
	KindKeyRetire        Kind = 153 // KeyRetire (duty)
	KindOperatorsPropose Kind = 154 // OperatorsPropose
	KindOperatorsConfirm Kind = 155 // OperatorsConfirm
	KindOperatorsCommit  Kind = 156 // OperatorsCommit (duty)
	KindOperatorsAbort   Kind = 157 // OperatorsAbort

	KindMemberVote    Kind = 160 // MemberVote
	KindMembershipSet Kind = 161 // MembershipSet

	KindLevelRaise Kind = 170 // LevelRaise
	KindRecovered  Kind = 171 // Recovered
	KindBackup     Kind = 180 // Backup (duty)
	KindBackupKept Kind = 181 // BackupKept (duty)
)

// EntryFormat is the format version of Entry this build writes.
const EntryFormat = 1

// Entry is one Raft log entry: the records one group commit gathered.
// On disk: one byte EntryFormat, then go-msgpack of the struct.
type Entry struct {
	Time    int64    // cluster time proposed by the leader, Unix milliseconds
	Records [][]byte // each an encoded Command; decoded one by one, so that a bad one spoils none of its neighbours
}

// CommandFormat is the format version of Command this build writes.
const CommandFormat = 1

// Command is one record of an entry. Everything random or dependent on a clock is in it already.
type Command struct {
	Format      uint8 `codec:"-"` // leading byte of the encoding; EncodeCommand writes CommandFormat
	Kind        Kind
	Principal   string   // "user/alice", "workload/train", "node/n1", "anonymous"
	Request     [16]byte // UUIDv7; zero for reads and duties, which are not remembered
	Fingerprint []byte   // keyed fingerprint of the request; the same id with another fingerprint is an error
	Term        uint64   // duty commands: the term they were decided in; other terms' are refused. 0: not fenced
	Reads       []Read   // what the decision rested on; any change means CodeSuperseded
	Audits      []Audit  // one leaf each; for KindRead one per reference, in order
	Body        []byte   // encoded body of Kind, with its own leading format byte
}

// Read names an object that a decision rested on and the index of its last change (0: it was absent).
type Read struct {
	Object string // see object.go
	Index  uint64
}

// Decision of a request, as the proposer made it.
type Decision uint8

// Decisions.
const (
	Allowed Decision = 1
	Denied  Decision = 2
	Failed  Decision = 3 // not authenticated, or refused before a decision
)

// Audit is what the proposer knows of an audit record; Apply adds sequence, time, version and outcome.
type Audit struct {
	Action     string // policy action, for example "reveal"
	Resource   string // "vault/path", "user/alice", …
	Decision   Decision
	Policies   []string // the deciding policies
	Detail     string   // readable extra that carries no value, for example a new member's public key
	Count      uint32   // attempts this record stands for; 0 means 1
	Generation uint32   // key generation of Sealed; 0: HPKE to the audit public key, or nothing sealed
	Sealed     []byte   // client address, claims, reason, request id: ciphertext
}

// Bodies of commands.

// Genesis starts a cluster. It is refused unless the state is empty.
type Genesis struct {
	Cluster   Cluster
	Member    Member
	Keys      []WrappedKey
	Enrolment Enrolment
	Level     uint32 // of the first node's build
}

// Tick moves cluster time on while nothing else does and runs expiry.
type Tick struct{}

// ClockJump lets cluster time move more than MaxClockStep at once.
type ClockJump struct {
	To       int64 // Unix milliseconds
	Readings []ClockReading
}

// ClockReading is one node's signed clock.
type ClockReading struct {
	Node      string
	Time      int64
	Signature []byte
}

// Ref names one version of a secret; Version 0 is the current one.
type Ref struct {
	Vault, Path string
	Version     uint32
}

// ReadVersions returns ciphertexts for release. Result.Value is []VersionData in the order of Refs.
type ReadVersions struct{ Refs []Ref }

// SecretPut appends a version. Version must be the path's next number, else CodeSuperseded.
// CAS < 0: unconditional; else the current version number it demands (0: must not exist), else CodeConflict.
type SecretPut struct {
	Vault, Path string
	Version     uint32
	CAS         int64
	Data        SealedValue
}

// SecretVersions names versions to delete, restore or destroy; empty means the current one.
type SecretVersions struct {
	Vault, Path string
	Versions    []uint32
}

// VaultCreate makes a vault with its first key generation.
type VaultCreate struct {
	Vault Vault
	Key   WrappedKey
}

// KeyAdd adds a key generation (and makes it the vault's, for a vault purpose).
type KeyAdd struct{ Key WrappedKey }

// UserPut creates or (Update) changes a user.
type UserPut struct {
	User      User
	Update    bool
	EndLogins bool   // revokes the user's tokens
	Keep      []byte // hash of one that stays
}

// PrincipalDisable disables a user or workload and revokes all its tokens, certificates and secret ids.
type PrincipalDisable struct {
	Principal string
	Disabled  bool
	MAC       []byte // over the principal's record with the new flag
}

// RoleRevoke takes a role away. Removing the last enabled SecurityEngineer is CodeLastSecurityEngineer.
type RoleRevoke struct{ Role, Principal string }

// WorkloadPut creates a workload.
type WorkloadPut struct{ Workload Workload }

// SecretIDPut stores a one-time secret id of a workload.
type SecretIDPut struct{ SecretID SecretID }

// Login stores a token, consuming a one-time secret id where SecretID is set.
// A retry with the same request id and client key revokes the first token and stores the new one.
type Login struct {
	Token     Token
	SecretID  []byte // hash, or empty
	ClientKey []byte // nonce hash the client chose for this login
	// Certificate is the key of the client certificate that the login rests on, or empty. It must be the principal's
	// and not revoked, and the token must not be renewable beyond it.
	Certificate []byte
	// Assertion is the hash of what a workload identity was proven by, until when it is good. Remembered where the
	// issuer's assertions log in once.
	Assertion        []byte
	AssertionExpires int64
	// AssertionIssued is before it can have logged in anywhere, by cluster time.
	AssertionIssued int64
}

// TokenRevoke revokes one token (Hash) or all of a principal, with Credentials also its client certificates and the
// one-time secret ids that were given out for it.
type TokenRevoke struct {
	Hash        []byte
	Principal   string
	Credentials bool
}

// TokenRenew moves a token's expiry; never beyond its MaxExpires.
type TokenRenew struct {
	Hash    []byte
	Expires int64
	MAC     []byte
}

// EnrolmentPut stores a one-time enrolment.
type EnrolmentPut struct{ Enrolment Enrolment }

// Enrol consumes an enrolment: creates the user and its roles, and stores a token.
type Enrol struct {
	Hash  []byte
	User  User
	Roles []RoleBinding
	Token Token
}

// Certificate records an issued client certificate (its key may log in as Principal until Expires).
type Certificate struct {
	Principal string
	Key       []byte // SHA-256 of the PKIX public key
	Serial    string
	Expires   int64
	MAC       []byte

	Generation uint64 // set by Apply: of the principal's credentials
	Changed    uint64 // set by Apply
}

// PolicyPut stores a policy.
type PolicyPut struct{ Policy Policy }

// PolicyDelete removes a policy.
type PolicyDelete struct{ Name string }

// JoinTokenPut stores a one-time join token.
type JoinTokenPut struct{ JoinToken JoinToken }

// MemberJoin consumes a join token and adds an unapproved member.
type MemberJoin struct {
	Token  []byte // hash
	Member Member
}

// MemberApprove admits a member's key to the share set.
type MemberApprove struct {
	ID  string
	Key []byte // the PKIX key that was approved; must be the member's
	MAC []byte
}

// MemberUpdate changes addresses or the client certificate.
type MemberUpdate struct{ Member Member }

// MemberRemove removes a member.
type MemberRemove struct{ ID string }

// Quarantine stops (or resumes) share releases to a member.
type Quarantine struct {
	ID  string
	On  bool
	MAC []byte
}

// DealPropose opens a deal. Its epoch is the Raft index of this record.
type DealPropose struct{ Deal Deal }

// DealCommit makes a proposed deal the current one: at a quorum of the new set and at least min(n, t+1) proofs.
type DealCommit struct {
	Epoch   uint64
	Provers []string
}

// DealAbort drops a proposed deal.
type DealAbort struct{ Epoch uint64 }

// DealRetire says that every prover has applied the commit: older share keys may be destroyed.
type DealRetire struct{ Epoch uint64 }

// RootRotate puts a new root key in force. Keys must hold every (purpose, generation) of the state, rewrapped, else
// CodeSuperseded; generations beyond those are new ones and become current. A vault's generation that never encrypted
// anything and is not current any more may be left out: it goes.
// Epoch != 0: the open deal, of the new root, is committed in the same record. Epoch 0: there is no node set any more.
type RootRotate struct {
	Epoch          uint64
	Provers        []string
	RootGeneration uint32 // the next one, else CodeSuperseded
	RootID         []byte
	OperatorRoot   []byte
	Keys           []WrappedKey
	MAC            []byte // of the cluster record as it will be
}

// ShareRelease records that Holder releases its share of Epoch to Node. Refused for a member that is
// unknown, not approved or quarantined (CodeDenied), and while the cluster is sealed by flag (CodeSealed).
type ShareRelease struct {
	Epoch  uint64
	Holder string
	Node   string
	Nonce  []byte // of this release, so that its holder recognises the record of it
}

// SealFlag seals the cluster (peers refuse shares, nodes drop their keys) or lifts that.
type SealFlag struct{ Sealed bool }

// Unsealed records that a node unsealed; Method is "quorum", "operators", or "handover" from a node that operators
// unsealed. With "operators" it lifts the seal flag, if Changed is still the Cluster's: a seal that came after the
// decision stands.
type Unsealed struct {
	Node, Method string
	Changed      uint64 // Cluster.Changed that the unsealing was decided on
}
