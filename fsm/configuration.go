package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
)

// StoreConfiguration keeps the newest Raft configuration beside the state, for tools that look at a node that is down.
// It does not move the position: Raft does not tell the term.
func (s *Store) StoreConfiguration(index uint64, configuration raft.Configuration) {
	s.applying.Lock()
	defer s.applying.Unlock()
	value := binary.BigEndian.AppendUint64(nil, index)
	value = append(value, raft.EncodeConfiguration(configuration)...)
	if err := s.db.Set([]byte(localConfiguration), value, pebble.NoSync); err != nil {
		s.fatal(fmt.Errorf("write raft configuration %d to the state: %w", index, err))
	}
	s.wake()
}

// Configuration returns the Raft configuration stored last and its index, 0 if there is none.
func (s *Store) Configuration() (raft.Configuration, uint64, error) {
	db := s.acquire()
	if db == nil {
		return raft.Configuration{}, 0, errClosed
	}
	defer db.release()
	data, closer, err := db.Get([]byte(localConfiguration))
	if errors.Is(err, pebble.ErrNotFound) {
		return raft.Configuration{}, 0, nil
	}
	if err != nil {
		return raft.Configuration{}, 0, fmt.Errorf("read raft configuration: %w", err)
	}
	defer closer.Close()
	if len(data) < 8 {
		return raft.Configuration{}, 0, fmt.Errorf("read raft configuration: %w", ErrMalformed)
	}
	return raft.DecodeConfiguration(data[8:]), binary.BigEndian.Uint64(data), nil
}
