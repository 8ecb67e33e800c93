package fsm

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// When most voters are lost for good, one survivor is made the only voter while it does not run (hizod recover). It says
// so in the log as soon as it leads: Recovered is the first record of the cluster that goes on, and names the nodes that
// are members no more. What their disks hold beyond LastIndex is not part of this cluster's history.

// ActionRecover is the action of the leaf, which Apply words: a verification follows the signers by it, where it is
// trusted.
const ActionRecover = "recover"

// Recovered records a recovery from a lost quorum, once for each ID.
type Recovered struct {
	ID        [16]byte
	Node      string // whose log goes on
	By        string // who did it and why, as typed at that node: nobody authenticated it
	Reason    string
	At        int64  // by that node's clock, Unix milliseconds
	LastIndex uint64 // the end of its log
	LastTerm  uint64
	Survivors []string // whose logs were found to hold nothing that this one lacks
	GivenUp   []string // removed by the records that follow
}

// ObjRecovered names the last recovery.
const ObjRecovered = "recovered"

// objGivenUp names a node that was given up, by its key: one that comes back with its old disk is told.
func objGivenUp(key []byte) string {
	sum := sha256.Sum256(key)
	return "givenup/" + hex.EncodeToString(sum[:])
}

// Recovery is the last recovery from a lost quorum.
type Recovery struct {
	Recovered Recovered
	Records   []uint64 // numbers of the audit records of all there were, which a verification has to be told to trust
	Changed   uint64
}

// GivenUp says of a node that its disk is not part of this cluster's history any more.
type GivenUp struct {
	Node    string
	By      string // node whose recovery gave it up
	At      int64
	Changed uint64
}

func (o *Recovery) changed() uint64 { return o.Changed }
func (o *GivenUp) changed() uint64  { return o.Changed }
func (o *Recovery) cost() int       { return 512 }
func (o *GivenUp) cost() int        { return 128 }

// Recovery returns the last recovery from a lost quorum.
func (s *Store) Recovery() (Recovery, bool) { return read[Recovery](s, ObjRecovered) }

// GivenUp says whether the node of this key (PKIX) was given up in a recovery and has not joined anew since.
func (s *Store) GivenUp(key []byte) (GivenUp, bool) { return read[GivenUp](s, objGivenUp(key)) }

const maxReason = 200

func (t *tx) recovered(b *Recovered) outcome {
	before := find[Recovery](t, ObjRecovered)
	if before != nil && before.Recovered.ID == b.ID {
		return refuse(CodeExists)
	}
	self := find[Member](t, ObjMember(b.Node))
	if self == nil || b.ID == [16]byte{} || len(b.GivenUp) == 0 || len(b.By) > maxReason || len(b.Reason) > maxReason {
		return refuse(CodeInvalid)
	}
	for _, id := range b.GivenUp {
		if id == b.Node || !segment(id) || strings.ContainsAny(id, " \n\t,=") { // they stand in the leaf, word for word
			return refuse(CodeInvalid)
		}
		m := find[Member](t, ObjMember(id))
		if m == nil { // the end of the log, which nobody had applied when it was given up, has removed it
			continue
		}
		t.put(objGivenUp(m.Key), &GivenUp{Node: id, By: b.Node, At: b.At, Changed: t.index})
	}
	o := &Recovery{Recovered: *b, Changed: t.index}
	if before != nil {
		o.Records = slices.Clone(before.Records)
	}
	o.Records = append(o.Records, t.size) // this record's leaf is the next one
	t.put(ObjRecovered, o)
	out := done()
	// Apply words it, so that no proposer can say less than happened.
	out.signer = fmt.Sprintf("gave_up=%s survivors=%s last_index=%d last_term=%d at=%d by=%q reason=%q",
		strings.Join(b.GivenUp, ","), strings.Join(b.Survivors, ","), b.LastIndex, b.LastTerm, b.At, b.By, b.Reason)
	return out
}
