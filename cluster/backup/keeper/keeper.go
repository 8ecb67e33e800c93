// Package keeper makes backups: when somebody asks for one, and on schedule while its node leads. It keeps them in one
// place, reads each back after it was written, and drops old ones.
//
// What it has to know after a fail-over is in the state: when the newest backup was made (fsm.Backup). Which node's
// place a backup lies in follows from who led; a directory that all nodes share, or a bucket, is best. A crash leaves
// at most an unfinished file in the place, never one under a backup's name.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/backup"
	"github.com/hizo/hizo/cluster/rotate/schedule"
	"github.com/hizo/hizo/fsm"
)

// Config of a Keeper.
type Config struct {
	Place backup.Place
	// Schedule is when the leader makes backups by itself; the zero Spec: never.
	Schedule schedule.Spec
	// A backup is dropped when there are Keep newer ones of this cluster and it is older than KeepFor. Both 0: never.
	Keep    int
	KeepFor time.Duration

	// Check reads a backup to its end and says whether it is genuine.
	Check   func(r io.Reader, store *fsm.Store) error
	Version string // of this program, for the files
	Clock   func() time.Time
	Logger  *slog.Logger
}

// ErrBusy says that one backup is under way.
var ErrBusy = errors.New("a backup is being made already: wait for it (hizo backup list)")

// PlaceError says that the place for backups did not do what it has to.
type PlaceError struct{ Err error }

func (e *PlaceError) Error() string { return e.Err.Error() }

func (e *PlaceError) Unwrap() error { return e.Err }

// placed tells errors of the place from those of the cluster.
type placed struct{ backup.File }

func (p placed) Write(b []byte) (int, error) {
	n, err := p.File.Write(b)
	if err != nil {
		err = &PlaceError{err}
	}
	return n, err
}

// Keeper makes and keeps backups of one node's cluster.
type Keeper struct {
	cfg      Config
	log      *slog.Logger
	schedule *schedule.Schedule // nil: none

	busy sync.Mutex // held while one is made

	mu     sync.Mutex
	status Status
}

// Status is what this node knows of its backups since it started.
type Status struct {
	Made, Failed uint64
	LastError    string // of the newest try; empty: it went well
	LastTook     time.Duration
}

// New checks the schedule.
func New(cfg Config) (*Keeper, error) {
	k := &Keeper{cfg: cfg, log: cfg.Logger}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	k.log = k.log.With("component", "backup")
	if k.cfg.Clock == nil {
		k.cfg.Clock = time.Now
	}
	if cfg.Schedule != (schedule.Spec{}) {
		s, err := schedule.Parse(cfg.Schedule)
		if err != nil {
			return nil, err
		}
		k.schedule = s
	}
	return k, nil
}

// Status returns a copy.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status
}

// Place names where backups are kept.
func (k *Keeper) Place() string { return k.cfg.Place.String() }

// Create makes a backup now.
func (k *Keeper) Create(ctx context.Context, n *cluster.Node) (fsm.Backup, error) {
	if !k.busy.TryLock() {
		return fsm.Backup{}, ErrBusy
	}
	defer k.busy.Unlock()
	start := time.Now()
	made, err := k.create(ctx, n)
	k.mu.Lock()
	k.status.LastTook, k.status.LastError = time.Since(start), ""
	if err != nil {
		k.status.Failed++
		k.status.LastError = err.Error()
	} else {
		k.status.Made++
	}
	k.mu.Unlock()
	if err != nil {
		return made, err
	}
	k.log.Info("backup made", "name", made.Name, "bytes", made.Bytes, "took", time.Since(start).Round(time.Millisecond))
	if err := k.prune(ctx, n, made.Name); err != nil {
		k.log.Error("old backups could not be dropped; it is tried again with the next one", "error", err)
	}
	return made, nil
}

func (k *Keeper) create(ctx context.Context, n *cluster.Node) (fsm.Backup, error) {
	cl, ok := n.Store().Cluster()
	if !ok {
		return fsm.Backup{}, cluster.ErrNotInitialised
	}
	at := n.Store().Position()
	name := fmt.Sprintf("%s%s-%d%s", prefix(cl), k.cfg.Clock().UTC().Format("20060102T150405Z"), at.Index, backup.Suffix)
	file, err := k.cfg.Place.Create(ctx, name)
	if err != nil {
		return fsm.Backup{}, &PlaceError{err}
	}
	made, err := n.Backup(ctx, name, k.cfg.Version, placed{file})
	if err != nil {
		file.Abort()
		return fsm.Backup{}, err
	}
	if err := file.Commit(); err != nil {
		file.Abort()
		return fsm.Backup{}, &PlaceError{fmt.Errorf("keep the backup: %w", err)}
	}
	if err := k.check(ctx, n, name); err != nil {
		// It would count among those to keep.
		err = errors.Join(err, k.cfg.Place.Remove(context.WithoutCancel(ctx), name))
		return fsm.Backup{}, &PlaceError{fmt.Errorf("the backup %s was written and does not verify when it is read back: %w", name, err)}
	}
	if err := n.BackupKept(ctx, made); err != nil {
		return fsm.Backup{}, fmt.Errorf("the backup %s is kept and verifies, but the cluster could not be told: %w", name, err)
	}
	return made, nil
}

// prefix of the names of a cluster's backups.
func prefix(cl fsm.Cluster) string { return fmt.Sprintf("hizo-%x-", cl.ID[:4]) }

func (k *Keeper) check(ctx context.Context, n *cluster.Node, name string) error {
	if k.cfg.Check == nil {
		return nil
	}
	r, err := k.cfg.Place.Open(ctx, name)
	if err != nil {
		return err
	}
	return errors.Join(k.cfg.Check(r, n.Store()), r.Close())
}

// Kept is a backup in the place.
type Kept struct {
	backup.Entry
	Header backup.Header
	Err    error // why its header is unreadable
}

// List reads the headers of what is kept, newest first. They are not verified.
func (k *Keeper) List(ctx context.Context) ([]Kept, error) {
	list, err := k.cfg.Place.List(ctx)
	if err != nil {
		return nil, &PlaceError{err}
	}
	out := make([]Kept, 0, len(list))
	for _, e := range list {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := k.header(ctx, e.Name)
		out = append(out, Kept{Entry: e, Header: h, Err: err})
	}
	slices.SortFunc(out, func(a, b Kept) int {
		if a.Header.Created != b.Header.Created {
			return int(max(-1, min(1, b.Header.Created-a.Header.Created)))
		}
		return strings.Compare(b.Name, a.Name)
	})
	return out, nil
}

func (k *Keeper) header(ctx context.Context, name string) (backup.Header, error) {
	r, err := k.cfg.Place.Open(ctx, name)
	if err != nil {
		return backup.Header{}, err
	}
	defer r.Close()
	in, err := backup.NewReader(r)
	if err != nil {
		return backup.Header{}, err
	}
	return in.Header(), nil
}

// prune drops what is too old, with a record of it before. Only files that say in name and header that they are of this
// cluster's are touched, and never the one that was just made.
func (k *Keeper) prune(ctx context.Context, n *cluster.Node, made string) error {
	if k.cfg.Keep <= 0 && k.cfg.KeepFor <= 0 {
		return nil
	}
	list, err := k.List(ctx)
	if err != nil {
		return err
	}
	cl, _ := n.Store().Cluster()
	mine := slices.DeleteFunc(list, func(e Kept) bool {
		return e.Err != nil || !strings.HasPrefix(e.Name, prefix(cl)) || e.Header.Cluster != fmt.Sprintf("%x", cl.ID)
	})
	oldest := k.cfg.Clock().Add(-k.cfg.KeepFor).UnixMilli()
	for i, e := range mine {
		if i < k.cfg.Keep || k.cfg.KeepFor > 0 && e.Header.Created > oldest || e.Name == made {
			continue
		}
		_, err := n.Propose(ctx, fsm.Command{
			Kind: fsm.KindRecord, Principal: "node/" + n.ID(),
			Audits: []fsm.Audit{{Action: "backup.drop", Resource: "cluster", Decision: fsm.Allowed, Detail: "name=" + e.Name}},
		})
		if err == nil {
			err = k.cfg.Place.Remove(ctx, e.Name)
		}
		if err != nil {
			return err
		}
		k.log.Info("old backup dropped", "name", e.Name)
	}
	return nil
}
