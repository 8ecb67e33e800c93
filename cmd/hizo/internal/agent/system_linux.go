package agent

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// peerUID is the user of the process that connected (SO_PEERCRED, unix(7)).
func peerUID(conn net.Conn) (uint32, error) {
	if c, ok := conn.(*counted); ok {
		conn = c.Conn
	}
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("no Unix socket")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	return cred.Uid, nil
}
