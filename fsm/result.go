package fsm

// Code is the outcome of a command in Apply.
type Code uint8

// Codes. Numbers are part of the audit format.
const (
	CodeOK                   Code = 1
	CodeSuperseded           Code = 2 // something the decision rested on changed: decide again
	CodeRequestReused        Code = 3 // the request id was used for another request
	CodeRequestExpired       Code = 4 // the request id is older than the memory of requests: outcome unknown
	CodeNotFound             Code = 5
	CodeExists               Code = 6
	CodeConflict             Code = 7 // compare-and-set did not match; Result.Version is the current one
	CodeDeleted              Code = 8
	CodeDestroyed            Code = 9
	CodeExpired              Code = 10 // token, secret id, enrolment or join token
	CodeUsed                 Code = 11 // one-time credential was used before
	CodeInvalid              Code = 12
	CodeLastSecurityEngineer Code = 13
	CodeKeyExhausted         Code = 14 // MaxWraps reached: rotate the vault's key
	CodeSealed               Code = 15
	CodeFenced               Code = 16 // a duty command of another term
	CodeClock                Code = 17 // cluster time would jump: propose ClockJump first
	CodeDenied               Code = 18
	CodeInitialised          Code = 19
	CodeLimit                Code = 20
	CodeRotating             Code = 21 // a rotation of the secret is under way
	CodeLevel                Code = 22 // beyond the cluster's level, or beyond a member's build
)

// Result of one command.
type Result struct {
	Code      Code
	Index     uint64 // Raft index it took effect at (a duplicate: the first one's)
	Time      int64  // cluster time
	Version   uint32 // secret version written, or the current one on CodeConflict
	Audit     uint64 // sequence of the (first) audit leaf
	Duplicate bool   // answered from the memory of requests
	Changed   string // on CodeSuperseded: the object that had changed
	Value     any    // []VersionData for KindRead
}
