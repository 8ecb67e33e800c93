package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/client/leases"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/chaos/history"
	"github.com/hizo/hizo/chaos/lab"
)

const (
	leaseRole = "reader"
	leaseTTL  = 5 * time.Second
)

// setupLeases makes the role at Redis by which the workload "job" leases users.
func (w *Workload) setupLeases(ctx context.Context, c *client.Client) error {
	if w.Redis == nil {
		return nil
	}
	_, err := c.Leases().PutRole(ctx, &hizov1.PutLeaseRoleRequest{
		Vault: Vault, Name: leaseRole, Kind: "redis", Admin: Vault + "/" + rotator,
		TtlSeconds: int64(leaseTTL / time.Second), MaxTtlSeconds: 3 * int64(leaseTTL/time.Second),
		Config: map[string]string{"host": lab.RedisHost, "port": lab.RedisPort, "tls": "disable", "rules": "+ping"},
	})
	if err != nil {
		return err
	}
	_, err = c.Policies().PutPolicy(ctx, &hizov1.PutPolicyRequest{Name: "lease", Text: `permit (principal == Hizo::Workload::"job", action == Hizo::Action::"lease", resource in Hizo::Vault::"` + Vault + `");`})
	return err
}

// leases has users made, logs in as them, and gives them back, renews them first, or lets them run out.
func (w *Workload) leases(ctx context.Context, rng *rand.Rand) {
	if w.Redis == nil {
		return
	}
	admin, err := w.Connect(w.Admin)
	if err != nil {
		return
	}
	defer admin.Close()
	for n := 0; ctx.Err() == nil; {
		c, err := w.login(ctx, admin, "lease", "job")
		if err != nil {
			pause(ctx, history.Event{Outcome: history.No})
			continue
		}
		for range 20 {
			if ctx.Err() != nil {
				break
			}
			w.lease(ctx, c, fmt.Sprintf("lease#%d", n), rng.IntN(3))
			n++
			select {
			case <-ctx.Done():
			case <-time.After(time.Duration(rng.IntN(200)) * time.Millisecond):
			}
		}
		_ = c.Close()
	}
}

func (w *Workload) lease(ctx context.Context, c *client.Client, id string, end int) {
	timed := func(kind string, f func(ctx context.Context) error) history.Event {
		e := w.Record.Begin(history.Event{Client: "lease", Kind: kind, Key: Vault + "/" + leaseRole, Token: id})
		call, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		e = outcome(e, f(call))
		w.Record.End(e)
		pause(ctx, e)
		return e
	}
	role := name.LeaseRole{Vault: Vault, Role: leaseRole}
	username := name.LeaseReference{LeaseRole: role, Field: name.LeaseUsername}
	password := name.LeaseReference{LeaseRole: role, Field: name.LeasePassword}
	var set *leases.Set
	begun := time.Now()
	if e := timed(history.Lease, func(ctx context.Context) (err error) {
		set, err = leases.Issue(ctx, c.Leases(), "chaos", []name.LeaseReference{username})
		return err
	}); e.Outcome != history.OK {
		return
	}
	user, _ := set.Value(username)
	secret, _ := set.Value(password)
	w.canary(string(secret.Reveal()))
	login := w.Record.Begin(history.Event{Client: "lease", Kind: history.LeaseLogin, Token: id, Outcome: history.OK})
	if err := w.Redis.Login(ctx, string(user.Reveal()), string(secret.Reveal())); err != nil {
		login.Outcome, login.Reason = history.No, "REFUSED"
		if ctx.Err() != nil || time.Since(begun) > leaseTTL/2 {
			login.Reason = "LATE" // it may have run out meanwhile
		}
	}
	w.Record.End(login)
	service, lease := c.Leases(), set.Leases()[0].GetId()
	if end == 1 {
		timed(history.LeaseRenew, func(ctx context.Context) error {
			_, err := service.Renew(ctx, &hizov1.RenewLeaseRequest{Id: lease})
			return err
		})
	}
	if end > 0 {
		timed(history.LeaseEnd, func(ctx context.Context) error {
			_, err := service.Revoke(ctx, &hizov1.RevokeLeasesRequest{Id: lease})
			return err
		})
	}
}

// Leased checks, on a cluster that is whole again, that every user that was made worked when it was handed out, and that
// all of them are gone once their time is over: those of acknowledged calls, of unknown outcomes, and those that a leader
// had made at the server when it died. issued is how many were handed out.
func (w *Workload) Leased(ctx context.Context, events []history.Event) (issued int, violations []string) {
	if w.Redis == nil {
		return 0, nil
	}
	for _, e := range events {
		switch {
		case e.Kind == history.Lease && e.Outcome == history.OK:
			issued++
		case e.Kind == history.LeaseLogin && e.Reason == "REFUSED":
			violations = append(violations, fmt.Sprintf("lease: the user of %s, handed out by a call that had succeeded, does not log in", e.Token))
		}
	}
	c, err := w.Connect(w.Admin)
	if err != nil {
		return issued, []string{err.Error()}
	}
	defer c.Close()
	// The making of a user, where the leader that was at it died, is given up after a minute (fsm.LeaseDeadline).
	ctx, cancel := context.WithTimeout(ctx, 100*time.Second)
	defer cancel()
	err = lab.Await(ctx, "all leases are over", func(ctx context.Context) error {
		list, err := c.Leases().List(ctx, &hizov1.ListLeasesRequest{})
		if err != nil {
			return err
		}
		users, err := w.Redis.Do(ctx, "ACL", "USERS").StringSlice()
		if err != nil {
			return err
		}
		users = slices.DeleteFunc(users, func(u string) bool { return slices.Contains([]string{"default", "admin", rotatedUser}, u) })
		// One whose making was never confirmed is kept for minutes after its user was dropped, to be dropped once more.
		left := slices.DeleteFunc(list.GetLeases(), func(l *hizov1.Lease) bool { return l.GetState() == "revoking" && l.GetLastError() == "" })
		if len(left) > 0 || len(users) > 0 {
			return fmt.Errorf("%d leases (%s) and these users in Redis: %s", len(left), leaseStates(list.GetLeases()), strings.Join(users, " "))
		}
		return nil
	})
	if err != nil {
		violations = append(violations, fmt.Sprintf("lease: %v", err))
	}
	return issued, violations
}

func leaseStates(list []*hizov1.Lease) string {
	var out []string
	for _, l := range list {
		out = append(out, fmt.Sprintf("%s %s %s", l.GetUsername(), l.GetState(), l.GetLastError()))
	}
	return strings.Join(out, ", ")
}
