package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"
)

// Limits of a password, in bytes.
const (
	MinPassword = 12
	MaxPassword = 1024
)

// Params are the costs of argon2id (RFC 9106).
type Params struct {
	Memory  uint32 // KiB
	Time    uint32 // passes
	Threads uint8
}

// DefaultParams are the second recommendation of RFC 9106, section 4, with
// one lane: a server that hashes for many has no idle cores to lend.
var DefaultParams = Params{Memory: 64 << 10, Time: 3, Threads: 1}

// What a stored hash may ask for: a hash is decoded before it is believed.
const (
	maxMemory  = 1 << 20 // KiB
	maxTime    = 16
	maxThreads = 16
	saltBytes  = 16
	keyBytes   = 32
)

var (
	// ErrWeakPassword is matched by every refusal of CheckPassword.
	ErrWeakPassword = errors.New("password refused")
	// ErrBusy means that too many passwords are being checked already.
	ErrBusy = errors.New("too many passwords are being checked at once: try again in a moment")
	// ErrPasswordHash means that a stored hash cannot be read.
	ErrPasswordHash = errors.New("malformed password hash")
)

// CheckPassword is the floor for a new password: long enough, not the user's
// name, not one character over and over, and nothing that a terminal adds.
func CheckPassword(user string, password []byte) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrWeakPassword, fmt.Sprintf(format, args...))
	}
	switch {
	case len(password) < MinPassword:
		return refuse("use at least %d characters", MinPassword)
	case len(password) > MaxPassword:
		return refuse("use at most %d bytes", MaxPassword)
	case !utf8.Valid(password):
		return refuse("it is not valid UTF-8")
	}
	distinct := make(map[rune]struct{})
	for _, r := range string(password) {
		if unicode.IsControl(r) {
			return refuse("it holds a control character, perhaps a newline at its end")
		}
		distinct[r] = struct{}{}
	}
	if len(distinct) < 5 {
		return refuse("use at least 5 different characters")
	}
	lower, userLower := strings.ToLower(string(password)), strings.ToLower(user)
	if userLower != "" && strings.Trim(strings.ReplaceAll(lower, userLower, ""), " -_.") == "" {
		return refuse("it is the user name")
	}
	return nil
}

// Hasher hashes and checks passwords, a bounded number at a time: each costs
// Params.Memory and a core. Logins have slots of their own, so that whoever
// may change passwords can't keep the others from logging in by that.
type Hasher struct {
	params  Params
	logins  lane
	changes lane
	dummy   phc // stands in for users that do not exist
	key     func(password, salt []byte, p Params, length uint32) []byte
}

// lane bounds one sort of work.
type lane struct {
	slots chan struct{} // held while hashing
	queue chan struct{} // held while hashing or waiting for a slot
}

func newLane(slots int) lane {
	return lane{slots: make(chan struct{}, slots), queue: make(chan struct{}, slots*(1+waiting))}
}

// changing is how many argon2id for changes of passwords run at once.
const changing = 1

// waiting is how many may wait for each slot before ErrBusy.
const waiting = 16

// NewHasher makes a Hasher that runs at most concurrency argon2id of logins at
// once, and one more for changes of passwords.
func NewHasher(p Params, concurrency int) (*Hasher, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	if concurrency < 1 {
		return nil, errors.New("password hashing needs a concurrency of at least 1")
	}
	h := &Hasher{
		params:  p,
		logins:  newLane(concurrency),
		changes: newLane(changing),
		key:     argon2id,
	}
	h.dummy = phc{params: p, salt: random(saltBytes), key: random(keyBytes)}
	return h, nil
}

func (p Params) check() error {
	if p.Memory < 8*uint32(p.Threads) || p.Memory > maxMemory || p.Time < 1 || p.Time > maxTime || p.Threads < 1 || p.Threads > maxThreads {
		return fmt.Errorf("argon2id parameters out of range: memory %d KiB, time %d, threads %d", p.Memory, p.Time, p.Threads)
	}
	return nil
}

func argon2id(password, salt []byte, p Params, length uint32) []byte {
	return argon2.IDKey(password, salt, p.Time, p.Memory, p.Threads, length)
}

// Hash makes the PHC string of a password that CheckPassword has accepted.
func (h *Hasher) Hash(ctx context.Context, password []byte) (string, error) {
	out := phc{params: h.params, salt: random(saltBytes)}
	var err error
	out.key, err = h.derive(ctx, h.changes, password, out, keyBytes)
	if err != nil {
		return "", err
	}
	return out.String(), nil
}

// Verify reports whether password is the one that was hashed. For a user who
// does not exist, or has no password, pass an empty hash: the same work is
// done and the answer is no. ErrBusy and the context's error say that nothing
// was decided.
func (h *Hasher) Verify(ctx context.Context, hash string, password []byte) (bool, error) {
	return h.verify(ctx, h.logins, hash, password)
}

// VerifyForChange is Verify of a current password that is asked for before a
// new one is set. It takes nothing from logins.
func (h *Hasher) VerifyForChange(ctx context.Context, hash string, password []byte) (bool, error) {
	return h.verify(ctx, h.changes, hash, password)
}

func (h *Hasher) verify(ctx context.Context, l lane, hash string, password []byte) (bool, error) {
	want, known := h.dummy, hash != ""
	if known {
		var err error
		if want, err = parsePHC(hash); err != nil {
			return false, err
		}
	}
	if len(password) > MaxPassword { // says nothing about the user
		return false, nil
	}
	got, err := h.derive(ctx, l, password, want, uint32(len(want.key)))
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(got, want.key) == 1 && known, nil
}

// NeedsRehash reports whether hash was made with other parameters than those
// of today, so that a login may replace it.
func (h *Hasher) NeedsRehash(hash string) bool {
	p, err := parsePHC(hash)
	return err != nil || p.params != h.params
}

func (h *Hasher) derive(ctx context.Context, l lane, password []byte, p phc, length uint32) ([]byte, error) {
	select {
	case l.queue <- struct{}{}:
		defer func() { <-l.queue }()
	default:
		return nil, ErrBusy
	}
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	// One password typed on two keyboards is one password: normal form C, as
	// RFC 8265, section 4.2.2 has it.
	// Append, not Bytes: that returns the caller's own slice when it is
	// normal. Normal form C is at most three times as long (UAX #15), so one
	// buffer holds it and is wiped.
	normal := norm.NFC.Append(make([]byte, 0, 3*len(password)), password...)
	defer clear(normal)
	return h.key(normal, p.salt, p.params, length), nil
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// phc is $argon2id$v=19$m=65536,t=3,p=1$salt$key, unpadded base64.
type phc struct {
	params Params
	salt   []byte
	key    []byte
}

func (p phc) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		p.params.Memory, p.params.Time, p.params.Threads, b64.EncodeToString(p.salt), b64.EncodeToString(p.key))
}

func parsePHC(s string) (phc, error) {
	parts := strings.Split(s, "$")
	if len(s) > 512 || len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return phc{}, ErrPasswordHash
	}
	var p phc
	costs := strings.Split(parts[3], ",")
	if len(costs) != 3 {
		return phc{}, ErrPasswordHash
	}
	var values [3]uint64
	for i, prefix := range []string{"m=", "t=", "p="} {
		digits, ok := strings.CutPrefix(costs[i], prefix)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || strconv.FormatUint(n, 10) != digits {
			return phc{}, ErrPasswordHash
		}
		values[i] = n
	}
	if values[2] > math.MaxUint8 {
		return phc{}, ErrPasswordHash
	}
	p.params = Params{Memory: uint32(values[0]), Time: uint32(values[1]), Threads: uint8(values[2])}
	if err := p.params.check(); err != nil {
		return phc{}, fmt.Errorf("%w: %w", ErrPasswordHash, err)
	}
	b64 := base64.RawStdEncoding.Strict()
	var err1, err2 error
	p.salt, err1 = b64.DecodeString(parts[4])
	p.key, err2 = b64.DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(p.salt) < 8 || len(p.salt) > 64 || len(p.key) < 16 || len(p.key) > 64 {
		return phc{}, ErrPasswordHash
	}
	if p.String() != s { // Go's base64 skips newlines
		return phc{}, ErrPasswordHash
	}
	return p, nil
}
