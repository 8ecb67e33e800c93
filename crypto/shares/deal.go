package shares

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/secretsharing"

	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/secret"
)

// MaxCount bounds the holders of one deal.
const MaxCount = 64

var (
	// ErrOtherCluster says that a share belongs to another cluster.
	ErrOtherCluster = errors.New("this share belongs to another cluster")
	// ErrOtherSet says that a node's share was given for an operator's, or the other way round.
	ErrOtherSet = errors.New("this share belongs to the other set (nodes and operators hold shares of their own)")
	// ErrOtherDeal says that a share is from an earlier or later deal.
	ErrOtherDeal = errors.New("this share is from another deal; use the one handed out last")
	// ErrWrongShare is what a WrongShareError is.
	ErrWrongShare = errors.New("wrong share")
	// ErrDuplicateShare is what a DuplicateShareError is.
	ErrDuplicateShare = errors.New("the same share was given twice")
	// ErrTooFew is what a TooFewError is.
	ErrTooFew = errors.New("not enough shares")
	// ErrProof says that a holder did not prove that it can read its share.
	ErrProof = errors.New("the proof does not match the share: its holder cannot read it, or answered another deal's question")
	// ErrThreshold says that t-of-n makes no sense.
	ErrThreshold = fmt.Errorf("the threshold must be at least 1 and at most the number of shares, and those at most %d", MaxCount)
)

// WrongShareError names a share whose value is not the one that was dealt under its number.
type WrongShareError struct{ Index uint8 }

func (e *WrongShareError) Error() string {
	return fmt.Sprintf("wrong share: number %d is not the one that was dealt; check what its holder entered", e.Index)
}

// Is makes errors.Is(err, ErrWrongShare) hold.
func (*WrongShareError) Is(target error) bool { return target == ErrWrongShare }

// DuplicateShareError names a share that was given twice.
type DuplicateShareError struct{ Index uint8 }

func (e *DuplicateShareError) Error() string {
	return fmt.Sprintf("share number %d was given twice; another holder's is needed", e.Index)
}

// Is makes errors.Is(err, ErrDuplicateShare) hold.
func (*DuplicateShareError) Is(target error) bool { return target == ErrDuplicateShare }

// TooFewError says how many shares are there and how many it takes.
type TooFewError struct{ Have, Need int }

func (e *TooFewError) Error() string {
	return fmt.Sprintf("%d of %d needed shares are there: more operators have to give theirs", e.Have, e.Need)
}

// Is makes errors.Is(err, ErrTooFew) hold.
func (*TooFewError) Is(target error) bool { return target == ErrTooFew }

// Commitment pins one share without giving it away.
type Commitment struct {
	Index uint8
	Salt  [16]byte
	Hash  [32]byte
}

// Deal is the public half of one splitting. It is replicated in the clear.
type Deal struct {
	Cluster     [16]byte
	Set         Set
	ID          DealID
	Threshold   uint8
	Count       uint8
	Commitments []Commitment // of index 1 to Count, in that order
}

// Split makes a fresh secret of 32 bytes that any t of n shares give back, and fewer tell nothing of.
func Split(cluster [16]byte, set Set, t, n int) (secret.Bytes, Deal, []Share, error) {
	if !set.valid() {
		return secret.Bytes{}, Deal{}, nil, fmt.Errorf("split: unknown set %d", set)
	}
	if t < 1 || n < t || n > MaxCount {
		return secret.Bytes{}, Deal{}, nil, fmt.Errorf("split %d of %d: %w", t, n, ErrThreshold)
	}
	deal := Deal{Cluster: cluster, Set: set, Threshold: uint8(t), Count: uint8(n), Commitments: make([]Commitment, n)}
	rand.Read(deal.ID[:])

	scalar := group.Ristretto255.RandomNonZeroScalar(rand.Reader)
	// circl's t is the number of corrupted parties that learn nothing: one less than ours.
	dealt := secretsharing.New(rand.Reader, uint(t-1), scalar).Share(uint(n))

	list := make([]Share, n)
	for i, d := range dealt {
		value, err := d.Value.MarshalBinary()
		if err != nil {
			return secret.Bytes{}, Deal{}, nil, fmt.Errorf("encode share: %w", err)
		}
		list[i] = Share{
			Cluster: cluster, Set: set, Deal: deal.ID,
			Threshold: deal.Threshold, Index: uint8(i + 1), value: secret.New(value),
		}
		c := Commitment{Index: list[i].Index}
		rand.Read(c.Salt[:])
		c.Hash = commit(list[i], c.Salt)
		deal.Commitments[i] = c
	}
	root, err := deal.secret(scalar)
	if err != nil {
		return secret.Bytes{}, Deal{}, nil, err
	}
	return root, deal, list, nil
}

// commit hashes a share's value with everything that the share says of itself. The value has 252 bits
// of entropy; the salt keeps equal values, should there ever be any, from showing.
func commit(s Share, salt [16]byte) [32]byte {
	return sha256.Sum256(aad.Tuple("hizo/share/commitment/v1", salt[:],
		s.Cluster[:], []byte{byte(s.Set)}, s.Deal[:], []byte{s.Threshold}, []byte{s.Index}, s.value.Reveal()))
}

// secret derives the dealt secret from the shared scalar (HKDF-SHA256, RFC 5869), bound to the deal.
func (d Deal) secret(scalar group.Scalar) (secret.Bytes, error) {
	ikm, err := scalar.MarshalBinary()
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("encode scalar: %w", err)
	}
	defer clear(ikm)
	key, err := hkdf.Key(sha256.New, ikm, aad.Tuple("hizo/deal/v1", d.Cluster[:], []byte{byte(d.Set)}, d.ID[:]), "hizo/deal/secret/v1", 32)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("derive the dealt secret: %w", err)
	}
	return secret.New(key), nil
}

// Check tells whether s is a share of this deal, exactly as it was dealt: nil, ErrOtherCluster,
// ErrOtherSet, ErrOtherDeal or a *WrongShareError.
func (d Deal) Check(s Share) error {
	switch {
	case s.Cluster != d.Cluster:
		return ErrOtherCluster
	case s.Set != d.Set:
		return ErrOtherSet
	case s.Deal != d.ID:
		return ErrOtherDeal
	}
	for _, c := range d.Commitments {
		if c.Index != s.Index {
			continue
		}
		// The threshold is part of the hash, so a share that lies about it fails here too.
		if got := commit(s, c.Salt); subtle.ConstantTimeCompare(got[:], c.Hash[:]) == 1 {
			return nil
		}
		break
	}
	return &WrongShareError{Index: s.Index}
}

// Combine gives the dealt secret back. Every share is checked first, so an error names the share that
// is at fault: what Check says, a *DuplicateShareError, or a *TooFewError.
func (d Deal) Combine(list []Share) (secret.Bytes, error) {
	var seen [256]bool
	for _, s := range list {
		if err := d.Check(s); err != nil {
			return secret.Bytes{}, err
		}
		// secretsharing.Recover panics on duplicates.
		if seen[s.Index] {
			return secret.Bytes{}, &DuplicateShareError{Index: s.Index}
		}
		seen[s.Index] = true
	}
	if d.Threshold == 0 || len(list) < int(d.Threshold) {
		return secret.Bytes{}, &TooFewError{Have: len(list), Need: int(d.Threshold)}
	}
	var out secret.Bytes
	var err error
	secret.Do(func() { out, err = d.interpolate(list[:d.Threshold]) })
	return out, err
}

// interpolate gives the secret of exactly Threshold checked shares.
func (d Deal) interpolate(list []Share) (secret.Bytes, error) {
	points := make([]secretsharing.Share, len(list))
	for i, s := range list {
		value := group.Ristretto255.NewScalar()
		if err := value.UnmarshalBinary(s.value.Reveal()); err != nil {
			return secret.Bytes{}, &WrongShareError{Index: s.Index}
		}
		points[i] = secretsharing.Share{ID: group.Ristretto255.NewScalar().SetUint64(uint64(s.Index)), Value: value}
	}
	scalar, err := secretsharing.Recover(uint(d.Threshold-1), points)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("combine shares: %w", err)
	}
	return d.secret(scalar)
}

// Prove shows that its caller can read a share, to whoever knows the share (the dealer, while dealing),
// for one deal's epoch only: HMAC(share, nonce ‖ epoch ‖ node).
func Prove(s Share, nonce []byte, epoch uint64, node string) []byte {
	m := hmac.New(sha256.New, s.value.Reveal())
	b := aad.AppendString(nil, "hizo/share/proof/v1")
	b = aad.AppendBytes(b, s.Cluster[:])
	b = aad.AppendByte(b, byte(s.Set))
	b = aad.AppendBytes(b, s.Deal[:])
	b = aad.AppendByte(b, s.Index)
	b = aad.AppendBytes(b, nonce)
	b = aad.AppendUint64(b, epoch)
	b = aad.AppendString(b, node)
	m.Write(b)
	return m.Sum(nil)
}

// VerifyProof returns ErrProof unless proof is what Prove makes of the same arguments.
func VerifyProof(s Share, nonce []byte, epoch uint64, node string, proof []byte) error {
	if !hmac.Equal(Prove(s, nonce, epoch, node), proof) {
		return ErrProof
	}
	return nil
}

const dealFormat = 1

// MarshalBinary encodes the deal:
//
//	format(1) cluster(16) set(1) id(8) threshold(1) count(1) { salt(16) hash(32) } × count
func (d Deal) MarshalBinary() ([]byte, error) {
	if err := d.valid(); err != nil {
		return nil, err
	}
	b := make([]byte, 0, 28+48*len(d.Commitments))
	b = append(b, dealFormat)
	b = append(b, d.Cluster[:]...)
	b = append(b, byte(d.Set))
	b = append(b, d.ID[:]...)
	b = append(b, d.Threshold, d.Count)
	for _, c := range d.Commitments {
		b = append(b, c.Salt[:]...)
		b = append(b, c.Hash[:]...)
	}
	return b, nil
}

// UnmarshalBinary decodes exactly what MarshalBinary made.
func (d *Deal) UnmarshalBinary(b []byte) error {
	if len(b) < 28 || b[0] != dealFormat || len(b) != 28+48*int(b[27]) {
		return ErrFormat
	}
	out := Deal{Set: Set(b[17]), Threshold: b[26], Count: b[27], Commitments: make([]Commitment, b[27])}
	copy(out.Cluster[:], b[1:17])
	copy(out.ID[:], b[18:26])
	for i, b := 0, b[28:]; len(b) > 0; i, b = i+1, b[48:] {
		out.Commitments[i].Index = uint8(i + 1)
		copy(out.Commitments[i].Salt[:], b)
		copy(out.Commitments[i].Hash[:], b[16:])
	}
	if err := out.valid(); err != nil {
		return err
	}
	*d = out
	return nil
}

func (d Deal) valid() error {
	if !d.Set.valid() || d.Threshold == 0 || d.Threshold > d.Count || d.Count > MaxCount || len(d.Commitments) != int(d.Count) {
		return ErrFormat
	}
	for i, c := range d.Commitments {
		if int(c.Index) != i+1 {
			return ErrFormat
		}
	}
	return nil
}
