package auth

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"strings"
)

// TokenKind tells the bearer secrets apart by their prefix, so that one is
// never taken for another and scanners for leaked secrets find them:
// hizo[se]?_[0-9A-Za-z]{49}
type TokenKind string

// The kinds of bearer secrets.
const (
	AccessToken   TokenKind = "hizo_"  // what a login gives
	SecretID      TokenKind = "hizos_" // a workload's one-time secret
	EnrolmentCode TokenKind = "hizoe_" // makes the first SecurityEngineer
)

// The text of a token is prefix ‖ 43 random characters of base 62 (256 bits)
// ‖ 6 characters: the CRC-32 (IEEE) of all before them, in base 62. The
// checksum keeps nobody out; it spares a lookup, and an audit record, for
// text that was cut or mistyped, and it spares scanners false alarms.
const (
	alphabet     = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	randomChars  = 43 // ⌈256 / log2(62)⌉
	checkChars   = 6  // 62^6 > 2^32
	redactedText = "[redacted]"
)

// ErrMalformedToken means that a text is no token of the kind asked for. It
// never quotes the text.
var ErrMalformedToken = errors.New("malformed token: it is cut, mistyped, or of another kind")

// Token is a bearer secret. It redacts itself wherever it is printed.
type Token struct {
	kind TokenKind
	text string
}

// NewToken makes a token from the system's random source.
func NewToken(kind TokenKind) Token {
	var seed [seedBytes]byte
	rand.Read(seed[:]) // never fails: crypto/rand ends the program instead
	defer clear(seed[:])
	return DeriveToken(kind, seed[:])
}

// seedBytes is the least that a token may be derived from.
const seedBytes = 32

// DeriveToken makes the token that follows from a secret seed of at least 32
// bytes, so that a retried request can be answered with the same token while
// only its hash is stored. Whoever has the seed has the token.
func DeriveToken(kind TokenKind, seed []byte) Token {
	if len(seed) < seedBytes {
		panic("auth: a token needs a seed of 32 bytes") // a guessable token is worse
	}
	var b strings.Builder
	b.WriteString(string(kind))
	for block := 0; b.Len() < len(kind)+randomChars; block++ {
		// RFC 5869: one expansion gives what is needed but for one time in
		// 10^50; then the next block goes on.
		stream, err := hkdf.Key(sha256.New, seed, nil, fmt.Sprintf("hizo/token-text/v1/%s/%d", kind, block), 128)
		if err != nil {
			panic(fmt.Sprintf("auth: hkdf: %v", err)) // only for more than 255 hashes of output
		}
		for _, c := range stream {
			// 248 is the largest multiple of 62 in a byte: no character
			// is likelier than another.
			if c < 248 && b.Len() < len(kind)+randomChars {
				b.WriteByte(alphabet[c%62])
			}
		}
		clear(stream)
	}
	body := b.String()
	return Token{kind: kind, text: body + checksum(body)}
}

// ParseToken reads the text of a token of this kind.
func ParseToken(kind TokenKind, text string) (Token, error) {
	body, ok := strings.CutPrefix(text, string(kind))
	if !ok || len(body) != randomChars+checkChars {
		return Token{}, ErrMalformedToken
	}
	for i := range len(body) {
		if strings.IndexByte(alphabet, body[i]) < 0 {
			return Token{}, ErrMalformedToken
		}
	}
	if cut := len(text) - checkChars; checksum(text[:cut]) != text[cut:] {
		return Token{}, ErrMalformedToken
	}
	return Token{kind: kind, text: text}, nil
}

func checksum(body string) string {
	sum := crc32.ChecksumIEEE([]byte(body))
	var out [checkChars]byte
	for i := range out {
		out[len(out)-1-i] = alphabet[sum%62]
		sum /= 62
	}
	return string(out[:])
}

// Hash is what is stored instead of the token. A token has 256 random bits,
// so a plain hash is enough; the kind is in the hashed text.
func (t Token) Hash() [sha256.Size]byte { return hashText("hizo/token/v1", t.text) }

// ID names the token in lists, the audit log and for revocation: the first 8
// bytes of its hash, in hex.
func (t Token) ID() string { return TokenID(t.Hash()) }

// TokenID is the ID of the token with this hash.
func TokenID(hash [sha256.Size]byte) string { return hex.EncodeToString(hash[:8]) }

func hashText(domain, text string) [sha256.Size]byte {
	return sha256.Sum256([]byte(domain + "\x00" + text)) // no domain holds a zero byte
}

// Kind tells what the token is for.
func (t Token) Kind() TokenKind { return t.kind }

// IsZero reports whether t is no token at all.
func (t Token) IsZero() bool { return t.text == "" }

// Reveal gives the text itself, for its owner's answer or file only.
func (t Token) Reveal() string { return t.text }

func (Token) String() string               { return redactedText }
func (Token) GoString() string             { return redactedText }
func (Token) Format(f fmt.State, _ rune)   { _, _ = f.Write([]byte(redactedText)) }
func (Token) LogValue() slog.Value         { return slog.StringValue(redactedText) }
func (Token) MarshalText() ([]byte, error) { return []byte(redactedText), nil }
func (Token) MarshalJSON() ([]byte, error) { return []byte(`"` + redactedText + `"`), nil }
func (Token) MarshalBinary() ([]byte, error) {
	return nil, errors.New("a token is not stored: store its hash")
}
