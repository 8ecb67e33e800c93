package fsm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

var _ raft.SnapshotStore = (*Snapshots)(nil)

// SnapshotOptions of a snapshot store.
type SnapshotOptions struct {
	Dir    string // on the file system of the store's directory, so that snapshots are hard links
	FS     vfs.FS // nil: the store's
	Logger *slog.Logger
	Keep   int // snapshots kept; 0 means 2
	// Room says no where so many bytes do not fit on the disk; nil: it is not asked.
	Room func(size int64) error
}

// Snapshots is a raft.SnapshotStore over Pebble checkpoints.
//
// On disk, below SnapshotOptions.Dir:
//
//	TERM-INDEX-N/meta    what Raft knows of the snapshot, and its manifest, with a checksum
//	TERM-INDEX-N/db/     the files of a Pebble checkpoint
//	TERM-INDEX-N.tmp/    one being made; removed at start
type Snapshots struct {
	store *Store
	fs    vfs.FS
	dir   string
	log   *slog.Logger
	keep  int
	room  func(int64) error

	mu     sync.Mutex
	stored []*snapshot // newest first
	pins   map[string]int
	made   int
}

// snapshot is the content of a meta file.
type snapshot struct {
	ID                 string
	Version            int
	Index, Term        uint64
	Configuration      []byte
	ConfigurationIndex uint64
	Number             int
	Epoch              uint64 // of the state it was made from; for a received one, of the state it makes
	Database           string // directory it was made from, while that is in use its table files don't change
	Manifest           manifest
}

const (
	metaFile   = "meta"
	metaFormat = 1
	filesDir   = "db"
	tmpSuffix  = ".tmp"
)

// NewSnapshots opens the snapshots in opts.Dir. A damaged one is an error: leaving it out could leave a hole in front
// of the log.
func NewSnapshots(store *Store, opts SnapshotOptions) (*Snapshots, error) {
	s := &Snapshots{store: store, fs: opts.FS, dir: opts.Dir, log: opts.Logger, keep: opts.Keep, room: opts.Room, pins: map[string]int{}}
	if s.fs == nil {
		s.fs = store.fs
	}
	if s.log == nil {
		s.log = store.log
	}
	if s.keep <= 0 {
		s.keep = 2
	}
	if err := makeDir(s.fs, s.dir); err != nil {
		return nil, fmt.Errorf("make snapshot directory: %w", err)
	}
	names, err := s.fs.List(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, tmpSuffix) {
			if err := s.fs.RemoveAll(s.fs.PathJoin(s.dir, name)); err != nil {
				return nil, fmt.Errorf("remove an unfinished snapshot: %w", err)
			}
			continue
		}
		snap, err := s.load(name)
		if err != nil {
			return nil, fmt.Errorf("snapshot %s: %w; remove it only if a newer one is there, or restore this node from its peers",
				s.fs.PathJoin(s.dir, name), err)
		}
		s.stored = append(s.stored, snap)
		s.made = max(s.made, snap.Number)
	}
	s.sort()
	s.reap()
	return s, nil
}

func (s *Snapshots) load(name string) (*snapshot, error) {
	data, err := readFile(s.fs, s.fs.PathJoin(s.dir, name, metaFile))
	if err != nil {
		return nil, err
	}
	snap, err := decodeMeta(data)
	if err == nil && snap.ID != name {
		err = fmt.Errorf("%w: it calls itself %q", ErrDamaged, snap.ID)
	}
	return snap, err
}

func encodeMeta(snap *snapshot) []byte {
	data := encode(metaFormat, snap)
	sum := sha256.Sum256(data)
	return append(data, sum[:]...)
}

func decodeMeta(data []byte) (*snapshot, error) {
	if len(data) < sha256.Size {
		return nil, fmt.Errorf("%w: it is too short", ErrDamaged)
	}
	data, sum := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	if got := sha256.Sum256(data); !bytes.Equal(got[:], sum) {
		return nil, fmt.Errorf("%w: checksum", ErrDamaged)
	}
	if err := formatOf("snapshot", data, metaFormat); err != nil {
		return nil, err
	}
	snap := new(snapshot)
	if err := decode(data[1:], snap); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return snap, snap.Manifest.check()
}

func (s *Snapshots) sort() {
	slices.SortFunc(s.stored, func(a, b *snapshot) int {
		switch {
		case a.Index != b.Index:
			return int(int64(b.Index - a.Index))
		case a.Term != b.Term:
			return int(int64(b.Term - a.Term))
		}
		return b.Number - a.Number
	})
}

// reap removes the snapshots that are neither among the newest nor being read. The caller holds mu, or is alone.
func (s *Snapshots) reap() {
	kept := s.stored[:0]
	for i, snap := range s.stored {
		if i < s.keep || s.pins[snap.ID] > 0 {
			kept = append(kept, snap)
			continue
		}
		// Renamed first, so that a crash in between leaves nothing that looks whole.
		path := s.fs.PathJoin(s.dir, snap.ID)
		err := s.fs.Rename(path, path+tmpSuffix)
		if err == nil {
			err = s.fs.RemoveAll(path + tmpSuffix)
		}
		if err != nil {
			s.log.Error("removing an old snapshot; it is tried again with the next one", "snapshot", snap.ID, "error", err)
			kept = append(kept, snap)
		}
	}
	clear(s.stored[len(kept):])
	s.stored = kept
}

func (snap *snapshot) meta() *raft.SnapshotMeta {
	return &raft.SnapshotMeta{
		Version: raft.SnapshotVersion(snap.Version), ID: snap.ID, Index: snap.Index, Term: snap.Term,
		Configuration: raft.DecodeConfiguration(snap.Configuration), ConfigurationIndex: snap.ConfigurationIndex,
		Size: int64(len(snap.lead())) + snap.Manifest.size(),
	}
}

func (snap *snapshot) lead() []byte { return lead(&snap.Manifest, snap.Index, snap.Term) }

// List implements raft.SnapshotStore: newest first.
func (s *Snapshots) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*raft.SnapshotMeta
	for _, snap := range s.stored {
		out = append(out, snap.meta())
	}
	return out, nil
}

// newest returns the newest snapshot, nil if there is none.
func (s *Snapshots) newest() *snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.stored) == 0 {
		return nil
	}
	return s.stored[0]
}

// Newest returns index and term of the newest snapshot, zeros if there is none.
func (s *Snapshots) Newest() (index, term uint64) {
	if snap := s.newest(); snap != nil {
		return snap.Index, snap.Term
	}
	return 0, 0
}

// Open implements raft.SnapshotStore. The snapshot stays until the reader is closed.
func (s *Snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.stored, func(snap *snapshot) bool { return snap.ID == id })
	if i < 0 {
		return nil, nil, fmt.Errorf("no snapshot %q", id)
	}
	snap := s.stored[i]
	s.pins[id]++
	return snap.meta(), &streamReader{
		fs: s.fs, dir: s.fs.PathJoin(s.dir, id, filesDir), lead: snap.lead(), files: snap.Manifest.Files,
		done: func() { s.unpin(id) },
	}, nil
}

func (s *Snapshots) unpin(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pins[id]--; s.pins[id] == 0 {
		delete(s.pins, id)
	}
	s.reap()
}

// Create implements raft.SnapshotStore. Persist of the store's own snapshots turns the sink into a checkpoint; for a
// received one the bytes are unpacked and verified as they come.
func (s *Snapshots) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, _ raft.Transport,
) (raft.SnapshotSink, error) {
	if version != 1 {
		return nil, fmt.Errorf("snapshot version %d is not supported", version)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made++
	id := fmt.Sprintf("%d-%d-%d", term, index, s.made)
	k := &sink{snaps: s, tmp: s.fs.PathJoin(s.dir, id+tmpSuffix), snap: &snapshot{
		ID: id, Version: int(version), Index: index, Term: term, Number: s.made,
		Configuration: raft.EncodeConfiguration(configuration), ConfigurationIndex: configurationIndex,
	}}
	if err := s.fs.MkdirAll(k.tmp, 0o700); err != nil {
		return nil, fmt.Errorf("make snapshot: %w", err)
	}
	return k, nil
}

// known returns the checksum of a table file that an earlier snapshot of the same database has: tables never change.
func (s *Snapshots) known(database string) func(name string, size int64) []byte {
	sums := map[string]manifestFile{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, snap := range s.stored {
		if snap.Database == database {
			for _, f := range snap.Manifest.Files {
				sums[f.Name] = f
			}
		}
	}
	return func(name string, size int64) []byte {
		if f, ok := sums[name]; ok && strings.HasSuffix(name, ".sst") && f.Size == size {
			return f.Sum
		}
		return nil
	}
}

// publish makes a finished snapshot visible: synced, renamed, synced.
func (s *Snapshots) publish(k *sink) error {
	if err := writeFile(s.fs, k.tmp, metaFile, encodeMeta(k.snap)); err != nil {
		return err
	}
	if err := s.fs.Rename(k.tmp, s.fs.PathJoin(s.dir, k.snap.ID)); err != nil {
		return err
	}
	s.mu.Lock()
	s.stored = append(s.stored, k.snap)
	s.sort()
	s.mu.Unlock()
	if err := syncDir(s.fs, s.dir); err != nil {
		// It is there, but may be gone after a crash: Raft must not truncate its log because of it.
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reap()
	return nil
}

// sink is a snapshot being made.
type sink struct {
	snaps *Snapshots
	snap  *snapshot
	tmp   string

	pipe     *io.PipeWriter // to the goroutine that unpacks
	unpacked chan error
	ready    bool // files and manifest are complete
	closed   bool
	result   error
}

func (k *sink) ID() string { return k.snap.ID }

// Write takes the next bytes of a received stream.
func (k *sink) Write(p []byte) (int, error) {
	if k.pipe == nil {
		r, w := io.Pipe()
		k.pipe, k.unpacked = w, make(chan error, 1)
		go func() {
			err := k.receive(r)
			r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
			k.unpacked <- err
		}()
	}
	n, err := k.pipe.Write(p)
	return n, err
}

func (k *sink) receive(r io.Reader) error {
	m, _, _, err := readLead(r)
	if err != nil {
		return err
	}
	if c, ok := k.snaps.store.Cluster(); ok && m.Cluster != [16]byte{} && m.Cluster != c.ID {
		return ErrOtherCluster
	}
	if k.snaps.room != nil {
		// It is unpacked here, and once more as the state.
		if err := k.snaps.room(2 * m.size()); err != nil {
			return err
		}
	}
	k.snap.Manifest = m
	k.snap.Epoch = epoch(k.snap.lead())
	return unpack(r, k.snaps.fs, k.snaps.fs.PathJoin(k.tmp, filesDir), &m)
}

// Close publishes the snapshot, if it is whole. Raft calls it again after Persist.
func (k *sink) Close() error {
	if k.closed {
		return k.result
	}
	k.closed = true
	k.result = k.finish()
	if k.result != nil {
		k.result = fmt.Errorf("snapshot %s: %w", k.snap.ID, k.result)
		k.remove()
	}
	return k.result
}

func (k *sink) finish() error {
	if k.pipe != nil {
		if err := k.pipe.Close(); err != nil {
			return err
		}
		if err := <-k.unpacked; err != nil {
			return err
		}
		k.ready = true
	}
	if !k.ready {
		return fmt.Errorf("%w: it is empty", ErrDamaged)
	}
	return k.snaps.publish(k)
}

// Cancel drops the snapshot.
func (k *sink) Cancel() error {
	if k.closed {
		return nil
	}
	k.closed, k.result = true, errors.New("snapshot was cancelled")
	if k.pipe != nil {
		k.pipe.CloseWithError(k.result)
		<-k.unpacked
	}
	return k.remove()
}

func (k *sink) remove() error {
	err := k.snaps.fs.RemoveAll(k.tmp)
	if err != nil {
		k.snaps.log.Error("removing an unfinished snapshot; it is tried again at start", "snapshot", k.snap.ID, "error", err)
	}
	return err
}
