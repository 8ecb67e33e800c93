package api

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/fsm"
)

// origin is where a request came from and what it carried.
type origin struct {
	addr  netip.Addr
	token [32]byte // hash
	bears bool     // a well-formed token was sent
}

func originOf(ctx context.Context) origin {
	if o, ok := ctx.Value(originKey{}).(origin); ok {
		return o
	}
	o := origin{addr: clientAddr(ctx)}
	o.read(metadata.ValueFromIncomingContext(ctx, hizov1.MetaAuthorization))
	return o
}

// read takes the token out of the authorization headers.
func (o *origin) read(values []string) {
	if len(values) != 1 { // two tokens are no token: which one was meant?
		return
	}
	text, ok := strings.CutPrefix(values[0], "Bearer ")
	if !ok {
		return
	}
	t, err := auth.ParseToken(auth.AccessToken, text)
	if err != nil {
		return
	}
	o.token, o.bears = t.Hash(), true
}

func clientAddr(ctx context.Context) netip.Addr {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return netip.Addr{}
	}
	return addrOf(p.Addr)
}

// requestID demands a UUIDv7 (RFC 9562, section 5.7): the state machine reads its time.
func requestID(ctx context.Context) ([16]byte, error) {
	values := metadata.ValueFromIncomingContext(ctx, hizov1.MetaRequestID)
	if len(values) != 1 || len(values[0]) != 36 {
		return [16]byte{}, invalid(hizov1.MetaRequestID, "a change needs one UUIDv7 in the metadata key %s, the same over all its retries", hizov1.MetaRequestID)
	}
	id, err := uuid.Parse(values[0])
	if err != nil || id.Version() != 7 || id.Variant() != uuid.RFC4122 {
		return [16]byte{}, invalid(hizov1.MetaRequestID, "the request id is not a UUIDv7: make a new one")
	}
	return id, nil
}

// caller is an authenticated principal, as it was at the indexes of reads. Immutable but for the limiter.
type caller struct {
	principal name.Principal
	text      string // "user/alice"
	roles     []string
	method    string
	token     [32]byte
	expires   int64
	max       int64
	claims    []byte            // encoded, for the sealed part of records
	facts     map[string]string // context.claims: what the issuer of a workload identity said
	issuer    string
	binding   string
	reads     []fsm.Read
	budget    *budget // shared by all tokens of the principal
}

// budget is how often a principal may ask.
type budget struct{ all, self *rate.Limiter }

// selfService says whether an action takes no right: everybody may do it about themselves. Each is a
// record that all nodes keep, so whoever holds any token could fill the log with them.
func selfService(a policy.Action) bool {
	switch a {
	case policy.WhoAmI, policy.ClusterStatus, policy.PolicyExplain, policy.TokenRenew, policy.TokenRevoke, policy.PasswordSet:
		return true
	}
	return false
}

func (c *caller) allow(now time.Time, action policy.Action) (time.Duration, bool) {
	l := c.budget.all
	if selfService(action) && !c.budget.self.AllowN(now, 1) {
		l = c.budget.self
	} else if l.AllowN(now, 1) {
		return 0, true
	}
	return time.Duration(float64(time.Second) / float64(l.Limit())), false
}

// callers remembers who tokens belong to. An entry counts only while nothing that it was read from has
// changed; and a stale one could not do harm either, because its indexes go into the read set.
type callers struct {
	mu      sync.RWMutex
	byToken map[[32]byte]*caller
	budgets map[string]*budget
}

const (
	maxCallers  = 16 << 10
	maxLimiters = 16 << 10
)

func newCallers() *callers {
	return &callers{byToken: make(map[[32]byte]*caller), budgets: make(map[string]*budget)}
}

func (cs *callers) get(token [32]byte) *caller {
	cs.mu.RLock()
	defer cs.mu.RUnlock()
	return cs.byToken[token]
}

func (cs *callers) put(c *caller) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if len(cs.byToken) >= maxCallers {
		clear(cs.byToken) // costs each its next request a few reads more
	}
	cs.byToken[c.token] = c
}

func (cs *callers) drop(token [32]byte) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.byToken, token)
}

// budget returns the principal's. Principals are authenticated, so the table can't be filled from
// outside; should there ever be more of them than it holds, they start with full buckets again.
func (cs *callers) budget(principal string, l Limits) *budget {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	b, ok := cs.budgets[principal]
	if !ok {
		if len(cs.budgets) >= maxLimiters {
			clear(cs.budgets)
		}
		b = &budget{
			all:  rate.NewLimiter(rate.Every(l.Principal.Every), l.Principal.Burst),
			self: rate.NewLimiter(rate.Every(l.Self.Every), l.Self.Burst),
		}
		cs.budgets[principal] = b
	}
	return b
}

// current reports whether nothing of reads has changed since.
func current(store *fsm.Store, reads []fsm.Read) bool {
	for i := range reads {
		if store.Index(reads[i].Object) != reads[i].Index {
			return false
		}
	}
	return true
}

// authenticate finds out who calls, from the token alone. That a token is over is for cluster time to say: a node whose
// own clock is far ahead of what a majority's has confirmed would refuse everybody. Where cluster time is far behind
// because the cluster was off, the record decides: it waits until time was moved on, and Apply looks at the token again.
func (g *gate) authenticate(r *round) (*caller, error) {
	if !r.origin.bears {
		return nil, g.stranger(r.origin)
	}
	c := g.callers.get(r.origin.token)
	if c == nil || !current(r.store, c.reads) {
		var err error
		if c, err = g.identify(r); err != nil {
			return nil, err
		}
		g.callers.put(c)
	}
	if min(r.now, r.store.Time()+fsm.MaxClockStep.Milliseconds()) >= c.expires {
		return nil, g.stranger(r.origin)
	}
	return c, nil
}

// stranger counts an attempt without a valid token and answers it.
func (g *gate) stranger(o origin) error {
	if wait, ok := g.floods.stranger(o.addr); !ok {
		return rateLimited(wait)
	}
	return fault(hizov1.ReasonUnauthenticated)
}

// identify reads token, principal and roles. Each index is taken before its object: if the object
// changes in between, the older index has the record superseded, never the other way round.
func (g *gate) identify(r *round) (*caller, error) {
	hash := r.origin.token
	object := fsm.ObjToken(hash[:])
	reads := []fsm.Read{{Object: object, Index: r.store.Index(object)}}
	token, ok := r.store.Token(hash[:])
	if !ok {
		return nil, g.stranger(r.origin)
	}
	if err := g.verify(r.footing, token, token.MAC, object); err != nil {
		return nil, err
	}
	principal, err := name.ParsePrincipal(token.Principal)
	if err != nil {
		return nil, err
	}
	object = objPrincipal(principal)
	reads = append(reads, fsm.Read{Object: object, Index: r.store.Index(object)})
	enabled, err := g.enabled(r.footing, principal)
	if err != nil {
		return nil, err
	}
	if !enabled {
		return nil, g.stranger(r.origin)
	}
	object = fsm.ObjRoles(token.Principal)
	reads = append(reads, fsm.Read{Object: object, Index: r.store.Index(object)})
	roles, err := g.roles(r.footing, token.Principal)
	if err != nil {
		return nil, err
	}
	sealed := map[string]string{"method": token.Method, "token": auth.TokenID(hash)}
	var facts map[string]string
	if token.Binding != "" {
		ok, rest, err := g.federation.holds(g, r.footing, &token)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, g.stranger(r.origin)
		}
		reads, facts = append(reads, rest...), factsOf(token.Claims)
		sealed["issuer"], sealed["binding"] = token.Issuer, token.Binding
	}
	return &caller{
		principal: principal, text: token.Principal, roles: roles, method: token.Method,
		token: hash, expires: token.Expires, max: token.MaxExpires, reads: reads,
		claims: encodeClaims(sealed), facts: facts, issuer: token.Issuer, binding: token.Binding,
		budget: g.callers.budget(token.Principal, g.limits),
	}, nil
}

func objPrincipal(p name.Principal) string {
	if p.Kind == name.KindWorkload {
		return fsm.ObjWorkload(p.Name)
	}
	return fsm.ObjUser(p.Name)
}

// enabled reports whether a user or workload exists and is not disabled.
func (g *gate) enabled(f footing, p name.Principal) (bool, error) {
	switch p.Kind {
	case name.KindUser:
		u, ok := f.store.User(p.Name)
		if !ok {
			return false, nil
		}
		return !u.Disabled, g.verify(f, u, u.MAC, fsm.ObjUser(p.Name))
	case name.KindWorkload:
		w, ok := f.store.Workload(p.Name)
		if !ok {
			return false, nil
		}
		return !w.Disabled, g.verify(f, w, w.MAC, fsm.ObjWorkload(p.Name))
	}
	return false, nil
}

// roles returns the roles that a principal holds.
func (g *gate) roles(f footing, principal string) ([]string, error) {
	bindings := f.store.Roles(principal)
	roles := make([]string, 0, len(bindings))
	for _, b := range bindings {
		if err := g.verify(f, b, b.MAC, fsm.ObjRoles(principal)); err != nil {
			return nil, err
		}
		roles = append(roles, b.Role)
	}
	return roles, nil
}

// verify checks the MAC of a record that grants something. A record without a good one was changed
// outside the cluster and grants nothing; that is an incident, so it is logged by name.
func (g *gate) verify(f footing, record fsm.MACed, mac []byte, object string) error {
	err := f.keys.VerifyMAC(f.cluster.MACGeneration, record.MACDomain(), record.MACBody(), mac)
	if errors.Is(err, keyring.ErrMAC) {
		g.log.Error("a stored record was changed outside the cluster and is not honoured", "object", object)
	}
	return err
}
