package fsm

// Cluster is the one record that describes the cluster. Readable to whoever owns a disk.
type Cluster struct {
	ID                 [16]byte
	Name               string
	Created            int64
	Development        bool
	RequireHardware    bool
	Sealed             bool // hizo cluster seal
	RootGeneration     uint32
	RootID             []byte // public fingerprint of the root key, to recognise a right one
	MACGeneration      uint32
	AuditGeneration    uint32
	AuditPublicKey     []byte    // HPKE; for records of a sealed node
	CA                 []byte    // PEM certificate of the client CA
	OperatorDeal       []byte    // crypto/shares.Deal, encoded
	OperatorKey        []byte    // HPKE public key derived from the operators' seed
	OperatorRoot       []byte    // root key sealed to OperatorKey
	OperatorRecipients []string  // age recipients of the operators, in the order of their shares
	Restored           []Restore // the restores from backups so far
	MAC                []byte

	NodeEpoch    uint64 // epoch of the committed deal; 0: no node set yet
	PendingEpoch uint64 // epoch of a proposed deal; 0: none
	RetiredBelow uint64 // share keys of older epochs may be destroyed
	Changed      uint64
}

// Deal is a dealing of node shares.
type Deal struct {
	Epoch          uint64 // Raft index of the proposal; set by Apply
	Body           []byte // crypto/shares.Deal, encoded: commitments
	Members        []string
	Threshold      int
	Root           []byte // root key wrapped under the key the shares open
	RootGeneration uint32
	Provers        []string
	Changed        uint64
}

// Member is a node of the cluster, pinned by its key.
type Member struct {
	ID          string
	PeerAddr    string
	ClientAddr  string
	Key         []byte // PKIX public key of the HSM identity
	SealKind    string // "pkcs11" or "software"
	Approved    bool
	Quarantined bool
	NonVoter    bool   // for good: it follows the log, has no vote and holds no share
	Joined      uint64 // Raft index, set by Apply
	ClientCert  []byte // PEM chain for the clients' port
	MAC         []byte // over ID, Key, SealKind, Approved, Quarantined, NonVoter
	Level       uint32 // the highest that its build knows, as it announced; 0 counts as 1
	Changed     uint64
}

// WrappedKey is one generation of a keyring key, wrapped by the root key.
type WrappedKey struct {
	Purpose        string
	Generation     uint32
	RootGeneration uint32
	Ciphertext     []byte
	Created        int64
	Wraps          uint64 // data keys wrapped so far; MaxWraps at most
	Live           uint64 // data keys that it wraps now
	Retired        bool
	Changed        uint64
}

// Vault is a dedicated store with keys of its own.
type Vault struct {
	Name       string
	Generation uint32 // current key generation of purpose "vault/<name>"
	Created    int64
	MAC        []byte
	Changed    uint64
}

// SealedValue is the ciphertext of one version.
type SealedValue struct {
	Format     uint8
	Generation uint32
	WrappedKey []byte
	Ciphertext []byte
}

// Stage of a version.
type Stage uint8

// Stages.
const (
	StagePending   Stage = 1
	StageCurrent   Stage = 2
	StagePrevious  Stage = 3
	StageOld       Stage = 4
	StageDestroyed Stage = 5
)

// Version describes one version of a secret; its ciphertext is stored beside it.
type Version struct {
	Number  uint32
	Stage   Stage
	Created int64
	By      string
	Deleted int64  // cluster time of a soft delete; 0: not deleted
	Size    uint32 // bytes of ciphertext
}

// Secret is the head of a path. Its versions are stored apart (Store.Versions), so that a put stays cheap
// however many there are.
type Secret struct {
	Vault, Path string
	Current     uint32 // 0: none
	Previous    uint32 // the one that was current before; 0: none
	Oldest      uint32 // number of the oldest version that is kept
	Next        uint32 // number of the next version; 1 for a path that never had one
	Pending     uint32 // a rotation's new version before it is promoted; 0: none
	Rotating    bool   // an attempt of a rotation is under way, the time of grace included
	Changed     uint64
}

// VersionData is what a read releases.
type VersionData struct {
	Ref     Ref // Version resolved
	Created int64
	Data    SealedValue
}

// User is a person.
type User struct {
	Name       string
	Password   []byte // argon2id PHC string sealed under keyring purpose "password"; empty: no password login
	Generation uint32
	Disabled   bool
	Created    int64
	MAC        []byte // over Name, SHA-256(Password), Disabled
	Changed    uint64
}

// Workload is a machine identity.
type Workload struct {
	Name     string
	Disabled bool
	Created  int64
	MAC      []byte
	Changed  uint64
}

// RoleBinding grants a role.
type RoleBinding struct {
	Role, Principal, By string
	Created             int64
	MAC                 []byte
	Changed             uint64
}

// Token is a bearer credential; only its hash is stored.
type Token struct {
	Hash       []byte
	Principal  string
	Method     string // "password", "secret-id", "certificate", "enrolment", "oidc", "spiffe"
	Issued     int64
	Expires    int64
	MaxExpires int64
	MAC        []byte

	// Of a workload identity: what the login rests on. The token is dead once either is gone.
	Issuer      string
	IssuerMade  uint64
	Binding     string
	BindingMade uint64
	Claims      []Claim // the verified ones that the binding names, sorted
	Changed     uint64
}

// SecretID is a one-time secret id of a workload.
type SecretID struct {
	Hash     []byte
	Workload string
	Expires  int64
	MAC      []byte

	UsedRequest [16]byte // login that consumed it
	UsedClient  []byte
	UsedToken   []byte
	Used        bool
	Generation  uint64 // set by Apply: of the workload's credentials
	Changed     uint64
}

// Enrolment is a one-time code that makes a user with roles.
type Enrolment struct {
	Hash    []byte
	Roles   []string
	Expires int64
	MAC     []byte
	Used    bool
	Changed uint64
}

// Policy is one Cedar policy document.
type Policy struct {
	Name    string
	Text    string
	By      string
	Created int64
	MAC     []byte
	Changed uint64
}

// JoinToken admits one named key once.
type JoinToken struct {
	Hash        []byte
	Node        string
	Fingerprint []byte // SHA-256 of the PKIX key that may use it
	Expires     int64
	NonVoter    bool // the node joins without a vote, for good
	Used        bool
	MAC         []byte
	Changed     uint64
}

// Checkpoint is a statement of the audit tree, signed by nodes. Body of KindCheckpoint too.
type Checkpoint struct {
	Origin     string
	Size       uint64
	Root       []byte
	Time       int64
	Signatures []Signature // sorted by node
}

// Signature is one node's over the checkpoint's note text.
type Signature struct {
	Node      string
	Signature []byte // ASN.1 ECDSA P-256 over SHA-256 of the note text
}

// AuditRecord is one leaf of the audit tree.
type AuditRecord struct {
	Seq        uint64 // leaf number, from 0
	Index      uint64 // Raft index
	Time       int64
	Principal  string
	Action     string
	Resource   string
	Version    uint32
	Decision   Decision
	Policies   []string
	Outcome    Code
	Detail     string
	Count      uint32
	Generation uint32
	Sealed     []byte
}
