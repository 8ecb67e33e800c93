package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// total of all seeds of one call.
type total struct {
	seeds, violated                                     int
	seconds                                             float64
	calls, unknown, linear, revoked, rotated            int
	leased, backups, told, records, notes, five, probed int
	disks, replicas                                     int
	captured                                            int64
	recovered                                           []float64
	set, took, comes                                    map[string]int
}

// addUp prints the total of a file that -results has written.
func addUp(path string, w io.Writer) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var t total
	for line := range bytes.Lines(data) {
		var r result
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		t.add(&r)
		for _, v := range r.Violations {
			fmt.Fprintf(w, "seed %d: VIOLATION %s\n", r.Seed, v)
		}
	}
	t.print(w)
	return nil
}

func (t *total) add(r *result) {
	if t.set == nil {
		t.set, t.took, t.comes = map[string]int{}, map[string]int{}, map[string]int{}
	}
	t.seeds++
	if len(r.Violations) > 0 {
		t.violated++
	}
	for kind, n := range r.Calls {
		t.calls += n
		if strings.HasSuffix(kind, "/unknown") {
			t.unknown += n
		}
	}
	t.seconds += r.Seconds
	t.linear, t.revoked, t.rotated, t.leased, t.told = t.linear+r.Linear, t.revoked+r.Revoked, t.rotated+r.Rotated, t.leased+r.Leased, t.told+r.Told
	t.backups += r.Backups
	t.records, t.notes, t.replicas, t.captured = t.records+int(r.Records), t.notes+r.Notes, t.replicas+r.States, t.captured+r.Captured
	t.recovered = append(t.recovered, r.Recovered)
	for count, is := range map[*int]bool{&t.five: r.World.Nodes == 5, &t.probed: r.World.Probed, &t.disks: r.World.Disks} {
		if is {
			*count++
		}
	}
	for into, from := range map[*map[string]int]map[string]int{&t.set: r.Faults, &t.took: r.Took, &t.comes: r.Effects} {
		for name, n := range from {
			(*into)[name] += n
		}
	}
}

// print says what the faults came to. One that was set and never took effect has proven nothing, and is named.
func (t *total) print(w io.Writer) {
	if t.seeds < 2 {
		return
	}
	slices.Sort(t.recovered)
	fmt.Fprintf(w, "%d seeds (%d of five nodes, %d with probes, %d on disks that obey), %.0f s with faults, %d with violations.\n",
		t.seeds, t.five, t.probed, t.disks, t.seconds, t.violated)
	fmt.Fprintf(w, "%d calls (%d unknown, %d in order), %d refusals after revocation, %d rotations, %d leases, %d backups, %d events told, %d audit records, %d checkpoints, %d replicas equal, %.1f GB captured.\n",
		t.calls, t.unknown, t.linear, t.revoked, t.rotated, t.leased, t.backups, t.told, t.records, t.notes, t.replicas, float64(t.captured)/1e9)
	fmt.Fprintf(w, "Whole again after %.1f s (median), %.1f s at most. Faults set, and how often they took effect:\n",
		t.recovered[len(t.recovered)/2], t.recovered[len(t.recovered)-1])
	for _, name := range slices.Sorted(maps.Keys(t.set)) {
		note := ""
		if t.took[name] == 0 {
			note = "  NEVER TOOK EFFECT"
		}
		fmt.Fprintf(w, "  %-22s %4d  %4d%s\n", name, t.set[name], t.took[name], note)
	}
	for _, what := range slices.Sorted(maps.Keys(t.comes)) {
		fmt.Fprintf(w, "    %s: %d\n", what, t.comes[what])
	}
}
