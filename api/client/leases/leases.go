// Package leases gets the leased credentials of one run, keeps them while it lasts and gives them back at its end.
package leases

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
)

// ErrLongest says that a lease was renewed as often as its role allows.
var ErrLongest = errors.New("the lease has reached the longest that its role allows")

// Set is the leases of one run: one for each role, however many references there are to it.
type Set struct {
	service hizov1.LeaseServiceClient
	held    map[name.LeaseRole]*held

	mu  sync.Mutex
	now func() time.Time
}

type held struct {
	lease              *hizov1.Lease
	username, password secret.Bytes
}

// Issue gets a lease for every role that the references name: all or none. execution goes into the audit records.
func Issue(ctx context.Context, service hizov1.LeaseServiceClient, execution string, refs []name.LeaseReference) (*Set, error) {
	s := &Set{service: service, held: make(map[name.LeaseRole]*held), now: time.Now}
	for _, ref := range refs {
		if _, ok := s.held[ref.LeaseRole]; ok {
			continue
		}
		h, err := s.issue(ctx, execution, ref.LeaseRole)
		if err != nil {
			// What was made already ends by itself as well, should this fail.
			back, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			return nil, errors.Join(fmt.Errorf("%s%s: %w", name.LeaseScheme, ref.LeaseRole, err), s.Close(back))
		}
		s.held[ref.LeaseRole] = h
	}
	return s, nil
}

func (s *Set) issue(ctx context.Context, execution string, role name.LeaseRole) (*held, error) {
	key, err := hybrid.NewKey() // of this lease alone: it never leaves the process
	if err != nil {
		return nil, err
	}
	out, err := s.service.Issue(ctx, &hizov1.IssueLeaseRequest{
		Vault: role.Vault, Role: role.Role, ExecutionKey: key.Public(), Execution: execution,
	})
	if err != nil {
		return nil, err
	}
	h := &held{lease: out.GetLease()}
	to := inject.LeaseTarget{
		Cluster: out.GetClusterId(), Principal: h.lease.GetPrincipal(), Vault: role.Vault, Role: role.Role, Lease: h.lease.GetId(),
	}
	to.Field = name.LeaseUsername
	if h.username, err = inject.OpenLease(key, to, out.GetSealedUsername()); err != nil {
		return nil, err
	}
	to.Field = name.LeasePassword
	if h.password, err = inject.OpenLease(key, to, out.GetSealedPassword()); err != nil {
		return nil, err
	}
	return h, nil
}

// Value is what a reference stands for. It lives as long as the set.
func (s *Set) Value(ref name.LeaseReference) (secret.Bytes, bool) {
	h, ok := s.held[ref.LeaseRole]
	switch {
	case !ok:
		return secret.Bytes{}, false
	case ref.Field == name.LeaseUsername:
		return h.username, true
	}
	return h.password, true
}

// Leases lists what is held, as it was last heard of.
func (s *Set) Leases() []*hizov1.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*hizov1.Lease
	for _, h := range s.held {
		out = append(out, h.lease)
	}
	return out
}

// Keep renews every lease when two thirds of its time are over, until ctx ends. lost is called, once for each, when one
// can't be kept: it was revoked, the grant is gone, or it has reached its longest. It may be called from several
// goroutines at once.
func (s *Set) Keep(ctx context.Context, lost func(role name.LeaseRole, why error)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for role, h := range s.held {
		wg.Go(func() {
			if err := s.keep(ctx, h); err != nil && ctx.Err() == nil {
				lost(role, err)
			}
		})
	}
}

// slowest and fastest bound the pause between two tries of a renewal.
const (
	fastest = time.Second
	slowest = time.Minute
)

func (s *Set) keep(ctx context.Context, h *held) error {
	for {
		s.mu.Lock()
		expires, longest := time.Unix(h.lease.GetExpiresUnix(), 0), time.Unix(h.lease.GetMaxExpiresUnix(), 0)
		s.mu.Unlock()
		left := expires.Sub(s.now())
		if !expires.Before(longest) {
			if !wait(ctx, left) {
				return ctx.Err()
			}
			return ErrLongest
		}
		if !wait(ctx, left*2/3) {
			return ctx.Err()
		}
		if err := s.renew(ctx, h, expires); err != nil {
			return err
		}
	}
}

// renew tries until it has an answer, or the lease has expired.
func (s *Set) renew(ctx context.Context, h *held, expires time.Time) error {
	for pause := fastest; ; pause = min(2*pause, slowest) {
		renewed, err := s.service.Renew(ctx, &hizov1.RenewLeaseRequest{Id: h.lease.GetId()})
		if err == nil {
			s.mu.Lock()
			h.lease = renewed
			s.mu.Unlock()
			return nil
		}
		if final(err) || !s.now().Before(expires) {
			return err
		}
		if !wait(ctx, min(pause, max(0, expires.Sub(s.now())))) {
			return ctx.Err()
		}
	}
}

// final says whether an answer will be the same next time.
func final(err error) bool {
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		return false
	}
	switch e.Reason {
	case hizov1.ReasonPermissionDenied, hizov1.ReasonNotFound, hizov1.ReasonExpired:
		return true
	}
	return false
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(max(0, d))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Close gives the leases back and wipes the credentials. A lease that is gone already is fine.
func (s *Set) Close(ctx context.Context) error {
	var errs []error
	for role, h := range s.held {
		h.username.Wipe()
		h.password.Wipe()
		_, err := s.service.Revoke(ctx, &hizov1.RevokeLeasesRequest{Id: h.lease.GetId()})
		if e, ok := errors.AsType[*client.Error](err); ok && (e.Reason == hizov1.ReasonNotFound || e.Reason == hizov1.ReasonPermissionDenied) {
			continue // it has ended
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("revoke the lease of %s: %w", role, err))
		}
	}
	return errors.Join(errs...)
}
