package api

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/hizo/hizo/fsm"
)

// Tracer follows calls through this node; package observe has one. It is told names from the code and outcomes, never
// who calls or for what.
type Tracer interface {
	// Begin begins a span below that of ctx, or below the remote parent (a W3C traceparent) where there is none. end is
	// called once.
	Begin(ctx context.Context, name, parent string) (within context.Context, end func(code codes.Code))
}

// metaParent is the client's own span (W3C Trace Context, section 3.2).
const metaParent = "traceparent"

func untraced(codes.Code) {}

// traceCall begins a call's span.
func (s *Server) traceCall(ctx context.Context, method string) (context.Context, func(codes.Code)) {
	if s.conf.Tracer == nil {
		return ctx, untraced
	}
	parent := ""
	if list := metadata.ValueFromIncomingContext(ctx, metaParent); len(list) == 1 && len(list[0]) <= 128 {
		parent = list[0]
	}
	return s.conf.Tracer.Begin(context.WithValue(ctx, tracedKey{}, true), method[1:], parent)
}

// tracedKey marks the context of a call that has a span. Streams have none: they last for as long as somebody listens.
type tracedKey struct{}

// traced has a span around proposing: the wait in the queue, the commit, and Apply.
func (g *gate) traced(propose func(context.Context, fsm.Command) (fsm.Result, error)) func(context.Context, fsm.Command) (fsm.Result, error) {
	if g.tracer == nil {
		return propose
	}
	return func(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
		if ctx.Value(tracedKey{}) == nil {
			return propose(ctx, cmd)
		}
		within, end := g.tracer.Begin(ctx, "commit", "")
		result, err := propose(within, cmd)
		end(codeOf(err))
		return result, err
	}
}

// codeOf is the status code that an error will have.
func codeOf(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	return reasons[toError(err).Reason].code
}
