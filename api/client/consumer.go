package client

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hizo/hizo/api/hizov1"
)

// DefaultConsumerTTL is when a consumer that is not heard of goes stale.
const DefaultConsumerTTL = 5 * time.Minute

// ConsumerConfig of a Consumer.
type ConsumerConfig struct {
	ID  string        // of this process, unique among those of its principal; "" makes one
	TTL time.Duration // 0: DefaultConsumerTTL; whole seconds, 10 s to 24 h
}

// Consumer tells the cluster which versions this process uses, so that rotations wait for it. It is safe for concurrent
// use.
type Consumer struct {
	c   *Client
	id  string
	ttl time.Duration

	mu         sync.Mutex // held over calls: what the cluster hears is in order
	uses       map[string]uint32
	registered bool
}

// Consumer makes one; the cluster hears of it at the first Use.
func (c *Client) Consumer(cfg ConsumerConfig) *Consumer {
	k := &Consumer{c: c, id: cfg.ID, ttl: orDefault(cfg.TTL, DefaultConsumerTTL)}
	if k.id == "" {
		k.id = uuid.NewString()
	}
	return k
}

// ID is what this process is called in the list of consumers.
func (k *Consumer) ID() string { return k.id }

// Use says which version of which secrets ("ml/db") this process uses from now on, all of them. Version 0 is one that it
// does not have yet. When Use returns nil, the cluster has it in its log.
func (k *Consumer) Use(ctx context.Context, versions map[string]uint32) error {
	if len(versions) == 0 {
		return k.Leave(ctx)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	changed, same := make(map[string]uint32), len(versions) == len(k.uses)
	for secret, version := range versions {
		before, known := k.uses[secret]
		same = same && known
		if !known || before != version {
			changed[secret] = version
		}
	}
	switch {
	case !k.registered || !same:
		return k.register(ctx, versions)
	case len(changed) == 0:
		return nil
	}
	uses, err := consumerUses(changed)
	if err != nil {
		return err
	}
	_, err = k.c.Watches().AckConsumer(ctx, &hizov1.AckConsumerRequest{Id: k.id, Uses: uses})
	if IsReason(err, hizov1.ReasonNotFound) { // forgotten, after a long silence
		return k.register(ctx, versions)
	}
	if err == nil {
		k.uses = maps.Clone(versions)
	}
	return err
}

// register is called with k.mu held.
func (k *Consumer) register(ctx context.Context, versions map[string]uint32) error {
	uses, err := consumerUses(versions)
	if err != nil {
		return err
	}
	_, err = k.c.Watches().RegisterConsumer(ctx, &hizov1.RegisterConsumerRequest{
		Id: k.id, TtlSeconds: int64(k.ttl / time.Second), Uses: uses,
	})
	if err == nil {
		k.uses, k.registered = maps.Clone(versions), true
	}
	return err
}

func consumerUses(versions map[string]uint32) ([]*hizov1.ConsumerUse, error) {
	var uses []*hizov1.ConsumerUse
	for secret, version := range versions {
		vault, path, ok := strings.Cut(secret, "/")
		if !ok {
			return nil, fmt.Errorf("%q is no secret to use: write VAULT/PATH", secret)
		}
		uses = append(uses, &hizov1.ConsumerUse{Vault: vault, Path: path, Version: version})
	}
	return uses, nil
}

// Run says that this process lives, three times in each TTL, until ctx ends; then it leaves. What goes wrong is logged
// and tried again: a consumer that is not heard of goes stale, which holds nothing up.
func (k *Consumer) Run(ctx context.Context) error {
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.c.cfg.AttemptTimeout)
		defer cancel()
		if err := k.Leave(last); err != nil {
			k.c.cfg.Logger.Warn("the consumer could not take its leave; it goes stale by itself", "consumer", k.id, "error", err)
		}
	}()
	for {
		// A little early and never together with all others that started at one time.
		timer := time.NewTimer(k.ttl/4 + rand.N(k.ttl/12))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		if err := k.beat(ctx); err != nil && ctx.Err() == nil {
			k.c.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "a heartbeat failed, the next one follows", slog.String("consumer", k.id), slog.Any("error", err))
		}
	}
}

func (k *Consumer) beat(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.registered {
		return nil
	}
	_, err := k.c.Watches().AckConsumer(ctx, &hizov1.AckConsumerRequest{Id: k.id})
	if IsReason(err, hizov1.ReasonNotFound) {
		return k.register(ctx, k.uses)
	}
	return err
}

// Leave takes this process off the list.
func (k *Consumer) Leave(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.registered {
		return nil
	}
	_, err := k.c.Watches().LeaveConsumer(ctx, &hizov1.LeaveConsumerRequest{Id: k.id})
	if err == nil || IsReason(err, hizov1.ReasonNotFound) {
		k.registered, k.uses = false, nil
		return nil
	}
	return err
}
