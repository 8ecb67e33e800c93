package agent

import (
	"net"

	"golang.org/x/sys/unix"
)

// listenUnix makes a socket that nobody but this user can connect to, until its mode is changed.
func listenUnix(path string) (net.Listener, error) {
	before := unix.Umask(0o177)
	defer unix.Umask(before)
	return net.Listen("unix", path)
}
