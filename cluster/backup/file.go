// Package backup is the file that a backup is, and where such files are kept. It knows neither the state machine nor
// the network between nodes, so that the command line tool can verify a file without either.
//
// A backup is one file:
//
//	hizo-backup-v1 LF
//	header                    one line of JSON (Header)
//	chunk …                   length (4, big endian) ‖ AES-256-GCM of up to 64 KiB; only the last may be shorter
//	0 (4)
//	proof                     one line of JSON (Proof)
//	sha256 HEX LF             of everything before this line: tells damage from forgery
//
// What the chunks hold is a snapshot as nodes send it to each other (package fsm). They are under a key made for this
// file, sealed to the operators' public key: as many operators as unseal the cluster open a backup, and nobody else.
// Each chunk is bound to the header, its place, and whether it is the last.
//
// The digest is SHA-256 of everything before the proof. It stands in the cluster's audit log, and the proof leads from
// there to checkpoints that a majority of the members signed; so whoever trusts the log's first record can tell without
// a cluster and without any key that the file is what the cluster wrote. The MAC beside it is under a key of the root
// key: the restore checks that as well.
//
// A file is complete or it does not verify: there is no useful part of a backup.
package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/aesgcm"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
)

const (
	magic     = "hizo-backup-v1\n"
	chunkSize = 64 << 10
	maxHeader = 64 << 10
	maxProof  = 64 << 20
)

var (
	// ErrDamaged says that a file is no whole backup: cut, changed, or something else.
	ErrDamaged = errors.New("the backup is damaged")
	// ErrFormat says that a newer release wrote a file.
	ErrFormat = errors.New("the backup has a format that this release does not know: use the release that made it, or a newer one")
)

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// Header says what a backup is. Everybody who has the file can read it.
type Header struct {
	Cluster     string `json:"cluster"` // id, hex
	Name        string `json:"name"`
	Origin      string `json:"origin"`          // of the audit log's checkpoints
	Created     int64  `json:"created_unix_ms"` // cluster time
	Version     string `json:"version"`         // of the program that made it
	Development bool   `json:"development"`

	Index   uint64 `json:"index"` // of the Raft log
	Term    uint64 `json:"term"`
	Records uint64 `json:"audit_records"` // that the state holds
	Root    []byte `json:"audit_root"`    // of the tree of those
	Bytes   int64  `json:"state_bytes"`   // as it is encrypted here

	Threshold int    `json:"operators_needed"`
	Operators int    `json:"operators"`
	Deal      []byte `json:"operators_deal"` // commitments to their shares, so that a wrong one is refused by name
	Key       []byte `json:"key"`            // the file's, sealed to the operators' public key
}

// Proof leads from the file's digest to what the members signed.
type Proof struct {
	MAC    []byte   `json:"mac"`
	Record []byte   `json:"record"` // leaf of the audit record that names digest and MAC
	Path   [][]byte `json:"path"`   // its inclusion proof in the last checkpoint
	Prefix [][]byte `json:"prefix"` // consistency of the state's audit tree with the last checkpoint
	Chain  []Link   `json:"chain"`  // from the record that is trusted to the last checkpoint
}

// Link is one checkpoint that leads on from the one before it.
type Link struct {
	Size       uint64      `json:"size"`
	Root       []byte      `json:"root"`
	Time       int64       `json:"time_unix_ms"`
	Signatures []Signature `json:"signatures"`
	Extends    [][]byte    `json:"extends"` // consistency proof from the link before
	Members    []Leaf      `json:"members"` // the records since then that change who signs
}

// Signature is one node's under a checkpoint.
type Signature struct {
	Node      string `json:"node"`
	Key       []byte `json:"key"` // first 4 bytes of the SHA-256 of its PKIX public key
	Signature []byte `json:"signature"`
}

// Leaf is an audit record with its inclusion proof in its link's checkpoint.
type Leaf struct {
	Leaf []byte   `json:"leaf"`
	Seq  uint64   `json:"seq"`
	Path [][]byte `json:"path"`
}

// line is the one encoding that a value can have in a file.
func line(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// unline decodes what line made, and nothing else.
func unline(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return err
	}
	if again, err := line(v); err != nil || !bytes.Equal(again, b) {
		return errors.New("not in its one form")
	}
	return nil
}

// keyInfo is what the sealed key is bound to: everything that the header says beside it.
func keyInfo(h Header) ([]byte, error) {
	h.Key = nil
	b, err := line(h)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	return aad.Tuple("hizo/backup/key/v1", sum[:]), nil
}

func chunkAAD(header [32]byte, number uint64, last bool) []byte {
	b := aad.AppendString(make([]byte, 0, 96), "hizo/backup/chunk/v1")
	b = aad.AppendBytes(b, header[:])
	b = aad.AppendUint64(b, number)
	if last {
		return aad.AppendByte(b, 1)
	}
	return aad.AppendByte(b, 0)
}

// Writer writes a backup: Write the state, End it, Prove it.
type Writer struct {
	w      io.Writer
	all    hash.Hash // of every byte
	cipher *aesgcm.Cipher
	header [32]byte
	buf    []byte
	number uint64
	bytes  uint64
}

// NewWriter begins a backup under a new key that is sealed to the operators' public key.
func NewWriter(w io.Writer, h Header, operators []byte) (*Writer, error) {
	key := secret.Random(aesgcm.KeySize)
	defer key.Wipe()
	info, err := keyInfo(h)
	if err != nil {
		return nil, err
	}
	if h.Key, err = hybrid.Seal(operators, info, key.Reveal()); err != nil {
		return nil, fmt.Errorf("seal the backup's key to the operators: %w", err)
	}
	cipher, err := aesgcm.New(key.Reveal())
	if err != nil {
		return nil, err
	}
	b, err := line(h)
	if err != nil {
		return nil, err
	}
	if len(b) > maxHeader {
		return nil, fmt.Errorf("the header has %d bytes, at most %d fit", len(b), maxHeader)
	}
	e := &Writer{w: w, all: sha256.New(), cipher: cipher, header: sha256.Sum256(b), buf: make([]byte, 0, chunkSize)}
	return e, e.put([]byte(magic), b)
}

func (e *Writer) put(parts ...[]byte) error {
	for _, b := range parts {
		e.all.Write(b)
		n, err := e.w.Write(b)
		e.bytes += uint64(n)
		if err != nil {
			return err
		}
	}
	return nil
}

// Write takes the next bytes of the state.
func (e *Writer) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if len(e.buf) == chunkSize { // only when more follows: the last chunk is marked
			if err := e.chunk(false); err != nil {
				return n - len(p), err
			}
		}
		take := min(len(p), chunkSize-len(e.buf))
		e.buf = append(e.buf, p[:take]...)
		p = p[take:]
	}
	return n, nil
}

func (e *Writer) chunk(last bool) error {
	sealed := e.cipher.Seal(e.buf, chunkAAD(e.header, e.number, last))
	e.number++
	e.buf = e.buf[:0]
	return e.put(binary.BigEndian.AppendUint32(nil, uint32(len(sealed))), sealed)
}

// End ends the state and returns the file's digest and how long it is so far.
func (e *Writer) End() (digest [32]byte, size uint64, err error) {
	if err := e.chunk(true); err != nil {
		return digest, 0, err
	}
	if err := e.put(make([]byte, 4)); err != nil {
		return digest, 0, err
	}
	return [32]byte(e.all.Sum(nil)), e.bytes, nil
}

// Prove ends the file.
func (e *Writer) Prove(p Proof) error {
	b, err := line(p)
	if err != nil {
		return err
	}
	if len(b) > maxProof {
		return fmt.Errorf("the proof has %d bytes, at most %d fit", len(b), maxProof)
	}
	if err := e.put(b); err != nil {
		return err
	}
	return e.put(ending(e.all))
}

const endingWord = "sha256 "

func ending(all hash.Hash) []byte {
	return append(hex.AppendEncode([]byte(endingWord), all.Sum(nil)), '\n')
}

// Reader reads a backup.
type Reader struct {
	in     *bufio.Reader
	all    hash.Hash
	header Header
	sum    [32]byte // of the header's line
	number uint64
	ended  bool
	digest [32]byte
}

// NewReader reads the header.
func NewReader(r io.Reader) (*Reader, error) {
	e := &Reader{in: bufio.NewReaderSize(r, 128<<10), all: sha256.New()}
	begin := make([]byte, len(magic))
	if _, err := io.ReadFull(e.in, begin); err != nil {
		return nil, e.short(err, "it ends before it begins")
	}
	if string(begin) != magic {
		if bytes.HasPrefix(begin, []byte("hizo-backup-v")) {
			return nil, ErrFormat
		}
		return nil, damaged("it does not begin like a backup")
	}
	e.all.Write(begin)
	b, err := e.line(maxHeader)
	if err != nil {
		return nil, err
	}
	if err := unline(b, &e.header); err != nil {
		return nil, damaged("its header is unreadable")
	}
	e.sum = sha256.Sum256(b)
	return e, nil
}

// Header is what the file says of itself. It is not verified.
func (e *Reader) Header() Header { return e.header }

func (e *Reader) short(err error, why string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged("%s: it was cut", why)
	}
	return fmt.Errorf("read the backup: %w", err)
}

// line reads up to a newline, and has it hashed.
func (e *Reader) line(limit int) ([]byte, error) {
	var b []byte
	for {
		part, err := e.in.ReadSlice('\n')
		b = append(b, part...)
		if len(b) > limit {
			return nil, damaged("a line is longer than any of a backup")
		}
		if err == nil {
			e.all.Write(b)
			return b, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, e.short(err, "it ends in a line")
		}
	}
}

// next reads a chunk's ciphertext, nil behind the last.
func (e *Reader) next() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(e.in, head[:]); err != nil {
		return nil, e.short(err, "it ends between chunks")
	}
	e.all.Write(head[:])
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 {
		if e.number == 0 {
			return nil, damaged("there is nothing in it")
		}
		e.ended, e.digest = true, [32]byte(e.all.Sum(nil))
		return nil, nil
	}
	if n < aesgcm.Overhead || n > chunkSize+aesgcm.Overhead {
		return nil, damaged("a chunk of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(e.in, b); err != nil {
		return nil, e.short(err, "it ends in a chunk")
	}
	e.all.Write(b)
	e.number++
	return b, nil
}

// Skip reads over the state without opening it.
func (e *Reader) Skip() error {
	for !e.ended {
		if _, err := e.next(); err != nil {
			return err
		}
	}
	return nil
}

// Proof reads the end of the file, behind the state, and returns the digest that the proof has to be about.
func (e *Reader) Proof() (p Proof, digest [32]byte, err error) {
	if !e.ended {
		return p, digest, errors.New("the proof stands behind the state: read that first")
	}
	b, err := e.line(maxProof)
	if err != nil {
		return p, digest, err
	}
	want := ending(e.all)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(e.in, got); err != nil {
		return p, digest, e.short(err, "it ends in its last line")
	}
	if !bytes.Equal(got, want) {
		return p, digest, damaged("its checksum is another one: it was changed on its way, or by a disk")
	}
	if _, err := e.in.ReadByte(); !errors.Is(err, io.EOF) {
		return p, digest, damaged("something stands behind its end")
	}
	if err := unline(b, &p); err != nil {
		return p, digest, damaged("its proof is unreadable")
	}
	return p, e.digest, nil
}

// Body opens the state with the operators' key. An error before EOF means that nothing of it may be used.
func (e *Reader) Body(operators *hybrid.Key) (io.Reader, error) {
	info, err := keyInfo(e.header)
	if err != nil {
		return nil, err
	}
	key, err := operators.Open(e.header.Key, info)
	if err != nil {
		return nil, fmt.Errorf("the backup's key: %w", err)
	}
	defer key.Wipe()
	cipher, err := aesgcm.New(key.Reveal())
	if err != nil {
		return nil, err
	}
	return &body{file: e, cipher: cipher}, nil
}

type body struct {
	file   *Reader
	cipher *aesgcm.Cipher
	ahead  []byte // ciphertext of the next chunk
	plain  []byte
	done   bool
}

func (b *body) Read(p []byte) (int, error) {
	for len(b.plain) == 0 {
		if b.done {
			return 0, io.EOF
		}
		if err := b.open(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.plain)
	b.plain = b.plain[n:]
	return n, nil
}

// open opens one chunk, after looking whether another follows it.
func (b *body) open() (err error) {
	if b.ahead == nil {
		if b.ahead, err = b.file.next(); err != nil {
			return err
		}
	}
	now, number := b.ahead, b.file.number-1
	if b.ahead, err = b.file.next(); err != nil {
		return err
	}
	b.done = b.ahead == nil
	if b.plain, err = b.cipher.Open(now, chunkAAD(b.file.sum, number, b.done)); err != nil {
		return damaged("chunk %d does not open", number)
	}
	return nil
}
