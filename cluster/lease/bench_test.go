package lease_test

import (
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hizo/hizo/fsm"
)

// callers ask as fast as they are answered.
const callers = 16

// BenchmarkLeasesExpire opens 100,000 leases, restarts a node with them, and lets all expire in one moment while others
// ask for something else. `make bench-leases` runs it once; HIZO_BENCH_LEASES changes the number.
func BenchmarkLeasesExpire(b *testing.B) {
	n := 100_000
	if text := os.Getenv("HIZO_BENCH_LEASES"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		expire(b, n)
	}
}

func expire(b *testing.B, n int) {
	w := start(b, 3)
	before := w.restart()
	quiet := w.ask(func(elapsed time.Duration) bool { return elapsed < 5*time.Second })

	expires := w.now() + (40 * time.Minute).Milliseconds()
	begin := time.Now()
	var wg sync.WaitGroup
	work := make(chan struct{}, n)
	for range n {
		work <- struct{}{}
	}
	close(work)
	for range 128 {
		wg.Go(func() {
			for range work {
				w.open("db", expires)
			}
		})
	}
	wg.Wait()
	made := time.Since(begin)
	after := w.restart() // with snapshots every 4 MiB: what a start reads of the log is not what is measured

	for w.now() <= expires {
		w.clock.Advance(min(4*time.Minute, time.Duration(expires-w.now()+1)*time.Millisecond))
		w.ok(fsm.Command{Kind: fsm.KindTick, Principal: "node/n1", Body: fsm.EncodeBody(fsm.KindTick, &fsm.Tick{})})
	}
	begin = time.Now()
	var all time.Duration
	busy := w.ask(func(time.Duration) bool {
		if all == 0 && w.server.dropped.Load() >= int64(n) {
			all = time.Since(begin)
		}
		return all == 0
	})
	w.Await("no lease", func() bool { return w.left() == 0 })

	b.ReportMetric(0, "ns/op")
	b.Logf("%d leases, opened in %s (%.0f leases/s)", n, made.Round(time.Millisecond), float64(n)/made.Seconds())
	b.Logf("start of a node: %s without leases, %s with %d", before.Round(time.Millisecond), after.Round(time.Millisecond), n)
	b.Logf("other requests, %d callers: before            %s", callers, quiet)
	b.Logf("other requests, %d callers: while all expire  %s", callers, busy)
	b.Logf("all users dropped %s after they expired together (%.0f/s)", all.Round(time.Millisecond), float64(n)/all.Seconds())
}

// restart stops a follower in order and says how long it takes to start and to have caught up.
func (w *world) restart() time.Duration {
	w.t.Helper()
	leader := w.Leader()
	for _, n := range w.Nodes {
		if n != leader {
			w.Stop(n)
			begin := time.Now()
			w.Restart(n)
			target := leader.Store().Position().Index
			w.Await("the node to have caught up", func() bool { return n.Store().Position().Index >= target })
			took := time.Since(begin)
			w.AwaitReady()
			return took
		}
	}
	return 0
}

// latencies of requests.
type latencies []time.Duration

func (l latencies) String() string {
	slices.Sort(l)
	at := func(share float64) time.Duration { return l[int(share*float64(len(l)-1))].Round(10 * time.Microsecond) }
	return "p50 " + at(0.5).String() + ", p99 " + at(0.99).String() + ", longest " + at(1).String() + " of " + strconv.Itoa(len(l))
}

// ask has callers read a secret, audited as every read is, while more says so.
func (w *world) ask(more func(elapsed time.Duration) bool) latencies {
	begin := time.Now()
	var mu sync.Mutex
	var all latencies
	stop := false
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			var own latencies
			for {
				mu.Lock()
				stop = stop || !more(time.Since(begin))
				ended := stop
				mu.Unlock()
				if ended {
					break
				}
				cmd := w.command(fsm.KindRead, "user/test", fsm.ReadVersions{Refs: []fsm.Ref{{Vault: "ml", Path: "admin"}}})
				at := time.Now()
				for { // as clients do: again at whoever leads
					leader := w.Leader()
					if r, err := leader.Propose(w.t.Context(), cmd); err == nil && r.Code == fsm.CodeOK {
						break
					}
				}
				own = append(own, time.Since(at))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
		})
	}
	wg.Wait()
	return all
}
