// Package secret carries plaintext that must not be printed by accident.
//
// A Bytes shows "[redacted]" to fmt, slog, JSON and text encoders, whatever the verb and however deep
// it is nested. It guards against slips, not against code that calls Reveal.
//
// Wipe is best effort: the Go runtime may have copied the bytes before (stack growth, append, string
// conversions, key schedules inside crypto/aes), and nothing here can reach those copies.
package secret

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"unsafe"
)

// Redacted is what every encoder shows in place of a secret.
const Redacted = "[redacted]"

// Bytes is a handle to secret bytes. Copies share the same memory, so wiping one wipes all.
// The zero value is an empty secret.
//
// The bytes hang off a *byte: fmt cannot call methods on unexported fields of a foreign struct and
// would print a slice there, but it prints a pointer as an address.
type Bytes struct {
	data *byte
	n    int
}

// New takes ownership of b: the caller must not use it afterwards.
func New(b []byte) Bytes {
	return Bytes{data: unsafe.SliceData(b), n: len(b)}
}

// Copy makes a secret of a copy of b, which stays the caller's to wipe.
func Copy(b []byte) Bytes {
	return New(append(make([]byte, 0, len(b)), b...))
}

// Random makes a secret of n random bytes.
func Random(n int) Bytes {
	b := make([]byte, n)
	rand.Read(b) // never fails since Go 1.24: the process dies instead
	return New(b)
}

// Reveal returns the bytes themselves, not a copy. They are zero after Wipe.
func (s Bytes) Reveal() []byte { return unsafe.Slice(s.data, s.n) }

// Len returns the number of bytes.
func (s Bytes) Len() int { return s.n }

// Wipe overwrites the bytes with zeros, for every copy of this handle.
func (s Bytes) Wipe() { clear(s.Reveal()) }

// Clone returns an independent copy, to be wiped on its own.
func (s Bytes) Clone() Bytes { return Copy(s.Reveal()) }

// Equal compares in time that depends on the lengths only.
func (s Bytes) Equal(other Bytes) bool {
	return subtle.ConstantTimeCompare(s.Reveal(), other.Reveal()) == 1
}

// String implements fmt.Stringer.
func (Bytes) String() string { return Redacted }

// GoString implements fmt.GoStringer.
func (Bytes) GoString() string { return Redacted }

// Format implements fmt.Formatter, which takes precedence over every verb, %x and %d included.
func (Bytes) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Redacted)) }

// LogValue implements slog.LogValuer.
func (Bytes) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText implements encoding.TextMarshaler.
func (Bytes) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalJSON implements json.Marshaler.
func (Bytes) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }
