//go:build unix && !linux

package child

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

func becomeReaper() {}

// quietly runs f with SIGTTOU ignored.
func quietly(f func()) {
	signal.Ignore(unix.SIGTTOU)
	defer signal.Reset(unix.SIGTTOU)
	f()
}

func suspendKey(*os.File) (byte, bool) { return 0, false }
