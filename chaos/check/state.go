package check

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/cluster/logstore"
	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// replica is one node's data directory, opened without the node.
type replica struct {
	node  string
	store *fsm.Store
	logs  *logstore.Store
}

func (r *replica) close() error { return errors.Join(r.store.Close(), r.logs.Close()) }

// openReplica works on a copy: opening changes files.
func openReplica(node, data, scratch string) (_ *replica, err error) {
	dir := filepath.Join(scratch, node)
	if err := os.CopyFS(dir, os.DirFS(data)); err != nil {
		return nil, err
	}
	halted := func(err error) { panic(fmt.Sprintf("check: replica of %s: %v", node, err)) }
	log := slog.New(slog.DiscardHandler)
	store, err := fsm.Open(fsm.Options{Dir: filepath.Join(dir, "state"), Logger: log, Halt: halted})
	if err != nil {
		return nil, err
	}
	snaps, err := fsm.NewSnapshots(store, fsm.SnapshotOptions{Dir: filepath.Join(dir, "snapshots"), Logger: log})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	logs, err := logstore.Open(filepath.Join(dir, "raft.db"), logstore.Config{
		Snapshot: snaps.Newest, Exit: halted, Logger: log,
	})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	if _, err := store.Recover(snaps, logs); err != nil {
		return nil, errors.Join(err, store.Close(), logs.Close())
	}
	return &replica{node, store, logs}, nil
}

// has says whether the log holds the very entry that another replica has applied at this position.
func (r *replica) has(at fsm.Position) bool {
	if at.Index == r.store.Position().Index {
		return true
	}
	var entry raft.Log
	return r.logs.GetLog(at.Index, &entry) == nil && entry.Term == at.Term
}

func (r *replica) replay(to uint64) error {
	for index := r.store.Position().Index + 1; index <= to; index++ {
		var entry raft.Log
		if err := r.logs.GetLog(index, &entry); err != nil {
			return fmt.Errorf("%s: entry %d: %w", r.node, index, err)
		}
		if entry.Type == raft.LogCommand {
			r.store.Apply(&entry)
		}
	}
	return nil
}

// States opens the data directories of nodes that have ended, replays each log to the newest position that any of them
// has applied, and compares what they hold there; each state's own invariants are checked as well. compared is how many
// nodes reached that position: a log may end before it.
func States(data map[string]string, scratch string) (compared int, violations []string) {
	var replicas []*replica
	defer func() {
		for _, r := range replicas {
			_ = r.close()
		}
	}()
	var newest fsm.Position
	for node, dir := range data {
		r, err := openReplica(node, dir, scratch)
		if err != nil {
			violations = append(violations, fmt.Sprintf("state: %s can't be opened: %v", node, err))
			continue
		}
		replicas = append(replicas, r)
		if at := r.store.Position(); at.Index > newest.Index {
			newest = at
		}
	}
	hashes := map[[32]byte]string{}
	for _, r := range replicas {
		if !r.has(newest) {
			continue
		}
		if err := r.replay(newest.Index); err != nil {
			violations = append(violations, fmt.Sprintf("state: %v", err))
			continue
		}
		if err := r.store.Verify(); err != nil {
			violations = append(violations, fmt.Sprintf("state: %s breaks an invariant: %v", r.node, err))
		}
		hash, err := fsmtest.Hash(r.store)
		if err != nil {
			violations = append(violations, fmt.Sprintf("state: %s: %v", r.node, err))
			continue
		}
		compared++
		hashes[hash] += r.node + " "
	}
	if len(hashes) > 1 {
		violations = append(violations, fmt.Sprintf("state: the nodes differ at index %d: %v", newest.Index, hashes))
	}
	return compared, violations
}
