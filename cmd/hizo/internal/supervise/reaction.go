package supervise

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Kind of a reaction to changed values. Files are brought up to date in every case.
type Kind int

// Kinds.
const (
	Keep    Kind = iota // nothing else
	Restart             // end the command and start it with the new values
	Signal              // send it a signal
	Exec                // run another command, which has the new values
)

// Reaction to changed values.
type Reaction struct {
	Kind    Kind
	Signal  syscall.Signal
	Command string // for sh -c
}

// ParseReaction reads "none", "restart", "signal:HUP" or "exec:COMMAND".
func ParseReaction(s string) (Reaction, error) {
	word, rest, given := strings.Cut(s, ":")
	switch {
	case s == "none":
		return Reaction{Kind: Keep}, nil
	case s == "restart":
		return Reaction{Kind: Restart}, nil
	case word == "signal" && given:
		sig, err := ParseSignal(rest)
		return Reaction{Kind: Signal, Signal: sig}, err
	case word == "exec" && given && strings.TrimSpace(rest) != "":
		return Reaction{Kind: Exec, Command: rest}, nil
	}
	return Reaction{}, errors.New("what to do on a change is none, restart, signal:NAME (such as signal:HUP) or exec:COMMAND")
}

// harmful are signals that are no request to read something again.
var harmful = []syscall.Signal{unix.SIGKILL, unix.SIGSTOP}

// ParseSignal reads "HUP" or "SIGHUP".
func ParseSignal(name string) (syscall.Signal, error) {
	upper := strings.ToUpper(name)
	if !strings.HasPrefix(upper, "SIG") {
		upper = "SIG" + upper
	}
	sig := unix.SignalNum(upper)
	if sig == 0 || slices.Contains(harmful, sig) {
		return 0, fmt.Errorf("%q is no signal that a command can act on: use a name such as HUP, USR1 or TERM", name)
	}
	return sig, nil
}
