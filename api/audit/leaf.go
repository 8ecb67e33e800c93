// Package audit is what it takes to check the audit log without the cluster: the canonical leaf, signed
// checkpoints, the export format, and the verifier. It knows neither the state machine nor the network,
// so the command line tool stays small; a cross test keeps its leaf equal to the state machine's.
package audit

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strconv"

	"golang.org/x/mod/sumdb/tlog"
)

// Record is one leaf of the audit tree.
type Record struct {
	Seq        uint64 // leaf number, from 0
	Index      uint64 // Raft index
	Time       int64  // cluster time, Unix milliseconds
	Principal  string
	Action     string
	Resource   string
	Version    uint32
	Decision   uint8
	Policies   []string
	Outcome    uint8
	Detail     string
	Count      uint32 // attempts it stands for; 0 means 1
	Generation uint32 // of the key that Sealed is under
	Sealed     []byte
}

// ErrLeaf says that bytes are no leaf.
var ErrLeaf = errors.New("not an audit leaf of a known format")

// leafFormat leads every leaf. The layout is the state machine's (fsm.AuditRecord.LeafBytes):
//
//	format ‖ sealed ‖ seq ‖ index ‖ time ‖ principal ‖ action ‖ resource ‖ version ‖ decision ‖
//	policies ‖ outcome ‖ detail ‖ count ‖ generation
//
// with numbers as minimal unsigned varints, and texts and lists behind their length.
const leafFormat = 1

// Leaf is the canonical form of a record.
func (r *Record) Leaf() []byte {
	b := append(make([]byte, 0, 128+len(r.Sealed)+len(r.Detail)), leafFormat)
	b = append(binary.AppendUvarint(b, uint64(len(r.Sealed))), r.Sealed...)
	b = binary.AppendUvarint(b, r.Seq)
	b = binary.AppendUvarint(b, r.Index)
	b = binary.AppendUvarint(b, uint64(r.Time))
	b = appendText(b, r.Principal)
	b = appendText(b, r.Action)
	b = appendText(b, r.Resource)
	b = binary.AppendUvarint(b, uint64(r.Version))
	b = append(b, r.Decision)
	b = binary.AppendUvarint(b, uint64(len(r.Policies)))
	for _, p := range r.Policies {
		b = appendText(b, p)
	}
	b = append(b, r.Outcome)
	b = appendText(b, r.Detail)
	b = binary.AppendUvarint(b, uint64(r.Count))
	return binary.AppendUvarint(b, uint64(r.Generation))
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// ParseLeaf is the inverse of Leaf. It accepts nothing that Leaf would not have written.
func ParseLeaf(leaf []byte) (Record, error) {
	if len(leaf) == 0 || leaf[0] != leafFormat {
		return Record{}, ErrLeaf
	}
	var r Record
	d := reader{rest: leaf[1:]}
	if sealed := d.chunk(); len(sealed) > 0 {
		r.Sealed = slices.Clone(sealed)
	}
	r.Seq, r.Index, r.Time = d.number(), d.number(), int64(d.number())
	r.Principal, r.Action, r.Resource = string(d.chunk()), string(d.chunk()), string(d.chunk())
	r.Version, r.Decision = d.small(), d.one()
	if n := d.number(); n > uint64(len(d.rest)) {
		d.bad = true
	} else if n > 0 {
		r.Policies = make([]string, n)
		for i := range r.Policies {
			r.Policies[i] = string(d.chunk())
		}
	}
	r.Outcome, r.Detail, r.Count, r.Generation = d.one(), string(d.chunk()), d.small(), d.small()
	if d.bad || len(d.rest) > 0 {
		return Record{}, ErrLeaf
	}
	return r, nil
}

// LeafHash is the hash of a leaf in the tree (RFC 6962, section 2.1).
func LeafHash(leaf []byte) tlog.Hash { return tlog.RecordHash(leaf) }

type reader struct {
	rest []byte
	bad  bool
}

func (d *reader) number() uint64 {
	n, used := binary.Uvarint(d.rest)
	if used <= 0 || used > 1 && d.rest[used-1] == 0 { // a longer form would give one record two leaves
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[used:]
	return n
}

func (d *reader) small() uint32 {
	n := d.number()
	d.bad = d.bad || n > math.MaxUint32
	return uint32(n)
}

func (d *reader) one() uint8 {
	b := d.take(1)
	if b == nil {
		return 0
	}
	return b[0]
}

func (d *reader) chunk() []byte { return d.take(d.number()) }

func (d *reader) take(n uint64) []byte {
	if d.bad || n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

// DecisionText names a decision. The numbers are part of the leaf format.
func DecisionText(d uint8) string {
	switch d {
	case 1:
		return "allowed"
	case 2:
		return "denied"
	case 3:
		return "failed"
	}
	return strconv.Itoa(int(d))
}

// outcomes by number, which is part of the leaf format (fsm.Code).
var outcomes = [...]string{
	1: "ok", 2: "superseded", 3: "request-reused", 4: "request-expired", 5: "not-found", 6: "exists",
	7: "conflict", 8: "deleted", 9: "destroyed", 10: "expired", 11: "used", 12: "invalid",
	13: "last-security-engineer", 14: "key-exhausted", 15: "sealed", 16: "fenced", 17: "clock",
	18: "denied", 19: "initialised", 20: "limit", 21: "rotating", 22: "level",
}

// OutcomeText names an outcome.
func OutcomeText(o uint8) string {
	if int(o) < len(outcomes) && outcomes[o] != "" {
		return outcomes[o]
	}
	return strconv.Itoa(int(o))
}
