package api_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/cluster/rotate"
	"github.com/hizo/hizo/cluster/rotate/target"
)

// TestRetirementWaits follows a rotation through a watch, as a job does: the old value is retired when the job has
// acknowledged the new one, or when the deadline passes, and the record says which. A leader is killed while it waits.
func TestRetirementWaits(t *testing.T) {
	t.Parallel()
	clock := &clustertest.Clock{}
	rotations := rotate.New(rotate.Config{Targets: map[string]target.Target{"generated": target.NewGenerated()}, Clock: clock.Now})
	c := apitest.Start(t, apitest.Options{
		Options:   clustertest.Options{Clock: clock, Duties: func(string) []cluster.Duty { return []cluster.Duty{rotations.Duty} }},
		Configure: func(conf *api.Config) { conf.Rotations = rotations },
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c.Vault("ml")
	c.Put("ml", "db", "password", "first")
	if _, err := c.Engineer.Rotations().Set(ctx, &hizov1.SetRotationRequest{
		Vault: "ml", Path: "db", Target: "generated", Options: map[string]string{"field": "password"},
		EverySeconds: 30 * 24 * 3600, WaitForConsumers: true, DeadlineSeconds: 600,
	}); err != nil {
		t.Fatal(err)
	}
	train := c.Workload("train", fmt.Sprintf(mayInject, "train", "db"))
	job := train.Consumer(client.ConsumerConfig{ID: "job", TTL: time.Hour})
	if err := job.Use(ctx, map[string]uint32{"ml/db": 1}); err != nil {
		t.Fatal(err)
	}
	changes := make(chan client.Change)
	go func() {
		defer close(changes)
		for change, err := range train.Watch(ctx, client.WatchConfig{Secrets: []string{"ml/db"}}) {
			if err != nil {
				return
			}
			select {
			case changes <- change:
			case <-ctx.Done():
				return
			}
		}
	}()
	await := func(kind client.ChangeKind, version uint32) (before []client.ChangeKind) {
		t.Helper()
		for {
			select {
			case change, open := <-changes:
				switch {
				case !open:
					t.Fatal("the watch ended")
				case change.Kind == kind && change.Version == version:
					return before
				}
				before = append(before, change.Kind)
			case <-time.After(clustertest.Patience):
				t.Fatalf("no %s of version %d; before it came %q", kind, version, before)
			}
		}
	}
	reason := func() (detail string) {
		t.Helper()
		store := c.Leader().Store()
		for rec, err := range store.AuditRecords(0, store.AuditSize()) {
			if err != nil {
				t.Fatal(err)
			}
			if rec.Action == "rotation.grace" {
				detail = rec.Detail
			}
		}
		return detail
	}
	await(client.ChangeStart, 0)
	run := func() {
		t.Helper()
		if _, err := c.Engineer.Rotations().Run(ctx, &hizov1.RotationRequest{Vault: "ml", Path: "db"}); err != nil {
			t.Fatal(err)
		}
	}

	run()
	await(client.ChangePromoted, 2)
	waiting := c.Leader().Store().Lagging("ml", "db", 2)
	if len(waiting) != 1 || waiting[0].ID != "job" {
		t.Errorf("who lags: %+v", waiting)
	}
	c.Kill(c.Leader())
	if detail := reason(); detail != "" {
		t.Errorf("retired without the job: %s", detail)
	}
	if err := job.Use(ctx, map[string]uint32{"ml/db": 2}); err != nil {
		t.Fatal(err)
	}
	if before := await(client.ChangeRetired, 1); slices.Contains(before, client.ChangeRetired) {
		t.Errorf("before it came %q", before)
	}
	if detail := reason(); !strings.Contains(detail, "all consumers have moved") {
		t.Errorf("the record says %q", detail)
	}

	// The second time it never moves.
	c.Await("the rotation to end", func() bool {
		r, err := c.Engineer.Rotations().Show(ctx, &hizov1.ShowRotationRequest{Vault: "ml", Path: "db"})
		return err == nil && r.GetStage() == "idle"
	})
	run()
	await(client.ChangePromoted, 3)
	for range 3 {
		clock.Advance(4 * time.Minute)
		c.Put("ml", "other", "f", "cluster time goes on")
	}
	await(client.ChangeRetired, 2)
	if detail := reason(); !strings.Contains(detail, "the deadline has passed; consumers that still use an older version: 1") {
		t.Errorf("the record says %q", detail)
	}
}
