package fsm

import (
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
)

// Snapshot implements raft.FSM. It captures the position only; Persist makes the files.
func (s *Store) Snapshot() (raft.FSMSnapshot, error) {
	return &point{store: s, at: s.Position()}, nil
}

// point is where the state was when Raft asked for a snapshot. The files that Persist makes may hold a few entries
// more: they say so themselves, and Apply skips what they hold.
type point struct {
	store *Store
	at    Position
}

// Release implements raft.FSMSnapshot.
func (*point) Release() {}

// Persist implements raft.FSMSnapshot.
func (p *point) Persist(to raft.SnapshotSink) error {
	if own, ok := to.(*sink); ok {
		return p.checkpoint(own)
	}
	return p.stream(to)
}

func (p *point) checkpoint(k *sink) error {
	s := p.store
	db, err := s.flushed(p.at.Epoch, k.snap.Index, k.snap.Term)
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", k.snap.ID, err)
	}
	defer db.release()
	dir := k.snaps.fs.PathJoin(k.tmp, filesDir)
	if err := db.Checkpoint(dir); err != nil {
		return fmt.Errorf("snapshot %s: %w", k.snap.ID, err)
	}
	files, err := describe(k.snaps.fs, dir, k.snaps.known(db.name))
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", k.snap.ID, err)
	}
	cluster, _ := s.Cluster()
	k.snap.Manifest = manifest{Cluster: cluster.ID, Index: k.snap.Index, Term: k.snap.Term, Files: files}
	k.snap.Epoch, k.snap.Database = p.at.Epoch, db.name
	k.ready = true
	return k.Close()
}

// stream writes a snapshot to a foreign sink, by way of a checkpoint beside the database.
func (p *point) stream(to raft.SnapshotSink) error {
	s := p.store
	db, err := s.flushed(p.at.Epoch, p.at.Index, p.at.Term)
	if err != nil {
		return err
	}
	defer db.release()
	dir := s.fs.PathJoin(s.dir, "stream"+tmpSuffix)
	if err := s.fs.RemoveAll(dir); err != nil {
		return err
	}
	if err := db.Checkpoint(dir); err != nil {
		return err
	}
	files, err := describe(s.fs, dir, func(string, int64) []byte { return nil })
	if err == nil {
		cluster, _ := s.Cluster()
		m := manifest{Cluster: cluster.ID, Index: p.at.Index, Term: p.at.Term, Files: files}
		r := &streamReader{fs: s.fs, dir: dir, lead: lead(&m, m.Index, m.Term), files: files}
		_, err = io.Copy(to, r)
		err = errors.Join(err, r.Close())
	}
	if err == nil {
		err = to.Close()
	}
	return errors.Join(err, s.fs.RemoveAll(dir))
}

// flushed returns the database with everything up to now on disk. Raft's index may be past the last command (no-ops,
// configurations); the position follows it, or every restart would look like a state older than its snapshot.
func (s *Store) flushed(epoch, index, term uint64) (*database, error) {
	s.applying.Lock()
	defer s.applying.Unlock()
	db := s.acquire()
	if db == nil {
		return nil, errClosed
	}
	if s.position.Epoch != epoch {
		db.release()
		return nil, errors.New("the state was restored in the meantime")
	}
	if s.position.Index < index {
		position := Position{Index: index, Term: term, Epoch: epoch}
		if err := db.Set([]byte(localPosition), position.encode(), pebble.NoSync); err != nil {
			db.release()
			return nil, err
		}
		s.mu.Lock()
		s.position = position
		s.mu.Unlock()
		s.wake()
	}
	done, err := db.AsyncFlush()
	if err != nil {
		db.release()
		return nil, err
	}
	s.applying.Unlock() // Apply goes on while the disk works
	<-done
	s.applying.Lock()
	return db, nil
}
