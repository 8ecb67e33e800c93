package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
)

// total of all seeds of one call.
type total struct {
	seeds, violated  int
	set, took, comes map[string]int
}

func (t *total) add(r *result) {
	if t.set == nil {
		t.set, t.took, t.comes = map[string]int{}, map[string]int{}, map[string]int{}
	}
	t.seeds++
	if len(r.Violations) > 0 {
		t.violated++
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
	fmt.Fprintf(w, "%d seeds, %d with violations. Faults set, and how often they took effect:\n", t.seeds, t.violated)
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
