package fsm

import (
	"encoding/binary"
	"fmt"
	"slices"
)

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
