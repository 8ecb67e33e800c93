package fsm

import (
	"context"
	"fmt"
	"log/slog"
)

// pebbleLogger passes on what an operator can act on. Pebble's Infof is about its files and left out.
type pebbleLogger struct {
	log  *slog.Logger
	halt func(error)
}

func (pebbleLogger) Infof(string, ...any) {}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.log.Error("state store: " + fmt.Sprintf(format, args...))
}

// Fatalf must not return: Pebble's state in memory no longer matches its disk.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	err := fmt.Errorf("state store: "+format, args...)
	l.halt(err)
	panic(err)
}

func (pebbleLogger) Eventf(context.Context, string, ...any) {}

func (pebbleLogger) IsTracingEnabled(context.Context) bool { return false }
