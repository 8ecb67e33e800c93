package observe

import (
	"context"

	"go.opentelemetry.io/otel/trace"
)

// Answers is what /healthz asks.
func (s *Server) Answers(ctx context.Context) bool { return s.answers(ctx, s.node.Load()) }

// Recording says whether a span is kept.
func Recording(ctx context.Context) bool { return trace.SpanFromContext(ctx).IsRecording() }
