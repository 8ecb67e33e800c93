package observe

import "context"

// Answers is what /healthz asks.
func (s *Server) Answers(ctx context.Context) bool { return s.answers(ctx, s.node.Load()) }
