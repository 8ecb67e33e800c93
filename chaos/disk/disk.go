// Package disk is a directory that behaves like a bad disk when it is told to: it stalls, fails, is full, and forgets what
// was not synced. It is a FUSE file system over another directory, so the program on it is the one that is delivered, and
// whatever that program does to files counts, whichever library does it.
//
// What a power loss leaves, as a file system with a journal promises no more (fsync(2), and ext4's data=ordered for the
// second):
//
//   - of a file, every page that was written since its last fsync is as it was then, or as it is now, each page by itself;
//     a file that grew may keep its new size with the lost pages empty, or its old size.
//   - of names (made, renamed, removed), those up to some moment are kept and all later ones are lost; what was there at an
//     fsync of the directory is kept.
package disk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Trouble is what a disk does wrong; the zero value is a good disk.
type Trouble struct {
	Stall     bool    // nothing that writes, or syncs, comes back
	FailWrite float64 // share of writes that end with EIO
	FailSync  float64 // share of fsyncs that end with EIO; what they were to keep is not kept
	FailRead  float64 // share of reads that end with EIO
	Full      bool    // ENOSPC for whatever takes space
}

// Counts of what a disk has done to its program so far.
type Counts struct {
	Writes, Syncs, Stalled, FailedWrites, FailedSyncs, FailedReads, Full atomic.Int64
	LostPages, LostNames                                                 atomic.Int64
}

// Disk is one directory, mounted.
type Disk struct {
	Counts Counts

	backing, trash, at string

	mu      sync.Mutex
	trouble Trouble
	calm    chan struct{} // closed when a stall ends
	files   map[uint64]*unsynced
	names   []change
	kept    int // how many things lie in trash, ever
	rng     *rand.Rand
}

// Works says whether this machine, and this user, can have such disks.
func Works(scratch string) error {
	backing, at := filepath.Join(scratch, "backing"), filepath.Join(scratch, "at")
	if err := errors.Join(os.MkdirAll(backing, 0o700), os.MkdirAll(at, 0o700)); err != nil {
		return err
	}
	d, err := Mount(backing, at)
	if err != nil {
		return err
	}
	return d.Close()
}

// Mount mounts at the directory at what lies in the directory backing; both exist.
func Mount(backing, at string) (*Disk, error) {
	d := &Disk{
		backing: backing, trash: backing + ".trash", at: at, files: map[uint64]*unsynced{},
		rng: rand.New(rand.NewPCG(rand.Uint64(), 0xd15c)), // which of many writes fails decides no seed
	}
	if err := os.MkdirAll(d.trash, 0o700); err != nil {
		return nil, err
	}
	return d, d.mount()
}

func (d *Disk) mount() error {
	root := &fs.LoopbackRoot{Path: d.backing}
	top := &node{LoopbackNode: &fs.LoopbackNode{RootData: root}, d: d}
	root.RootNode = top
	second := time.Second
	_, err := fs.Mount(d.at, top, &fs.Options{
		EntryTimeout: &second, AttrTimeout: &second,
		MountOptions: fuse.MountOptions{FsName: "chaos", Name: "chaos", DirectMountStrict: true, DisableXAttrs: true, MaxWrite: 1 << 20},
	})
	if err != nil {
		return fmt.Errorf("mount a disk at %s: %w", d.at, err)
	}
	return nil
}

// Remount forgets what the kernel has cached, after the backing directory was changed by itself. No program uses the disk.
func (d *Disk) Remount() error {
	return errors.Join(d.Unmount(), d.mount())
}

// Unmount leaves the backing directory as it is. A process that still has files open keeps them; nothing waits for it.
func (d *Disk) Unmount() error {
	if err := unix.Unmount(d.at, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", d.at, err)
	}
	return nil
}

// Set has the disk behave like this from now on.
func (d *Disk) Set(t Trouble) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case t.Stall && d.calm == nil:
		d.calm = make(chan struct{})
	case !t.Stall && d.calm != nil:
		close(d.calm)
		d.calm = nil
	}
	d.trouble = t
}

// enter waits while the disk stalls, and says how it behaves then.
func (d *Disk) enter(cancel <-chan struct{}) (Trouble, syscall.Errno) {
	d.mu.Lock()
	t, calm := d.trouble, d.calm
	d.mu.Unlock()
	if calm == nil {
		return t, 0
	}
	d.Counts.Stalled.Add(1)
	select {
	case <-calm:
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.trouble, 0
	case <-cancel:
		return t, syscall.EINTR
	}
}

func (d *Disk) draw(share float64) bool {
	if share <= 0 {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rng.Float64() < share
}

// PowerLoss takes back what was not synced, as rng decides. The program that wrote it has ended. It says how many pages and
// names were lost.
func (d *Disk) PowerLoss(rng *rand.Rand) (pages, names int, err error) {
	if err := d.Unmount(); err != nil {
		return 0, 0, err
	}
	d.mu.Lock()
	all := rng.IntN(2) == 0 // nothing of it has reached the disk, or some has
	for ino, u := range d.files {
		n, fail := u.revert(func() bool { return all || rng.IntN(2) == 0 })
		pages += n
		err = errors.Join(err, fail, u.file.Close())
		delete(d.files, ino)
	}
	first := 0
	if !all && len(d.names) > 0 {
		first = rng.IntN(len(d.names) + 1)
	}
	for i := len(d.names) - 1; i >= first; i-- {
		err = errors.Join(err, d.names[i].undo())
		names++
	}
	for _, c := range d.names[:first] {
		c.settle()
	}
	d.names = nil
	d.mu.Unlock()
	d.Counts.LostPages.Add(int64(pages))
	d.Counts.LostNames.Add(int64(names))
	return pages, names, errors.Join(err, d.mount())
}

// Forget drops what is known of unsynced data: the backing directory was emptied. No program uses the disk.
func (d *Disk) Forget() error {
	d.mu.Lock()
	for ino, u := range d.files {
		_ = u.file.Close()
		delete(d.files, ino)
	}
	for _, c := range d.names {
		c.settle()
	}
	d.names = nil
	d.mu.Unlock()
	return d.Remount()
}

// Close ends the mount.
func (d *Disk) Close() error {
	d.Set(Trouble{})
	return errors.Join(d.Unmount(), os.RemoveAll(d.trash))
}

// keep puts what lies at path aside, under a second name, until the change that removes it is synced.
func (d *Disk) keep(path string) (string, error) {
	d.kept++
	aside := filepath.Join(d.trash, fmt.Sprint(d.kept))
	return aside, os.Link(path, aside)
}
