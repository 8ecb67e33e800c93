package api

import (
	"context"
	"crypto/x509"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hizo/hizo/api/auth/issuer"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/fsm"
)

// federation are the issuers and bindings of the state, ready to verify and to match. Issuers that have not changed stay
// as they are, with the keys that they have fetched. A record whose MAC does not verify, or that this version can't
// read, grants nothing, and takes nothing from the others.
type federation struct {
	fetcher *issuer.Fetcher

	mu       sync.Mutex
	issuers  marked[trusted]
	bindings marked[bound]
}

// marked is what was compiled as of one change index.
type marked[T any] struct {
	known  bool
	index  uint64
	byName map[string]*T
}

// trusted is an issuer.
type trusted struct {
	fsm.Issuer
	verifier *issuer.Issuer
}

// bound is a binding.
type bound struct {
	fsm.ClaimBinding
	condition *policy.Condition // nil: none
}

// matches says whether claims are what the binding demands.
func (b *bound) matches(claims map[string]string) bool {
	for _, m := range b.Match {
		if value, ok := claims[m.Name]; !ok || value != m.Value {
			return false
		}
	}
	return b.condition == nil || b.condition.Holds(claims)
}

// carried are the claims that a login keeps: those that the binding names, and who it was.
func (b *bound) carried(claims map[string]string) []fsm.Claim {
	names := slices.Concat([]string{"iss", "sub"}, b.Carry)
	for _, m := range b.Match {
		names = append(names, m.Name)
	}
	if b.condition != nil {
		names = append(names, b.condition.Claims()...)
	}
	slices.Sort(names)
	var out []fsm.Claim
	for _, n := range slices.Compact(names) {
		if value, ok := claims[n]; ok {
			out = append(out, fsm.Claim{Name: n, Value: value})
		}
	}
	return out
}

// Bounds of what a login carries.
const (
	maxCarried      = fsm.MaxTokenClaims
	maxCarriedBytes = 8 << 10 // names and values of one login
)

func factsOf(claims []fsm.Claim) map[string]string {
	facts := make(map[string]string, len(claims))
	for _, c := range claims {
		facts[c.Name] = c.Value
	}
	return facts
}

// issuerConfig is what verifying takes of an issuer.
func issuerConfig(i fsm.Issuer) issuer.Config {
	return issuer.Config{
		Kind: i.Kind, URL: i.URL, Audiences: i.Audiences, Algorithms: i.Algorithms, Keys: i.Keys, KeysURL: i.KeysURL,
		CA: i.CA, Local: i.Local, MaxAge: time.Duration(i.MaxAge) * time.Millisecond,
	}
}

// get returns issuers and bindings as they are, with what that rests on.
func (fed *federation) get(g *gate, f footing) (map[string]*trusted, map[string]*bound, []fsm.Read, error) {
	reads := []fsm.Read{ // before the records; see identify
		{Object: fsm.ObjIssuers, Index: f.store.Index(fsm.ObjIssuers)},
		{Object: fsm.ObjClaimBindings, Index: f.store.Index(fsm.ObjClaimBindings)},
	}
	fed.mu.Lock()
	defer fed.mu.Unlock()
	if !fed.issuers.known || fed.issuers.index != reads[0].Index {
		all := make(map[string]*trusted)
		for _, i := range f.store.Issuers() {
			if before, ok := fed.issuers.byName[i.Name]; ok && before.Changed == i.Changed {
				all[i.Name] = before
				continue
			}
			if err := g.verify(f, i, i.MAC, fsm.ObjIssuer(i.Name)); errors.Is(err, keyring.ErrMAC) {
				continue
			} else if err != nil {
				return nil, nil, nil, err
			}
			verifier, err := issuer.New(issuerConfig(i), fed.fetcher)
			if err != nil {
				g.log.Error("a stored issuer is not usable: put it again", "issuer", i.Name)
				continue
			}
			all[i.Name] = &trusted{Issuer: i, verifier: verifier}
		}
		fed.issuers = marked[trusted]{known: true, index: reads[0].Index, byName: all}
	}
	if !fed.bindings.known || fed.bindings.index != reads[1].Index {
		all := make(map[string]*bound)
		for _, b := range f.store.ClaimBindings() {
			if err := g.verify(f, b, b.MAC, fsm.ObjClaimBinding(b.Name)); errors.Is(err, keyring.ErrMAC) {
				continue
			} else if err != nil {
				return nil, nil, nil, err
			}
			c := &bound{ClaimBinding: b}
			if b.Condition != "" {
				var err error
				if c.condition, err = policy.ParseCondition(b.Condition); err != nil {
					g.log.Error("the condition of a stored binding is not usable: put it again", "binding", b.Name)
					continue
				}
			}
			all[b.Name] = c
		}
		fed.bindings = marked[bound]{known: true, index: reads[1].Index, byName: all}
	}
	return fed.issuers.byName, fed.bindings.byName, reads, nil
}

// ground is what a login of a workload identity rests on.
type ground struct {
	issuer    *trusted
	binding   *bound
	assertion *issuer.Assertion
	claims    []fsm.Claim
}

// evidence is what a machine shows to say who it is: a token, or the certificates of its connection.
type evidence struct {
	token *issuer.Token
	chain []*x509.Certificate
}

// issuer finds whose word the evidence is.
func (e *evidence) issuer(issuers map[string]*trusted) *trusted {
	find := func(kind, url string) *trusted {
		for _, t := range issuers {
			if url != "" && t.Kind == kind && t.URL == url {
				return t
			}
		}
		return nil
	}
	if e.token == nil {
		domain, _ := issuer.TrustDomain(e.chain[0])
		return find(issuer.SPIFFE, domain)
	}
	domain, iss := e.token.From()
	if t := find(issuer.SPIFFE, domain); t != nil {
		return t
	}
	return find(issuer.OIDC, iss)
}

func (e *evidence) verify(ctx context.Context, t *trusted, now int64) (*issuer.Assertion, error) {
	if e.token == nil {
		return t.verifier.VerifySVID(e.chain, time.UnixMilli(now))
	}
	return t.verifier.Verify(ctx, e.token, time.UnixMilli(now))
}

// prove finds the one workload that evidence is bound to; workload narrows it down. An *issuer.Refusal says why not.
// It may wait for keys of this one issuer.
func (fed *federation) prove(ctx context.Context, g *gate, r *loginRound, e *evidence, workload string) (*ground, error) {
	issuers, bindings, reads, err := fed.get(g, r.footing)
	if err != nil {
		return nil, err
	}
	r.reads = append(r.reads, reads...)
	out := &ground{issuer: e.issuer(issuers)}
	if out.issuer == nil {
		return nil, &issuer.Refusal{Why: issuer.NoIssuer}
	}
	if out.assertion, err = e.verify(ctx, out.issuer, r.now); err != nil {
		return out, err
	}
	for _, n := range slices.Sorted(maps.Keys(bindings)) {
		b := bindings[n]
		if b.Issuer != out.issuer.Name || workload != "" && b.Workload != workload || !b.matches(out.assertion.Claims) {
			continue
		}
		if out.binding != nil && out.binding.Workload != b.Workload {
			out.binding = nil
			return out, &issuer.Refusal{Why: issuer.Ambiguous}
		}
		if out.binding == nil {
			out.binding = b
		}
	}
	if out.binding == nil {
		return out, &issuer.Refusal{Why: issuer.NoBinding}
	}
	out.claims = out.binding.carried(out.assertion.Claims)
	size := 0
	for _, c := range out.claims {
		size += len(c.Name) + len(c.Value)
	}
	if len(out.claims) > maxCarried || size > maxCarriedBytes {
		return out, &issuer.Refusal{Why: issuer.Oversize}
	}
	return out, nil
}

// holds says whether a login still rests on what it was given for: its binding may demand other claims by now. The
// state machine itself drops logins whose issuer or binding is gone.
func (fed *federation) holds(g *gate, f footing, t *fsm.Token) (bool, []fsm.Read, error) {
	reads := []fsm.Read{
		{Object: fsm.ObjIssuer(t.Issuer), Index: f.store.Index(fsm.ObjIssuer(t.Issuer))},
		{Object: fsm.ObjClaimBinding(t.Binding), Index: f.store.Index(fsm.ObjClaimBinding(t.Binding))},
	}
	issuers, bindings, _, err := fed.get(g, f)
	if err != nil {
		return false, nil, err
	}
	i, b := issuers[t.Issuer], bindings[t.Binding]
	ok := i != nil && b != nil && b.Issuer == t.Issuer && fsm.ObjWorkload(b.Workload) == t.Principal &&
		b.matches(factsOf(t.Claims))
	return ok, reads, nil
}

// shorten bounds what is told of a text of somebody else.
func shorten(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
