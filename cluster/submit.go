package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hizo/hizo/cluster/peerpb"
	"github.com/hizo/hizo/fsm"
)

// dutyCommand is a record that a node makes by itself.
func (n *Node) dutyCommand(kind fsm.Kind, body any, audits ...fsm.Audit) fsm.Command {
	return nodeCommand(n.cfg.ID, kind, body, audits...)
}

func nodeCommand(node string, kind fsm.Kind, body any, audits ...fsm.Audit) fsm.Command {
	return fsm.Command{Kind: kind, Principal: "node/" + node, Audits: audits, Body: fsm.EncodeBody(kind, body)}
}

// CodeError is an outcome other than CodeOK where a node expected none.
type CodeError struct {
	Code    fsm.Code
	Changed string
}

func (e *CodeError) Error() string {
	if e.Changed != "" {
		return fmt.Sprintf("the cluster refused: code %d, %s changed", e.Code, e.Changed)
	}
	return fmt.Sprintf("the cluster refused: code %d", e.Code)
}

// Is makes refusals recognisable.
func (e *CodeError) Is(target error) bool {
	switch target {
	case ErrNotAllowed:
		return e.Code == fsm.CodeDenied
	case ErrSealed:
		return e.Code == fsm.CodeSealed
	}
	return false
}

func codeError(result fsm.Result) error {
	if result.Code == fsm.CodeOK {
		return nil
	}
	return &CodeError{Code: result.Code, Changed: result.Changed}
}

// submit commits a record of this node through whoever leads, which takes some tries while leadership
// moves. Only records for which a second copy is harmless are submitted: an unknown outcome is retried.
func (n *Node) submit(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	const first, slowest = 20 * time.Millisecond, 500 * time.Millisecond
	var last error
	for pause := first; ; pause = min(2*pause, slowest) {
		result, err := n.submitOnce(ctx, cmd)
		if err == nil {
			return result, nil
		}
		var unknown *UnknownOutcomeError
		var notLeader *NotLeaderError
		if errors.Is(err, ErrNotAllowed) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrCommand) {
			return fsm.Result{}, err
		}
		if !errors.As(err, &unknown) && !errors.As(err, &notLeader) {
			n.log.Debug("submit", "error", err)
		}
		if ctx.Err() == nil {
			last = err // not merely the context's own error
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fsm.Result{}, errors.Join(ctx.Err(), last)
		case <-n.ctx.Done():
			timer.Stop()
			return fsm.Result{}, ErrShutdown
		}
	}
}

func (n *Node) submitOnce(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if n.IsLeader() {
		return n.Propose(ctx, cmd)
	}
	leader := n.leaderInfo().ID
	if leader == "" || leader == n.cfg.ID {
		return fsm.Result{}, &NotLeaderError{}
	}
	reply, err := n.peers.of(leader).Forward(ctx, &peerpb.ForwardRequest{Command: fsm.EncodeCommand(cmd)})
	if err != nil {
		return fsm.Result{}, peerError(err)
	}
	return fsm.Result{Code: fsm.Code(reply.Code), Index: reply.Index, Time: reply.Time, Changed: reply.Changed}, nil
}

// errNoRecord says that what a leader called committed is not in this node's log.
var errNoRecord = errors.New("the record is not in this node's log as the leader said")

// confirm waits until this node has applied a record of its own that a leader says is committed, and finds
// it among its own audit leaves: nothing is given away on the leader's word alone. after is a position from
// before the record was submitted.
func (n *Node) confirm(ctx context.Context, after uint64, result fsm.Result, audit fsm.Audit) error {
	if err := codeError(result); err != nil {
		return err
	}
	if result.Index <= after {
		return errNoRecord
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := n.store.WaitApplied(ctx, result.Index); err != nil {
		return fmt.Errorf("entry %d: %w", result.Index, err)
	}
	for r, err := range n.store.AuditRecordsBackward(0, n.store.AuditSize()) {
		if err != nil {
			return err
		}
		if r.Index < result.Index {
			break
		}
		if r.Index == result.Index && r.Outcome == fsm.CodeOK && r.Decision == audit.Decision && r.Principal == "node/"+n.cfg.ID &&
			r.Action == audit.Action && r.Resource == audit.Resource && r.Detail == audit.Detail {
			return nil
		}
	}
	return errNoRecord
}

// maxForwardedDuty bounds a record of a member's own.
const maxForwardedDuty = 4096

// takeForwarded is the leader's end. Of the member's command it takes kind and body and makes the record
// anew, so that what the audit log says of it is the leader's word: who called is known from the stream.
// Records of the member's clients are another matter (forward.go).
func (n *Node) takeForwarded(ctx context.Context, from fsm.Member, size int, cmd fsm.Command) (fsm.Result, error) {
	if !trusted(from) {
		return fsm.Result{}, fmt.Errorf("%s is not approved: %w", from.ID, ErrNotAllowed)
	}
	if !n.IsLeader() {
		return fsm.Result{}, &NotLeaderError{Leader: n.leaderInfo()}
	}
	if cmd.Kind == fsm.KindRecord {
		return n.takeForwardedRecord(ctx, from, size, cmd)
	}
	if size > maxForwardedDuty {
		return fsm.Result{}, ErrTooLarge
	}
	body, err := fsm.DecodeBody(cmd.Kind, cmd.Body)
	if err != nil {
		return fsm.Result{}, err
	}
	var audit fsm.Audit
	switch b := body.(type) {
	case *fsm.ShareRelease:
		if b.Holder != from.ID {
			return fsm.Result{}, fmt.Errorf("%s forwards a share of %s: %w", from.ID, b.Holder, ErrNotAllowed)
		}
		if len(b.Nonce) != releaseNonce {
			return fsm.Result{}, ErrNotAllowed
		}
		audit = shareReleaseAudit(*b)
	case *fsm.Unsealed:
		// A member may speak of another one only right after operators unsealed it (handRootOver).
		own := b.Node == from.ID && (b.Method == byQuorum || b.Method == byOperators)
		if !own && (b.Node == from.ID || b.Method != byHandOver) {
			return fsm.Result{}, fmt.Errorf("%s forwards an unsealing of %s: %w", from.ID, b.Node, ErrNotAllowed)
		}
		audit = unsealAudit(b.Node, b.Method)
	default:
		return fsm.Result{}, fmt.Errorf("%s forwards kind %d: %w", from.ID, cmd.Kind, ErrNotAllowed)
	}
	if err := n.checkMember(from); err != nil {
		return fsm.Result{}, err
	}
	return n.Propose(ctx, nodeCommand(from.ID, cmd.Kind, body, audit))
}
