package api

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/fsm"
)

// floods bounds what failures cost: an attempt without a valid token, a denied request, a request above
// its principal's rate. Within the bounds denials have a record of their own; all else is counted, and
// the counts become records every second. A crash loses at most the counts of the last second.
type floods struct {
	anonymous *auth.Limiter
	denials   auth.Rate

	mu      sync.Mutex
	byName  map[string]*rate.Limiter // denials that get a record, per principal
	pending map[floodKey]uint32
}

// floodKey is what one counted record says.
type floodKey struct {
	principal, action, resource string
	addr                        netip.Addr
	detail                      string
	decision                    fsm.Decision
}

// Bounds of the tables; what does not fit is counted under one key.
const (
	maxFloods       = 1024
	floodsAtOnce    = 64 // audits of one record
	floodEvery      = time.Second
	anonymousText   = "anonymous"
	actionAuth      = "authenticate"
	actionLogin     = "login"
	detailStranger  = "no valid token"
	detailStopped   = "stopped by the rate limit"
	detailElsewhere = "from more addresses than are told apart"
)

func newFloods(l Limits) *floods {
	return &floods{
		anonymous: auth.NewLimiter(l.Anonymous), denials: l.Denials,
		byName: make(map[string]*rate.Limiter), pending: make(map[floodKey]uint32),
	}
}

func (f *floods) count(k floodKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.pending[k]; !ok && len(f.pending) >= maxFloods {
		k = floodKey{principal: anonymousText, action: k.action, decision: k.decision, detail: detailElsewhere}
	}
	if n := f.pending[k]; n < 1<<32-1 {
		f.pending[k] = n + 1
	}
}

// stranger counts an attempt without a valid token, and says whether its address may go on trying.
func (f *floods) stranger(addr netip.Addr) (time.Duration, bool) {
	v := f.anonymous.Allow(addr, name.Principal{})
	if !v.OK {
		return v.RetryAfter, false // the limiter counts it
	}
	f.count(floodKey{principal: anonymousText, action: actionAuth, addr: addr, decision: fsm.Failed, detail: detailStranger})
	return 0, true
}

// attempt asks for one try at an account, before it costs anything.
func (f *floods) attempt(addr netip.Addr, account name.Principal) (time.Duration, bool) {
	v := f.anonymous.Allow(addr, account)
	return v.RetryAfter, v.OK
}

// limited counts a request above its principal's rate.
func (f *floods) limited(c *caller) {
	f.count(floodKey{principal: c.text, action: actionAuth, decision: fsm.Failed, detail: detailStopped})
}

// deny says whether a denial gets a record of its own; otherwise it is counted.
func (f *floods) deny(r *round, t target) bool {
	f.mu.Lock()
	l, ok := f.byName[r.caller.text]
	if !ok {
		if len(f.byName) >= maxLimiters {
			clear(f.byName)
		}
		l = rate.NewLimiter(rate.Every(f.denials.Every), f.denials.Burst)
		f.byName[r.caller.text] = l
	}
	f.mu.Unlock()
	if l.AllowN(time.UnixMilli(r.now), 1) {
		return true
	}
	f.count(floodKey{principal: r.caller.text, action: string(t.action), decision: fsm.Denied, detail: detailStopped})
	return false
}

// drain takes what was counted.
func (f *floods) drain() []floodCount {
	for _, flood := range f.anonymous.Drain() {
		k := floodKey{principal: anonymousText, action: actionAuth, decision: fsm.Failed, detail: detailStopped}
		switch flood.By {
		case auth.ByAddress:
			if p, err := netip.ParsePrefix(flood.Key); err == nil {
				k.addr = p.Addr()
			}
		case auth.ByAccount:
			// The account's name came from outside: it is told only where such an account exists.
			k.action, k.resource = actionLogin, flood.Key
		}
		f.add(k, uint32(min(flood.Count, 1<<32-1)))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]floodCount, 0, len(f.pending))
	for k, n := range f.pending {
		out = append(out, floodCount{floodKey: k, count: n})
	}
	clear(f.pending)
	return out
}

func (f *floods) add(k floodKey, n uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending[k] += min(n, 1<<32-1-f.pending[k])
}

type floodCount struct {
	floodKey
	count uint32
}

// recordFloods writes the counts into the log until ctx ends, and once more then.
func (g *gate) recordFloods(ctx context.Context) {
	tick := time.NewTicker(floodEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			g.flushFloods(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), floodEvery)
			defer cancel()
			g.flushFloods(last)
			return
		}
	}
}

// flushFloods keeps the counts where they can't be recorded now.
func (g *gate) flushFloods(ctx context.Context) {
	foot, err := g.footing()
	if err != nil {
		return
	}
	byPrincipal := make(map[string][]floodCount)
	for _, c := range g.floods.drain() {
		byPrincipal[c.principal] = append(byPrincipal[c.principal], c)
	}
	for _, counts := range byPrincipal {
		for group := range slices.Chunk(counts, floodsAtOnce) {
			if err := g.recordCounts(ctx, foot, group); err != nil {
				for _, c := range group {
					g.floods.add(c.floodKey, c.count)
				}
				g.log.Warn("counts of refused requests could not be recorded yet", "error", err)
			}
		}
	}
}

// recordCounts records counts of one principal. After an unknown outcome they may be recorded twice,
// never not at all.
func (g *gate) recordCounts(ctx context.Context, foot footing, counts []floodCount) error {
	audits := make([]fsm.Audit, 0, len(counts))
	for _, c := range counts {
		if c.action == actionLogin {
			c.resource = knownAccount(foot.store, c.resource)
		}
		sealed, err := foot.seal(auditBind(c.principal, c.action, c.resource), c.addr, "", [16]byte{}, encodeClaims(nil))
		if err != nil {
			return err
		}
		audits = append(audits, fsm.Audit{
			Action: c.action, Resource: c.resource, Decision: c.decision, Detail: c.detail, Count: c.count,
			Generation: foot.cluster.AuditGeneration, Sealed: sealed,
		})
	}
	_, err := g.node.Propose(ctx, fsm.Command{
		Format: fsm.CommandFormat, Kind: fsm.KindRecord, Principal: counts[0].principal, Audits: audits,
	})
	return err
}

// knownAccount is the account where it exists: people type passwords where names belong, and the
// readable part of a record is no place for those.
func knownAccount(store *fsm.Store, account string) string {
	p, err := name.ParsePrincipal(account)
	if err != nil {
		return ""
	}
	known := false
	switch p.Kind {
	case name.KindUser:
		_, known = store.User(p.Name)
	case name.KindWorkload:
		_, known = store.Workload(p.Name)
	}
	if !known {
		return string(p.Kind) + "/?"
	}
	return account
}
