package fsm

import (
	"crypto/sha256"
	"encoding/binary"
)

// Records that grant something carry a keyring MAC that the proposer makes and every user of the record verifies, so
// that a disk edited offline grants nothing. fsm only says what is covered: a domain and a tuple of length-prefixed
// fields, which no other record can collide with. What Apply assigns (Created, Changed, Used, epochs) is left out.

// Domains of MACs.
const (
	MACDomainCluster     = "hizo/mac/cluster/1"
	MACDomainMember      = "hizo/mac/member/1"
	MACDomainVault       = "hizo/mac/vault/1"
	MACDomainUser        = "hizo/mac/user/1"
	MACDomainWorkload    = "hizo/mac/workload/1"
	MACDomainRole        = "hizo/mac/role/1"
	MACDomainToken       = "hizo/mac/token/1"
	MACDomainSecretID    = "hizo/mac/secretid/1"
	MACDomainEnrolment   = "hizo/mac/enrolment/1"
	MACDomainPolicy      = "hizo/mac/policy/1"
	MACDomainJoinToken   = "hizo/mac/jointoken/1"
	MACDomainCertificate = "hizo/mac/certificate/1"

	MACDomainPipeline       = "hizo/mac/pipeline/1"
	MACDomainSealRevocation = "hizo/mac/sealrevocation/1"
	MACDomainLeaseRole      = "hizo/mac/leaserole/1"
	MACDomainLease          = "hizo/mac/lease/1"
)

// MACed is a record that carries a MAC.
type MACed interface {
	MACDomain() string
	MACBody() []byte
}

// tuple is an injective encoding: each field behind its length.
type tuple []byte

func (t tuple) bytes(b []byte) tuple {
	return append(binary.AppendUvarint(t, uint64(len(b))), b...)
}
func (t tuple) text(s string) tuple {
	return append(binary.AppendUvarint(t, uint64(len(s))), s...)
}
func (t tuple) number(n uint64) tuple { return t.bytes(be64(n)) }
func (t tuple) flag(b bool) tuple {
	if b {
		return t.bytes([]byte{1})
	}
	return t.bytes([]byte{0})
}

// MACDomain of a cluster record.
func (Cluster) MACDomain() string { return MACDomainCluster }

// MACBody covers what genesis and root rotation set; the seal flag and epochs follow from commands.
func (c Cluster) MACBody() []byte {
	t := tuple(nil).bytes(c.ID[:]).text(c.Name).flag(c.Development).flag(c.RequireHardware).
		number(uint64(c.RootGeneration)).bytes(c.RootID).number(uint64(c.MACGeneration)).
		number(uint64(c.AuditGeneration)).bytes(c.AuditPublicKey).bytes(c.CA).bytes(c.OperatorDeal).
		bytes(c.OperatorKey).bytes(c.OperatorRoot)
	t = recipients(t, c.OperatorRecipients)
	for _, r := range c.Restored {
		t = t.bytes(r.ID).number(r.Record).number(uint64(r.Time))
	}
	return t
}

// MACDomain of a member.
func (Member) MACDomain() string { return MACDomainMember }

// MACBody covers who the member is and what it may have, not where it is.
func (m Member) MACBody() []byte {
	t := tuple(nil).text(m.ID).bytes(m.Key).text(m.SealKind).flag(m.Approved).flag(m.Quarantined)
	if m.NonVoter { // one field more: records of voters stay as they were
		t = t.flag(true)
	}
	return t
}

// MACDomain of a vault.
func (Vault) MACDomain() string { return MACDomainVault }

// MACBody covers the name: the generation moves with KeyAdd, and keys are authenticated by their own wrapping.
func (v Vault) MACBody() []byte { return tuple(nil).text(v.Name) }

// MACDomain of a user.
func (User) MACDomain() string { return MACDomainUser }

// MACBody covers the password by its hash.
func (u User) MACBody() []byte {
	password := sha256.Sum256(u.Password)
	return tuple(nil).text(u.Name).bytes(password[:]).number(uint64(u.Generation)).flag(u.Disabled)
}

// MACDomain of a workload.
func (Workload) MACDomain() string { return MACDomainWorkload }

// MACBody covers name and flag.
func (w Workload) MACBody() []byte { return tuple(nil).text(w.Name).flag(w.Disabled) }

// MACDomain of a role binding.
func (RoleBinding) MACDomain() string { return MACDomainRole }

// MACBody covers who got what from whom.
func (r RoleBinding) MACBody() []byte {
	return tuple(nil).text(r.Role).text(r.Principal).text(r.By)
}

// MACDomain of a token.
func (Token) MACDomain() string { return MACDomainToken }

// MACBody covers everything but the index of the last change.
func (t Token) MACBody() []byte {
	return tuple(nil).bytes(t.Hash).text(t.Principal).text(t.Method).
		number(uint64(t.Issued)).number(uint64(t.Expires)).number(uint64(t.MaxExpires)).
		text(t.Issuer).number(t.IssuerMade).text(t.Binding).number(t.BindingMade).claims(t.Claims)
}

// MACDomain of a one-time secret id.
func (SecretID) MACDomain() string { return MACDomainSecretID }

// MACBody covers what it admits, not whether it was used.
func (s SecretID) MACBody() []byte {
	return tuple(nil).bytes(s.Hash).text(s.Workload).number(uint64(s.Expires))
}

// MACDomain of an enrolment.
func (Enrolment) MACDomain() string { return MACDomainEnrolment }

// MACBody covers the roles it gives.
func (e Enrolment) MACBody() []byte {
	t := tuple(nil).bytes(e.Hash).number(uint64(len(e.Roles)))
	for _, role := range e.Roles {
		t = t.text(role)
	}
	return t.number(uint64(e.Expires))
}

// MACDomain of a policy.
func (Policy) MACDomain() string { return MACDomainPolicy }

// MACBody covers name, text and author.
func (p Policy) MACBody() []byte { return tuple(nil).text(p.Name).text(p.Text).text(p.By) }

// MACDomain of a join token.
func (JoinToken) MACDomain() string { return MACDomainJoinToken }

// MACBody covers the one key it admits.
func (j JoinToken) MACBody() []byte {
	t := tuple(nil).bytes(j.Hash).text(j.Node).bytes(j.Fingerprint).number(uint64(j.Expires))
	if j.NonVoter {
		t = t.flag(true)
	}
	return t
}

// MACDomain of a client certificate.
func (Certificate) MACDomain() string { return MACDomainCertificate }

// MACBody covers whose key it is and until when.
func (c Certificate) MACBody() []byte {
	return tuple(nil).text(c.Principal).bytes(c.Key).text(c.Serial).number(uint64(c.Expires))
}

// MACDomain of a lease role.
func (LeaseRole) MACDomain() string { return MACDomainLeaseRole }

// MACBody covers where the admin credential goes, and what is made there.
func (r LeaseRole) MACBody() []byte {
	t := tuple(nil).text(r.Vault).text(r.Name).bytes(r.Revision[:]).text(r.Kind).text(r.Target).
		number(uint64(len(r.Config)))
	for _, o := range r.Config {
		t = t.text(o.Key).text(o.Value)
	}
	return t.text(r.AdminVault).text(r.AdminPath).number(uint64(r.DefaultTTL)).number(uint64(r.MaxTTL)).
		number(uint64(r.Limit)).text(r.By)
}

// MACDomain of a lease.
func (Lease) MACDomain() string { return MACDomainLease }

// MACBody covers whose the lease is, until when, and which user is dropped at its end.
func (l Lease) MACBody() []byte {
	return tuple(nil).bytes(l.ID[:]).text(l.Vault).text(l.Role).bytes(l.Revision[:]).text(l.Target).text(l.Principal).
		text(l.Pipeline).text(l.Username).number(uint64(l.Issued)).number(uint64(l.Expires)).
		number(uint64(l.MaxExpires)).number(uint64(l.AdminVersion))
}
