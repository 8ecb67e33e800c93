// Package target is what a rotation changes outside the cluster, and what a lease makes there: one file for each
// kind of server. Implementations keep no state of their own between calls, so whichever node leads next goes on
// where the last one stopped.
package target

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hizo/hizo/crypto/secret"
)

// Value is one version of a secret: field to bytes.
type Value = map[string]secret.Bytes

// Attempt is one attempt at rotating one secret. Its New value never changes once it is staged, so that a call that
// was made twice, or came late from a leader that had been stopped, sets nothing else than what is already there.
type Attempt struct {
	ID          [16]byte
	Vault, Path string
	Config      map[string]string // of the target, as `hizo rotation set --target KIND --option K=V` gave it; no secrets
	Admin       Value             // credentials of whoever may change the account; nil: the account changes its own
	Old         Value             // the current version; nil: there is none yet
	New         Value             // the staged version; nil in Stage
}

// Target changes an account outside the cluster. All calls are bounded by their context and idempotent for one
// attempt: the leader calls them again after a crash, an error or a time-out.
type Target interface {
	// Check says what is wrong with a configuration, before it is stored.
	Check(config map[string]string) error
	// Stage makes the next value. Nothing outside changes.
	Stage(ctx context.Context, a Attempt) (Value, error)
	// Apply makes the new value valid, beside the old one wherever the server can hold both.
	Apply(ctx context.Context, a Attempt) error
	// Verify logs in with the new value.
	Verify(ctx context.Context, a Attempt) error
	// Retire ends the old value where it is still valid.
	Retire(ctx context.Context, a Attempt) error
	// Fence ends what may still be running at the target for this attempt, so that another attempt may begin.
	Fence(ctx context.Context, a Attempt) error
}

// User is an account that a lease makes for one run.
type User struct {
	Name     string // made from the lease's id
	Password secret.Bytes
	Expires  time.Time         // a bound that the server keeps by itself where it can
	Config   map[string]string // of the lease role
	Admin    Value
}

// Users makes and drops accounts. Both calls are idempotent: creating an account that this lease has made sets its
// password again, dropping one that is not there is no error.
type Users interface {
	Check(config map[string]string) error
	Create(ctx context.Context, u User) error
	Renew(ctx context.Context, u User) error // moves the server's own bound to u.Expires
	Drop(ctx context.Context, u User) error  // ends its sessions as well
}

// ErrPermanent marks errors that trying again does not mend.
var ErrPermanent = errors.New("it will not get better by itself")

// Error is what went wrong at a target. It is stored in the state and shown to people: Message never holds a value,
// nor the text of a server that could repeat one.
type Error struct {
	Kind    string // of the target
	Stage   string // "stage", "apply", "verify", "retire", "fence", "create", "renew", "drop"
	Message string // what went wrong and what to do
	Err     error  // ErrPermanent, a context's error, or nil
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s: %s", e.Kind, e.Stage, e.Message) }

func (e *Error) Unwrap() error { return e.Err }
