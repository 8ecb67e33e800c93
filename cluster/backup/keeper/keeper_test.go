package keeper_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/backup"
	"github.com/hizo/hizo/cluster/backup/keeper"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/cluster/rotate/schedule"
	"github.com/hizo/hizo/fsm"
)

func open(t *testing.T, change func(*keeper.Config)) (*keeper.Keeper, backup.Dir) {
	t.Helper()
	dir, err := backup.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cfg := keeper.Config{Place: dir, Version: "test"}
	if change != nil {
		change(&cfg)
	}
	k, err := keeper.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return k, dir
}

// The schedule goes by what the state says of the newest backup, and old ones are dropped on record.
func TestScheduleAndRetention(t *testing.T) {
	clock := &clustertest.Clock{}
	k, dir := open(t, func(c *keeper.Config) {
		c.Schedule, c.Keep, c.Clock = schedule.Spec{Every: time.Hour}, 2, clock.Now
	})
	c := clustertest.Start(t, clustertest.Options{Nodes: 1, Clock: clock, Duties: func(string) []cluster.Duty { return []cluster.Duty{k.Duty} }})
	store := c.Nodes[0].Store()
	for i := range uint64(3) {
		c.Await("a scheduled backup", func() bool { return k.Status().Made == i+1 })
		clock.Advance(2 * time.Minute)
		c.Await("old ones to be dropped", func() bool {
			list, err := k.List(t.Context())
			return err == nil && len(list) <= 2
		})
		if made := k.Status().Made; made != i+1 {
			t.Fatalf("%d were made, the schedule says %d", made, i+1)
		}
		clock.Advance(time.Hour)
	}
	c.Await("the oldest to be dropped", func() bool {
		list, err := dir.List(t.Context())
		return err == nil && len(list) == 2 && dropped(t, store)
	})
}

func dropped(t *testing.T, store *fsm.Store) bool {
	for r, err := range store.AuditRecords(0, store.AuditSize()) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Action == "backup.drop" && strings.HasPrefix(r.Detail, "name=hizo-") {
			return true
		}
	}
	return false
}

// broken is a place that fails at one step.
type broken struct {
	backup.Dir
	create, commit error
	write          error
}

func (b broken) Create(ctx context.Context, name string) (backup.File, error) {
	if b.create != nil {
		return nil, b.create
	}
	f, err := b.Dir.Create(ctx, name)
	return brokenFile{f, b}, err
}

type brokenFile struct {
	backup.File
	b broken
}

func (f brokenFile) Write(p []byte) (int, error) {
	if f.b.write != nil {
		return 0, f.b.write
	}
	return f.File.Write(p)
}

func (f brokenFile) Commit() error {
	if f.b.commit != nil {
		return f.b.commit
	}
	return f.File.Commit()
}

// A place that fails leaves nothing behind, and is told apart from a cluster that refuses.
func TestBrokenPlace(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Nodes: 1})
	full := errors.New("no space left")
	for name, b := range map[string]broken{"create": {create: full}, "write": {write: full}, "commit": {commit: full}} {
		k, dir := open(t, func(c *keeper.Config) {
			b.Dir = c.Place.(backup.Dir)
			c.Place = b
		})
		_, err := k.Create(t.Context(), c.Nodes[0].Node)
		var place *keeper.PlaceError
		if !errors.As(err, &place) || !errors.Is(err, full) || k.Status().Failed != 1 || k.Status().LastError == "" {
			t.Errorf("%s: %v, %+v", name, err, k.Status())
		}
		if left, err := os.ReadDir(strings.TrimPrefix(dir.String(), "directory ")); err != nil || len(left) != 0 {
			t.Errorf("%s left %v, %v", name, left, err)
		}
	}
	k, _ := open(t, func(c *keeper.Config) {
		c.Check = func(io.Reader, *fsm.Store) error { return full }
	})
	if _, err := k.Create(t.Context(), c.Nodes[0].Node); !errors.Is(err, full) || !strings.Contains(err.Error(), "does not verify when it is read back") {
		t.Errorf("a file that reads back otherwise: %v", err)
	}
}

// The record of a backup is in the state before its file is whole. One that did not land is tried again all the same.
func TestFailedBackupIsTriedAgain(t *testing.T) {
	t.Parallel()
	clock := &clustertest.Clock{}
	b := broken{commit: errors.New("bucket gone")}
	k, _ := open(t, func(c *keeper.Config) {
		b.Dir = c.Place.(backup.Dir)
		c.Place, c.Schedule, c.Clock = b, schedule.Spec{Every: 24 * time.Hour}, clock.Now
	})
	c := clustertest.Start(t, clustertest.Options{Nodes: 1, Clock: clock, Duties: func(string) []cluster.Duty { return []cluster.Duty{k.Duty} }})
	c.Await("a failure", func() bool { return k.Status().Failed == 1 })
	if b, ok := c.Nodes[0].Store().LastBackup(); !ok || b.Kept != 0 {
		t.Errorf("this test is about one that is on record and not kept: %+v", b)
	}
	clock.Advance(time.Minute)
	c.Await("another try", func() bool { return k.Status().Failed == 2 })
}

// What does not verify when it is read back is not kept: it would count among those to keep.
func TestUnreadableBackupIsRemoved(t *testing.T) {
	t.Parallel()
	cut := errors.New("it was cut")
	var says error
	k, dir := open(t, func(c *keeper.Config) {
		c.Check = func(io.Reader, *fsm.Store) error { return says }
	})
	c := clustertest.Start(t, clustertest.Options{Nodes: 1})
	good, err := k.Create(t.Context(), c.Leader().Node)
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Remove(t.Context(), good.Name); err != nil {
		t.Fatal(err)
	}
	says = cut
	if _, err := k.Create(t.Context(), c.Leader().Node); !errors.Is(err, cut) {
		t.Errorf("it counts as made: %v", err)
	}
	if b, _ := c.Leader().Store().LastBackup(); b.Kept != good.Time || b.KeptBytes != good.Bytes || b.Seq == good.Seq {
		t.Errorf("%+v is the newest that is kept, want that of %+v", b, good)
	}
	if list, err := dir.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("kept: %v, %v", list, err)
	}
}
