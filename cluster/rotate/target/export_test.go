package target

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/hizo/hizo/crypto/secret"
)

// Checked says what the guard makes of an address.
func (w Webhook) Checked(ctx context.Context, a netip.Addr) error {
	return guard{w.Allow, w.Cluster}.check(ctx, a)
}

// Sign is what signRequest does, with chosen parts.
func Sign(r *http.Request, covered []string, params string, key []byte) (signature, input string) {
	return sign(r, covered, params, key)
}

func NativeHash(p secret.Bytes) string  { return nativeHash(p) }
func Ed25519Hash(p secret.Bytes) string { return ed25519Hash(p) }

// Verifier is a SCRAM verifier for a password.
func Verifier(p secret.Bytes, salt []byte) (string, error) { return verifier(p, salt) }

// Marks of salts.
const (
	MarkNone    = byte(markNone)
	MarkApplied = byte(markApplied)
	MarkUndone  = byte(markUndone)
	MarkRetired = byte(markRetired)
)

func MarkedSalt(id [16]byte, m byte) []byte { return markedSalt(id, mark(m)) }

func ReadSalt(salt []byte) (id [12]byte, m byte) {
	i, mk := readSalt(salt)
	return i, byte(mk)
}

// ParseRules reads what MariaDB keeps of an account.
func ParseRules(text []byte) ([][2]string, error) {
	rules, err := parseRules(text)
	var out [][2]string
	for _, r := range rules {
		out = append(out, [2]string{r.Plugin, r.Auth})
	}
	return out, err
}

func Password(n int) secret.Bytes { return password(n) }
