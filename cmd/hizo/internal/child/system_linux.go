package child

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// becomeReaper makes orphans of the child's group ours, so that its end can be waited for.
func becomeReaper() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// quietly runs f on a thread that takes no SIGTTOU.
func quietly(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var block, before unix.Sigset_t
	block.Val[0] = 1 << (unix.SIGTTOU - 1) // the first word holds signals 1 to 32 at least
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &block, &before); err == nil {
		defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil) }()
	}
	f()
}

// suspendKey is the key that a terminal acts on by stopping, if it does. Asked of our end, Linux answers for
// the child's (tty_ioctl.c, tty_mode_ioctl).
func suspendKey(pty *os.File) (byte, bool) {
	t, err := unix.IoctlGetTermios(int(pty.Fd()), unix.TCGETS)
	if err != nil || t.Lflag&unix.ISIG == 0 {
		return 0, false
	}
	return t.Cc[unix.VSUSP], t.Cc[unix.VSUSP] != 0 // 0: there is none (termios(3), _POSIX_VDISABLE)
}
