package audit

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Checkpoint is a statement of the tree's size and root hash. Its text is a C2SP tlog-checkpoint with one
// extension line:
//
//	hizo/<cluster id>
//	<size>
//	<root hash, base64>
//	time <Unix milliseconds>
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   tlog.Hash
	Time   int64
}

// Text is what nodes sign.
func (c Checkpoint) Text() []byte {
	return fmt.Appendf(nil, "%s\n%d\n%s\ntime %d\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]), c.Time)
}

// Origin is the origin line of a cluster's checkpoints.
func Origin(cluster string) string { return "hizo/" + cluster }

// Signature is one node's, ASN.1 ECDSA P-256 over SHA-256 of the text.
type Signature struct {
	Node      string
	Key       [4]byte // first bytes of the SHA-256 of the node's PKIX public key
	Signature []byte
}

// Note is a signed checkpoint in the format of C2SP signed-note: the text, an empty line, and one line
// "— NODE BASE64(key hash ‖ signature)" for each signature.
type Note struct {
	Checkpoint
	Signatures []Signature
}

// ErrNote says that a text is no signed checkpoint.
var ErrNote = errors.New("not a signed checkpoint")

const signatureStart = "— "

// Format writes the note.
func (n Note) Format() string {
	var b strings.Builder
	b.Write(n.Text())
	b.WriteByte('\n')
	for _, s := range n.Signatures {
		b.WriteString(signatureStart)
		b.WriteString(s.Node)
		b.WriteByte(' ')
		b.WriteString(base64.StdEncoding.EncodeToString(append(s.Key[:], s.Signature...)))
		b.WriteByte('\n')
	}
	return b.String()
}

// maxSignatures bounds the work that a note can ask for.
const maxSignatures = 100

// ParseNote is the inverse of Format, and accepts nothing that Format would not have written.
func ParseNote(text string) (Note, error) {
	head, tail, ok := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	if !ok || len(lines) != 4 || !strings.HasSuffix(tail, "\n") || strings.Count(tail, "\n") > maxSignatures {
		return Note{}, ErrNote
	}
	var n Note
	var err1, err2, err3 error
	n.Origin = lines[0]
	n.Size, err1 = strconv.ParseUint(lines[1], 10, 63)
	root, err2 := base64.StdEncoding.Strict().DecodeString(lines[2])
	at, ok := strings.CutPrefix(lines[3], "time ")
	n.Time, err3 = strconv.ParseInt(at, 10, 64)
	if err1 != nil || err2 != nil || err3 != nil || !ok || len(root) != len(n.Root) {
		return Note{}, ErrNote
	}
	copy(n.Root[:], root)
	for line := range strings.SplitSeq(strings.TrimSuffix(tail, "\n"), "\n") {
		node, b64, ok := strings.Cut(strings.TrimPrefix(line, signatureStart), " ")
		b, err := base64.StdEncoding.Strict().DecodeString(b64)
		if !ok || err != nil || len(b) <= 4 {
			return Note{}, ErrNote
		}
		s := Signature{Node: node, Signature: b[4:]}
		copy(s.Key[:], b)
		n.Signatures = append(n.Signatures, s)
	}
	if n.Format() != text {
		return Note{}, ErrNote
	}
	return n, nil
}

// Signers are the nodes whose signatures count, with their PKIX public keys.
type Signers map[string][]byte

// KeyHint is how a signature names its key.
func KeyHint(pkix []byte) (hint [4]byte) {
	sum := sha256.Sum256(pkix)
	copy(hint[:], sum[:])
	return hint
}

// errSignature says that one signature does not verify.
var errSignature = errors.New("does not verify")

// CheckSignature verifies one signature over a note's text.
func CheckSignature(pkix, text []byte, s Signature) error {
	if KeyHint(pkix) != s.Key {
		return errors.New("names another key")
	}
	key, err := x509.ParsePKIXPublicKey(pkix)
	if err != nil {
		return fmt.Errorf("its key is unreadable: %w", err)
	}
	ec, ok := key.(*ecdsa.PublicKey)
	sum := sha256.Sum256(text)
	if !ok || !ecdsa.VerifyASN1(ec, sum[:], s.Signature) {
		return errSignature
	}
	return nil
}

// CheckSignatures demands that a majority of signers signed, and that every signature on the note
// verifies. Signatures of nodes that only newer knows are checked and do not count.
func (n Note) CheckSignatures(signers, newer Signers) error {
	text := n.Text()
	seen := make(map[string]bool)
	count := 0
	for _, s := range n.Signatures {
		if seen[s.Node] {
			return fmt.Errorf("two signatures of %s", s.Node)
		}
		seen[s.Node] = true
		key, counts := signers[s.Node]
		// A node that was removed and joined again with a new key signs with the new one.
		if other, ok := newer[s.Node]; ok && (!counts || !bytes.Equal(other, key) && KeyHint(other) == s.Key) {
			key, counts = other, false
		}
		if key == nil {
			return fmt.Errorf("a signature of %s, which is no member", s.Node)
		}
		if err := CheckSignature(key, text, s); err != nil {
			return fmt.Errorf("the signature of %s %w", s.Node, err)
		}
		if counts {
			count++
		}
	}
	if need := len(signers)/2 + 1; count < need {
		return fmt.Errorf("signed by %d of the %d members, %d are needed", count, len(signers), need)
	}
	return nil
}
