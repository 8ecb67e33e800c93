package fsm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
)

// ObjLeaseRole names a lease role.
func ObjLeaseRole(vault, name string) string { return "leaserole/" + vault + "/" + name }

// ObjLease names a lease.
func ObjLease(id [16]byte) string { return prefixLease + LeaseText(id) }

// LeaseText is the id of a lease as people and audit leaves have it.
func LeaseText(id [16]byte) string { return hex.EncodeToString(id[:]) }

// ParseLease is the inverse of LeaseText.
func ParseLease(text string) (id [16]byte, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(id) || hex.EncodeToString(b) != text {
		return id, errors.New("the id of a lease is 32 digits of 0-9 and a-f")
	}
	return [16]byte(b), nil
}

const (
	prefixLease      = "lease/"      // hex id
	prefixLeaseTerms = "leaseterms/" // hex revision
	prefixLeaseDue   = "leasedue/"   // be64(time in ms) id
	prefixLeaseQueue = "leasequeue/" // target NUL be64(next try in ms) id
	prefixLeaseDead  = "leasedead/"  // id
	prefixLeaseOf    = "leaseof/"    // scope NUL be64(created) id
	prefixLeaseMark  = "leasemark/"  // scope
)

func objLeaseHash(id []byte) string          { return prefixLease + hex.EncodeToString(id) }
func objLeaseTerms(revision [16]byte) string { return prefixLeaseTerms + LeaseText(revision) }
func objLeaseDead(id [16]byte) string        { return prefixLeaseDead + string(id[:]) }
func leasesOf(scope string) string           { return prefixLeaseOf + scope + "\x00" }
func leaseQueueOf(target string) string      { return prefixLeaseQueue + target + "\x00" }

func objLeaseDue(at int64, id [16]byte) string {
	return prefixLeaseDue + string(be64(uint64(at))) + string(id[:])
}

func objLeaseQueue(target string, at int64, id [16]byte) string {
	return leaseQueueOf(target) + string(be64(uint64(at))) + string(id[:])
}

func objLeaseOf(scope string, created uint64, id [16]byte) string {
	return leasesOf(scope) + string(be64(created)) + string(id[:])
}

// leaseOfKey reads the end of a key of leaseof/.
func leaseOfKey(end string) (created uint64, id [16]byte) {
	copy(id[:], end[8:])
	return binary.BigEndian.Uint64([]byte(end)), id
}

// leaseIndex says whether a name is one of the indexes over leases, which hold no content.
func leaseIndex(name string) bool {
	kind, _, _ := strings.Cut(name, "/")
	switch kind {
	case "leasedue", "leasequeue", "leasedead", "leaseof":
		return true
	}
	return false
}

func (o *LeaseRole) changed() uint64  { return o.Changed }
func (o *leaseTerms) changed() uint64 { return o.Changed }
func (o *Lease) changed() uint64      { return o.Changed }
func (o *leaseMark) changed() uint64  { return o.Changed }

func (o *LeaseRole) cost() int {
	n := 384
	for _, c := range o.Config {
		n += 32 + len(c.Key) + len(c.Value)
	}
	return n
}
func (o *leaseTerms) cost() int { return 32 + o.Role.cost() }
func (o *Lease) cost() int      { return 512 }
func (o *leaseMark) cost() int  { return 256 }

// page visits names that begin with prefix in order, from one on, with what this entry's earlier records changed. Unlike
// scan it reads no further than it is asked to, so it is for indexes of any length; it decodes nothing.
func (t *tx) page(prefix, from string, visit func(name string) bool) {
	from = max(from, prefix)
	var added []string
	for _, name := range t.order {
		if strings.HasPrefix(name, prefix) && name >= from && t.overlay[name] != nil {
			added = append(added, name)
		}
	}
	slices.Sort(added)
	upper := after(prefix)
	if from >= string(upper) {
		return
	}
	it, err := t.s.db.NewIter(&pebble.IterOptions{LowerBound: []byte(from), UpperBound: upper})
	t.must(err)
	defer func() { t.must(it.Close()) }()
	ok := it.First()
	for {
		for ok {
			if _, touched := t.overlay[string(it.Key())]; !touched {
				break
			}
			ok = it.Next()
		}
		var name string
		switch {
		case ok && (len(added) == 0 || string(it.Key()) < added[0]):
			name = string(it.Key())
			ok = it.Next()
		case len(added) > 0:
			name, added = added[0], added[1:]
		default:
			t.must(it.Error())
			return
		}
		if !visit(name) {
			return
		}
	}
}

// LeaseRole returns a role.
func (s *Store) LeaseRole(vault, name string) (LeaseRole, bool) {
	return read[LeaseRole](s, ObjLeaseRole(vault, name))
}

// LeaseRoles lists the roles of a vault by name.
func (s *Store) LeaseRoles(vault string) []LeaseRole {
	return list[LeaseRole](s, ObjLeaseRole(vault, ""))
}

// LeaseTerms returns a role as leases of that revision were issued under it, and how many there are.
func (s *Store) LeaseTerms(revision [16]byte) (LeaseRole, uint32, bool) {
	terms, ok := read[leaseTerms](s, objLeaseTerms(revision))
	return terms.Role, terms.Leases, ok
}

// Lease returns a lease.
func (s *Store) Lease(id [16]byte) (Lease, bool) { return read[Lease](s, ObjLease(id)) }

// Leases lists at most limit leases of a scope (LeasesOfRole and a role, for example) in the order they were created,
// from behind a place on. With of == "" it lists all, in the order of their ids. next is "" at the end.
func (s *Store) Leases(of, name, place string, limit int) (leases []Lease, next string) {
	prefix := prefixLease
	if of != "" {
		prefix = leasesOf(leaseScope(of, name))
	}
	return s.pageLeases(prefix, place, limit, func(string) bool { return true })
}

// DeadLeases lists at most limit dead letters, from behind a place on.
func (s *Store) DeadLeases(place string, limit int) (leases []Lease, next string) {
	return s.pageLeases(prefixLeaseDead, place, limit, func(string) bool { return true })
}

// LeaseQueue lists at most limit revocations at a target whose next try is at most until, the earliest first, from behind
// a place on.
func (s *Store) LeaseQueue(target string, until int64, place string, limit int) (leases []Lease, next string) {
	prefix := leaseQueueOf(target)
	return s.pageLeases(prefix, place, limit, func(key string) bool {
		return int64(binary.BigEndian.Uint64([]byte(key[len(prefix):]))) <= until
	})
}

// pageLeases reads leases by the keys of an index, which end with the id. A place is the hex of a key's end.
func (s *Store) pageLeases(prefix, place string, limit int, want func(key string) bool) (leases []Lease, next string) {
	from := prefix
	if place != "" {
		end, err := hex.DecodeString(place)
		if err != nil {
			return nil, ""
		}
		from = prefix + string(end) + "\x00"
	}
	db := s.acquire()
	if db == nil {
		return nil, ""
	}
	defer db.release()
	// Of one moment: between an index and its leases nothing may apply.
	snap := db.NewSnapshot()
	defer snap.Close()
	it, err := snap.NewIter(&pebble.IterOptions{LowerBound: []byte(from), UpperBound: after(prefix)})
	if err != nil {
		s.fatal(err)
	}
	defer it.Close()
	last := ""
	for ok := it.First(); ok; ok = it.Next() {
		key := string(it.Key())
		if !want(key) {
			break
		}
		if len(leases) == limit {
			return leases, hex.EncodeToString([]byte(last))
		}
		last = key[len(prefix):]
		name := key
		if prefix != prefixLease {
			name = ObjLease([16]byte([]byte(key[len(key)-16:])))
		}
		data, closer, err := snap.Get([]byte(name))
		if errors.Is(err, pebble.ErrNotFound) {
			continue // Verify says so
		}
		if err != nil {
			s.fatal(err)
		}
		o, err := decodeObject(name, data)
		if err := errors.Join(err, closer.Close()); err != nil {
			s.fatal(err)
		}
		leases = append(leases, *o.(*Lease))
	}
	if err := it.Error(); err != nil {
		s.fatal(err)
	}
	return leases, ""
}

// LeaseTargets lists the targets that have revocations queued, with the time of the earliest next try. It costs a few
// steps for each target, however many revocations there are.
func (s *Store) LeaseTargets() map[string]int64 {
	db := s.acquire()
	if db == nil {
		return nil
	}
	defer db.release()
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte(prefixLeaseQueue), UpperBound: after(prefixLeaseQueue)})
	if err != nil {
		s.fatal(err)
	}
	defer it.Close()
	out := map[string]int64{}
	for ok := it.First(); ok; {
		rest := it.Key()[len(prefixLeaseQueue):]
		end := bytes.IndexByte(rest, 0)
		target := string(rest[:end])
		out[target] = int64(binary.BigEndian.Uint64(rest[end+1:]))
		ok = it.SeekGE([]byte(prefixLeaseQueue + target + "\x01"))
	}
	if err := it.Error(); err != nil {
		s.fatal(err)
	}
	return out
}

// LeasesDue says when LeaseSweep has something to do next: 0 for at once, false for not before there are other leases.
// It may say a time that is too early.
func (s *Store) LeasesDue() (int64, bool) {
	db := s.acquire()
	if db == nil {
		return 0, false
	}
	defer db.release()
	first := func(prefix string) string {
		it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte(prefix), UpperBound: after(prefix)})
		if err != nil {
			s.fatal(err)
		}
		defer it.Close()
		if !it.First() {
			return ""
		}
		return string(it.Key())
	}
	if first(prefixLeaseMark) != "" {
		return 0, true
	}
	key := first(prefixLeaseDue)
	if key == "" {
		return 0, false
	}
	return leaseDueAt(key), true
}
