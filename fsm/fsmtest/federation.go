package fsmtest

import (
	"strings"

	"github.com/hizo/hizo/fsm"
)

// Issuer is an OIDC issuer.
func Issuer(name string) fsm.Issuer {
	return fsm.Issuer{
		Name: name, Kind: fsm.IssuerOIDC, URL: "https://" + name + ".example", Audiences: []string{"hizo"},
		Algorithms: []string{"ES256"}, MaxAge: 3_600_000,
	}
}

// Binding makes who has the claim repository from an issuer a workload.
func Binding(name, issuer, workload string) fsm.ClaimBinding {
	return fsm.ClaimBinding{
		Name: name, Issuer: issuer, Workload: workload, MaxTTL: 2 * 3_600_000,
		Match: []fsm.Claim{{Name: "repository", Value: "org/" + name}},
	}
}

// Federated makes a login that rests on a binding, as things are in store.
func (b *Builder) Federated(store *fsm.Store, binding, token, assertion string) fsm.Command {
	c, _ := store.ClaimBinding(binding)
	i, _ := store.Issuer(c.Issuer)
	body := fsm.Login{
		Token: b.Token("workload/"+c.Workload, token), ClientKey: []byte("client"),
		Assertion: HashOf(assertion), AssertionExpires: b.Now() + 600_000, AssertionIssued: b.Now() - 1000,
	}
	body.Token.Method, body.Token.Issued = "oidc", b.Now()
	body.Token.MaxExpires = min(body.Token.MaxExpires, b.Now()+c.MaxTTL)
	body.Token.Expires = min(body.Token.Expires, body.Token.MaxExpires)
	body.Token.Issuer, body.Token.IssuerMade = c.Issuer, i.Made
	body.Token.Binding, body.Token.BindingMade, body.Token.Claims = binding, c.Made, c.Match
	return b.Command(fsm.KindLogin, body.Token.Principal, "login", body.Token.Principal, body)
}

// federation makes a command about issuers, bindings and logins by them.
func (r *Random) federation(who string) fsm.Command {
	issuer, binding := r.name("issuer", 3), r.name("binding", 4)
	switch r.rng.IntN(12) {
	case 0, 1, 2:
		i := Issuer(issuer)
		i.Once = r.rng.IntN(2) == 0
		if r.rng.IntN(10) == 0 {
			i.URL = "https://issuer0.example" // another's
		}
		return r.Command(fsm.KindIssuerPut, who, "issuer.put", "issuer/"+issuer, fsm.IssuerPut{Issuer: i, EndLogins: r.rng.IntN(3) == 0})
	case 3:
		return r.Command(fsm.KindIssuerDelete, who, "issuer.delete", "issuer/"+issuer, fsm.IssuerDelete{Name: issuer})
	case 4, 5, 6:
		return r.Command(fsm.KindClaimBindingPut, who, "binding.put", "binding/"+binding, fsm.ClaimBindingPut{
			Binding: Binding(binding, issuer, r.name("w", 3)),
		})
	case 7:
		return r.Command(fsm.KindClaimBindingDelete, who, "binding.delete", "binding/"+binding, fsm.ClaimBindingDelete{Name: binding})
	}
	c := r.Federated(r.store, binding, r.newToken(), r.name("assertion", 10))
	if strings.HasSuffix(c.Principal, "/") {
		c.Principal = who // there is no such binding
	}
	return c
}
