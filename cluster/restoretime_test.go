package cluster_test

import (
	"errors"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
)

// A clock is taken at its word from when the newest time is known until two days later. Beyond that somebody who sees
// another clock has to agree with it.
func TestCheckRestoreTime(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	backup := time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		clock   time.Duration // after the backup
		outside time.Duration // the checkpoint's; 0: there is none
		said    time.Duration // 0: nothing
		refused bool
		begins  time.Duration
	}{
		"an hour old":                          {clock: time.Hour, begins: time.Hour},
		"two days old":                         {clock: 2 * day, begins: 2 * day},
		"a second of the future":               {clock: -time.Second},
		"an hour of the future":                {clock: -time.Hour, refused: true},
		"days of the future":                   {clock: -5 * day, refused: true},
		"days of the future, and it is so":     {clock: -5 * day, said: -5*day - time.Minute},
		"three days old":                       {clock: 3 * day, refused: true},
		"three days old, and it is so":         {clock: 3 * day, said: 3*day + time.Minute, begins: 3 * day},
		"three days old, by this clock only":   {clock: 3 * day, said: day, refused: true},
		"fine, but somebody says otherwise":    {clock: time.Hour, said: 2 * time.Hour, refused: true},
		"old, with a checkpoint of yesterday":  {clock: 30 * day, outside: 29 * day, begins: 30 * day},
		"old, with a checkpoint as old":        {clock: 30 * day, outside: time.Hour, refused: true},
		"before the checkpoint":                {clock: day, outside: 2 * day, refused: true},
		"a checkpoint from before the backup":  {clock: 3 * day, outside: -40 * day, refused: true},
		"years ahead, and nobody knows better": {clock: 4000 * day, refused: true},
	} {
		clock := backup.Add(test.clock)
		var head *cluster.Head
		if test.outside != 0 {
			head = &cluster.Head{Time: backup.Add(test.outside).UnixMilli()}
		}
		var said time.Time
		if test.said != 0 {
			said = backup.Add(test.said)
		}
		got, err := cluster.CheckRestoreTime(clock, backup.UnixMilli(), head, said)
		if errors.Is(err, cluster.ErrRestoreTime) != test.refused || err != nil && !test.refused {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && !got.Begins.Equal(backup.Add(test.begins)) {
			t.Errorf("%s: it goes on at %s", name, got.Begins)
		}
		if got.Age != test.clock {
			t.Errorf("%s: %s old", name, got.Age)
		}
	}
}
