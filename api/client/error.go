package client

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hizo/hizo/api/hizov1"
)

// Reasons that only a client gives, beside hizov1's.
const (
	ReasonUnreachable = "UNREACHABLE" // no node could be reached, or none answered, until the deadline
	ReasonTimeout     = "TIMEOUT"     // the context ended
)

// Error is the answer of the cluster, or that there was none. The call had no effect.
type Error struct {
	Reason   string            // one of hizov1's or this package's reasons; "" where the server named none
	Message  string            // says what to do next
	Metadata map[string]string // see hizov1.Info…
	Code     codes.Code
	Node     string // address of the node that answered
	cause    error
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the context's error where a deadline ended the call.
func (e *Error) Unwrap() error { return e.cause }

// GRPCStatus makes status.FromError work.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

// IsReason reports whether err is an Error of this reason.
func IsReason(err error, reason string) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Reason == reason
}

// UnknownOutcomeError says that a mutation may or may not have taken effect. Repeating it under the same
// request id is safe for 24 hours (see WithRequestID).
type UnknownOutcomeError struct {
	Method    string // "/hizo.v1.SecretService/Put"
	RequestID string
	Attempts  int
	Err       error // of the last attempt
}

func (e *UnknownOutcomeError) Error() string {
	return fmt.Sprintf("it is not known whether the request took effect (%s, request %s, %d attempts; last: %v): look before you repeat it",
		e.Method[strings.LastIndexByte(e.Method, '/')+1:], e.RequestID, e.Attempts, e.Err)
}

// Unwrap returns the error of the last attempt.
func (e *UnknownOutcomeError) Unwrap() error { return e.Err }

// GRPCStatus makes status.FromError work.
func (e *UnknownOutcomeError) GRPCStatus() *status.Status {
	return status.New(codes.Unknown, e.Error())
}

// AddressError says that an address is not HOST:PORT.
type AddressError struct{ Address string }

func (e *AddressError) Error() string {
	return fmt.Sprintf("address %q is not of the form HOST:PORT", e.Address)
}

// verdict is what an attempt's error means for the call.
type verdict uint8

const (
	final     verdict = iota // the cluster's answer
	elsewhere                // a definite no of this node: ask another
	again                    // a definite no for now: ask again, here or elsewhere
	node                     // a definite no that this node will repeat: worth asking each other node once
	ambiguous                // may have taken effect
)

// fromStatus makes an Error of what gRPC returned.
func fromStatus(err error, addr string) *Error {
	s := status.Convert(err)
	e := &Error{Message: s.Message(), Code: s.Code(), Node: addr}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == hizov1.ErrorDomain {
			e.Reason, e.Metadata = info.GetReason(), info.GetMetadata()
		}
	}
	return e
}

// judge decides by reason; an answer without a reason comes from gRPC itself or from something on the way.
func judge(e *Error) verdict {
	switch e.Reason {
	case hizov1.ReasonNotLeader, hizov1.ReasonShutdown, hizov1.ReasonBehind:
		return elsewhere
	case hizov1.ReasonSuperseded, hizov1.ReasonClockSkew, hizov1.ReasonDiskFull, hizov1.ReasonOverloaded, hizov1.ReasonRateLimited:
		return again
	case hizov1.ReasonSealed, hizov1.ReasonNotInitialised:
		return node
	case hizov1.ReasonUnknownOutcome, hizov1.ReasonCancelled:
		return ambiguous
	case "":
		switch e.Code {
		case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown, codes.Internal, codes.Aborted:
			return ambiguous
		}
	}
	return final
}

// undecided are answers that are given before the cluster looks whether it knows the request id: after an
// attempt of unknown fate they do not say that it had no effect (a logout that worked ends its own token).
func undecided(reason string) bool {
	switch reason {
	case hizov1.ReasonUnauthenticated, hizov1.ReasonPermissionDenied, hizov1.ReasonRequestExpired, hizov1.ReasonInternal, "":
		return true
	}
	return false
}

// retryAfter is what the server asked for, 0 where it did not.
func (e *Error) retryAfter() time.Duration {
	ms, err := strconv.ParseInt(e.Metadata[hizov1.InfoRetryAfter], 10, 32)
	if err != nil || ms < 0 {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}
