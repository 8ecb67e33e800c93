package fsm_test

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// fillLeases makes n active leases of workload/train, 64 to an entry, that expire in the same moment.
func fillLeases(b *testing.B, s *fsm.Store, build *fsmtest.Builder, n int) {
	b.Helper()
	apply := func(commands ...fsm.Command) {
		for _, r := range s.Apply(build.Entry(commands...)).([]fsm.Result) {
			if r.Code != fsm.CodeOK {
				b.Fatalf("%+v", r)
			}
		}
	}
	role := build.LeaseRole("ml", "db", "revision", "db1")
	body, err := fsm.DecodeBody(fsm.KindLeaseRolePut, role.Body)
	if err != nil {
		b.Fatal(err)
	}
	many := *body.(*fsm.LeaseRolePut)
	many.Role.Limit = fsm.MaxRoleLeases
	role.Body = fsm.EncodeBody(fsm.KindLeaseRolePut, many)
	apply(role, build.Command(fsm.KindWorkloadPut, "user/alice", "workload", "", fsm.WorkloadPut{Workload: fsm.Workload{Name: "train"}}))
	have, _ := s.LeaseRole("ml", "db")
	for i := 0; i < n; i += 64 {
		var commands []fsm.Command
		for j := i; j < min(i+64, n); j++ {
			l := build.NewLease(have, fmt.Sprint(j), "workload/train")
			commands = append(commands, build.Lease(l), build.Activate(l))
		}
		apply(commands...)
	}
}

// One op is opening the state, as at the start of a node.
func BenchmarkOpenWithLeases(b *testing.B) {
	for _, n := range []int{0, 100_000} {
		b.Run(fmt.Sprintf("leases=%d", n), func(b *testing.B) {
			dir := b.TempDir()
			s, err := fsm.Open(fsm.Options{Dir: dir})
			if err != nil {
				b.Fatal(err)
			}
			build := &fsmtest.Builder{}
			s.Apply(build.Entry(build.Genesis(), build.Enrol("alice", "token"), build.Vault("ml")))
			if n > 0 {
				fillLeases(b, s, build, n)
			}
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				s, err := fsm.Open(fsm.Options{Dir: dir})
				if err != nil {
					b.Fatal(err)
				}
				if _, due := s.LeasesDue(); due != (n > 0) {
					b.Fatal("the leases are not there")
				}
				b.StopTimer()
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// One op is one batch of 64 leases that begin to be revoked, or whose drop is recorded: what others wait for at most.
func BenchmarkApplyLeases(b *testing.B) {
	const batch = 64
	s, build := benchStore(b, vfs.NewMem(), "state")
	fillLeases(b, s, build, 20_000)
	for range 16 { // past their expiry, in steps that cluster time allows
		build.Time += 240_000
		s.Apply(build.Entry(fsm.Command{Kind: fsm.KindTick, Principal: "node/n1", Body: fsm.EncodeBody(fsm.KindTick, fsm.Tick{})}))
	}
	b.Run("sweep", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			r := s.Apply(build.Entry(build.Sweep(batch))).([]fsm.Result)[0]
			if swept := r.Value.(fsm.LeaseSwept); swept.Leases != batch {
				b.Skipf("all %d batches are swept", i)
			}
		}
	})
	b.Run("outcomes", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			queue, _ := s.LeaseQueue("db1", s.Time(), "", batch)
			if len(queue) < batch {
				b.Skip("the queue is empty")
			}
			var list []fsm.LeaseOutcome
			for _, l := range queue {
				list = append(list, fsm.LeaseOutcome{ID: l.ID, Changed: l.Changed, Dropped: true})
			}
			c := build.Outcomes(list...)
			c.Audits = nil
			for range list {
				c.Audits = append(c.Audits, fsm.Audit{Action: "lease.drop", Resource: "ml/db", Decision: fsm.Allowed})
			}
			entry := build.Entry(c)
			b.StartTimer()
			s.Apply(entry)
		}
	})
}
