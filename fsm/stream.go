package fsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A snapshot as a stream is
//
//	"HIZOSNAP" ‖ format (1) ‖ index (8) ‖ term (8) ‖ length of manifest (4) ‖ SHA-256 of all before and the manifest ‖
//	manifest ‖ the files, in the order of the manifest
//
// Index and term are Raft's for the snapshot as it is stored where the stream is read; the manifest holds those it was
// made at. They differ after a backup was restored into a running cluster, which gives it a new index.

const (
	streamMagic  = "HIZOSNAP"
	streamFormat = 1
	streamHeader = len(streamMagic) + 1 + 8 + 8 + 4 + sha256.Size
	maxManifest  = 64 << 20
)

// ErrDamaged says that a snapshot is not what was written: truncated, changed, or not a snapshot at all.
var ErrDamaged = errors.New("snapshot is damaged")

// ErrOtherCluster says that a snapshot holds another cluster's state.
var ErrOtherCluster = errors.New("snapshot is of another cluster")

// manifest lists the files of a snapshot.
type manifest struct {
	Cluster     [16]byte
	Index, Term uint64 // Raft's, when it was made
	Files       []manifestFile
}

type manifestFile struct {
	Name string
	Size int64
	Sum  []byte // SHA-256
}

func (m *manifest) size() int64 {
	total := int64(0)
	for _, f := range m.Files {
		total += f.Size
	}
	return total
}

// check refuses what could write outside a directory or exhaust memory.
func (m *manifest) check() error {
	seen := make(map[string]bool, len(m.Files))
	for _, f := range m.Files {
		switch {
		case f.Name == "" || len(f.Name) > 255 || f.Name == "." || f.Name == "..",
			strings.ContainsAny(f.Name, "/\\\x00"), seen[f.Name]:
			return fmt.Errorf("%w: file name %q", ErrDamaged, f.Name)
		case f.Size < 0 || f.Size > 1<<50 || len(f.Sum) != sha256.Size:
			return fmt.Errorf("%w: size or checksum of file %q", ErrDamaged, f.Name)
		}
		seen[f.Name] = true
	}
	return nil
}

// lead is the part of a stream before the files.
func lead(m *manifest, index, term uint64) []byte {
	body := encode(streamFormat, m)
	b := append(make([]byte, 0, streamHeader+len(body)), streamMagic...)
	b = append(b, streamFormat)
	b = binary.BigEndian.AppendUint64(b, index)
	b = binary.BigEndian.AppendUint64(b, term)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	sum := sha256.New()
	sum.Write(b)
	sum.Write(body)
	return append(sum.Sum(b), body...)
}

// epoch of the state that restoring a stream makes. It follows from what is restored, so restoring the same again is
// the same epoch; it is never 0, the epoch of a state that was never restored.
func epoch(lead []byte) uint64 {
	sum := sha256.Sum256(lead)
	return max(binary.BigEndian.Uint64(sum[:]), 1)
}

// readLead reads and checks the part of a stream before the files.
func readLead(r io.Reader) (m manifest, index, term uint64, err error) {
	var head [streamHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return m, 0, 0, fmt.Errorf("%w: it ends in its header: %w", ErrDamaged, err)
	}
	if !bytes.HasPrefix(head[:], []byte(streamMagic)) {
		return m, 0, 0, fmt.Errorf("%w: it does not begin like one", ErrDamaged)
	}
	if got := head[len(streamMagic)]; got != streamFormat {
		return m, 0, 0, &UnknownFormatError{What: "snapshot format", Got: uint64(got)}
	}
	rest := head[len(streamMagic)+1:]
	index, term = binary.BigEndian.Uint64(rest), binary.BigEndian.Uint64(rest[8:])
	length := binary.BigEndian.Uint32(rest[16:])
	if length > maxManifest {
		return m, 0, 0, fmt.Errorf("%w: a manifest of %d bytes", ErrDamaged, length)
	}
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, int64(length)); err != nil {
		return m, 0, 0, fmt.Errorf("%w: it ends in its manifest: %w", ErrDamaged, err)
	}
	sum := sha256.New()
	sum.Write(head[:streamHeader-sha256.Size])
	sum.Write(body.Bytes())
	if !bytes.Equal(sum.Sum(nil), head[streamHeader-sha256.Size:]) {
		return m, 0, 0, fmt.Errorf("%w: checksum of the manifest", ErrDamaged)
	}
	m, err = decodeManifest(body.Bytes())
	return m, index, term, err
}

func decodeManifest(data []byte) (m manifest, err error) {
	if err := formatOf("snapshot manifest", data, streamFormat); err != nil {
		return m, err
	}
	if err := decode(data[1:], &m); err != nil {
		return m, fmt.Errorf("%w: manifest: %w", ErrDamaged, err)
	}
	return m, m.check()
}

// unpack reads the files of a stream into dir, which must not be there, and syncs them. Nothing else is touched, and on
// an error the caller removes dir.
func unpack(r io.Reader, fs vfs.FS, dir string, m *manifest) error {
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, f := range m.Files {
		if err := unpackFile(r, fs, fs.PathJoin(dir, f.Name), f); err != nil {
			return err
		}
	}
	var more [1]byte
	if n, err := io.ReadFull(r, more[:]); n != 0 {
		return fmt.Errorf("%w: bytes behind its end", ErrDamaged)
	} else if !errors.Is(err, io.EOF) {
		return fmt.Errorf("read snapshot: %w", err)
	}
	return syncDir(fs, dir)
}

func unpackFile(r io.Reader, fs vfs.FS, path string, f manifestFile) error {
	out, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(sum, out), io.LimitReader(r, f.Size)) // vfs.File.Write may change what it is given
	switch {
	case err != nil:
		err = fmt.Errorf("read snapshot: %w", err)
	case n != f.Size:
		err = fmt.Errorf("%w: it ends in file %q", ErrDamaged, f.Name)
	case !bytes.Equal(sum.Sum(nil), f.Sum):
		err = fmt.Errorf("%w: checksum of file %q", ErrDamaged, f.Name)
	default:
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// describe lists the files of dir. known may hold the checksum of a file that cannot have changed.
func describe(fs vfs.FS, dir string, known func(name string, size int64) []byte) ([]manifestFile, error) {
	names, err := fs.List(dir)
	if err != nil {
		return nil, err
	}
	var files []manifestFile
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		info, err := fs.Stat(path)
		if err != nil {
			return nil, err
		}
		f := manifestFile{Name: name, Size: info.Size(), Sum: known(name, info.Size())}
		if f.Sum == nil {
			if f.Sum, err = sumFile(fs, path, sha256.New()); err != nil {
				return nil, err
			}
		}
		files = append(files, f)
	}
	return files, nil
}

func sumFile(fs vfs.FS, path string, sum hash.Hash) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(sum, f)
	return sum.Sum(nil), errors.Join(err, f.Close())
}

// streamReader reads a stored snapshot as a stream. A file that is shorter than its manifest says is an error, never a
// short stream.
type streamReader struct {
	fs    vfs.FS
	dir   string
	lead  []byte
	files []manifestFile
	open  vfs.File
	left  int64
	done  func()
}

func (r *streamReader) Read(p []byte) (int, error) {
	for {
		if len(r.lead) > 0 {
			n := copy(p, r.lead)
			r.lead = r.lead[n:]
			return n, nil
		}
		if r.open != nil && r.left > 0 {
			n, err := r.open.Read(p[:min(int64(len(p)), r.left)])
			r.left -= int64(n)
			if errors.Is(err, io.EOF) {
				err = nil
				if n == 0 {
					err = fmt.Errorf("%w: file %q is too short", ErrDamaged, r.files[0].Name)
				}
			}
			return n, err
		}
		if r.open != nil {
			err := r.open.Close()
			r.open, r.files = nil, r.files[1:]
			if err != nil {
				return 0, err
			}
		}
		if len(r.files) == 0 {
			return 0, io.EOF
		}
		f, err := r.fs.Open(r.fs.PathJoin(r.dir, r.files[0].Name))
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		r.open, r.left = f, r.files[0].Size
	}
}

// Close lets go of the snapshot.
func (r *streamReader) Close() error {
	var err error
	if r.open != nil {
		err = r.open.Close()
		r.open = nil
	}
	if r.done != nil {
		r.done()
		r.done = nil
	}
	return err
}
