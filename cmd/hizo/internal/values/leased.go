package values

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hizo/hizo/api/client/leases"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/crypto/secret"
)

// leased are the credentials that were made for this run: one for each role at a time. One that nears the longest that
// its role allows, or was lost, is followed by another; those before are given back at the end, because what runs may
// still have them.
type leased struct {
	service   hizov1.LeaseServiceClient
	execution string
	note      func(format string, args ...any)
	life      context.Context // renewals end with it
	end       context.CancelFunc
	ended     chan struct{}
	keeping   sync.WaitGroup

	mu   sync.Mutex
	held map[name.LeaseRole]*leases.Set
	all  []*leases.Set
}

func newLeased(service hizov1.LeaseServiceClient, execution string, note func(format string, args ...any)) *leased {
	l := &leased{
		service: service, execution: execution, note: note, ended: make(chan struct{}, 1), held: map[name.LeaseRole]*leases.Set{},
	}
	l.life, l.end = context.WithCancel(context.Background())
	return l
}

// credential of a role. The bytes are the caller's.
func (l *leased) credential(ctx context.Context, ref name.LeaseReference) (secret.Bytes, error) {
	l.mu.Lock()
	set := l.held[ref.LeaseRole]
	l.mu.Unlock()
	if set == nil {
		var err error
		if set, err = leases.Issue(ctx, l.service, l.execution, []name.LeaseReference{ref}); err != nil {
			return secret.Bytes{}, err
		}
		l.mu.Lock()
		l.held[ref.LeaseRole] = set
		l.all = append(l.all, set)
		l.mu.Unlock()
		l.keep(ref.LeaseRole, set)
	}
	v, ok := set.Value(ref)
	if !ok {
		return secret.Bytes{}, errors.New("the lease has no such field")
	}
	return v.Clone(), nil
}

// keep renews a lease, and lets go of it when it can't be kept much longer.
func (l *leased) keep(role name.LeaseRole, set *leases.Set) {
	l.keeping.Go(func() {
		set.Keep(l.life, func(role name.LeaseRole, why error) {
			l.note("hizo: the lease of %s can't be kept: %v", role, why)
			l.drop(role, set)
		})
	})
	longest := time.Unix(set.Leases()[0].GetMaxExpiresUnix(), 0)
	l.keeping.Go(func() {
		// A tenth of the time is left for what has to follow: a new lease, a splay, a restart.
		if sleep(l.life, time.Until(longest)*9/10) {
			l.drop(role, set)
		}
	})
}

// drop makes the next credential of a role another one.
func (l *leased) drop(role name.LeaseRole, set *leases.Set) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[role] != set {
		return
	}
	delete(l.held, role)
	select {
	case l.ended <- struct{}{}:
	default:
	}
}

// close revokes them all.
func (l *leased) close(ctx context.Context) error {
	l.end()
	l.keeping.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, set := range l.all {
		errs = append(errs, set.Close(ctx))
	}
	l.all = nil
	return errors.Join(errs...)
}
