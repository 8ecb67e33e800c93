package fsm_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// leaseWorld has the role ml/db on the server db1 and the workload train.
func leaseWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.ok(w.LeaseRole("ml", "db", "rev1", "db1"),
		w.do(fsm.KindWorkloadPut, fsm.WorkloadPut{Workload: fsm.Workload{Name: "train"}}))
	return w
}

func (w *world) newLease(id string) fsm.Lease {
	w.t.Helper()
	role, ok := w.s.LeaseRole("ml", "db")
	if !ok {
		w.t.Fatal("no role")
	}
	return w.NewLease(role, id, "workload/train")
}

// active is a lease that was released.
func (w *world) active(id string) fsm.Lease {
	w.t.Helper()
	l := w.newLease(id)
	w.ok(w.Lease(l))
	w.ok(w.Activate(l))
	return w.lease(id)
}

func (w *world) lease(id string) fsm.Lease {
	w.t.Helper()
	l, ok := w.s.Lease(fsmtest.LeaseID(id))
	if !ok {
		w.t.Fatalf("lease %s is gone", id)
	}
	return l
}

func (w *world) gone(id string) {
	w.t.Helper()
	if l, ok := w.s.Lease(fsmtest.LeaseID(id)); ok {
		w.t.Errorf("lease %s is there: %+v", id, l)
	}
}

func (w *world) state(id string, want fsm.LeaseState) fsm.Lease {
	w.t.Helper()
	l := w.lease(id)
	if l.State != want {
		w.t.Errorf("lease %s is in state %d, not %d: %+v", id, l.State, want, l)
	}
	return l
}

// sweep sweeps until nothing is left to do.
func (w *world) sweep() {
	w.t.Helper()
	for {
		r := w.apply(w.Sweep(fsm.MaxLeaseBatch))[0]
		if r.Code != fsm.CodeOK {
			w.t.Fatalf("sweep: %+v", r)
		}
		if !r.Value.(fsm.LeaseSwept).More {
			return
		}
	}
}

func dropped(l fsm.Lease) fsm.LeaseOutcome {
	return fsm.LeaseOutcome{ID: l.ID, Changed: l.Changed, Dropped: true}
}

func failed(l fsm.Lease, permanent bool) fsm.LeaseOutcome {
	return fsm.LeaseOutcome{ID: l.ID, Changed: l.Changed, Error: "cannot connect", Permanent: permanent}
}

func (w *world) revoke(of, name string) fsm.Command {
	return w.do(fsm.KindLeaseRevoke, fsm.LeaseRevoke{Of: of, Name: name})
}

func (w *world) renew(id string, expires int64) fsm.Command {
	return w.Command(fsm.KindLeaseRenew, "workload/train", "lease", "ml/db", fsm.LeaseRenew{ID: fsmtest.LeaseID(id), Expires: expires, MAC: []byte("new")})
}

func TestLeaseLives(t *testing.T) {
	w := leaseWorld(t)
	l := w.newLease("a")
	r := w.want(fsm.CodeOK, w.Lease(l))
	if leaf := w.leaf(r.Audit); !strings.Contains(leaf.Detail, fsm.LeaseText(l.ID)) || !strings.Contains(leaf.Detail, "user hizo_a") {
		t.Errorf("the leaf does not name the user: %+v", leaf)
	}
	w.state("a", fsm.LeaseCreating)
	w.want(fsm.CodeOK, w.Activate(l))
	w.want(fsm.CodeConflict, w.Activate(l)) // released once
	w.state("a", fsm.LeaseActive)
	w.later(3_000_000)
	w.want(fsm.CodeOK, w.renew("a", w.Now()+3_600_000))
	w.want(fsm.CodeInvalid, w.renew("a", l.MaxExpires+1))
	w.later(700_000) // past the first expiry
	w.sweep()
	w.state("a", fsm.LeaseActive)
	w.later(3_000_000)
	w.want(fsm.CodeExpired, w.renew("a", w.Now()+1000))
	w.sweep()
	l = w.state("a", fsm.LeaseRevoking)
	w.want(fsm.CodeConflict, w.renew("a", w.Now()+1000))
	if queue, next := w.s.LeaseQueue("db1", w.s.Time(), "", 10); len(queue) != 1 || queue[0].ID != l.ID || next != "" {
		t.Errorf("queue %+v", queue)
	}
	w.ok(w.Outcomes(dropped(l)))
	w.gone("a")
	if targets := w.s.LeaseTargets(); len(targets) != 0 {
		t.Errorf("targets %v", targets)
	}
}

// Whoever stops between two records leaves a lease that ends by itself, and a user who may be made late is dropped again.
func TestLeaseThatWasNeverReleased(t *testing.T) {
	w := leaseWorld(t)
	l := w.newLease("a")
	w.ok(w.Lease(l))
	w.later(61_000)
	w.want(fsm.CodeExpired, w.Activate(l))
	w.sweep()
	first := w.state("a", fsm.LeaseRevoking)
	w.want(fsm.CodeConflict, w.Activate(l))
	w.ok(w.Outcomes(dropped(first)))
	second := w.state("a", fsm.LeaseRevoking)
	if second.NextTry < w.Now()+4*60_000 {
		t.Errorf("looks again at %d, now is %d", second.NextTry, w.Now())
	}
	w.ok(w.Outcomes(dropped(first))) // late, of the first drop
	w.state("a", fsm.LeaseRevoking)
	w.ok(w.Outcomes(dropped(second)))
	w.gone("a")
}

// A retry of Issue gets another lease, and the first ends: nobody holds two.
func TestLeaseRetried(t *testing.T) {
	w := leaseWorld(t)
	c := w.Lease(w.newLease("first"))
	w.ok(c)
	w.ok(w.Activate(w.lease("first")))
	again := c
	again.Body = fsm.EncodeBody(fsm.KindLeaseCreate, fsm.LeaseCreate{Lease: w.newLease("second")})
	if r := w.want(fsm.CodeOK, again); !r.Duplicate {
		t.Errorf("%+v", r)
	}
	w.state("first", fsm.LeaseRevoking)
	w.state("second", fsm.LeaseCreating)
	third := c
	third.Body = fsm.EncodeBody(fsm.KindLeaseCreate, fsm.LeaseCreate{Lease: w.newLease("third")})
	w.want(fsm.CodeOK, third)
	w.want(fsm.CodeConflict, w.Activate(w.lease("second"))) // its caller is too late
	other := third
	other.Fingerprint = []byte("other")
	w.want(fsm.CodeRequestReused, other)
}

func TestLeaseRefused(t *testing.T) {
	w := leaseWorld(t)
	w.ok(w.do(fsm.KindWorkloadPut, fsm.WorkloadPut{Workload: fsm.Workload{Name: "off"}}), w.disable("workload/off", true))
	change := func(f func(*fsm.Lease)) fsm.Command {
		l := w.newLease("x")
		f(&l)
		return w.Lease(l)
	}
	for name, c := range map[string]struct {
		code   fsm.Code
		change func(*fsm.Lease)
	}{
		"no id":             {fsm.CodeInvalid, func(l *fsm.Lease) { l.ID = [16]byte{} }},
		"no user":           {fsm.CodeInvalid, func(l *fsm.Lease) { l.Username = "" }},
		"another target":    {fsm.CodeInvalid, func(l *fsm.Lease) { l.Target = "db2" }},
		"a node":            {fsm.CodeInvalid, func(l *fsm.Lease) { l.Principal = "node/n1" }},
		"no role":           {fsm.CodeNotFound, func(l *fsm.Lease) { l.Role = "none" }},
		"an old role":       {fsm.CodeSuperseded, func(l *fsm.Lease) { l.Revision = fsmtest.LeaseID("rev0") }},
		"disabled":          {fsm.CodeDenied, func(l *fsm.Lease) { l.Principal = "workload/off" }},
		"unknown":           {fsm.CodeNotFound, func(l *fsm.Lease) { l.Principal = "workload/none" }},
		"expired":           {fsm.CodeExpired, func(l *fsm.Lease) { l.Expires = w.Now() }},
		"renewable to less": {fsm.CodeInvalid, func(l *fsm.Lease) { l.MaxExpires = l.Expires - 1 }},
	} {
		t.Run(name, func(t *testing.T) { w.want(c.code, change(c.change)) })
	}
	spoofed := change(func(*fsm.Lease) {})
	spoofed.Principal = "workload/off"
	w.want(fsm.CodeInvalid, spoofed)
	l := w.active("a")
	foreign := w.renew("a", w.Now()+7_000_000)
	foreign.Principal = "workload/off"
	w.want(fsm.CodeDenied, foreign)
	stolen := w.Activate(l)
	stolen.Principal = "user/alice"
	w.want(fsm.CodeDenied, stolen)
	w.want(fsm.CodeExists, w.Lease(w.newLease("a")))
	small := w.LeaseRole("ml", "db", "rev-small", "db1")
	role := fsm.LeaseRolePut{}
	role.Role, _ = w.s.LeaseRole("ml", "db")
	role.Role.Revision, role.Role.Limit = fsmtest.LeaseID("rev-small"), 1
	small.Body = fsm.EncodeBody(fsm.KindLeaseRolePut, role)
	w.ok(small, w.Lease(w.NewLease(role.Role, "b", "workload/train")))
	w.want(fsm.CodeLimit, w.Lease(w.NewLease(role.Role, "c", "workload/train")))
}

// A role may change and go while leases stand on what it was.
func TestLeaseRolesChangeUnderLeases(t *testing.T) {
	w := leaseWorld(t)
	old := w.active("old")
	w.ok(w.LeaseRole("ml", "db", "rev2", "db2"))
	w.active("new")
	terms, n, ok := w.s.LeaseTerms(old.Revision)
	if !ok || n != 1 || terms.Target != "db1" {
		t.Errorf("terms of the old lease: %+v, %d leases", terms, n)
	}
	w.ok(w.do(fsm.KindLeaseRoleDelete, fsm.LeaseRoleDelete{Vault: "ml", Name: "db"}))
	w.want(fsm.CodeNotFound, w.do(fsm.KindLeaseRoleDelete, fsm.LeaseRoleDelete{Vault: "ml", Name: "db"}))
	w.sweep()
	for _, id := range []string{"old", "new"} {
		w.ok(w.Outcomes(dropped(w.state(id, fsm.LeaseRevoking))))
		w.gone(id)
	}
	if _, _, ok := w.s.LeaseTerms(old.Revision); ok {
		t.Error("the terms outlive the last lease")
	}
}

// Revoking many is one write: what it covers is dead at once, and what comes later lives.
func TestLeasesRevokedTogether(t *testing.T) {
	for _, c := range []struct {
		name   string
		revoke func(*world) fsm.Command
		spared string
	}{
		{"role", func(w *world) fsm.Command { return w.revoke(fsm.LeasesOfRole, "ml/db") }, "other-role"},
		{"principal", func(w *world) fsm.Command { return w.revoke(fsm.LeasesOfPrincipal, "workload/train") }, "other-principal"},
		{"pipeline", func(w *world) fsm.Command { return w.revoke(fsm.LeasesOfPipeline, "ml/nightly") }, "no-pipeline"},
		{"admin", func(w *world) fsm.Command {
			return w.do(fsm.KindLeaseRevoke, fsm.LeaseRevoke{Of: fsm.LeasesOfAdmin, Name: "ml/admin", Version: 1})
		}, "newer-admin"},
		{"disabled", func(w *world) fsm.Command { return w.disable("workload/train", true) }, "other-principal"},
		{"tokens", func(w *world) fsm.Command {
			return w.do(fsm.KindTokenRevoke, fsm.TokenRevoke{Principal: "workload/train", Credentials: true})
		}, "other-principal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := leaseWorld(t)
			w.ok(w.LeaseRole("ml", "cache", "rev-cache", "db3"),
				w.do(fsm.KindWorkloadPut, fsm.WorkloadPut{Workload: fsm.Workload{Name: "serve"}}))
			const n = 300
			add := func(id string, change func(*fsm.Lease)) {
				l := w.newLease(id)
				l.Pipeline = "ml/nightly"
				change(&l)
				w.ok(w.Lease(l))
				w.ok(w.Activate(l))
			}
			for i := range n {
				add(fmt.Sprint("many", i), func(*fsm.Lease) {})
			}
			switch c.spared {
			case "other-role":
				role, _ := w.s.LeaseRole("ml", "cache")
				add(c.spared, func(l *fsm.Lease) { l.Role, l.Revision, l.Target = role.Name, role.Revision, role.Target })
			case "other-principal":
				add(c.spared, func(l *fsm.Lease) { l.Principal = "workload/serve" })
			case "no-pipeline":
				add(c.spared, func(l *fsm.Lease) { l.Pipeline = "" })
			case "newer-admin":
				add(c.spared, func(l *fsm.Lease) { l.AdminVersion = 2 })
			}
			opened := w.newLease("opened")
			opened.Pipeline = "ml/nightly"
			w.ok(w.Lease(opened))
			w.ok(c.revoke(w))
			// Before the sweep has come anywhere near:
			w.want(fsm.CodeConflict, w.renew(fmt.Sprint("many", n-1), w.Now()+7_000_000))
			w.want(fsm.CodeConflict, w.Activate(opened))
			if c.name != "disabled" {
				add("later", func(*fsm.Lease) {})
			}
			for range 2 * n / fsm.MaxLeaseBatch {
				w.ok(w.Sweep(fsm.MaxLeaseBatch))
			}
			w.sweep()
			queue, _ := w.s.LeaseQueue("db1", w.s.Time(), "", 2*n)
			if len(queue) != n+1 {
				t.Errorf("%d are revoked, not %d", len(queue), n+1)
			}
			w.state(c.spared, fsm.LeaseActive)
			if c.name != "disabled" {
				w.state("later", fsm.LeaseActive)
			}
			if _, due := w.s.LeasesDue(); !due {
				t.Error("nothing is due any more")
			}
		})
	}
}

// A drop that fails is tried again, ever more rarely, then it is a dead letter; what an outcome was not about stays.
func TestLeaseDeadLetters(t *testing.T) {
	w := leaseWorld(t)
	w.active("a")
	w.active("b")
	w.ok(w.revoke(fsm.LeasesOfRole, "ml/db"))
	w.sweep()
	last := int64(0)
	for try := range fsm.LeaseTries - 1 {
		l := w.state("a", fsm.LeaseRevoking)
		w.ok(w.Outcomes(failed(l, false), dropped(fsm.Lease{ID: fsmtest.LeaseID("none")})))
		l = w.state("a", fsm.LeaseRevoking)
		if pause := l.NextTry - w.Now(); pause < last || pause > 15*60_000 || l.LastError != "cannot connect" {
			t.Errorf("try %d: %+v", try, l)
		} else {
			last = pause
		}
		if queue, _ := w.s.LeaseQueue("db1", w.s.Time(), "", 10); len(queue) != 1 || queue[0].ID != fsmtest.LeaseID("b") {
			t.Errorf("try %d: the queue is %+v", try, queue)
		}
	}
	w.ok(w.Outcomes(failed(w.lease("a"), false)))
	w.state("a", fsm.LeaseDead)
	for range fsm.LeasePermanentTries {
		w.ok(w.Outcomes(failed(w.state("b", fsm.LeaseRevoking), true)))
	}
	w.state("b", fsm.LeaseDead)
	dead, next := w.s.DeadLeases("", 1)
	rest, end := w.s.DeadLeases(next, 5)
	if len(dead) != 1 || len(rest) != 1 || end != "" || dead[0].ID == rest[0].ID {
		t.Errorf("dead letters %+v, %+v", dead, rest)
	}
	ids := [][16]byte{fsmtest.LeaseID("a"), fsmtest.LeaseID("b")}
	w.want(fsm.CodeNotFound, w.do(fsm.KindLeaseForget, fsm.DeadLeases{IDs: append(ids, fsmtest.LeaseID("c"))}))
	w.want(fsm.CodeOK, w.do(fsm.KindLeaseRetry, fsm.DeadLeases{IDs: ids[:1]}))
	if l := w.state("a", fsm.LeaseRevoking); l.Tries != 0 || l.NextTry != w.Now() {
		t.Errorf("retried: %+v", l)
	}
	w.want(fsm.CodeOK, w.do(fsm.KindLeaseForget, fsm.DeadLeases{IDs: ids[1:]}))
	w.gone("b")
	w.ok(w.Outcomes(dropped(w.lease("a"))))
	w.gone("a")
}

func TestLeasesRevokedOneByOne(t *testing.T) {
	w := leaseWorld(t)
	l := w.active("a")
	before, _, _ := w.s.Events(w.s.EventsEnd(), 10)
	w.want(fsm.CodeNotFound, w.do(fsm.KindLeaseRevoke, fsm.LeaseRevoke{ID: fsmtest.LeaseID("none")}))
	w.want(fsm.CodeInvalid, w.do(fsm.KindLeaseRevoke, fsm.LeaseRevoke{ID: l.ID, Of: fsm.LeasesOfRole, Name: "ml/db"}))
	w.want(fsm.CodeInvalid, w.do(fsm.KindLeaseRevoke, fsm.LeaseRevoke{Of: "vault", Name: "ml"}))
	from := w.s.EventsEnd()
	w.want(fsm.CodeOK, w.do(fsm.KindLeaseRevoke, fsm.LeaseRevoke{ID: l.ID}))
	w.want(fsm.CodeOK, w.do(fsm.KindLeaseRevoke, fsm.LeaseRevoke{ID: l.ID})) // it is what was wanted
	w.state("a", fsm.LeaseRevoking)
	events, _, ok := w.s.Events(from, 10)
	if len(before) != 0 || !ok || len(events) != 1 || events[0].Kind != fsm.EventLeaseRevoked || events[0].Path != "db" {
		t.Errorf("events %+v", events)
	}
}

// More leases than one sweep takes expire together: each sweep goes on where the last stopped, and none is forgotten.
func TestLeasesExpireTogether(t *testing.T) {
	w := leaseWorld(t)
	const n = 3*fsm.MaxLeaseBatch + 7
	for i := range n {
		w.active(fmt.Sprint(i))
	}
	if at, ok := w.s.LeasesDue(); !ok || at <= w.s.Time() {
		t.Errorf("due at %d, now is %d", at, w.s.Time())
	}
	w.later(3_700_000)
	w.sweep()
	if queue, _ := w.s.LeaseQueue("db1", w.s.Time(), "", 2*n); len(queue) != n {
		t.Errorf("%d of %d are revoked", len(queue), n)
	}
	if _, ok := w.s.LeasesDue(); ok {
		t.Error("something is due still")
	}
	// One that is opened afterwards and ends sooner than any before is found.
	w.ok(w.Lease(w.newLease("late")))
	w.later(61_000)
	w.sweep()
	w.state("late", fsm.LeaseRevoking)
	var list []fsm.LeaseOutcome
	queue, _ := w.s.LeaseQueue("db1", w.s.Time(), "", fsm.MaxLeaseBatch)
	for _, l := range queue {
		list = append(list, dropped(l))
	}
	w.ok(w.Outcomes(list...))
	if rest, _ := w.s.LeaseQueue("db1", w.s.Time(), "", 2*n); len(rest) != n+1-fsm.MaxLeaseBatch {
		t.Errorf("%d are left", len(rest))
	}
}
