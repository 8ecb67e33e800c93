package api

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/crypto/envelope"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/fsm"
)

// floods bounds what failures cost: an attempt without a valid token, a denied request, a request above
// its principal's rate. Within the bounds denials have a record of their own; all else is counted, and
// the counts become records every second. A crash loses at most the counts of the last second.
type floods struct {
	// Each has totals of its own: who tries tokens from everywhere keeps nobody from logging in, and
	// neither keeps operators from unsealing.
	strangers  *auth.Limiter // requests without a valid token
	logins     *auth.Limiter
	ceremonies *auth.Limiter // Init and Unseal
	denials    auth.Rate

	mu      sync.Mutex
	byName  map[string]*rate.Limiter // denials that get a record, per principal
	pending map[floodKey]*tally
}

// floodKey is what one counted record says.
type floodKey struct {
	principal, action, resource string
	addr                        netip.Addr // the first of its /64 for IPv6
	detail                      string
	decision                    fsm.Decision
}

// tally is how often that happened, and a few examples of what it was about. Those are for the sealed part.
type tally struct {
	count     uint32
	sources   []string // address prefixes
	resources []string
}

// maxExamples bounds each list of a tally.
const maxExamples = 8

func (t *tally) add(other tally) {
	t.count += min(other.count, 1<<32-1-t.count)
	t.sources = examples(t.sources, other.sources)
	t.resources = examples(t.resources, other.resources)
}

// examples keeps the last ones.
func examples(list, more []string) []string {
	for _, s := range more {
		if s == "" || slices.Contains(list, s) {
			continue
		}
		if list = append(list, s); len(list) > maxExamples {
			list = slices.Delete(list, 0, 1)
		}
	}
	return list
}

func (t tally) claims() []byte {
	claims := make(map[string]string)
	if len(t.sources) > 0 {
		claims["sources"] = strings.Join(t.sources, " ")
	}
	if len(t.resources) > 0 {
		claims["resources"] = strings.Join(t.resources, " ")
	}
	return encodeClaims(claims)
}

// Bounds of the tables; what does not fit is counted without its address, and if there is no room for
// that either, under one key.
const (
	maxFloods       = 1024
	floodsAtOnce    = 8 // audits of one record: a follower's have to fit what a member may forward
	floodEvery      = time.Second
	anonymousText   = "anonymous"
	actionAuth      = "authenticate"
	actionLogin     = "login"
	detailStranger  = "no valid token"
	detailStopped   = "stopped by the rate limit"
	detailForged    = "not decided: a stored record was changed outside the cluster"
	detailElsewhere = "from more addresses than are told apart"
)

func newFloods(l Limits) *floods {
	return &floods{
		strangers: auth.NewLimiter(l.Anonymous), logins: auth.NewLimiter(l.Anonymous), ceremonies: auth.NewLimiter(l.Anonymous),
		denials: l.Denials,
		byName:  make(map[string]*rate.Limiter), pending: make(map[floodKey]*tally),
	}
}

// prefix is the address with what one client can choose freely cut off.
func prefix(addr netip.Addr) netip.Addr {
	if !addr.Is6() {
		return addr
	}
	p, err := addr.WithZone("").Prefix(64)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr()
}

func (f *floods) count(k floodKey, resources ...string) {
	f.add(k, tally{count: 1, resources: resources})
}

func (f *floods) add(k floodKey, t tally) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k.addr = prefix(k.addr)
	if f.pending[k] == nil && len(f.pending) >= maxFloods {
		if k.addr.IsValid() {
			t.sources = examples(t.sources, []string{k.addr.String()})
		}
		k.addr, k.resource, k.detail = netip.Addr{}, "", detailElsewhere
		if f.pending[k] == nil && len(f.pending) >= 2*maxFloods {
			k.principal = anonymousText
		}
	}
	have := f.pending[k]
	if have == nil {
		have = new(tally)
		f.pending[k] = have
	}
	have.add(t)
}

// stranger counts an attempt without a valid token, and says whether its address may go on trying.
func (f *floods) stranger(addr netip.Addr) (time.Duration, bool) {
	v := f.strangers.Allow(addr, name.Principal{})
	if !v.OK {
		return v.RetryAfter, false // the limiter counts it
	}
	f.count(floodKey{principal: anonymousText, action: actionAuth, addr: addr, decision: fsm.Failed, detail: detailStranger})
	return 0, true
}

// attempt asks for one try at an account, before it costs anything.
func (f *floods) attempt(addr netip.Addr, account name.Principal) (time.Duration, bool) {
	v := f.logins.Allow(addr, account)
	return v.RetryAfter, v.OK
}

// ceremony asks for one try at initialising or unsealing.
func (f *floods) ceremony(addr netip.Addr) (time.Duration, bool) {
	v := f.ceremonies.Allow(addr, name.Principal{})
	return v.RetryAfter, v.OK
}

func names(targets []target) []string {
	list := make([]string, 0, min(len(targets), maxExamples))
	for i := range targets[:min(len(targets), maxExamples)] {
		list = append(list, targets[i].name)
	}
	return list
}

// stop counts a request above its principal's rate.
func (f *floods) stop(r *round, decision fsm.Decision) {
	f.count(floodKey{
		principal: r.caller.text, action: string(r.targets[0].action), addr: r.origin.addr, decision: decision, detail: detailStopped,
	}, names(r.targets)...)
}

// forged counts a request that could not be decided because what its decision rests on was changed outside the
// cluster. Other errors are no attempt of anybody's.
func (f *floods) forged(r *round, err error) {
	if !errors.Is(err, keyring.ErrMAC) {
		return
	}
	k := floodKey{principal: anonymousText, action: actionAuth, addr: r.origin.addr, decision: fsm.Failed, detail: detailForged}
	if r.caller != nil {
		k.principal = r.caller.text
	}
	if len(r.targets) > 0 {
		k.action = string(r.targets[0].action)
	}
	f.count(k, names(r.targets)...)
}

// own says whether a refusal gets a record of its own; otherwise it is counted.
func (f *floods) own(r *round, decision fsm.Decision) bool {
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
	f.stop(r, decision)
	return false
}

// drain takes what was counted.
func (f *floods) drain() []floodCount {
	for _, l := range []struct {
		action  string
		limiter *auth.Limiter
	}{{actionAuth, f.strangers}, {actionLogin, f.logins}, {actionUnseal, f.ceremonies}} {
		for _, flood := range l.limiter.Drain() {
			k := floodKey{principal: anonymousText, action: l.action, decision: fsm.Failed, detail: detailStopped}
			switch flood.By {
			case auth.ByAddress:
				if p, err := netip.ParsePrefix(flood.Key); err == nil {
					k.addr = p.Addr()
				}
			case auth.ByPair, auth.ByAccount:
				// The account's name came from outside: it is told only where such an account exists.
				k.resource = flood.Key
			}
			f.add(k, tally{count: uint32(min(flood.Count, 1<<32-1)), sources: flood.Sources})
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]floodCount, 0, len(f.pending))
	for k, t := range f.pending {
		out = append(out, floodCount{floodKey: k, tally: *t})
	}
	clear(f.pending)
	return out
}

type floodCount struct {
	floodKey
	tally
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

// flushFloods keeps the counts where they can't be recorded now. A follower's go through the leader.
func (g *gate) flushFloods(ctx context.Context) {
	store := g.node.Store()
	c, ok := store.Cluster()
	if !ok || c.Sealed {
		return
	}
	keys, err := g.node.Keyring()
	if err != nil && !errors.Is(err, cluster.ErrSealed) || err != nil && g.node.IsLeader() {
		return // a sealed leader takes no records of clients
	}
	foot := footing{store: store, keys: keys, cluster: c}
	if _, known := g.node.Leader(); !known {
		return
	}
	byPrincipal := make(map[string][]floodCount)
	for _, c := range g.floods.drain() {
		if keys == nil && (c.principal != anonymousText || c.decision != fsm.Failed) {
			g.floods.add(c.floodKey, c.tally) // from before it was sealed: a sealed node speaks for nobody
			continue
		}
		byPrincipal[c.principal] = append(byPrincipal[c.principal], c)
	}
	for _, counts := range byPrincipal {
		for group := range slices.Chunk(counts, floodsAtOnce) {
			if err := g.recordCounts(ctx, foot, group); err != nil {
				for _, c := range group {
					g.floods.add(c.floodKey, c.tally)
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
		audit := fsm.Audit{Action: c.action, Resource: c.resource, Decision: c.decision, Detail: c.detail, Count: c.count}
		bind := auditBind(c.principal, c.action, c.resource)
		var err error
		if foot.keys != nil {
			audit.Generation = foot.cluster.AuditGeneration
			audit.Sealed, err = foot.seal(bind, c.addr, "", [16]byte{}, c.claims())
		} else {
			body := appendSealedPart(nil, c.addr, "", [16]byte{}, c.claims())
			audit.Sealed, err = envelope.SealAuditTo(foot.cluster.AuditPublicKey, foot.cluster.ID, 1, bind, body)
		}
		if err != nil {
			return err
		}
		audits = append(audits, audit)
	}
	result, err := g.node.ForwardRecord(ctx, fsm.Command{
		Format: fsm.CommandFormat, Kind: fsm.KindRecord, Principal: counts[0].principal, Audits: audits,
	})
	if err != nil {
		return err
	}
	return outcome(result) // anything but OK: not on record
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
