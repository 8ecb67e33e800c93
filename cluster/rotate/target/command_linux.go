package target

import (
	"math"

	"golang.org/x/sys/unix"
)

// cmdCloseOnExec sees to it that nothing which is open in this process stays open in the program. Go opens everything
// that way; a PKCS#11 library, which is C, may not.
func cmdCloseOnExec() error {
	err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if err == unix.ENOSYS || err == unix.EINVAL { // before Linux 5.11
		return nil
	}
	return err
}
