// Package shares splits a secret among t-of-n holders, so that a wrong share is refused, by name, when
// it is entered rather than after combining.
//
// A deal is one splitting. Its public half, Deal, is replicated and holds one salted hash commitment
// per share (no Feldman commitments: a quantum attacker could take those apart). The dealt secret is
// always fresh: 32 bytes derived by HKDF from a random scalar of Ristretto255, bound to cluster, set
// and deal, so no deal ever splits a secret that another deal split.
//
//	share, 60 bytes:  format(1) cluster(16) set(1) deal(8) threshold(1) index(1) value(32)
//	text:             bech32m, human-readable part "hizoshare"
//
// Shares never touch a disk here; whoever stores one wraps it by a seal first, with StorageAAD.
package shares

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/btcsuite/btcd/btcutil/bech32"
	"github.com/cloudflare/circl/group"

	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/secret"
)

// Set names who holds the shares of a deal.
type Set uint8

// The two sets. Each opens a wrapping of the root key of its own.
const (
	NodeSet     Set = 1 // one share per voter, wrapped by its HSM
	OperatorSet Set = 2 // one share per person
)

// String implements fmt.Stringer.
func (s Set) String() string {
	switch s {
	case NodeSet:
		return "node"
	case OperatorSet:
		return "operator"
	}
	return fmt.Sprintf("Set(%d)", uint8(s))
}

func (s Set) valid() bool { return s == NodeSet || s == OperatorSet }

// DealID names a deal. It is random.
type DealID [8]byte

// String returns the id in hex.
func (d DealID) String() string { return hex.EncodeToString(d[:]) }

const (
	shareFormat = 1
	valueSize   = 32
	shareSize   = 1 + 16 + 1 + 8 + 1 + 1 + valueSize
	hrp         = "hizoshare"
	// textSize is the exact length of a share's text: separator and 6 checksum characters included.
	textSize = len(hrp) + 1 + (shareSize*8+4)/5 + 6
)

var (
	// ErrText says that a text is no share: mistyped, cut short, or something else.
	ErrText = errors.New("not a share: the text does not match its checksum; compare it with the original, character by character")
	// ErrFormat says that bytes are no share or deal of a format known here.
	ErrFormat = errors.New("not a share or deal of a known format")
)

// Share is one holder's part. It redacts itself wherever it is printed.
type Share struct {
	Cluster   [16]byte
	Set       Set
	Deal      DealID
	Threshold uint8
	Index     uint8 // 1 to Count, never 0: at 0 the polynomial is the secret itself
	value     secret.Bytes
}

// ID names a share without giving it away, for messages.
func (s Share) ID() string {
	return fmt.Sprintf("%s share %d of deal %s", s.Set, s.Index, s.Deal)
}

// String implements fmt.Stringer.
func (s Share) String() string { return s.ID() + " " + secret.Redacted }

// GoString implements fmt.GoStringer.
func (s Share) GoString() string { return s.String() }

// Format implements fmt.Formatter for every verb.
func (s Share) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// LogValue implements slog.LogValuer.
func (s Share) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON redacts. A share's only encodings are Text and MarshalBinary.
func (s Share) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

// Wipe overwrites the share's value.
func (s Share) Wipe() { s.value.Wipe() }

// MarshalBinary encodes the share, value included. The result is secret.
func (s Share) MarshalBinary() ([]byte, error) {
	if !s.Set.valid() || s.Index == 0 || s.Threshold == 0 || s.value.Len() != valueSize {
		return nil, ErrFormat
	}
	b := make([]byte, 0, shareSize)
	b = append(b, shareFormat)
	b = append(b, s.Cluster[:]...)
	b = append(b, byte(s.Set))
	b = append(b, s.Deal[:]...)
	b = append(b, s.Threshold, s.Index)
	return append(b, s.value.Reveal()...), nil
}

// UnmarshalBinary decodes exactly what MarshalBinary made.
func (s *Share) UnmarshalBinary(b []byte) error {
	if len(b) != shareSize || b[0] != shareFormat {
		return ErrFormat
	}
	out := Share{Set: Set(b[17]), Threshold: b[26], Index: b[27]}
	copy(out.Cluster[:], b[1:17])
	copy(out.Deal[:], b[18:26])
	if !out.Set.valid() || out.Index == 0 || out.Threshold == 0 {
		return ErrFormat
	}
	if err := group.Ristretto255.NewScalar().UnmarshalBinary(b[28:]); err != nil {
		return ErrFormat // not reduced: no share has two encodings
	}
	out.value = secret.Copy(b[28:])
	*s = out
	return nil
}

// Text encodes the share for people (BIP 350). The result is secret. Up to three mistyped characters
// are always noticed; beyond, all but one in 2^30, and the commitment notices those.
func (s Share) Text() (string, error) {
	b, err := s.MarshalBinary()
	if err != nil {
		return "", err
	}
	defer clear(b)
	groups, err := bech32.ConvertBits(b, 8, 5, true)
	if err != nil {
		return "", ErrFormat
	}
	defer clear(groups)
	text, err := bech32.EncodeM(hrp, groups)
	if err != nil {
		return "", ErrFormat
	}
	return text, nil
}

// ParseText decodes a share's text. Spaces around it are ignored. Errors never repeat the input: the
// bech32 package's own would name the checksum that a mistyped share should have had.
func ParseText(text string) (Share, error) {
	text = strings.TrimSpace(text)
	if len(text) != textSize {
		return Share{}, fmt.Errorf("%w (it has %d characters, a share has %d)", ErrText, len(text), textSize)
	}
	prefix, groups, version, err := bech32.DecodeNoLimitWithVersion(text)
	if err != nil || prefix != hrp || version != bech32.VersionM {
		return Share{}, ErrText
	}
	defer clear(groups)
	b, err := bech32.ConvertBits(groups, 5, 8, false)
	if err != nil {
		return Share{}, ErrText
	}
	defer clear(b)
	var s Share
	if err := s.UnmarshalBinary(b); err != nil {
		return Share{}, err
	}
	return s, nil
}

// StorageAAD is what a stored, wrapped share is bound to: a share of one deal cannot pass for another's,
// nor one node's for another's.
func StorageAAD(cluster [16]byte, deal DealID, node string) []byte {
	return aad.Tuple("hizo/share/stored/v1", cluster[:], deal[:], []byte(node))
}
