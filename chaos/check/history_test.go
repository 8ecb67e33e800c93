package check

import (
	"testing"
	"time"

	"github.com/hizo/hizo/chaos/history"
)

// at makes a call that took from..to milliseconds.
func at(e history.Event, from, to int) history.Event {
	e.Call, e.Return = time.Duration(from)*time.Millisecond, time.Duration(to)*time.Millisecond
	if e.Outcome == "" {
		e.Outcome = history.OK
	}
	e.Key = "v/k"
	return e
}

func put(version uint32, value string) history.Event {
	return history.Event{Kind: history.Put, Version: version, Value: value}
}

func reveal(version uint32, value string) history.Event {
	return history.Event{Kind: history.Reveal, Version: version, Value: value}
}

func cas(demand, version uint32, value string) history.Event {
	return history.Event{Kind: history.CAS, CAS: demand, Version: version, Value: value}
}

func unknown(e history.Event) history.Event {
	e.Outcome, e.Version = history.Unknown, 0
	return e
}

func conflict(e history.Event) history.Event {
	e.Outcome, e.Reason, e.Version = history.No, "CONFLICT", 0
	return e
}

func TestLinearizable(t *testing.T) {
	for name, tc := range map[string]struct {
		events []history.Event
		broken bool
	}{
		"in order":                         {events: []history.Event{at(put(1, "a"), 0, 1), at(reveal(1, "a"), 2, 3)}},
		"before the first write":           {events: []history.Event{at(reveal(0, ""), 0, 1), at(put(1, "a"), 2, 3)}},
		"stale read":                       {broken: true, events: []history.Event{at(put(1, "a"), 0, 1), at(put(2, "b"), 2, 3), at(reveal(1, "a"), 4, 5)}},
		"stale read while the write runs":  {events: []history.Event{at(put(1, "a"), 0, 1), at(put(2, "b"), 2, 9), at(reveal(1, "a"), 4, 5)}},
		"lost after its acknowledgement":   {broken: true, events: []history.Event{at(put(1, "a"), 0, 1), at(reveal(0, ""), 2, 3)}},
		"applied twice":                    {broken: true, events: []history.Event{at(put(1, "a"), 0, 1), at(reveal(2, "a"), 2, 3)}},
		"a version that nobody wrote":      {broken: true, events: []history.Event{at(put(1, "a"), 0, 1), at(put(3, "b"), 2, 3)}},
		"another value":                    {broken: true, events: []history.Event{at(put(1, "a"), 0, 1), at(reveal(1, "b"), 2, 3)}},
		"unknown, had no effect":           {events: []history.Event{at(unknown(put(0, "a")), 0, 1), at(reveal(0, ""), 2, 3)}},
		"unknown, took effect":             {events: []history.Event{at(unknown(put(0, "a")), 0, 1), at(reveal(1, "a"), 2, 3)}},
		"unknown, took effect later":       {events: []history.Event{at(unknown(put(0, "a")), 0, 1), at(reveal(0, ""), 2, 3), at(reveal(1, "a"), 4, 5)}},
		"unknown, took effect and did not": {broken: true, events: []history.Event{at(unknown(put(0, "a")), 0, 1), at(reveal(1, "a"), 2, 3), at(reveal(0, ""), 4, 5)}},
		"compare-and-set":                  {events: []history.Event{at(put(1, "a"), 0, 1), at(cas(1, 2, "b"), 2, 3), at(conflict(cas(1, 0, "c")), 4, 5)}},
		"compare-and-set passed wrongly":   {broken: true, events: []history.Event{at(put(1, "a"), 0, 1), at(put(2, "b"), 2, 3), at(cas(1, 3, "c"), 4, 5)}},
		"conflict without a reason":        {broken: true, events: []history.Event{at(put(1, "a"), 0, 1), at(conflict(cas(1, 0, "c")), 4, 5)}},
		"two won one compare-and-set":      {broken: true, events: []history.Event{at(cas(0, 1, "a"), 0, 5), at(cas(0, 1, "b"), 0, 5)}},
	} {
		t.Run(name, func(t *testing.T) {
			checked, violations := Linearizable(tc.events, time.Minute)
			if (len(violations) > 0) != tc.broken || checked != len(tc.events) {
				t.Errorf("checked %d of %d, violations %v", checked, len(tc.events), violations)
			}
		})
	}
}

func TestUndecidedIsNoPass(t *testing.T) {
	var events []history.Event
	for i := range 400 { // all at once, and the read fits none of them: every order has to be tried
		events = append(events, at(unknown(put(0, string(rune('a'+i)))), 0, 1000))
	}
	events = append(events, at(reveal(200, "nowhere"), 0, 1000))
	if _, violations := Linearizable(events, 50*time.Millisecond); len(violations) == 0 {
		t.Error("a search that did not end passed")
	}
}

func TestRevocation(t *testing.T) {
	use := func(outcome history.Outcome, reason string, from, to int) history.Event {
		return at(history.Event{Kind: history.UseOf, Token: "t", Outcome: outcome, Reason: reason}, from, to)
	}
	revoke := at(history.Event{Kind: history.Revoke, Token: "t"}, 10, 20)
	for name, tc := range map[string]struct {
		events  []history.Event
		decided int
		broken  bool
	}{
		"before":              {events: []history.Event{use(history.OK, "", 0, 5), revoke}},
		"while it is revoked": {events: []history.Event{use(history.OK, "", 15, 30), revoke}},
		"after":               {broken: true, events: []history.Event{revoke, use(history.OK, "", 21, 22)}},
		"refused after":       {decided: 1, events: []history.Event{revoke, use(history.No, "UNAUTHENTICATED", 21, 22)}},
		"no answer after":     {events: []history.Event{revoke, use(history.No, "UNREACHABLE", 21, 22)}},
		"unknown revocation": {events: []history.Event{
			at(history.Event{Kind: history.Revoke, Token: "t", Outcome: history.Unknown}, 10, 20), use(history.OK, "", 21, 22),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			decided, violations := Revocation(tc.events)
			if (len(violations) > 0) != tc.broken || decided != tc.decided {
				t.Errorf("decided %d, violations %v", decided, violations)
			}
		})
	}
}

func TestRequests(t *testing.T) {
	a, b := at(put(1, "a"), 0, 1), at(put(1, "b"), 2, 3)
	if v := Requests([]history.Event{a}); len(v) != 0 {
		t.Errorf("one request: %v", v)
	}
	if v := Requests([]history.Event{a, b}); len(v) != 1 {
		t.Errorf("one version for two requests: %v", v)
	}
}
