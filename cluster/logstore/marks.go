package logstore

import (
	"slices"
	"sort"

	"github.com/hashicorp/raft"
)

// entryOverhead stands for what bbolt and msgpack add to an entry, in bytes.
const entryOverhead = 64

func sizeOf(e *raft.Log) int64 {
	return int64(len(e.Data)+len(e.Extensions)) + entryOverhead
}

// marks knows which indexes the log holds and how big they are: 16 bytes an
// entry, in order of index. Indexes may have gaps.
type marks struct {
	list   []mark
	origin int64 // end of the entry before the first
}

type mark struct {
	index uint64
	end   int64 // bytes up to and with this entry, from an arbitrary start
}

func (m *marks) push(index uint64, size int64) {
	m.dropFrom(index)
	m.list = append(m.list, mark{index: index, end: m.end() + size})
}

func (m *marks) end() int64 {
	if len(m.list) == 0 {
		return m.origin
	}
	return m.list[len(m.list)-1].end
}

// at is the position of the first entry whose index is at least index.
func (m *marks) at(index uint64) int {
	return sort.Search(len(m.list), func(i int) bool { return m.list[i].index >= index })
}

// before is the byte count before position i.
func (m *marks) before(i int) int64 {
	if i == 0 {
		return m.origin
	}
	return m.list[i-1].end
}

func (m *marks) dropFrom(index uint64) { m.list = m.list[:m.at(index)] }

// drop forgets the entries from..to.
func (m *marks) drop(from, to uint64) {
	i, j := m.at(from), m.at(to+1)
	gone := m.before(j) - m.before(i)
	if i == 0 { // the usual case, and the one that must not move the rest
		m.origin += gone
		m.list = m.list[j:]
		return
	}
	for k := j; k < len(m.list); k++ {
		m.list[k].end -= gone
	}
	m.list = slices.Delete(m.list, i, j)
}

// chunk is the range of the first n entries from min on, as far as max.
func (m *marks) chunk(min, max uint64, n int) (from, to uint64, ok bool) {
	i, j := m.at(min), m.at(max+1)
	if i >= j {
		return 0, 0, false
	}
	if j-i > n {
		j = i + n
	}
	return m.list[i].index, m.list[j-1].index, true
}

// Bytes is about what the log holds.
func (s *Store) Bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.marks.end() - s.marks.origin
}

// BytesAfter is about what the log holds beyond index: with the newest
// snapshot's index, what has gathered since that snapshot.
func (s *Store) BytesAfter(index uint64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.marks.end() - s.marks.before(s.marks.at(index+1))
}

// EntriesWithin is the number of the newest entries that together are no bigger
// than limit, at least 1: the TrailingLogs to set before a snapshot so that
// about limit bytes of log remain after it.
func (s *Store) EntriesWithin(limit int64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &s.marks
	if len(m.list) == 0 {
		return 1
	}
	first := sort.Search(len(m.list), func(i int) bool { return m.end()-m.before(i) <= limit })
	if first == len(m.list) {
		return 1
	}
	return m.list[len(m.list)-1].index - m.list[first].index + 1
}
