package lab

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Capture writes every frame that crosses the bridge into a file, headers and all: what is searched for in it needs
// no protocol.
type Capture struct {
	fd   int
	out  *os.File
	done chan error
	stop chan struct{}
}

// NewCapture starts on all of this namespace's links (packet(7)).
func NewCapture(path string) (*Capture, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	br, err := net.InterfaceByName("br0")
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	_ = br // frames between two ports of the bridge are seen at the ports only, so no link is chosen
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	c := &Capture{fd: fd, out: out, done: make(chan error, 1), stop: make(chan struct{})}
	go func() { c.done <- c.read() }()
	return c, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// maxCapture bounds the file; a run of ten minutes stays below it.
const maxCapture = 2 << 30

func (c *Capture) read() error {
	w := bufio.NewWriterSize(c.out, 1<<20)
	buf := make([]byte, 1<<17)
	var written int64
	for {
		select {
		case <-c.stop:
			return w.Flush()
		default:
		}
		n, from, err := unix.Recvfrom(c.fd, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
			continue
		case err != nil:
			return fmt.Errorf("capture: %w", err)
		}
		// Each frame enters at one port and leaves at others: once is enough. What the clients say to Redis, which lives
		// beside them, crosses no bridge.
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && (ll.Pkttype == unix.PACKET_OUTGOING || ll.Hatype == unix.ARPHRD_LOOPBACK) {
			continue
		}
		if written += int64(n); written > maxCapture {
			continue
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
	}
}

// Close ends the capture and says how many bytes were taken.
func (c *Capture) Close() (int64, error) {
	close(c.stop)
	var err error
	select {
	case err = <-c.done:
	case <-time.After(5 * time.Second):
		err = errors.New("capture: does not end")
	}
	unix.Close(c.fd)
	st, serr := c.out.Stat()
	if serr != nil {
		return 0, errors.Join(err, serr)
	}
	return st.Size(), errors.Join(err, c.out.Close())
}
