package fsm

import "strings"

// roleSet is every role binding of one principal, sorted by role.
type roleSet struct {
	Bindings []RoleBinding
	Changed  uint64
}

// policyMark carries the index of the last change to any policy.
type policyMark struct{ Changed uint64 }

// generation counts how often all tokens of a principal were revoked at once, and how often all its certificates and
// secret ids. What was issued under another count is dead, so revoking all is one write, however many there are.
type generation struct {
	Count       uint64 // of tokens
	Credentials uint64 // of client certificates and one-time secret ids
	Changed     uint64
}

// storedToken is a token with the count of its principal's generation when it was issued.
type storedToken struct {
	Token      Token
	Generation uint64
}

// keyHead is the newest generation of a key purpose.
type keyHead struct {
	Purpose string
	Current uint32
	Changed uint64
}

// marker is an object without content: the index holder/ROLE/PRINCIPAL, and the expiry index.
type marker struct{}

// storedVersion is the description of a version as stored; its stage follows from the head of its path.
type storedVersion struct {
	Number    uint32
	Created   int64
	By        string
	Deleted   int64
	Destroyed bool
	Size      uint32
}

// request is the memory of one mutation.
type request struct {
	Fingerprint []byte
	Code        Code
	Version     uint32
	Index       uint64
	Time        int64
	Token       []byte // Login, Enrol: hash of the token it stored last
	ClientKey   []byte // Login
}

func (o *Cluster) changed() uint64     { return o.Changed }
func (o *Deal) changed() uint64        { return o.Changed }
func (o *Member) changed() uint64      { return o.Changed }
func (o *WrappedKey) changed() uint64  { return o.Changed }
func (o *Vault) changed() uint64       { return o.Changed }
func (o *Secret) changed() uint64      { return o.Changed }
func (o *User) changed() uint64        { return o.Changed }
func (o *Workload) changed() uint64    { return o.Changed }
func (o *storedToken) changed() uint64 { return o.Token.Changed }
func (o *SecretID) changed() uint64    { return o.Changed }
func (o *Enrolment) changed() uint64   { return o.Changed }
func (o *Policy) changed() uint64      { return o.Changed }
func (o *JoinToken) changed() uint64   { return o.Changed }
func (o *Certificate) changed() uint64 { return o.Changed }
func (o *roleSet) changed() uint64     { return o.Changed }
func (o *policyMark) changed() uint64  { return o.Changed }
func (o *generation) changed() uint64  { return o.Changed }
func (o *keyHead) changed() uint64     { return o.Changed }

// Objects that no read set names.
func (*SealedValue) changed() uint64   { return 0 }
func (*storedVersion) changed() uint64 { return 0 }
func (*Checkpoint) changed() uint64    { return 0 }
func (o *KeyRotation) changed() uint64 { return o.Changed }
func (o *OperatorSet) changed() uint64 { return o.Changed }
func (*signerSet) changed() uint64     { return 0 }
func (*request) changed() uint64       { return 0 }
func (*marker) changed() uint64        { return 0 }

func (o *Cluster) cost() int {
	return 512 + len(o.CA) + len(o.OperatorDeal) + len(o.OperatorKey) + len(o.OperatorRoot) + len(o.AuditPublicKey)
}
func (o *Deal) cost() int          { return 256 + len(o.Body) + len(o.Root) + 64*len(o.Members) }
func (o *Member) cost() int        { return 384 + len(o.ClientCert) + len(o.Key) }
func (o *WrappedKey) cost() int    { return 256 + len(o.Ciphertext) }
func (o *Vault) cost() int         { return 192 }
func (o *Secret) cost() int        { return 128 + len(o.Path) }
func (o *User) cost() int          { return 256 + len(o.Password) }
func (o *Workload) cost() int      { return 192 }
func (o *storedToken) cost() int   { return 320 + 128*len(o.Token.Claims) }
func (o *SecretID) cost() int      { return 384 }
func (o *Enrolment) cost() int     { return 256 }
func (o *Policy) cost() int        { return 256 + len(o.Text) }
func (o *JoinToken) cost() int     { return 256 }
func (o *Certificate) cost() int   { return 320 }
func (o *roleSet) cost() int       { return 64 + 256*len(o.Bindings) }
func (o *policyMark) cost() int    { return 16 }
func (o *generation) cost() int    { return 16 }
func (o *keyHead) cost() int       { return 64 }
func (o *SealedValue) cost() int   { return 96 + len(o.WrappedKey) + len(o.Ciphertext) }
func (o *storedVersion) cost() int { return 128 }
func (o *Checkpoint) cost() int    { return 256 + 160*len(o.Signatures) }
func (o *KeyRotation) cost() int   { return 256 + len(o.Cron) + len(o.Zone) + len(o.Window) }
func (o *OperatorSet) cost() int   { return 512 + len(o.Deal) + 8<<10*len(o.Files) }
func (o *signerSet) cost() int     { return 64 + 192*len(o.Signers) }
func (o *request) cost() int       { return 256 }
func (*marker) cost() int          { return 0 }

// newObject returns a zero object for the key called name, nil where nothing of that name is stored.
func newObject(name string) object {
	switch kind, _, _ := strings.Cut(name, "/"); kind {
	case ObjCluster:
		return new(Cluster)
	case ObjLevel:
		return new(level)
	case ObjRecovered:
		return new(Recovery)
	case "givenup":
		return new(GivenUp)
	case "user":
		return new(User)
	case "workload":
		return new(Workload)
	case "roles":
		return new(roleSet)
	case "holder", "expiry":
		return new(marker)
	case "generation":
		return new(generation)
	case "token":
		return new(storedToken)
	case "secretid":
		return new(SecretID)
	case "enrolment":
		return new(Enrolment)
	case "jointoken":
		return new(JoinToken)
	case "certificate":
		return new(Certificate)
	case ObjPolicies:
		return new(policyMark)
	case "policy":
		return new(Policy)
	case "vault":
		return new(Vault)
	case "secret":
		return new(Secret)
	case "version":
		return new(storedVersion)
	case "data":
		return new(SealedValue)
	case "key":
		return new(keyHead)
	case "keygen":
		return new(WrappedKey)
	case "member":
		return new(Member)
	case ObjMembership:
		return new(Membership)
	case "deal":
		return new(Deal)
	case "checkpoint":
		return new(Checkpoint)
	case ObjIssuers, ObjClaimBindings:
		return new(policyMark)
	case "issuer":
		return new(Issuer)
	case "claimbinding":
		return new(ClaimBinding)
	case "assertion":
		return new(assertion)
	case "keyrotation":
		return new(KeyRotation)
	case "operators":
		return new(OperatorSet)
	case "signers":
		return new(signerSet)
	case "request":
		return new(request)
	case "pipeline":
		return new(Pipeline)
	case "runner":
		return new(runner)
	case "sealrevocation":
		return new(SealRevocation)
	case "consumer":
		return new(consumer)
	case "using":
		return new(marker)
	case keyConsumers:
		return new(consumerCount)
	case ObjBackup:
		return new(Backup)
	case "leaserole":
		return new(LeaseRole)
	case "leaseterms":
		return new(leaseTerms)
	case "lease":
		return new(Lease)
	case "leasemark":
		return new(leaseMark)
	case "leasedue", "leasequeue", "leasedead", "leaseof":
		return new(marker)
	case "rotation":
		return new(Rotation)
	case "rotated":
		return new(RotationRecord)
	case ObjRotations:
		return new(policyMark)
	case "event":
		return new(Event)
	case keyEvents:
		return new(eventMark)
	}
	return nil
}

func encodeObject(o object) []byte { return encode(objectFormat, o) }

func decodeObject(name string, data []byte) (object, error) {
	o := newObject(name)
	if o == nil {
		return nil, &UnknownFormatError{What: "object prefix"}
	}
	if err := formatOf("object", data, objectFormat); err != nil {
		return nil, err
	}
	if err := decode(data[1:], o); err != nil {
		return nil, err
	}
	return o, nil
}

// remembered says whether objects of this name are worth a place in the cache. Those that are looked up once are not.
func remembered(name string) bool {
	return !strings.HasPrefix(name, prefixRequest) && !strings.HasPrefix(name, prefixExpiry) &&
		!strings.HasPrefix(name, prefixHolder) && !strings.HasPrefix(name, prefixUsing) &&
		!strings.HasPrefix(name, prefixLease) && !leaseIndex(name) &&
		!strings.HasPrefix(name, "rotated/")
}
