package cluster

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/cluster/logstore"
	"github.com/hizo/hizo/fsm"
)

// openStorage opens what is on the disk and lets the state agree with the log and the snapshots before
// Raft sees any of them. NoSnapshotRestoreOnStart is what that agreement says, never a constant: a crash
// between publishing and restoring a received snapshot would otherwise leave a silent hole.
func (n *Node) openStorage(rc *raft.Config, undo *[]func()) error {
	store, err := fsm.Open(fsm.Options{Dir: n.path("state"), Logger: n.cfg.Logger, Halt: n.fatal, Level: n.cfg.Level})
	if _, newer := errors.AsType[*fsm.LevelError](err); newer {
		return err
	}
	if err != nil {
		return fmt.Errorf("open the state: %w (snapshots and log hold all of it: move %s away, nothing else, and start again)", err, n.path("state"))
	}
	n.store = store
	*undo = append(*undo, func() { _ = store.Close() })
	snaps, err := fsm.NewSnapshots(store, fsm.SnapshotOptions{Dir: n.path("snapshots"), Logger: n.cfg.Logger, Room: n.disk.fits})
	if err != nil {
		return fmt.Errorf("open the snapshots: %w", err)
	}
	n.snaps = snaps
	logs, err := logstore.Open(n.path("raft.db"), logstore.Config{
		Snapshot: snaps.Newest, Exit: n.fatal, Logger: n.cfg.Logger, Appends: n.meter.appends, Room: n.disk.take,
	})
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	n.logs = logs
	*undo = append(*undo, func() { _ = logs.Close() })
	if rc.NoSnapshotRestoreOnStart, err = store.Recover(snaps, logs); err != nil {
		return fmt.Errorf("the state on this disk does not agree with its log: %w", err)
	}
	return nil
}

// snapshotLoop takes snapshots by bytes of log; raft itself takes them by entries. Just before, it says
// how many of the newest entries to keep: retention has to outlast a restore, or a follower never catches
// up (hashicorp/raft#452).
func (n *Node) snapshotLoop() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return
		}
		trailing := min(n.logs.EntriesWithin(trailingBytes), maxTrailing)
		reload := n.raft.ReloadableConfig()
		if reload.TrailingLogs != trailing {
			reload.TrailingLogs = trailing
			if err := n.raft.ReloadConfig(reload); err != nil {
				n.log.Warn("trailing logs", "error", err)
			}
		}
		if index, _ := n.snaps.Newest(); n.logs.BytesAfter(index) < n.cfg.SnapshotBytes {
			continue
		}
		if err := n.raft.Snapshot().Error(); err != nil {
			n.meter.snapshotFailures.Add(1)
			n.log.Info("no snapshot now", "error", err)
		}
	}
}
