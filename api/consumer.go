package api

import (
	"context"
	"encoding/base64"
	"fmt"
	"sync"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/fsm"
)

// Consumers are told apart by the token's principal: nobody registers, acknowledges or leaves for another.

const (
	consumerTTL = 5 * time.Minute // where a consumer names none
	beatEvery   = 10 * time.Second
)

// consumerID checks the name that a process gives itself.
func consumerID(id string) error {
	if id == "" || len(id) > fsm.MaxConsumerID {
		return invalid("id", "a consumer has an id of 1 to %d characters", fsm.MaxConsumerID)
	}
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return invalid("id", "a consumer's id holds letters, digits, '-', '_' and '.' only")
		}
	}
	return nil
}

// uses checks what a consumer says it uses, and makes a target of each.
func (s *watchService) uses(list []*hizov1.ConsumerUse) ([]fsm.Use, []target, error) {
	if len(list) > fsm.MaxUses {
		return nil, nil, invalid("uses", "a consumer has at most %d secrets: register another one", fsm.MaxUses)
	}
	uses, targets := make([]fsm.Use, len(list)), make([]target, len(list))
	seen := make(map[string]bool, len(list))
	for i, u := range list {
		t, err := onSecret(policy.Consume, u.GetVault(), u.GetPath())
		if err != nil {
			return nil, nil, err
		}
		if seen[t.name] {
			return nil, nil, invalid("uses", "%s is named twice", t.name)
		}
		seen[t.name], t.otherwise = true, policy.Inject
		uses[i] = fsm.Use{Vault: u.GetVault(), Path: u.GetPath(), Version: u.GetVersion()}
		targets[i] = t
	}
	return uses, targets, nil
}

// RegisterConsumer registers a consumer of the caller, or replaces what it uses.
func (s *watchService) RegisterConsumer(ctx context.Context, req *hizov1.RegisterConsumerRequest) (*hizov1.RegisterConsumerResponse, error) {
	if err := consumerID(req.GetId()); err != nil {
		return nil, err
	}
	ttl := time.Duration(req.GetTtlSeconds()) * time.Second
	if req.GetTtlSeconds() == 0 {
		ttl = consumerTTL
	}
	if req.GetTtlSeconds() < 0 || req.GetTtlSeconds() > int64(fsm.MaxConsumerTTL/time.Second) || ttl < fsm.MinConsumerTTL {
		return nil, invalid("ttl_seconds", "a consumer goes stale after %v to %v", fsm.MinConsumerTTL, fsm.MaxConsumerTTL)
	}
	uses, targets, err := s.uses(req.GetUses())
	if err != nil {
		return nil, err
	}
	if len(uses) == 0 {
		return nil, invalid("uses", "a consumer uses at least one secret")
	}
	a, err := s.gate.do(ctx, &call{
		kind: fsm.KindConsumerPut, prepare: func(r *round) error { return s.gate.referring(r, targets) }, detail: "register " + req.GetId(),
		body: func(*round) (any, error) {
			return &fsm.ConsumerPut{ID: req.GetId(), TTL: ttl.Milliseconds(), Uses: uses}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	return &hizov1.RegisterConsumerResponse{ExpiresUnixMs: a.Time + ttl.Milliseconds()}, nil
}

// AckConsumer records the versions that a consumer uses now; without any it is a heartbeat.
func (s *watchService) AckConsumer(ctx context.Context, req *hizov1.AckConsumerRequest) (*hizov1.AckConsumerResponse, error) {
	if err := consumerID(req.GetId()); err != nil {
		return nil, err
	}
	if len(req.GetUses()) == 0 {
		return s.beat(ctx, req.GetId())
	}
	uses, targets, err := s.uses(req.GetUses())
	if err != nil {
		return nil, err
	}
	a, err := s.gate.do(ctx, &call{
		kind: fsm.KindConsumerAck, prepare: func(r *round) error { return s.gate.referring(r, targets) }, detail: "use " + req.GetId(),
		body: func(*round) (any, error) { return &fsm.ConsumerAck{ID: req.GetId(), Uses: uses}, nil },
	})
	if err != nil {
		return nil, err
	}
	out := &hizov1.AckConsumerResponse{ExpiresUnixMs: a.Time}
	if have, ok := a.store.Consumer(a.caller.text, req.GetId()); ok {
		out.ExpiresUnixMs = have[0].Expires
	}
	return out, nil
}

// beat notes that a consumer lives. Its rights are looked at as for any call; what goes into the log is one record for
// all that the leader has heard of in the meantime. A beat that is lost with the leader is made up by the next one: a
// consumer beats several times before it would go stale.
func (s *watchService) beat(ctx context.Context, id string) (*hizov1.AckConsumerResponse, error) {
	g := s.gate
	c := &call{kind: fsm.KindConsumerAck, detail: "beat " + id}
	for n := range rounds {
		foot, err := g.footing()
		if err != nil {
			return nil, err
		}
		r := &round{footing: foot, number: n, origin: originOf(ctx), now: g.now(foot.store)}
		if r.caller, err = g.authenticate(r); err != nil {
			return nil, err
		}
		have, ok := foot.store.Consumer(r.caller.text, id)
		if !ok {
			// Whether it was never there or has been forgotten, the answer costs no record: it tells nothing of others.
			return nil, &Error{Reason: hizov1.ReasonNotFound, Message: fmt.Sprintf("%s has no consumer %s: register it", r.caller.text, id)}
		}
		for _, u := range have {
			t, err := onSecret(policy.Consume, u.Vault, u.Path)
			if err != nil {
				return nil, err
			}
			t.otherwise = policy.Inject
			r.targets = append(r.targets, t)
		}
		if err := g.referring(r, r.targets); err != nil {
			return nil, err
		}
		if n == 0 {
			if wait, ok := r.caller.allow(g.clock(), policy.Consume); !ok {
				g.floods.stop(r, fsm.Failed)
				return nil, rateLimited(wait)
			}
		}
		verdicts, err := g.authorise(r)
		if err != nil {
			if err == errSuperseded {
				continue
			}
			return nil, err
		}
		if v := firstDenied(verdicts); v != nil {
			if err := g.refuse(ctx, c, r, verdicts, v); err != errSuperseded {
				return nil, err
			}
			continue
		}
		ttl := have[0].Expires - have[0].Seen
		if r.now-have[0].Seen >= ttl/5 { // more often tells nobody anything
			s.beats.add(fsm.ConsumerName{Principal: r.caller.text, ID: id})
		}
		return &hizov1.AckConsumerResponse{ExpiresUnixMs: have[0].Expires}, nil
	}
	return nil, fault(hizov1.ReasonSuperseded)
}

// beats are the heartbeats that the leader has heard since its last record of them.
type beats struct {
	mu      sync.Mutex
	pending map[fsm.ConsumerName]bool
}

func (b *beats) add(c fsm.ConsumerName) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pending == nil {
		b.pending = make(map[fsm.ConsumerName]bool)
	}
	b.pending[c] = true // of registered ones, so there is a bound
}

// take returns up to one record's worth.
func (b *beats) take() []fsm.ConsumerName {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []fsm.ConsumerName
	for c := range b.pending {
		if len(out) == fsm.MaxSeen {
			break
		}
		out = append(out, c)
		delete(b.pending, c)
	}
	return out
}

// recordBeats writes heartbeats into the log until ctx ends.
func (s *Server) recordBeats(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.flushBeats(ctx)
		case <-ctx.Done():
			return // they beat again, elsewhere
		}
	}
}

func (s *Server) flushBeats(ctx context.Context) {
	for {
		seen := s.beats.take()
		if len(seen) == 0 {
			return
		}
		foot, err := s.gate.footing()
		if err != nil {
			continue // not the leader any more: they beat at the new one
		}
		principal, detail := "node/"+s.node.Status().ID, fmt.Sprintf("heartbeats of %d consumers", len(seen))
		audit := fsm.Audit{
			Action: string(policy.Consume), Resource: "consumers", Decision: fsm.Allowed, Detail: detail, Count: uint32(len(seen)),
			Generation: foot.cluster.AuditGeneration,
		}
		audit.Sealed, err = foot.seal(auditBind(principal, audit.Action, audit.Resource), origin{}.addr, "", [16]byte{}, encodeClaims(nil))
		if err == nil {
			_, err = s.node.Propose(ctx, fsm.Command{
				Format: fsm.CommandFormat, Kind: fsm.KindConsumerSeen, Principal: principal, Audits: []fsm.Audit{audit},
				Body: fsm.EncodeBody(fsm.KindConsumerSeen, &fsm.ConsumerSeen{Consumers: seen}),
			})
		}
		if err != nil {
			s.log.Warn("heartbeats of consumers were not recorded", "consumers", len(seen), "error", err)
			return
		}
	}
}

// LeaveConsumer takes a consumer of the caller off the list.
func (s *watchService) LeaveConsumer(ctx context.Context, req *hizov1.LeaveConsumerRequest) (*hizov1.LeaveConsumerResponse, error) {
	if err := consumerID(req.GetId()); err != nil {
		return nil, err
	}
	_, err := s.gate.do(ctx, &call{
		kind: fsm.KindConsumerLeave, self: policy.Consume, detail: "leave " + req.GetId(),
		body: func(*round) (any, error) { return &fsm.ConsumerLeave{ID: req.GetId()}, nil },
	})
	return sent(&hizov1.LeaveConsumerResponse{}, err)
}

// ListConsumers shows who uses which version.
func (s *watchService) ListConsumers(ctx context.Context, req *hizov1.ListConsumersRequest) (*hizov1.ListConsumersResponse, error) {
	vault, path := req.GetVault(), req.GetPath()
	if _, err := name.Vault(vault); err != nil {
		return nil, err
	}
	limit, err := s.page(req.GetLimit())
	if err != nil {
		return nil, err
	}
	if len(path) > name.MaxPath {
		return nil, invalid("path", "a path has at most %d bytes", name.MaxPath)
	}
	after, err := base64.RawURLEncoding.DecodeString(req.GetAfter())
	if err != nil || len(after) > fsm.MaxName {
		return nil, invalid("after", "this is not the next of an earlier page")
	}
	if !req.GetPrefix() && path != "" {
		path += "\x00" // nothing longer
	}
	var out *hizov1.ListConsumersResponse
	err = s.gate.show(ctx, &call{
		kind: fsm.KindRecord, targets: []target{{action: policy.ConsumerList, resource: policy.Vault(vault), name: vault}},
	}, func(a *answer) error {
		if _, ok := a.store.Vault(vault); !ok {
			return fault(hizov1.ReasonNotFound)
		}
		out = &hizov1.ListConsumersResponse{}
		now := a.store.Time()
		list, next := a.store.VaultConsumers(vault, path, string(after), limit)
		for _, c := range list {
			head, _ := a.store.Secret(vault, c.Path)
			out.Consumers = append(out.Consumers, &hizov1.ListConsumersResponse_Consumer{
				Principal: c.Principal, Id: c.ID, Vault: vault, Path: c.Path, Version: c.Version, Current: head.Current,
				Stale: c.Expires <= now, SinceUnixMs: c.Since, SeenUnixMs: c.Seen, ExpiresUnixMs: c.Expires,
			})
		}
		out.Next = base64.RawURLEncoding.EncodeToString([]byte(next))
		return nil
	})
	return sent(out, err)
}
