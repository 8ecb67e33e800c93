package logstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/hashicorp/raft"
)

// bbolt checks its two meta pages and nothing else: a flipped bit in an entry
// would be applied, on one node only. So entries and stable values carry a
// CRC-32C. It finds accidents; against people the records have their own MACs.
//
//	entry         Extensions = caller's extensions ‖ crc (4 bytes, big endian) ‖ format (1 byte)
//	stable value  value = caller's value ‖ crc (4 bytes, big endian) ‖ format (1 byte)
const (
	sumFormat = 1
	sumSize   = 5
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CorruptError says that the file holds what was never written. Nothing has
// been changed.
type CorruptError struct {
	Path  string
	Index uint64 // entry, 0 where it is another part of the file
	Err   error
}

func (e *CorruptError) Error() string {
	where := ""
	if e.Index != 0 {
		where = fmt.Sprintf(" at entry %d", e.Index)
	}
	return fmt.Sprintf("raft log %s is damaged%s (%v); nothing was changed: keep a copy of this node's data directory, remove the node from the cluster and join it anew (with no other node left, restore a backup)", e.Path, where, e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }

var errChecksum = errors.New("checksum does not match")

func isNotFound(err error) bool { return errors.Is(err, raftboltdb.ErrKeyNotFound) }

// entrySum covers everything that raft acts upon; AppendedAt is for people.
func entrySum(e *raft.Log, extensions []byte) uint32 {
	head := make([]byte, 0, 33)
	head = binary.BigEndian.AppendUint64(head, e.Index)
	head = binary.BigEndian.AppendUint64(head, e.Term)
	head = append(head, byte(e.Type))
	head = binary.BigEndian.AppendUint64(head, uint64(len(e.Data)))
	head = binary.BigEndian.AppendUint64(head, uint64(len(extensions)))
	sum := crc32.Update(0, castagnoli, head)
	sum = crc32.Update(sum, castagnoli, e.Data)
	return crc32.Update(sum, castagnoli, extensions)
}

func appendSum(b []byte, sum uint32) []byte {
	return append(binary.BigEndian.AppendUint32(b, sum), sumFormat)
}

// cutSum splits what appendSum joined.
func cutSum(b []byte) (rest []byte, sum uint32, err error) {
	n := len(b) - sumSize
	if n < 0 {
		return nil, 0, errors.New("checksum is missing")
	}
	if b[len(b)-1] != sumFormat {
		return nil, 0, fmt.Errorf("checksum of unknown format %d", b[len(b)-1])
	}
	return b[:n:n], binary.BigEndian.Uint32(b[n:]), nil
}

// seal copies entries with their checksums; raft's own stay untouched.
func seal(entries []*raft.Log) []*raft.Log {
	sealed := make([]*raft.Log, len(entries))
	for i, e := range entries {
		c := *e
		c.Extensions = make([]byte, 0, len(e.Extensions)+sumSize)
		c.Extensions = append(c.Extensions, e.Extensions...)
		c.Extensions = appendSum(c.Extensions, entrySum(e, e.Extensions))
		sealed[i] = &c
	}
	return sealed
}

// unseal reads an entry by get, checks it and takes its checksum off. It hands
// raft.ErrLogNotFound on unwrapped, which raft compares by ==.
func unseal(path string, index uint64, entry *raft.Log, get func(uint64, *raft.Log) error) error {
	var e raft.Log
	if err := get(index, &e); err != nil {
		if errors.Is(err, raft.ErrLogNotFound) {
			return raft.ErrLogNotFound
		}
		return err
	}
	extensions, sum, err := cutSum(e.Extensions)
	if err == nil && (e.Index != index || entrySum(&e, extensions) != sum) {
		err = errChecksum
	}
	if err != nil {
		return &CorruptError{Path: path, Index: index, Err: err}
	}
	if len(extensions) == 0 {
		extensions = nil
	}
	e.Extensions = extensions
	*entry = e
	return nil
}

// stableSum binds a value to its key, so that values cannot change places.
func stableSum(key, value []byte) uint32 {
	sum := crc32.Update(0, castagnoli, binary.BigEndian.AppendUint64(nil, uint64(len(key))))
	sum = crc32.Update(sum, castagnoli, key)
	return crc32.Update(sum, castagnoli, value)
}
