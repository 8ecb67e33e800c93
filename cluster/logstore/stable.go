package logstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// The names are raft's own (raft.go), except for the last.
var (
	keyCurrentTerm  = []byte("CurrentTerm")
	keyLastVoteTerm = []byte("LastVoteTerm")
	keyLastVoteCand = []byte("LastVoteCand")
	keyLastVote     = []byte("LastVote")
)

// voteFormat is the first byte of the composite vote.
const voteFormat = 1

// Raft persists a vote as two values, term first, candidate second. A crash
// between the two would pair the new term with the old candidate, and the node
// could grant a second vote in that term (raft issue 661). So the term waits in
// memory for its candidate, and the two are written as one value:
//
//	LastVote -> format (1 byte) ‖ term (8 bytes, big endian) ‖ candidate
//
// Reads answer from the disk only.
type voteBuffer struct {
	mu   sync.Mutex
	term *uint64
}

// errVoteOrder can only come from another raft than the one this was written for.
var errVoteOrder = errors.New("a vote's candidate came without its term")

// Set stores a value durably. A term that can't be written ends the process: raft panics on that error (raft.go,
// setCurrentTerm), and a stack tells nobody which disk to look at. Raft bears with a vote that can't be.
func (s *Store) Set(key, value []byte) error {
	switch string(key) {
	case string(keyLastVoteTerm):
		if len(value) != 8 {
			return fmt.Errorf("vote term of %d bytes: %w", len(value), errVoteOrder)
		}
		s.vote.mu.Lock()
		defer s.vote.mu.Unlock()
		term := binary.BigEndian.Uint64(value)
		s.vote.term = &term
		return nil
	case string(keyLastVoteCand):
		s.vote.mu.Lock()
		defer s.vote.mu.Unlock()
		if s.vote.term == nil {
			return errVoteOrder
		}
		vote := binary.BigEndian.AppendUint64([]byte{voteFormat}, *s.vote.term)
		s.vote.term = nil
		key, value = keyLastVote, append(vote, value...)
	}
	return s.guard("write a term or vote to", func() error {
		err := s.file.Set(key, value)
		if err != nil && string(key) == string(keyCurrentTerm) {
			s.fatal(fmt.Errorf("raft log %s: this node's term can't be written (%w): this node stops; check its disk, then start it again", s.path, err))
		}
		if err != nil {
			return fmt.Errorf("write %s to raft log %s; check the disk: %w", key, s.path, err)
		}
		return nil
	})
}

// Get reads a value. Where there is none the error is raft-boltdb's "not found",
// whose text raft compares.
func (s *Store) Get(key []byte) ([]byte, error) {
	part := slices.Clone(key)
	if string(key) == string(keyLastVoteTerm) || string(key) == string(keyLastVoteCand) {
		key = keyLastVote
	}
	value, err := s.file.Get(key)
	if isNotFound(err) {
		return nil, raftboltdb.ErrKeyNotFound
	}
	if err != nil {
		return nil, err
	}
	if string(key) != string(keyLastVote) {
		return value, nil
	}
	if len(value) < 9 || value[0] != voteFormat {
		return nil, &CorruptError{Path: s.path, Err: errors.New("the last vote has an unknown format")}
	}
	if string(part) == string(keyLastVoteTerm) {
		return value[1:9], nil
	}
	return value[9:], nil
}

// SetUint64 is Set for a number.
func (s *Store) SetUint64(key []byte, value uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// GetUint64 is Get for a number.
func (s *Store) GetUint64(key []byte) (uint64, error) {
	value, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, &CorruptError{Path: s.path, Err: fmt.Errorf("%s has %d bytes instead of 8", key, len(value))}
	}
	return binary.BigEndian.Uint64(value), nil
}
