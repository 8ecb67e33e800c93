package api

import (
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/crypto/envelope"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/fsm"
)

// sealedPart is the part of an audit record that only auditors read. Its encoding, before envelope
// salts and seals it:
//
//	format(1) uvarint(len) address uvarint(len) reason request(16)
//	uvarint(count) { uvarint(len) key uvarint(len) value } × count, keys ascending
type sealedPart struct {
	Addr    netip.Addr
	Reason  string
	Request [16]byte
	Claims  map[string]string
}

const sealedFormat = 1

var errSealedPart = errors.New("malformed sealed part of an audit record")

func appendText[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendSealedPart encodes; claims are encoded already, because a caller's stay the same.
func appendSealedPart(b []byte, addr netip.Addr, reason string, request [16]byte, claims []byte) []byte {
	b = append(b, sealedFormat)
	var text [64]byte
	b = appendText(b, addr.AppendTo(text[:0]))
	b = appendText(b, reason)
	b = append(b, request[:]...)
	return append(b, claims...)
}

func encodeClaims(claims map[string]string) []byte {
	b := binary.AppendUvarint(nil, uint64(len(claims)))
	for _, k := range slices.Sorted(maps.Keys(claims)) {
		b = appendText(appendText(b, k), claims[k])
	}
	return b
}

func decodeSealedPart(b []byte) (sealedPart, error) {
	fail := func() (sealedPart, error) { return sealedPart{}, errSealedPart }
	next := func() (string, bool) {
		n, used := binary.Uvarint(b)
		if used <= 0 || n > uint64(len(b)-used) {
			return "", false
		}
		s := string(b[used : used+int(n)])
		b = b[used+int(n):]
		return s, true
	}
	if len(b) == 0 || b[0] != sealedFormat {
		return fail()
	}
	b = b[1:]
	var p sealedPart
	addr, ok := next()
	if !ok {
		return fail()
	}
	if addr != "invalid IP" {
		var err error
		if p.Addr, err = netip.ParseAddr(addr); err != nil {
			return fail()
		}
	}
	if p.Reason, ok = next(); !ok {
		return fail()
	}
	if len(b) < len(p.Request) {
		return fail()
	}
	b = b[copy(p.Request[:], b):]
	count, used := binary.Uvarint(b)
	if used <= 0 || count > uint64(len(b))/2 {
		return fail()
	}
	b = b[used:]
	p.Claims = make(map[string]string, count)
	for range count {
		k, ok1 := next()
		v, ok2 := next()
		if !ok1 || !ok2 {
			return fail()
		}
		p.Claims[k] = v
	}
	if len(b) != 0 {
		return fail()
	}
	return p, nil
}

// seal makes the sealed part of one record.
func (f footing) seal(bind []byte, addr netip.Addr, reason string, request [16]byte, claims []byte) ([]byte, error) {
	var buf [256]byte
	return envelope.SealAudit(f.keys, f.cluster.AuditGeneration, bind, appendSealedPart(buf[:0], addr, reason, request, claims))
}

// open reads the sealed part of a record; a record without one gives the zero value.
func (f footing) open(rec fsm.AuditRecord) (sealedPart, error) {
	if len(rec.Sealed) == 0 {
		return sealedPart{}, nil
	}
	action := rec.Action
	switch action { // Apply writes these itself, for offline verifiers
	case fsm.ActionApprove:
		action = string(policy.ClusterApprove)
	case fsm.ActionRemove:
		action = string(policy.ClusterRemove)
	}
	b, err := envelope.OpenAudit(f.keys, auditBind(rec.Principal, action, rec.Resource), rec.Sealed)
	if err != nil {
		return sealedPart{}, err
	}
	return decodeSealedPart(b)
}

// audits makes the records of an allowed call: one for each target.
func (g *gate) audits(c *call, r *round, verdicts []*verdict) ([]fsm.Audit, error) {
	audits := make([]fsm.Audit, len(verdicts))
	for i, v := range verdicts {
		audits[i] = v.audit
		if c.detail != "" {
			audits[i].Detail = strings.TrimLeft(audits[i].Detail+" "+c.detail, " ")
		}
		audits[i].Generation = r.cluster.AuditGeneration
		var err error
		if audits[i].Sealed, err = r.seal(v.bind, r.origin.addr, c.reason, r.request, r.caller.claims); err != nil {
			return nil, err
		}
	}
	return audits, nil
}

// denials makes the records of a denied call: one for each target, because each was attempted. Those that
// alone would have been allowed are recorded as failed with the others.
func (g *gate) denials(c *call, r *round, verdicts []*verdict, why *verdict) ([]fsm.Audit, error) {
	audits, err := g.audits(c, r, verdicts)
	if err != nil {
		return nil, err
	}
	for i, v := range verdicts {
		switch {
		case !v.decision.Allowed:
			audits[i].Decision = fsm.Denied
		case why.set == nil: // refused by a rule beyond the policies
			audits[i].Decision = fsm.Denied
			if audits[i].Detail != "" {
				audits[i].Detail += ": "
			}
			audits[i].Detail += why.missing
		default:
			audits[i].Decision, audits[i].Detail = fsm.Failed, "refused together with another reference"
		}
	}
	return audits, nil
}

// fingerprint is what a mutation is recognised by: the same request id with another one is an error.
func fingerprint(f footing, method string, m proto.Message) ([]byte, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	defer clear(body) // may hold a value
	return f.keys.Fingerprint(generationOf(f.store, keyring.Fingerprint), "hizo/request/v1/"+method, body)
}

// generationOf is the newest generation of a key purpose.
func generationOf(store *fsm.Store, purpose string) uint32 {
	return max(1, store.KeyGeneration(purpose))
}
