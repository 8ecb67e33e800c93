package transport

import (
	"net"
	"sync"
)

// pending holds the connections whose handshake is under way, oldest first, at
// most limit of them. One more does not wait and is not turned away: the oldest
// handshake of the address with the most gives way. Somebody who opens
// connections and says nothing thus throws out his own, and a member with one
// handshake of some milliseconds gets through.
type pending struct {
	mu     sync.Mutex
	limit  int
	conns  []net.Conn
	closed bool
	peak   int // most at once, for tests
}

func (p *pending) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	if len(p.conns) >= p.limit {
		p.evict()
	}
	p.conns = append(p.conns, c)
	p.peak = max(p.peak, len(p.conns))
	return true
}

func (p *pending) evict() {
	count := make(map[string]int)
	greedy := ""
	for _, c := range p.conns {
		host := hostOf(c)
		count[host]++
		if greedy == "" || count[host] > count[greedy] {
			greedy = host
		}
	}
	for i, c := range p.conns {
		if hostOf(c) == greedy {
			_ = c.Close()
			p.conns = append(p.conns[:i:i], p.conns[i+1:]...)
			return
		}
	}
}

func (p *pending) remove(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.conns {
		if p.conns[i] == c {
			p.conns = append(p.conns[:i:i], p.conns[i+1:]...)
			return
		}
	}
}

// closeAll ends every handshake, those of connections still to come included.
func (p *pending) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

func hostOf(c net.Conn) string {
	if tcp, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().String()
	}
	return c.RemoteAddr().String()
}
