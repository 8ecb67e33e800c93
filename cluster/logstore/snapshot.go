package logstore

import (
	"errors"

	"github.com/hashicorp/raft"
)

// The log and the newest snapshot, at index S and term T.
//
// They agree where the log's entry at S has term T. Then the log is left as it
// is, and a prefix delete never takes the entry at S itself: a follower whose
// log goes on beyond S is asked for the term at S (raft issue 697), and must be
// able to say it.
//
// They disagree where that entry is missing or of another term, which is so
// after InstallSnapshot over a shorter or divergent log and after a user's
// Restore. Everything up to S is then void: GetLog hides it at once, and the
// next write deletes it (raft would keep it, and a later leader could send such
// entries to a follower with the same divergent log).
//
// The stand-in that GetLog gives for S is for the follower's consistency check.
// A leader cannot send it to anybody: to send entry S raft reads entry S-1
// first, which is hidden in the same moment in which the stand-in appears, and
// is told to send the snapshot. The one index without a predecessor, 1, has no
// stand-in.

// verdict caches whether the log agrees with a snapshot.
type verdict struct {
	index, term uint64
	agrees      bool
	purged      bool
}

// agrees decides once for each snapshot. Its answer stays right: entries at or
// below S are neither appended nor, where they agree, deleted.
func (s *Store) agrees(index, term uint64) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.verdict.index == index && s.verdict.term == term {
		return s.verdict.agrees, nil
	}
	var entry raft.Log
	err := unseal(s.path, index, &entry, s.file.GetLog)
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		return false, err
	}
	s.verdict = verdict{index: index, term: term, agrees: err == nil && entry.Term == term}
	return s.verdict.agrees, nil
}

// settle deletes what the newest snapshot has made void.
func (s *Store) settle() error {
	index, term := s.cfg.Snapshot()
	if index == 0 {
		return nil
	}
	agrees, err := s.agrees(index, term)
	if err != nil || agrees {
		return err
	}
	s.purging.Lock()
	defer s.purging.Unlock()
	s.mu.Lock()
	done := s.verdict.purged && s.verdict.index == index && s.verdict.term == term
	s.mu.Unlock()
	if done {
		return nil
	}
	if err := s.deleteChunks(0, index); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.verdict.index == index && s.verdict.term == term {
		s.verdict.purged = true
	}
	return nil
}
