// Package fsm is the replicated state machine: commands, the state they make, and the audit tree over every request.
//
// Failure model. The state lives in Pebble without a WAL. Each Raft entry is one batch holding state, audit leaves and
// the position (index, term, epoch), so after a crash at any moment the store reopens at some earlier entry, whole, and
// Raft replays the rest; Apply skips what is in already. A snapshot is built under a temporary name, synced and renamed:
// a crash leaves the old snapshots or the new one. A restore unpacks and verifies into a directory of its own, syncs it
// and then moves the file CURRENT: a crash leaves the old state or the new one. What Apply cannot understand or cannot
// write stops the node (Options.Halt) before anything of that entry is visible.
package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

var (
	_ raft.FSM                = (*Store)(nil)
	_ raft.ConfigurationStore = (*Store)(nil)
)

// Options of a store.
type Options struct {
	Dir    string
	FS     vfs.FS // nil: the operating system's
	Logger *slog.Logger
	// Halt is told why this node must not go on. It should end the process; if it returns, the store panics.
	Halt func(error)
	// Level is the highest that this node knows; 0 means HighestLevel. Tests of upgrades set it.
	Level uint32
	// CacheBytes bounds decoded objects in memory; 0 means 32 MiB.
	CacheBytes int
}

// Position is how far the store has come.
type Position struct {
	Index, Term uint64
	Epoch       uint64 // changes with every restore
}

// Store is the state machine.
//
// On disk, below Options.Dir:
//
//	CURRENT       the name of the database directory in use
//	db-000001/    Pebble; keys are the names in object.go, node-local ones begin with NUL
type Store struct {
	dir     string
	fs      vfs.FS
	log     *slog.Logger
	halt    func(error)
	highest uint32 // level

	// mu guards the committed state. Apply and Restore publish under it, readers share it; so what a reader finds in
	// db and cache under one lock is of one entry, and what it adds to the cache is current.
	mu       sync.RWMutex
	db       *database
	cache    *cache
	position Position
	time     int64 // cluster time, Unix milliseconds
	size     uint64
	epoch    uint64 // of the history: the same on all nodes, unlike position.Epoch
	closed   bool

	listeners sync.Mutex
	notify    chan struct{} // closed at the next entry; nil: nobody waits

	exporting sync.Mutex // one Export at a time

	// applying is held by whoever may write: Apply, Restore, StoreConfiguration, and a snapshot that moves the position.
	applying sync.Mutex
	// owned by the holder of applying
	edge   edge
	sweeps sweeps
}

// Open opens the store in opts.Dir, making it if it is not there. Call Recover before handing it to Raft.
func Open(opts Options) (*Store, error) {
	s := &Store{dir: opts.Dir, fs: opts.FS, log: opts.Logger, halt: opts.Halt}
	if s.fs == nil {
		s.fs = vfs.Default
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.halt == nil {
		s.halt = func(error) {}
	}
	if s.highest = opts.Level; s.highest == 0 {
		s.highest = HighestLevel
	}
	if opts.CacheBytes == 0 {
		opts.CacheBytes = 32 << 20
	}
	s.cache = newCache(opts.CacheBytes)
	name, err := s.currentDatabase()
	if err != nil {
		return nil, err
	}
	db, err := s.openDatabase(name)
	if err != nil {
		return nil, err
	}
	if err := s.adopt(db); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if err := s.setCurrent(name); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s.removeStale()
	return s, nil
}

// Close flushes the state and closes it. Reads that have begun end first; reads after it answer "absent".
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.wake()
	s.mu.Unlock()
	s.db.drain() // nobody else begins to read, and readers may need mu
	s.mu.Lock()
	defer s.mu.Unlock()
	flushed := s.db.Flush()
	return errors.Join(flushed, s.db.Close())
}

func (s *Store) openDatabase(name string) (*database, error) {
	db, err := openPebble(s.fs, s.fs.PathJoin(s.dir, name), s.log, s.halt, false)
	if err != nil {
		return nil, err
	}
	d := &database{DB: db, name: name}
	d.drop = func() {
		if err := db.Close(); err != nil {
			s.log.Error("state store: closing the database of before the restore", "error", err)
		}
		if err := s.fs.RemoveAll(s.fs.PathJoin(s.dir, name)); err != nil {
			s.log.Error("state store: removing the database of before the restore", "error", err)
		}
	}
	return d, nil
}

// adopt makes db the committed state. The caller holds mu, or is alone.
func (s *Store) adopt(db *database) error {
	if err := s.checkLevel(db.DB); err != nil {
		return err
	}
	position, err := loadPosition(db.DB)
	if err != nil {
		return err
	}
	now, err := loadUint64(db.DB, keyTime)
	if err != nil {
		return err
	}
	size, err := loadUint64(db.DB, keySize)
	if err != nil {
		return err
	}
	epoch, err := loadUint64(db.DB, keyEpoch)
	if err != nil {
		return err
	}
	edge, err := loadEdge(db.DB, size)
	if err != nil {
		return err
	}
	s.db, s.position, s.time, s.size, s.edge = db, position, int64(now), size, edge
	s.epoch = epoch
	s.sweeps = sweeps{}
	s.cache = newCache(s.cache.limit)
	return nil
}

// fatal stops the node: going on would let replicas diverge, or acknowledge what is not stored.
func (s *Store) fatal(err error) {
	s.halt(err)
	panic(err)
}

// lookup returns an object of the committed state, nil if it is absent. The caller holds mu, or is Apply.
func (s *Store) lookup(name string) object {
	if o, known := s.cache.get(name); known {
		return o
	}
	if s.closed {
		return nil
	}
	data, closer, err := s.db.Get([]byte(name))
	if errors.Is(err, pebble.ErrNotFound) {
		if remembered(name) {
			s.cache.put(name, nil)
		}
		return nil
	}
	if err != nil {
		s.fatal(fmt.Errorf("read state: %w", err))
	}
	o, err := decodeObject(name, data)
	if err := errors.Join(err, closer.Close()); err != nil {
		s.fatal(fmt.Errorf("read state: object %q: %w", name, err))
	}
	if remembered(name) {
		s.cache.put(name, o)
	}
	return o
}

// finder is where objects are looked up: the committed state, or an entry's view of it.
type finder interface{ lookup(name string) object }

// find returns the object called name as its type, nil if it is absent.
func find[T any, P interface {
	*T
	object
}](f finder, name string) P {
	if o := f.lookup(name); o != nil {
		return o.(P)
	}
	return nil
}

// read is find in the committed state, by value.
func read[T any, P interface {
	*T
	object
}](s *Store, name string) (T, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if o := find[T, P](s, name); o != nil {
		return *o, true
	}
	var none T
	return none, false
}

// acquire returns the database of now for a scan; the caller releases it. It is nil after Close.
func (s *Store) acquire() *database {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil
	}
	s.db.mu.Lock()
	s.db.users++
	s.db.mu.Unlock()
	return s.db
}

func loadUint64(r pebble.Reader, key string) (uint64, error) {
	data, closer, err := r.Get([]byte(key))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read state: %w", err)
	}
	defer closer.Close()
	if len(data) != 8 {
		return 0, fmt.Errorf("read state: %q: %w", key, ErrMalformed)
	}
	return binary.BigEndian.Uint64(data), nil
}

// positionFormat leads the stored position.
const positionFormat = 1

func (p Position) encode() []byte {
	out := append(make([]byte, 0, 25), positionFormat)
	out = binary.BigEndian.AppendUint64(out, p.Index)
	out = binary.BigEndian.AppendUint64(out, p.Term)
	return binary.BigEndian.AppendUint64(out, p.Epoch)
}

func loadPosition(r pebble.Reader) (Position, error) {
	data, closer, err := r.Get([]byte(localPosition))
	if errors.Is(err, pebble.ErrNotFound) {
		return Position{}, nil
	}
	if err != nil {
		return Position{}, fmt.Errorf("read position: %w", err)
	}
	defer closer.Close()
	if err := formatOf("position", data, positionFormat); err != nil {
		return Position{}, err
	}
	if len(data) != 25 {
		return Position{}, fmt.Errorf("read position: %w", ErrMalformed)
	}
	return Position{
		Index: binary.BigEndian.Uint64(data[1:]),
		Term:  binary.BigEndian.Uint64(data[9:]),
		Epoch: binary.BigEndian.Uint64(data[17:]),
	}, nil
}
