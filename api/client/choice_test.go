package client

import (
	"fmt"
	"testing"
	"time"
)

func clientOf(t *testing.T, addrs ...string) *Client {
	t.Helper()
	c, err := New(Config{Addrs: addrs, PinnedKey: &[32]byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Watches spread over the nodes, and one node more takes from each no more than its share.
func TestWatchesSpread(t *testing.T) {
	addr := func(i int) string { return fmt.Sprintf("10.0.0.%d:7902", i) }
	three, four := clientOf(t, addr(1), addr(2), addr(3)), clientOf(t, addr(1), addr(2), addr(3), addr(4))
	homes, moved := map[string]int{}, 0
	const n = 3000
	for seed := range uint64(n) {
		home := three.ranked(seed)[0]
		homes[home]++
		if other := four.ranked(seed)[0]; other != home {
			moved++
			if other != addr(4) {
				t.Fatalf("watch %d moves from %s to %s because of a fourth node", seed, home, other)
			}
		}
	}
	for home, count := range homes {
		if count < n/3*8/10 || count > n/3*12/10 {
			t.Errorf("%s is home to %d of %d watches", home, count, n)
		}
	}
	if moved < n/4*8/10 || moved > n/4*12/10 {
		t.Errorf("%d of %d watches move to a fourth node", moved, n)
	}
}

func TestSuspendedNodesComeLast(t *testing.T) {
	c := clientOf(t, "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1")
	is := func(what string, want ...string) {
		t.Helper()
		if got := c.candidates(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	c.setLeader("10.0.0.2:1")
	is("the leader first", "10.0.0.2:1", "10.0.0.1:1", "10.0.0.3:1")
	c.suspend("10.0.0.2:1")
	is("a leader that failed", "10.0.0.1:1", "10.0.0.3:1", "10.0.0.2:1")
	c.suspend("10.0.0.1:1")
	is("two that failed", "10.0.0.3:1", "10.0.0.1:1", "10.0.0.2:1")
	c.answered("10.0.0.1:1")
	is("one that answers again", "10.0.0.1:1", "10.0.0.3:1", "10.0.0.2:1")
	c.health["10.0.0.2:1"].until = time.Now()
	is("in the end it is tried again", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1")
	for range 100 {
		c.suspend("10.0.0.3:1")
	}
	if left := time.Until(c.health["10.0.0.3:1"].until); left > suspendMost {
		t.Errorf("suspended for %v", left)
	}
}

// A client of one node learns no other, and hints fill no memory.
func TestHintsAreBounded(t *testing.T) {
	c := clientOf(t, "10.0.0.1:1")
	for i := range 100 {
		if !c.learn(fmt.Sprintf("10.1.0.%d:1", i)) {
			t.Fatal("a hint was refused")
		}
	}
	if got := c.candidates(); len(got) != maxLearned+1 || got[0] != "10.0.0.1:1" || got[maxLearned] != "10.1.0.99:1" {
		t.Errorf("%d addresses: %v", len(got), got)
	}
	c.pinned = true
	if c.learn("10.2.0.1:1") || c.learn("nonsense") {
		t.Error("a client of one node follows hints")
	}
}
