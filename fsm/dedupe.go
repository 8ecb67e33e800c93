package fsm

import (
	"bytes"
	"encoding/binary"
)

// Mutations are remembered by principal and request id, so that a retry takes effect once, across fail-over too.
//
// A request id is a UUIDv7 (RFC 9562 section 5.7) and begins with its time in milliseconds, so the memory is ordered by
// age without an index of its own, and "too old to be remembered" and "no longer remembered" are one rule.

// remembers says whether a command's request id is remembered: for all that changes more than the clock.
func remembers(cmd *Command) bool {
	switch cmd.Kind {
	case KindRecord, KindRead, KindInject, KindTick, KindClockJump:
		return false
	}
	return cmd.Request != [16]byte{}
}

// settled codes are answers a retry must get again. The others leave the id free: nothing happened, and the same
// request may be tried again once what stood in its way is gone.
func settled(c Code) bool {
	switch c {
	case CodeOK, CodeNotFound, CodeExists, CodeConflict, CodeDeleted, CodeDestroyed, CodeUsed,
		CodeLastSecurityEngineer:
		return true
	}
	return false
}

func requestTime(id [16]byte) (ms int64, ok bool) {
	ms = int64(binary.BigEndian.Uint64(id[:8]) >> 16)
	return ms, id[6]>>4 == 7 && id[8]>>6 == 2
}

// recall answers a command whose request id was used before. A zero code means: go on. For Login, Enrol and
// LeaseCreate, whose answer (a token, a password) can't be remembered, a retry goes on with what is known of the first attempt.
func (t *tx) recall(cmd *Command) (outcome, *request) {
	ms, ok := requestTime(cmd.Request)
	if !ok || ms > t.time+millis(RequestMemory) {
		// An id of the far future would be remembered that long.
		return refuse(CodeInvalid), nil
	}
	if ms < t.time-millis(RequestMemory) {
		return refuse(CodeRequestExpired), nil
	}
	known := find[request](t, objRequest(cmd.Request, cmd.Principal))
	if known == nil {
		return outcome{}, nil
	}
	if !bytes.Equal(known.Fingerprint, cmd.Fingerprint) {
		return refuse(CodeRequestReused), nil
	}
	if known.Code == CodeOK && (cmd.Kind == KindLogin || cmd.Kind == KindEnrol || cmd.Kind == KindLeaseCreate) {
		return outcome{}, known
	}
	out := outcome{Result: Result{
		Code: known.Code, Index: known.Index, Version: known.Version, Duplicate: true,
	}}
	if known.Code == CodeOK {
		out.versions = []uint32{known.Version}
	}
	return out, nil
}

// remember stores what a request came to. It is written for refusals as well, after their own writes were dropped.
func (t *tx) remember(r *record, out *outcome) {
	m := &request{
		Fingerprint: r.cmd.Fingerprint, Code: out.Code, Version: out.Version, Index: out.Index, Time: t.time,
	}
	switch body := r.body.(type) {
	case *Login:
		m.Token, m.ClientKey = body.Token.Hash, body.ClientKey
	case *Enrol:
		m.Token = body.Token.Hash
	case *LeaseCreate:
		m.Token = body.Lease.ID[:]
	}
	t.put(objRequest(r.cmd.Request, r.cmd.Principal), m)
	t.accept()
	ms, _ := requestTime(r.cmd.Request)
	t.due.request(ms)
}
