package disk

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"syscall"
)

const page = 4096

// unsynced is what a file was at its last fsync, as far as it has been written to since. Pages go by their number, and are
// shorter at the end of the file.
//
// An fsync that fails dooms what it was to keep: Linux takes such pages for written, so that later fsyncs succeed without
// them (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020). Only writing them again helps.
type unsynced struct {
	file   *os.File
	size   int64
	pages  map[int64][]byte
	doomed map[int64][]byte
}

// touch notes that [from, to) of a file is about to change. The caller holds mu.
func (d *Disk) touch(f *os.File, from, to int64) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	ino := st.Sys().(*syscall.Stat_t).Ino
	u := d.files[ino]
	if u == nil {
		own, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		u = &unsynced{file: own, size: st.Size(), pages: map[int64][]byte{}, doomed: map[int64][]byte{}}
		d.files[ino] = u
	}
	for n := from / page; n*page < to; n++ {
		if _, known := u.pages[n]; known {
			continue
		}
		if old, doomed := u.doomed[n]; doomed {
			u.pages[n] = old
			delete(u.doomed, n)
			continue
		}
		old := make([]byte, page)
		got, err := u.file.ReadAt(old, n*page)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		u.pages[n] = old[:got]
	}
	return nil
}

// synced notes that a file is on the disk as it is now. The caller holds mu.
func (d *Disk) synced(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	ino := st.Sys().(*syscall.Stat_t).Ino
	u := d.files[ino]
	if u == nil {
		return nil
	}
	if len(u.doomed) > 0 {
		u.size = st.Size()
		clear(u.pages)
		return nil
	}
	delete(d.files, ino)
	return u.file.Close()
}

// failed notes an fsync that failed. The caller holds mu.
func (d *Disk) failed(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if u := d.files[st.Sys().(*syscall.Stat_t).Ino]; u != nil {
		maps.Copy(u.doomed, u.pages)
		clear(u.pages)
	}
	return nil
}

// revert puts back the pages that lost says yes to, and says how many.
func (u *unsynced) revert(lost func() bool) (pages int, err error) {
	st, err := u.file.Stat()
	if err != nil {
		return 0, err
	}
	size := st.Size()
	if size != u.size && lost() {
		if err := u.file.Truncate(u.size); err != nil {
			return 0, err
		}
		size = u.size
		pages++
	}
	all := maps.Clone(u.pages)
	maps.Copy(all, u.doomed)
	for _, n := range slices.Sorted(maps.Keys(all)) {
		if _, doomed := u.doomed[n]; n*page >= size || !doomed && !lost() {
			continue
		}
		old := append(slices.Clone(all[n]), make([]byte, page-len(all[n]))...)
		if _, err := u.file.WriteAt(old[:min(page, size-n*page)], n*page); err != nil {
			return pages, err
		}
		pages++
	}
	return pages, nil
}

// change is one change of names that is not synced yet.
type change struct {
	dirs   []string // whose fsync keeps it
	undo   func() error
	settle func() // it is kept
}

// changed notes a change. The caller holds mu.
func (d *Disk) changed(undo func() error, settle func(), dirs ...string) {
	if settle == nil {
		settle = func() {}
	}
	d.names = append(d.names, change{dirs, undo, settle})
}

// syncedDir notes an fsync of a directory: what changed in it is kept, and whatever changed before that. The caller
// holds mu.
func (d *Disk) syncedDir(dir string) {
	last := -1
	for i, c := range d.names {
		if slices.Contains(c.dirs, dir) {
			last = i
		}
	}
	for _, c := range d.names[:last+1] {
		c.settle()
	}
	d.names = slices.Delete(d.names, 0, last+1)
}
