package observe

import (
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
)

func TestLag(t *testing.T) {
	start := time.Unix(1000, 0)
	now := start
	l := newLag(func() time.Time { return now })
	at := func(seconds int) time.Time { now = start.Add(time.Duration(seconds) * time.Second); return now }
	expect := func(applied uint64, late, silent time.Duration) {
		t.Helper()
		if l1, s1 := l.behind(applied); l1 != late || s1 != silent {
			t.Errorf("applied %d at %s: late %s, silent %s; want %s and %s", applied, now.Sub(start), l1, s1, late, silent)
		}
	}
	expect(0, 0, -1)
	l.note(at(0), 100, 100)
	expect(100, 0, 0)
	l.note(at(1), 150, 100)
	l.note(at(2), 200, 120)
	l.note(at(3), 200, 120)
	expect(120, 2*time.Second, 0)
	at(4)
	expect(149, 3*time.Second, time.Second)
	expect(150, 2*time.Second, time.Second) // what was missing at second 2 still is
	expect(200, 0, time.Second)
	// A node that hangs for long: its lag goes on growing when there is no room for more samples.
	for i := 5; i < 5+2*maxSamples; i++ {
		l.note(at(i), uint64(300+i), 200)
	}
	expect(200, time.Duration(2*maxSamples-1)*time.Second, 0)
	expect(uint64(300+4+2*maxSamples), 0, 0)
}

func TestReadinessReasons(t *testing.T) {
	fine := cluster.Status{ID: "n1", Initialised: true, Leader: cluster.LeaderInfo{ID: "n2"}}
	with := func(change func(*cluster.Status)) cluster.Status {
		st := fine
		change(&st)
		return st
	}
	for _, tt := range []struct {
		name         string
		st           cluster.Status
		late, silent time.Duration
		want         []string
	}{
		{"ready", fine, 0, 0, nil},
		{"a little late", fine, maxLag, 0, nil},
		{"behind", fine, maxLag + 1, 0, []string{Behind}},
		{"the leader was never asked", fine, 0, -1, nil},
		{"the leader is silent", fine, 0, 2*maxLag + 1, []string{Behind}},
		{"not initialised", cluster.Status{ID: "n1", Sealed: true}, 0, -1, []string{NotInitialised}},
		{"sealed", with(func(s *cluster.Status) { s.Sealed = true }), 0, 0, []string{Sealed}},
		{"sealed on purpose, keys still held", with(func(s *cluster.Status) { s.SealedFlag = true }), 0, 0, []string{Sealed}},
		{"leaderless: late is a matter of course", with(func(s *cluster.Status) { s.Leader.ID = "" }), time.Hour, time.Hour, []string{Leaderless}},
		{"full disk", with(func(s *cluster.Status) { s.Disk.Low = true }), 0, 0, []string{DiskFull}},
		{"several", with(func(s *cluster.Status) { s.Sealed, s.Disk.Low = true, true }), time.Minute, 0, []string{Sealed, Behind, DiskFull}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := readiness(tt.st, tt.late, tt.silent)
			var got []string
			for _, reason := range r.Reasons {
				got = append(got, reason.Reason)
				if reason.Text == "" {
					t.Errorf("%s says nothing", reason.Reason)
				}
			}
			if len(got) != len(tt.want) || r.Ready != (len(tt.want) == 0) {
				t.Fatalf("got %v (ready %v), want %v", got, r.Ready, tt.want)
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Errorf("got %v, want %v", got, tt.want)
				}
			}
		})
	}
}
