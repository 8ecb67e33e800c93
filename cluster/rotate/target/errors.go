package target

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// step is one call at one kind of target, for its errors.
type step struct{ kind, stage string }

// permanent is an error that trying again does not mend.
func (s step) permanent(format string, args ...any) error {
	return &Error{Kind: s.kind, Stage: s.stage, Message: fmt.Sprintf(format, args...), Err: ErrPermanent}
}

// passing is an error that may be gone the next time.
func (s step) passing(err error, format string, args ...any) error {
	return &Error{Kind: s.kind, Stage: s.stage, Message: fmt.Sprintf(format, args...), Err: err}
}

// network says what went wrong between us and a server. The text of foreign errors stays out, but for those of dialling
// and of certificates: they hold addresses and names, never what was sent or received.
func (s step) network(ctx context.Context, a address, err error) error {
	var (
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
		cert    *tls.CertificateVerificationError
		op      *net.OpError
	)
	switch {
	case ctx.Err() != nil:
		return s.passing(ctx.Err(), "%s does not answer in time", a)
	case errors.As(err, &unknown), errors.As(err, &host), errors.As(err, &invalid), errors.As(err, &cert):
		return s.passing(nil, "the certificate of %s is not accepted: give its authority as option ca, its name as server_name", a)
	case errors.As(err, &op) && op.Op == "dial":
		return s.passing(nil, "%v", op)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return s.passing(nil, "%s does not answer in time", a)
	}
	return s.passing(nil, "the connection to %s broke", a)
}

// errRefused marks a login that a server did not let in. That may be gone the next time where it is the administrator's:
// his password may be rotating as well.
var errRefused = errors.New("refused")

func refused(err error) bool { return errors.Is(err, errRefused) }

// final makes a refusal an error that trying again does not mend: for a login that ought to get in.
func final(err error) error {
	if e, ok := errors.AsType[*Error](err); ok && refused(err) {
		return &Error{Kind: e.Kind, Stage: e.Stage, Message: e.Message, Err: ErrPermanent}
	}
	return err
}

// pause waits a moment between two looks at a server.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(10 * time.Millisecond):
		return nil
	}
}
