package api

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/auth/issuer"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/api/seal"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/backup/keeper"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
)

// Error is an error as clients see it. Its message never holds a value, and says what to do next.
type Error struct {
	Reason  string // one of hizov1's reasons
	Message string // "" for the reason's own
	Info    map[string]string
	cause   error // for the server's log only
}

func (e *Error) Error() string {
	if e.Message == "" {
		return reasons[e.Reason].next
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.cause }

// GRPCStatus makes status.FromError and the gRPC server take the code and details from the table.
func (e *Error) GRPCStatus() *status.Status {
	s := status.New(reasons[e.Reason].code, e.Error())
	if with, err := s.WithDetails(&errdetails.ErrorInfo{Domain: hizov1.ErrorDomain, Reason: e.Reason, Metadata: e.Info}); err == nil {
		return with
	}
	return s
}

// reason is one row of the table: what a reason means on the wire, and which errors and outcomes it stands for.
type reason struct {
	code   codes.Code
	next   string     // what happened and what to do next, where the error says no better
	speaks bool       // the error's own text is fit for the client
	codes  []fsm.Code // outcomes of Apply
	errs   []error    // sentinels below this package
}

// reasons is the one table of errors: everything that leaves a service goes through it.
var reasons = map[string]reason{
	hizov1.ReasonNotLeader: {code: codes.Unavailable, next: "this node does not lead the cluster: send the request to the leader"},
	hizov1.ReasonSealed: {
		code: codes.Unavailable, next: "this node is sealed: operators unseal it with `hizo cluster unseal`",
		codes: []fsm.Code{fsm.CodeSealed}, errs: []error{cluster.ErrSealed, keyring.ErrClosed},
	},
	hizov1.ReasonNotInitialised: {
		code: codes.FailedPrecondition, next: "the cluster is not initialised: run `hizo cluster init` with this node's bootstrap file",
		errs: []error{cluster.ErrNotInitialised},
	},
	hizov1.ReasonAlreadyInitialised: {
		code: codes.FailedPrecondition, next: "the cluster is initialised already: log in, or join this node with a join token",
		codes: []fsm.Code{fsm.CodeInitialised}, errs: []error{cluster.ErrAlreadyInitialised},
	},
	hizov1.ReasonUnknownOutcome: {
		code: codes.Unknown, next: "it is not known whether the request took effect: retry with the same request id",
	},
	hizov1.ReasonSuperseded: {
		code: codes.Unavailable, next: "what the decision rested on kept changing: retry",
		codes: []fsm.Code{fsm.CodeSuperseded, fsm.CodeFenced}, errs: []error{keyring.ErrOtherRoot},
	},
	hizov1.ReasonUnauthenticated: {
		code: codes.Unauthenticated, next: "not logged in, or the login has ended: log in again",
		errs: []error{auth.ErrMalformedToken},
	},
	hizov1.ReasonPermissionDenied: {
		code: codes.PermissionDenied, next: "denied: `hizo policy explain` says which policies decide",
		codes: []fsm.Code{fsm.CodeDenied}, errs: []error{cluster.ErrNotAllowed},
	},
	hizov1.ReasonNotFound: {
		code: codes.NotFound, next: "there is no such thing, or no such version of it: check the name",
		codes: []fsm.Code{fsm.CodeNotFound}, errs: []error{cluster.ErrUnknownMember},
	},
	hizov1.ReasonDeleted: {
		code: codes.NotFound, next: "this version is deleted: `hizo secret undelete` brings it back",
		codes: []fsm.Code{fsm.CodeDeleted},
	},
	hizov1.ReasonDestroyed: {
		code: codes.NotFound, next: "this version is destroyed for good: ask for another version",
		codes: []fsm.Code{fsm.CodeDestroyed},
	},
	hizov1.ReasonExists: {
		code: codes.AlreadyExists, next: "it exists already: choose another name",
		codes: []fsm.Code{fsm.CodeExists},
	},
	hizov1.ReasonConflict: {
		code: codes.FailedPrecondition, next: "the secret changed in between: read the current version and decide again",
		codes: []fsm.Code{fsm.CodeConflict, fsm.CodeRotating},
	},
	hizov1.ReasonRequestReused: {
		code: codes.InvalidArgument, next: "the request id was used for another request: make a new one",
		codes: []fsm.Code{fsm.CodeRequestReused},
	},
	hizov1.ReasonRequestExpired: {
		code: codes.Aborted, next: "the request id is older than the cluster remembers, so its outcome is unknown: look before you repeat the request under a new id",
		codes: []fsm.Code{fsm.CodeRequestExpired},
	},
	hizov1.ReasonExpired: {
		code: codes.FailedPrecondition, next: "the one-time credential has expired: ask for a new one",
		codes: []fsm.Code{fsm.CodeExpired},
	},
	hizov1.ReasonUsed: {
		code: codes.FailedPrecondition, next: "the one-time credential was used before: ask for a new one, and find out who used it",
		codes: []fsm.Code{fsm.CodeUsed},
	},
	hizov1.ReasonInvalid: {
		code: codes.InvalidArgument, next: "the request is not valid: correct it", speaks: true,
		codes: []fsm.Code{fsm.CodeInvalid},
		errs: []error{
			name.ErrNotCanonical, policy.ErrDuplicate, hybrid.ErrPublicKey, shares.ErrThreshold, auth.ErrWeakPassword,
			cluster.ErrCSR, cluster.ErrJoinToken, cluster.ErrNoRecipients, shares.ErrRecipient,
			seal.ErrFormat, seal.ErrOpen, seal.ErrTooLarge, seal.ErrExpiry,
		},
	},
	hizov1.ReasonTooLarge: {
		code: codes.InvalidArgument, next: "the request is larger than a record of the log may be: send less",
		errs: []error{cluster.ErrTooLarge},
	},
	hizov1.ReasonRateLimited: {code: codes.ResourceExhausted, next: "too many requests: wait a moment, then retry"},
	hizov1.ReasonOverloaded: {
		code: codes.ResourceExhausted, next: "the cluster has more requests than it can commit: retry after a moment",
		errs: []error{cluster.ErrOverloaded, auth.ErrBusy},
	},
	hizov1.ReasonLimit: {
		code: codes.ResourceExhausted, next: "the cluster holds as many of these as it may: delete some first", speaks: true,
		codes: []fsm.Code{fsm.CodeLimit}, errs: []error{policy.ErrTooMany},
	},
	hizov1.ReasonLastSecurityEngineer: {
		code: codes.FailedPrecondition, next: "this is the last SecurityEngineer: make another one first",
		codes: []fsm.Code{fsm.CodeLastSecurityEngineer},
	},
	hizov1.ReasonLevel: {
		code: codes.FailedPrecondition, next: "this needs a feature level that not every node's hizod knows: upgrade the nodes that `hizo cluster members` shows at a lower level", speaks: true,
		codes: []fsm.Code{fsm.CodeLevel},
	},
	hizov1.ReasonKeyExhausted: {
		code: codes.FailedPrecondition, next: "the vault's key has wrapped as many data keys as is safe: rotate the vault's key",
		codes: []fsm.Code{fsm.CodeKeyExhausted},
	},
	hizov1.ReasonWrongShare: {
		code: codes.InvalidArgument, next: "this is not a share of the current deal: check what was entered", speaks: true,
		errs: []error{
			shares.ErrText, shares.ErrFormat, shares.ErrOtherCluster, shares.ErrOtherSet, shares.ErrOtherDeal,
			shares.ErrWrongShare, shares.ErrDuplicateShare,
		},
	},
	hizov1.ReasonClockSkew: {
		code: codes.Unavailable, next: "the leader's clock disagrees with the majority's: correct its clock, or retry once another node leads",
		codes: []fsm.Code{fsm.CodeClock}, errs: []error{cluster.ErrClockSkew},
	},
	hizov1.ReasonAnswerLost: {
		code: codes.Aborted, next: "the request took effect at its first try, and what it made is shown only once: repeat it under a new request id",
	},
	hizov1.ReasonBehind: {
		code: codes.Unavailable, next: "this node is behind the others, or sees no leader: use another one",
	},
	hizov1.ReasonCancelled: {code: codes.Canceled, next: "the request was cancelled before it took effect"},
	hizov1.ReasonShutdown: {
		code: codes.Unavailable, next: "this node is shutting down: use another one",
		errs: []error{cluster.ErrShutdown},
	},
	hizov1.ReasonTarget: {
		code: codes.FailedPrecondition, next: "a server outside the cluster did not do what was asked: see what it says, then try again",
	},
	hizov1.ReasonBackup: {
		code: codes.FailedPrecondition, next: "no backup was made: see why, then try again", speaks: true,
		errs: []error{cluster.ErrRootMoved, cluster.ErrUnvouched, keeper.ErrBusy},
	},
	hizov1.ReasonHandOver: {
		code: codes.FailedPrecondition, next: "leadership was not handed over: see why, then try again", speaks: true,
		errs: []error{cluster.ErrHandOver},
	},
	hizov1.ReasonDiskFull: {
		code: codes.Unavailable, next: "the disk of the node that leads is nearly full, and no other voter has room: free some space where its data_dir lies, then retry",
		errs: []error{cluster.ErrDiskFull},
	},
	hizov1.ReasonInternal: {code: codes.Internal, next: "internal error: the node's log says more"},
}

// byCode and byErr are the table read from the other side.
func byCode(c fsm.Code) string {
	for name, r := range reasons {
		for _, have := range r.codes {
			if have == c {
				return name
			}
		}
	}
	return hizov1.ReasonInternal
}

func bySentinel(err error) (string, bool) {
	for name, r := range reasons {
		for _, have := range r.errs {
			if errors.Is(err, have) {
				return name, true
			}
		}
	}
	return "", false
}

// toError gives any error the form that clients see. It returns nil for nil.
func toError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*cluster.NotLeaderError](err); ok {
		return &Error{Reason: hizov1.ReasonNotLeader, cause: err, Info: map[string]string{
			hizov1.InfoLeaderID: e.Leader.ID, hizov1.InfoLeaderAddr: e.Leader.ClientAddr,
		}}
	}
	if _, ok := errors.AsType[*cluster.UnknownOutcomeError](err); ok {
		return &Error{Reason: hizov1.ReasonUnknownOutcome, cause: err}
	}
	if e, ok := errors.AsType[*shares.WrongShareError](err); ok {
		return &Error{Reason: hizov1.ReasonWrongShare, Message: e.Error(), cause: err, Info: map[string]string{
			hizov1.InfoIndex: strconv.Itoa(int(e.Index)),
		}}
	}
	if e, ok := errors.AsType[*cluster.LevelError](err); ok {
		return &Error{Reason: hizov1.ReasonLevel, Message: e.Error(), cause: err}
	}
	if e, ok := errors.AsType[*policy.TextError](err); ok {
		return &Error{Reason: hizov1.ReasonInvalid, Message: e.Error(), cause: err, Info: map[string]string{hizov1.InfoField: "text"}}
	}
	if e, ok := errors.AsType[*issuer.ConfigError](err); ok {
		return &Error{Reason: hizov1.ReasonInvalid, Message: e.Error(), cause: err, Info: map[string]string{hizov1.InfoField: e.Field}}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &Error{Reason: hizov1.ReasonCancelled, cause: err}
	}
	if name, ok := bySentinel(err); ok {
		e := &Error{Reason: name, cause: err}
		if reasons[name].speaks {
			e.Message = err.Error()
		}
		return e
	}
	return &Error{Reason: hizov1.ReasonInternal, cause: err}
}

// outcome turns a result of Apply into the client's error; nil for CodeOK.
func outcome(r fsm.Result) error {
	if r.Code == fsm.CodeOK {
		return nil
	}
	e := &Error{Reason: byCode(r.Code)}
	if r.Code == fsm.CodeRotating {
		e.Message = "a rotation of this secret is under way: wait until it has finished (`hizo rotation status`), or end it with `hizo rotation delete --force`"
	}
	if r.Code == fsm.CodeConflict {
		e.Message = fmt.Sprintf("the current version is %d, not the one demanded: read it and decide again", r.Version)
		e.Info = map[string]string{hizov1.InfoCurrentVersion: strconv.FormatUint(uint64(r.Version), 10)}
	}
	return e
}

func invalid(field, format string, args ...any) *Error {
	return &Error{Reason: hizov1.ReasonInvalid, Message: fmt.Sprintf(format, args...), Info: map[string]string{hizov1.InfoField: field}}
}

func rateLimited(after time.Duration) *Error {
	return &Error{Reason: hizov1.ReasonRateLimited, Info: map[string]string{
		hizov1.InfoRetryAfter: strconv.FormatInt(max(1, after.Milliseconds()), 10),
	}}
}

// sealedByCommand says so on every node: none knows better, and waiting does not help.
func sealedByCommand() *Error {
	return &Error{
		Reason:  hizov1.ReasonSealed,
		Message: "the cluster was sealed by `hizo cluster seal`: operators unseal it with `hizo cluster unseal`",
		Info:    map[string]string{hizov1.InfoSealedBy: hizov1.SealedByCommand},
	}
}

func conflict(format string, args ...any) *Error {
	return &Error{Reason: hizov1.ReasonConflict, Message: fmt.Sprintf(format, args...)}
}

func fault(reason string) *Error { return &Error{Reason: reason} }

// named has an error that speaks of a thing name it. The caller was allowed to ask for it, by that name.
func named(err error, targets []target) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Message != "" || len(targets) != 1 || targets[0].name == "" {
		return err
	}
	if e.Reason != hizov1.ReasonNotFound && e.Reason != hizov1.ReasonExists {
		return err
	}
	n := *e
	n.Message = targets[0].name + ": " + reasons[e.Reason].next
	return &n
}
