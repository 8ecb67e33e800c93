// Package name decides which names exist.
//
// A name is checked once, at the door, and refused when it is not canonical:
// nothing here trims, lowers, cleans or normalises. Two spellings of one name
// are how secrets managers lost their access rules (`..`, `//`, case,
// lookalike letters), so a name that could be spelled in two ways is no name.
// Whatever this package accepts is byte-for-byte what is stored, compared,
// authorised and audited.
//
// Names of vaults, users, workloads, nodes and policies are lower-case ASCII.
// Paths may hold letters of any one script, in Unicode's normal form C.
package name

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits, in bytes unless said otherwise.
const (
	MaxVault    = 64
	MaxUser     = 64
	MaxWorkload = 64
	MaxNode     = 64
	MaxPolicy   = 64
	MaxLease    = 64
	MaxPath     = 512
	MaxSegments = 16 // segments of a path
	MaxField    = 128
)

// ErrNotCanonical is matched by every refusal of this package.
var ErrNotCanonical = errors.New("not a canonical name")

// Error says which name was refused and what to write instead.
type Error struct {
	What   string // "vault name", "path", "field", …
	Input  string // as given; Error() quotes and shortens it
	Reason string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s %s: %s", e.What, quote(e.Input), e.Reason)
}

func (e *Error) Unwrap() error { return ErrNotCanonical }

// quote escapes what a terminal or a log would act on and bounds the length:
// the input is the attacker's.
func quote(s string) string {
	const most = 80
	if len(s) <= most {
		return fmt.Sprintf("%+q", s)
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%+q… (%d bytes)", s[:cut], len(s))
}

// Vault checks the name of a vault and returns it unchanged.
func Vault(s string) (string, error) { return label("vault name", s, MaxVault, "") }

// User checks the name of a person, without the "user/" of a principal.
// '@' is allowed, so that a mail address can be a user name.
func User(s string) (string, error) { return label("user name", s, MaxUser, "@") }

// Workload checks the name of a workload identity.
func Workload(s string) (string, error) { return label("workload name", s, MaxWorkload, "") }

// Node checks the name of a node, which is its Raft ServerID as well.
func Node(s string) (string, error) { return label("node name", s, MaxNode, "") }

// Policy checks the name of a policy that users put.
func Policy(s string) (string, error) { return label("policy name", s, MaxPolicy, "") }

// Lease checks the name of a lease role, without its vault.
func Lease(s string) (string, error) { return label("lease role", s, MaxLease, "") }

// label is the one rule for short ASCII names: a–z and 0–9 at both ends, and
// between them also single '-', '_', '.' and what extra allows.
func label(what, s string, most int, extra string) (string, error) {
	refuse := func(format string, args ...any) (string, error) {
		return "", &Error{What: what, Input: s, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case s == "":
		return refuse("is empty")
	case len(s) > most:
		return refuse("is %d bytes long, at most %d are allowed", len(s), most)
	case strings.Contains(s, ".."):
		return refuse("must not contain %q", "..")
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case 'A' <= c && c <= 'Z':
			return refuse("has an upper-case letter at byte %d: use lower case", i)
		case c == '-' || c == '_' || c == '.' || strings.IndexByte(extra, c) >= 0:
			if i == 0 || i == len(s)-1 {
				return refuse("must begin and end with a letter or digit, not %q", rune(c))
			}
		default:
			return refuse("has a byte that is not allowed (0x%02x) at %d: use a–z, 0–9, '-', '_', '.'", c, i)
		}
	}
	return s, nil
}

// Field checks the name of one field of a secret: ASCII letters (case counts),
// digits, '-', '_' and '.', not beginning with '-' (a flag to a command line)
// and not dots alone.
func Field(s string) (string, error) {
	refuse := func(format string, args ...any) (string, error) {
		return "", &Error{What: "field", Input: s, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case s == "":
		return refuse("is empty")
	case len(s) > MaxField:
		return refuse("is %d bytes long, at most %d are allowed", len(s), MaxField)
	case s[0] == '-':
		return refuse("must not begin with '-'")
	case strings.Trim(s, ".") == "":
		return refuse("must not consist of dots")
	}
	for i := range len(s) {
		c := s[i]
		if !isAlnum(c) && c != '-' && c != '_' && c != '.' {
			return refuse("has a byte that is not allowed (0x%02x) at %d: use letters, digits, '-', '_', '.'", c, i)
		}
	}
	return s, nil
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// Issuer checks the name of an issuer of workload identities.
func Issuer(s string) (string, error) { return label("issuer name", s, MaxPolicy, "") }

// Binding checks the name of a binding of claims to a workload.
func Binding(s string) (string, error) { return label("binding name", s, MaxPolicy, "") }
