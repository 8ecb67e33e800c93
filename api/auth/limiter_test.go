package auth

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/hizo/hizo/api/name"
)

type clock struct{ now time.Time }

func newLimiter(c LimiterConfig) (*Limiter, *clock) {
	k := &clock{now: time.Unix(1_700_000_000, 0)}
	c.Now = func() time.Time { return k.now }
	return NewLimiter(c), k
}

func user(s string) name.Principal { return name.Principal{Kind: name.KindUser, Name: s} }

var (
	home    = netip.MustParseAddr("192.0.2.1")
	roomy   = Rate{Every: time.Millisecond, Burst: 1 << 20}
	address = Rate{Every: time.Second, Burst: 3}
	account = Rate{Every: 10 * time.Second, Burst: 2}
)

func attempts(l *Limiter, n int, addr netip.Addr, who name.Principal) (ok int, last Verdict) {
	for range n {
		if last = l.Allow(addr, who); last.OK {
			ok++
		}
	}
	return ok, last
}

func TestLimitByAddress(t *testing.T) {
	l, k := newLimiter(LimiterConfig{Address: address, Account: roomy, Total: roomy})
	ok, v := attempts(l, 10, home, name.Principal{})
	if ok != 3 || v.By != ByAddress || v.First || v.RetryAfter <= 0 || v.RetryAfter > time.Second {
		t.Errorf("%d passed, then %+v", ok, v)
	}
	if ok, _ := attempts(l, 3, netip.MustParseAddr("192.0.2.2"), name.Principal{}); ok != 3 {
		t.Error("another address is limited as well")
	}
	k.now = k.now.Add(v.RetryAfter)
	if ok, v := attempts(l, 2, home, name.Principal{}); ok != 1 || !v.First {
		t.Errorf("after the wait %d passed, then %+v", ok, v)
	}
}

func TestLimitByAccountFromEverywhere(t *testing.T) {
	l, k := newLimiter(LimiterConfig{Address: roomy, Account: account, Total: roomy})
	passed := 0
	for i := range 50 {
		v := l.Allow(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), user("alice"))
		if v.OK {
			passed++
		} else if v.By != ByAccount {
			t.Errorf("%+v", v)
		}
	}
	if passed != 2 {
		t.Errorf("%d passed", passed)
	}
	if !l.Allow(home, user("bob")).OK || !l.Allow(home, name.Principal{Kind: name.KindWorkload, Name: "alice"}).OK {
		t.Error("another account is limited as well")
	}
	k.now = k.now.Add(10 * time.Second)
	if ok, _ := attempts(l, 5, home, user("alice")); ok != 1 {
		t.Errorf("after 10 s %d passed", ok)
	}
}

// TestOneGuesserLeavesTheTotal: what is stopped by a narrow bucket takes
// nothing from the wide one, and what the wide one stops drains no account.
func TestOneGuesserLeavesTheTotal(t *testing.T) {
	l, _ := newLimiter(LimiterConfig{Address: address, Account: account, Total: Rate{Every: time.Hour, Burst: 5}})
	attempts(l, 1000, home, user("alice")) // 2 of the total's 5 pass
	for i, want := range []bool{true, true, true, false} {
		who := user(fmt.Sprintf("u%d", i))
		if v := l.Allow(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), who); v.OK != want || !want && v.By != ByTotal {
			t.Errorf("attempt %d: %+v", i, v)
		}
	}
	for i := range 20 {
		l.Allow(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), user("bob"))
	}
	if l.accounts.byKey[key{name: "user/bob"}] != nil {
		t.Error("bob's account was drained by what the total stopped")
	}
}

func TestOneClientsAddresses(t *testing.T) {
	l, _ := newLimiter(LimiterConfig{Address: address, Account: roomy, Total: roomy})
	passed := 0
	for i := range 20 {
		a := netip.MustParseAddr("2001:db8:1:2::").As16()
		a[15] = byte(i)
		if l.Allow(netip.AddrFrom16(a), name.Principal{}).OK {
			passed++
		}
	}
	if passed != 3 {
		t.Errorf("addresses of one /64: %d passed", passed)
	}
	if !l.Allow(netip.MustParseAddr("2001:db8:1:3::1"), name.Principal{}).OK {
		t.Error("another /64 is limited as well")
	}
	attempts(l, 3, home, name.Principal{})
	for _, same := range []netip.Addr{netip.AddrFrom16(home.As16()), netip.MustParseAddr("::ffff:192.0.2.1")} {
		if l.Allow(same, name.Principal{}).OK {
			t.Errorf("%v is not taken for %v", same, home)
		}
	}
	if ok, _ := attempts(l, 10, netip.Addr{}, name.Principal{}); ok != 3 {
		t.Errorf("without an address %d passed", ok)
	}
}

// TestFloodIsOneCount: nothing that was stopped is forgotten, and it is told
// once.
func TestFloodIsOneCount(t *testing.T) {
	l, k := newLimiter(LimiterConfig{Address: address, Account: account, Total: roomy})
	start := k.now
	attempts(l, 100, home, user("alice")) // 2 pass, 1 by the account, 97 by the address
	k.now = k.now.Add(100 * time.Millisecond)
	attempts(l, 1, home, user("alice"))
	floods := l.Drain()
	want := []Flood{
		{By: ByAccount, Key: "user/alice", Count: 1, First: start, Last: start, Sources: []string{"192.0.2.1/32"}},
		{By: ByAddress, Key: "192.0.2.1/32", Count: 98, First: start, Last: k.now, Sources: []string{"192.0.2.1/32"}},
	}
	if fmt.Sprint(floods) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", floods, want)
	}
	if again := l.Drain(); len(again) != 0 {
		t.Errorf("told twice: %v", again)
	}
}

// TestMemoryIsBounded: a million names take no more room than allowed, nobody
// gets a fresh bucket by it, and every stopped attempt is counted.
func TestMemoryIsBounded(t *testing.T) {
	const entries = 100
	l, k := newLimiter(LimiterConfig{Address: roomy, Account: account, Total: roomy, Entries: entries})
	if ok, _ := attempts(l, 5, home, user("alice")); ok != 2 {
		t.Fatalf("%d passed", ok)
	}
	passed, stopped := 2, 3
	for i := range 10_000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if l.Allow(a, user(fmt.Sprintf("x%d", i))).OK {
			passed++
		} else {
			stopped++
		}
	}
	if n := len(l.accounts.byKey); n > entries {
		t.Errorf("%d accounts remembered", n)
	}
	if n := len(l.address.byKey); n > entries {
		t.Errorf("%d addresses remembered", n)
	}
	if l.Allow(home, user("alice")).OK {
		t.Error("alice got a fresh bucket")
	}
	stopped++
	if passed > entries+10 {
		t.Errorf("%d newcomers passed", passed)
	}
	var counted uint64
	for _, f := range l.Drain() {
		counted += f.Count
	}
	if counted != uint64(stopped) {
		t.Errorf("%d counted, %d stopped", counted, stopped)
	}
	// A few drained accounts do not keep the others from making room.
	attempts(l, 5, home, user("alice"))
	k.now = k.now.Add(10 * time.Second)
	attempts(l, 5, home, user("alice"))
	k.now = k.now.Add(10 * time.Second)
	for i := range 2 * entries {
		if v := l.Allow(home, user(fmt.Sprintf("y%d", i))); !v.OK && i < entries-1 {
			t.Fatalf("newcomer %d: %+v", i, v)
		}
	}
	if n := len(l.accounts.byKey); n > entries || len(l.accounts.entries) != n {
		t.Errorf("%d accounts remembered, %d in the heap", n, len(l.accounts.entries))
	}
}

// TestRoomComesFromWhoIsIdleFirst: in whatever order they came.
func TestRoomComesFromWhoIsIdleFirst(t *testing.T) {
	l, k := newLimiter(LimiterConfig{Address: roomy, Account: account, Total: roomy, Entries: 2})
	attempts(l, 1, home, user("alice"))
	attempts(l, 2, home, user("bob"))
	k.now = k.now.Add(11 * time.Second)
	attempts(l, 1, home, user("carol"))
	if l.accounts.byKey[key{name: "user/carol"}] == nil || l.accounts.byKey[key{name: "user/bob"}] == nil || l.accounts.byKey[key{name: "user/alice"}] != nil {
		t.Errorf("remembered: %v", l.accounts.byKey)
	}
}

// TestEvictedFloodsAreCounted: making room loses the name, never the count.
func TestEvictedFloodsAreCounted(t *testing.T) {
	l, k := newLimiter(LimiterConfig{Address: roomy, Account: account, Total: roomy, Entries: 1})
	attempts(l, 7, home, user("alice"))
	k.now = k.now.Add(time.Minute)
	attempts(l, 3, home, user("bob"))
	floods := l.Drain()
	if len(floods) != 2 || floods[0].Key != "" || floods[0].Count != 5 || floods[1].Key != "user/bob" || floods[1].Count != 1 {
		t.Errorf("%+v", floods)
	}
}

func TestLimiterConcurrently(t *testing.T) {
	l, _ := newLimiter(LimiterConfig{Address: roomy, Account: account, Total: roomy, Entries: 8})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 500 {
				l.Allow(home, user(fmt.Sprintf("u%d", (i+j)%20)))
				if j%100 == 0 {
					l.Drain()
				}
			}
		})
	}
	wg.Wait()
	if len(l.accounts.byKey) > 8 {
		t.Errorf("%d accounts", len(l.accounts.byKey))
	}
}

func TestLimiterDefaults(t *testing.T) {
	l := NewLimiter(LimiterConfig{})
	if ok, v := attempts(l, 1000, home, user("alice")); ok < defaultPair.Burst || ok > defaultPair.Burst+5 || v.OK {
		t.Errorf("%d of 1000 passed", ok)
	}
}

// TestNobodyIsLockedOut: whoever guesses at one address stops nobody of that
// name at another; from many addresses together he is stopped as well.
func TestNobodyIsLockedOut(t *testing.T) {
	l, k := newLimiter(LimiterConfig{})
	for range 24 * 60 {
		attempts(l, 60, home, user("alice"))
		k.now = k.now.Add(time.Minute)
	}
	if ok, v := attempts(l, 5, netip.MustParseAddr("192.0.2.2"), user("alice")); ok != 5 {
		t.Errorf("alice at home: %d of 5 passed, %+v", ok, v)
	}
	if ok, v := attempts(l, 60, home, user("alice")); ok > 7 || v.By != ByAddress && v.By != ByPair {
		t.Errorf("the guesser: %d passed, %+v", ok, v)
	}
	passed := 0
	var last Verdict
	for i := range 1000 {
		if last = l.Allow(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), user("alice")); last.OK {
			passed++
		}
	}
	if passed > defaultAccount.Burst || last.By != ByAccount && last.By != ByTotal {
		t.Errorf("from 1000 addresses %d passed, %+v", passed, last)
	}
}

// TestFloodNamesItsSources: the last few, by prefix.
func TestFloodNamesItsSources(t *testing.T) {
	l, _ := newLimiter(LimiterConfig{Account: Rate{Every: time.Hour, Burst: 1}})
	for i := range 20 {
		l.Allow(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), user("alice"))
	}
	l.Allow(netip.MustParseAddr("10.0.0.15"), user("alice"))
	l.Allow(netip.MustParseAddr("2001:db8::5"), user("alice"))
	floods := l.Drain()
	want := "[10.0.0.13/32 10.0.0.14/32 10.0.0.16/32 10.0.0.17/32 10.0.0.18/32 10.0.0.19/32 10.0.0.15/32 2001:db8::/64]"
	if len(floods) != 1 || floods[0].Key != "user/alice" || floods[0].Count != 21 || fmt.Sprint(floods[0].Sources) != want {
		t.Errorf("%+v", floods)
	}
}

func BenchmarkAllow(b *testing.B) {
	l := NewLimiter(LimiterConfig{})
	b.ReportAllocs()
	for b.Loop() {
		l.Allow(home, user("alice"))
	}
}
