package fault

import (
	"bytes"
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/hizo/hizo/chaos/disk"
	"github.com/hizo/hizo/chaos/lab"
)

// disks are the faults of what a node's data lie on.
func disks() []Fault {
	return []Fault{
		{Name: "disk-stall", Needs: Disks, Set: diskStall},
		{Name: "disk-write-errors", Needs: Disks, Set: func(ctx context.Context, s *Scene) (Lift, error) {
			share := 0.02 + 0.5*s.Rand.Float64()*s.Rand.Float64()
			return badDisk(ctx, s, disk.Trouble{FailWrite: share, FailSync: share})
		}},
		{Name: "disk-read-errors", Needs: Disks, Set: func(ctx context.Context, s *Scene) (Lift, error) {
			return badDisk(ctx, s, disk.Trouble{FailRead: 0.3})
		}},
		{Name: "disk-full", Needs: Disks, Set: func(ctx context.Context, s *Scene) (Lift, error) {
			return badDisk(ctx, s, disk.Trouble{Full: true})
		}},
		{Name: "power-loss", Needs: Disks, Set: func(_ context.Context, s *Scene) (Lift, error) { return powerLoss(s, s.any()) }},
		{Name: "power-loss-all", Needs: Disks, Set: func(_ context.Context, s *Scene) (Lift, error) { return powerLoss(s, s.C.Nodes...) }},
	}
}

// victim is the leader as often as another.
func (s *Scene) victim(ctx context.Context) *lab.Node {
	if s.Rand.IntN(2) == 0 {
		return s.leader(ctx)
	}
	return s.any()
}

// badDisk has one node's disk misbehave. The node may end, with a sentence that says why; it is started again when the
// disk is good.
func badDisk(ctx context.Context, s *Scene, t disk.Trouble) (Lift, error) {
	n := s.victim(ctx)
	s.Log("%s: %+v", n.Name, t)
	n.MayEnd(true)
	from, ended := len(n.LogText()), n.Excused()
	count := countsOf(n.Disk)
	n.Disk.Set(t)
	return func(context.Context) error {
		n.Disk.Set(disk.Trouble{})
		for what, times := range countsOf(n.Disk) {
			s.Took(int(times-count[what]), what)
		}
		return s.over(n, from, ended)
	}, nil
}

// over ends the time in which a node may end by itself: when it did, its last word has to be an error in the log.
func (s *Scene) over(n *lab.Node, from, ended int) error {
	sleep(context.Background(), 500*time.Millisecond) // for one that is about to end
	if n.Excused() > ended {
		s.Also(n.Excused()-ended, "the node stopped")
		s.saysWhy(n, from)
	}
	n.MayEnd(false)
	return n.Start()
}

// saysWhy demands that a node's log says why it has ended, in words and not by a stack.
func (s *Scene) saysWhy(n *lab.Node, from int) {
	said := n.LogText()
	if said = said[min(from, len(said)):]; !bytes.Contains(said, []byte("level=ERROR")) && !bytes.Contains(said, []byte("hizod: ")) {
		s.wrong("%s ended without saying why", n.Name)
	}
}

func countsOf(d *disk.Disk) map[string]int64 {
	c := &d.Counts
	return map[string]int64{
		"calls that stalled": c.Stalled.Load(), "writes that failed": c.FailedWrites.Load(), "syncs that failed": c.FailedSyncs.Load(),
		"reads that failed": c.FailedReads.Load(), "writes that found no space": c.Full.Load(),
	}
}

// diskStall is shorter or longer than what the log waits for its disk (5 s).
func diskStall(ctx context.Context, s *Scene) (Lift, error) {
	lift, err := badDisk(ctx, s, disk.Trouble{Stall: true})
	longer := time.Duration(0)
	if s.Rand.IntN(2) == 0 {
		longer = 6 * time.Second
	}
	return func(ctx context.Context) error {
		sleep(ctx, longer)
		return lift(ctx)
	}, err
}

// powerLoss takes back what the nodes have not synced. They have to come up by themselves with all that they have
// acknowledged.
func powerLoss(s *Scene, nodes ...*lab.Node) (Lift, error) {
	var errs []error
	for _, n := range nodes {
		errs = append(errs, n.End(syscall.SIGKILL))
	}
	for _, n := range nodes {
		pages, names, err := n.Disk.PowerLoss(s.Rand)
		errs = append(errs, err)
		s.Also(1, "machines lost their power") // one that lost nothing by it was killed, no more
		s.Took(pages, "pages lost")
		s.Took(names, "names lost")
	}
	return func(context.Context) error {
		var errs []error
		for _, n := range nodes {
			errs = append(errs, n.Start())
		}
		return errors.Join(errs...)
	}, errors.Join(errs...)
}
