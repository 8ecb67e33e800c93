package fsm

import (
	"bytes"
	"crypto/sha256"
)

// SealSoftware is the SealKind of a node whose keys are in a file.
const SealSoftware = "software"

// genesis makes the first state. There is no second one.
func (t *tx) genesis(b *Genesis) outcome {
	if t.cluster() != nil {
		return refuse(CodeInitialised)
	}
	if b.Cluster.ID == [16]byte{} || len(b.Cluster.Restored) > 0 || !segment(b.Member.ID) || len(b.Member.Key) == 0 || b.Member.NonVoter {
		return refuse(CodeInvalid)
	}
	if b.Cluster.RequireHardware && b.Member.SealKind == SealSoftware {
		return refuse(CodeDenied)
	}
	if b.Level > t.s.highest {
		return refuse(CodeLevel)
	}
	for _, key := range b.Keys {
		if !multi(key.Purpose) || key.Generation == 0 || t.lookup(ObjKey(key.Purpose)) != nil {
			return refuse(CodeInvalid)
		}
		t.putKey(key)
	}
	if len(b.Enrolment.Hash) > 0 {
		if code := t.putEnrolment(b.Enrolment); code != CodeOK {
			return refuse(code)
		}
	}
	c := b.Cluster
	c.Created, c.Changed = t.time, t.index
	c.Sealed, c.NodeEpoch, c.PendingEpoch, c.RetiredBelow = false, 0, 0, 0
	t.put(ObjCluster, &c)
	if b.Level != 0 {
		t.put(ObjLevel, &level{Level: b.Level, Changed: t.index})
	}
	m := b.Member
	m.Joined, m.Changed = t.index, t.index
	t.put(ObjMember(m.ID), &m)
	t.putSigners()
	return signer(&c, &m)
}

// Signer is a node whose signature under checkpoints counts, with its PKIX key.
type Signer struct {
	ID  string
	Key []byte
}

// signerSet is who the signers are of checkpoints that cover the leaf which made them so. Each set stays: the next
// checkpoint has to be signed by those of the last one, however many changes lie between.
type signerSet struct{ Signers []Signer }

// putSigners stores the approved members as the signers from this record's leaf on.
func (t *tx) putSigners() {
	set := new(signerSet)
	t.scan("member/", func(_ string, o object) bool {
		if m := o.(*Member); m.Approved {
			set.Signers = append(set.Signers, Signer{ID: m.ID, Key: m.Key})
		}
		return true
	})
	t.put(objSigners(t.size+1), set)
}

// signer is success of a command whose leaf says who may sign checkpoints.
func signer(c *Cluster, m *Member) outcome {
	out := done()
	out.signer = signerDetail(c, m)
	return out
}

// putCluster stores a changed copy of the cluster record.
func (t *tx) putCluster(change func(*Cluster)) {
	c := *t.cluster()
	change(&c)
	c.Changed = t.index
	t.put(ObjCluster, &c)
}

func (t *tx) joinTokenPut(b *JoinTokenPut) outcome {
	j := b.JoinToken
	if !hashed(j.Hash) || !segment(j.Node) || len(j.Fingerprint) != sha256.Size || j.Used {
		return refuse(CodeInvalid)
	}
	if j.Expires <= t.time {
		return refuse(CodeExpired)
	}
	name := ObjJoinToken(j.Hash)
	if t.lookup(name) != nil {
		return refuse(CodeExists)
	}
	j.Changed = t.index
	t.put(name, &j)
	t.expire(j.Expires+millis(OneTimeMemory), name)
	return done()
}

// memberJoin consumes a join token, which names the one key that may use it. The same node asking again, because the
// first answer was lost, is told that it is in.
func (t *tx) memberJoin(b *MemberJoin) outcome {
	m := b.Member
	if !segment(m.ID) || len(m.Key) == 0 || m.Approved || m.Quarantined {
		return refuse(CodeInvalid)
	}
	token := find[JoinToken](t, ObjJoinToken(b.Token))
	if token == nil {
		return refuse(CodeNotFound)
	}
	fingerprint := sha256.Sum256(m.Key)
	if token.Node != m.ID || !bytes.Equal(token.Fingerprint, fingerprint[:]) || token.NonVoter != m.NonVoter {
		return refuse(CodeDenied)
	}
	have := find[Member](t, ObjMember(m.ID))
	if token.Used {
		if have != nil && bytes.Equal(have.Key, m.Key) {
			out := done()
			out.Duplicate = true
			return out
		}
		return refuse(CodeUsed)
	}
	if token.Expires <= t.time {
		return refuse(CodeExpired)
	}
	if t.cluster().RequireHardware && m.SealKind == SealSoftware {
		return refuse(CodeDenied)
	}
	if !m.knows(t.level()) {
		return refuse(CodeLevel)
	}
	if have != nil || t.keyTaken(m.Key) {
		return refuse(CodeExists)
	}
	used := *token
	used.Used, used.Changed = true, t.index
	t.put(ObjJoinToken(b.Token), &used)
	m.Joined, m.Changed = t.index, t.index
	if name := objGivenUp(m.Key); t.lookup(name) != nil {
		t.del(name) // it comes back with an empty disk
	}
	t.put(ObjMember(m.ID), &m)
	return signer(t.cluster(), &m)
}

func (t *tx) keyTaken(key []byte) bool {
	taken := false
	t.scan("member/", func(_ string, o object) bool {
		taken = bytes.Equal(o.(*Member).Key, key)
		return !taken
	})
	return taken
}

// changeMember stores a changed copy of a member.
func (t *tx) changeMember(id string, change func(*Member) Code) outcome {
	have := find[Member](t, ObjMember(id))
	if have == nil {
		return refuse(CodeNotFound)
	}
	m := *have
	if code := change(&m); code != CodeOK {
		return refuse(code)
	}
	m.Changed = t.index
	t.put(ObjMember(id), &m)
	return done()
}

func (t *tx) memberApprove(b *MemberApprove) outcome {
	out := t.changeMember(b.ID, func(m *Member) Code {
		if !bytes.Equal(m.Key, b.Key) {
			return CodeDenied
		}
		m.Approved, m.MAC = true, b.MAC
		return CodeOK
	})
	if out.Code == CodeOK {
		t.putSigners()
		out = signer(t.cluster(), find[Member](t, ObjMember(b.ID)))
	}
	return out
}

// memberUpdate changes where a member is, never who it is.
func (t *tx) memberUpdate(b *MemberUpdate) outcome {
	return t.changeMember(b.Member.ID, func(m *Member) Code {
		if len(b.Member.Key) > 0 && !bytes.Equal(b.Member.Key, m.Key) {
			return CodeDenied
		}
		if b.Member.PeerAddr != "" {
			m.PeerAddr = b.Member.PeerAddr
		}
		if b.Member.ClientAddr != "" {
			m.ClientAddr = b.Member.ClientAddr
		}
		if len(b.Member.ClientCert) > 0 {
			m.ClientCert = b.Member.ClientCert
		}
		if b.Member.Level != 0 {
			m.Level = b.Member.Level
		}
		return CodeOK
	})
}

func (t *tx) memberRemove(b *MemberRemove) outcome {
	have := find[Member](t, ObjMember(b.ID))
	if have == nil {
		return refuse(CodeNotFound)
	}
	if !t.otherVoter(b.ID) {
		return refuse(CodeInvalid) // nobody would be left who decides
	}
	t.del(ObjMember(b.ID))
	t.putSigners()
	return signer(t.cluster(), have)
}

func (t *tx) quarantine(b *Quarantine) outcome {
	return t.changeMember(b.ID, func(m *Member) Code {
		m.Quarantined, m.MAC = b.On, b.MAC
		if b.On {
			m.ClientCert = nil // it speaks for the cluster no more
		}
		return CodeOK
	})
}

func (t *tx) sealFlag(b *SealFlag) outcome {
	t.putCluster(func(c *Cluster) { c.Sealed = b.Sealed })
	return done()
}

// unsealed records that a node has its keys. Operators lift the seal flag by it, unless it was set, or anything else of
// the cluster changed, after they decided.
func (t *tx) unsealed(b *Unsealed) outcome {
	m := find[Member](t, ObjMember(b.Node))
	if m == nil {
		return refuse(CodeNotFound)
	}
	if !m.Approved || m.Quarantined {
		return refuse(CodeDenied)
	}
	switch c := t.cluster(); b.Method {
	case "quorum", "handover":
		if c.Sealed {
			return refuse(CodeSealed)
		}
	case "operators":
		if c.Sealed && c.Changed != b.Changed {
			return refuse(CodeSealed)
		}
		if c.Sealed {
			t.putCluster(func(c *Cluster) { c.Sealed = false })
		}
	default:
		return refuse(CodeInvalid)
	}
	return done()
}
