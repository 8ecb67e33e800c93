package api

import (
	"context"

	"github.com/hizo/hizo/fsm"
)

// CursorText makes a cursor that no node gave out.
func CursorText(cluster [16]byte, c fsm.Cursor) string { return cursorText(cluster, c) }

// OpenWatches is how many watches of a principal are open.
func (s *Server) OpenWatches(principal string) int {
	s.streams.mu.Lock()
	defer s.streams.mu.Unlock()
	return s.streams.by[principal]
}

// FlushBeats records what heartbeats there are now.
func (s *Server) FlushBeats(ctx context.Context) { s.flushBeats(ctx) }
