package servertest

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
)

// Proxy stands between a client and a server, and loses or delays what one of them says at a chosen moment. It counts the
// pieces that one of them sends, over all connections: a loop over that number meets every gap of a call.
type Proxy struct {
	Port     int
	upstream string
	listener net.Listener
	all      sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	left   int // pieces that still pass; negative: all
	freeze bool
	asked  bool          // the client's pieces are counted, not the server's
	met    chan struct{} // closed when the chosen moment comes
	thaw   chan struct{} // closed when frozen connections go on
	closed bool
}

// StartProxy starts a proxy in front of a port on this machine.
func StartProxy(t testing.TB, port int) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp4", Host+":0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{
		Port: l.Addr().(*net.TCPAddr).Port, upstream: net.JoinHostPort(Host, strconv.Itoa(port)), listener: l,
		conns: make(map[net.Conn]bool), left: -1,
		met: make(chan struct{}), thaw: make(chan struct{}),
	}
	p.all.Go(p.serve)
	t.Cleanup(func() {
		p.Thaw()
		p.mu.Lock()
		p.closed = true
		for c := range p.conns {
			_ = c.Close() // it is no longer needed
		}
		p.mu.Unlock()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		p.all.Wait()
	})
	return p
}

// Config is a server's configuration, changed to go through the proxy.
func (p *Proxy) Config(config map[string]string) map[string]string {
	through := map[string]string{"port": strconv.Itoa(p.Port)}
	for k, v := range config {
		if k != "port" {
			through[k] = v
		}
	}
	return through
}

// Cut breaks all connections instead of passing on the piece after the next n of the server's.
func (p *Proxy) Cut(n int) { p.arm(n, false, false) }

// Freeze holds back everything after the next n pieces of the server's, in both directions, and keeps the connections
// open towards the server, also when the client has gone: as if the client's machine had stopped.
func (p *Proxy) Freeze(n int) { p.arm(n, true, false) }

// FreezeRequest is Freeze after the next n pieces of the client's: what was asked for last arrives with Thaw.
func (p *Proxy) FreezeRequest(n int) { p.arm(n, true, true) }

// Met is closed when the moment of the last Cut or Freeze has come.
func (p *Proxy) Met() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.met
}

// happened says whether a channel is closed.
func happened(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (p *Proxy) arm(n int, freeze, asked bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left, p.freeze, p.asked, p.met = n, freeze, asked, make(chan struct{})
}

// Thaw lets everything pass again, first what was held back.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left, p.met = -1, make(chan struct{})
	close(p.thaw)
	p.thaw = make(chan struct{})
}

func (p *Proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp4", p.upstream)
		if err != nil {
			_ = client.Close() // nobody is there, and that is what the client is told
			continue
		}
		if !p.add(client, server) {
			return
		}
		p.all.Go(func() { p.copy(server, client, true) })
		p.all.Go(func() { p.copy(client, server, false) })
	}
}

func (p *Proxy) add(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.closed {
			_ = c.Close() // the test has ended
		} else {
			p.conns[c] = true
		}
	}
	return !p.closed
}

// pass says whether a piece may go on, and waits while everything is frozen. An end (no piece) is not counted.
func (p *Proxy) pass(piece, asked bool) bool {
	for {
		p.mu.Lock()
		met, freeze, thaw := happened(p.met), p.freeze, p.thaw
		if !met && piece && asked == p.asked && p.left >= 0 {
			if p.left == 0 {
				met = true
				close(p.met)
				if !freeze {
					for c := range p.conns {
						_ = c.Close() // that is the cut
					}
					clear(p.conns)
				}
			} else {
				p.left--
			}
		}
		p.mu.Unlock()
		if !met {
			return true
		}
		if !freeze {
			return false
		}
		<-thaw
	}
}

func (p *Proxy) copy(to, from net.Conn, asked bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if !p.pass(n > 0, asked) {
			break
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				break
			}
			if c, ok := to.(*net.TCPConn); ok && errors.Is(err, io.EOF) {
				_ = c.CloseWrite() // the other direction may still have something to say
				return
			}
			break
		}
	}
	_, _ = to.Close(), from.Close() // both directions end together
}
