package transport

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// members is a Directory for tests.
type members struct {
	mu    sync.Mutex
	peers map[string]Peer
	hook  func(key [32]byte) // runs after every answer of ByKey
}

func (d *members) Peer(id string) (Peer, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.peers[id]
	return p, ok
}

func (d *members) ByKey(key [32]byte) (Peer, bool) {
	d.mu.Lock()
	var found Peer
	ok := false
	for _, p := range d.peers {
		if p.Key == key {
			found, ok = p, true
		}
	}
	hook := d.hook
	d.mu.Unlock()
	if hook != nil {
		hook(key)
	}
	return found, ok
}

func (d *members) put(p Peer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.peers == nil {
		d.peers = make(map[string]Peer)
	}
	d.peers[p.ID] = p
}

func (d *members) remove(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.peers, id)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// listen starts a Mux and enters it in every directory given.
func listen(t testing.TB, id string, dir *members, also ...*members) *Mux {
	t.Helper()
	return listenWith(t, Config{ID: id, Signer: newKey(t), Directory: dir}, append(also, dir)...)
}

func listenWith(t testing.TB, cfg Config, enter ...*members) *Mux {
	t.Helper()
	cfg.Addr = "127.0.0.1:0"
	m, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	for _, d := range enter {
		d.put(Peer{ID: cfg.ID, Addr: m.Addr().String(), Key: m.Key(), Raft: true})
	}
	return m
}

// accepted runs Accept in the background.
func accepted(l net.Listener) <-chan *Stream {
	ch := make(chan *Stream, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			ch <- c.(*Stream)
		}
		close(ch)
	}()
	return ch
}

func echoes(t *testing.T, a, b net.Conn) {
	t.Helper()
	for _, c := range []net.Conn{a, b} {
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	}
	if _, err := a.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(b, got); err != nil || string(got) != "ping" {
		t.Fatalf("read %q, %v", got, err)
	}
	for _, c := range []net.Conn{a, b} {
		_ = c.SetDeadline(time.Time{})
	}
}

// ended waits for the stream to break.
func ended(t *testing.T, what string, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("%s is still open (%v)", what, err)
	}
}

func TestStreamsBetweenMembers(t *testing.T) {
	dir := &members{}
	a, b := listen(t, "a", dir), listen(t, "b", dir)

	t.Run("raft", func(t *testing.T) {
		in := accepted(b.Raft())
		out, err := a.Raft().Dial("b", 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		s := <-in
		if s.Peer().ID != "a" || s.Peer().Key != a.Key() || out.(*pooled).Conn.(*Stream).Peer().ID != "b" {
			t.Errorf("peers are %+v and %+v", s.Peer(), out.(*pooled).Conn.(*Stream).Peer())
		}
		echoes(t, out, s)
		if got := a.Raft().Addr().String(); got != "a" {
			t.Errorf("the Raft address is %q, want the ServerID", got)
		}
	})
	t.Run("peer", func(t *testing.T) {
		in := accepted(b.Peers())
		out, err := a.DialPeer(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		echoes(t, out, <-in)
	})
	t.Run("join", func(t *testing.T) {
		in := accepted(b.Joiners())
		out, err := a.DialJoin(t.Context(), b.Addr().String(), b.Key())
		if err != nil {
			t.Fatal(err)
		}
		s := <-in
		echoes(t, out, s)
		if s.Peer() != (Peer{Key: a.Key()}) {
			t.Errorf("a join stream names %+v; it must carry the key and nothing else", s.Peer())
		}
	})
}

// A member without a vote answers Raft and never speaks first; it loses what it has when it loses the right.
func TestRaftStreamsOfVoters(t *testing.T) {
	dir := &members{}
	a, b := listen(t, "a", dir), listen(t, "b", dir)
	dial := func(from *Mux, to string) (net.Conn, error) {
		return asConn(from.dialMember(t.Context(), to, protoRaft))
	}
	in := accepted(b.Raft())
	out, err := dial(a, "b")
	if err != nil {
		t.Fatal(err)
	}
	s := <-in
	dir.put(Peer{ID: "a", Addr: a.Addr().String(), Key: a.Key()})
	b.Drop("a")
	if _, err := s.Read(make([]byte, 1)); err == nil {
		t.Error("a stream outlived the right to it")
	}
	_ = out.Close()
	if _, err := dial(a, "b"); !errors.Is(err, ErrRefused) {
		t.Errorf("raft stream of a member without a vote: %v, want ErrRefused", err)
	}
	in = accepted(a.Raft())
	if out, err = dial(b, "a"); err != nil {
		t.Fatalf("raft stream to a member without a vote: %v", err)
	}
	echoes(t, out, <-in)
	in = accepted(b.Peers())
	if out, err = a.DialPeer(t.Context(), "b"); err != nil {
		t.Fatalf("peer stream of a member without a vote: %v", err)
	}
	echoes(t, out, <-in)
}

func TestStrangers(t *testing.T) {
	full, strange := &members{}, &members{}
	b := listen(t, "b", full, strange)
	stranger := listen(t, "a", strange) // knows b, b does not know it; has a member's name
	full.put(Peer{ID: "a", Addr: "127.0.0.1:1", Key: Fingerprint(&newKey(t).PublicKey)})

	if _, err := stranger.Raft().Dial("b", 10*time.Second); !errors.Is(err, ErrRefused) {
		t.Errorf("raft: %v, want ErrRefused", err)
	}
	if _, err := stranger.DialPeer(t.Context(), "b"); !errors.Is(err, ErrRefused) {
		t.Errorf("peer: %v, want ErrRefused", err)
	}
	in := accepted(b.Joiners())
	out, err := stranger.DialJoin(t.Context(), b.Addr().String(), b.Key())
	if err != nil {
		t.Fatalf("join: %v", err)
	}
	s := <-in
	if s.Peer() != (Peer{Key: stranger.Key()}) {
		t.Errorf("the joiner is %+v", s.Peer())
	}
	echoes(t, out, s)
	if n := count(b, protoRaft) + count(b, protoPeer); n != 0 {
		t.Errorf("%d streams of a stranger are open", n)
	}
}

func count(m *Mux, proto string) int {
	m.streams.mu.Lock()
	defer m.streams.mu.Unlock()
	n := 0
	for s := range m.streams.streams {
		if s.proto == proto {
			n++
		}
	}
	return n
}

func TestDialDemandsThePinnedKey(t *testing.T) {
	dir := &members{}
	a := listen(t, "a", dir)
	impostor := listen(t, "b", dir) // a certificate with the right name
	other := Fingerprint(&newKey(t).PublicKey)
	dir.put(Peer{ID: "b", Addr: impostor.Addr().String(), Key: other})

	if _, err := a.Raft().Dial("b", 10*time.Second); !errors.Is(err, ErrWrongKey) {
		t.Errorf("raft: %v, want ErrWrongKey", err)
	}
	if _, err := a.DialPeer(t.Context(), "b"); !errors.Is(err, ErrWrongKey) {
		t.Errorf("peer: %v, want ErrWrongKey", err)
	}
	if _, err := a.DialJoin(t.Context(), impostor.Addr().String(), other); !errors.Is(err, ErrWrongKey) {
		t.Errorf("join: %v, want ErrWrongKey", err)
	}
	if _, err := a.DialJoin(t.Context(), impostor.Addr().String(), [32]byte{}); !errors.Is(err, ErrWrongKey) {
		t.Errorf("join without a key: %v, want ErrWrongKey", err)
	}
	if _, err := a.Raft().Dial("nobody", 10*time.Second); !errors.Is(err, ErrNotMember) {
		t.Errorf("unknown id: %v, want ErrNotMember", err)
	}
	if n := count(a, protoRaft) + count(a, protoPeer) + count(a, protoJoin); n != 0 {
		t.Errorf("%d streams left over", n)
	}
}

func TestAddressIsResolvedAtDialTime(t *testing.T) {
	dir := &members{}
	a, b := listen(t, "a", dir), listen(t, "b", dir)
	in := accepted(b.Raft())
	if _, err := a.Raft().Dial("b", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	<-in
	// b moves: same key, another address.
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Raft().Dial("b", 10*time.Second); err == nil {
		t.Fatal("dialled a node that is gone")
	}
	moved := listenWith(t, Config{ID: "b", Signer: b.cfg.Signer, Directory: dir}, dir)
	in = accepted(moved.Raft())
	out, err := a.Raft().Dial("b", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, out, <-in)
}

func TestDropClosesEveryStreamOfAMember(t *testing.T) {
	dir := &members{}
	a, b, c := listen(t, "a", dir), listen(t, "b", dir), listen(t, "c", dir)
	pair := func(from, to *Mux, id string) (out, in net.Conn) {
		ch := accepted(to.Raft())
		out, err := from.Raft().Dial(raft.ServerAddress(id), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return out, <-ch
	}
	inB := accepted(a.Peers())
	outB, err := b.DialPeer(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	toB, fromB := pair(a, b, "b")
	bToA, aFromB := pair(b, a, "a")
	aToC, cFromA := pair(a, c, "c")
	a.Warm(t.Context(), []string{"b", "c"})

	dir.remove("b")
	a.Drop("b")
	for what, conn := range map[string]net.Conn{
		"the stream a opened":      toB,
		"its other end":            fromB,
		"the stream b opened":      bToA,
		"its other end on a":       aFromB,
		"the peer stream b opened": outB,
		"the peer stream on a":     <-inB,
	} {
		ended(t, what, conn)
	}
	echoes(t, aToC, cFromA) // others go on
	if a.warm.take("b") != nil {
		t.Error("a removed member has a stream in reserve")
	}
	if _, err := a.Raft().Dial("b", 10*time.Second); !errors.Is(err, ErrNotMember) {
		t.Errorf("dial after removal: %v, want ErrNotMember", err)
	}
	if _, err := a.DialPeer(t.Context(), "b"); !errors.Is(err, ErrNotMember) {
		t.Errorf("peer dial after removal: %v, want ErrNotMember", err)
	}
	if _, err := b.Raft().Dial("a", 10*time.Second); !errors.Is(err, ErrRefused) {
		t.Errorf("dial by the removed: %v, want ErrRefused", err)
	}
}

// A removal that falls between the check in the handshake and the registration
// of the stream: Drop finds nothing, the second look must.
func TestRemovalDuringTheHandshake(t *testing.T) {
	dirA, dirB := &members{}, &members{}
	a, b := listen(t, "a", dirA, dirB), listen(t, "b", dirB, dirA)
	var looks atomic.Int64
	dirB.mu.Lock()
	dirB.hook = func([32]byte) {
		if looks.Add(1) == 2 { // in the handshake, after it, registered
			dirB.remove("a")
			b.Drop("a")
		}
	}
	dirB.mu.Unlock()
	if conn, err := a.Raft().Dial("b", 10*time.Second); err == nil {
		t.Errorf("a stream of a removed member was admitted: %v", conn.RemoteAddr())
	}
	if n := looks.Load(); n != 3 {
		t.Errorf("the membership was asked %d times, want 3", n)
	}
	if n := count(b, protoRaft); n != 0 {
		t.Errorf("%d streams are open", n)
	}
}

// certificate makes a client certificate for a key, with any dates.
func certificate(t *testing.T, signer crypto.Signer, name string, from, to time.Time) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: signer}
}

// greet does a handshake as a client made by hand, and reads the admission.
func greet(addr string, cfg *tls.Config) (*tls.Conn, error) {
	cfg.InsecureSkipVerify = true
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, cfg)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	var b [1]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return conn, err
	}
	if b[0] != admitted {
		return conn, errors.New("no admission")
	}
	return conn, nil
}

func TestCertificatesOfClients(t *testing.T) {
	now := time.Now()
	year := 366 * 24 * time.Hour
	key := newKey(t)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := &members{}
	b := listen(t, "b", dir)
	dir.put(Peer{ID: "a", Key: Fingerprint(&key.PublicKey), Raft: true})
	dir.put(Peer{ID: "ed", Key: Fingerprint(edKey.Public()), Raft: true})
	dir.put(Peer{ID: "p384", Key: Fingerprint(&p384.PublicKey), Raft: true})
	valid := certificate(t, key, "a", now.Add(-time.Hour), now.Add(time.Hour))

	tests := []struct {
		name string
		cfg  *tls.Config
		ok   bool
	}{
		{"valid", &tls.Config{Certificates: []tls.Certificate{valid}, NextProtos: []string{protoRaft}}, true},
		{"expired a year ago", &tls.Config{Certificates: []tls.Certificate{certificate(t, key, "a", now.Add(-2*year), now.Add(-year))}, NextProtos: []string{protoRaft}}, true},
		{"valid in a year", &tls.Config{Certificates: []tls.Certificate{certificate(t, key, "a", now.Add(year), now.Add(2*year))}, NextProtos: []string{protoPeer}}, true},
		{"right name, wrong key", &tls.Config{Certificates: []tls.Certificate{certificate(t, newKey(t), "a", now.Add(-year), now.Add(year))}, NextProtos: []string{protoRaft}}, false},
		{"wrong key, to join", &tls.Config{Certificates: []tls.Certificate{certificate(t, newKey(t), "a", now.Add(-year), now.Add(year))}, NextProtos: []string{protoJoin}}, true},
		{"certificate of a member, key of another", &tls.Config{Certificates: []tls.Certificate{{Certificate: valid.Certificate, PrivateKey: newKey(t)}}, NextProtos: []string{protoRaft}}, false},
		{"no certificate", &tls.Config{NextProtos: []string{protoRaft}}, false},
		{"no certificate, to join", &tls.Config{NextProtos: []string{protoJoin}}, false},
		{"no protocol", &tls.Config{Certificates: []tls.Certificate{valid}}, false},
		{"another protocol", &tls.Config{Certificates: []tls.Certificate{valid}, NextProtos: []string{"h2"}}, false},
		{"TLS 1.2", &tls.Config{Certificates: []tls.Certificate{valid}, NextProtos: []string{protoRaft}, MaxVersion: tls.VersionTLS12}, false},
		{"Ed25519", &tls.Config{Certificates: []tls.Certificate{certificate(t, edKey, "ed", now.Add(-year), now.Add(year))}, NextProtos: []string{protoRaft}}, false},
		{"P-384", &tls.Config{Certificates: []tls.Certificate{certificate(t, p384, "p384", now.Add(-year), now.Add(year))}, NextProtos: []string{protoRaft}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := greet(b.Addr().String(), tt.cfg)
			if (err == nil) != tt.ok {
				t.Errorf("admitted %v, want %v (%v)", err == nil, tt.ok, err)
			}
			if conn != nil {
				if err == nil && conn.ConnectionState().Version != tls.VersionTLS13 {
					t.Errorf("TLS version %x", conn.ConnectionState().Version)
				}
				_ = conn.Close()
			}
		})
	}
}

// The other way round: a node dials one whose certificate is out of date.
func TestCertificatesOfServers(t *testing.T) {
	now := time.Now()
	year := 366 * 24 * time.Hour
	for name, dates := range map[string][2]time.Time{
		"expired a year ago": {now.Add(-2 * year), now.Add(-year)},
		"valid in a year":    {now.Add(year), now.Add(2 * year)},
	} {
		t.Run(name, func(t *testing.T) {
			key := newKey(t)
			ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
				Certificates: []tls.Certificate{certificate(t, key, "b", dates[0], dates[1])},
				NextProtos:   []string{protoRaft},
				ClientAuth:   tls.RequireAnyClientCert,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				if c, err := ln.Accept(); err == nil {
					_, _ = c.Write([]byte{admitted})
				}
			}()
			dir := &members{}
			a := listen(t, "a", dir)
			dir.put(Peer{ID: "b", Addr: ln.Addr().String(), Key: Fingerprint(&key.PublicKey)})
			if _, err := a.Raft().Dial("b", 10*time.Second); err != nil {
				t.Error(err)
			}
		})
	}
}

// This node's own certificate never asks anybody to look at a clock.
func TestOwnCertificateHasNoExpiry(t *testing.T) {
	m := listen(t, "a", &members{})
	leaf := m.cert.Leaf
	if leaf.NotAfter.Year() != 9999 || leaf.NotBefore.Year() != 2000 || leaf.Subject.CommonName != "a" {
		t.Errorf("certificate of %s from %s to %s", leaf.Subject, leaf.NotBefore, leaf.NotAfter)
	}
	if Fingerprint(leaf.PublicKey) != m.Key() {
		t.Error("certificate over another key")
	}
}

func TestNoSessionTickets(t *testing.T) {
	key := newKey(t)
	dir := &members{}
	b := listen(t, "b", dir)
	dir.put(Peer{ID: "a", Key: Fingerprint(&key.PublicKey), Raft: true})
	in := b.Raft()
	cache := &countingCache{ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	cfg := &tls.Config{
		Certificates:       []tls.Certificate{certificate(t, key, "a", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))},
		NextProtos:         []string{protoRaft},
		ServerName:         "b",
		ClientSessionCache: cache,
	}
	for range 2 {
		ch := accepted(in)
		conn, err := greet(b.Addr().String(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		echoes(t, <-ch, conn) // a ticket would come before these bytes
		if conn.ConnectionState().DidResume {
			t.Error("resumed a session without a proof of the key")
		}
		_ = conn.Close()
	}
	if cache.puts != 0 {
		t.Errorf("got %d session tickets", cache.puts)
	}
}

type countingCache struct {
	tls.ClientSessionCache
	puts int
}

func (c *countingCache) Put(key string, s *tls.ClientSessionState) {
	if s != nil {
		c.puts++
	}
	c.ClientSessionCache.Put(key, s)
}

func TestHandshakeDeadline(t *testing.T) {
	dir := &members{}
	b := listenWith(t, Config{ID: "b", Signer: newKey(t), Directory: dir, HandshakeTimeout: 300 * time.Millisecond}, dir)
	conn, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A byte now and then does not buy more time.
	start := time.Now()
	record := []byte{22, 3, 1, 0, 200}
	for i := 0; ; i++ {
		if _, err := conn.Write(record[i%5 : i%5+1]); err != nil {
			break
		}
		_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := conn.Read(make([]byte, 16)); err != nil && !isTimeout(err) {
			break
		}
		if time.Since(start) > 10*time.Second {
			t.Fatal("the handshake never ended")
		}
	}
}

// Clients that say nothing, or nonsense, neither block members nor take more
// than their share of handshakes.
func TestHostileClients(t *testing.T) {
	dir := &members{}
	a := listen(t, "a", dir)
	b := listenWith(t, Config{ID: "b", Signer: newKey(t), Directory: dir, HandshakeTimeout: time.Minute, MaxHandshakes: 8}, dir)
	var idle []net.Conn
	for i := range 60 {
		conn, err := net.Dial("tcp", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		switch i % 3 {
		case 0: // says nothing
			idle = append(idle, conn)
		case 1:
			_, _ = conn.Write(bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 100))
		case 2: // stops in the middle of a hello
			_, _ = conn.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3})
		}
	}
	for range 3 {
		in := accepted(b.Raft())
		out, err := a.Raft().Dial("b", 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		s := <-in
		echoes(t, out, s)
		_ = out.Close()
	}
	b.pending.mu.Lock()
	peak := b.pending.peak
	b.pending.mu.Unlock()
	if peak > 8 {
		t.Errorf("%d handshakes at once, the limit is 8", peak)
	}
	ended(t, "the oldest silent connection", idle[0])
}

// The address that has the most handshakes under way loses its oldest.
func TestEvictionIsFair(t *testing.T) {
	p := &pending{limit: 4}
	conn := func(host string) *fakeConn { return &fakeConn{host: host} }
	member := conn("10.0.0.1")
	flood := []*fakeConn{conn("10.6.6.6"), conn("10.6.6.6"), conn("10.6.6.6")}
	p.add(member)
	for _, c := range flood {
		p.add(c)
	}
	for range 5 {
		c := conn("10.6.6.6")
		flood = append(flood, c)
		p.add(c)
	}
	if member.closed {
		t.Error("the member's handshake gave way to a flood from elsewhere")
	}
	for i, c := range flood {
		if want := i < len(flood)-3; c.closed != want {
			t.Errorf("connection %d of the flood closed: %v, want %v", i, c.closed, want)
		}
	}
	if len(p.conns) != 4 || p.peak != 4 {
		t.Errorf("%d at once, peak %d", len(p.conns), p.peak)
	}
}

type fakeConn struct {
	net.Conn
	host   string
	closed bool
}

func (c *fakeConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(c.host), Port: 9} }
func (c *fakeConn) Close() error         { c.closed = true; return nil }

func TestJoinersAreBounded(t *testing.T) {
	dir := &members{}
	b := listenWith(t, Config{ID: "b", Signer: newKey(t), Directory: dir, MaxJoiners: 2, JoinerLifetime: 2 * time.Second}, dir)
	stranger := listen(t, "x", &members{})
	var open []net.Conn
	for range 2 {
		in := accepted(b.Joiners())
		c, err := stranger.DialJoin(t.Context(), b.Addr().String(), b.Key())
		if err != nil {
			t.Fatal(err)
		}
		<-in
		open = append(open, c)
	}
	if _, err := stranger.DialJoin(t.Context(), b.Addr().String(), b.Key()); !errors.Is(err, ErrRefused) {
		t.Errorf("a third joiner: %v, want ErrRefused", err)
	}
	// Members are not held up by joiners.
	a := listen(t, "a", dir)
	in := accepted(b.Raft())
	if _, err := a.Raft().Dial("b", 10*time.Second); err != nil {
		t.Errorf("a member: %v", err)
	}
	<-in
	for _, c := range open {
		ended(t, "a joiner's stream past its lifetime", c)
	}
	in = accepted(b.Joiners())
	if _, err := stranger.DialJoin(t.Context(), b.Addr().String(), b.Key()); err != nil {
		t.Errorf("a joiner after the others' time: %v", err)
	}
	<-in
}

func TestUnservedLaneDoesNotBlock(t *testing.T) {
	dir := &members{}
	a, b := listen(t, "a", dir), listen(t, "b", dir)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	// Nobody accepts peer streams: the backlog fills, then they are closed.
	for range laneBacklog + 5 {
		if _, err := a.DialPeer(ctx, "b"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the streams beyond the backlog are closed", func() bool { return count(b, protoPeer) == laneBacklog })
	in := accepted(b.Raft())
	out, err := a.Raft().Dial("b", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, out, <-in)
}

func TestCloseOfOneProtocolLeavesTheOthers(t *testing.T) {
	dir := &members{}
	a, b := listen(t, "a", dir), listen(t, "b", dir)
	inRaft, inPeer := accepted(b.Raft()), accepted(b.Peers())
	r, err := a.Raft().Dial("b", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	p, err := a.DialPeer(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	<-inRaft
	peer := <-inPeer
	if err := b.Raft().Close(); err != nil {
		t.Fatal(err)
	}
	ended(t, "a Raft stream after Raft's Close", r)
	echoes(t, p, peer)
	if _, err := b.Raft().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if _, err := b.Raft().Dial("a", time.Second); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial after Close: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	ended(t, "a peer stream after the Mux's Close", p)
	if _, err := b.DialPeer(t.Context(), "a"); err == nil {
		t.Error("dialled from a closed Mux")
	}
}

func TestDialHonoursItsContext(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts and never speaks
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dir := &members{}
	a := listen(t, "a", dir)
	dir.put(Peer{ID: "b", Addr: ln.Addr().String(), Key: [32]byte{1}})
	if _, err := a.Raft().Dial("b", 100*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.DialPeer(ctx, "b"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}

// A node that does its handshake and then never admits must not hold a dialler.
func TestDialWaitsForAdmissionNotForEver(t *testing.T) {
	key := newKey(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{certificate(t, key, "b", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))},
		NextProtos:   []string{protoRaft},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake()
		}
	}()
	dir := &members{}
	a := listen(t, "a", dir)
	dir.put(Peer{ID: "b", Addr: ln.Addr().String(), Key: Fingerprint(&key.PublicKey)})
	if _, err := a.Raft().Dial("b", 300*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
	if n := count(a, protoRaft); n != 0 {
		t.Errorf("%d streams left over", n)
	}
}

func TestWarm(t *testing.T) {
	dir := &members{}
	a, b := listen(t, "a", dir), listen(t, "b", dir)
	in := accepted(b.Raft())
	a.Warm(t.Context(), []string{"a", "b", "b", "gone"})
	s := <-in
	a.Warm(t.Context(), []string{"b"}) // there is one already
	if n := count(a, protoRaft); n != 1 {
		t.Fatalf("%d streams in reserve, want 1", n)
	}
	// It is handed out even while nobody can be dialled.
	dir.put(Peer{ID: "b", Addr: "127.0.0.1:1", Key: b.Key()})
	out, err := a.Raft().Dial("b", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, out, s)
	echoes(t, s, out)

	// One that broke is not handed out, and is replaced.
	dir.put(Peer{ID: "b", Addr: b.Addr().String(), Key: b.Key()})
	in = accepted(b.Raft())
	a.Warm(t.Context(), []string{"b"})
	s = <-in
	s.cut()
	a.warm.mu.Lock()
	sp := a.warm.spares["b"]
	a.warm.mu.Unlock()
	err = <-sp.read
	sp.read <- err
	in = accepted(b.Raft())
	a.Warm(t.Context(), []string{"b"})
	s = <-in
	out, err = a.Raft().Dial("b", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, out, s)

	in = accepted(b.Raft())
	a.Warm(t.Context(), []string{"b"})
	(<-in).cut()
	a.warm.mu.Lock()
	sp = a.warm.spares["b"]
	a.warm.mu.Unlock()
	err = <-sp.read
	sp.read <- err
	in = accepted(b.Raft())
	if out, err = a.Raft().Dial("b", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	echoes(t, out, <-in)

	// A node that is no peer any more has none.
	in = accepted(b.Raft())
	a.Warm(t.Context(), []string{"b"})
	s = <-in
	a.Warm(t.Context(), nil)
	ended(t, "the reserve of a node that is no peer", s)
}

func TestListenRefuses(t *testing.T) {
	good := Config{Addr: "127.0.0.1:0", ID: "a", Signer: newKey(t), Directory: &members{}}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no id":        func(c *Config) { c.ID = "" },
		"no signer":    func(c *Config) { c.Signer = nil },
		"no directory": func(c *Config) { c.Directory = nil },
		"wrong key":    func(c *Config) { c.Signer = p384 },
		"bad address":  func(c *Config) { c.Addr = "127.0.0.1:notaport" },
	} {
		cfg := good
		spoil(&cfg)
		if m, err := Listen(cfg); err == nil {
			_ = m.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

// What strangers can provoke is bounded in the log too.
func TestRefusalsAreLimitedInTheLog(t *testing.T) {
	var buf lockedBuffer
	dir := &members{}
	b := listenWith(t, Config{ID: "b", Signer: newKey(t), Directory: dir, Logger: slog.New(slog.NewTextHandler(&buf, nil))}, dir)
	for range 100 {
		c, err := net.Dial("tcp", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte("nonsense nonsense nonsense"))
		_, _ = c.Read(make([]byte, 1)) // until the other end has closed
		_ = c.Close()
	}
	if n := bytes.Count(buf.bytes(), []byte("refused a stream")); n == 0 || n > 25 {
		t.Errorf("%d lines for 100 refusals", n)
	}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buf.Bytes())
}
