package cluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/fsm"
)

const (
	stabilise     = 5 * time.Second // default: several times what an election takes
	fewestCleanUp = 3               // voters that a clean-up leaves at least
)

// voterChange is one step of Raft's configuration, or of the members, towards what the members of the state say.
type voterChange struct {
	do voterStep
	id string
}

type voterStep int

const (
	voterNothing voterStep = iota
	voterForget            // RemoveServer: it is no member any more
	voterAdd               // AddNonvoter
	voterPromote           // AddVoter
	voterDemote            // DemoteVoter
	voterYield             // this leader is to lose its vote: another one has to lead first
	voterCleanUp           // remove a member that is silent for too long
)

// electorate is what a leader decides by about votes: the members of the state, Raft's configuration, and what it has
// heard itself. It does nothing; a simulated cluster uses it as well.
type electorate struct {
	self     string
	members  []fsm.Member
	servers  map[string]raft.ServerSuffrage
	deal     fsm.Deal // in force; zero: none is
	settled  bool     // no deal is under way, and the one in force is that of the voters to be
	settings fsm.Membership
	wait     time.Duration // before a vote, where settings do not say
	census   *census
	now      time.Time
}

func quorum(voters int) int { return voters/2 + 1 }

func (e *electorate) voters() (ids []string) {
	for id, s := range e.servers {
		if s == raft.Voter {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// enough says whether of these voters enough answer.
func (e *electorate) enough(voters []string, needed int) bool {
	answer := 0
	for _, id := range voters {
		if id == e.self || e.census.answers(id) {
			answer++
		}
	}
	return answer >= needed
}

func without(ids []string, id string) []string {
	return slices.DeleteFunc(slices.Clone(ids), func(o string) bool { return o == id })
}

// next is the one thing to do now.
func (e *electorate) next() voterChange {
	member := make(map[string]fsm.Member, len(e.members))
	for _, m := range e.members {
		member[m.ID] = m
	}
	voters := e.voters()
	for _, id := range sortedKeys(e.servers) {
		if _, ok := member[id]; ok {
			continue
		}
		if id == e.self { // removing oneself needs another leader
			return voterChange{voterYield, id}
		}
		return voterChange{voterForget, id}
	}
	for _, m := range e.members {
		if _, there := e.servers[m.ID]; !there {
			return voterChange{voterAdd, m.ID}
		}
	}
	for _, m := range e.members {
		if e.servers[m.ID] != raft.Voter || !m.NonVoter {
			continue
		}
		// The shares first: a voter without one is as good as the others, a set of shares that is not the voters' is not.
		if rest := without(voters, m.ID); slices.Contains(e.deal.Members, m.ID) || !e.settled || len(rest) == 0 || !e.enough(rest, quorum(len(rest))) {
			continue
		}
		if m.ID == e.self {
			return voterChange{voterYield, m.ID}
		}
		return voterChange{voterDemote, m.ID}
	}
	for _, m := range e.members {
		if e.servers[m.ID] == raft.Voter || !trusted(m) || m.NonVoter {
			continue
		}
		if e.census.steadyFor(m.ID, e.stabilise(len(voters)), e.now) && e.enough(append(voters, m.ID), quorum(len(voters)+1)) {
			return voterChange{voterPromote, m.ID}
		}
	}
	return e.cleanUp(voters)
}

// stabilise is how long a member has to keep up before it gets a vote. While there are fewer than three voters the
// default is not waited for: no loss is survived before there are.
func (e *electorate) stabilise(voters int) time.Duration {
	switch {
	case e.settings.Changed != 0:
		return time.Duration(e.settings.Stabilise) * time.Millisecond
	case voters < minNodes:
		return 0
	}
	return e.wait
}

// cleanUp finds a member that has been silent for so long that it is removed. The voters that stay are three at least,
// enough of them answer that today's configuration, with the silent one, goes on as well, and so many of those have
// proven their shares that they open the root key until the next deal.
func (e *electorate) cleanUp(voters []string) voterChange {
	after := time.Duration(e.settings.CleanUpAfter) * time.Millisecond
	if after <= 0 || !e.enough(e.deal.Provers, e.deal.Threshold) {
		return voterChange{}
	}
	for _, m := range e.members {
		if m.ID == e.self || !m.Approved || e.census.silentFor(m.ID, e.now) < after {
			continue
		}
		rest := without(voters, m.ID)
		if len(rest) < len(voters) && len(rest) < fewestCleanUp || !e.enough(rest, quorum(len(voters))) {
			continue
		}
		return voterChange{voterCleanUp, m.ID}
	}
	return voterChange{}
}

// QuorumError says that a change of the voters would leave too few of them that answer.
type QuorumError struct {
	Silent         []string // voters that would stay and do not answer
	Answer, Needed int      // of those that would stay
	DemoteFirst    bool     // then they are enough
}

func (e *QuorumError) Error() string {
	switch {
	case e.DemoteFirst:
		return fmt.Sprintf("other voters that answer: %d, and as long as it counts deciding takes %d (silent: %s): demote it first (hizo cluster demote)",
			e.Answer, e.Needed, strings.Join(e.Silent, ", "))
	case len(e.Silent) > 0:
		return fmt.Sprintf("other voters that answer: %d, and it takes %d (silent: %s): bring them back first, or remove those that are gone for good",
			e.Answer, e.Needed, strings.Join(e.Silent, ", "))
	}
	return fmt.Sprintf("other voters: %d, and it takes %d: give another member a vote first (hizo cluster promote, hizo cluster join-token)", e.Answer, e.Needed)
}

// LoseVote says whether the cluster goes on if a member stops voting: enough of the other voters answer now, for the
// configuration as it will be and for the shares that are dealt before. removed: it is not let in any more from one moment
// to the other, so the others have to be enough for the configuration of today as well. The error is a *QuorumError.
func (n *Node) LoseVote(ctx context.Context, id string, removed bool) error {
	voters := n.voters()
	if !slices.Contains(voters, id) {
		return nil
	}
	rest := without(voters, id)
	e := &QuorumError{Needed: max(1, quorum(len(rest)))}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, other := range rest {
		if other == n.cfg.ID {
			mu.Lock()
			e.Answer++
			mu.Unlock()
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 2*censusCall)
			defer cancel()
			_, err := n.askApplied(ctx, other)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				e.Silent = append(e.Silent, other)
			} else {
				e.Answer++
			}
		})
	}
	wg.Wait()
	slices.Sort(e.Silent)
	if removed {
		e.DemoteFirst = e.Answer >= e.Needed
		e.Needed = max(e.Needed, quorum(len(voters)))
	} else if cl, _ := n.store.Cluster(); cl.NodeEpoch != 0 && len(rest) > 1 {
		e.Needed = max(e.Needed, provesNeeded(len(rest), quorum(len(rest))))
	}
	if e.Answer >= e.Needed {
		return nil
	}
	return e
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Stabilise is the default of how long a member has to keep up before it becomes a voter.
func (n *Node) Stabilise() time.Duration { return n.cfg.Stabilise }
