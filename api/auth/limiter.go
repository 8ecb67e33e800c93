package auth

import (
	"cmp"
	"container/list"
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
	Account Rate // attempts on one account, from wherever
	Total   Rate // attempts altogether
	Entries int  // addresses remembered, and accounts
	Now     func() time.Time
}

// Defaults of a LimiterConfig: a person who mistypes is never stopped, and a
// guesser gets 8,640 passwords a day on one account.
var (
	defaultAddress = Rate{Every: 500 * time.Millisecond, Burst: 30}
	defaultAccount = Rate{Every: 10 * time.Second, Burst: 10}
	defaultTotal   = Rate{Every: 5 * time.Millisecond, Burst: 400}
)

const defaultEntries = 8192

// LimitedBy names what stopped an attempt.
type LimitedBy string

// What can stop an attempt.
const (
	ByAddress LimitedBy = "address"
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
	Key   string // address prefix, account, or "" for everybody and for what found no room
	Count uint64
	First time.Time
	Last  time.Time
}

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
	accounts table
}

// NewLimiter makes a Limiter.
func NewLimiter(c LimiterConfig) *Limiter {
	c.Address = cmp.Or(c.Address, defaultAddress)
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
	// from the others, so one guesser can't use the total up.
	if v := l.address.get(addressKey(addr), now).take(ByAddress, now); !v.OK {
		return v
	}
	if !account.IsZero() {
		if v := l.accounts.get(account.String(), now).take(ByAccount, now); !v.OK {
			return v
		}
	}
	return l.total.take(ByTotal, now)
}

// Drain returns the counts of stopped attempts since the last Drain, in a
// fixed order.
func (l *Limiter) Drain() []Flood {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Flood
	collect := func(by LimitedBy, e *entry) {
		if e.stopped.Count > 0 {
			e.stopped.By, e.stopped.Key = by, e.key
			out = append(out, e.stopped)
			e.stopped = Flood{}
		}
	}
	collect(ByTotal, &l.total)
	for by, t := range map[LimitedBy]*table{ByAddress: &l.address, ByAccount: &l.accounts} {
		collect(by, &t.overflow)
		for _, element := range t.byKey {
			collect(by, element.Value.(*entry))
		}
	}
	slices.SortFunc(out, func(a, b Flood) int {
		return cmp.Or(cmp.Compare(a.By, b.By), cmp.Compare(a.Key, b.Key))
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

type entry struct {
	key     string
	bucket  *rate.Limiter
	row     bool // the last attempt was stopped
	stopped Flood
}

func (e *entry) take(by LimitedBy, now time.Time) Verdict {
	if e.bucket.AllowN(now, 1) {
		e.row = false
		return Verdict{OK: true}
	}
	first := !e.row
	e.row = true
	if e.stopped.Count == 0 {
		e.stopped.First = now
	}
	e.stopped.Count++
	e.stopped.Last = now
	missing := 1 - e.bucket.TokensAt(now)
	return Verdict{
		First:      first,
		By:         by,
		RetryAfter: time.Duration(missing / float64(e.bucket.Limit()) * float64(time.Second)),
	}
}

// idle reports whether forgetting e changes nothing.
func (e *entry) idle(now time.Time) bool {
	return e.stopped.Count == 0 && e.bucket.TokensAt(now) >= float64(e.bucket.Burst())
}

// table remembers up to most entries, the longest unused at the back.
type table struct {
	rate     Rate
	most     int
	byKey    map[string]*list.Element
	used     *list.List
	overflow entry
}

func newTable(r Rate, most int) table {
	return table{
		rate: r, most: most,
		byKey: make(map[string]*list.Element), used: list.New(),
		overflow: entry{bucket: r.limiter()},
	}
}

func (t *table) get(key string, now time.Time) *entry {
	if element, ok := t.byKey[key]; ok {
		t.used.MoveToFront(element)
		return element.Value.(*entry)
	}
	if len(t.byKey) >= t.most {
		oldest := t.used.Back()
		if !oldest.Value.(*entry).idle(now) {
			return &t.overflow
		}
		delete(t.byKey, oldest.Value.(*entry).key)
		t.used.Remove(oldest)
	}
	e := &entry{key: key, bucket: t.rate.limiter()}
	t.byKey[key] = t.used.PushFront(e)
	return e
}
