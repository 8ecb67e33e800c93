package lease_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster/lease"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/fsm"
)

// pass lets time pass, in steps that cluster time allows.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	for d > 0 {
		step := min(d, 4*time.Minute)
		d -= step
		w.clock.Advance(step)
		w.ok(fsm.Command{Kind: fsm.KindTick, Principal: "node/n1", Body: fsm.EncodeBody(fsm.KindTick, &fsm.Tick{})})
	}
}

// A server that never answers holds up its own revocations and nobody else's, however many there are.
func TestServerThatHangs(t *testing.T) {
	t.Parallel()
	w := start(t, 1)
	w.role("other", "stub two")
	hanging := map[string]bool{}
	expires := w.now() + time.Minute.Milliseconds()
	const n = 300
	for range n {
		hanging[w.open("db", expires).Username] = true
	}
	for range n {
		w.open("other", expires)
	}
	var calls atomic.Int64
	answer := func(ctx context.Context, u target.User) error {
		if hanging[u.Name] {
			calls.Add(1)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	w.server.answer.Store(&answer)
	w.pass(2 * time.Minute)
	w.Await("the other server's users to go", func() bool { return w.server.dropped.Load() == n })
	w.Await("the tries to be on record", func() bool {
		tried := 0
		leases, _ := w.Leader().Store().Leases(fsm.LeasesOfRole, "ml/db", "", 1000)
		for _, l := range leases {
			if l.State == fsm.LeaseRevoking && l.Tries > 0 && l.LastError != "" {
				tried++
			}
		}
		return tried == n
	})
	// Not a time-out for each: who finds the server down counts for those who wait with it.
	if calls := calls.Load(); calls > n/3 {
		t.Errorf("%d calls for %d users were made to the server that hangs", calls, n)
	}
	w.server.answer.Store(nil)
	w.pass(10 * time.Minute)
	w.Await("all to be gone", func() bool {
		w.pass(time.Minute)
		return w.left() == 0
	})
}

// What was changed on a disk sends no credential anywhere and drops nobody.
func TestChangedOutsideTheCluster(t *testing.T) {
	t.Parallel()
	w := start(t, 1)
	l := w.newLease("db", w.now()+time.Minute.Milliseconds())
	l.Username = "postgres" // whom the MAC does not name
	w.ok(w.command(fsm.KindLeaseCreate, l.Principal, fsm.LeaseCreate{Lease: l}))
	w.ok(w.command(fsm.KindLeaseActivate, l.Principal, fsm.LeaseActivate{ID: l.ID}))
	w.Await("a dead letter", func() bool {
		w.pass(time.Minute)
		dead, _ := w.Leader().Store().DeadLeases("", 10)
		return len(dead) == 1 && strings.Contains(dead[0].LastError, "changed outside the cluster")
	})
	if n := w.server.dropped.Load(); n != 0 {
		t.Errorf("%d users were dropped on its word", n)
	}
}

// Without the administrator's credential revocations wait, and go on once it is there.
func TestAdminIsMissing(t *testing.T) {
	t.Parallel()
	w := start(t, 1)
	w.roleOf("lost", "stub three", "elsewhere")
	l := w.open("lost", w.now()+time.Minute.Milliseconds())
	w.Await("a failed try", func() bool {
		w.pass(10 * time.Second)
		l, ok := w.Leader().Store().Lease(l.ID)
		return ok && l.Tries > 0 && strings.Contains(l.LastError, "ml/elsewhere")
	})
	w.put("elsewhere")
	w.Await("the user to go", func() bool {
		w.pass(time.Minute)
		return w.server.dropped.Load() == 1 && w.left() == 0
	})
}

func TestUsernames(t *testing.T) {
	id := [16]byte{1, 2, 3}
	name, password := lease.NewUser(id)
	again, other := lease.NewUser(id)
	if name != again || name != lease.Username(id) || len(name) > 32 || strings.ToLower(name) != name || !strings.HasPrefix(name, "hizo_") {
		t.Errorf("names %q and %q", name, again)
	}
	if password.Len() < 40 || password.Equal(other) {
		t.Errorf("a password of %d characters, the same twice: %t", password.Len(), password.Equal(other))
	}
}
