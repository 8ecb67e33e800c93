// Package logstore is Raft's log and stable store: raft-boltdb with the traps
// that hashicorp/raft v1.7.3 leaves open closed around it.
//
// The file, one bbolt database:
//
//	bucket "logs"  index (8 bytes, big endian) -> msgpack of raft.Log, whose
//	               Extensions end in a checksum (see checksum.go)
//	bucket "conf"  "CurrentTerm" -> term (8 bytes, big endian), checksum
//	               "LastVote"    -> format, term, candidate, checksum (see stable.go)
//
// What a crash leaves behind: every write is one bbolt transaction with its
// fsync, so each is there or not. Prefix deletes are several transactions from
// the front, so a crash leaves a shorter prefix, never a hole. A suffix delete is
// one transaction, because half of a divergent tail would be taken for log.
//
// What a failed write leaves behind: see StoreLogs and DeleteRange. What a
// write that does not end leaves behind: nothing in this process, which ends
// (see guard).
package logstore

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/cluster/meter"
)

// Config configures a Store; its zero value is usable except for Snapshot,
// which a node with a snapshot store must set.
type Config struct {
	// Snapshot names the newest published snapshot, zeros for none. It is asked
	// on nearly every call: it must be cheap, and must not call the Store.
	Snapshot func() (index, term uint64)

	WriteDeadline time.Duration // default 5 s; see guard
	LockTimeout   time.Duration // default 1 s
	Exit          func(error)   // ends the process and need not return; default logs and exits with 1
	Logger        *slog.Logger
	Room          func(bytes int) error // says no where the disk has no room for commands of so many bytes; nil: never
	Appends       *meter.Histogram      // ns that appending takes, the sync included; nil: not measured

	wrap func(backend) backend // fault tests
}

// backend is what raft-boltdb offers.
type backend interface {
	raft.LogStore
	raft.StableStore
	Close() error
}

const (
	// cacheEntries is small because group-commit entries are up to 256 KiB.
	cacheEntries = 64
	// deleteChunk bounds how long a prefix delete keeps bbolt's only writer lock.
	deleteChunk = 128
)

// Store implements raft.LogStore and raft.StableStore. It has its cache inside:
// a raft.LogCache around it would undo what GetLog does.
type Store struct {
	path     string
	cfg      Config
	log      *slog.Logger
	file     backend        // checksummed, uncached: stable values, and what the log really holds
	cache    *raft.LogCache // over file: log entries
	vote     voteBuffer
	deadline time.Duration

	// mu guards marks and the verdict. It is never held over a write.
	mu      sync.Mutex
	marks   marks
	verdict verdict

	purging sync.Mutex // one purge at a time
}

var (
	_ raft.LogStore    = (*Store)(nil)
	_ raft.StableStore = (*Store)(nil)
)

// Open opens the store at path, and creates it where there is none. It reads
// the whole file once and refuses one that is damaged, without changing it.
func Open(path string, cfg Config) (*Store, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.WriteDeadline <= 0 {
		cfg.WriteDeadline = 5 * time.Second
	}
	if cfg.LockTimeout <= 0 {
		cfg.LockTimeout = time.Second
	}
	if cfg.Snapshot == nil {
		cfg.Snapshot = func() (uint64, uint64) { return 0, 0 }
	}
	if cfg.Exit == nil {
		cfg.Exit = func(error) { os.Exit(1) }
	}
	raw, held, err := openFile(path, cfg.LockTimeout)
	if err != nil {
		return nil, err
	}
	if cfg.wrap != nil {
		raw = cfg.wrap(raw)
	}
	s := &Store{
		path:     path,
		cfg:      cfg,
		log:      cfg.Logger.With("component", "raft log"),
		file:     &checked{backend: raw, path: path},
		deadline: cfg.WriteDeadline,
		marks:    held,
	}
	if s.cache, err = raft.NewLogCache(cacheEntries, s.file); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	if err := s.settle(); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return s, nil
}

// Close closes the file; calls that come later fail.
func (s *Store) Close() error {
	if err := s.file.Close(); err != nil {
		return fmt.Errorf("close raft log %s: %w", s.path, err)
	}
	return nil
}

// FirstIndex is the first index in the log, 0 for an empty one.
func (s *Store) FirstIndex() (uint64, error) { return s.cache.FirstIndex() }

// LastIndex is the last index in the log, 0 for an empty one.
func (s *Store) LastIndex() (uint64, error) { return s.cache.LastIndex() }

// GetLog reads one entry. Up to the newest snapshot's index S, where the log and
// the snapshot contradict each other, the snapshot is right (raft issue 697: raft
// keeps its divergent log after InstallSnapshot, asks it for the term at S, and
// so refuses everything that follows and is sent the snapshot again, for ever):
// at S the answer is an empty entry of the snapshot's term, below it there is
// nothing. See snapshot.go for why no leader can send that entry on.
func (s *Store) GetLog(index uint64, entry *raft.Log) error {
	if at, term := s.cfg.Snapshot(); at != 0 && index <= at {
		agrees, err := s.agrees(at, term)
		if err != nil {
			return err
		}
		if !agrees {
			if index < at || at == 1 {
				return raft.ErrLogNotFound
			}
			*entry = raft.Log{Index: at, Term: term, Type: raft.LogNoop}
			return nil
		}
	}
	return unseal(s.path, index, entry, s.cache.GetLog)
}

// StoreLog is StoreLogs for one entry.
func (s *Store) StoreLog(entry *raft.Log) error { return s.StoreLogs([]*raft.Log{entry}) }

// StoreLogs appends. An error means that nothing was appended: where the write
// failed and left its entries behind nevertheless, they are deleted first
// (raft goes on as if they were not there and would write a newer term before
// them, and after a restart the log would end in an older term than the node has
// acknowledged, which breaks elections). Where that fails as well the process
// ends, and the next start sees what is really there.
func (s *Store) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	if err := s.settle(); err != nil {
		return err
	}
	if err := s.roomFor(entries); err != nil {
		return err
	}
	return s.guard("append to", func() error {
		begin := time.Now()
		err := s.cache.StoreLogs(seal(entries))
		if s.cfg.Appends != nil {
			s.cfg.Appends.Since(begin)
		}
		if err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, e := range entries {
				s.marks.push(e.Index, sizeOf(e))
			}
			return nil
		}
		if undo := s.unappend(entries[0].Index); undo != nil {
			s.fatal(fmt.Errorf("raft log %s: an append failed (%w) and cannot be undone (%w): this node stops; check its disk, then start it again", s.path, err, undo))
		}
		return fmt.Errorf("append to raft log %s; check the disk: %w", s.path, err)
	})
}

// roomFor refuses commands while there is no room. What a term begins with is small, and a node that could not store it
// could not find out that it leads and hand over.
func (s *Store) roomFor(entries []*raft.Log) error {
	if s.cfg.Room == nil {
		return nil
	}
	commands, size := false, 0
	for _, e := range entries {
		commands = commands || e.Type == raft.LogCommand
		size += len(e.Data)
	}
	if !commands {
		return nil
	}
	return s.cfg.Room(size)
}

// unappend deletes what a failed append may have left from index on.
func (s *Store) unappend(index uint64) error {
	last, err := s.file.LastIndex()
	if err != nil {
		return err
	}
	if last < index {
		return nil
	}
	return s.cache.DeleteRange(index, last)
}

// DeleteRange deletes from min to max, both included. A prefix of the log goes
// in chunks from the front, so that appends get their turn, and without the
// entry at the newest snapshot's index (see snapshot.go). A tail, which begins
// beyond that snapshot and ends with the log, is divergent and goes at once.
func (s *Store) DeleteRange(min, max uint64) error {
	if min > max {
		return nil
	}
	if err := s.settle(); err != nil {
		return err
	}
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	switch at, _ := s.cfg.Snapshot(); {
	case at != 0 && min <= at:
		if max >= at {
			max = at - 1
		}
	case max >= last:
		return s.deleteTail(min, max)
	}
	return s.deleteChunks(min, max)
}

func (s *Store) deleteChunks(min, max uint64) error {
	for {
		s.mu.Lock()
		from, to, ok := s.marks.chunk(min, max, deleteChunk)
		s.mu.Unlock()
		if !ok {
			return nil
		}
		err := s.guard("compact", func() error { return s.cache.DeleteRange(from, to) })
		if err != nil {
			return fmt.Errorf("compact raft log %s: %w", s.path, err)
		}
		s.mu.Lock()
		s.marks.drop(from, to)
		s.mu.Unlock()
	}
}

// deleteTail answers an error only where the tail is still there; raft keeps the
// old last index then.
func (s *Store) deleteTail(min, max uint64) error {
	return s.guard("cut the tail of", func() error {
		if err := s.cache.DeleteRange(min, max); err != nil {
			last, again := s.file.LastIndex()
			if again != nil || last >= min {
				return fmt.Errorf("cut the tail of raft log %s; check the disk: %w", s.path, errors.Join(err, again))
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.marks.dropFrom(min)
		return nil
	})
}
