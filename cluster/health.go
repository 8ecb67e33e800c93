package cluster

import (
	"context"
	"time"
)

// healthDuty hands leadership on when this leader's seal does not answer. Such a leader still replicates over the
// streams it has, but its key signs no TLS handshake any more: new clients and nodes that come back could not
// reach it, and nobody else would lead.
//
// Where all nodes have lost their HSMs nobody is better, so a node resigns for this reason once a minute at most.
func (n *Node) healthDuty(ctx context.Context) {
	const pause, limit, between = time.Second, 2 * time.Second, time.Minute
	failed := 0
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		check, cancel := context.WithTimeout(ctx, limit)
		err := n.cfg.Seal.Healthy(check)
		cancel()
		if err == nil || ctx.Err() != nil {
			failed = 0
			continue
		}
		// Twice in a row: a session that was lost once is opened again.
		if failed++; failed < 2 || time.Since(n.resign.unhealthy) < between {
			continue
		}
		n.resign.unhealthy = time.Now()
		n.log.Warn("this leader's seal does not answer; another node has to lead", "error", err)
		n.handOver(ctx, "the seal does not answer", "")
	}
}
