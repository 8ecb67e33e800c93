package api

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/fsm"
)

// rounds is how often a request is decided anew when what its decision rested on has changed by the
// time the record applies.
const rounds = 3

// followerLag is how long a call waits for a follower to come as far as the leader was.
const followerLag = time.Second

// gate is the one way that every call goes:
//
//	authenticate → authorise → (encrypt) → propose → (apply) → release
//
// A service says what it wants in a call; it never sees a token, never decides, never proposes and
// never decrypts before the gate has handed it the result of Apply. What a crash leaves behind: before
// the proposal nothing; after it a record in the log, of which the client may or may not have heard.
type gate struct {
	node       Node
	limits     Limits
	clock      func() time.Time
	log        *slog.Logger
	callers    *callers
	verdict    *verdicts
	policy     policies
	federation federation
	floods     *floods
	meters     *meters
	tracer     Tracer // may be nil
}

// footing is what a call stands on: the state and the keys of an unsealed leader.
type footing struct {
	store   *fsm.Store
	keys    *keyring.Keyring
	cluster fsm.Cluster
}

// footing refuses unless this node leads, unsealed, and knows all that was committed before it did. A leader that has
// lost its lead without knowing still gets no further than Propose.
func (g *gate) footing() (footing, error) {
	if !g.node.Initialised() {
		return footing{}, cluster.ErrNotInitialised
	}
	if c, ok := g.node.Store().Cluster(); ok && c.Sealed {
		return footing{}, sealedByCommand()
	}
	leader, known := g.node.Leader()
	if known && !g.node.IsLeader() {
		return footing{}, &cluster.NotLeaderError{Leader: leader}
	}
	keys, err := g.node.Keyring()
	if err != nil {
		return footing{}, err // sealed: more useful than "no leader"
	}
	if !g.node.TermBegun() {
		return footing{}, &cluster.NotLeaderError{Leader: leader} // this one, if its term begins
	}
	store := g.node.Store()
	c, ok := store.Cluster()
	if !ok {
		return footing{}, cluster.ErrNotInitialised
	}
	return footing{store: store, keys: keys, cluster: c}, nil
}

// standing is the footing of any unsealed node. A follower's state may be behind: what is decided on it counts only with
// a record that the leader has confirmed, or for events of that same state.
func (g *gate) standing() (footing, error) {
	store := g.node.Store()
	c, ok := store.Cluster()
	switch {
	case !ok:
		return footing{}, cluster.ErrNotInitialised
	case c.Sealed:
		return footing{}, sealedByCommand()
	}
	keys, err := g.node.Keyring()
	if err != nil {
		return footing{}, err
	}
	return footing{store: store, keys: keys, cluster: c}, nil
}

// now is cluster time as the next entry will have it, in Unix milliseconds. It never lags behind what
// has applied.
func (g *gate) now(store *fsm.Store) int64 { return max(store.Time(), g.clock().UnixMilli()) }

// target is one thing that a call wants to do. Each gets an audit leaf of its own.
type target struct {
	action   policy.Action
	resource policy.Resource
	name     string // of the resource, as the audit record has it
	detail   string // readable extra of the record
	granted  bool   // to the pipeline that the caller runs
	why      string // what to say where it is denied for want of a grant
	// otherwise is asked where no policy speaks of action.
	otherwise policy.Action
}

// call is what a service wants done.
type call struct {
	method  string // "SecretService/Put"; part of a mutation's fingerprint
	kind    fsm.Kind
	targets []target
	self    policy.Action // instead of targets: an action on the caller itself
	// prepare sets the round's targets where they follow from the state, in each round anew. What it looks at it has
	// the decision rest on (follow), so that denials do as well.
	prepare func(r *round) error
	// message is the request of a mutation, which demands a request id and is remembered. nil: a read.
	message proto.Message
	reason  string // kept sealed in the record
	detail  string // readable extra of every record, of no weight in the decision
	// anywhere: followers take it as well. It releases no value, and its record goes through the leader.
	anywhere bool
	// body makes the command's body, in each round anew. It may refuse: a *denial is recorded as such, and
	// any other error as a failure.
	body func(r *round) (any, error)
	// propose is Node.Propose unless set.
	propose func(ctx context.Context, cmd fsm.Command) (fsm.Result, error)
}

// round is one attempt of a call.
type round struct {
	footing
	number  int // from 0
	caller  *caller
	targets []target
	origin  origin
	now     int64
	request [16]byte
	reads   []fsm.Read
	shared  bool       // reads belongs to a cache: copy before appending
	more    []fsm.Read // from prepare
}

// follow is rest for prepare: the index is that of the object as it was looked at.
func (r *round) follow(object string, index uint64) {
	r.more = append(r.more, fsm.Read{Object: object, Index: index})
}

// rest adds an object to what the decision rests on.
func (r *round) rest(object string) {
	if r.shared {
		r.reads, r.shared = append(make([]fsm.Read, 0, len(r.reads)+2), r.reads...), false
	}
	r.reads = append(r.reads, fsm.Read{Object: object, Index: r.store.Index(object)})
}

// mac authenticates a record that grants something.
func (f footing) mac(record fsm.MACed) ([]byte, error) {
	return f.keys.MAC(f.cluster.MACGeneration, record.MACDomain(), record.MACBody())
}

// denial is a refusal by rules that are not policies, such as the grant matrix.
type denial struct{ why string }

func (d *denial) Error() string { return d.why }

// answer is what has committed and applied.
type answer struct {
	footing
	fsm.Result
	caller *caller
	origin origin
	now    int64
	reads  []fsm.Read // what the decision rested on
}

// do takes a call through. It returns after the record has applied; a value may leave only then.
func (g *gate) do(ctx context.Context, c *call) (*answer, error) {
	from := originOf(ctx)
	var request [16]byte
	if c.message != nil {
		var err error
		if request, err = requestID(ctx); err != nil {
			return nil, err
		}
	}
	for n := range rounds {
		foot, err := g.foot(c)
		if err != nil {
			return nil, err
		}
		if c.anywhere && n == 0 {
			g.awaitToken(ctx, foot, from)
		}
		r := &round{footing: foot, number: n, origin: from, request: request, now: g.now(foot.store)}
		if r.caller, err = g.authenticate(r); err != nil {
			g.forged(r, err)
			return nil, err
		}
		if r.targets = c.targets; c.self != "" {
			r.targets = []target{onIdentity(c.self, r.caller.principal)}
		}
		if c.prepare != nil {
			if err := c.prepare(r); err != nil {
				return nil, err
			}
		}
		if n == 0 {
			if wait, ok := r.caller.allow(g.clock(), r.targets[0].action); !ok {
				g.floods.stop(r, fsm.Failed)
				g.meters.limited.Add(1)
				return nil, rateLimited(wait)
			}
		}
		a, err := g.try(ctx, c, r)
		if !errors.Is(err, errSuperseded) {
			return a, named(err, r.targets)
		}
	}
	return nil, fault(hizov1.ReasonSuperseded)
}

// foot is what a call stands on: the leader, unless it may go anywhere.
func (g *gate) foot(c *call) (footing, error) {
	if !c.anywhere {
		return g.footing()
	}
	if _, known := g.node.Leader(); !known {
		return footing{}, fault(hizov1.ReasonBehind)
	}
	return g.standing()
}

// forged counts what could not be decided because a stored record was changed outside the cluster.
func (g *gate) forged(r *round, err error) {
	if errors.Is(err, keyring.ErrMAC) {
		g.meters.forged.Add(1)
	}
	g.floods.forged(r, err)
}

// errSuperseded says that a round has to be repeated.
var errSuperseded = errors.New("superseded")

// try is one round.
func (g *gate) try(ctx context.Context, c *call, r *round) (*answer, error) {
	verdicts, err := g.authorise(r)
	if err != nil {
		g.forged(r, err)
		return nil, err
	}
	if v := firstDenied(verdicts); v != nil {
		return nil, g.refuse(ctx, c, r, verdicts, v)
	}
	cmd := fsm.Command{
		Format: fsm.CommandFormat, Kind: c.kind, Principal: r.caller.text, Request: r.request,
	}
	if c.body != nil {
		body, err := c.body(r)
		if d, ok := errors.AsType[*denial](err); ok {
			return nil, g.refuse(ctx, c, r, verdicts, &verdict{missing: d.why})
		}
		if err != nil {
			return nil, g.fail(ctx, c, r, verdicts, err)
		}
		cmd.Body = fsm.EncodeBody(c.kind, body)
	}
	if c.message != nil {
		if cmd.Fingerprint, err = fingerprint(r.footing, c.method, c.message); err != nil {
			return nil, err
		}
	}
	if cmd.Audits, err = g.audits(c, r, verdicts); err != nil {
		return nil, err
	}
	cmd.Reads = r.reads
	result, err := g.proposer(c)(ctx, cmd)
	if err != nil {
		return nil, err
	}
	if err := g.settle(r, result); err != nil {
		g.catchUp(ctx, c, r, result)
		return nil, err
	}
	return &answer{footing: r.footing, Result: result, caller: r.caller, origin: r.origin, now: r.now, reads: r.reads}, nil
}

// show takes a call through whose answer is read from the state after its record has applied. The state
// moves on in between: if what the decision rested on has changed by the time that everything is
// collected, it is decided anew, on a record of its own, and what was collected is dropped.
func (g *gate) show(ctx context.Context, c *call, collect func(a *answer) error) error {
	for range rounds {
		a, err := g.do(ctx, c)
		if err != nil {
			return err
		}
		err = named(collect(a), c.targets)
		if current(a.store, a.reads) {
			return err
		}
	}
	return fault(hizov1.ReasonSuperseded)
}

// settle turns what Apply said into an error, nil for CodeOK.
func (g *gate) settle(r *round, result fsm.Result) error {
	switch result.Code {
	case fsm.CodeSuperseded:
		g.forget(r)
		return errSuperseded
	case fsm.CodeExpired:
		return fault(hizov1.ReasonUnauthenticated) // the token, by the time the record applied
	}
	return outcome(result)
}

// sent is an answer, or nothing beside an error.
func sent[T any](out *T, err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	return out, nil
}

// refuse records a denial, and only then says no.
func (g *gate) refuse(ctx context.Context, c *call, r *round, verdicts []*verdict, why *verdict) error {
	for i := range r.targets {
		g.meters.denied(r.targets[i].action)
	}
	if !g.floods.own(r, fsm.Denied) {
		return rateLimited(g.limits.Denials.Every)
	}
	audits, err := g.denials(c, r, verdicts, why)
	if err != nil {
		return err
	}
	if err := g.put(ctx, c, r, audits); err != nil {
		return err // not on record, so no decision leaves
	}
	return why.denied(g, r)
}

// fail records an attempt that was allowed and could not be carried out, and only then says why.
func (g *gate) fail(ctx context.Context, c *call, r *round, verdicts []*verdict, why error) error {
	reason := toError(why).Reason
	switch reason {
	case hizov1.ReasonSealed, hizov1.ReasonNotLeader, hizov1.ReasonNotInitialised, hizov1.ReasonShutdown, hizov1.ReasonCancelled:
		return why // this node can't record it, or nobody waits for it any more
	case hizov1.ReasonRateLimited:
		return why // counted where it was limited
	}
	if errors.Is(why, errSuperseded) {
		return why
	}
	if !g.floods.own(r, fsm.Failed) {
		return rateLimited(g.limits.Denials.Every)
	}
	audits, err := g.audits(c, r, verdicts)
	if err != nil {
		return err
	}
	for i := range audits {
		// The reason is one of a fixed set: what was wrong with the request may hold what was typed.
		audits[i].Decision, audits[i].Detail = fsm.Failed, "not carried out: "+reason
	}
	if err := g.put(ctx, c, r, audits); err != nil {
		return err
	}
	return why
}

// proposer is how a call's commands get into the log.
func (g *gate) proposer(c *call) func(context.Context, fsm.Command) (fsm.Result, error) {
	switch {
	case c.propose != nil:
		return g.traced(c.propose)
	case c.anywhere:
		return g.traced(g.node.ForwardRecord)
	}
	return g.traced(g.node.Propose)
}

// awaitToken gives a follower a moment to hear of a login that its client has just had elsewhere.
func (g *gate) awaitToken(ctx context.Context, f footing, from origin) {
	if !from.bears || g.node.IsLeader() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, followerLag)
	defer cancel()
	for {
		changed := f.store.Changed()
		if _, ok := f.store.Token(from.token[:]); ok {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// catchUp waits until a follower has what the leader decided on, so that its next round is not as stale.
func (g *gate) catchUp(ctx context.Context, c *call, r *round, result fsm.Result) {
	if !c.anywhere || result.Code != fsm.CodeSuperseded {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, followerLag)
	defer cancel()
	_ = r.store.WaitApplied(ctx, result.Index) // or not: then the next round says so
}

// put records an attempt that changes nothing.
func (g *gate) put(ctx context.Context, c *call, r *round, audits []fsm.Audit) error {
	propose := g.node.Propose
	if c.anywhere {
		propose = g.node.ForwardRecord
	}
	result, err := propose(ctx, fsm.Command{
		Format: fsm.CommandFormat, Kind: fsm.KindRecord, Principal: r.caller.text, Reads: r.reads, Audits: audits,
	})
	if err != nil {
		return err
	}
	return g.settle(r, result)
}
