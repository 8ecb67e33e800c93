package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/hizo/hizo/api/hizov1"
)

// NewRequestID makes an id for one mutation.
func NewRequestID() string { return uuid.Must(uuid.NewV7()).String() }

// WithRequestID makes the calls under ctx use this id instead of a new one: to repeat a mutation whose outcome
// is unknown.
func WithRequestID(ctx context.Context, id string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, hizov1.MetaRequestID, id)
}

// Invoke implements grpc.ClientConnInterface.
func (c *Client) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.cfg.Timeout)
		defer cancel()
	}
	k := c.newCall(ctx, method)
	for {
		addr, err := k.next(ctx)
		if err != nil {
			return err
		}
		sent, err := c.attempt(ctx, k, addr, args, reply, opts)
		if err == nil {
			c.setLeader(addr)
			c.reserve(addr)
			return nil
		}
		if err := k.failed(ctx, addr, sent, err); err != nil {
			return err
		}
	}
}

// attempt sends the request to one node. sent is false only if the request can't have reached it.
func (c *Client) attempt(ctx context.Context, k *call, addr string, args, reply any, opts []grpc.CallOption) (sent bool, err error) {
	if !sentOnce(k.method) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.cfg.AttemptTimeout)
		defer cancel()
		var giveUp context.CancelCauseFunc
		ctx, giveUp = context.WithCancelCause(ctx)
		defer giveUp(nil)
		defer c.lookout(ctx, addr, giveUp).Stop()
	}
	out, err := k.outgoing(ctx)
	if err != nil {
		return false, err
	}
	n, err := c.conn(addr)
	if err != nil {
		return false, err
	}
	defer c.release(n)
	if err := n.connected(ctx, k.patience()); err != nil {
		c.drop(n)
		k.movedBy(ctx)
		return false, err
	}
	if err = n.grpc.Invoke(out, k.method, args, reply, opts...); err != nil {
		k.movedBy(ctx)
	}
	return true, err
}

// stagger is how long to wait for a connection before the next address is tried; twice as long after each pause.
const stagger = 200 * time.Millisecond

// patience is how long to wait for a connection to the node chosen.
func (k *call) patience() time.Duration {
	most := k.c.cfg.AttemptTimeout
	if len(k.candidates()) < 2 || k.round > 10 {
		return most
	}
	return min(most, stagger<<k.round)
}

// movedBy follows what lookout found.
func (k *call) movedBy(ctx context.Context) {
	if moved, ok := errors.AsType[*movedError](context.Cause(ctx)); ok {
		k.found = moved.to
	}
}

// call is the state of one call over its attempts.
type call struct {
	c        *Client
	method   string
	id       string
	started  time.Time
	attempts int
	current  string // address of the attempt under way
	reached  bool   // some node answered or may have
	unknown  bool   // an attempt may have taken effect
	last     error
	headless *Error // the last answer that named no leader who can be reached

	place *placing        // of calls that any node takes; nil: the leader is wanted
	hint  string          // name of the leader that the last answer gave
	found string          // address at which lookout found the leader
	own   bool            // an answer since the last pause has named the node that gave it
	gone  []string        // names of nodes that could not be reached or broke off: one of them may have led
	tried map[string]bool // since the last pause
	round int             // pauses so far
	wait  time.Duration   // that the server asked for
	// refused holds the nodes that can't serve the call for a reason that lasts.
	refused map[string]*Error
	away    map[string]bool // nodes that could not be reached when last tried
}

func (c *Client) newCall(ctx context.Context, method string) *call {
	k := &call{c: c, method: method, started: time.Now(), tried: map[string]bool{}, refused: map[string]*Error{}, away: map[string]bool{}}
	if md, ok := metadata.FromOutgoingContext(ctx); ok {
		if ids := md.Get(hizov1.MetaRequestID); len(ids) > 0 {
			k.id = ids[len(ids)-1]
		}
	}
	if k.id == "" {
		k.id = NewRequestID()
	}
	if anywhere(method) {
		k.place = placingOf(ctx)
	}
	return k
}

// outgoing adds what every attempt carries.
func (k *call) outgoing(ctx context.Context) (context.Context, error) {
	md, _ := metadata.FromOutgoingContext(ctx)
	md = md.Copy()
	if md == nil {
		md = metadata.MD{}
	}
	md.Set(hizov1.MetaRequestID, k.id)
	if len(k.gone) > 0 {
		md.Set(hizov1.MetaLeaderGone, k.gone...)
	}
	if source := k.c.cfg.Token; source != nil && needsToken(k.method) {
		token, err := source(ctx)
		switch {
		case err == nil:
			md.Set(hizov1.MetaAuthorization, "Bearer "+token)
		case !tokenOptional(k.method):
			return nil, err
		}
	}
	return metadata.NewOutgoingContext(ctx, md), nil
}

// next chooses the address for the next attempt, after a pause when all have been tried.
func (k *call) next(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", k.ended(err)
	}
	k.c.resolve(ctx, false)
	addr := k.choose()
	if addr == "" {
		if err := k.pause(ctx); err != nil {
			return "", k.ended(err)
		}
		if len(k.gone) > 0 {
			k.c.resolve(ctx, true)
		}
		clear(k.tried)
		k.own = false
		if addr = k.choose(); addr == "" {
			return "", k.ended(errClosed) // a client has addresses
		}
	}
	k.hint, k.found = "", ""
	k.tried[addr] = true
	k.current = addr
	k.attempts++
	return addr, nil
}

// choose returns an address that was not tried since the last pause: the one just named or found, the leader known to
// the client, then the others, the suspended ones last.
func (k *call) choose() string {
	if k.found != "" {
		return k.found
	}
	if k.hint != "" {
		for _, a := range k.c.addresses(k.hint) {
			if !k.tried[a] {
				return a
			}
		}
	}
	for _, a := range k.candidates() {
		if !k.tried[a] {
			return a
		}
	}
	return ""
}

func (k *call) candidates() []string {
	if k.place != nil {
		return k.c.ranked(k.place.seed)
	}
	return k.c.candidates()
}

// pause waits with exponential back-off and full jitter.
func (k *call) pause(ctx context.Context) error {
	most := k.c.cfg.BackoffMax
	if shift := min(k.round, 20); k.c.cfg.BackoffBase<<shift < most {
		most = k.c.cfg.BackoffBase << shift
	}
	k.round++
	d := max(rand.N(most)+1, k.wait)
	k.wait = 0
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// failed takes the error of an attempt and returns the call's error, or nil to go on.
func (k *call) failed(ctx context.Context, addr string, sent bool, err error) error {
	if !sent {
		return k.notSent(ctx, addr, err)
	}
	k.reached = true
	e := fromStatus(err, addr)
	k.last = e
	v := judge(e)
	delete(k.refused, addr)
	delete(k.away, addr)
	if v == ambiguous && e.Reason == "" || e.Reason == hizov1.ReasonShutdown {
		k.c.suspend(addr)
		k.lost(k.c.nameOf(addr))
	} else {
		k.back(addr)
	}
	if v == ambiguous && sentOnce(k.method) {
		k.unknown = true
		return k.ended(e)
	}
	switch v {
	case final:
		if k.unknown && isMutation(k.method) && undecided(e.Reason) {
			return k.ended(e)
		}
		if k.place == nil {
			k.c.setLeader(addr)
		}
		return e
	case elsewhere:
		k.headless = e
		k.c.forgetLeader(addr)
		k.follow(e.Metadata[hizov1.InfoLeaderAddr])
	case again:
		wait := e.retryAfter()
		if deadline, ok := ctx.Deadline(); wait > k.c.cfg.BackoffMax || ok && time.Until(deadline) <= wait {
			return k.decided(e) // the user waits better knowingly than unawares
		}
		k.wait = max(k.wait, wait)
		// Another node would only send us back.
		for _, a := range k.candidates() {
			k.tried[a] = true
		}
	case node:
		k.c.forgetLeader(addr)
		k.refused[addr] = e
		if k.allRefused() && !k.mayUnseal(e) {
			return k.decided(e)
		}
	case ambiguous:
		k.unknown = true
		k.c.forgetLeader(addr)
	}
	k.log(ctx, addr, e.Reason, e.Code.String())
	return nil
}

// decided returns a definite no, unless an earlier attempt may have been a yes.
func (k *call) decided(e *Error) error {
	if k.unknown && isMutation(k.method) {
		return k.ended(e)
	}
	return e
}

func (k *call) notSent(ctx context.Context, addr string, err error) error {
	ce, ok := errors.AsType[*ConnectError](err)
	if !ok {
		k.last = err
		if k.unknown && isMutation(k.method) {
			return k.ended(err)
		}
		return err // no token, client closed: local, and no other node will change it
	}
	if ctx.Err() == nil || k.last == nil {
		k.last = ce
	}
	if ctx.Err() == nil {
		k.c.suspend(addr)
	}
	k.away[addr] = !errors.Is(ce, errSlow)
	k.lost(k.c.nameOf(addr))
	if ce.impostor() {
		k.refused[addr] = &Error{
			Reason: ReasonUnreachable, Code: codes.Unavailable, Node: addr, cause: ce,
			Message: fmt.Sprintf("%v: check that --cacert is this cluster's CA and that the address is right", ce),
		}
		if k.allRefused() {
			return k.decided(k.refused[addr])
		}
	}
	if !k.reached && time.Since(k.started) > k.c.cfg.Patience {
		return k.unreachable()
	}
	k.log(ctx, addr, ReasonUnreachable, "")
	return nil
}

// mayUnseal says whether sealed nodes may be about to unseal each other, as all of them are right after a cold start.
func (k *call) mayUnseal(e *Error) bool {
	return e.Reason == hizov1.ReasonSealed && e.Metadata[hizov1.InfoSealedBy] != hizov1.SealedByCommand &&
		time.Since(k.started) < k.c.cfg.Patience
}

// follow goes to the leader that an answer named.
func (k *call) follow(text string) {
	if parseName(text) == nil || !k.c.learn(text) {
		return
	}
	k.hint = text
	if slices.Contains(k.c.addresses(text), k.current) && !k.own { // its term began meanwhile
		k.own, k.found = true, k.current
		return
	}
	if !slices.ContainsFunc(k.c.addresses(text), func(a string) bool { return !k.away[a] }) {
		k.lost(text)
	}
}

// maxGone bounds what is said of nodes that are gone.
const maxGone = 8

// lost notes that a node was asked in vain: if it leads, the others will hear of its end later than this call.
func (k *call) lost(name string) {
	if !slices.Contains(k.gone, name) && len(k.gone) < maxGone {
		k.gone = append(k.gone, name)
	}
}

// back notes that a node has answered.
func (k *call) back(addr string) {
	k.c.answered(addr)
	if len(k.gone) > 0 {
		name := k.c.nameOf(addr)
		k.gone = slices.DeleteFunc(k.gone, func(n string) bool { return n == name })
	}
}

// allRefused reports whether every node has given, or failed with, a reason that lasts, or is away.
func (k *call) allRefused() bool {
	for _, a := range k.candidates() {
		if k.refused[a] == nil && !k.away[a] {
			return false
		}
	}
	return true
}

func (k *call) unreachable() error {
	return &Error{
		Reason: ReasonUnreachable, Code: codes.Unavailable, cause: k.last,
		Message: fmt.Sprintf("no node could be reached (last tried: %v): check the addresses and that the nodes run", k.last),
	}
}

// ended makes the call's error when it stops without an answer that settles it.
func (k *call) ended(cause error) error {
	if k.last == nil {
		k.last = cause
	}
	switch {
	case k.unknown && isMutation(k.method):
		return &UnknownOutcomeError{Method: k.method, RequestID: k.id, Attempts: k.attempts, Err: k.last}
	case !k.reached && !errors.Is(cause, context.Canceled) && k.attempts > 0:
		return k.unreachable()
	}
	e, ok := errors.AsType[*Error](k.last)
	if _, away := errors.AsType[*ConnectError](k.last); away && k.headless != nil {
		e, ok = k.headless, true // says more than which node was tried last
	}
	if ok && judge(e) != ambiguous {
		if e.Reason == hizov1.ReasonNotLeader {
			for _, refusal := range k.refused {
				if refusal.Reason == hizov1.ReasonSealed { // the others point to it: that is what is wrong
					return refusal
				}
			}
			e.Message = fmt.Sprintf("the cluster has no leader that can be reached (asked %d times, last %s): a majority of the nodes must run and see each other", k.attempts, e.Node)
		}
		return e
	}
	code := codes.DeadlineExceeded
	if errors.Is(cause, context.Canceled) {
		code = codes.Canceled
	}
	return &Error{
		Reason: ReasonTimeout, Code: code, cause: errors.Join(cause, k.last),
		Message: fmt.Sprintf("no answer in time after %d attempts (last: %v): retry, or allow more time", k.attempts, k.last),
	}
}

func (k *call) log(ctx context.Context, addr, reason, code string) {
	k.c.cfg.Logger.LogAttrs(ctx, slog.LevelDebug, "attempt failed, trying again",
		slog.String("method", k.method), slog.String("request", k.id), slog.Int("attempt", k.attempts),
		slog.String("node", addr), slog.String("reason", reason), slog.String("code", code))
}
