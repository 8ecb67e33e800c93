package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hizo/hizo/api/hizov1"
)

// A watch has an order of its own in which it prefers the nodes (Client.ranked), and so a node where it is at home. One
// that had to leave goes back when that node is ready again: without this, a restart of all nodes one after the other
// would leave every watch on the first ones. Nothing is missed by it, since a watch goes on from its cursor.

// placing is where a call that any node takes is at home, and where it is.
type placing struct {
	seed uint64
	mu   sync.Mutex
	at   string
}

type placingKey struct{}

func newPlacing() *placing { return &placing{seed: rand.Uint64()} }

func (p *placing) set(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = addr
}

func (p *placing) where() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

func withPlacing(ctx context.Context, p *placing) context.Context {
	return context.WithValue(ctx, placingKey{}, p)
}

func placingOf(ctx context.Context) *placing {
	if p, ok := ctx.Value(placingKey{}).(*placing); ok {
		return p
	}
	return newPlacing()
}

// errHome ends a stream whose watch goes back to a node that it prefers.
var errHome = errors.New("a node that this watch prefers is ready again")

// mind looks from time to time whether a node that p prefers to the present one is ready, and calls leave then. No two
// watches look at the same time: a node that comes back is not run over.
func (c *Client) mind(ctx context.Context, p *placing, leave context.CancelCauseFunc) {
	for {
		timer := time.NewTimer(c.cfg.ReturnEvery/2 + rand.N(c.cfg.ReturnEvery))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		c.resolve(ctx, false)
		for _, addr := range c.preferred(p) {
			check, cancel := context.WithTimeout(ctx, c.cfg.SuspectAfter)
			ready := c.serving(check, addr, hizov1.HealthReady)
			cancel()
			if ready && ctx.Err() == nil {
				c.answered(addr)
				leave(errHome)
				return
			}
		}
	}
}

// preferred are the nodes that p would rather be at than where it is.
func (c *Client) preferred(p *placing) []string {
	at := p.where()
	if at == "" {
		return nil
	}
	var better []string
	for _, addr := range c.ranked(p.seed) {
		if weight(p.seed, addr) > weight(p.seed, at) {
			better = append(better, addr)
		}
	}
	return better
}
