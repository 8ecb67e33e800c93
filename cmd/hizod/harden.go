package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// harden keeps keys out of core files, out of reach of other processes of this user, and, if asked, out of swap.
func harden(lockMemory bool) error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("switching core dumps off: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("switching ptrace and core dumps off: %w", err)
	}
	if !lockMemory {
		return nil
	}
	switch err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE); {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("memory_lock: %w; grant CAP_IPC_LOCK or raise RLIMIT_MEMLOCK (systemd: LimitMEMLOCK=infinity), or set memory_lock: false", err)
	case err != nil:
		return fmt.Errorf("memory_lock: %w", err)
	}
	return nil
}
