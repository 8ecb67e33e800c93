package cluster

import (
	"errors"
	"fmt"
	"time"
)

// The time at a restore. One machine decides it: there is no majority of clocks to ask yet, and cluster time never goes
// back. A clock that is days ahead would end everything that lasts for a time, for good; one that is behind lets nothing
// end until it has caught up. What is known for certain is that it was once as late as the backup, and as the checkpoint
// kept outside.

const (
	// restoreAhead is how long after the newest time that is known a clock is taken at its word.
	restoreAhead = 48 * time.Hour
	// restoreBehind is how long before it: clocks differ.
	restoreBehind = time.Minute
	// saidWithin is how exactly somebody who looks at another clock tells the time.
	saidWithin = 10 * time.Minute
)

// ErrRestoreTime says that a restore would go on at a time that nobody has vouched for.
var ErrRestoreTime = errors.New("the backup was not restored, and nothing was changed: what time is it?")

// RestoreTime is when a restored cluster goes on.
type RestoreTime struct {
	Backup time.Time     // cluster time in the backup
	Clock  time.Time     // of this machine
	Age    time.Duration // of the backup, by this clock; negative: it is of this clock's future
	Begins time.Time     // cluster time from now on: the later of the two
}

// CheckRestoreTime holds this machine's clock against what is known, and against what somebody says who looked at another
// clock; zero: nobody did. Whoever said it is believed where the two agree.
func CheckRestoreTime(clock time.Time, backup int64, head *Head, said time.Time) (RestoreTime, error) {
	t := RestoreTime{Backup: time.UnixMilli(backup), Clock: clock, Age: clock.Sub(time.UnixMilli(backup)), Begins: clock}
	if t.Age < 0 {
		t.Begins = t.Backup
	}
	known, of := t.Backup, "the backup is"
	if head != nil && head.Time > backup {
		known, of = time.UnixMilli(head.Time), "the checkpoint kept outside is"
	}
	show := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	ahead := clock.Sub(known)
	switch {
	case !said.IsZero() && clock.Sub(said).Abs() > saidWithin:
		return t, fmt.Errorf("%w this machine's clock says %s, and you said %s: set the clock", ErrRestoreTime, show(clock), show(said))
	case !said.IsZero():
		return t, nil
	case ahead < -restoreBehind:
		return t, fmt.Errorf("%w this machine's clock says %s, and %s of %s, which is later: set the clock. If it is right (the old "+
			"cluster's clocks were ahead), say what another clock shows (--time %s): nothing expires until this clock has come that far",
			ErrRestoreTime, show(clock), of, show(known), "2006-01-02T15:04Z")
	case ahead > restoreAhead:
		return t, fmt.Errorf("%w this machine's clock says %s, %s after the newest time that is known (%s of %s). If it were wrong, what "+
			"lasts for a time would end, for good: say what another clock shows (--time %s)", ErrRestoreTime, show(clock), Days(ahead), of, show(known), "2006-01-02T15:04Z")
	}
	return t, nil
}

// Days is a long duration as people say it.
func Days(d time.Duration) string {
	switch {
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}
