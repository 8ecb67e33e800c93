package fsm

// Membership is how the cluster treats its members: the same on every node, because it is in the log.
type Membership struct {
	// Stabilise is how long a member has to be reachable and caught up before it becomes a voter, in ms.
	Stabilise int64
	// CleanUpAfter is how long nothing is heard of a member before the leader removes it, in ms. 0: never.
	CleanUpAfter int64
	MAC          []byte
	Changed      uint64
}

// ObjMembership names the one Membership. As long as nobody has set any it is absent.
const ObjMembership = "membership"

// MACDomain of the membership's settings.
func (Membership) MACDomain() string { return "hizo/mac/membership/1" }

// MACBody covers all of it: a shorter time removes members.
func (m Membership) MACBody() []byte {
	return tuple(nil).number(uint64(m.Stabilise)).number(uint64(m.CleanUpAfter))
}

// MemberVote gives a member its vote, or takes it back for good: a permanent non-voter follows the log, and holds no
// share. Raft's configuration and the node set follow, by the leader's duties.
type MemberVote struct {
	ID    string
	Voter bool
	MAC   []byte // of the member as it will be
}

// MembershipSet changes the settings.
type MembershipSet struct{ Membership Membership }

func (o *Membership) changed() uint64 { return o.Changed }
func (o *Membership) cost() int       { return 128 }

// Membership returns the settings, and whether somebody has set any.
func (s *Store) Membership() (Membership, bool) { return read[Membership](s, ObjMembership) }

func (t *tx) memberVote(b *MemberVote) outcome {
	if !b.Voter && !t.otherVoter(b.ID) {
		return refuse(CodeInvalid)
	}
	return t.changeMember(b.ID, func(m *Member) Code {
		if b.Voter && (!m.Approved || m.Quarantined) {
			return CodeDenied // a vote brings a share
		}
		m.NonVoter, m.MAC = !b.Voter, b.MAC
		return CodeOK
	})
}

// otherVoter says whether anybody but this member may vote. The node that a recovery went on with has Raft's vote, also
// where it was a member without one.
func (t *tx) otherVoter(id string) bool {
	found, last := false, ""
	if r := find[Recovery](t, ObjRecovered); r != nil {
		last = r.Recovered.Node
	}
	t.scan("member/", func(_ string, o object) bool {
		m := o.(*Member)
		found = m.ID != id && m.Approved && (!m.NonVoter || m.ID == last)
		return !found
	})
	return found
}

func (t *tx) membershipSet(b *MembershipSet) outcome {
	m := b.Membership
	if m.Stabilise < 0 || m.CleanUpAfter < 0 {
		return refuse(CodeInvalid)
	}
	m.Changed = t.index
	t.put(ObjMembership, &m)
	return done()
}
