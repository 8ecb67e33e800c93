package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// Every encoding is one format byte followed by go-msgpack with structs as arrays. A field is never moved, removed or
// added within one format number: a build that does not know a number stops, it never guesses.

// BodyFormat is the format version of command bodies this build writes.
const BodyFormat = 1

// objectFormat is the format version of stored objects this build writes.
const objectFormat = 1

// UnknownFormatError says that a record was written by another version of Hizo. A node can't skip it: it would
// diverge from the others.
type UnknownFormatError struct {
	What string // "entry", "command", …
	Got  uint64
}

func (e *UnknownFormatError) Error() string {
	return fmt.Sprintf("unknown %s %d: written by another version of Hizo; install that version on this node", e.What, e.Got)
}

// ErrMalformed says that bytes are not what they claim to be.
var ErrMalformed = errors.New("malformed encoding")

// handle is never written after start-up.
var handle = func() *codec.MsgpackHandle {
	h := new(codec.MsgpackHandle)
	h.WriteExt = true // strings and bytes apart, as msgpack has had them since 2013
	h.StructToArray = true
	h.Canonical = true
	h.PositiveIntUnsigned = true // one form for a number, whatever the field's type
	h.ErrorIfNoArrayExpand = true
	h.ErrorIfNoField = true
	h.MaxDepth = 16
	h.MaxInitLen = 256 // a declared length allocates no more than this before bytes back it
	return h
}()

var (
	encoders = sync.Pool{New: func() any { return codec.NewEncoderBytes(nil, handle) }}
	decoders = sync.Pool{New: func() any { return codec.NewDecoderBytes(nil, handle) }}
)

func encode(format byte, v any) []byte {
	e := encoders.Get().(*codec.Encoder)
	defer encoders.Put(e)
	out := make([]byte, 0, 256)
	e.ResetBytes(&out)
	e.MustEncode(format)
	if v != nil {
		e.MustEncode(v)
	}
	return out
}

func decode(data []byte, v any) (err error) {
	d := decoders.Get().(*codec.Decoder)
	defer decoders.Put(d)
	d.ResetBytes(data)
	if err := d.Decode(v); err != nil {
		// The library's text may quote input, and input may be anything: it stays out of logs.
		return ErrMalformed
	}
	if d.NumBytesRead() != len(data) {
		return fmt.Errorf("%w: %d bytes left over", ErrMalformed, len(data)-d.NumBytesRead())
	}
	return nil
}

func formatOf(what string, data []byte, known byte) error {
	if len(data) == 0 {
		return fmt.Errorf("%w: empty %s", ErrMalformed, what)
	}
	if data[0] != known {
		return &UnknownFormatError{What: what + " format", Got: uint64(data[0])}
	}
	return nil
}

// EncodeEntry encodes an entry for raft.Apply.
func EncodeEntry(e Entry) []byte {
	if e.Time < 0 {
		return encode(EntryFormat, &e)
	}
	return writeEntry(&e)
}

// DecodeEntry is the inverse of EncodeEntry. The records stay encoded and may share memory with data.
func DecodeEntry(data []byte) (Entry, error) {
	var e Entry
	if err := formatOf("entry", data, EntryFormat); err != nil {
		return e, err
	}
	if !readEntry(data[1:], &e) {
		e = Entry{}
		if err := decode(data[1:], &e); err != nil {
			return e, err
		}
	}
	if len(e.Records) > MaxRecords {
		return e, fmt.Errorf("%w: %d records in one entry", ErrMalformed, len(e.Records))
	}
	return e, nil
}

// EncodeCommand encodes a command. Command.Format is written as CommandFormat whatever it says.
func EncodeCommand(c Command) []byte { return writeCommand(&c) }

// DecodeCommand is the inverse of EncodeCommand. What it returns may share memory with data.
func DecodeCommand(data []byte) (Command, error) {
	c := Command{}
	if len(data) > MaxRecord {
		return c, fmt.Errorf("%w: a record of %d bytes, at most %d", ErrMalformed, len(data), MaxRecord)
	}
	if err := formatOf("command", data, CommandFormat); err != nil {
		return c, err
	}
	if !readCommand(data[1:], &c) {
		c = Command{}
		if err := decode(data[1:], &c); err != nil {
			return c, err
		}
	}
	c.Format = data[0]
	return c, nil
}

// EncodeBody encodes the body of a command. body may be the type that kind names in command.go or a pointer to it; it
// is nil for kinds without one. A body of another type is a programming error and panics.
func EncodeBody(kind Kind, body any) []byte {
	want, known := NewBody(kind)
	if !known {
		panic(fmt.Sprintf("fsm: no command has kind %d", kind))
	}
	if want == nil {
		if body != nil {
			panic(fmt.Sprintf("fsm: kind %d has no body, got %T", kind, body))
		}
		return nil
	}
	have := reflect.TypeOf(body)
	if have != reflect.TypeOf(want) && reflect.PointerTo(have) != reflect.TypeOf(want) {
		panic(fmt.Sprintf("fsm: kind %d has body %T, got %T", kind, want, body))
	}
	return encode(BodyFormat, body)
}

// DecodeBody is the inverse of EncodeBody; it returns a pointer to the kind's body type, or nil.
func DecodeBody(kind Kind, data []byte) (any, error) {
	body, known := NewBody(kind)
	if !known {
		return nil, &UnknownFormatError{What: "command kind", Got: uint64(kind)}
	}
	if body == nil {
		if len(data) != 0 {
			return nil, fmt.Errorf("%w: kind %d has no body", ErrMalformed, kind)
		}
		return nil, nil
	}
	if err := formatOf("body", data, BodyFormat); err != nil {
		return nil, err
	}
	if read, ok := body.(*ReadVersions); ok {
		if readReadVersions(data[1:], read) {
			return read, nil
		}
		*read = ReadVersions{}
	}
	if err := decode(data[1:], body); err != nil {
		return nil, err
	}
	return body, nil
}

// NewBody returns a pointer to a zero body of kind, nil for a kind without one, and whether the kind is known.
func NewBody(kind Kind) (body any, known bool) {
	switch kind {
	case KindRecord:
		return nil, true
	case KindGenesis:
		return new(Genesis), true
	case KindTick:
		return new(Tick), true
	case KindClockJump:
		return new(ClockJump), true
	case KindRead:
		return new(ReadVersions), true
	case KindSecretPut:
		return new(SecretPut), true
	case KindSecretDelete, KindSecretRestore, KindSecretDestroy:
		return new(SecretVersions), true
	case KindVaultCreate:
		return new(VaultCreate), true
	case KindKeyAdd:
		return new(KeyAdd), true
	case KindUserPut:
		return new(UserPut), true
	case KindUserDisable:
		return new(PrincipalDisable), true
	case KindRoleGrant:
		return new(RoleBinding), true
	case KindRoleRevoke:
		return new(RoleRevoke), true
	case KindWorkloadPut:
		return new(WorkloadPut), true
	case KindSecretIDPut:
		return new(SecretIDPut), true
	case KindLogin:
		return new(Login), true
	case KindTokenRevoke:
		return new(TokenRevoke), true
	case KindTokenRenew:
		return new(TokenRenew), true
	case KindEnrol:
		return new(Enrol), true
	case KindEnrolmentPut:
		return new(EnrolmentPut), true
	case KindCertificate:
		return new(Certificate), true
	case KindPolicyPut:
		return new(PolicyPut), true
	case KindPolicyDelete:
		return new(PolicyDelete), true
	case KindJoinTokenPut:
		return new(JoinTokenPut), true
	case KindMemberJoin:
		return new(MemberJoin), true
	case KindMemberApprove:
		return new(MemberApprove), true
	case KindMemberUpdate:
		return new(MemberUpdate), true
	case KindMemberRemove:
		return new(MemberRemove), true
	case KindQuarantine:
		return new(Quarantine), true
	case KindDealPropose:
		return new(DealPropose), true
	case KindDealCommit:
		return new(DealCommit), true
	case KindDealAbort:
		return new(DealAbort), true
	case KindDealRetire:
		return new(DealRetire), true
	case KindShareRelease:
		return new(ShareRelease), true
	case KindSealFlag:
		return new(SealFlag), true
	case KindUnsealed:
		return new(Unsealed), true
	case KindRootRotate:
		return new(RootRotate), true
	case KindCheckpoint:
		return new(Checkpoint), true
	case KindConsumerPut:
		return new(ConsumerPut), true
	case KindConsumerAck:
		return new(ConsumerAck), true
	case KindConsumerLeave:
		return new(ConsumerLeave), true
	case KindConsumerSeen:
		return new(ConsumerSeen), true
	case KindPipelinePut:
		return new(PipelinePut), true
	case KindPipelineDelete:
		return new(PipelineDelete), true
	case KindSealRevoke:
		return new(SealRevocation), true
	case KindInject:
		return new(Injection), true
	case KindIssuerPut:
		return new(IssuerPut), true
	case KindIssuerDelete:
		return new(IssuerDelete), true
	case KindClaimBindingPut:
		return new(ClaimBindingPut), true
	case KindClaimBindingDelete:
		return new(ClaimBindingDelete), true
	case KindLeaseRolePut:
		return new(LeaseRolePut), true
	case KindLeaseRoleDelete:
		return new(LeaseRoleDelete), true
	case KindLeaseCreate:
		return new(LeaseCreate), true
	case KindLeaseActivate:
		return new(LeaseActivate), true
	case KindLeaseRenew:
		return new(LeaseRenew), true
	case KindLeaseRevoke:
		return new(LeaseRevoke), true
	case KindLeaseSweep:
		return new(LeaseSweep), true
	case KindLeaseOutcomes:
		return new(LeaseOutcomes), true
	case KindLeaseRetry, KindLeaseForget:
		return new(DeadLeases), true
	case KindRotationSet:
		return new(RotationSet), true
	case KindRotationDelete:
		return new(RotationDelete), true
	case KindRotationPause:
		return new(RotationPause), true
	case KindRotationRun:
		return new(RotationRun), true
	case KindRotationStage:
		return new(RotationStage), true
	case KindRotationAdvance:
		return new(RotationAdvance), true
	case KindRotationFail:
		return new(RotationFail), true
	case KindRotationUse:
		return new(RotationUse), true
	case KindKeySchedule:
		return new(KeySchedule), true
	case KindKeyRotationBegin:
		return new(KeyRotationBegin), true
	case KindKeyRewrap:
		return new(KeyRewrap), true
	case KindKeyRetire:
		return new(KeyRetire), true
	case KindOperatorsPropose:
		return new(OperatorsPropose), true
	case KindOperatorsConfirm:
		return new(OperatorsConfirm), true
	case KindOperatorsCommit:
		return new(OperatorsCommit), true
	case KindBackup:
		return new(Backup), true
	case KindBackupKept:
		return new(BackupKept), true
	case KindOperatorsAbort:
		return new(OperatorsAbort), true
	case KindLevelRaise:
		return new(LevelRaise), true
	case KindMemberVote:
		return new(MemberVote), true
	case KindMembershipSet:
		return new(MembershipSet), true
	case KindRecovered:
		return new(Recovered), true
	}
	return nil, false
}

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
func be64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// Kinds lists every kind of command this build knows, in order.
func Kinds() []Kind {
	var kinds []Kind
	for k := range Kind(256) {
		if _, known := NewBody(k); known {
			kinds = append(kinds, k)
		}
	}
	return kinds
}
