package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

// Exit codes.
const (
	exitMistake = 1
	exitRefused = 2
	exitUnknown = 3
)

// exitError ends the program with a code of its own, silently: the command has said all.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// fail prints an error and returns the exit code.
func (s *session) fail(err error) int {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	text, code := describe(err)
	s.note("hizo: %s", text)
	return code
}

// describe makes a sentence that says what to do next, and the exit code.
func describe(err error) (string, int) {
	if e, ok := errors.AsType[*client.UnknownOutcomeError](err); ok {
		return e.Error(), exitUnknown
	}
	if e, ok := errors.AsType[*rotationFailedError](err); ok {
		return e.Error(), exitRefused
	}
	if errors.Is(err, client.ErrNoToken) {
		return err.Error() + ": run `hizo login` first", exitMistake
	}
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		return err.Error(), exitMistake
	}
	text := err.Error()
	switch e.Reason {
	case client.ReasonUnreachable:
		return text, exitMistake
	case client.ReasonTimeout:
		if errors.Is(err, context.Canceled) {
			return "interrupted: nothing was changed", exitMistake
		}
		return text, exitMistake
	case hizov1.ReasonPermissionDenied:
		if missing := e.Metadata[hizov1.InfoMissing]; missing != "" && !strings.Contains(text, missing) {
			text += "; missing: " + missing
		}
	case hizov1.ReasonUnauthenticated:
		if !strings.Contains(text, "hizo login") {
			text += " (`hizo login`)"
		}
	case hizov1.ReasonConflict:
		if now := e.Metadata[hizov1.InfoCurrentVersion]; now != "" && !strings.Contains(text, now) {
			text += "; the current version is " + now
		}
	case "":
		text = fmt.Sprintf("the server answered %s (%s): check that it is of the same version as this program", e.Code, text)
	}
	return text, exitRefused
}

// usageError adds where help is found.
func usageError(err error) error {
	path := "hizo"
	if p, ok := errors.AsType[*kong.ParseError](err); ok && p.Context != nil {
		if node := p.Context.Selected(); node != nil {
			path = node.FullPath()
		}
	}
	return fmt.Errorf("%w: see `%s --help`", err, path)
}
