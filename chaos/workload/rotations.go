package workload

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/chaos/history"
	"github.com/hizo/hizo/chaos/lab"
)

const (
	rotated     = "rotated"  // path of the secret that is rotated
	rotator     = "rotator"  // path of the credential by which it is
	rotatedUser = "training" // in Redis
)

// setupRotation makes a user in Redis and a rotation of its password.
func (w *Workload) setupRotation(ctx context.Context, c *client.Client) error {
	if w.Redis == nil {
		return nil
	}
	first := rand.Text()
	if err := w.Redis.Do(ctx, "ACL", "SETUSER", rotatedUser, "on", ">"+first, "+ping").Err(); err != nil {
		return err
	}
	for path, fields := range map[string]map[string][]byte{
		rotator: {"username": []byte("admin"), "password": []byte(w.Redis.Password)},
		rotated: {"username": []byte(rotatedUser), "password": []byte(first)},
	} {
		if _, err := c.Secrets().Put(ctx, &hizov1.PutRequest{Vault: Vault, Path: path, Fields: fields}); err != nil {
			return err
		}
	}
	_, err := c.Rotations().Set(ctx, &hizov1.SetRotationRequest{
		Vault: Vault, Path: rotated, Target: "redis", EverySeconds: 24 * 3600,
		Options: map[string]string{"host": lab.RedisHost, "port": lab.RedisPort, "tls": "disable", "admin": Vault + "/" + rotator},
	})
	return err
}

// rotations asks for one after the other.
func (w *Workload) rotations(ctx context.Context) {
	if w.Redis == nil {
		return
	}
	c, err := w.Connect(w.Admin)
	if err != nil {
		return
	}
	defer c.Close()
	for ctx.Err() == nil {
		e := w.Record.Begin(history.Event{Client: "rotator", Kind: history.Rotate, Key: Vault + "/" + rotated, Request: client.NewRequestID()})
		call, cancel := context.WithTimeout(ctx, callTimeout)
		r, err := c.Rotations().Run(client.WithRequestID(call, e.Request), &hizov1.RotationRequest{Vault: Vault, Path: rotated})
		cancel()
		e = outcome(e, err)
		e.Version = r.GetAttempt()
		w.Record.End(e)
		w.awaitIdle(ctx, c, 10*time.Second)
		pause(ctx, e)
	}
}

func (w *Workload) awaitIdle(ctx context.Context, c *client.Client, limit time.Duration) bool {
	for deadline := time.Now().Add(limit); ctx.Err() == nil && time.Now().Before(deadline); {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		r, err := c.Rotations().Show(call, &hizov1.ShowRotationRequest{Vault: Vault, Path: rotated})
		cancel()
		if err == nil && r.GetStage() == "idle" {
			return true
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return false
}

// Rotated checks, on a cluster that is whole again, that every rotation that was asked for ended once, that the value
// which is current logs in, and that Redis knows no other. finished is how many did.
func (w *Workload) Rotated(ctx context.Context, events []history.Event) (finished int, violations []string) {
	if w.Redis == nil {
		return 0, nil
	}
	bad := func(format string, args ...any) {
		violations = append(violations, "rotation: "+fmt.Sprintf(format, args...))
	}
	c, err := w.Connect(w.Admin)
	if err != nil {
		return 0, []string{err.Error()}
	}
	defer c.Close()
	if !w.awaitIdle(ctx, c, 60*time.Second) {
		r, err := c.Rotations().Show(ctx, &hizov1.ShowRotationRequest{Vault: Vault, Path: rotated})
		bad("a minute after the last fault it is at %q (%s, %v)", r.GetStage(), r.GetFailure(), err)
		return 0, violations
	}
	list, err := c.Rotations().History(ctx, &hizov1.RotationRequest{Vault: Vault, Path: rotated})
	if err != nil {
		bad("no history: %v", err)
		return 0, violations
	}
	seen := map[uint32]int{}
	for _, a := range list.GetAttempts() {
		if seen[a.GetNumber()]++; seen[a.GetNumber()] > 1 {
			bad("attempt %d ended twice", a.GetNumber())
		}
		if a.GetOutcome() == "finished" {
			finished++
		}
	}
	oldest := ^uint32(0)
	for n := range seen {
		oldest = min(oldest, n)
	}
	for _, e := range events { // the state keeps the newest attempts only
		if e.Kind == history.Rotate && e.Outcome == history.OK && e.Version >= oldest && seen[e.Version] == 0 {
			bad("attempt %d was acknowledged and never ended", e.Version)
		}
	}
	value, err := c.Secrets().Reveal(ctx, &hizov1.RevealRequest{Vault: Vault, Path: rotated})
	if err != nil {
		bad("the current value: %v", err)
		return finished, violations
	}
	password := string(value.GetFields()["password"])
	if err := w.Redis.Login(ctx, rotatedUser, password); err != nil {
		bad("the current value (version %d) does not log in: %v", value.GetVersion(), err)
	}
	hash := sha256.Sum256([]byte(password))
	known, err := w.Redis.Passwords(ctx, rotatedUser)
	if err != nil || len(known) != 1 || known[0] != hex.EncodeToString(hash[:]) {
		bad("Redis knows %d passwords of the user, not only the current one (%v)", len(known), err)
	}
	return finished, violations
}
