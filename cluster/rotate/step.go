package rotate

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"time"

	"github.com/hizo/hizo/cluster/rotate/schedule"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/crypto/envelope"
	"github.com/hizo/hizo/fsm"
)

// Actions of the audit log. One record for each stage that an attempt has come to, and for each failure.
const (
	ActionUse    = "rotation.use" // values leave for the target
	ActionStage  = "rotation.stage"
	ActionFail   = "rotation.fail"
	ActionGiveUp = "rotation.give-up"
)

var actionTo = map[fsm.RotationState]string{
	fsm.RotationApplied: "rotation.apply", fsm.RotationVerified: "rotation.verify", fsm.RotationPromoted: "rotation.promote",
	fsm.RotationRetiring: "rotation.grace", fsm.RotationRetired: "rotation.retire",
	fsm.RotationGivenUp: ActionGiveUp, fsm.RotationDropped: ActionGiveUp,
}

// stageOf names the stage that follows a state, as people read it.
var stageOf = map[fsm.RotationState]string{
	fsm.RotationIdle: "stage", fsm.RotationStaged: "apply", fsm.RotationApplied: "verify", fsm.RotationVerified: "promote",
	fsm.RotationPromoted: "grace", fsm.RotationRetiring: "retire", fsm.RotationGivingUp: "give-up",
}

// A step's errors: what went wrong at the target (or with the values for it) is recorded and tried again later. Any other
// error means that the cluster could not be asked; the state will say what has come of it.
type failure struct {
	message   string
	permanent bool
}

func (f *failure) Error() string { return f.message }

// step does what is due next for one rotation, and records it.
func (t *turn) step(ctx context.Context, r *fsm.Rotation) error {
	t.hook("before " + stageOf[r.Attempt.State])
	err := t.try(ctx, r)
	if f, ok := errors.AsType[*failure](err); ok {
		return t.fail(ctx, r, f)
	}
	if err == nil {
		t.hook("recorded " + stageOf[r.Attempt.State])
	}
	return err
}

func (t *turn) try(ctx context.Context, r *fsm.Rotation) error {
	if err := t.authentic(r); err != nil {
		return err
	}
	switch r.Attempt.State {
	case fsm.RotationIdle:
		return t.stage(ctx, r)
	case fsm.RotationStaged:
		return t.at(ctx, r, fsm.RotationApplied, target.Target.Apply)
	case fsm.RotationApplied:
		return t.at(ctx, r, fsm.RotationVerified, target.Target.Verify)
	case fsm.RotationVerified:
		return t.advance(ctx, r, fsm.RotationPromoted)
	case fsm.RotationPromoted:
		return t.advance(ctx, r, fsm.RotationRetiring)
	case fsm.RotationRetiring:
		if r.Attempt.Old == 0 {
			return t.advance(ctx, r, fsm.RotationRetired)
		}
		return t.at(ctx, r, fsm.RotationRetired, target.Target.Retire)
	case fsm.RotationGivingUp:
		return t.giveUp(ctx, r)
	}
	return fmt.Errorf("a rotation in state %d", r.Attempt.State)
}

// authentic checks that the cluster made the schedule: it says where values are sent.
func (t *turn) authentic(r *fsm.Rotation) error {
	keys, err := t.node.Keyring()
	if err != nil {
		return err
	}
	cl, _ := t.node.Store().Cluster()
	if err := keys.VerifyMAC(cl.MACGeneration, r.MACDomain(), r.MACBody(), r.MAC); err != nil {
		t.log.Error("a rotation was changed outside the cluster", "secret", r.Vault+"/"+r.Path, "error", err)
		return &failure{message: "the schedule was changed outside the cluster: set it again with `hizo rotation set`"}
	}
	return nil
}

// at makes one call at the target and records the state that it leads to.
func (t *turn) at(ctx context.Context, r *fsm.Rotation, to fsm.RotationState, f func(target.Target, context.Context, target.Attempt) error) error {
	err := t.with(ctx, r, stageOf[r.Attempt.State], func(ctx context.Context, to target.Target, a target.Attempt) error { return f(to, ctx, a) })
	if err != nil {
		return err
	}
	t.hook("called " + stageOf[r.Attempt.State])
	return t.advance(ctx, r, to)
}

// with calls a target with the values of the attempt, released on record.
func (t *turn) with(ctx context.Context, r *fsm.Rotation, stage string, f func(context.Context, target.Target, target.Attempt) error) error {
	kind, ok := t.cfg.Targets[r.Target]
	if !ok {
		return &failure{message: fmt.Sprintf("the node %s knows no target of the kind %s: check its version and configuration", t.node.ID(), r.Target)}
	}
	a, wipe, err := t.attempt(ctx, r, stage)
	if err != nil {
		return err
	}
	err = t.call(ctx, r, wipe, func(ctx context.Context) error { return f(ctx, kind, a) })
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err() // the term is over: no failure of the target
		}
		return failureOf(err)
	}
	return nil
}

// failureOf says what went wrong in words that hold no value: texts that are not target.Error's may.
func failureOf(err error) *failure {
	f := &failure{permanent: errors.Is(err, target.ErrPermanent)}
	known, ok := errors.AsType[*target.Error](err)
	switch {
	case ok:
		f.message = known.Error()
	case errors.Is(err, context.DeadlineExceeded):
		f.message = "the target did not answer in time"
	default:
		f.message = "the target failed, in words that are not shown because they could hold a value"
	}
	if len(f.message) > fsm.MaxRotationText {
		f.message = strings.ToValidUTF8(f.message[:fsm.MaxRotationText], "")
	}
	return f
}

// stage makes the new value and records it: from then on it is the attempt's, whoever leads.
func (t *turn) stage(ctx context.Context, r *fsm.Rotation) error {
	store := t.node.Store()
	next, err := t.nextRun(r)
	if err != nil {
		return &failure{message: err.Error(), permanent: true}
	}
	head, _ := store.Secret(r.Vault, r.Path)
	body := fsm.RotationStage{
		Vault: r.Vault, Path: r.Path, ID: t.attemptID(), Version: max(head.Next, 1), Old: head.Current, NextRun: next,
	}
	staged := *r
	staged.Attempt = fsm.RotationAttempt{ID: body.ID, Old: head.Current}
	var value target.Value
	err = t.with(ctx, &staged, "stage", func(ctx context.Context, to target.Target, a target.Attempt) error {
		made, err := to.Stage(ctx, a)
		if err == nil {
			value, err = whole(r.Target, made)
		}
		return err
	})
	if err != nil {
		return err
	}
	defer envelope.WipeValue(value)
	t.hook("called stage")
	keys, err := t.node.Keyring()
	if err != nil {
		return err
	}
	cl, _ := store.Cluster()
	vault, ok := store.Vault(r.Vault)
	if !ok {
		return &failure{message: "the vault is gone", permanent: true}
	}
	sealed, err := envelope.SealValue(keys, bind(cl, r.Vault, r.Path, body.Version), vault.Generation, value)
	if err != nil {
		return err
	}
	body.Data = fsm.SealedValue(sealed)
	return t.propose(ctx, fsm.KindRotationStage, r, ActionStage, "", &body)
}

// attemptID is a UUIDv7 of cluster time (RFC 9562 section 5.7): of two attempts at one secret the later one's is larger,
// whichever nodes made them, so that a target can tell a call that comes late.
func (t *turn) attemptID() (id [16]byte) {
	rand.Read(id[:])
	binary.BigEndian.PutUint64(id[:8], uint64(t.now().UnixMilli())<<16|uint64(binary.BigEndian.Uint16(id[6:8])))
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80
	return id
}

// nextRun is when the schedule is due after the attempt that begins now. Runs that were missed are made up for by one.
func (t *turn) nextRun(r *fsm.Rotation) (int64, error) {
	s, err := schedule.Parse(schedule.Spec{
		Every: time.Duration(r.Every) * time.Millisecond, Cron: r.Cron, Zone: r.Zone, Window: r.Window,
	})
	if err != nil {
		return 0, err
	}
	now := t.now()
	if r.NextRun > now.UnixMilli() {
		return r.NextRun, nil // somebody asked for this one
	}
	next, ok := s.Next(time.UnixMilli(r.NextRun))
	if ok && !next.After(now) {
		next, ok = s.Next(now)
	}
	if !ok {
		return 0, errors.New("the schedule has no next run")
	}
	return next.UnixMilli(), nil
}

// advance records that the attempt has come to another state.
func (t *turn) advance(ctx context.Context, r *fsm.Rotation, to fsm.RotationState) error {
	return t.propose(ctx, fsm.KindRotationAdvance, r, actionTo[to], "", &fsm.RotationAdvance{
		Vault: r.Vault, Path: r.Path, ID: r.Attempt.ID, From: r.Attempt.State, To: to,
	})
}

// verifyTries is how often a value that the target has taken may be refused there before it is given up: replicas lag.
const verifyTries = 3

// fail records a failed try.
func (t *turn) fail(ctx context.Context, r *fsm.Rotation, f *failure) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	from := r.Attempt.State
	body := fsm.RotationFail{
		Vault: r.Vault, Path: r.Path, ID: r.Attempt.ID, From: from, Message: f.message,
		RetryAt: t.now().Add(t.backoff(r.Tries)).UnixMilli(),
	}
	if f.permanent {
		switch from {
		case fsm.RotationIdle:
			next, err := t.nextRun(r)
			if err != nil {
				next = t.now().Add(t.cfg.BackoffMax).UnixMilli()
			}
			body.GiveUp, body.NextRun = true, next
		case fsm.RotationStaged:
			body.GiveUp = true
		case fsm.RotationApplied:
			body.GiveUp = r.Tries+1 >= verifyTries
		}
	}
	t.log.Warn("a step of a rotation failed", "secret", r.Vault+"/"+r.Path, "stage", stageOf[from], "tries", r.Tries+1,
		"gives_up", body.GiveUp, "error", f.message)
	return t.propose(ctx, fsm.KindRotationFail, r, ActionFail, stageOf[from], &body)
}

// backoff grows with the tries, up to its bound; half of it is random, so that what failed together does not come again
// together.
func (t *turn) backoff(tries uint32) time.Duration {
	d := t.cfg.BackoffMax
	if tries < 30 {
		d = min(d, t.cfg.BackoffMin<<tries)
	}
	return d/2 + mathrand.N(d/2+1)
}

// giveUp ends an attempt whose value the target will not take. First the target is made to take nothing more of it; then
// what logs in there decides, so that no value that is valid is ever thrown away.
func (t *turn) giveUp(ctx context.Context, r *fsm.Rotation) error {
	err := t.with(ctx, r, "fence", func(ctx context.Context, to target.Target, a target.Attempt) error { return to.Fence(ctx, a) })
	if err != nil {
		return t.still(err)
	}
	t.hook("called give-up")
	logsIn := func(stage string, of func(a target.Attempt) target.Attempt) (bool, error) {
		err := t.with(ctx, r, stage, func(ctx context.Context, to target.Target, a target.Attempt) error { return to.Verify(ctx, of(a)) })
		if f, ok := errors.AsType[*failure](err); ok && f.permanent {
			return false, nil
		}
		return err == nil, err
	}
	if r.Attempt.Old != 0 {
		old, err := logsIn("verify the current value", func(a target.Attempt) target.Attempt { a.New = a.Old; return a })
		if err != nil {
			return t.still(err)
		}
		if old {
			return t.advance(ctx, r, fsm.RotationGivenUp)
		}
	}
	fresh, err := logsIn("verify the new value", func(a target.Attempt) target.Attempt { return a })
	if err != nil {
		return t.still(err)
	}
	if fresh {
		return t.advance(ctx, r, fsm.RotationVerified)
	}
	return t.advance(ctx, r, fsm.RotationDropped)
}

// still keeps a failure of giving up from being given up itself.
func (t *turn) still(err error) error {
	if f, ok := errors.AsType[*failure](err); ok {
		return &failure{message: f.message}
	}
	return err
}
