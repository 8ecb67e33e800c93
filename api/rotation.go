package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/cluster/rotate"
	"github.com/hizo/hizo/cluster/rotate/schedule"
	rotation "github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/fsm"
)

// Rotations is what the API asks of the engine that rotates; *rotate.Engine is one.
type Rotations interface {
	// Check says what is wrong with the options of a target.
	Check(kind string, options map[string]string) error
}

// rotationService manages schedules. What they do is the engine's (cluster/rotate), a duty of the leader.
type rotationService struct {
	hizov1.UnimplementedRotationServiceServer
	*Server
}

// Defaults and bounds of rotations.
const (
	defaultDeadline = 24 * time.Hour
	maxGrace        = 90 * 24 * time.Hour
	maxShowWait     = 3 * time.Second // shorter than a client waits for one attempt
)

// Set stores a schedule.
func (s *rotationService) Set(ctx context.Context, req *hizov1.SetRotationRequest) (*hizov1.Rotation, error) {
	t, err := onSecret(policy.RotationSet, req.GetVault(), req.GetPath())
	if err != nil {
		return nil, err
	}
	t.detail = "target " + req.GetTarget()
	r, plan, err := s.rotation(req)
	if err != nil {
		return nil, err
	}
	targets := []target{t}
	if admin := req.GetOptions()[rotation.OptionAdmin]; admin != "" {
		// Whoever sets the rotation has the admin credential used: that is a decision, and a record, of its own.
		where, err := name.ParseResource(admin)
		if err != nil {
			return nil, err
		}
		use, err := onSecret(policy.RotationUse, where.Vault, where.Path)
		if err != nil {
			return nil, err
		}
		use.detail = "for the rotation of " + t.name
		targets = append(targets, use)
	}
	answer, err := s.gate.do(ctx, &call{
		method: "RotationService/Set", kind: fsm.KindRotationSet, targets: targets, message: req,
		body: func(round *round) (any, error) {
			if _, ok := round.store.Vault(req.GetVault()); !ok {
				return nil, &Error{Reason: hizov1.ReasonNotFound, Message: fmt.Sprintf("there is no vault %s: create it with `hizo vault create`", req.GetVault())}
			}
			next, ok := plan.Next(time.UnixMilli(round.now))
			if !ok {
				return nil, invalid("cron", "the schedule has no next run")
			}
			body := r
			body.NextRun, body.By = next.UnixMilli(), round.caller.text
			var err error
			body.MAC, err = round.mac(body)
			return &fsm.RotationSet{Rotation: body}, err
		},
	})
	if err != nil {
		return nil, err
	}
	return s.shown(answer, req.GetVault(), req.GetPath())
}

// rotation checks a request as far as the state is not needed.
func (s *rotationService) rotation(req *hizov1.SetRotationRequest) (fsm.Rotation, *schedule.Schedule, error) {
	fail := func(err error) (fsm.Rotation, *schedule.Schedule, error) { return fsm.Rotation{}, nil, err }
	if s.conf.Rotations == nil {
		return fail(&Error{Reason: hizov1.ReasonTarget, Message: "this node rotates nothing: start it with targets"})
	}
	if req.GetEverySeconds() < 0 || req.GetEverySeconds() > int64(schedule.MaxEvery/time.Second) {
		return fail(invalid("every", "an interval is from %v to %v", schedule.MinEvery, schedule.MaxEvery))
	}
	grace, deadline := req.GetGraceSeconds(), req.GetDeadlineSeconds()
	switch most := int64(maxGrace / time.Second); {
	case grace < 0 || grace > most:
		return fail(invalid("grace", "a grace is from 0 to %v", maxGrace))
	case deadline < 0 || deadline > most:
		return fail(invalid("deadline", "a deadline is at most %v", maxGrace))
	case deadline != 0 && !req.GetWaitForConsumers():
		return fail(invalid("deadline", "a deadline is for --wait-for-consumers; without it the old value goes when the grace is over"))
	}
	if req.GetWaitForConsumers() {
		deadline = max(cmp.Or(deadline, int64(defaultDeadline/time.Second)), grace)
	}
	plan, err := schedule.Parse(schedule.Spec{
		Every: time.Duration(req.GetEverySeconds()) * time.Second, Cron: req.GetCron(), Zone: req.GetZone(), Window: req.GetWindow(),
	})
	if err != nil {
		return fail(invalid("schedule", "%v", err))
	}
	if len(req.GetOptions()) > fsm.MaxRotationOptions {
		return fail(invalid("options", "at most %d options", fsm.MaxRotationOptions))
	}
	r := fsm.Rotation{
		Vault: req.GetVault(), Path: req.GetPath(), Target: req.GetTarget(), Every: req.GetEverySeconds() * 1000, Cron: req.GetCron(),
		Zone: req.GetZone(), Window: req.GetWindow(), Grace: grace * 1000, Wait: req.GetWaitForConsumers(), Deadline: deadline * 1000,
		RevokeIssued: req.GetRevokeIssued(),
	}
	for _, option := range slices.Sorted(maps.Keys(req.GetOptions())) {
		value := req.GetOptions()[option]
		switch option {
		case "password", "secret", "token", "private_key":
			return fail(invalid("options", "options are readable to whoever owns a disk, and hold no secrets: put %s into a secret and name that by admin=VAULT/PATH", option))
		}
		if _, err := name.Field(option); err != nil || len(value) > fsm.MaxRotationOption {
			return fail(invalid("options", "%q is no option, or its value has more than %d bytes", option, fsm.MaxRotationOption))
		}
		r.Options = append(r.Options, fsm.RotationOption{Name: option, Value: value})
	}
	// The admin credential is the engine's to find, but targets know it as an option of theirs.
	if err := s.conf.Rotations.Check(req.GetTarget(), req.GetOptions()); err != nil {
		if e, ok := errors.AsType[*rotation.Error](err); ok {
			return fail(invalid("options", "%s: %s", e.Kind, e.Message))
		}
		return fail(invalid("options", "%s: %v", req.GetTarget(), err))
	}
	return r, plan, nil
}

// shown describes the rotation as it is now.
func (s *rotationService) shown(a *answer, vault, path string) (*hizov1.Rotation, error) {
	r, ok := a.store.Rotation(vault, path)
	if !ok {
		return nil, fault(hizov1.ReasonNotFound) // deleted in between
	}
	return describeRotation(a.store, &r), nil
}

var stateText = map[fsm.RotationState]string{
	fsm.RotationIdle: "idle", fsm.RotationStaged: "staged", fsm.RotationApplied: "applied", fsm.RotationVerified: "verified",
	fsm.RotationPromoted: "promoted", fsm.RotationRetiring: "retiring", fsm.RotationGivingUp: "giving up",
	fsm.RotationRetired: "finished", fsm.RotationGivenUp: "given up", fsm.RotationDropped: "dropped",
}

func describeRotation(store *fsm.Store, r *fsm.Rotation) *hizov1.Rotation {
	a := &r.Attempt
	out := &hizov1.Rotation{
		Vault: r.Vault, Path: r.Path, Target: r.Target, Options: rotate.Options(r), EverySeconds: r.Every / 1000, Cron: r.Cron,
		Zone: r.Zone, Window: r.Window, GraceSeconds: r.Grace / 1000, WaitForConsumers: r.Wait, DeadlineSeconds: r.Deadline / 1000,
		RevokeIssued: r.RevokeIssued, By: r.By, CreatedUnix: r.Created / 1000, Paused: r.Paused, NextRunUnix: r.NextRun / 1000,
		Revision: r.Changed, Attempts: r.Number, Stage: stateText[a.State], Version: a.Version, OldVersion: a.Old,
		StartedUnix: a.Started / 1000, PromotedUnix: a.Promoted / 1000, Tries: r.Tries, RetryUnix: r.RetryAt / 1000,
		Failure: r.Failure, FailedUnix: r.FailedAt / 1000,
	}
	if a.State == fsm.RotationIdle {
		if r.Requested {
			out.Stage = "requested"
		}
		return out
	}
	if a.State == fsm.RotationPromoted {
		after := r.Grace
		if r.Wait {
			after = max(after, r.Deadline)
		}
		out.RetiresUnix = (a.Promoted + after) / 1000
	}
	for _, c := range store.Lagging(r.Vault, r.Path, a.Version) {
		out.Lagging = append(out.Lagging, &hizov1.LaggingConsumer{
			Principal: c.Principal, Id: c.ID, Version: c.Version, SeenUnix: c.Seen / 1000,
		})
	}
	return out
}

// List lists rotations.
func (s *rotationService) List(ctx context.Context, req *hizov1.ListRotationsRequest) (*hizov1.ListRotationsResponse, error) {
	t := onSystem(policy.RotationList)
	if vault := req.GetVault(); vault != "" {
		if _, err := name.Vault(vault); err != nil {
			return nil, err
		}
		t = target{action: policy.RotationList, resource: policy.Vault(vault), name: vault}
	}
	var out *hizov1.ListRotationsResponse
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{t}}, func(a *answer) error {
		out = &hizov1.ListRotationsResponse{}
		for _, r := range a.store.Rotations() {
			if req.GetVault() == "" || req.GetVault() == r.Vault {
				out.Rotations = append(out.Rotations, describeRotation(a.store, &r))
			}
		}
		return nil
	})
	return sent(out, err)
}

// Show describes one rotation, on demand once it has changed.
func (s *rotationService) Show(ctx context.Context, req *hizov1.ShowRotationRequest) (*hizov1.Rotation, error) {
	t, err := onSecret(policy.RotationShow, req.GetVault(), req.GetPath())
	if err != nil {
		return nil, err
	}
	var out *hizov1.Rotation
	err = s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{t}}, func(a *answer) error {
		s.awaitRotation(ctx, a.store, req)
		var err error
		out, err = s.shown(a, req.GetVault(), req.GetPath())
		return err
	})
	return sent(out, err)
}

// awaitRotation waits until the rotation is at another revision, for a moment at most.
func (s *rotationService) awaitRotation(ctx context.Context, store *fsm.Store, req *hizov1.ShowRotationRequest) {
	if req.GetAfter() == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, maxShowWait)
	defer cancel()
	for {
		changed := store.Changed()
		if store.Index(fsm.ObjRotation(req.GetVault(), req.GetPath())) != req.GetAfter() {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		case <-s.ctx.Done():
			return
		}
	}
}

// Run asks for an attempt.
func (s *rotationService) Run(ctx context.Context, req *hizov1.RotationRequest) (*hizov1.RunRotationResponse, error) {
	t, err := onSecret(policy.RotationRun, req.GetVault(), req.GetPath())
	if err != nil {
		return nil, err
	}
	answer, err := s.gate.do(ctx, &call{
		method: "RotationService/Run", kind: fsm.KindRotationRun, targets: []target{t}, message: req,
		body: func(*round) (any, error) { return &fsm.RotationRun{Vault: req.GetVault(), Path: req.GetPath()}, nil },
	})
	if err != nil {
		return nil, err
	}
	return &hizov1.RunRotationResponse{Attempt: answer.Version}, nil
}

// Pause stops new attempts.
func (s *rotationService) Pause(ctx context.Context, req *hizov1.RotationRequest) (*hizov1.Rotation, error) {
	return s.pause(ctx, "Pause", req, true)
}

// Resume lets the schedule begin again.
func (s *rotationService) Resume(ctx context.Context, req *hizov1.RotationRequest) (*hizov1.Rotation, error) {
	return s.pause(ctx, "Resume", req, false)
}

func (s *rotationService) pause(ctx context.Context, method string, req *hizov1.RotationRequest, paused bool) (*hizov1.Rotation, error) {
	t, err := onSecret(policy.RotationPause, req.GetVault(), req.GetPath())
	if err != nil {
		return nil, err
	}
	t.detail = map[bool]string{true: "pause", false: "resume"}[paused]
	answer, err := s.gate.do(ctx, &call{
		method: "RotationService/" + method, kind: fsm.KindRotationPause, targets: []target{t}, message: req,
		body: func(round *round) (any, error) {
			body := &fsm.RotationPause{Vault: req.GetVault(), Path: req.GetPath(), Paused: paused}
			if r, ok := round.store.Rotation(req.GetVault(), req.GetPath()); ok && !paused {
				plan, err := schedule.Parse(schedule.Spec{
					Every: time.Duration(r.Every) * time.Millisecond, Cron: r.Cron, Zone: r.Zone, Window: r.Window,
				})
				if err != nil {
					return nil, err
				}
				next, _ := plan.Next(time.UnixMilli(round.now))
				body.NextRun = next.UnixMilli()
			}
			return body, nil
		},
	})
	if err != nil {
		return nil, err
	}
	return s.shown(answer, req.GetVault(), req.GetPath())
}

// History lists ended attempts.
func (s *rotationService) History(ctx context.Context, req *hizov1.RotationRequest) (*hizov1.RotationHistoryResponse, error) {
	t, err := onSecret(policy.RotationShow, req.GetVault(), req.GetPath())
	if err != nil {
		return nil, err
	}
	var out *hizov1.RotationHistoryResponse
	err = s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{t}}, func(a *answer) error {
		if _, ok := a.store.Rotation(req.GetVault(), req.GetPath()); !ok {
			return fault(hizov1.ReasonNotFound)
		}
		out = &hizov1.RotationHistoryResponse{}
		for _, h := range slices.Backward(a.store.RotationHistory(req.GetVault(), req.GetPath())) {
			out.Attempts = append(out.Attempts, &hizov1.Attempt{
				Number: h.Number, Version: h.Version, OldVersion: h.Old, StartedUnix: h.Started / 1000, PromotedUnix: h.Promoted / 1000,
				EndedUnix: h.Ended / 1000, Outcome: stateText[h.State], Detail: h.Detail, Failures: h.Failures, Requested: h.Requested,
			})
		}
		return nil
	})
	return sent(out, err)
}

// Delete removes a rotation; the secret stays.
func (s *rotationService) Delete(ctx context.Context, req *hizov1.DeleteRotationRequest) (*hizov1.DeleteRotationResponse, error) {
	t, err := onSecret(policy.RotationDelete, req.GetVault(), req.GetPath())
	if err != nil {
		return nil, err
	}
	if _, err := s.gate.do(ctx, &call{
		method: "RotationService/Delete", kind: fsm.KindRotationDelete, targets: []target{t}, message: req,
		body: func(*round) (any, error) {
			return &fsm.RotationDelete{Vault: req.GetVault(), Path: req.GetPath(), Force: req.GetForce()}, nil
		},
	}); err != nil {
		return nil, err
	}
	return &hizov1.DeleteRotationResponse{}, nil
}
