package workload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/chaos/history"
)

// marker is the path of the last put of a run: a watch that has told it has told everything.
const marker = "marker"

// watchers are open from before the first call of the others until the marker has come.
func (w *Workload) watchers() map[string]client.WatchConfig {
	one := client.WatchConfig{Secrets: []string{Vault + "/" + marker}}
	for i := range min(2, w.Keys) {
		one.Secrets = append(one.Secrets, fmt.Sprintf("%s/k%d", Vault, i))
	}
	return map[string]client.WatchConfig{
		"watch-vault":   {Prefixes: []string{Vault + "/"}},
		"watch-again":   {Prefixes: []string{Vault + "/k"}, Secrets: []string{Vault + "/" + marker}},
		"watch-secrets": one,
	}
}

// StartWatches opens every watch and returns when each has told where it begins. The returned function puts the marker,
// waits until each has told it, and says which did not.
func (w *Workload) StartWatches(ctx context.Context) (finish func(context.Context) []string, err error) {
	ctx, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	ended := map[string]chan struct{}{}
	begun := make(chan struct{})
	for name, cfg := range w.watchers() {
		c, err := w.Connect(w.Admin)
		if err != nil {
			stop()
			return nil, err
		}
		done := make(chan struct{})
		ended[name] = done
		all.Go(func() {
			defer c.Close()
			w.follow(ctx, c, name, cfg, begun, done)
		})
	}
	for range ended {
		select {
		case <-begun:
		case <-time.After(30 * time.Second):
			stop()
			return nil, errors.New("the watches did not begin")
		}
	}
	return func(ctx context.Context) (violations []string) {
		defer all.Wait()
		defer stop()
		c, err := w.Connect(w.Admin)
		if err != nil {
			return []string{err.Error()}
		}
		defer c.Close()
		// Revealed as well: the log that is judged has to reach as far as what clients were given, so this too is in it.
		put := w.Record.Begin(history.Event{Client: "watch", Kind: history.Put, Key: Vault + "/" + marker, Value: marker})
		answer, err := c.Secrets().Put(ctx, &hizov1.PutRequest{Vault: Vault, Path: marker, Fields: map[string][]byte{"v": []byte(marker)}})
		put = outcome(put, err)
		put.Version = answer.GetVersion()
		w.Record.End(put)
		if err != nil {
			return []string{fmt.Sprintf("liveness: the last put: %v", err)}
		}
		w.reveal(ctx, c, history.Event{Client: "watch", Kind: history.Reveal, Key: Vault + "/" + marker}, marker)
		for name, done := range ended {
			select {
			case <-done:
			case <-ctx.Done():
				violations = append(violations, fmt.Sprintf("watch: %s did not tell the last put in time", name))
			}
		}
		return violations
	}, nil
}

// follow records what one watch tells. Where it was opened again from its cursor, what was told before may come again.
func (w *Workload) follow(ctx context.Context, c *client.Client, name string, cfg client.WatchConfig, begun, done chan struct{}) {
	note := func(e history.Event) {
		e.Client, e.Outcome = name, history.OK
		w.Record.End(w.Record.Begin(e))
	}
	cfg.Retry = func(error) { note(history.Event{Kind: history.WatchAgain}) }
	for change, err := range c.Watch(ctx, cfg) {
		if err != nil {
			if ctx.Err() == nil {
				note(history.Event{Kind: history.WatchEnd, Reason: "OTHER: " + err.Error()})
			}
			return
		}
		switch change.Kind {
		case client.ChangeStart:
			note(history.Event{Kind: history.WatchStart})
			select {
			case begun <- struct{}{}:
			case <-ctx.Done():
			}
		case client.ChangeReset:
			note(history.Event{Kind: history.WatchReset})
		case client.ChangePut:
			note(history.Event{Kind: history.Told, Key: change.Vault + "/" + change.Path, Version: change.Version})
			if change.Path == marker {
				close(done)
				return
			}
		}
	}
}
