package fsm

import (
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
)

// Restore implements raft.FSM: it replaces the state by a snapshot. The stream is unpacked beside the state and
// verified; only then CURRENT moves. Scans that began before go on in the old state.
func (s *Store) Restore(snapshot io.ReadCloser) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	m, index, term, err := readLead(snapshot)
	if err != nil {
		return err
	}
	if c, ok := s.Cluster(); ok && m.Cluster != [16]byte{} && m.Cluster != c.ID {
		return ErrOtherCluster
	}
	name, err := s.nextDatabase()
	if err != nil {
		return err
	}
	dir := s.fs.PathJoin(s.dir, name)
	if err := s.prepare(snapshot, dir, &m, index, term); err != nil {
		err = errors.Join(err, s.fs.RemoveAll(dir))
		// The leader would send it again and again, to a node that can never take it.
		if _, newer := errors.AsType[*LevelError](err); newer && s.lookup(ObjCluster) != nil {
			s.fatal(err)
		}
		return err
	}
	if err := s.setCurrent(name); err != nil {
		// Whether the next start finds the old state or the new one is not known. Both are right, going on is not.
		s.fatal(err)
	}
	db, err := s.openDatabase(name)
	if err != nil {
		s.fatal(err)
	}
	s.mu.Lock()
	old := s.db
	err = s.adopt(db)
	s.mu.Unlock()
	if err != nil {
		s.fatal(err)
	}
	old.retire()
	s.wake()
	s.log.Info("state restored from a snapshot", "index", s.position.Index, "term", s.position.Term)
	return nil
}

// prepare makes the database of a snapshot, up to where it can be opened at the next start. It is opened without
// compactions: Pebble panics when opening fails while one runs, and here a failure is to leave everything as it was.
func (s *Store) prepare(r io.Reader, dir string, m *manifest, index, term uint64) (err error) {
	if err := unpack(r, s.fs, dir, m); err != nil {
		return err
	}
	db, err := openPebble(s.fs, dir, s.log, s.halt, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := s.checkLevel(db); err != nil {
		return err
	}
	held, err := loadPosition(db)
	if err != nil {
		return err
	}
	// The files may hold entries behind the snapshot's index, which Raft will bring again and Apply skips. Under
	// another index than the one it was made at they are a backup's, and this log will not bring them.
	position := Position{Index: index, Term: term, Epoch: epoch(lead(m, index, term))}
	batch := db.NewBatch()
	keys := map[string][]byte{}
	if m.Index != index || m.Term != term {
		// A backup ends the history that watchers know. Every node gets the same number: it follows from the stream, and
		// those that take a later snapshot find it inside.
		keys[keyEpoch] = be64(position.Epoch)
	} else if held.Index > index {
		position.Index, position.Term = held.Index, held.Term
	}
	keys[localPosition], keys[localRestored] = position.encode(), be64(position.Index)
	for key, value := range keys {
		if err := batch.Set([]byte(key), value, nil); err != nil {
			return err
		}
	}
	if err := batch.Delete([]byte(localConfiguration), nil); err != nil {
		return err
	}
	if err := batch.Commit(pebble.NoSync); err != nil {
		return err
	}
	return db.Flush()
}

// RecoveryError says that state, snapshots and log of this node do not belong together.
type RecoveryError struct {
	Position              Position
	Snapshot, First, Last uint64 // newest snapshot's index, first and last index of the log
	Problem               string
}

func (e *RecoveryError) Error() string {
	return fmt.Sprintf("%s (state at index %d term %d, newest snapshot at %d, log from %d to %d): "+
		"the directories of this node are not of one time; move them away and let the node join again",
		e.Problem, e.Position.Index, e.Position.Term, e.Snapshot, e.First, e.Last)
}

// Recover brings the state to where Raft will go on from, and says whether Raft must not restore a snapshot at start
// (raft.Config.NoSnapshotRestoreOnStart). On restart Raft takes the newest snapshot's index as applied without looking
// at the state, so a state that is older, or of before a restore, takes that snapshot first: a crash between
// publishing a received snapshot and restoring it would otherwise leave a silent hole.
func (s *Store) Recover(snaps *Snapshots, logs raft.LogStore) (noRestoreOnStart bool, err error) {
	newest := snaps.newest()
	at := s.Position()
	if newest != nil {
		fits := at.Epoch == newest.Epoch || at.Epoch == epoch(newest.lead())
		if at.Index < newest.Index || !fits {
			_, r, err := snaps.Open(newest.ID)
			if err != nil {
				return false, err
			}
			err = s.Restore(r)
			if err := errors.Join(err, r.Close()); err != nil {
				return false, fmt.Errorf("restore snapshot %s at start: %w", newest.ID, err)
			}
			at = s.Position()
		}
	}
	if err := s.fitsLog(newest, logs); err != nil {
		return false, err
	}
	return newest == nil || at.Index >= newest.Index, nil
}

func (s *Store) fitsLog(newest *snapshot, logs raft.LogStore) error {
	at := s.Position()
	problem := &RecoveryError{Position: at}
	base := uint64(0)
	if newest != nil {
		base, problem.Snapshot = newest.Index, newest.Index
	}
	first, err := logs.FirstIndex()
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	last, err := logs.LastIndex()
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	problem.First, problem.Last = first, last
	restored, err := loadUint64(s.db.DB, localRestored)
	if err != nil {
		return err
	}
	switch {
	case last > base && first > base+1:
		problem.Problem = "entries are missing between the snapshot and the log"
		return problem
	case at.Index > max(last, base, restored):
		problem.Problem = "the state is ahead of the log"
		return problem
	case newest != nil && at.Index == newest.Index && at.Term != newest.Term:
		problem.Problem = "the state has another term than its snapshot"
		return problem
	case at.Index < max(first, base+1) || at.Index > last:
		return nil
	}
	var entry raft.Log
	if err := logs.GetLog(at.Index, &entry); err != nil {
		return fmt.Errorf("read log entry %d, the last one applied: %w", at.Index, err)
	}
	if entry.Term != at.Term {
		problem.Problem = fmt.Sprintf("the log has term %d where the state stopped", entry.Term)
		return problem
	}
	return nil
}
