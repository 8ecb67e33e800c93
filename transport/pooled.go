package transport

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// pooled is a Raft stream that is dialled again when its other end has gone while it lay in raft's pool. Raft asks and waits
// for the answer, so that between an answer and the next question a stream carries nothing: there it can be
// replaced without anybody noticing. Without this, a node that others have been restarted around would find its streams
// dead one by one when it stands for election, each at the price of a vote; raft does not ask twice.
//
// Raft uses a pooled connection from one goroutine at a time.
type pooled struct {
	net.Conn
	dial     func() (net.Conn, error)
	idle     bool // the next Write begins a question
	deadline time.Time
}

func newPooled(conn net.Conn, dial func() (net.Conn, error)) *pooled {
	return &pooled{Conn: conn, dial: dial, idle: true}
}

func (p *pooled) Read(b []byte) (int, error) {
	p.idle = true
	return p.Conn.Read(b)
}

func (p *pooled) Write(b []byte) (int, error) {
	if p.idle {
		p.idle = false
		if !quiet(p.Conn) {
			if err := p.renew(); err != nil {
				return 0, err
			}
		}
	}
	return p.Conn.Write(b)
}

func (p *pooled) renew() error {
	fresh, err := p.dial()
	if err != nil {
		return err
	}
	_ = p.Conn.Close()
	p.Conn = fresh
	return fresh.SetDeadline(p.deadline)
}

// SetDeadline is the one deadline that raft sets.
func (p *pooled) SetDeadline(t time.Time) error {
	p.deadline = t
	return p.Conn.SetDeadline(t)
}

// quiet says whether a stream is open and nothing has arrived on it. Whatever has arrived unasked is the end of it, or
// TLS's word of it.
func quiet(conn net.Conn) bool {
	s, ok := conn.(*Stream)
	if !ok {
		return true
	}
	tcp, ok := s.NetConn().(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	open := false
	err = raw.Control(func(fd uintptr) {
		var one [1]byte
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		open = errors.Is(err, syscall.EAGAIN)
	})
	return err == nil && open
}
