// Package rotate rotates secrets: it follows their schedules and takes each attempt through its stages. It is a duty of
// the leader.
//
//	stage ─> apply ─> verify ─> promote ─> grace ─> retire
//
// The engine keeps nothing that counts. How far an attempt has come is in the state (fsm/rotation.go); each turn looks
// there, does the one step that is due, and records it, fenced by the term. A crash, or another leader, between the call
// at the target and its record means that the call is made again, which changes nothing: targets are idempotent for one
// attempt and an attempt's value never changes. DESIGN.md says why it is like this.
package rotate

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/fsm"
)

// Node is what the engine needs of the node that leads; *cluster.Node is one.
type Node interface {
	ID() string
	Store() *fsm.Store
	Keyring() (*keyring.Keyring, error)
	Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error)
}

// Config of an Engine; the zero value of each field but Targets has a default.
type Config struct {
	Targets map[string]target.Target // by kind
	Clock   func() time.Time
	Logger  *slog.Logger

	Workers     int           // secrets of one kind of target that are worked on at the same time; default 8
	CallTimeout time.Duration // of one call at a target; default 30 s
	BackoffMin  time.Duration // after the first failure; default 2 s
	BackoffMax  time.Duration // default 15 min
}

// Engine rotates secrets while its node leads. It is safe for concurrent use.
type Engine struct {
	cfg   Config
	log   *slog.Logger
	hook  func(at string) // tests stop the world here
	calls calls
}

// New makes an engine.
func New(cfg Config) *Engine {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Workers = max(cmp.Or(cfg.Workers, 8), 2)
	cfg.CallTimeout = cmp.Or(cfg.CallTimeout, 30*time.Second)
	cfg.BackoffMin = cmp.Or(cfg.BackoffMin, 2*time.Second)
	cfg.BackoffMax = cmp.Or(cfg.BackoffMax, 15*time.Minute)
	return &Engine{
		cfg: cfg, log: cfg.Logger.With("component", "rotation"), hook: func(string) {},
		calls: calls{open: make(map[string]struct{})},
	}
}

// Check says what is wrong with the options of a target, before they are stored.
func (e *Engine) Check(kind string, options map[string]string) error {
	t, ok := e.cfg.Targets[kind]
	if !ok {
		return &target.Error{Kind: kind, Stage: "check", Message: "this node knows no such kind of target", Err: target.ErrPermanent}
	}
	return t.Check(options)
}

// Duty is a cluster.Duty: it rotates until ctx ends.
func (e *Engine) Duty(ctx context.Context, n *cluster.Node, term uint64) { e.Run(ctx, n, term) }

// Run is Duty for any Node.
func (e *Engine) Run(ctx context.Context, n Node, term uint64) {
	t := &turn{
		Engine: e, node: n, term: term, entries: make(map[string]*entry), finished: make(chan *entry),
		busy: make(map[string]int), retrying: make(map[string]int),
	}
	t.run(ctx)
}

// turn is one term's work. Everything but the workers runs in one goroutine, which owns the fields.
type turn struct {
	*Engine
	node Node
	term uint64

	seen     uint64 // index of the last change by a person that has been read
	entries  map[string]*entry
	finished chan *entry
	workers  sync.WaitGroup
	busy     map[string]int // workers by kind of target
	retrying map[string]int // those of them that try again what has failed before
}

// entry is one secret's rotation as the turn last saw it. A worker owns it while it is out.
type entry struct {
	key      string
	r        fsm.Rotation
	out      bool
	retry    bool      // as retrying counts it
	kind     string    // as busy counts it
	notUntil time.Time // after an error that the state does not know of
}

// look is how often the state is looked at for what is expected and does not tell: consumers that move, an unsealing.
// idle is how long a turn sleeps at most.
const (
	look = time.Second
	idle = time.Minute
)

func (t *turn) run(ctx context.Context) {
	defer t.workers.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		changed := t.node.Store().Changed()
		t.read()
		next := t.dispatch(ctx)
		timer.Reset(next)
		wake := t.now().Add(next).UnixMilli()
		for again := false; !again; {
			select {
			case e := <-t.finished:
				t.back(e)
				again = true
			case <-changed:
				// Most entries have nothing to do with rotations: people's changes show in one object, and a clock that
				// was set in cluster time.
				changed = t.node.Store().Changed()
				again = t.node.Store().Index(fsm.ObjRotations) != t.seen || t.node.Store().Time() >= wake
			case <-timer.C:
				again = true
			case <-ctx.Done():
				t.drain()
				return
			}
		}
	}
}

// drain waits for the workers, whose context has ended too.
func (t *turn) drain() {
	go func() {
		t.workers.Wait()
		close(t.finished)
	}()
	for range t.finished {
	}
}

// read takes over what people have changed since the last time.
func (t *turn) read() {
	store := t.node.Store()
	index := store.Index(fsm.ObjRotations) // before the rotations: what changes in between is read once more
	if index == t.seen {
		return
	}
	t.seen = index
	there := make(map[string]bool, len(t.entries))
	for _, r := range store.Rotations() {
		key := r.Vault + "/" + r.Path
		there[key] = true
		e := t.entries[key]
		if e == nil {
			e = &entry{key: key}
			t.entries[key] = e
		}
		if !e.out {
			e.r, e.notUntil = r, time.Time{}
		}
	}
	for key, e := range t.entries {
		if !there[key] && !e.out {
			delete(t.entries, key)
		}
	}
}

// dispatch sends workers out for what is due and says when to look again.
func (t *turn) dispatch(ctx context.Context) time.Duration {
	if _, err := t.node.Keyring(); err != nil {
		return look // sealed
	}
	wait := idle
	now := t.now()
	for _, e := range t.entries {
		if e.out {
			continue
		}
		at, ever := t.due(&e.r)
		if !ever {
			continue
		}
		if e.notUntil.After(at) {
			at = e.notUntil
		}
		if at.After(now) {
			wait = min(wait, at.Sub(now))
			continue
		}
		t.send(ctx, e)
	}
	return wait
}

// send sends a worker out, if there is one left for this kind of target. Half of them are kept for what has not failed
// yet, so that servers that hang hold up nobody else.
func (t *turn) send(ctx context.Context, e *entry) {
	kind := e.r.Target
	retry := e.r.Tries > 0
	if t.busy[kind] >= t.cfg.Workers || retry && t.retrying[kind] >= t.cfg.Workers/2 {
		return
	}
	e.out, e.kind, e.retry = true, kind, retry
	t.busy[kind]++
	if retry {
		t.retrying[kind]++
	}
	t.workers.Go(func() {
		e.notUntil = time.Time{}
		if err := t.work(ctx, e); err != nil && ctx.Err() == nil {
			t.log.Info("rotation is interrupted, and goes on", "secret", e.key, "error", err)
			e.notUntil = t.now().Add(look)
		}
		t.finished <- e
	})
}

// back takes an entry over from its worker.
func (t *turn) back(e *entry) {
	e.out = false
	t.busy[e.kind]--
	if e.retry {
		t.retrying[e.kind]--
	}
	// Somebody may have changed it since the worker looked last, while read left it to the worker.
	r, ok := t.node.Store().Rotation(e.r.Vault, e.r.Path)
	if !ok {
		delete(t.entries, e.key)
		return
	}
	e.r = r
}

// now is cluster time as the next entry will have it.
func (t *turn) now() time.Time {
	return time.UnixMilli(max(t.node.Store().Time(), t.cfg.Clock().UnixMilli()))
}

// due says when the next step of a rotation is due, if ever.
func (t *turn) due(r *fsm.Rotation) (at time.Time, ever bool) {
	ms := r.RetryAt
	switch r.Attempt.State {
	case fsm.RotationIdle:
		if !r.Requested {
			if r.Paused {
				return at, false
			}
			ms = max(ms, r.NextRun)
		}
	case fsm.RotationPromoted:
		if r.Attempt.Old != 0 {
			ms = max(ms, r.Attempt.Promoted+r.Grace)
		}
		if r.Wait && r.Attempt.Old != 0 && ms <= t.now().UnixMilli() {
			behind := len(t.node.Store().Lagging(r.Vault, r.Path, r.Attempt.Version))
			if _, over := fsm.GraceOver(r, t.now().UnixMilli(), behind); !over {
				return t.now().Add(look), true
			}
		}
	}
	return time.UnixMilli(ms), true
}

// work does the steps of one rotation that are due, one after the other.
func (t *turn) work(ctx context.Context, e *entry) error {
	const maxLost = 3
	lost := 0
	for ctx.Err() == nil {
		r, ok := t.node.Store().Rotation(e.r.Vault, e.r.Path)
		if !ok {
			return nil
		}
		e.r = r
		if at, ever := t.due(&r); !ever || at.After(t.now()) {
			return nil
		}
		switch err := t.step(ctx, &r); {
		case superseded(err) && lost < maxLost:
			lost++ // a person changed something in between: look again
		case err != nil:
			return err
		}
	}
	return nil
}

// calls are the calls at targets that have not returned. One that ignores its context outlives its step, and its term:
// until it has returned, nothing else is done at the target of that secret.
type calls struct {
	mu   sync.Mutex
	open map[string]struct{}
}

func (c *calls) begin(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, busy := c.open[key]
	c.open[key] = struct{}{}
	return !busy
}

func (c *calls) end(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, key)
}

// call makes one call at a target, bounded in time whatever the target does. done is called when the call has returned.
func (t *turn) call(ctx context.Context, r *fsm.Rotation, done func(), f func(ctx context.Context) error) error {
	key := r.Vault + "/" + r.Path
	if !t.calls.begin(key) {
		done()
		return &target.Error{Kind: r.Target, Stage: "call", Message: "an earlier call at the target has not returned yet"}
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.CallTimeout)
	result := make(chan error, 1)
	go func() {
		defer cancel()
		defer done()
		defer t.calls.end(key)
		defer func() {
			if p := recover(); p != nil {
				// What it says may hold a value.
				result <- &target.Error{Kind: r.Target, Stage: "call", Message: "the target's code failed; this is a bug"}
			}
		}()
		result <- f(ctx)
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-result: // it heeds its context, and says more
		return err
	case <-time.After(t.cfg.CallTimeout / 10):
		return fmt.Errorf("the call has not returned: %w", ctx.Err())
	}
}
