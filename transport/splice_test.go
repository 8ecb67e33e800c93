package transport

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// target is what Leader answers.
type target struct{ v atomic.Value }

func (l *target) set(s string) { l.v.Store(s) }
func (l *target) get() string {
	s, _ := l.v.Load().(string)
	return s
}

func splicer(t *testing.T, cfg SpliceConfig) *Splicer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewSplicer(ln, cfg)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// serve answers every connection of l with handle.
func serve(l net.Listener, handle func(net.Conn)) {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { handle(c); _ = c.Close() }()
		}
	}()
}

func tcp(t *testing.T, addr net.Addr) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

// name makes a server that says who it is and then echoes.
func name(who string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = c.Write([]byte(who))
		_, _ = io.Copy(c, c)
	}
}

func says(t *testing.T, c net.Conn) string {
	t.Helper()
	b := make([]byte, 1)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func plain(t *testing.T, handle func(net.Conn)) net.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	serve(ln, handle)
	return ln.Addr()
}

func TestSpliceFollowsTheLeader(t *testing.T) {
	var leader target
	first, second := plain(t, name("1")), plain(t, name("2"))
	s := splicer(t, SpliceConfig{Leader: leader.get})
	serve(s, name("0"))

	c0 := tcp(t, s.Addr())
	if got := says(t, c0); got != "0" {
		t.Errorf("without a leader %q answers", got)
	}
	leader.set(first.String())
	c1 := tcp(t, s.Addr())
	if got := says(t, c1); got != "1" {
		t.Errorf("leader 1, but %q answers", got)
	}
	leader.set(second.String())
	s.Retarget()
	ended(t, "a splice to the old leader", c1)
	c2 := tcp(t, s.Addr())
	if got := says(t, c2); got != "2" {
		t.Errorf("leader 2, but %q answers", got)
	}
	s.Retarget() // nothing changed
	echo(t, c2, "still there")
	leader.set("") // this node leads now
	s.Retarget()
	ended(t, "a splice although this node leads", c2)
	echo(t, c0, "kept connections stay")
}

func echo(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("echo %q, %v", got, err)
	}
}

func TestSpliceMovesEveryByteAndHalfCloses(t *testing.T) {
	// The server reads to the end of the request before it answers: without the
	// half-close passed on it would wait for ever.
	leader := plain(t, func(c net.Conn) {
		all, err := io.ReadAll(c)
		if err == nil {
			sum := sha256.Sum256(all)
			_, _ = c.Write(sum[:])
		}
	})
	s := splicer(t, SpliceConfig{Leader: leader.String})
	serve(s, name("0"))
	data := make([]byte, 8<<20)
	_, _ = rand.Read(data)
	c := tcp(t, s.Addr())
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	want := sha256.Sum256(data)
	if err != nil || !bytes.Equal(got, want[:]) {
		t.Errorf("got %x, %v; want %x", got, err, want)
	}
	eventually(t, "the connection is given back", func() bool { return s.open() == 0 })
}

func (s *Splicer) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.joined) > s.conns {
		return -1
	}
	return s.conns
}

// After one direction has ended the other does not linger for ever.
func TestSpliceLinger(t *testing.T) {
	block := make(chan struct{})
	defer close(block)
	leader := plain(t, func(c net.Conn) { <-block })
	s := splicer(t, SpliceConfig{Leader: leader.String, Linger: 50 * time.Millisecond})
	serve(s, name("0"))
	c := tcp(t, s.Addr())
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	ended(t, "a half-closed connection past its time", c)
}

func TestSpliceOfADeadLeader(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	s := splicer(t, SpliceConfig{Leader: ln.Addr().String})
	serve(s, name("0"))
	c := tcp(t, s.Addr())
	ended(t, "a client of a dead leader", c)
	eventually(t, "the connection is given back", func() bool { return s.open() == 0 })
}

func TestSpliceIsBounded(t *testing.T) {
	var leader target
	there := plain(t, name("1"))
	s := splicer(t, SpliceConfig{Leader: leader.get, MaxConns: 3})
	serve(s, name("0"))
	kept := tcp(t, s.Addr())
	says(t, kept)
	leader.set(there.String())
	for range 2 {
		says(t, tcp(t, s.Addr()))
	}
	for range 3 {
		ended(t, "a connection over the limit", tcp(t, s.Addr()))
	}
	_ = kept.Close()
	eventually(t, "room again", func() bool { return s.open() == 2 })
	if got := says(t, tcp(t, s.Addr())); got != "1" {
		t.Errorf("%q answers", got)
	}
}

// A leader's address that leads back here (a load balancer's, say) must not
// splice without end.
func TestSpliceLoopEnds(t *testing.T) {
	var leader target
	s := splicer(t, SpliceConfig{Leader: leader.get, MaxConns: 3000})
	leader.set(s.Addr().String())
	accepts := &counter{Listener: s.Listener}
	s.Listener = accepts
	// The worst order: each connection is accepted before the dial that made it
	// has returned.
	dial := s.dial
	s.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		before := accepts.n.Load()
		c, err := dial(ctx, network, addr)
		if addr != s.Addr().String() {
			return c, err
		}
		eventually(t, "the connection is accepted", func() bool { return accepts.n.Load() > before || ctx.Err() != nil })
		return c, err
	}
	serve(s, name("0"))
	c := tcp(t, s.Addr())
	ended(t, "a client of a loop", c)
	_ = c.Close()
	eventually(t, "every connection of the loop is gone", func() bool { return s.open() == 0 })
	// Some, because of that order; not as many as there may be.
	if n := accepts.n.Load(); n > 1500 {
		t.Errorf("one client made %d connections", n)
	}
	// The pause is about this target only.
	leader.set(plain(t, name("1")).String())
	if got := says(t, tcp(t, s.Addr())); got != "1" {
		t.Errorf("%q answers", got)
	}
}

type counter struct {
	net.Listener
	n atomic.Int64
}

func (c *counter) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	c.n.Add(1)
	return conn, err
}

// A silent leader does not stop others from being accepted.
func TestSpliceDialsInTheBackground(t *testing.T) {
	var leader target
	leader.set("leader")
	s := splicer(t, SpliceConfig{Leader: leader.get})
	s.dial = func(ctx context.Context, _, _ string) (net.Conn, error) { // a host that drops packets
		<-ctx.Done()
		return nil, ctx.Err()
	}
	serve(s, name("0"))
	stuck := tcp(t, s.Addr())
	eventually(t, "the first is being spliced", func() bool { return s.open() == 1 })
	leader.set("")
	if got := says(t, tcp(t, s.Addr())); got != "0" {
		t.Errorf("%q answers", got)
	}
	var done sync.WaitGroup
	done.Go(func() { _ = s.Close() })
	ended(t, "a splice that was being dialled at Close", stuck)
	done.Wait()
	if _, err := s.Accept(); err == nil {
		t.Error("Accept after Close succeeded")
	}
}
