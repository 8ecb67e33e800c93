package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// harden keeps the values out of core dumps and away from debuggers of the same user. exec takes it back for
// the command.
func harden() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) } // older kernels: go without

// memoryFile makes a file that has no name on any disk and can't be changed. It ends with its last descriptor.
func memoryFile(label string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("hizo-"+label, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), label)
	if _, err := f.Write(content); err != nil {
		return nil, errors.Join(fmt.Errorf("fill a file in memory: %w", err), f.Close())
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return nil, errors.Join(fmt.Errorf("seal a file in memory: %w", err), f.Close())
	}
	return f, nil
}

// descriptorPath names f for a process that has it open under the same number.
func descriptorPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
