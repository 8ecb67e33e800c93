package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

type rotationRunCmd struct {
	rotationOf
	Wait     bool          `help:"Wait until the new value is current."`
	Finished bool          `help:"Wait until the old value is gone as well."`
	Patience time.Duration `default:"10m" help:"How long to wait; the rotation goes on after that."`
}

func (c *rotationRunCmd) Run(s *session) error {
	req, err := c.request()
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	asked, err := cl.Rotations().Run(s.ctx, req)
	if err != nil {
		return err
	}
	if !c.Wait && !c.Finished {
		return s.show(asked, table{rows: [][]string{{"rotation", fmt.Sprint(asked.GetAttempt())}, {"status", "hizo rotation status " + c.Secret}}})
	}
	ctx, cancel := context.WithTimeout(s.ctx, c.Patience)
	defer cancel()
	r, err := c.wait(ctx, s, cl, req, asked.GetAttempt())
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("rotation %d of %s goes on, but has not come that far within %v: `hizo rotation status %s` says why", asked.GetAttempt(), c.Secret, c.Patience, c.Secret)
		}
		return err
	}
	return s.show(r, rotationTable(r))
}

// wait looks until the attempt has come far enough, and says on standard error how it comes along.
func (c *rotationRunCmd) wait(ctx context.Context, s *session, cl *client.Client, req *hizov1.RotationRequest, attempt uint32) (*hizov1.Rotation, error) {
	show := &hizov1.ShowRotationRequest{Vault: req.GetVault(), Path: req.GetPath()}
	stage, failure := "", ""
	for {
		r, err := cl.Rotations().Show(ctx, show)
		if err != nil {
			return nil, err
		}
		under := r.GetVersion() != 0 && r.GetAttempts() == attempt
		if now := r.GetStage(); under && now != stage {
			s.note("rotation %d: %s", attempt, now)
			stage = now
		}
		if now := r.GetFailure(); now != "" && now != failure && r.GetTries() > 0 {
			s.note("rotation %d: %s", attempt, now)
			failure = now
		}
		if under && !c.Finished && (r.GetStage() == "promoted" || r.GetStage() == "retiring") {
			return r, nil
		}
		if !under && r.GetAttempts() >= attempt {
			return r, c.ended(ctx, cl, req, attempt)
		}
		show.After = r.GetRevision()
	}
}

// rotationFailedError says that a rotation ended without a new value.
type rotationFailedError struct{ text string }

func (e *rotationFailedError) Error() string { return e.text }

// ended is an error unless the attempt brought a new value.
func (c *rotationRunCmd) ended(ctx context.Context, cl *client.Client, req *hizov1.RotationRequest, attempt uint32) error {
	h, err := cl.Rotations().History(ctx, req)
	if err != nil {
		return err
	}
	for _, a := range h.GetAttempts() {
		if a.GetNumber() == attempt && a.GetOutcome() != "finished" {
			return &rotationFailedError{fmt.Sprintf("rotation %d of %s was %s: %s", attempt, c.Secret, a.GetOutcome(), a.GetDetail())}
		}
	}
	return nil
}
