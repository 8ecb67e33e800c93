package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A node whose disk fills up must stop writing before a write fails: a failed append ends a leader's term with outcomes
// unknown, a failed flush of the state ends the process, and neither starts again until somebody has made room.
//
// So some room is reserved. Half of it is a file that really takes it, which is what is left when another program fills
// the file system from one moment to the next; the other half is a mark. avail is what is free, that file included:
//
//	avail < reserve       low: a leader hands over to a voter with room and meanwhile goes on; if there is none, it
//	                      refuses records in so many words, before anything is proposed. A follower goes on following.
//	free  < reserve / 8   the file is given up: its room is what the node lives on from here
//	avail < reserve / 4   full: commands are not appended any more. Raft asks again, nothing was acknowledged. Votes and
//	                      the entries of a term's begin, a few bytes each, still are: the node goes on voting.
//	avail > reserve * 9/8 all is well again, and the file comes back
//
// A look costs microseconds (statfs). There is one every diskEvery, for what other programs write, and one behind every
// sixty-fourth of the reserve that is appended to the log: a record goes to the log, the state's own log and its tables, so
// what lies between two looks is less than an eighth of the reserve, however fast the disk is.
const (
	diskEvery   = 250 * time.Millisecond
	diskHandOut = 2 * time.Second // between two tries to hand leadership on
)

// Defaults of Config.DiskReserve, of a server.
const (
	DefaultReserve = 256 << 20
	leastReserve   = 16 << 20
)

// ErrDiskFull says that the leader's disk has nearly no room left. Nothing was proposed.
var ErrDiskFull = errors.New("the disk of the node that leads is nearly full, and no other voter has room: free some space where its data_dir lies, and it goes on by itself")

// DiskStatus is how much room the data directory has.
type DiskStatus struct {
	Free    uint64 // bytes that this process may still write, what it has set aside included
	Total   uint64 // of the file system
	Reserve uint64 // bytes below which the node takes no writes; 0: it does not look
	Low     bool   // below the reserve: this node does not lead
	Full    bool   // nearly nothing left: it does not follow either
}

// Say is for operators.
func (d DiskStatus) Say() string {
	return fmt.Sprintf("%d MiB are free where data_dir lies, and %d MiB are reserved: free some space there; this node goes on by itself then",
		d.Free>>20, d.Reserve>>20)
}

// disk watches the file system of the data directory.
type disk struct {
	dir     string
	ballast string // the file that holds half of the reserve
	reserve uint64
	log     *slog.Logger
	room    func(dir string) (free, total uint64, err error)

	mu     sync.Mutex // one look at a time
	held   uint64     // bytes of the ballast
	failed bool       // the last look did

	appended atomic.Int64 // bytes since the last look behind an append

	status  atomic.Pointer[DiskStatus]
	refuses atomic.Bool // records: nobody could take over
}

// openDisk looks for the first time, which may already have to make room for opening the state. reserve 0: it never looks.
func openDisk(dir, ballast string, reserve uint64, log *slog.Logger) *disk {
	d := &disk{dir: dir, ballast: ballast, reserve: reserve, log: log, room: room}
	d.status.Store(&DiskStatus{})
	if reserve == 0 {
		if err := os.Remove(ballast); err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.Warn("the reserved space of an earlier configuration stays", "file", ballast, "error", err)
		}
		return d
	}
	if info, err := os.Stat(ballast); err == nil {
		d.held = allocated(info)
	}
	if _, total, err := d.room(dir); err == nil && total/20 < d.reserve {
		// A reserve that is most of a small file system would leave no room to work in.
		d.reserve = min(d.reserve, max(total/20, leastReserve))
		log.Info("less disk space is reserved than configured, because the file system is small", "reserve_mib", d.reserve>>20)
	}
	d.look()
	return d
}

// Status is what the last look saw.
func (d *disk) Status() DiskStatus { return *d.status.Load() }

// look measures, and keeps or gives up the ballast.
func (d *disk) look() DiskStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.Status()
	if d.reserve == 0 {
		return was
	}
	free, total, err := d.room(d.dir)
	if err != nil {
		if !d.failed {
			d.log.Warn("the free space of data_dir cannot be read", "error", err)
		}
		d.failed = true
		return was
	}
	d.failed = false
	if d.held > 0 && free < d.reserve/8 {
		if err := os.Remove(d.ballast); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.log.Error("the reserved space cannot be given up", "file", d.ballast, "error", err)
		} else {
			free, d.held = free+d.held, 0
			d.log.Warn("this node lives on its reserved disk space now")
		}
	}
	now := DiskStatus{Free: free + d.held, Total: total, Reserve: d.reserve}
	mark := d.reserve
	if was.Low {
		mark += d.reserve / 8 // or it would come and go with every table that is removed
	}
	now.Low = now.Free < mark
	now.Full = now.Free < d.reserve/4 || was.Full && now.Free < d.reserve*3/8
	switch {
	case !now.Low && d.held == 0:
		d.hold()
	case now.Low && !was.Low:
		d.log.Error("the disk is nearly full: this node does not lead until there is room", "free_mib", now.Free>>20, "reserve_mib", d.reserve>>20, "dir", d.dir)
	}
	if was.Low && !now.Low {
		d.log.Info("there is room on the disk again", "free_mib", now.Free>>20)
	}
	if now.Full && !was.Full {
		d.log.Error("there is almost nothing left on the disk: this node takes no entries of the log until there is room", "free_mib", now.Free>>20)
	}
	if !now.Low {
		d.refuses.Store(false)
	}
	d.status.Store(&now)
	return now
}

// hold makes the ballast. Where the file system cannot allocate, the mark alone has to do.
func (d *disk) hold() {
	f, err := os.OpenFile(d.ballast, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = errors.Join(allocate(f, d.reserve/2), f.Close())
	}
	if err != nil {
		_ = os.Remove(d.ballast)
		d.log.Debug("no space can be set aside on this file system", "error", err)
		return
	}
	d.held = d.reserve / 2
}

// take says whether commands of so many bytes may be appended to the log: nil, or why not.
func (d *disk) take(size int) error {
	if d.appended.Add(int64(size)) > int64(d.reserve/64) {
		d.appended.Store(0)
		d.look()
	}
	if d.Status().Full {
		return fmt.Errorf("nothing is appended: %s", d.Status().Say())
	}
	return nil
}

// fits says whether so many bytes may be written at once, such as a snapshot that is received.
func (d *disk) fits(size int64) error {
	if d.reserve == 0 {
		return nil
	}
	if s := d.look(); uint64(max(size, 0)) > s.Free-min(s.Free, d.reserve/2) {
		return fmt.Errorf("%d MiB more do not fit: %s", size>>20, s.Say())
	}
	return nil
}

// diskLoop looks until the node closes, and hands leadership on while there is no room here.
func (n *Node) diskLoop() {
	if n.disk.reserve == 0 {
		return
	}
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	var tried time.Time
	for {
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return
		}
		if s := n.disk.look(); !s.Low || !n.Leading() {
			continue
		}
		if time.Since(tried) < diskHandOut {
			continue
		}
		err := n.leaveForRoom()
		tried = time.Now()
		n.disk.refuses.Store(err != nil && n.IsLeader())
	}
}

// leaveForRoom hands leadership to a voter that has room, or says that there is none.
func (n *Node) leaveForRoom() error {
	ctx, cancel := context.WithTimeout(n.ctx, 10*time.Second)
	defer cancel()
	if len(n.voters()) < 2 {
		return ErrDiskFull
	}
	return n.transfer(ctx, "the disk is nearly full", "")
}
