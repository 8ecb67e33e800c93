package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Delay is a slow wire: it takes a node's cable out of the bridge and carries the frames over itself (packet(7)), later.
// Nothing in the kernel is needed for it, and connections that were there before stay.
//
//	eth0 ─ vethN ─ Delay ─ wN ─ xN ─ br0
type Delay struct {
	node   int
	fds    [2]int
	stop   chan struct{}
	wg     sync.WaitGroup
	frames atomic.Int64
}

// NewDelay delays each frame from and to a node by least up to most, in order.
func NewDelay(node int, least, most time.Duration) (_ *Delay, err error) {
	veth, wire, end := fmt.Sprintf("veth%d", node), fmt.Sprintf("w%d", node), fmt.Sprintf("x%d", node)
	d := &Delay{node: node, fds: [2]int{-1, -1}, stop: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	for _, args := range [][]string{
		{"link", "add", wire, "type", "veth", "peer", "name", end},
		{"link", "set", wire, "up"},
		{"link", "set", end, "master", "br0", "up"},
		{"link", "set", veth, "nomaster"},
	} {
		if err := run("ip", args...); err != nil {
			return d, err
		}
	}
	for i, link := range []string{veth, wire} {
		if d.fds[i], err = frames(link); err != nil {
			return d, err
		}
	}
	for i := range d.fds {
		queue := make(chan frame, 1<<14)
		d.wg.Go(func() { d.read(d.fds[i], queue, least, most) })
		d.wg.Go(func() { d.write(d.fds[1-i], queue) })
	}
	return d, nil
}

// frame is on its way; data begins with the virtio header that keeps what the kernel has left to a network card to do.
type frame struct {
	due  time.Time
	data []byte
}

// frames opens a link for whole frames, without those that are sent on it.
func frames(name string) (int, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		return -1, fmt.Errorf("delay: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: link.Index}),
	)
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("delay: %w", err)
	}
	return fd, nil
}

func (d *Delay) read(fd int, queue chan<- frame, least, most time.Duration) {
	defer close(queue)
	buf := make([]byte, 1<<17)
	for {
		select {
		case <-d.stop:
			return
		default:
		}
		n, _, err := unix.Recvfrom(fd, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
			continue
		case err != nil:
			return
		}
		f := frame{time.Now().Add(least + rand.N(most-least+1)), append([]byte(nil), buf[:n]...)}
		select {
		case queue <- f:
		default: // a wire has its limits
		}
	}
}

func (d *Delay) write(fd int, queue <-chan frame) {
	for f := range queue {
		select {
		case <-d.stop: // what is still under way is lost
			continue
		case <-time.After(time.Until(f.due)):
		}
		if _, err := unix.Write(fd, f.data); err == nil {
			d.frames.Add(1)
		}
	}
}

// Frames that were delayed so far.
func (d *Delay) Frames() int { return int(d.frames.Load()) }

// Close puts the cable back into the bridge.
func (d *Delay) Close() error {
	close(d.stop)
	d.wg.Wait()
	for _, fd := range d.fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	return errors.Join(
		run("ip", "link", "set", fmt.Sprintf("veth%d", d.node), "master", "br0", "up"),
		run("ip", "link", "del", fmt.Sprintf("w%d", d.node)),
	)
}
