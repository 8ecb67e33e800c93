package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/chaos/check"
	"github.com/hizo/hizo/chaos/fault"
	"github.com/hizo/hizo/chaos/history"
	"github.com/hizo/hizo/chaos/lab"
	"github.com/hizo/hizo/chaos/workload"
)

// result of one seed.
type result struct {
	Seed       uint64
	Nodes      int
	Seconds    float64        // with faults
	Calls      map[string]int // kind/outcome
	Linear     int            // calls that the linearizability check decided on
	Revoked    int            // refusals after an acknowledged revocation
	Rotated    int            // rotations that finished
	Leased     int            // users that were handed out
	Backups    int            // backups that were verified
	Told       int            // events that watches told
	Resets     int            // watches that started over
	Records    uint64         // of the audit log
	Notes      int            // checkpoints seen on the way
	Captured   int64          // bytes between nodes
	States     int            // replicas compared at the end
	Faults     map[string]int // times each was set
	Took       map[string]int // times each took effect
	Effects    map[string]int // what that was, by fault and kind
	World      world
	Recovered  float64 // seconds until the cluster was whole again
	Violations []string
}

func (r *result) line() string {
	verdict := "no violation"
	if len(r.Violations) > 0 {
		verdict = fmt.Sprintf("%d VIOLATIONS", len(r.Violations))
	}
	calls := 0
	for _, n := range r.Calls {
		calls += n
	}
	var faults []string
	for _, name := range slices.Sorted(maps.Keys(r.Faults)) {
		faults = append(faults, fmt.Sprintf("%s %d/%d", name, r.Took[name], r.Faults[name]))
	}
	return fmt.Sprintf("seed %d (%s): %s; %d calls (%d in order), %d refusals after revocation, %d rotations, %d leases, %d backups, %d events told (%d starts over), %d audit records, %d checkpoints, %d replicas equal, whole after %.1f s; faults that took effect: %s",
		r.Seed, r.World, verdict, calls, r.Linear, r.Revoked, r.Rotated, r.Leased, r.Backups, r.Told, r.Resets, r.Records, r.Notes, r.States, r.Recovered, strings.Join(faults, " "))
}

func (r *result) json() string {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // no field can't be encoded
	}
	return string(b)
}

// oneRun is a cluster's life: made, used while faults come and go, left alone until it is whole, and then looked at.
func oneRun(ctx context.Context, o options, seed uint64) (_ *result, err error) {
	dir, err := filepath.Abs(filepath.Join(o.dir, fmt.Sprintf("seed-%d", seed)))
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	in := o.world(seed)
	defer lab.Sweep(in.Nodes)
	c, err := lab.New(in.config(o, dir))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	up, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := c.Up(up); err != nil {
		return nil, fmt.Errorf("set-up: %w", err)
	}
	capture, err := lab.NewCapture(filepath.Join(dir, "wire"))
	if err != nil {
		return nil, err
	}
	rec, err := history.NewRecorder(filepath.Join(dir, "history.jsonl"))
	if err != nil {
		return nil, err
	}
	w := &workload.Workload{Record: rec, Connect: c.Client, Admin: c.Token(), Keys: 6}
	var missing *lab.MissingError
	if w.Redis, err = lab.StartRedis(up, filepath.Join(dir, "redis")); err == nil {
		defer w.Redis.Close()
	} else if !errors.As(err, &missing) {
		return nil, err
	}
	if err := w.Setup(up); err != nil {
		return nil, fmt.Errorf("set-up of the workload: %w", err)
	}
	r := &result{Seed: seed, World: in, Nodes: in.Nodes, Seconds: o.duration.Seconds(), Calls: map[string]int{}}
	plan := fault.NewPlan(seed, chosen(o.faults, in.has()))
	journal, err := os.Create(filepath.Join(dir, "faults"))
	if err != nil {
		return nil, err
	}
	defer journal.Close()
	plan.Log = func(format string, args ...any) {
		fmt.Fprintf(journal, "%s %8.3f  "+format+"\n", append([]any{time.Now().UTC().Format("15:04:05.000"), rec.Now().Seconds()}, args...)...)
	}

	watches, err := w.StartWatches(ctx)
	if err != nil {
		return nil, err
	}

	// Safety: anything may fail, nothing may be wrong.
	working, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(working, seed)
	}()
	breaking, calm := context.WithTimeout(ctx, o.duration)
	err = plan.Run(breaking, c)
	calm()
	if err != nil {
		stop()
		<-done
		return nil, err
	}
	r.Faults, r.Took, r.Effects = plan.Set, plan.Took, plan.Effects()
	for _, v := range plan.Wrongs() {
		r.Violations = append(r.Violations, "fault: "+v)
	}

	// Liveness: faults are frozen, progress is demanded.
	begun := time.Now()
	whole, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	if err := fault.Freeze(whole, c); err != nil {
		r.Violations = append(r.Violations, fmt.Sprintf("liveness: what faults left could not be mended: %v", err))
	}
	if err := c.AwaitWhole(whole); err != nil {
		r.Violations = append(r.Violations, fmt.Sprintf("liveness: not whole a minute after the last fault: %v", err))
	}
	r.Recovered = time.Since(begun).Seconds()
	if err := progress(whole, c); err != nil {
		r.Violations = append(r.Violations, fmt.Sprintf("liveness: %v", err))
	}
	stop()
	<-done
	last, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r.Violations = append(r.Violations, watches(last)...)
	events, err := rec.Close()
	if err != nil {
		return nil, err
	}
	r.examine(ctx, c, w, events, dir, capture)
	if len(r.Violations) == 0 && !o.keep {
		return r, errors.Join(c.Close(), os.RemoveAll(dir))
	}
	return r, nil
}

// progress demands one of each kind of call.
func progress(ctx context.Context, c *lab.Cluster) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if _, err := c.Admin.Secrets().Put(ctx, &hizov1.PutRequest{Vault: workload.Vault, Path: "progress", Fields: map[string][]byte{"v": []byte("1")}}); err != nil {
		return fmt.Errorf("a put after the last fault: %w", err)
	}
	if _, err := c.Admin.Secrets().Reveal(ctx, &hizov1.RevealRequest{Vault: workload.Vault, Path: "progress"}); err != nil {
		return fmt.Errorf("a reveal after the last fault: %w", err)
	}
	return nil
}

// chosen are the faults that this lab can have, all or those that were asked for.
func chosen(names string, has fault.Need) []fault.Fault {
	all := fault.Can(fault.All(), has)
	if names == "" {
		return all
	}
	return slices.DeleteFunc(all, func(f fault.Fault) bool { return !slices.Contains(strings.Split(names, ","), f.Name) })
}

// examine runs every checker over what the run left.
func (r *result) examine(ctx context.Context, c *lab.Cluster, w *workload.Workload, events []history.Event, dir string, capture *lab.Capture) {
	bad := func(violations ...string) { r.Violations = append(r.Violations, violations...) }
	for _, e := range events {
		r.Calls[e.Kind+"/"+string(e.Outcome)]++
		if strings.HasPrefix(e.Reason, "OTHER") || e.Reason == hizov1.ReasonInternal {
			bad(fmt.Sprintf("client: call %d (%s) ended with %s", e.ID, e.Kind, e.Reason))
		}
	}
	var violations []string
	r.Linear, violations = check.Linearizable(events, 2*time.Minute)
	bad(violations...)
	r.Revoked, violations = check.Revocation(events)
	bad(violations...)
	bad(check.Requests(events)...)

	r.Rotated, violations = w.Rotated(ctx, events)
	bad(violations...)

	r.Leased, violations = w.Leased(ctx, events)
	bad(violations...)

	r.Notes = len(w.Notes())
	last := uint64(0)
	for _, e := range events {
		last = max(last, e.Audit)
	}
	export, err := exportAudit(ctx, c, last)
	if err != nil {
		bad(fmt.Sprintf("audit: no export: %v", err))
	} else {
		if err := os.WriteFile(filepath.Join(dir, "audit.jsonl"), export, 0o600); err != nil {
			bad(err.Error())
		}
		r.Records, violations = check.Trail(export, c.Trust, w.Notes(), events)
		bad(violations...)
		r.Told, r.Resets, violations = check.Watches(export, workload.Vault, events)
		bad(violations...)
	}
	for _, n := range c.Nodes {
		if times := n.Ended(); times > 0 {
			bad(fmt.Sprintf("process: %s ended %d times by itself", n.Name, times))
		}
		if m := crashed.Find(n.LogText()); m != nil {
			bad(fmt.Sprintf("process: %s crashed: %s", n.Name, m))
		}
		if err := n.End(syscall.SIGKILL); err != nil {
			bad(fmt.Sprintf("process: %v", err))
		}
	}
	if r.Captured, err = capture.Close(); err != nil {
		bad(err.Error())
	}
	r.Backups, violations = check.Backups(c.Backups(), c.Trust, events)
	bad(violations...)
	data := map[string]string{}
	for _, n := range c.Nodes {
		data[n.Name] = n.Data()
	}
	r.States, violations = check.States(data, filepath.Join(dir, "replicas"))
	bad(violations...)
	bad(leaks(w.Canaries(), c, filepath.Join(dir, "wire"))...)
}

// crashed is what Go prints when it ends a process; whatever is wrong with its disk, a node says it in a sentence.
var crashed = regexp.MustCompile(`(?m)^(panic: .*|fatal error: .*|goroutine \d+ \[.*)$`)

// exportAudit waits for a checkpoint beyond the last record that matters: an export ends at the newest.
func exportAudit(ctx context.Context, c *lab.Cluster, last uint64) ([]byte, error) {
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := lab.Await(ctx, "the audit log is exported", func(try context.Context) error {
		signed, err := c.Admin.Audit().LatestCheckpoint(try, &hizov1.CheckpointRequest{})
		if err != nil {
			return err
		}
		if signed.GetSize() <= last {
			return fmt.Errorf("%d records are signed, record %d is not", signed.GetSize(), last)
		}
		out.Reset()
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		stream, err := c.Admin.Audit().Export(ctx, &hizov1.ExportRequest{})
		if err != nil {
			return err
		}
		for {
			chunk, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			out.Write(chunk.GetData())
		}
	})
	return out.Bytes(), err
}

// leaks searches disks, logs and the wire for values that were written.
func leaks(values []string, c *lab.Cluster, wire string) []string {
	var needles []check.Needle
	for i, v := range values {
		needles = append(needles, check.Needle{Name: fmt.Sprintf("value %d", i), Value: []byte(v)})
	}
	if len(needles) == 0 {
		return nil
	}
	scanner, err := check.NewScanner(needles[:min(8, len(needles))]...)
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	frames, err := os.ReadFile(wire)
	if err != nil || len(frames) == 0 {
		out = append(out, fmt.Sprintf("canary: nothing was captured (%v)", err))
	}
	found := scanner.Bytes("the wire", frames)
	for _, f := range found { // what kind of packet it was shows around it
		out = append(out, fmt.Sprintf("canary: around byte %d of the wire: %q", f.Offset, frames[max(0, f.Offset-160):min(len(frames), f.Offset+96)]))
	}
	for _, n := range c.Nodes {
		more, files, err := scanner.Tree(n.Dir, nil)
		if err != nil || files == 0 {
			out = append(out, fmt.Sprintf("canary: %s: %d files: %v", n.Name, files, err))
		}
		found = append(found, more...)
	}
	if _, err := os.Stat(c.Backups()); err == nil {
		more, _, err := scanner.Tree(c.Backups(), nil)
		if err != nil {
			out = append(out, fmt.Sprintf("canary: backups: %v", err))
		}
		found = append(found, more...)
	}
	for _, n := range needles[min(8, len(needles)):] { // the rest of them as they are, which is quick
		if at := bytes.Index(frames, n.Value); at >= 0 {
			found = append(found, check.Finding{Needle: n.Name, Encoding: "plain", Where: "the wire", Offset: at})
		}
	}
	for _, f := range found {
		out = append(out, "canary: "+f.String())
	}
	return out
}
