package client

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// name is one configured or hinted HOST:PORT and what it stands for. Guarded by Client.mu.
type name struct {
	text, host, port string
	literal          bool     // an IP address, or resolved by the dialler: it stands for itself
	addrs            []string // IP:PORT; empty before the first answer
	at               time.Time
	learned          bool
}

const (
	maxLearned   = 16              // names taken from hints
	maxAddrs     = 64              // addresses of one name
	lookupLimit  = 2 * time.Second // of one look-up, while calls wait for it
	lookupAgain  = time.Second     // at the earliest, after everything has failed
	lookupFailed = 5 * time.Second // before a name that could not be resolved is looked up again
)

func parseName(text string) *name {
	host, port, err := net.SplitHostPort(text)
	if err != nil || host == "" || port == "" {
		return nil
	}
	return &name{text: text, host: host, port: port}
}

// newName makes a name of a text that parseName takes.
func (c *Client) newName(text string) *name {
	n := parseName(text)
	if _, err := netip.ParseAddr(n.host); err == nil || c.cfg.Resolve == nil {
		n.literal, n.addrs = true, []string{text}
	}
	return n
}

// named finds a name; mu is held, or c is not shared yet.
func (c *Client) named(text string) *name {
	for _, n := range c.names {
		if n.text == text {
			return n
		}
	}
	return nil
}

// learn adds a name from a hint; false where a client of one node keeps to it, or there are too many.
func (c *Client) learn(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.named(text) != nil {
		return true
	}
	if c.pinned || parseName(text) == nil {
		return false
	}
	if learned := slices.IndexFunc(c.names, func(n *name) bool { return n.learned }); learned >= 0 && len(c.names)-learned >= maxLearned {
		c.names = slices.Delete(c.names, learned, learned+1) // the oldest: addresses of nodes change
	}
	n := c.newName(text)
	n.learned = true
	c.names = append(c.names, n)
	return true
}

// resolve looks names up: those that have no address yet while the caller waits, those whose answer is old beside it, and
// if everything has failed, all of them, as addresses may have changed.
func (c *Client) resolve(ctx context.Context, everythingFailed bool) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	var due []*name
	wait := everythingFailed
	now := time.Now()
	for _, n := range c.names {
		age := now.Sub(n.at)
		switch {
		case n.literal:
		case len(n.addrs) == 0 && (n.at.IsZero() || age > lookupFailed || everythingFailed && age > lookupAgain):
			due, wait = append(due, n), true
		case len(n.addrs) > 0 && (age > c.cfg.ResolveEvery || everythingFailed && age > lookupAgain):
			due = append(due, n)
		}
	}
	running := c.resolving
	if running == nil && len(due) > 0 {
		running = make(chan struct{})
		c.resolving = running
		for _, n := range due {
			n.at = now
		}
		go c.lookup(due, running)
	}
	c.mu.Unlock()
	if running == nil || !wait {
		return
	}
	select {
	case <-running:
	case <-ctx.Done():
	}
}

// lookup asks for all names at once. What fails keeps the addresses that it had.
func (c *Client) lookup(due []*name, done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupLimit)
	defer cancel()
	var wg sync.WaitGroup
	for _, n := range due {
		wg.Go(func() {
			found, err := c.cfg.Resolve(ctx, n.host)
			if err != nil || len(found) == 0 {
				c.cfg.Logger.Debug("a name could not be resolved", "name", n.host, "error", err)
				return
			}
			var addrs []string
			for _, ip := range found[:min(len(found), maxAddrs)] {
				if addr := net.JoinHostPort(ip, n.port); !slices.Contains(addrs, addr) {
					addrs = append(addrs, addr)
				}
			}
			// Resolvers sort: without this, all clients would begin at one node.
			rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
			c.mu.Lock()
			defer c.mu.Unlock()
			if len(n.addrs) != len(addrs) || slices.ContainsFunc(addrs, func(a string) bool { return !slices.Contains(n.addrs, a) }) {
				n.addrs = addrs
			}
		})
	}
	wg.Wait()
	c.mu.Lock()
	c.resolving = nil
	c.retire()
	c.mu.Unlock()
	close(done)
}

// addrsOf is where a name leads: to itself while it is not resolved, so that the dialler says what is wrong. mu is held.
func (n *name) addrsOf() []string {
	if len(n.addrs) == 0 {
		return []string{n.text}
	}
	return n.addrs
}

// addresses of a name; empty for one that is not known.
func (c *Client) addresses(text string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.named(text); n != nil {
		return slices.Clone(n.addrsOf())
	}
	return nil
}

// nameOf is the name that an address belongs to, the address itself where there is none.
func (c *Client) nameOf(addr string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.names {
		if slices.Contains(n.addrs, addr) {
			return n.text
		}
	}
	return addr
}
