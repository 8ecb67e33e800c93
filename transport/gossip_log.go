package transport

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// gossipLog turns memberlist's lines, "[WARN] memberlist: text", into slog
// records. Anybody who reaches the port can provoke lines, so they are limited;
// and since gossip is a hint, its errors are warnings to the node.
type gossipLog struct {
	log        *slog.Logger
	limit      *rate.Limiter
	suppressed atomic.Int64
}

func newGossipLog(log *slog.Logger) *gossipLog {
	return &gossipLog{log: log, limit: rate.NewLimiter(1, 30)}
}

func (w *gossipLog) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	level := slog.LevelInfo
	if rest, ok := strings.CutPrefix(line, "["); ok {
		if name, text, ok := strings.Cut(rest, "]"); ok {
			line = strings.TrimSpace(text)
			switch name {
			case "DEBUG":
				level = slog.LevelDebug
			case "WARN", "ERR", "ERROR":
				level = slog.LevelWarn
			}
		}
	}
	line = strings.TrimPrefix(line, "memberlist: ")
	if !w.log.Enabled(context.Background(), level) {
		return len(p), nil
	}
	if !w.limit.Allow() {
		w.suppressed.Add(1)
		return len(p), nil
	}
	var attrs []slog.Attr
	if n := w.suppressed.Swap(0); n > 0 {
		attrs = append(attrs, slog.Int64("suppressed", n))
	}
	w.log.LogAttrs(context.Background(), level, line, attrs...)
	return len(p), nil
}
