package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

// writers put one after the other, each to a secret of its own, so that versions count what took effect.
type writers struct {
	c *cluster

	mu      sync.Mutex
	acked   []uint32 // by writer: the last version that was acknowledged
	acks    []int
	unknown []int
	failed  []error
	trial   *watch
}

// watch is one trial.
type watch struct {
	from  time.Time
	first chan time.Duration
	found bool
	stall []time.Duration // by writer: the longer of the call that was under way at from and the first after it
	done  []bool
	left  int
	all   chan struct{}
}

func newWriters(c *cluster, n int) *writers {
	return &writers{c: c, acked: make([]uint32, n), acks: make([]int, n), unknown: make([]int, n), failed: make([]error, n)}
}

func (w *writers) watch() *watch {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.acked)
	w.trial = &watch{from: time.Now(), first: make(chan time.Duration, 1), stall: make([]time.Duration, n), done: make([]bool, n), left: n, all: make(chan struct{})}
	return w.trial
}

// longest waits until each writer has had an answer.
func (w *writers) longest(t *watch) (longest time.Duration) {
	select {
	case <-t.all:
	case <-time.After(30 * time.Second):
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range t.stall {
		longest = max(longest, s)
	}
	return longest
}

func (w *writers) run(ctx context.Context, i int) {
	c, err := w.c.client()
	if err != nil {
		w.failed[i] = err
		return
	}
	defer c.Close()
	path := fmt.Sprintf("w%d", i)
	for ctx.Err() == nil {
		begun := time.Now()
		r, err := c.Secrets().Put(context.WithoutCancel(ctx), &hizov1.PutRequest{Vault: "failover", Path: path, Fields: map[string][]byte{"v": []byte("value")}})
		ended := time.Now()
		w.mu.Lock()
		var unknown *client.UnknownOutcomeError
		switch {
		case err == nil:
			w.acked[i], w.acks[i] = r.GetVersion(), w.acks[i]+1
		case errors.As(err, &unknown):
			w.unknown[i]++
		default:
			w.failed[i] = err
		}
		if t := w.trial; t != nil && err == nil {
			if !t.found && begun.After(t.from) {
				t.found = true
				t.first <- ended.Sub(t.from)
			}
			if ended.After(t.from) && !t.done[i] {
				t.stall[i] = max(t.stall[i], ended.Sub(begun))
			}
			if !t.done[i] && begun.After(t.from) {
				t.done[i] = true
				if t.left--; t.left == 0 {
					close(t.all)
				}
			}
		}
		w.mu.Unlock()
	}
}

// verify compares what the cluster holds with what was acknowledged.
func (w *writers) verify(ctx context.Context) (string, error) {
	acks, unknown := 0, 0
	for i := range w.acked {
		r, err := w.c.status.Secrets().Versions(ctx, &hizov1.VersionsRequest{Vault: "failover", Path: fmt.Sprintf("w%d", i)})
		if err != nil {
			return "", err
		}
		newest := r.GetItems()[len(r.GetItems())-1].GetVersion()
		if newest < w.acked[i] {
			return "", fmt.Errorf("writer %d: version %d was acknowledged, the newest is %d", i, w.acked[i], newest)
		}
		if int(newest) < w.acks[i] || int(newest) > w.acks[i]+w.unknown[i] {
			return "", fmt.Errorf("writer %d: %d writes were acknowledged and %d are unknown, but there are %d versions", i, w.acks[i], w.unknown[i], newest)
		}
		if w.failed[i] != nil {
			return "", fmt.Errorf("writer %d: a call failed: %w", i, w.failed[i])
		}
		acks, unknown = acks+w.acks[i], unknown+w.unknown[i]
	}
	return fmt.Sprintf("%d writes were acknowledged and %d outcomes unknown; every acknowledged write is there, none took effect twice, and no call failed.", acks, unknown), nil
}
