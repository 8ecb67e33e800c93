package auth

import (
	"cmp"
	"container/heap"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/hizo/hizo/api/name"
)

// Rate is how often something may happen: Burst at once, then one every Every.
type Rate struct {
	Every time.Duration
	Burst int
}

func (r Rate) limiter() *rate.Limiter { return rate.NewLimiter(rate.Every(r.Every), r.Burst) }

// LimiterConfig sets up a Limiter. Zero values take the defaults.
type LimiterConfig struct {
	Address Rate // attempts from one client address (an IPv6 /64 counts as one)
	Pair    Rate // attempts on one account from one address
	Account Rate // attempts on one account, from wherever; looser than Pair, so that one address can't use it up
	Total   Rate // attempts altogether
	Entries int  // addresses remembered, accounts, and pairs of them
	Now     func() time.Time
}

// Defaults of a LimiterConfig: a person who mistypes is never stopped, nor by a
// guesser elsewhere. A guesser gets 8,640 passwords a day on one account from
// one address, and 86,400 from as many addresses as he has.
var (
	defaultAddress = Rate{Every: 500 * time.Millisecond, Burst: 30}
	defaultPair    = Rate{Every: 10 * time.Second, Burst: 10}
	defaultAccount = Rate{Every: time.Second, Burst: 200}
	defaultTotal   = Rate{Every: 5 * time.Millisecond, Burst: 400}
)

const defaultEntries = 8192

// LimitedBy names what stopped an attempt.
type LimitedBy string

// What can stop an attempt.
const (
	ByAddress LimitedBy = "address"
	ByPair    LimitedBy = "account at an address"
	ByAccount LimitedBy = "account"
	ByTotal   LimitedBy = "total"
)

// Verdict answers one attempt.
type Verdict struct {
	OK bool
	// First is true for the first attempt in a row that was stopped: worth a
	// log line of its own. The others are counted.
	First      bool
	By         LimitedBy
	RetryAfter time.Duration
}

// Flood is a count of stopped attempts, to be recorded as one.
type Flood struct {
	By    LimitedBy
	Key   string // address prefix, account, or "" for everybody and for what is no longer told apart
	Count uint64
	First time.Time
	Last  time.Time
	// Sources are the last few address prefixes that it came from, oldest first.
	Sources []string
}

// maxSources bounds Flood.Sources.
const maxSources = 8

// Limiter bounds unauthenticated attempts before they cost an argon2id or a
// log record. Its memory is bounded; what makes room is only an entry whose
// bucket has filled up again, which is the same as none, so that nobody gets
// a fresh bucket by filling the table with others. When there is no such
// entry, newcomers share one bucket.
type Limiter struct {
	now func() time.Time

	mu       sync.Mutex
	total    entry
	address  table
	pairs    table
	accounts table
}

// NewLimiter makes a Limiter.
func NewLimiter(c LimiterConfig) *Limiter {
	c.Address = cmp.Or(c.Address, defaultAddress)
	c.Pair = cmp.Or(c.Pair, defaultPair)
	c.Account = cmp.Or(c.Account, defaultAccount)
	c.Total = cmp.Or(c.Total, defaultTotal)
	c.Entries = cmp.Or(c.Entries, defaultEntries)
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Limiter{
		now:      c.Now,
		total:    entry{bucket: c.Total.limiter()},
		address:  newTable(c.Address, c.Entries),
		pairs:    newTable(c.Pair, c.Entries),
		accounts: newTable(c.Account, c.Entries),
	}
}

// Allow asks for one attempt from addr on an account. The account is a
// canonical principal ("user/alice"); the zero Principal, for requests that
// name none, is limited by address alone.
func (l *Limiter) Allow(addr netip.Addr, account name.Principal) Verdict {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()

	// The narrowest bucket first: who is stopped by his own takes nothing
	// from the others, so one guesser can't use the total up. The total is
	// looked at before accounts are touched and taken from last: so accounts
	// are drained, and remembered, at the total's rate at most.
	source := addressKey(addr)
	if v := l.address.take(source, "", ByAddress, source, now); !v.OK {
		return v
	}
	if !account.IsZero() && l.total.bucket.TokensAt(now) >= 1 {
		who := account.String()
		if v := l.pairs.take(who, source, ByPair, source, now); !v.OK {
			return v
		}
		if v := l.accounts.take(who, "", ByAccount, source, now); !v.OK {
			return v
		}
	}
	return l.total.take(ByTotal, source, now)
}

// Drain returns the counts of stopped attempts since the last Drain, in a
// fixed order.
func (l *Limiter) Drain() []Flood {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Flood
	collect := func(by LimitedBy, e *entry) {
		if e.stopped.Count > 0 {
			e.stopped.By, e.stopped.Key = by, e.key.name
			out = append(out, e.stopped)
			e.stopped = Flood{}
		}
	}
	collect(ByTotal, &l.total)
	for by, t := range map[LimitedBy]*table{ByAddress: &l.address, ByPair: &l.pairs, ByAccount: &l.accounts} {
		collect(by, &t.overflow)
		for _, e := range t.entries {
			collect(by, e)
		}
	}
	slices.SortFunc(out, func(a, b Flood) int {
		return cmp.Or(cmp.Compare(a.By, b.By), cmp.Compare(a.Key, b.Key), slices.Compare(a.Sources, b.Sources))
	})
	return out
}

// addressKey puts the addresses that one client can choose from into one key.
func addressKey(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return "unknown"
	}
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return "unknown"
	}
	return prefix.String()
}

// key is what a bucket is for: an address, an account, or an account at an
// address.
type key struct{ name, at string }

type entry struct {
	key     key
	bucket  *rate.Limiter
	row     bool // the last attempt was stopped
	stopped Flood

	idleAt time.Time // when the bucket is full again, and e as good as forgotten
	place  int       // in the heap
}

func (e *entry) take(by LimitedBy, source string, now time.Time) Verdict {
	if e.bucket.AllowN(now, 1) {
		e.row = false
		return Verdict{OK: true}
	}
	first := !e.row
	e.row = true
	e.stopped.add(Flood{Count: 1, First: now, Last: now, Sources: []string{source}})
	return Verdict{First: first, By: by, RetryAfter: e.until(1, now)}
}

// until is how long the bucket takes to hold n.
func (e *entry) until(n float64, now time.Time) time.Duration {
	missing := max(0, n-e.bucket.TokensAt(now))
	return time.Duration(math.Ceil(missing / float64(e.bucket.Limit()) * float64(time.Second)))
}

func (f *Flood) add(other Flood) {
	if f.Count == 0 || other.First.Before(f.First) {
		f.First = other.First
	}
	if other.Last.After(f.Last) {
		f.Last = other.Last
	}
	f.Count += other.Count
	for _, s := range other.Sources {
		if n := len(f.Sources); n > 0 && f.Sources[n-1] == s {
			continue
		}
		if i := slices.Index(f.Sources, s); i >= 0 {
			f.Sources = slices.Delete(f.Sources, i, i+1)
		}
		if f.Sources = append(f.Sources, s); len(f.Sources) > maxSources {
			f.Sources = slices.Delete(f.Sources, 0, 1)
		}
	}
}

// table remembers up to most entries, as a heap with the one that is idle
// first on top.
type table struct {
	rate     Rate
	most     int
	byKey    map[key]*entry
	entries  []*entry
	overflow entry // for newcomers when there is no room; keeps the counts of who left
}

func newTable(r Rate, most int) table {
	return table{rate: r, most: most, byKey: make(map[key]*entry), overflow: entry{bucket: r.limiter()}}
}

func (t *table) take(name, at string, by LimitedBy, source string, now time.Time) Verdict {
	k := key{name, at}
	e := t.byKey[k]
	if e == nil {
		if len(t.entries) >= t.most && !t.evict(now) {
			return t.overflow.take(by, source, now)
		}
		e = &entry{key: k, bucket: t.rate.limiter(), idleAt: now}
		t.byKey[k] = e
		heap.Push(t, e)
	}
	v := e.take(by, source, now)
	e.idleAt = now.Add(e.until(float64(e.bucket.Burst()), now))
	heap.Fix(t, e.place)
	return v
}

func (t *table) evict(now time.Time) bool {
	e := t.entries[0]
	if e.idleAt.After(now) {
		return false
	}
	heap.Pop(t)
	delete(t.byKey, e.key)
	if e.stopped.Count > 0 {
		t.overflow.stopped.add(e.stopped)
	}
	return true
}

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (t *table) Len() int           { return len(t.entries) }
func (t *table) Less(i, j int) bool { return t.entries[i].idleAt.Before(t.entries[j].idleAt) }
func (t *table) Swap(i, j int) {
	t.entries[i], t.entries[j] = t.entries[j], t.entries[i]
	t.entries[i].place, t.entries[j].place = i, j
}
func (t *table) Push(x any) {
	e := x.(*entry)
	e.place = len(t.entries)
	t.entries = append(t.entries, e)
}
func (t *table) Pop() any {
	last := len(t.entries) - 1
	e := t.entries[last]
	t.entries[last] = nil
	t.entries = t.entries[:last]
	return e
}
