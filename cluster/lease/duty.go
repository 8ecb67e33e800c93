package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/fsm"
)

// errChanged marks records whose MAC is not right.
var errChanged = errors.New("the lease or its role was changed outside the cluster, and nothing is done on its word: drop the user by hand, then `hizo lease dead clear`")

// Duty revokes what is due, for one term of a leader. It is a cluster.Duty.
//
// One goroutine lets leases that are due begin to be revoked, a batch at a time and one batch in flight: other requests
// find their place between two of them however many expire together. Another looks at the queues, one for each server,
// and has a goroutine work at each that is due. A server that is down holds up its own queue and nothing else.
func (e *Engine) Duty(ctx context.Context, n *cluster.Node, term uint64) { e.Run(ctx, n, term) }

// Run is Duty for anything that can stand in for a node.
func (e *Engine) Run(ctx context.Context, n Node, term uint64) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { e.sweep(ctx, n, term) })
	wg.Go(func() { e.dispatch(ctx, n, term) })
}

// now is cluster time as the next entry will have it.
func (e *Engine) now(n Node) int64 { return max(n.Store().Time(), e.cfg.Clock().UnixMilli()) }

// pause waits until a time or the next entry, whichever is first, and at least as long as the engine's own pause.
func (e *Engine) pause(ctx context.Context, n Node, changed, ended <-chan struct{}, until int64, known bool) bool {
	least := time.NewTimer(e.cfg.Pause)
	defer least.Stop()
	select {
	case <-least.C:
	case <-ctx.Done():
		return false
	}
	wait := time.Minute // cluster time moves with the clock even when nothing is written
	if known {
		wait = min(wait, max(0, time.Duration(until-e.now(n))*time.Millisecond))
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-ended:
	case <-ctx.Done():
		return false
	}
	return true
}

// rest leaves the log to others for as long as a batch took, so that a line of any length takes half of it at most.
func rest(ctx context.Context, since time.Time) bool {
	const longest = 250 * time.Millisecond
	timer := time.NewTimer(min(time.Since(since), longest))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (e *Engine) sweep(ctx context.Context, n Node, term uint64) {
	for {
		changed := n.Store().Changed()
		due, known := n.Store().LeasesDue()
		if begin := time.Now(); known && due <= e.now(n) && e.sweepOnce(ctx, n, term) {
			if !rest(ctx, begin) {
				return
			}
			continue
		}
		if !e.pause(ctx, n, changed, nil, due, known) {
			return
		}
	}
}

// sweepOnce reports whether there is more to do at once.
func (e *Engine) sweepOnce(ctx context.Context, n Node, term uint64) bool {
	if _, err := n.Keyring(); err != nil {
		return false // sealed: what could be queued could not be dropped
	}
	result, err := n.Propose(ctx, fsm.Command{
		Kind: fsm.KindLeaseSweep, Principal: "node/" + n.ID(), Term: term,
		Body: fsm.EncodeBody(fsm.KindLeaseSweep, &fsm.LeaseSweep{Limit: uint32(e.cfg.Batch)}),
	})
	if err != nil {
		if ctx.Err() == nil {
			e.log.Info("leases that are due could not be queued", "error", err)
		}
		return false
	}
	swept, ok := result.Value.(fsm.LeaseSwept)
	return ok && swept.More
}

func (e *Engine) dispatch(ctx context.Context, n Node, term uint64) {
	var wg sync.WaitGroup
	defer wg.Wait()
	var mu sync.Mutex
	busy := map[string]bool{} // targets with a goroutine of their own
	ended := make(chan struct{}, 1)
	for {
		changed := n.Store().Changed()
		var next int64
		known := false
		for server, at := range n.Store().LeaseTargets() {
			mu.Lock()
			working := busy[server]
			if !working && at <= e.now(n) {
				busy[server], working = true, true
				wg.Go(func() {
					e.drain(ctx, n, term, server)
					mu.Lock()
					delete(busy, server)
					mu.Unlock()
					select {
					case ended <- struct{}{}:
					default:
					}
				})
			}
			mu.Unlock()
			if !working && (!known || at < next) {
				next, known = at, true
			}
		}
		if !e.pause(ctx, n, changed, ended, next, known) { // ended: something may have come after its last look
			return
		}
	}
}

// drain works off what is due at one target. It reads on behind what it has handled, and begins again at the front once
// it is through: what a dropped user leaves in the index for a while is not walked over each time.
func (e *Engine) drain(ctx context.Context, n Node, term uint64, server string) {
	place, handled := "", 0
	down := map[[16]byte]outage{}
	for ctx.Err() == nil {
		leases, next := n.Store().LeaseQueue(server, e.now(n), place, e.cfg.Batch)
		if len(leases) > 0 {
			begin := time.Now()
			if !e.handle(ctx, n, term, server, leases, down) {
				return
			}
			handled += len(leases)
			if next != "" && !rest(ctx, begin) {
				return
			}
		}
		if next == "" && handled == 0 {
			return
		}
		if place = next; place == "" {
			handled = 0
		}
	}
}

// handle drops the users of a batch and records what became of it. It reports whether to go on.
func (e *Engine) handle(ctx context.Context, n Node, term uint64, server string, leases []fsm.Lease, down map[[16]byte]outage) bool {
	results := e.drop(ctx, n, leases, down)
	if ctx.Err() != nil {
		return false // another leader does it again
	}
	cmd := fsm.Command{Kind: fsm.KindLeaseOutcomes, Principal: "node/" + n.ID(), Term: term}
	body := &fsm.LeaseOutcomes{}
	failed, why := uint32(0), ""
	for i, l := range leases {
		o := fsm.LeaseOutcome{ID: l.ID, Changed: l.Changed}
		if err := results[i]; err == nil {
			o.Dropped = true
			cmd.Audits = append(cmd.Audits, fsm.Audit{
				Action: ActionDrop, Resource: l.Vault + "/" + l.Role, Decision: fsm.Allowed,
				Detail: fmt.Sprintf("lease %s user %s of %s", fsm.LeaseText(l.ID), l.Username, l.Principal),
			})
		} else {
			o.Error, o.Permanent = e.told(err), errors.Is(err, target.ErrPermanent) || errors.Is(err, errChanged)
			failed, why = failed+1, o.Error
		}
		body.Outcomes = append(body.Outcomes, o)
	}
	if failed > 0 {
		cmd.Audits = append(cmd.Audits, fsm.Audit{
			Action: ActionDrop, Resource: server, Decision: fsm.Allowed, Count: failed, Detail: "users that could not be dropped: " + why,
		})
		e.log.Warn("users of leases could not be dropped", "server", server, "users", failed, "why", why)
	}
	cmd.Body = fsm.EncodeBody(cmd.Kind, body)
	result, err := n.Propose(ctx, cmd)
	if err == nil && result.Code == fsm.CodeOK {
		return true
	}
	if ctx.Err() == nil {
		e.log.Info("outcomes of revocations could not be recorded; they are repeated", "error", err, "code", result.Code)
	}
	return false
}

// tries is how many calls for one role may fail in a batch before the rest of it counts as failed too, and outageFor how
// long the batches after it do.
const (
	tries     = 3
	outageFor = 30 * time.Second
)

// outage is a role whose server answered nothing but errors.
type outage struct {
	err   error
	until time.Time
}

// drop drops the users of a batch, a few at a time. All of one role share a credential, and if the first calls fail
// without one that succeeds, the rest is not tried: a server that is down costs some time-outs, not thousands. Which are
// the first is drawn, or three users that can't be dropped would stand before all others for ever.
func (e *Engine) drop(ctx context.Context, n Node, leases []fsm.Lease, down map[[16]byte]outage) []error {
	results := make([]error, len(leases))
	groups := map[[16]byte]*group{}
	for _, l := range leases {
		if groups[l.Revision] != nil {
			continue
		}
		if out, ok := down[l.Revision]; ok && time.Now().Before(out.until) {
			groups[l.Revision] = &group{err: out.err}
		} else {
			groups[l.Revision] = e.group(ctx, n, l)
		}
	}
	defer func() {
		for revision, g := range groups {
			g.admin.Wipe()
			if !g.succeeded && g.failures >= tries {
				down[revision] = outage{g.last, time.Now().Add(outageFor)}
			}
		}
	}()
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(e.cfg.Workers, len(leases)) {
		wg.Go(func() {
			for i := range next {
				results[i] = groups[leases[i].Revision].drop(ctx, e, n, leases[i])
			}
		})
	}
	for _, i := range rand.Perm(len(leases)) {
		next <- i
	}
	close(next)
	wg.Wait()
	return results
}

// group is what the leases of one role in a batch have in common.
type group struct {
	role  fsm.LeaseRole
	users target.Users
	admin Admin
	err   error // why none of them can be dropped

	mu        sync.Mutex
	succeeded bool
	failures  int
	last      error
}

func (e *Engine) group(ctx context.Context, n Node, l fsm.Lease) *group {
	g := &group{}
	var ok bool
	if g.role, _, ok = n.Store().LeaseTerms(l.Revision); !ok {
		g.err = errChanged
		return g
	}
	if g.err = verify(n, g.role, g.role.MAC); g.err != nil {
		e.log.Error("a lease role was changed outside the cluster and is not honoured", "role", l.Vault+"/"+l.Role)
		return g
	}
	if g.users, g.err = e.users(g.role.Kind); g.err != nil {
		return g
	}
	g.admin, g.err = e.Admin(ctx, n, g.role, "to drop users of "+l.Vault+"/"+l.Role)
	return g
}

// verify checks the MAC of a record whose word would send a credential somewhere or drop somebody.
func verify(n Node, record fsm.MACed, mac []byte) error {
	keys, err := n.Keyring()
	if err != nil {
		return err
	}
	c, _ := n.Store().Cluster()
	if err := keys.VerifyMAC(c.MACGeneration, record.MACDomain(), record.MACBody(), mac); err != nil {
		return fmt.Errorf("%w: %w", errChanged, err)
	}
	return nil
}

func (g *group) drop(ctx context.Context, e *Engine, n Node, l fsm.Lease) error {
	if g.err != nil {
		return g.err
	}
	if err := verify(n, l, l.MAC); err != nil {
		e.log.Error("a lease was changed outside the cluster and is not honoured", "lease", fsm.LeaseText(l.ID))
		return err
	}
	g.mu.Lock()
	hopeless, last := !g.succeeded && g.failures >= tries, g.last
	g.mu.Unlock()
	if hopeless {
		return last
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	err := g.users.Drop(ctx, userOf(g.role, l, g.admin))
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		g.failures++
		g.last = err
		return err
	}
	g.succeeded = true
	return nil
}
