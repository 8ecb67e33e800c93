package fsm

import "encoding/hex"

// Workload identity: issuers whose word is taken for who a machine is, and bindings that say which workload such a
// machine is. What an issuer said of one login is in the token (Token.Claims). Verifying that word needs keys and, for
// some issuers, the network: it happens before proposing. Apply holds what can be held here: that issuer and binding
// are the ones that were decided on, and that an assertion of a one-time issuer logs in once.

// Bounds of workload identity.
const (
	MaxIssuers       = 64
	MaxClaimBindings = 2048
	MaxTokenClaims   = 32
)

// Kinds of issuers.
const (
	IssuerOIDC   = "oidc"   // signs JWTs; URL is their iss
	IssuerSPIFFE = "spiffe" // signs X.509-SVIDs and JWT-SVIDs; URL is its trust domain, "spiffe://example.org"
)

// Issuer is whose word is taken for who a machine is. Keys of an OIDC issuer come from Keys, from KeysURL, or, when both
// are empty, from its discovery document.
type Issuer struct {
	Name       string
	Kind       string
	URL        string
	Audiences  []string // a token is for one of them and for nobody else
	Algorithms []string // of signatures, as JWS names them
	Keys       []byte   // JWKS; for SPIFFE a trust bundle
	KeysURL    string
	CA         []byte // PEM: what TLS to the issuer is verified by; empty: the system's roots
	Local      bool   // may be on a loopback or link-local address
	Once       bool   // each assertion logs in once
	MaxAge     int64  // ms since iat that an assertion is taken
	By         string
	Created    int64
	MAC        []byte

	Made    uint64 // set by Apply: index since which logins by it count
	Changed uint64
}

// ClaimBinding says that who has certain claims from an issuer is a workload. All of Match and Condition must hold.
type ClaimBinding struct {
	Name      string
	Issuer    string
	Workload  string
	Match     []Claim // exact, sorted by name
	Condition string  // Cedar, or empty
	Carry     []string
	MaxTTL    int64 // ms that a login lasts at most, renewals included
	By        string
	Created   int64
	MAC       []byte

	Made    uint64 // set by Apply: index since which logins by it count
	Changed uint64
}

// Claim is one name and its value, as text.
type Claim struct{ Name, Value string }

// IssuerPut makes or changes an issuer. EndLogins ends every login that rests on it.
type IssuerPut struct {
	Issuer    Issuer
	EndLogins bool
}

// IssuerDelete removes an issuer; every login that rests on it ends.
type IssuerDelete struct{ Name string }

// ClaimBindingPut makes or changes a binding.
type ClaimBindingPut struct{ Binding ClaimBinding }

// ClaimBindingDelete removes a binding; every login that rests on it ends.
type ClaimBindingDelete struct{ Name string }

// assertion is the memory of one that logged in, for issuers whose assertions do so once.
type assertion struct {
	Request [16]byte // of the login, whose retry may come
	Client  []byte
	Token   []byte
	Expires int64
	Changed uint64
}

// Names of the objects.
const (
	ObjIssuers       = "issuers"       // changes with any issuer
	ObjClaimBindings = "claimbindings" // changes with any binding
)

// ObjIssuer names an issuer.
func ObjIssuer(name string) string { return "issuer/" + name }

// ObjClaimBinding names a binding of claims to a workload.
func ObjClaimBinding(name string) string { return "claimbinding/" + name }

// ObjAssertion names an assertion by its hash.
func ObjAssertion(hash []byte) string { return "assertion/" + hex.EncodeToString(hash) }

func (t *tx) issuerPut(b *IssuerPut) outcome {
	i := b.Issuer
	if !segment(i.Name) || i.URL == "" || i.Kind != IssuerOIDC && i.Kind != IssuerSPIFFE {
		return refuse(CodeInvalid)
	}
	name := ObjIssuer(i.Name)
	have := find[Issuer](t, name)
	others := 0
	duplicate := false
	t.scan(ObjIssuer(""), func(key string, o object) bool {
		if key != name {
			others++
			duplicate = duplicate || o.(*Issuer).URL == i.URL // whose keys would count for it?
		}
		return true
	})
	switch {
	case duplicate:
		return refuse(CodeExists)
	case have == nil && others >= MaxIssuers:
		return refuse(CodeLimit)
	}
	i.Created, i.Made, i.Changed = t.time, t.index, t.index
	if have != nil {
		i.Created = have.Created
		if !b.EndLogins {
			i.Made = have.Made
		}
	}
	t.put(name, &i)
	t.put(ObjIssuers, &policyMark{Changed: t.index})
	return done()
}

func (t *tx) issuerDelete(b *IssuerDelete) outcome {
	if t.lookup(ObjIssuer(b.Name)) == nil {
		return refuse(CodeNotFound)
	}
	t.del(ObjIssuer(b.Name))
	t.put(ObjIssuers, &policyMark{Changed: t.index})
	return done()
}

func (t *tx) claimBindingPut(b *ClaimBindingPut) outcome {
	c := b.Binding
	if !segment(c.Name) || c.MaxTTL <= 0 || len(c.Match) == 0 && c.Condition == "" {
		return refuse(CodeInvalid)
	}
	if t.lookup(ObjIssuer(c.Issuer)) == nil || t.lookup(ObjWorkload(c.Workload)) == nil {
		return refuse(CodeNotFound)
	}
	name := ObjClaimBinding(c.Name)
	c.Created, c.Made, c.Changed = t.time, t.index, t.index
	if have := find[ClaimBinding](t, name); have != nil {
		c.Created, c.Made = have.Created, have.Made
	} else {
		count := 0
		t.scan(ObjClaimBinding(""), func(string, object) bool { count++; return true })
		if count >= MaxClaimBindings {
			return refuse(CodeLimit)
		}
	}
	t.put(name, &c)
	t.put(ObjClaimBindings, &policyMark{Changed: t.index})
	return done()
}

func (t *tx) claimBindingDelete(b *ClaimBindingDelete) outcome {
	if t.lookup(ObjClaimBinding(b.Name)) == nil {
		return refuse(CodeNotFound)
	}
	t.del(ObjClaimBinding(b.Name))
	t.put(ObjClaimBindings, &policyMark{Changed: t.index})
	return done()
}

// grounded says whether the issuer and the binding that a token rests on are still the ones it was given for. What
// they demand may have changed since: that takes evaluating claims, and is looked at before proposing.
func grounded(f finder, t *Token) bool {
	if t.Binding == "" {
		return true
	}
	b := find[ClaimBinding](f, ObjClaimBinding(t.Binding))
	i := find[Issuer](f, ObjIssuer(t.Issuer))
	return b != nil && i != nil && b.Made == t.BindingMade && i.Made == t.IssuerMade &&
		b.Issuer == t.Issuer && ObjWorkload(b.Workload) == t.Principal
}

// federated checks a login that rests on an issuer's word.
func (t *tx) federated(cmd *Command, b *Login) outcome {
	token := &b.Token
	if token.Issuer == "" || token.Binding == "" || len(token.Claims) > MaxTokenClaims {
		return refuse(CodeInvalid)
	}
	if !grounded(t, token) {
		return refuse(CodeNotFound)
	}
	if binding := find[ClaimBinding](t, ObjClaimBinding(token.Binding)); token.MaxExpires > token.Issued+binding.MaxTTL {
		return refuse(CodeInvalid)
	}
	if !find[Issuer](t, ObjIssuer(token.Issuer)).Once {
		return done()
	}
	if !hashed(b.Assertion) || b.AssertionExpires <= t.time || b.AssertionIssued <= t.forgotten() {
		return refuse(CodeExpired)
	}
	out := done()
	name := ObjAssertion(b.Assertion)
	if have := find[assertion](t, name); have != nil {
		if have.Request != cmd.Request || cmd.Request == [16]byte{} || string(have.Client) != string(b.ClientKey) {
			return refuse(CodeUsed)
		}
		t.dropToken(have.Token)
		t.keep(have.Expires, name)
		out.Duplicate, out.replaced = true, true
	}
	t.put(name, &assertion{
		Request: cmd.Request, Client: b.ClientKey, Token: token.Hash, Expires: b.AssertionExpires, Changed: t.index,
	})
	t.expire(b.AssertionExpires, name)
	return out
}

// forgotten is the time up to which something may have been used that is not remembered: a restore and a recovery
// lose the end of what was.
func (t *tx) forgotten() (until int64) {
	if c := t.cluster(); c != nil && len(c.Restored) > 0 {
		until = c.Restored[len(c.Restored)-1].Time
	}
	if r := find[Recovery](t, ObjRecovered); r != nil {
		until = max(until, r.Recovered.At)
	}
	return until
}

// Issuer returns an issuer.
func (s *Store) Issuer(name string) (Issuer, bool) { return read[Issuer](s, ObjIssuer(name)) }

// Issuers lists all issuers by name.
func (s *Store) Issuers() []Issuer { return list[Issuer](s, ObjIssuer("")) }

// ClaimBinding returns a binding of claims to a workload.
func (s *Store) ClaimBinding(name string) (ClaimBinding, bool) {
	return read[ClaimBinding](s, ObjClaimBinding(name))
}

// ClaimBindings lists all bindings of claims by name.
func (s *Store) ClaimBindings() []ClaimBinding { return list[ClaimBinding](s, ObjClaimBinding("")) }

func (o *Issuer) changed() uint64       { return o.Changed }
func (o *ClaimBinding) changed() uint64 { return o.Changed }
func (o *assertion) changed() uint64    { return o.Changed }

func (o *Issuer) cost() int { return 512 + len(o.Keys) + len(o.CA) }
func (o *ClaimBinding) cost() int {
	return 384 + len(o.Condition) + 128*len(o.Match) + 64*len(o.Carry)
}
func (o *assertion) cost() int { return 256 }

// Domains of MACs.
const (
	MACDomainIssuer       = "hizo/mac/issuer/1"
	MACDomainClaimBinding = "hizo/mac/claimbinding/1"
)

// MACDomain of an issuer.
func (Issuer) MACDomain() string { return MACDomainIssuer }

// MACBody covers all that decides whose word is taken.
func (i Issuer) MACBody() []byte {
	t := tuple(nil).text(i.Name).text(i.Kind).text(i.URL)
	return t.texts(i.Audiences).texts(i.Algorithms).bytes(i.Keys).text(i.KeysURL).bytes(i.CA).
		flag(i.Local).flag(i.Once).number(uint64(i.MaxAge)).text(i.By)
}

// MACDomain of a binding of claims.
func (ClaimBinding) MACDomain() string { return MACDomainClaimBinding }

// MACBody covers who becomes which workload.
func (b ClaimBinding) MACBody() []byte {
	return tuple(nil).text(b.Name).text(b.Issuer).text(b.Workload).claims(b.Match).text(b.Condition).
		texts(b.Carry).number(uint64(b.MaxTTL)).text(b.By)
}

func (t tuple) texts(list []string) tuple {
	t = t.number(uint64(len(list)))
	for _, s := range list {
		t = t.text(s)
	}
	return t
}

func (t tuple) claims(list []Claim) tuple {
	t = t.number(uint64(len(list)))
	for _, c := range list {
		t = t.text(c.Name).text(c.Value)
	}
	return t
}
