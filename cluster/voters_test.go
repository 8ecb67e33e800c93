package cluster

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/fsm"
)

// town is an electorate as a table says: one letter for each member, upper case where it votes.
//
//	A..: a voter          a..: a follower without a vote
//	silent, demoted, …: by name
type town struct {
	voters, followers string // letters
	silent            string // letters that have not answered for an hour
	shaky             string // that have only just begun to keep up
	nonVoter          string // that are not to vote
	waiting           string // that are not approved
	quarantined       string
	gone              string // servers that are no members
	joined            string // members that are no servers
	dealt             string // who holds shares; "": nobody
	unsettled         bool
	cleanUp           bool
	self              string // default A
	stabilise         int64  // ms, set by people; -1: not set
}

func (w town) electorate(now time.Time) *electorate {
	e := &electorate{self: "a", servers: map[string]raft.ServerSuffrage{}, wait: stabilise, now: now, settled: !w.unsettled}
	if w.self != "" {
		e.self = w.self
	}
	has := func(set string, r rune) bool { return slices.Contains([]rune(set), r) }
	e.census = &census{people: map[string]sighting{}}
	for _, r := range w.voters + w.followers + w.joined {
		id := string(r)
		e.members = append(e.members, fsm.Member{
			ID: id, Approved: !has(w.waiting, r), Quarantined: has(w.quarantined, r), NonVoter: has(w.nonVoter, r),
		})
		s := sighting{applied: 9, steady: now.Add(-time.Hour), rounds: 99}
		switch {
		case has(w.silent, r):
			s = sighting{silent: now.Add(-time.Hour)}
		case has(w.shaky, r):
			s = sighting{applied: 9, steady: now.Add(-time.Second), rounds: 4}
		}
		e.census.people[id] = s
	}
	for _, r := range w.voters {
		e.servers[string(r)] = raft.Voter
	}
	for _, r := range w.followers {
		e.servers[string(r)] = raft.Nonvoter
	}
	for _, r := range w.gone {
		e.servers[string(r)] = raft.Voter
	}
	for _, r := range w.dealt {
		e.deal.Members = append(e.deal.Members, string(r))
	}
	e.deal.Provers, e.deal.Threshold = e.deal.Members, len(w.dealt)/2+1
	if w.dealt == "" {
		e.deal = fsm.Deal{}
	}
	if w.cleanUp {
		e.settings = fsm.Membership{CleanUpAfter: time.Minute.Milliseconds(), Changed: 1}
	}
	if w.stabilise > 0 {
		e.settings = fsm.Membership{Stabilise: w.stabilise, Changed: 1}
	}
	return e
}

func TestNextVoterChange(t *testing.T) {
	for name, tc := range map[string]struct {
		town town
		want voterChange
	}{
		"nothing to do":           {town{voters: "abc", dealt: "abc"}, voterChange{}},
		"a removed server leaves": {town{voters: "abc", gone: "d"}, voterChange{voterForget, "d"}},
		"before anything else":    {town{voters: "abc", gone: "d", joined: "e"}, voterChange{voterForget, "d"}},
		"not by itself":           {town{voters: "bc", gone: "a"}, voterChange{voterYield, "a"}},
		"a joined node follows":   {town{voters: "abc", joined: "d", waiting: "d"}, voterChange{voterAdd, "d"}},

		"a steady node votes":             {town{voters: "abc", followers: "d"}, voterChange{voterPromote, "d"}},
		"not before its approval":         {town{voters: "abc", followers: "d", waiting: "d"}, voterChange{}},
		"not in quarantine":               {town{voters: "abc", followers: "d", quarantined: "d"}, voterChange{}},
		"not one that is not to":          {town{voters: "abc", followers: "d", nonVoter: "d"}, voterChange{}},
		"not at once":                     {town{voters: "abc", followers: "d", shaky: "d"}, voterChange{}},
		"the first three do not wait":     {town{voters: "ab", followers: "d", shaky: "d"}, voterChange{voterPromote, "d"}},
		"unless people say so":            {town{voters: "ab", followers: "d", shaky: "d", stabilise: 60_000}, voterChange{}},
		"as long as people say":           {town{voters: "abc", followers: "d", shaky: "d", stabilise: 500}, voterChange{voterPromote, "d"}},
		"not a silent one":                {town{voters: "abc", followers: "d", silent: "d"}, voterChange{}},
		"four of which three answer":      {town{voters: "abc", followers: "d", silent: "b"}, voterChange{voterPromote, "d"}},
		"not where too few others answer": {town{voters: "abc", followers: "d", silent: "bc"}, voterChange{}},

		"demoted once the shares are the others'": {town{voters: "abcd", nonVoter: "d", dealt: "abc"}, voterChange{voterDemote, "d"}},
		"not while it holds one":                  {town{voters: "abcd", nonVoter: "d", dealt: "abcd"}, voterChange{}},
		"not while shares are dealt":              {town{voters: "abcd", nonVoter: "d", dealt: "abc", unsettled: true}, voterChange{}},
		"not where too few are left":              {town{voters: "abcd", nonVoter: "d", dealt: "abc", silent: "bc"}, voterChange{}},
		"a silent one as well":                    {town{voters: "abcd", nonVoter: "d", dealt: "abc", silent: "d"}, voterChange{voterDemote, "d"}},
		"the leader not by itself":                {town{voters: "abcd", nonVoter: "a", dealt: "bcd"}, voterChange{voterYield, "a"}},
		"never the last one":                      {town{voters: "a", nonVoter: "a"}, voterChange{}},

		"clean-up is off":                     {town{voters: "abcd", silent: "d"}, voterChange{}},
		"clean-up leaves three":               {town{voters: "abcd", silent: "d", dealt: "abcd", cleanUp: true}, voterChange{voterCleanUp, "d"}},
		"not two":                             {town{voters: "abc", silent: "c", dealt: "abc", cleanUp: true}, voterChange{}},
		"two of five, one after the other":    {town{voters: "abcde", silent: "de", dealt: "abcde", cleanUp: true}, voterChange{voterCleanUp, "d"}},
		"and then the other":                  {town{voters: "abce", silent: "e", dealt: "abcde", cleanUp: true}, voterChange{voterCleanUp, "e"}},
		"not three of five":                   {town{voters: "abcde", silent: "cde", cleanUp: true}, voterChange{}},
		"not half":                            {town{voters: "abcd", silent: "cd", cleanUp: true}, voterChange{}},
		"not where shares would be missing":   {town{voters: "abcd", silent: "d", dealt: "dxy", cleanUp: true}, voterChange{}},
		"a follower too":                      {town{voters: "abc", followers: "d", nonVoter: "d", silent: "d", dealt: "abc", cleanUp: true}, voterChange{voterCleanUp, "d"}},
		"not one that waits for its approval": {town{voters: "abc", followers: "d", waiting: "d", silent: "d", dealt: "abc", cleanUp: true}, voterChange{}},
		"not oneself":                         {town{voters: "abcd", silent: "a", dealt: "abcd", cleanUp: true}, voterChange{}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.town.electorate(time.Now()).next(); got != tc.want {
				t.Errorf("%+v, want %+v", got, tc.want)
			}
		})
	}
}

// However many are silent, clean-up goes on only while those who answer could have elected a leader in the configuration
// before, and it never goes below three.
func TestCleanUpKeepsAQuorum(t *testing.T) {
	for size := 1; size <= 7; size++ {
		for dead := range size {
			w := town{voters: "abcdefg"[:size], silent: "abcdefg"[size-dead : size], cleanUp: true}
			e := w.electorate(time.Now())
			for {
				c := e.next()
				if c.do == voterNothing {
					break
				}
				if c.do != voterCleanUp {
					t.Fatalf("%d voters, %d silent: %+v", size, dead, c)
				}
				if size-dead < quorum(len(e.servers)) {
					t.Errorf("%d voters, %d silent: removes %s without a quorum", size, dead, c.id)
				}
				delete(e.servers, c.id)
				e.members = slices.DeleteFunc(e.members, func(m fsm.Member) bool { return m.ID == c.id })
			}
			want := size
			if size-dead >= quorum(size) {
				want = max(size-dead, min(size, 3))
			}
			if len(e.servers) != want {
				t.Errorf("%d voters, %d silent: %d are left (%v), want %d", size, dead, len(e.servers), slices.Sorted(maps.Keys(e.servers)), want)
			}
		}
	}
}

// What counts is how long the leader has asked in vain, not how much time has passed.
func TestCensus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down, stall := false, time.Duration(0)
		applied := uint64(100)
		c := &census{probe: func(ctx context.Context, _ string) (uint64, error) {
			time.Sleep(stall)
			if ctx.Err() != nil {
				return 0, ctx.Err()
			}
			if down {
				return 0, errors.New("down")
			}
			return applied, nil
		}}
		c.begin()
		rounds := func(n int) {
			for range n {
				c.round(t.Context(), []string{"n2"}, 100)
				time.Sleep(time.Second)
			}
		}
		steady := func(d time.Duration) bool { return c.steadyFor("n2", d, time.Now()) }
		rounds(1)
		if steady(0) {
			t.Error("steady after one answer")
		}
		rounds(10)
		if !steady(10*time.Second) || steady(12*time.Second) {
			t.Error("steady for eleven seconds")
		}
		applied = 100 - catchUpSlack - 1
		rounds(1)
		if steady(0) || !c.answers("n2") {
			t.Error("one that lags is steady, or silent")
		}
		applied, down = 100, true
		rounds(20)
		if d := c.silentFor("n2", time.Now()); d != 20*time.Second || c.answers("n2") || steady(0) {
			t.Errorf("silent for %v, want 20s", d)
		}
		time.Sleep(24 * time.Hour) // this process is stopped between two rounds
		rounds(2)
		if d := c.silentFor("n2", time.Now()); d > 3*time.Second {
			t.Errorf("the leader's own absence counts as silence: %v", d)
		}
		down, stall = false, 24*time.Hour // or in the middle of one
		rounds(1)
		stall = 0
		if d := c.silentFor("n2", time.Now()); d > 3*time.Second {
			t.Errorf("the leader's own absence counts as silence: %v", d)
		}
		down = true
		rounds(3)
		down = false
		rounds(1)
		if c.silentFor("n2", time.Now()) != 0 || steady(0) {
			t.Error("one that is back is silent, or steady at once")
		}
	})
}
