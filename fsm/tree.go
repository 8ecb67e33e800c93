package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/mod/sumdb/tlog"
)

// edge holds, for a tree of n leaves, the root of the complete subtree of every set bit of n (RFC 6962 section 2.1:
// the tree of n leaves is those subtrees, largest first). It is all that appending needs.
type edge [64]tlog.Hash

// hashes appends to dst the hashes that leaf number n, of hash h, completes: itself and the subtrees it ends. They are
// the stored hashes of x/mod/sumdb/tlog from StoredHashIndex(0, n) on.
func (e *edge) hashes(dst []byte, n uint64, h tlog.Hash) []byte {
	dst = append(dst, h[:]...)
	level := 0
	for ; n>>level&1 == 1; level++ {
		h = tlog.NodeHash(e[level], h)
		dst = append(dst, h[:]...)
	}
	e[level] = h
	return dst
}

func loadEdge(r pebble.Reader, size uint64) (edge, error) {
	var e edge
	for level := range 63 {
		if size>>level&1 == 0 {
			continue
		}
		// The subtree of this bit is the last one of its level that fits.
		n := int64(size>>level) - 1
		h, err := hashReader{r}.at(level, n)
		if err != nil {
			return e, err
		}
		e[level] = h
	}
	return e, nil
}

// hashReader reads stored hashes: key hash/N holds every hash that leaf N completed.
type hashReader struct{ pebble.Reader }

func (r hashReader) at(level int, n int64) (tlog.Hash, error) {
	var h tlog.Hash
	leaf := uint64(n+1)<<level - 1 // the leaf that completed this subtree
	data, closer, err := r.Get(hashKey(leaf))
	if err != nil {
		return h, fmt.Errorf("audit tree: hash %d of level %d: %w", n, level, err)
	}
	defer closer.Close()
	if len(data) < (level+1)*tlog.HashSize {
		return h, fmt.Errorf("audit tree: hash %d of level %d: %w", n, level, ErrMalformed)
	}
	copy(h[:], data[level*tlog.HashSize:])
	return h, nil
}

// ReadHashes implements tlog.HashReader.
func (r hashReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		h, err := r.at(level, n)
		if err != nil {
			return nil, err
		}
		hashes[i] = h
	}
	return hashes, nil
}

func hashKey(seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, len(prefixHash)+8), prefixHash...), seq)
}

func leafKey(seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, len(prefixLeaf)+8), prefixLeaf...), seq)
}

// ErrBeyond says that the audit tree is not that large yet, or that a proof was asked for an impossible range.
var ErrBeyond = errors.New("beyond the audit log")

// errClosed is what reads of a closed store answer where they can answer an error.
var errClosed = errors.New("state store is closed")

// AuditSize is the number of leaves.
func (s *Store) AuditSize() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.size
}

// AuditLeaf returns the bytes of leaf seq, as LeafBytes made them.
func (s *Store) AuditLeaf(seq uint64) ([]byte, error) {
	db := s.acquire()
	if db == nil {
		return nil, errClosed
	}
	defer db.release()
	data, closer, err := db.Get(leafKey(seq))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, fmt.Errorf("leaf %d: %w", seq, ErrBeyond)
	}
	if err != nil {
		return nil, fmt.Errorf("leaf %d: %w", seq, err)
	}
	defer closer.Close()
	return append([]byte(nil), data...), nil
}

// AuditRecords yields the records [from, to), oldest first. An error ends the sequence.
func (s *Store) AuditRecords(from, to uint64) iter.Seq2[AuditRecord, error] {
	return func(yield func(AuditRecord, error) bool) {
		for data, err := range s.leaves(from, to) {
			var r AuditRecord
			if err == nil {
				r, err = ParseLeaf(data)
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// AuditRecordsBackward yields the records [from, to), newest first. An error ends the sequence.
func (s *Store) AuditRecordsBackward(from, to uint64) iter.Seq2[AuditRecord, error] {
	return func(yield func(AuditRecord, error) bool) {
		s.scanLeaves(from, to, true, func(data []byte, err error) bool {
			var r AuditRecord
			if err == nil {
				r, err = ParseLeaf(data)
			}
			return yield(r, err) && err == nil
		})
	}
}

// leaves yields the bytes of leaves [from, to); they are valid until the next one.
func (s *Store) leaves(from, to uint64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) { s.scanLeaves(from, to, false, yield) }
}

func (s *Store) scanLeaves(from, to uint64, backward bool, yield func([]byte, error) bool) {
	if from >= to {
		return
	}
	db := s.acquire()
	if db == nil {
		yield(nil, errClosed)
		return
	}
	defer db.release()
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: leafKey(from), UpperBound: leafKey(to)})
	if err != nil {
		yield(nil, err)
		return
	}
	defer it.Close()
	first, next := it.First, it.Next
	if backward {
		first, next = it.Last, it.Prev
	}
	for ok := first(); ok; ok = next() {
		if !yield(it.Value(), nil) {
			return
		}
	}
	if err := it.Error(); err != nil {
		yield(nil, err)
	}
}

// TreeRoot is the root hash of the tree's first size leaves (RFC 6962 section 2.1).
func (s *Store) TreeRoot(size uint64) ([32]byte, error) {
	return proof(s, size, func(r tlog.HashReader) ([32]byte, error) {
		h, err := tlog.TreeHash(int64(size), r)
		return h, err
	})
}

// ProveRecord proves that leaf seq is in the tree of size leaves (RFC 6962 section 2.1.1).
func (s *Store) ProveRecord(seq, size uint64) (tlog.RecordProof, error) {
	if seq >= size {
		return nil, fmt.Errorf("leaf %d of %d: %w", seq, size, ErrBeyond)
	}
	return proof(s, size, func(r tlog.HashReader) (tlog.RecordProof, error) {
		return tlog.ProveRecord(int64(size), int64(seq), r)
	})
}

// ProveTree proves that the tree of old leaves is a prefix of the one of size leaves (RFC 6962 section 2.1.2).
func (s *Store) ProveTree(old, size uint64) (tlog.TreeProof, error) {
	if old == 0 || old > size {
		return nil, fmt.Errorf("from %d to %d leaves: %w", old, size, ErrBeyond)
	}
	return proof(s, size, func(r tlog.HashReader) (tlog.TreeProof, error) {
		return tlog.ProveTree(int64(size), int64(old), r)
	})
}

func proof[T any](s *Store, size uint64, make func(tlog.HashReader) (T, error)) (T, error) {
	var none T
	if have := s.AuditSize(); size > have {
		return none, fmt.Errorf("%d leaves of %d: %w", size, have, ErrBeyond)
	}
	db := s.acquire()
	if db == nil {
		return none, errClosed
	}
	defer db.release()
	return make(hashReader{db})
}
