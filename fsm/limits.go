package fsm

import "time"

// Limits of the log format. They are part of the replicated behaviour: every build of one cluster must have the same.
const (
	MaxEntry    = 256 << 10 // soft: a group commit stops gathering here
	MaxRecord   = 1 << 20   // one encoded command
	MaxReads    = 256       // objects in one read set
	MaxRefs     = 256       // references (and audit leaves) of one command
	MaxName     = 1024      // bytes in the name of an object
	MaxRecords  = 4096      // records in one entry
	MaxVersions = 100       // versions kept of one secret; one more forgets the oldest
	MaxKeys     = 5000      // key generations; see below
	MaxRewraps  = 256       // data keys that one command rewraps
	MaxEvents   = 100_000   // events kept for watchers; one more drops the oldest
	MaxSeen     = 4096      // consumers in one record of heartbeats

	MaxConsumers     = 20_000 // registered consumers
	MaxConsumersEach = 2000   // of one principal
	MaxConsumerID    = 128    // bytes
	MaxUses          = 64     // secrets of one consumer

	MaxWraps = 1 << 31 // data keys under one key generation (random 96-bit nonces, NIST SP 800-38D section 8.3)
)

// MaxKeys keeps RootRotate, which carries every generation rewrapped, within one record. A generation takes at most 183
// bytes there: purpose "vault/" and 64 characters with its head 72, two generations 10, ciphertext 61 with its head 63,
// creation, wraps, live and change 36, retired 1, the array 1. So 5,000 take 915,000 of the 1,048,576 bytes of MaxRecord. The
// rest has room for 255 provers of 66 bytes, and for 600 more generations of audit and gossip keys, which a rotation adds
// even when it can't renew the vaults' any more.

// Times, all in cluster time.
const (
	RequestMemory  = 24 * time.Hour   // how long a mutation's request id is remembered
	MaxClockStep   = 5 * time.Minute  // the furthest one entry may move cluster time without a ClockJump
	TokenMemory    = time.Hour        // how long an expired token stays, so that its owner learns that it expired
	MinConsumerTTL = 10 * time.Second // how soon a consumer may go stale, and how late
	MaxConsumerTTL = 24 * time.Hour
	ConsumerMemory = time.Hour // how long a stale consumer is still shown

	OneTimeMemory = 24 * time.Hour // how long one-time credentials stay past their expiry, for retries
)

// RoleSecurityEngineer is the role that must never be without an enabled holder.
const RoleSecurityEngineer = "SecurityEngineer"
