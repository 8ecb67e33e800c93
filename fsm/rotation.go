package fsm

// Rotation of a secret: its schedule and, while one is under way, the attempt. Each step of an attempt is a record, so
// whoever leads next reads here what has been done and goes on from there.
//
//	          target.Stage        Apply           Verify                        grace        Retire
//	(idle) ───────────────> staged ────> applied ────> verified ──> promoted ──────> retiring ────> (idle)
//	                          │             │   ^          │
//	                          └─────────────┴───┼──────────┘ it will not get better by itself
//	                                        giving up ──────> (idle), the new value destroyed
//
// The new value is in the state, encrypted, from the first record on, before anything outside changes; it never changes
// afterwards, so a call at the target that is made twice or comes late sets what is there already. Whatever a crash
// leaves outside is covered by doing the step again: all steps are idempotent for one attempt.
//
// On disk:
//
//	rotation/ vault / path                    Rotation
//	rotated/  vault / path NUL be32(number)   RotationRecord, the newest MaxRotationRecords
//	rotations                                 policyMark: the last change to any schedule by a person

// Limits of rotations, part of the replicated behaviour as those of limits.go.
const (
	MaxRotationOptions = 32   // options of one target
	MaxRotationOption  = 8192 // bytes of one option: a certificate, or two
	MaxRotationText    = 1024 // bytes of one failure
	MaxRotationRecords = 50   // ended attempts kept of one secret
)

// RotationState is how far an attempt has come. Numbers are part of the log format.
type RotationState uint8

// States.
const (
	RotationIdle     RotationState = 0
	RotationStaged   RotationState = 1 // the new value is pending
	RotationApplied  RotationState = 2 // the target took it
	RotationVerified RotationState = 3 // it logs in
	RotationPromoted RotationState = 4 // it is current; the old one is still valid
	RotationRetiring RotationState = 5 // the old one may go
	RotationGivingUp RotationState = 6 // the target refuses the new value for good
	RotationRetired  RotationState = 7 // finished. Only in records
	RotationGivenUp  RotationState = 8 // ended without a new value. Only in records
	RotationDropped  RotationState = 9 // ended without anybody knowing what the target has: both values are kept. Only in records
)

// RotationOption is one option of a rotation's target.
type RotationOption struct{ Name, Value string }

// Rotation is the schedule of one secret and its attempt.
type Rotation struct {
	Vault, Path string

	// What a person set; under the MAC, because it says where values are sent.
	Target       string // kind of target
	Options      []RotationOption
	Every        int64 // ms
	Cron         string
	Zone         string
	Window       string
	Grace        int64 // ms that the old value stays valid at least
	Wait         bool  // for consumers that use the old version
	Deadline     int64 // ms after which the old value goes, whoever uses it; for Wait
	RevokeIssued bool  // end what the old value was good for
	By           string
	MAC          []byte

	Paused    bool
	Requested bool  // a person asked for an attempt now
	NextRun   int64 // cluster time of the next attempt

	Number   uint32 // attempts begun so far
	Attempt  RotationAttempt
	Tries    uint32 // failed ones at the present step
	RetryAt  int64  // no earlier than
	Failure  string // of the last try; holds no value
	FailedAt int64
	Created  int64
	Changed  uint64
}

// RotationAttempt is an attempt under way; State is RotationIdle if there is none.
type RotationAttempt struct {
	ID        [16]byte
	State     RotationState
	Version   uint32 // the new one
	Old       uint32 // current when the attempt began; 0: none
	Started   int64
	Since     int64 // when State began
	Promoted  int64
	Failures  uint32
	Requested bool   // by a person, not by the schedule
	Why       string // RotationRetiring: why the old value may go
}

// RotationRecord is an attempt that ended.
type RotationRecord struct {
	Number       uint32
	ID           [16]byte
	Version, Old uint32
	Started      int64
	Promoted     int64
	Ended        int64
	State        RotationState // RotationRetired, RotationGivenUp or RotationDropped
	Detail       string        // why the old value went, or what went wrong
	Failures     uint32
	Requested    bool
}

// MACDomain of a rotation.
func (Rotation) MACDomain() string { return MACDomainRotation }

// MACBody covers what a person set. The progress of an attempt is left out: it says which of the steps above comes next,
// and every one of them is harmless where it is not due.
func (r Rotation) MACBody() []byte {
	t := tuple(nil).text(r.Vault).text(r.Path).text(r.Target).number(uint64(len(r.Options)))
	for _, o := range r.Options {
		t = t.text(o.Name).text(o.Value)
	}
	return t.number(uint64(r.Every)).text(r.Cron).text(r.Zone).text(r.Window).number(uint64(r.Grace)).flag(r.Wait).
		number(uint64(r.Deadline)).flag(r.RevokeIssued).text(r.By)
}

// MACDomainRotation is the domain of a rotation's MAC.
const MACDomainRotation = "hizo/mac/rotation/1"

// Bodies of commands. Those of the engine (Stage, Advance, Fail, Use) carry the term.

// RotationSet stores the schedule of a secret. An attempt that is under way goes on, at the target as it is described now.
type RotationSet struct{ Rotation Rotation }

// RotationDelete removes a schedule. While an attempt is under way only Force does, and leaves the new value as an old
// version: whether the target has taken it is not known then.
type RotationDelete struct {
	Vault, Path string
	Force       bool
}

// RotationPause stops new attempts, or lets them begin again at NextRun.
type RotationPause struct {
	Vault, Path string
	Paused      bool
	NextRun     int64
}

// RotationRun asks for an attempt now. Result.Version is its number, or that of the one under way.
type RotationRun struct{ Vault, Path string }

// RotationStage begins an attempt: stores its value as a pending version. Version must be the path's next number.
type RotationStage struct {
	Vault, Path string
	ID          [16]byte
	Version     uint32
	Old         uint32 // the current version that the value was made from
	NextRun     int64
	Data        SealedValue
}

// RotationAdvance records that a step is done.
type RotationAdvance struct {
	Vault, Path string
	ID          [16]byte
	From, To    RotationState
}

// RotationFail records a failed try. Without an attempt (ID is zero) it was the making of the new value that failed.
type RotationFail struct {
	Vault, Path string
	ID          [16]byte
	From        RotationState
	Message     string // holds no value
	RetryAt     int64
	GiveUp      bool  // trying again does not help
	NextRun     int64 // GiveUp without an attempt: when the schedule is due next
}

// RotationUse releases values to a target: those that the step at hand needs. Result.Value is []VersionData in the order
// of Refs, each with an audit record; a pending version is released to its own attempt only.
type RotationUse struct {
	Vault, Path string
	ID          [16]byte
	Refs        []Ref
}

func (o *Rotation) changed() uint64       { return o.Changed }
func (o *RotationRecord) changed() uint64 { return 0 }
func (o *Rotation) cost() int {
	return 512 + len(o.Path) + len(o.Failure) + 64*len(o.Options)
}
func (o *RotationRecord) cost() int { return 192 + len(o.Detail) }

// ObjRotation names the rotation of a secret.
func ObjRotation(vault, path string) string { return "rotation/" + vault + "/" + path }

// ObjRotations changes when a person changes any schedule.
const ObjRotations = "rotations"

func objRotated(vault, path string, number uint32) string {
	return rotatedPrefix(vault, path) + string(be32(number))
}

func rotatedPrefix(vault, path string) string { return "rotated/" + vault + "/" + path + "\x00" }

// Rotation returns the rotation of a secret.
func (s *Store) Rotation(vault, path string) (Rotation, bool) {
	return read[Rotation](s, ObjRotation(vault, path))
}

// Rotations lists all rotations by vault and path.
func (s *Store) Rotations() []Rotation { return list[Rotation](s, "rotation/") }

// RotationHistory lists the attempts of a secret that ended, oldest first.
func (s *Store) RotationHistory(vault, path string) []RotationRecord {
	return list[RotationRecord](s, rotatedPrefix(vault, path))
}
