package leases

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/crypto/secret"
)

// service answers like the leader of a cluster, with leases of an hour that are renewable to three.
type service struct {
	hizov1.LeaseServiceClient
	issued, revoked []string
	renewals        []time.Duration // after the start
	start           time.Time
	refuse          string        // the role that nothing is leased of
	down            time.Duration // after the start: renewals fail until then
	end             time.Duration // after the start: the grant is lost
}

func (s *service) Issue(_ context.Context, req *hizov1.IssueLeaseRequest, _ ...grpc.CallOption) (*hizov1.IssueLeaseResponse, error) {
	if req.GetRole() == s.refuse {
		return nil, &client.Error{Reason: hizov1.ReasonPermissionDenied, Message: "no"}
	}
	s.issued = append(s.issued, req.GetRole())
	now := time.Now()
	out := &hizov1.IssueLeaseResponse{ClusterId: "c", Lease: &hizov1.Lease{
		Id: "id of " + req.GetRole(), Vault: req.GetVault(), Role: req.GetRole(), Principal: "workload/train",
		ExpiresUnix: now.Add(time.Hour).Unix(), MaxExpiresUnix: now.Add(3 * time.Hour).Unix(),
	}}
	to := inject.LeaseTarget{Cluster: "c", Principal: "workload/train", Vault: req.GetVault(), Role: req.GetRole(), Lease: out.Lease.Id}
	var err error
	to.Field = "username"
	if out.SealedUsername, err = inject.SealLease(req.GetExecutionKey(), to, secret.New([]byte("user of "+req.GetRole()))); err != nil {
		return nil, err
	}
	to.Field = "password"
	out.SealedPassword, err = inject.SealLease(req.GetExecutionKey(), to, secret.New([]byte("password of "+req.GetRole())))
	return out, err
}

func (s *service) Renew(_ context.Context, req *hizov1.RenewLeaseRequest, _ ...grpc.CallOption) (*hizov1.Lease, error) {
	at := time.Since(s.start)
	switch {
	case at < s.down:
		return nil, &client.Error{Reason: client.ReasonUnreachable, Message: "away"}
	case s.end != 0 && at >= s.end:
		return nil, &client.Error{Reason: hizov1.ReasonPermissionDenied, Message: "no longer"}
	}
	s.renewals = append(s.renewals, at)
	longest := s.start.Add(3 * time.Hour)
	expires := time.Now().Add(time.Hour)
	if expires.After(longest) {
		expires = longest
	}
	return &hizov1.Lease{Id: req.GetId(), ExpiresUnix: expires.Unix(), MaxExpiresUnix: longest.Unix()}, nil
}

func (s *service) Revoke(_ context.Context, req *hizov1.RevokeLeasesRequest, _ ...grpc.CallOption) (*hizov1.RevokeLeasesResponse, error) {
	s.revoked = append(s.revoked, req.GetId())
	return &hizov1.RevokeLeasesResponse{}, nil
}

func refs(t *testing.T, texts ...string) (out []name.LeaseReference) {
	t.Helper()
	for _, text := range texts {
		ref, err := name.ParseLeaseReference(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, ref)
	}
	return out
}

func TestOneLeaseForARole(t *testing.T) {
	s := &service{}
	wanted := refs(t, "hizo-lease://ml/db#username", "hizo-lease://ml/db#password", "hizo-lease://ml/cache#password")
	set, err := Issue(t.Context(), s, "run", wanted)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.issued, []string{"db", "cache"}) {
		t.Errorf("issued %v", s.issued)
	}
	for i, want := range []string{"user of db", "password of db", "password of cache"} {
		if v, ok := set.Value(wanted[i]); !ok || string(v.Reveal()) != want {
			t.Errorf("%s is %q", wanted[i], v.Reveal())
		}
	}
	if _, ok := set.Value(refs(t, "hizo-lease://ml/other#password")[0]); ok {
		t.Error("a value for what was not asked for")
	}
	password, _ := set.Value(wanted[1])
	if err := set.Close(t.Context()); err != nil || len(s.revoked) != 2 {
		t.Errorf("closed: %v, %v", err, s.revoked)
	}
	if strings.Trim(string(password.Reveal()), "\x00") != "" {
		t.Error("the password is not wiped")
	}
}

// All or none: what was made before another is refused is given back.
func TestRefusedTogether(t *testing.T) {
	s := &service{refuse: "cache"}
	_, err := Issue(t.Context(), s, "run", refs(t, "hizo-lease://ml/db#username", "hizo-lease://ml/cache#password"))
	if !client.IsReason(err, hizov1.ReasonPermissionDenied) || !strings.Contains(err.Error(), "ml/cache") {
		t.Errorf("error %v", err)
	}
	if !slices.Equal(s.revoked, []string{"id of db"}) {
		t.Errorf("revoked %v", s.revoked)
	}
}

func TestKeep(t *testing.T) {
	for _, c := range []struct {
		name     string
		service  service
		why      func(error) bool
		at       time.Duration
		renewals int
	}{
		{"to the longest", service{}, func(err error) bool { return errors.Is(err, ErrLongest) }, 3 * time.Hour, 3},
		{"through an outage", service{down: 55 * time.Minute}, func(err error) bool { return errors.Is(err, ErrLongest) }, 3 * time.Hour, 3},
		{"not without a cluster", service{down: 99 * time.Hour}, func(err error) bool { return client.IsReason(err, client.ReasonUnreachable) }, time.Hour, 0},
		{"not without a grant", service{end: time.Hour}, func(err error) bool { return client.IsReason(err, hizov1.ReasonPermissionDenied) }, 80 * time.Minute, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := c.service
				s.start = time.Now()
				set, err := Issue(t.Context(), &s, "run", refs(t, "hizo-lease://ml/db#password"))
				if err != nil {
					t.Fatal(err)
				}
				calls := 0
				set.Keep(t.Context(), func(role name.LeaseRole, why error) {
					calls++
					if at := time.Since(s.start).Round(time.Minute); !c.why(why) || at != c.at || role.Role != "db" {
						t.Errorf("lost after %s: %v", at, why)
					}
				})
				if calls != 1 || len(s.renewals) < c.renewals {
					t.Errorf("%d calls, renewals at %v", calls, s.renewals)
				}
			})
		})
	}
}

func TestKeepEndsWithTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{start: time.Now()}
		set, err := Issue(t.Context(), s, "run", refs(t, "hizo-lease://ml/db#password"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		set.Keep(ctx, func(name.LeaseRole, error) { t.Error("lost, though the run had ended") })
		if time.Since(s.start) != time.Minute {
			t.Errorf("kept for %s", time.Since(s.start))
		}
	})
}
