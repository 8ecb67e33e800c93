package keeper

import (
	"context"
	"errors"
	"time"

	"github.com/hizo/hizo/cluster"
)

// Pauses of the duty.
const (
	look         = time.Second // between two looks at the time
	firstPause   = time.Minute // after a backup that failed; doubled each time
	slowestPause = time.Hour
)

var _ cluster.Duty = (*Keeper)(nil).Duty

// Duty makes backups on schedule while its node leads (cluster.Duty). When the newest one that was read back
// was made is in the state, so that a new leader neither repeats it nor leaves one out.
func (k *Keeper) Duty(ctx context.Context, n *cluster.Node, _ uint64) {
	if k.schedule == nil {
		return
	}
	began := k.cfg.Clock()
	pause, not := firstPause, time.Time{} // no try before
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !n.Leading() || n.Status().Sealed || k.cfg.Clock().Before(not) || !k.due(n, began) {
			continue
		}
		_, err := k.Create(ctx, n)
		switch {
		case err == nil:
			pause, not = firstPause, time.Time{}
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrBusy):
		default:
			k.log.Error("the scheduled backup failed", "error", err, "again_in", pause)
			not, pause = k.cfg.Clock().Add(pause), min(2*pause, slowestPause)
		}
	}
}

// due says whether the schedule has come since the newest backup that is kept. A cluster that has none gets its first one at once.
func (k *Keeper) due(n *cluster.Node, began time.Time) bool {
	now := k.cfg.Clock()
	last, _ := n.Store().LastBackup()
	if last.Kept == 0 {
		return now.Sub(began) >= look
	}
	next, ok := k.schedule.Next(time.UnixMilli(last.Kept))
	return ok && !next.After(now)
}
