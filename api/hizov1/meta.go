// Package hizov1 is the wire contract between clients and the cluster: generated messages and services,
// and the names that go with them.
package hizov1

// Metadata keys of every call.
const (
	MetaAuthorization = "authorization"   // "Bearer hizo_…"
	MetaRequestID     = "hizo-request-id" // UUIDv7, the same over all retries of one mutation
	// MetaLeaderGone is the address (leader_addr) of a leader that the client could not reach: a node that believes
	// in it waits a moment for the next one, rather than sending the client there again.
	MetaLeaderGone = "hizo-leader-gone"
)

// ServerName is what every node's client certificate names beside the node itself, so that a
// connection spliced by a follower verifies as well.
const ServerName = "cluster.hizo.internal"

// Services of the health service beside those of the API.
const (
	HealthReady  = "hizo.ready"  // a member, unsealed, a leader is known
	HealthLive   = "hizo.live"   // the process answers
	HealthLeader = "hizo.leader" // ready, and leads
)

// AudiencePrefix and the cluster's id in hex are the audience of tokens by which workloads log in, unless their issuer is
// configured with another one.
const AudiencePrefix = "hizo:"

// ErrorDomain is the domain of the google.rpc.ErrorInfo that every error carries.
const ErrorDomain = "hizo"

// Reasons of errors. They are stable: programs may compare them.
const (
	ReasonNotLeader            = "NOT_LEADER" // metadata leader_id, leader_addr; both empty while there is none
	ReasonSealed               = "SEALED"     // metadata sealed_by=command where it lasts until operators unseal
	ReasonNotInitialised       = "NOT_INITIALISED"
	ReasonAlreadyInitialised   = "ALREADY_INITIALISED"
	ReasonUnknownOutcome       = "UNKNOWN_OUTCOME" // retry with the same request id
	ReasonSuperseded           = "SUPERSEDED"
	ReasonUnauthenticated      = "UNAUTHENTICATED"
	ReasonPermissionDenied     = "PERMISSION_DENIED"
	ReasonNotFound             = "NOT_FOUND"
	ReasonExists               = "EXISTS"
	ReasonConflict             = "CONFLICT" // metadata current_version
	ReasonRequestReused        = "REQUEST_REUSED"
	ReasonRequestExpired       = "REQUEST_EXPIRED"
	ReasonInvalid              = "INVALID" // metadata field, where one field is at fault
	ReasonTooLarge             = "TOO_LARGE"
	ReasonRateLimited          = "RATE_LIMITED" // metadata retry_after_ms
	ReasonOverloaded           = "OVERLOADED"
	ReasonLimit                = "LIMIT" // a count in the state is at its bound
	ReasonLastSecurityEngineer = "LAST_SECURITY_ENGINEER"
	ReasonKeyExhausted         = "KEY_EXHAUSTED"
	ReasonLevel                = "LEVEL" // a node's build does not know this yet
	ReasonDeleted              = "DELETED"
	ReasonDestroyed            = "DESTROYED"
	ReasonExpired              = "EXPIRED"
	ReasonUsed                 = "USED"
	ReasonWrongShare           = "WRONG_SHARE" // metadata index
	ReasonClockSkew            = "CLOCK_SKEW"
	ReasonAnswerLost           = "ANSWER_LOST" // the request took effect before, its one-time answer can't be repeated
	ReasonBehind               = "BEHIND"      // this node has not come as far as it would have to: use another one
	ReasonCancelled            = "CANCELLED"
	ReasonShutdown             = "SHUTDOWN"
	ReasonBackup               = "BACKUP"    // none was made
	ReasonTarget               = "TARGET"    // a server outside the cluster did not do what was asked
	ReasonHandOver             = "HAND_OVER" // leadership did not go where it was asked to go
	ReasonDiskFull             = "DISK_FULL" // the leader's, and no other voter has room
	ReasonInternal             = "INTERNAL"
)

// Metadata keys of google.rpc.ErrorInfo.
const (
	InfoLeaderID       = "leader_id"
	InfoLeaderAddr     = "leader_addr"
	InfoCurrentVersion = "current_version"
	InfoField          = "field"
	InfoRetryAfter     = "retry_after_ms"
	InfoIndex          = "index"
	InfoSealedBy       = "sealed_by" // SealedByCommand, or absent: nodes may be unsealing each other
	InfoMissing        = "missing"   // PERMISSION_DENIED: what would have to be granted
)

// SealedByCommand is the value of InfoSealedBy after `hizo cluster seal`.
const SealedByCommand = "command"
