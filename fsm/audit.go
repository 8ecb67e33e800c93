package fsm

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
)

// Actions of the leaves that say who may sign checkpoints. Apply writes them, with the detail that signerDetail makes,
// and refuses them from a proposer for anything else: an offline verifier follows the signers by them.
const (
	ActionGenesis = "genesis"
	ActionJoin    = "join"
	ActionApprove = "approve"
	ActionRemove  = "remove"
)

// signerAction is the action of a kind's leaf where Apply writes it, or "".
func signerAction(k Kind) string {
	switch k {
	case KindGenesis:
		return ActionGenesis
	case KindMemberJoin:
		return ActionJoin
	case KindMemberApprove:
		return ActionApprove
	case KindMemberRemove:
		return ActionRemove
	case KindBackup:
		return ActionBackup
	case KindRecovered:
		return ActionRecover
	}
	return ""
}

func signerDetail(c *Cluster, m *Member) string {
	return "cluster=" + hex.EncodeToString(c.ID[:]) + " node=" + m.ID +
		" key=" + base64.StdEncoding.EncodeToString(m.Key)
}

// NoteText is what nodes sign: a checkpoint in the form of C2SP tlog-checkpoint, with its time as an extension line.
func (c Checkpoint) NoteText() []byte {
	b := append([]byte(c.Origin), '\n')
	b = append(strconv.AppendUint(b, c.Size, 10), '\n')
	b = append(base64.StdEncoding.AppendEncode(b, c.Root), "\ntime "...)
	return append(strconv.AppendInt(b, c.Time, 10), '\n')
}

// leafFormat leads every leaf.
const leafFormat = 1

// LeafBytes is the canonical form of a record: what the audit tree hashes (RFC 6962 section 2.1), what the store keeps
// and what an export carries. It is
//
//	format ‖ sealed ‖ seq ‖ index ‖ time ‖ principal ‖ action ‖ resource ‖ version ‖ decision ‖ policies ‖
//	outcome ‖ detail ‖ count ‖ generation
//
// with numbers as minimal unsigned varints, and texts and lists behind their length.
func (r AuditRecord) LeafBytes() []byte {
	return r.appendLeaf(make([]byte, 0, 96+len(r.Sealed)+len(r.Principal)+len(r.Resource)+len(r.Detail)))
}

func (r *AuditRecord) appendLeaf(b []byte) []byte {
	t := tuple(append(b, leafFormat)).bytes(r.Sealed)
	t = binary.AppendUvarint(t, r.Seq)
	t = binary.AppendUvarint(t, r.Index)
	t = binary.AppendUvarint(t, uint64(r.Time))
	t = t.text(r.Principal).text(r.Action).text(r.Resource)
	t = binary.AppendUvarint(t, uint64(r.Version))
	t = append(t, byte(r.Decision))
	t = binary.AppendUvarint(t, uint64(len(r.Policies)))
	for _, p := range r.Policies {
		t = t.text(p)
	}
	t = append(t, byte(r.Outcome))
	t = t.text(r.Detail)
	t = binary.AppendUvarint(t, uint64(r.Count))
	return binary.AppendUvarint(t, uint64(r.Generation))
}

// ParseLeaf is the inverse of LeafBytes. It refuses anything that LeafBytes would not have written.
func ParseLeaf(data []byte) (AuditRecord, error) {
	var r AuditRecord
	if err := formatOf("audit leaf", data, leafFormat); err != nil {
		return r, err
	}
	d := leafReader{rest: data[1:]}
	r.Sealed = d.bytes()
	r.Seq, r.Index, r.Time = d.number(), d.number(), int64(d.number())
	r.Principal, r.Action, r.Resource = d.text(), d.text(), d.text()
	r.Version = d.small()
	r.Decision = Decision(d.one())
	if n := d.number(); n > uint64(len(d.rest)) {
		d.failed = true
	} else if n > 0 {
		r.Policies = make([]string, n)
		for i := range r.Policies {
			r.Policies[i] = d.text()
		}
	}
	r.Outcome = Code(d.one())
	r.Detail = d.text()
	r.Count, r.Generation = d.small(), d.small()
	if d.failed || len(d.rest) != 0 {
		return AuditRecord{}, fmt.Errorf("audit leaf: %w", ErrMalformed)
	}
	return r, nil
}

type leafReader struct {
	rest   []byte
	failed bool
}

func (d *leafReader) number() uint64 {
	n, used := binary.Uvarint(d.rest)
	// A longer form of the same number would give one record two leaves.
	if used <= 0 || used > 1 && d.rest[used-1] == 0 {
		d.failed, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[used:]
	return n
}

func (d *leafReader) small() uint32 {
	n := d.number()
	if n > 1<<32-1 {
		d.failed = true
	}
	return uint32(n)
}

func (d *leafReader) one() byte {
	if len(d.rest) == 0 {
		d.failed = true
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *leafReader) bytes() []byte {
	n := d.number()
	if n > uint64(len(d.rest)) {
		d.failed, d.rest = true, nil
		return nil
	}
	if n == 0 {
		return nil
	}
	b := slices.Clone(d.rest[:n])
	d.rest = d.rest[n:]
	return b
}

func (d *leafReader) text() string {
	n := d.number()
	if n > uint64(len(d.rest)) {
		d.failed, d.rest = true, nil
		return ""
	}
	s := string(d.rest[:n])
	d.rest = d.rest[n:]
	return s
}
