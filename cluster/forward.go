package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hizo/hizo/cluster/peerpb"
	"github.com/hizo/hizo/fsm"
)

// Bounds of what a member may say on behalf of its clients. Rates are of bytes, because bytes are what fills the
// log; a small record counts as forwardLeast.
const (
	maxForwarded   = 128 << 10
	maxForwardLeaf = 64
	maxForwardText = 16 << 10 // of one sealed part
	forwardLeast   = 1 << 10
	forwardRate    = 512 << 10 // a second
	forwardBurst   = 2 << 20
)

// via marks, at the end of a record's readable detail, the member that the record came through.
const via = "via="

// forwardedActions may be on record as allowed by a member's word. Everything else that is allowed is decided by the
// leader; what is refused anybody may have refused.
var forwardedActions = []string{"watch"}

// ForwardRecord puts a record of what a client of this node did, or tried, into the log: through the leader, or here
// if this node leads. It is for fsm.KindRecord with a sealed part in each audit. It returns once this node has
// applied the record and found it among its own audit leaves, so that nothing is released on the leader's word
// alone. A sealed node may forward failures of nobody in particular, such as a wrong operator's share.
//
// The error is that of Propose; refusals by Apply are in the result. A record whose outcome is unknown may be
// forwarded again: then it is there twice, and both are true.
func (n *Node) ForwardRecord(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	if n.IsLeader() {
		return n.Propose(ctx, cmd)
	}
	if !n.Initialised() {
		return fsm.Result{}, ErrNotInitialised
	}
	if n.keys.sealed() && !anonymousFailure(cmd) {
		return fsm.Result{}, ErrSealed
	}
	encoded, err := encodeRecord(cmd)
	if err != nil {
		return fsm.Result{}, err
	}
	if err := forwardable(n.cfg.ID, len(encoded), cmd); err != nil {
		return fsm.Result{}, err
	}
	leader := n.leaderInfo().ID
	if leader == "" || leader == n.cfg.ID {
		return fsm.Result{}, &NotLeaderError{}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	after := n.store.Position().Index
	reply, err := n.peers.of(leader).Forward(ctx, &peerpb.ForwardRequest{Command: encoded})
	if err != nil {
		return fsm.Result{}, forwardError(err)
	}
	result := fsm.Result{Code: fsm.Code(reply.Code), Index: reply.Index, Time: reply.Time, Changed: reply.Changed}
	if result.Code != fsm.CodeOK {
		return result, nil
	}
	if err := n.foundForwarded(ctx, after, result, cmd); err != nil {
		return fsm.Result{}, &UnknownOutcomeError{Err: err}
	}
	return result, nil
}

// forwardError calls unknown what the leader did not refuse in so many words: the connection may have failed after
// the record went out.
func forwardError(err error) error {
	err = peerError(err)
	var refused *remoteError
	var unknown *UnknownOutcomeError
	if errors.As(err, &refused) || errors.As(err, &unknown) {
		return err
	}
	return &UnknownOutcomeError{Err: err}
}

func anonymousFailure(cmd fsm.Command) bool {
	return cmd.Principal == "anonymous" && !slices.ContainsFunc(cmd.Audits, func(a fsm.Audit) bool { return a.Decision != fsm.Failed })
}

// foundForwarded waits for the entry here and looks for every audit of cmd in it. Sealed parts are salted, so no two
// records have the same.
func (n *Node) foundForwarded(ctx context.Context, after uint64, result fsm.Result, cmd fsm.Command) error {
	if result.Index <= after {
		return errNoRecord
	}
	if err := n.store.WaitApplied(ctx, result.Index); err != nil {
		return fmt.Errorf("entry %d: %w", result.Index, err)
	}
	missing := slices.Clone(cmd.Audits)
	for r, err := range n.store.AuditRecordsBackward(0, n.store.AuditSize()) {
		if err != nil {
			return err
		}
		if r.Index < result.Index {
			break
		}
		if r.Index != result.Index || r.Decision == fsm.Allowed && r.Outcome != fsm.CodeOK || r.Principal != cmd.Principal {
			continue
		}
		missing = slices.DeleteFunc(missing, func(a fsm.Audit) bool {
			return r.Decision == a.Decision && r.Action == a.Action && r.Resource == a.Resource &&
				r.Detail == markForwarded(a.Detail, n.cfg.ID) && bytes.Equal(r.Sealed, a.Sealed)
		})
		if len(missing) == 0 {
			return nil
		}
	}
	return errNoRecord
}

func markForwarded(detail, from string) string {
	return strings.TrimLeft(detail+" "+via+from, " ")
}

// forwardable says whether a member may have a record with these contents. Both ends ask: the leader because it
// trusts no member with more, the member to learn of its own mistakes at home.
func forwardable(from string, size int, cmd fsm.Command) error {
	no := func(what string) error { return fmt.Errorf("%s forwards %s: %w", from, what, ErrNotAllowed) }
	kind, name, _ := strings.Cut(cmd.Principal, "/")
	switch {
	case size > maxForwarded:
		return ErrTooLarge
	case cmd.Kind != fsm.KindRecord || len(cmd.Body) > 0:
		return no(fmt.Sprintf("kind %d", cmd.Kind))
	case cmd.Request != [16]byte{} || len(cmd.Fingerprint) > 0 || cmd.Term != 0:
		return no("a record that changes something")
	case cmd.Principal != "anonymous" && (name == "" || kind != "user" && kind != "workload"):
		return no("a record of " + kind)
	case !plain(cmd.Principal, fsm.MaxName):
		return no("an unreadable principal")
	case len(cmd.Audits) == 0 || len(cmd.Audits) > maxForwardLeaf:
		return no(fmt.Sprintf("%d audits", len(cmd.Audits)))
	}
	for _, a := range cmd.Audits {
		switch {
		case a.Decision < fsm.Allowed || a.Decision > fsm.Failed:
			return no("a record without a decision")
		case a.Decision == fsm.Allowed && !slices.Contains(forwardedActions, a.Action):
			return no("an allowed " + a.Action)
		case a.Action == "" || !plain(a.Action, 64) || !plain(a.Resource, fsm.MaxName) || !plain(a.Detail, 256):
			return no("unreadable text")
		case strings.Contains(a.Detail, via):
			return no("a record that names its forwarder")
		case len(a.Policies) > 32 || slices.ContainsFunc(a.Policies, func(p string) bool { return !plain(p, 256) }):
			return no("unreadable policies")
		case len(a.Sealed) == 0 || len(a.Sealed) > maxForwardText:
			return no("a sealed part of the wrong size")
		}
	}
	return nil
}

func plain(s string, most int) bool {
	return len(s) <= most && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// takeForwardedRecord is the leader's end. What the member says of its client stands as it is, and that it said so
// stands beside it.
func (n *Node) takeForwardedRecord(ctx context.Context, from fsm.Member, size int, cmd fsm.Command) (fsm.Result, error) {
	if err := forwardable(from.ID, size, cmd); err != nil {
		return fsm.Result{}, err
	}
	if n.keys.sealed() { // it could not check the member
		return fsm.Result{}, ErrSealed
	}
	if err := n.checkMember(from); err != nil {
		return fsm.Result{}, err
	}
	for i := range cmd.Audits {
		cmd.Audits[i].Detail = markForwarded(cmd.Audits[i].Detail, from.ID)
	}
	return n.Propose(ctx, fsm.Command{Kind: fsm.KindRecord, Principal: cmd.Principal, Reads: cmd.Reads, Audits: cmd.Audits})
}
