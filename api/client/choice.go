package client

import (
	"cmp"
	"context"
	"encoding/binary"
	"hash/fnv"
	"slices"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/hizo/hizo/api/hizov1"
)

// health is what is known of an address that failed. Nothing is refused because of it: such addresses are asked last.
type health struct {
	fails int
	until time.Time
}

// Suspension of an address that failed, doubled each time.
const (
	suspendFirst = 250 * time.Millisecond
	suspendMost  = 10 * time.Second
)

// suspend notes that a node could not be reached, did not answer, or is stopping.
func (c *Client) suspend(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leader == addr {
		c.leader = ""
	}
	h := c.health[addr]
	if h == nil {
		h = &health{}
		c.health[addr] = h
	}
	d := suspendMost
	if h.fails < 6 {
		d = min(d, suspendFirst<<h.fails)
	}
	h.fails++
	h.until = time.Now().Add(d)
}

func (c *Client) suspended(addr string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.health[addr]
	return h != nil && time.Now().Before(h.until)
}

// answered notes that a node gave an answer.
func (c *Client) answered(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.health, addr)
}

// candidates returns all known addresses: the leader, then those that nothing speaks against, then the suspended ones,
// each in the order of the names.
func (c *Client) candidates() []string {
	return c.order(func(a, b string) int {
		switch c.leader {
		case a:
			return -1
		case b:
			return 1
		}
		return 0
	})
}

// ranked returns all known addresses in an order of the caller's own, the same each time as long as the addresses are
// the same (rendezvous hashing): calls that any node takes spread over the nodes, and a node more or less moves only
// those that have to move.
func (c *Client) ranked(seed uint64) []string {
	return c.order(func(a, b string) int { return cmp.Compare(weight(seed, b), weight(seed, a)) })
}

func weight(seed uint64, addr string) uint64 {
	h := fnv.New64a()
	_ = binary.Write(h, binary.BigEndian, seed)
	_, _ = h.Write([]byte(addr))
	x := h.Sum64() // FNV's high bits hardly depend on the last bytes: stir them (splitmix64)
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

func (c *Client) order(compare func(a, b string) int) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, n := range c.names {
		for _, a := range n.addrsOf() {
			if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	now := time.Now()
	suspended := func(a string) int {
		if h := c.health[a]; h != nil && now.Before(h.until) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(out, func(a, b string) int {
		return cmp.Or(cmp.Compare(suspended(a), suspended(b)), compare(a, b))
	})
	return out
}

func (c *Client) setLeader(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = addr
	delete(c.health, addr)
}

func (c *Client) forgetLeader(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leader == addr {
		c.leader = ""
	}
}

// movedError is why an attempt was given up: another node leads.
type movedError struct{ to string }

func (e *movedError) Error() string { return e.to + " leads by now" }

// lookout watches an attempt that takes long: a node that hangs keeps its connections, and the others may have
// elected another leader long ago. It ends with ctx.
func (c *Client) lookout(ctx context.Context, addr string, giveUp context.CancelCauseFunc) *time.Timer {
	return time.AfterFunc(c.cfg.SuspectAfter, func() {
		pause := time.NewTicker(c.cfg.SuspectAfter)
		defer pause.Stop()
		for ctx.Err() == nil {
			if other := c.leaderBeside(ctx, addr); other != "" {
				giveUp(&movedError{to: other})
				return
			}
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
		}
	})
}

// leaderBeside asks the other nodes whether they lead.
func (c *Client) leaderBeside(ctx context.Context, addr string) string {
	if c.pinned || !c.looking.TryLock() {
		return ""
	}
	defer c.looking.Unlock()
	ctx, cancel := context.WithTimeout(ctx, c.cfg.SuspectAfter)
	defer cancel()
	asked := 0
	found := make(chan string)
	for _, other := range c.candidates() {
		if other == addr {
			continue
		}
		asked++
		go func() {
			said := ""
			if c.serving(ctx, other, hizov1.HealthLeader) {
				said = other
			}
			select {
			case found <- said:
			case <-ctx.Done():
			}
		}()
	}
	for range asked {
		select {
		case other := <-found:
			if other != "" {
				return other
			}
		case <-ctx.Done():
			return ""
		}
	}
	return ""
}

// serving asks a node's health service, which needs no token and costs no record.
func (c *Client) serving(ctx context.Context, addr, service string) bool {
	n, err := c.conn(addr)
	if err != nil {
		return false
	}
	defer c.release(n)
	if err := n.ready(ctx); err != nil {
		return false
	}
	r, err := grpc_health_v1.NewHealthClient(n.grpc).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	return err == nil && r.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING
}
