package values

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/hizo/hizo/api/client"
)

// stream is what is watched: the secrets, and the pipeline on a watch of its own.
type stream struct {
	secrets []string
	changes chan told
	stop    context.CancelFunc
}

type told struct {
	client.Change
	pipeline bool  // by the watch of the pipeline
	err      error // the last
}

// Await implements Source. The first thing a watch tells is where everything stands, so nothing is missed between Fetch
// and its start.
func (c *Cluster) Await(ctx context.Context) error {
	secrets := slices.Sorted(maps.Keys(c.have))
	if c.stream != nil && !slices.Equal(c.stream.secrets, secrets) {
		c.stream.stop()
		c.stream = nil
	}
	if c.stream == nil && len(secrets)+len(c.pipeline) > 0 {
		c.stream = c.open(secrets)
	}
	var changes chan told
	if c.stream != nil {
		changes = c.stream.changes
	}
	var ended <-chan struct{}
	if c.leases != nil {
		ended = c.leases.ended
	}
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ended:
			return nil
		case t := <-changes:
			switch {
			case t.err != nil:
				c.stream.stop()
				c.stream = nil
				return t.err
			case c.concerns(t):
				return nil
			}
		}
	}
}

// open starts a stream that outlives the call which waits for it.
func (c *Cluster) open(secrets []string) *stream {
	ctx, stop := context.WithCancel(c.life)
	s := &stream{secrets: secrets, changes: make(chan told), stop: stop}
	if len(secrets) > 0 {
		go s.read(ctx, c.cluster, client.WatchConfig{Secrets: secrets})
	}
	if c.pipeline != "" {
		go s.read(ctx, c.cluster, client.WatchConfig{Pipeline: true})
	}
	return s
}

// read passes on what one watch tells; an error is the last.
func (s *stream) read(ctx context.Context, cluster *client.Client, cfg client.WatchConfig) {
	for change, err := range cluster.Watch(ctx, cfg) {
		select {
		case s.changes <- told{change, cfg.Pipeline, err}:
		case <-ctx.Done():
			return
		}
	}
}

// concerns reports whether the values may differ after a change.
func (c *Cluster) concerns(t told) bool {
	have, ours := c.have[t.Vault+"/"+t.Path]
	switch t.Kind {
	case client.ChangeStart, client.ChangeReset:
		if t.pipeline {
			return true // a pipeline has no version by which one could tell what happened since Fetch
		}
		for secret, version := range c.have {
			if t.Current[secret] != version {
				return true
			}
		}
	case client.ChangePut, client.ChangePromoted:
		return ours && t.Version != have
	case client.ChangeDeleted, client.ChangeUndeleted, client.ChangeDestroyed:
		return ours
	case client.ChangePipeline:
		return true
	}
	return false
}

// Uses implements Source. The first call makes this process a consumer, which lives until Close.
func (c *Cluster) Uses(ctx context.Context, versions map[string]uint32) error {
	if c.consumer == nil {
		if len(versions) == 0 {
			return nil
		}
		c.consumer = c.cluster.Consumer(client.ConsumerConfig{})
	}
	if err := c.consumer.Use(ctx, versions); err != nil {
		return err
	}
	if c.leave == nil {
		run, leave := context.WithCancel(context.WithoutCancel(ctx))
		c.leave, c.left = leave, make(chan struct{})
		go func() {
			defer close(c.left)
			_ = c.consumer.Run(run) // what goes wrong makes the consumer stale, which holds nothing up
		}()
	}
	return nil
}

// Close implements Source.
func (c *Cluster) Close(ctx context.Context) error {
	c.end()
	var errs []error
	if c.leases != nil {
		errs = append(errs, c.leases.close(ctx))
	}
	if c.leave != nil {
		c.leave()
		select {
		case <-c.left:
		case <-ctx.Done():
			errs = append(errs, errors.New("the cluster did not hear that this consumer has left"))
		}
	}
	return errors.Join(errs...)
}
