package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hizo/hizo/api/audit"
	"github.com/hizo/hizo/chaos/history"
)

// place is one version of one secret.
type place struct {
	key     string
	version uint32
}

// puts are the versions that were put into a vault, in the order of the log. A retry that was answered from memory has a
// record of its own, and changed nothing.
func puts(leaves [][]byte, vault string) (list []place) {
	seen := map[place]bool{}
	for _, leaf := range leaves {
		r, err := audit.ParseLeaf(leaf)
		if err == nil && r.Action == "put" && strings.HasPrefix(r.Resource, vault+"/") && r.Version != 0 &&
			audit.DecisionText(r.Decision) == "allowed" && audit.OutcomeText(r.Outcome) == "ok" {
			if p := (place{r.Resource, r.Version}); !seen[p] {
				seen[p] = true
				list = append(list, p)
			}
		}
	}
	return list
}

// Watches checks that every watch told each put that it is about, in the order of the log: it may tell again what it told
// before only after it was opened again, and leave out something only where it said that one has to start over. told is
// the number of events, resets how often a watch started over.
func Watches(export []byte, vault string, events []history.Event) (told, resets int, violations []string) {
	leaves, err := exported(export)
	if err != nil {
		return 0, 0, []string{fmt.Sprintf("watch: %v", err)}
	}
	all := puts(leaves, vault)
	byWatch := map[string][]history.Event{}
	for _, e := range events {
		switch e.Kind {
		case history.WatchStart, history.WatchAgain, history.WatchReset, history.Told, history.WatchEnd:
			byWatch[e.Client] = append(byWatch[e.Client], e)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byWatch)) {
		n, r, violation := watched(all, byWatch[name])
		told, resets = told+n, resets+r
		if violation != "" {
			violations = append(violations, "watch: "+name+" "+violation)
		}
	}
	return told, resets, violations
}

// watched follows one watch through the log.
func watched(all []place, events []history.Event) (told, resets int, violation string) {
	about := map[string]bool{} // what the watch is about shows in what it tells
	for _, e := range events {
		if e.Kind == history.Told {
			about[e.Key] = true
		}
	}
	order := slices.DeleteFunc(slices.Clone(all), func(p place) bool { return !about[p.key] })
	at := map[place]int{}
	for i, p := range order {
		at[p] = i
	}
	slices.SortStableFunc(events, func(a, b history.Event) int { return a.ID - b.ID })
	newest, last, back, skip := -1, -1, false, true // it begins anywhere
	for _, e := range events {
		switch e.Kind {
		case history.WatchAgain:
			back = true
		case history.WatchReset:
			resets++
			skip = true
		case history.WatchEnd:
			return told, resets, "ended with " + e.Reason
		case history.Told:
			told++
			i, ok := at[place{e.Key, e.Version}]
			switch {
			case !ok:
				return told, resets, fmt.Sprintf("told version %d of %s, which the log does not have", e.Version, e.Key)
			case i == last+1, skip && i > newest, back && i <= newest:
			case i <= newest:
				return told, resets, fmt.Sprintf("told version %d of %s after what came later (event %d)", e.Version, e.Key, e.ID)
			default:
				return told, resets, fmt.Sprintf("left out version %d of %s before event %d", order[last+1].version, order[last+1].key, e.ID)
			}
			back, skip = false, false
			last, newest = i, max(newest, i)
		}
	}
	if newest != len(order)-1 {
		return told, resets, fmt.Sprintf("never told version %d of %s", order[newest+1].version, order[newest+1].key)
	}
	return told, resets, ""
}
