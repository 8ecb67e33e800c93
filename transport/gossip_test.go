package transport

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

func gossipKey(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

// gossip starts one with short intervals.
func gossip(t testing.TB, cfg GossipConfig) *Gossip {
	t.Helper()
	if cfg.BindAddr == "" {
		cfg.BindAddr = "127.0.0.1:0"
	}
	if cfg.Key == nil {
		cfg.Key = gossipKey(1)
	}
	if cfg.Label == "" {
		cfg.Label = "cluster-1"
	}
	if cfg.CIDRs == nil {
		cfg.CIDRs = loopback
	}
	if cfg.Admit == nil {
		cfg.Admit = func(id string) bool { return len(id) == 1 }
	}
	cfg.tune = func(mc *memberlist.Config) {
		mc.ProbeInterval, mc.ProbeTimeout = 100*time.Millisecond, 50*time.Millisecond
		mc.GossipInterval, mc.PushPullInterval = 20*time.Millisecond, 300*time.Millisecond
		mc.SuspicionMult, mc.TCPTimeout = 2, 2*time.Second
		mc.GossipToTheDeadTime = time.Minute // until then a dead node keeps its name
	}
	g, err := NewGossip(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// eventually polls a condition that other goroutines bring about.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	deadline := time.After(20 * time.Second)
	for !cond() {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func join(t testing.TB, g, to *Gossip) {
	t.Helper()
	if n, err := g.Join([]string{to.Addr()}); n != 1 || err != nil {
		t.Fatalf("joined %d: %v", n, err)
	}
}

func TestGossipHints(t *testing.T) {
	a := gossip(t, GossipConfig{ID: "a", Meta: Meta{PeerAddr: "10.0.0.1:1", ClientAddr: "10.0.0.1:2", Sealed: true, Applied: 7}})
	b := gossip(t, GossipConfig{ID: "b"})
	c := gossip(t, GossipConfig{ID: "c"})
	join(t, b, a)
	join(t, c, a)
	eventually(t, "everybody knows the others", func() bool {
		return len(a.Hints()) == 2 && len(b.Hints()) == 2 && len(c.Hints()) == 2
	})
	h, ok := c.Hint("a")
	if !ok || !h.Alive || h.Meta != (Meta{PeerAddr: "10.0.0.1:1", ClientAddr: "10.0.0.1:2", Sealed: true, Applied: 7}) || h.GossipAddr != a.Addr() {
		t.Errorf("hint about a: %+v", h)
	}
	if ids := a.Hints()[0].ID + a.Hints()[1].ID; ids != "bc" {
		t.Errorf("hints of a are about %q", ids)
	}

	if err := a.SetMeta(Meta{PeerAddr: "10.0.0.9:1", Applied: 8}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "news spreads", func() bool {
		h, _ := c.Hint("a")
		return h.Meta == (Meta{PeerAddr: "10.0.0.9:1", Applied: 8})
	})

	// Dead without a word, and gone on purpose.
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b and c see that a is gone", func() bool {
		hb, _ := b.Hint("a")
		hc, _ := c.Hint("a")
		return !hb.Alive && !hc.Alive
	})
	if err := b.Leave(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	eventually(t, "c sees that b left", func() bool { h, _ := c.Hint("b"); return !h.Alive })
	if h, _ := c.Hint("b"); h.Since.IsZero() || time.Since(h.Since) > time.Minute {
		t.Errorf("b left at %v", h.Since)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Leave(time.Second); err != nil { // memberlist would panic
		t.Error(err)
	}
	if err := b.SetMeta(Meta{Applied: 1}); err == nil {
		t.Error("SetMeta after Close succeeded")
	}
}

func TestGossipKeepsOthersOut(t *testing.T) {
	admit := func(id string) bool { return id == "a" || id == "b" }
	a := gossip(t, GossipConfig{ID: "a", Admit: admit})
	for name, cfg := range map[string]GossipConfig{
		"another key":   {ID: "b", Key: gossipKey(2)},
		"another label": {ID: "b", Label: "cluster-2"},
		"no member":     {ID: "x", Admit: func(string) bool { return true }},
	} {
		t.Run(name, func(t *testing.T) {
			g := gossip(t, cfg)
			n, err := g.Join([]string{a.Addr()})
			t.Logf("join says %d, %v", n, err)
			if len(a.Hints()) != 0 {
				t.Errorf("a has hints %+v", a.Hints())
			}
			if members := a.list.Members(); len(members) != 1 { // what memberlist itself believes
				t.Errorf("memberlist of a has %d members", len(members))
			}
		})
	}
	// b lets x in and brings it along: b is welcome, x is not.
	b := gossip(t, GossipConfig{ID: "b"})
	x := gossip(t, GossipConfig{ID: "x"})
	join(t, x, b)
	join(t, b, a)
	eventually(t, "a member gets in", func() bool { h, ok := a.Hint("b"); return ok && h.Alive })
	eventually(t, "news of b after it brought x", func() bool {
		_ = b.SetMeta(Meta{Applied: 1})
		h, _ := a.Hint("b")
		return h.Meta.Applied == 1
	})
	if members := a.list.Members(); len(members) != 2 {
		t.Errorf("memberlist of a has %d members, want a and b", len(members))
	}
	d := delegate{a}
	if err := d.NotifyMerge([]*memberlist.Node{{Name: "x"}, {Name: "y"}}); err == nil {
		t.Error("merged with a list of strangers")
	}
	if err := d.NotifyMerge([]*memberlist.Node{{Name: "x"}, {Name: "b"}}); err != nil {
		t.Errorf("a list with one member and one stranger: %v", err)
	}
}

func TestGossipNetworks(t *testing.T) {
	// a allows another network only: nodes on loopback cannot get in.
	a := gossip(t, GossipConfig{ID: "a", CIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("127.0.0.1/32")}})
	b := gossip(t, GossipConfig{ID: "b", BindAddr: "127.0.0.2:0"})
	_, _ = b.Join([]string{a.Addr()})
	if _, ok := a.Hint("b"); ok || len(a.list.Members()) != 1 {
		t.Error("a node from outside the allowed networks is a member")
	}
}

// A member that was removed disappears from hints at once, whatever gossip says.
func TestGossipOfARemovedMember(t *testing.T) {
	removed := make(chan struct{})
	a := gossip(t, GossipConfig{ID: "a", Admit: func(id string) bool {
		select {
		case <-removed:
			return id != "b"
		default:
			return true
		}
	}})
	b := gossip(t, GossipConfig{ID: "b"})
	join(t, b, a)
	eventually(t, "a knows b", func() bool { _, ok := a.Hint("b"); return ok })
	close(removed)
	if _, ok := a.Hint("b"); ok || len(a.Hints()) != 0 {
		t.Error("a hint about a removed member")
	}
}

func TestGossipKeyRotation(t *testing.T) {
	old, next := gossipKey(1), gossipKey(2)
	a := gossip(t, GossipConfig{ID: "a"})
	b := gossip(t, GossipConfig{ID: "b"})
	join(t, b, a)
	for _, g := range []*Gossip{a, b} {
		if err := g.UseKey(next); err == nil {
			t.Fatal("used a key that was not added")
		}
		if err := g.AddKey(next); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.UseKey(next); err != nil { // b still sends with the old one
		t.Fatal(err)
	}
	if err := a.RemoveKey(next); err == nil {
		t.Error("removed the key in use")
	}
	if err := a.SetMeta(Meta{Applied: 1}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b understands the new key", func() bool { h, _ := b.Hint("a"); return h.Meta.Applied == 1 })
	if err := b.SetMeta(Meta{Applied: 2}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a still understands the old one", func() bool { h, _ := a.Hint("b"); return h.Meta.Applied == 2 })
	if err := b.UseKey(next); err != nil {
		t.Fatal(err)
	}
	for _, g := range []*Gossip{a, b} {
		if err := g.RemoveKey(old); err != nil {
			t.Fatal(err)
		}
	}
	// Who was left out has only the old key.
	c := gossip(t, GossipConfig{ID: "c"})
	if n, err := c.Join([]string{a.Addr()}); n != 0 || err == nil {
		t.Errorf("joined %d with the old key: %v", n, err)
	}
	d := gossip(t, GossipConfig{ID: "d", Key: next})
	join(t, d, b)
	eventually(t, "the new key lets in", func() bool { h, _ := a.Hint("d"); return h.Alive })
}

// A dead node comes back at another address once it has been dead long enough.
func TestGossipReclaimsADeadNode(t *testing.T) {
	a := gossip(t, GossipConfig{ID: "a", ReclaimAfter: 10 * time.Millisecond})
	b := gossip(t, GossipConfig{ID: "b"})
	join(t, b, a)
	eventually(t, "a knows b", func() bool { h, ok := a.Hint("b"); return ok && h.Alive })
	first := b.Addr()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b is dead", func() bool { h, _ := a.Hint("b"); return !h.Alive })
	again := gossip(t, GossipConfig{ID: "b"})
	eventually(t, "b is back", func() bool {
		_, _ = again.Join([]string{a.Addr()})
		h, _ := a.Hint("b")
		return h.Alive && h.GossipAddr == again.Addr() && h.GossipAddr != first
	})
}

func TestGossipConflictIsReported(t *testing.T) {
	var buf lockedBuffer
	a := gossip(t, GossipConfig{ID: "a", Logger: slog.New(slog.NewTextHandler(&buf, nil))})
	b := gossip(t, GossipConfig{ID: "b"})
	join(t, b, a)
	eventually(t, "a knows b", func() bool { _, ok := a.Hint("b"); return ok })
	other := gossip(t, GossipConfig{ID: "b"})
	_, _ = other.Join([]string{a.Addr()})
	eventually(t, "a line about the conflict", func() bool { return bytes.Contains(buf.bytes(), []byte("two nodes use one name")) })
	if h, _ := a.Hint("b"); h.GossipAddr != b.Addr() {
		t.Errorf("the second b took over the name: %+v", h)
	}
}

func TestGossipRefusesConfigurations(t *testing.T) {
	good := GossipConfig{ID: "a", BindAddr: "127.0.0.1:0", Key: gossipKey(1), Label: "c", CIDRs: loopback, Admit: func(string) bool { return true }}
	for name, spoil := range map[string]func(*GossipConfig){
		"no id":       func(c *GossipConfig) { c.ID = "" },
		"no key":      func(c *GossipConfig) { c.Key = nil },
		"16-byte key": func(c *GossipConfig) { c.Key = c.Key[:16] },
		"no label":    func(c *GossipConfig) { c.Label = "" },
		"no networks": func(c *GossipConfig) { c.CIDRs = nil },
		"no admit":    func(c *GossipConfig) { c.Admit = nil },
		"bad address": func(c *GossipConfig) { c.BindAddr = "127.0.0.1" },
		"bad port":    func(c *GossipConfig) { c.BindAddr = "127.0.0.1:70000" },
		"long meta":   func(c *GossipConfig) { c.Meta.PeerAddr = strings.Repeat("x", 201) },
		"odd meta":    func(c *GossipConfig) { c.Meta.ClientAddr = "a\nb" },
	} {
		cfg := good
		spoil(&cfg)
		if g, err := NewGossip(cfg); err == nil {
			_ = g.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestMetaGolden(t *testing.T) {
	got, err := encodeMeta(Meta{PeerAddr: "h:1", ClientAddr: "h:22", Sealed: true, Applied: 300})
	if err != nil {
		t.Fatal(err)
	}
	if want := "0101ac0203683a3104683a3232"; fmt.Sprintf("%x", got) != want {
		t.Errorf("encoded as %x, want %s", got, want)
	}
	long := strings.Repeat("x", maxMetaAddr)
	b, err := encodeMeta(Meta{PeerAddr: long, ClientAddr: long, Applied: 1<<64 - 1})
	if err != nil || len(b) > memberlist.MetaMaxSize {
		t.Errorf("the longest has %d bytes, %v", len(b), err)
	}
}

func FuzzDecodeMeta(f *testing.F) {
	for _, m := range []Meta{{}, {PeerAddr: "a:1", ClientAddr: "[::1]:2", Sealed: true, Applied: 1 << 40}} {
		b, err := encodeMeta(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{1, 0, 0xff})
	f.Add([]byte{1, 2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		again, err := encodeMeta(m)
		if err != nil {
			t.Fatalf("decoded %+v, which cannot be encoded: %v", m, err)
		}
		if back, err := decodeMeta(again); err != nil || back != m {
			t.Fatalf("%+v came back as %+v, %v", m, back, err)
		}
	})
}

func TestGossipLog(t *testing.T) {
	var buf lockedBuffer
	w := newGossipLog(slog.New(slog.NewTextHandler(&buf, nil)))
	for _, line := range []string{"[DEBUG] memberlist: one\n", "[INFO] memberlist: two\n", "[WARN] memberlist: three\n", "[ERR] memberlist: four\n", "bare five\n"} {
		if n, err := w.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	out := string(buf.bytes())
	for _, want := range []string{"level=INFO msg=two", "level=WARN msg=three", "level=WARN msg=four", `level=INFO msg="bare five"`} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
	if strings.Contains(out, "one") {
		t.Errorf("debug lines come through:\n%s", out)
	}
	for range 1000 {
		_, _ = w.Write([]byte("[ERR] memberlist: flood\n"))
	}
	if n := bytes.Count(buf.bytes(), []byte("flood")); n > 40 {
		t.Errorf("%d lines of a flood", n)
	}
}
