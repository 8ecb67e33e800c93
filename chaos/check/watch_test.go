package check

import (
	"strings"
	"testing"

	"github.com/hizo/hizo/chaos/history"
)

func TestWatched(t *testing.T) {
	all := []place{{"v/a", 1}, {"v/b", 1}, {"v/a", 2}, {"v/x", 1}, {"v/b", 2}, {"v/a", 3}}
	told := func(key string, version uint32) history.Event {
		return history.Event{Kind: history.Told, Key: "v/" + key, Version: version}
	}
	again, reset := history.Event{Kind: history.WatchAgain}, history.Event{Kind: history.WatchReset}
	for name, tc := range map[string]struct {
		events []history.Event
		broken string
	}{
		"whole":                      {events: []history.Event{told("a", 1), told("b", 1), told("a", 2), told("b", 2), told("a", 3)}},
		"from the middle":            {events: []history.Event{told("a", 2), told("b", 2), told("a", 3)}},
		"one secret":                 {events: []history.Event{told("a", 1), told("a", 2), told("a", 3)}},
		"told again after a break":   {events: []history.Event{told("a", 1), told("b", 1), again, told("b", 1), told("a", 2), told("b", 2), told("a", 3)}},
		"told again without a break": {broken: "after what came later", events: []history.Event{told("a", 1), told("b", 1), told("b", 1), told("a", 2), told("b", 2), told("a", 3)}},
		"out of order":               {broken: "left out", events: []history.Event{told("a", 1), told("a", 2), told("b", 1), told("b", 2), told("a", 3)}},
		"left out":                   {broken: "left out version 2 of v/a", events: []history.Event{told("a", 1), told("b", 1), told("b", 2), told("a", 3)}},
		"left out at a break":        {broken: "left out version 2 of v/a", events: []history.Event{told("a", 1), told("b", 1), again, told("b", 2), told("a", 3)}},
		"said to start over":         {events: []history.Event{told("a", 1), told("b", 1), reset, told("b", 2), told("a", 3)}},
		"end left out":               {broken: "never told version 3 of v/a", events: []history.Event{told("a", 1), told("b", 1), told("a", 2), told("b", 2)}},
		"not in the log":             {broken: "does not have", events: []history.Event{told("a", 1), told("b", 1), told("a", 4)}},
		"ended":                      {broken: "ended with", events: []history.Event{told("a", 1), {Kind: history.WatchEnd, Reason: "denied"}}},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range tc.events {
				tc.events[i].ID = i
			}
			_, resets, violation := watched(all, tc.events)
			if (violation == "") != (tc.broken == "") || !strings.Contains(violation, tc.broken) || name == "said to start over" && resets != 1 {
				t.Errorf("%q, %d resets", violation, resets)
			}
		})
	}
}
