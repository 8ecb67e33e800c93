package fsm

import "github.com/cockroachdb/pebble/v2"

// Numbers say how large the state of this node is, for whoever shows them.
type Numbers struct {
	DiskBytes     uint64 // tables, and what is about to be removed
	MemtableBytes uint64
	CacheBytes    int // decoded objects
	Compactions   int64
}

// Numbers reads them.
func (s *Store) Numbers() Numbers {
	s.mu.RLock()
	cache := s.cache.size()
	s.mu.RUnlock()
	db := s.acquire()
	if db == nil {
		return Numbers{}
	}
	defer db.release()
	m := db.Metrics()
	return Numbers{DiskBytes: m.DiskSpaceUsage(), MemtableBytes: m.MemTable.Size, CacheBytes: cache, Compactions: m.Compact.Count}
}

// LeaseCounts say how many leases there are.
type LeaseCounts struct {
	Held     int // creating or active
	Revoking int // waiting for their user to be dropped
	Dead     int // dead letters: nobody could drop their user
}

// LeaseCounts counts, reading keys only; with 100,000 leases it takes some ten milliseconds.
func (s *Store) LeaseCounts() LeaseCounts {
	c := LeaseCounts{Revoking: s.count(prefixLeaseQueue), Dead: s.count(prefixLeaseDead)}
	c.Held = max(0, s.count(prefixLease)-c.Revoking-c.Dead)
	return c
}

// count is how many keys begin with prefix.
func (s *Store) count(prefix string) (n int) {
	db := s.acquire()
	if db == nil {
		return 0
	}
	defer db.release()
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte(prefix), UpperBound: after(prefix)})
	if err != nil {
		s.fatal(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		n++
	}
	if err := it.Error(); err != nil {
		s.fatal(err)
	}
	return n
}
