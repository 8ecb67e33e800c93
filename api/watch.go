package api

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/fsm"
)

// watchService tells what changes, and keeps the list of who uses what.
type watchService struct {
	hizov1.UnimplementedWatchServiceServer
	*Server
}

const (
	watchLook = time.Second      // a token that merely expires, or a node that is cut off, makes no event
	watchBeat = 10 * time.Second // a stream without events tells its cursor so often
)

// watched is what one stream is about.
type watched struct {
	exact    map[string]target // by vault/path
	prefixes []watchedPrefix
	pipeline bool // the caller's own
	targets  []target
}

type watchedPrefix struct {
	vault, path string
	target      target
}

// watchSecret is the target of watching one secret.
func watchSecret(vault, path string) target {
	return target{
		action: policy.Watch, resource: policy.Secret(vault, path), name: vault + "/" + path, otherwise: policy.Inject,
	}
}

// watched checks what a client wants to watch.
func (s *watchService) watched(req *hizov1.WatchRequest) (*watched, error) {
	w := &watched{exact: make(map[string]target), pipeline: req.GetPipeline()}
	if len(req.GetFilters()) > s.limits.Refs {
		return nil, invalid("filters", "a watch has at most %d filters: use a prefix", s.limits.Refs)
	}
	for _, f := range req.GetFilters() {
		if _, err := name.Vault(f.GetVault()); err != nil {
			return nil, err
		}
		if !f.GetPrefix() {
			if _, err := name.Path(f.GetPath()); err != nil {
				return nil, err
			}
			t := watchSecret(f.GetVault(), f.GetPath())
			if _, twice := w.exact[t.name]; !twice {
				w.exact[t.name] = t
				w.targets = append(w.targets, t)
			}
			continue
		}
		if len(f.GetPath()) > name.MaxPath {
			return nil, invalid("filters", "a prefix has at most %d bytes", name.MaxPath)
		}
		t := target{action: policy.Watch, resource: policy.Vault(f.GetVault()), name: f.GetVault()}
		w.prefixes = append(w.prefixes, watchedPrefix{vault: f.GetVault(), path: f.GetPath(), target: t})
		w.targets = append(w.targets, t)
	}
	if len(w.targets) == 0 && !w.pipeline {
		return nil, invalid("filters", "say what to watch: secrets, vaults or the own pipeline")
	}
	return w, nil
}

// watch is one open stream.
type watch struct {
	*watched
	s      *watchService
	a      *answer
	at     fsm.Cursor
	out    *sender
	silent time.Time // since when nothing was sent
	led    time.Time // when this node last knew a leader
	own    string    // VAULT/NAME of the caller's pipeline, as last seen
}

// Watch streams events, and ends when the caller may no longer have them.
//
// That a revoked right is seen in time follows from the order: events are read from this node's state, and the rights are
// looked at afterwards, in a state that holds everything before those events at least.
func (s *watchService) Watch(req *hizov1.WatchRequest, stream grpc.ServerStreamingServer[hizov1.WatchResponse]) error {
	w, err := s.watched(req)
	if err != nil {
		return err
	}
	ctx := stream.Context()
	open := &call{
		kind: fsm.KindRecord, anywhere: true, prepare: func(r *round) error { return s.gate.referring(r, w.targets) },
	}
	leave := func() {}
	open.body = func(r *round) (any, error) { // allowed, and not on record yet
		leave()
		var err error
		leave, err = s.streams.enter(r.caller.text)
		return nil, err
	}
	defer func() { leave() }()
	if w.pipeline {
		if len(w.targets) > 0 {
			return invalid("pipeline", "watch the own pipeline on a stream of its own")
		}
		open.self, open.detail, open.prepare = policy.Watch, "pipeline", nil
	}
	a, err := s.gate.do(ctx, open)
	if err != nil {
		return err
	}
	k := &watch{watched: w, s: s, a: a, out: newSender(ctx, stream, s.limits.SlowWatch), silent: time.Now(), led: time.Now()}
	if w.pipeline {
		k.own = ownPipeline(a.store, a.caller.text)
	}
	if err := k.begin(ctx, req.GetCursor()); err != nil {
		return err
	}
	return k.run(ctx)
}

// begin finds the place that the stream starts from.
func (k *watch) begin(ctx context.Context, cursor string) error {
	if cursor == "" {
		k.at = k.a.store.EventsEnd()
		return k.position(false)
	}
	at, err := parseCursor(k.a.cluster.ID, cursor)
	if err != nil {
		return err
	}
	k.at = at
	if at.Epoch != k.a.store.EventsEnd().Epoch {
		return nil // told at the first read
	}
	wait, cancel := context.WithTimeout(ctx, watchLook)
	defer cancel()
	for {
		changed := k.a.store.Changed()
		if k.a.store.Position().Index >= at.Index {
			return nil
		}
		select {
		case <-changed:
		case <-wait.Done():
			return fault(hizov1.ReasonBehind)
		}
	}
}

// run sends what there is until the stream has to end.
func (k *watch) run(ctx context.Context) error {
	look := time.NewTicker(watchLook)
	defer look.Stop()
	for {
		more := k.s.hub.more()
		events, next, ok := k.s.hub.read(k.at)
		if !ok {
			k.at = next
			if err := k.position(true); err != nil {
				return err
			}
			continue
		}
		told, err := k.permitted(events)
		if err != nil {
			return err
		}
		k.at = next
		if len(told) > 0 || time.Since(k.silent) >= watchBeat {
			if err := k.send(&hizov1.WatchResponse{Events: told}); err != nil {
				return err
			}
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-more:
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-k.s.ctx.Done():
			return fault(hizov1.ReasonShutdown)
		}
	}
}

func (k *watch) send(m *hizov1.WatchResponse) error {
	m.Cursor = cursorText(k.a.cluster.ID, k.at)
	k.silent = time.Now()
	return k.out.send(m)
}

// position tells where everything stands that was asked for by name. The cursor is taken before: what changes in
// between is told again.
func (k *watch) position(startOver bool) error {
	if _, err := k.permitted(nil); err != nil {
		return err
	}
	p := &hizov1.WatchResponse_Position{StartOver: startOver}
	for _, t := range k.targets {
		vault, path, _ := strings.Cut(t.name, "/")
		if _, ok := k.exact[t.name]; ok {
			head, _ := k.a.store.Secret(vault, path)
			p.Secrets = append(p.Secrets, &hizov1.WatchResponse_Position_Secret{Vault: vault, Path: path, Version: head.Current})
		}
	}
	return k.send(&hizov1.WatchResponse{Position: p})
}

// permitted picks the events that the stream is about and its caller may have, in the state of now. It is an error if the
// caller may not have the stream any more.
func (k *watch) permitted(events []fsm.Event) ([]*hizov1.WatchResponse_Event, error) {
	g := k.s.gate
	foot, err := g.standing()
	if err != nil {
		return nil, err
	}
	if _, known := g.node.Leader(); known {
		k.led = time.Now()
	} else if time.Since(k.led) > k.s.limits.LoneWatch { // longer than an election
		return nil, fault(hizov1.ReasonBehind)
	}
	r := &round{footing: foot, origin: k.a.origin, now: g.now(foot.store)}
	if r.caller, err = g.authenticate(r); err != nil {
		return nil, err
	}
	if k.pipeline {
		r.targets = []target{onIdentity(policy.Watch, r.caller.principal)}
	} else if err := g.referring(r, k.targets); err != nil {
		return nil, err
	}
	for i := range r.targets {
		v, err := g.decide(r, &r.targets[i])
		if err != nil {
			return nil, err
		}
		if !v.decision.Allowed {
			return nil, v.denied(g, r)
		}
	}
	var told []*hizov1.WatchResponse_Event
	for i := range events {
		e := &events[i]
		ok, err := k.about(r, e)
		if err != nil {
			return nil, err
		}
		if ok {
			told = append(told, &hizov1.WatchResponse_Event{
				Kind: eventText[e.Kind], Vault: e.Vault, Path: e.Path, Version: e.Version, TimeUnixMs: e.Time,
			})
		}
	}
	return told, nil
}

func ownPipeline(store *fsm.Store, principal string) string {
	p, ok := store.PipelineOf(principal)
	if !ok {
		return ""
	}
	return p.Vault + "/" + p.Name
}

// about says whether an event belongs to the stream.
func (k *watch) about(r *round, e *fsm.Event) (bool, error) {
	if k.pipeline {
		if e.Kind != fsm.EventPipelineChanged {
			return false, nil
		}
		// Its end is told as well: the run learns by its next call that the pipeline is no longer its own.
		before, changed := k.own, e.Vault+"/"+e.Path
		k.own = ownPipeline(r.store, r.caller.text)
		return changed == before || changed == k.own, nil
	}
	secret := e.Kind != fsm.EventPipelineChanged && e.Kind != fsm.EventLeaseRevoked
	if secret && len(k.exact) > 0 {
		if _, ok := k.exact[e.Vault+"/"+e.Path]; ok {
			return true, nil // decided with the stream's targets
		}
	}
	for _, p := range k.prefixes {
		if p.vault != e.Vault || !strings.HasPrefix(e.Path, p.path) {
			continue
		}
		if !secret {
			return true, nil
		}
		// The right to watch the vault shows what no policy hides.
		t := watchSecret(e.Vault, e.Path)
		t.granted = k.s.gate.granted(r.store, r.caller.text, policy.Watch, t.name)
		v, err := k.s.gate.decide(r, &t)
		if err != nil {
			return false, err
		}
		return v.decision.Allowed, nil
	}
	return false, nil
}

var eventText = map[fsm.EventKind]string{
	fsm.EventPut: "put", fsm.EventPromoted: "promoted", fsm.EventRetired: "retired", fsm.EventDeleted: "deleted",
	fsm.EventUndeleted: "undeleted", fsm.EventDestroyed: "destroyed", fsm.EventRotation: "rotation",
	fsm.EventLeaseRevoked: "lease-revoked", fsm.EventPipelineChanged: "pipeline-changed",
}

// sender sends on a stream from a goroutine of its own, so that a client that does not read can be let go. It holds one
// message.
type sender struct {
	ctx   context.Context
	next  chan *hizov1.WatchResponse
	sent  chan error
	limit time.Duration
}

func newSender(ctx context.Context, stream grpc.ServerStreamingServer[hizov1.WatchResponse], limit time.Duration) *sender {
	s := &sender{ctx: ctx, next: make(chan *hizov1.WatchResponse), sent: make(chan error, 1), limit: limit}
	go func() { // ends with the stream's context, at the latest when the handler has returned
		for {
			select {
			case m := <-s.next:
				s.sent <- stream.Send(m)
			case <-ctx.Done():
				return
			}
		}
	}()
	return s
}

// send returns when gRPC has taken the message over, which it does while the client reads.
func (s *sender) send(m *hizov1.WatchResponse) error {
	select {
	case s.next <- m:
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
	slow := time.NewTimer(s.limit)
	defer slow.Stop()
	select {
	case err := <-s.sent:
		return err
	case <-slow.C:
		return &Error{Reason: hizov1.ReasonOverloaded, Message: "the watch was read too slowly and is closed: go on from the last cursor"}
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// streams bounds open watches: of the node, and of each principal.
type streams struct {
	all, each int

	mu   sync.Mutex
	open int
	by   map[string]int
}

func newStreams(all, each int) *streams {
	return &streams{all: all, each: each, by: make(map[string]int)}
}

func (s *streams) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

func (s *streams) enter(principal string) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= s.all || s.by[principal] >= s.each {
		return func() {}, &Error{Reason: hizov1.ReasonOverloaded, Message: "too many watches are open on this node: close one, watch more secrets on one stream, or use another node"}
	}
	s.open++
	s.by[principal]++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open--
		if s.by[principal]--; s.by[principal] == 0 {
			delete(s.by, principal)
		}
	}), nil
}
