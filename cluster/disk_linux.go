package cluster

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// room is what a process without privileges may still write below dir, and the size of the file system.
func room(dir string) (free, total uint64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return s.Bavail * uint64(s.Frsize), s.Blocks * uint64(s.Frsize), nil
}

// allocate takes blocks for a file without writing them. An error is one of a file system that can't, or is full.
func allocate(f *os.File, size uint64) error {
	if err := f.Truncate(int64(size)); err != nil { // shorter than an earlier one, possibly
		return err
	}
	return unix.Fallocate(int(f.Fd()), 0, 0, int64(size))
}

// allocated is how many bytes of the disk a file takes.
func allocated(info fs.FileInfo) uint64 {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return uint64(s.Blocks) * 512 // stat(2): of 512 bytes, whatever the file system's are
}
