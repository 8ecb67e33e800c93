package fsm

import (
	"encoding/binary"
	"math"
	"strings"

	"github.com/cockroachdb/pebble/v2"
)

// Expiry runs in Apply, by cluster time: at the end of every entry a bounded number of due keys goes, oldest first, so
// every replica drops the same ones at the same index. The bound grows with the entry, so that dropping keeps up with
// adding.

func sweepLimit(records int) int { return 64 + 2*records }

// sweeps remembers how early the next due key can be, so that entries with nothing due open no iterator and those
// that do skip the tombstones of what went before. It only ever knows too little: results don't depend on it.
type sweeps struct {
	expiry, requests int64  // lower bounds in ms; 0: not known
	lease            string // lower bound of the keys of leasedue/; "": not known
}

// due collects the earliest keys an entry added.
type due struct {
	expiryAt, requestAt   int64
	hasExpiry, hasRequest bool
	leaseKey              string // "": none
}

func (d *due) expiry(at int64) {
	if !d.hasExpiry || at < d.expiryAt {
		d.expiryAt, d.hasExpiry = at, true
	}
}

func (d *due) request(at int64) {
	if !d.hasRequest || at < d.requestAt {
		d.requestAt, d.hasRequest = at, true
	}
}

func (d *due) lease(key string) {
	if d.leaseKey == "" || key < d.leaseKey {
		d.leaseKey = key
	}
}

func (s *sweeps) later(d due) {
	if d.leaseKey != "" {
		s.lease = min(s.lease, d.leaseKey)
	}
	if d.hasExpiry {
		s.expiry = min(s.expiry, d.expiryAt)
	}
	if d.hasRequest {
		s.requests = min(s.requests, d.requestAt)
	}
}

// expire enters an object into the expiry index: it goes once cluster time has passed at.
func (t *tx) expire(at int64, object string) {
	t.put(objExpiry(at, object), &marker{})
	t.due.expiry(at)
}

// keep takes an object out of the expiry index.
func (t *tx) keep(at int64, object string) { t.del(objExpiry(at, object)) }

func (t *tx) sweep(records int) {
	limit := sweepLimit(records)
	if t.s.sweeps.expiry <= t.time {
		t.s.sweeps.expiry = t.sweepKeys(prefixExpiry, t.s.sweeps.expiry, 8, t.time, limit, func(key string) {
			name := key[len(prefixExpiry)+8:]
			if strings.HasPrefix(name, prefixConsumer) {
				if c := find[consumer](t, name); c != nil {
					t.dropConsumer(c)
				}
				return
			}
			t.del(name)
		})
	}
	if oldest := t.time - millis(RequestMemory); t.s.sweeps.requests < oldest {
		t.s.sweeps.requests = t.sweepKeys(prefixRequest, t.s.sweeps.requests, 6, oldest-1, limit, func(string) {})
	}
}

// sweepKeys drops up to limit committed keys of prefix whose leading time, width bytes behind the prefix, is at most
// until, and returns a lower bound for the time of those that stay.
func (t *tx) sweepKeys(prefix string, from int64, width int, until int64, limit int, drop func(key string)) int64 {
	lower := binary.BigEndian.AppendUint64([]byte(prefix), uint64(max(from, 0))<<(8*(8-width)))[:len(prefix)+width]
	it, err := t.s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: after(prefix)})
	t.must(err)
	defer func() { t.must(it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		key := string(it.Key())
		var number [8]byte
		copy(number[8-width:], key[len(prefix):])
		at := int64(binary.BigEndian.Uint64(number[:]))
		if at > until || limit == 0 {
			return at
		}
		limit--
		if o, touched := t.overlay[key]; touched && o == nil {
			continue // taken out by this entry: a token that was renewed
		}
		t.del(key)
		drop(key)
		t.accept()
	}
	t.must(it.Error())
	return math.MaxInt64
}
