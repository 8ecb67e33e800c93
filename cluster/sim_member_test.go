package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// Clean-up among partitions: five nodes, a leader's duty that takes the very steps of a real one, and networks that are
// cut for shorter and longer than the time after which a silent member is removed.
const simCleanUp = 4 * time.Second

func TestSimCleanUp(t *testing.T) {
	var mu sync.Mutex
	removed := 0
	t.Cleanup(func() {
		t.Logf("%d seeds from %d: %d members removed", *simSeeds, *simSeed, removed)
	})
	for i := range *simSeeds {
		seed := *simSeed + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				v := &village{world: newWorld(t, seed, 5), apart: map[[2]int]time.Time{}, mended: map[[2]int]mending{}}
				v.duty, v.pin = v.care, v.pinned
				v.live()
				mu.Lock()
				defer mu.Unlock()
				removed += v.removed
			})
		})
	}
}

// village is a world whose members come and go. Its first node is never cut off for long, so that it belongs to the
// cluster at the end.
type village struct {
	*world
	apart   map[[2]int]time.Time // since when a pair has not reached each other
	mended  map[[2]int]mending   // the last time that it was so, and is no more
	founded bool
	removed int
}

// pinned says whether one node's state knows another as a member: transport lets nobody else in.
func (v *village) pinned(at, of *simNode) bool {
	if _, founded := at.store.Cluster(); !founded || !at.up {
		return true
	}
	members := at.store.Members()
	if len(members) < 2 {
		return true // being founded
	}
	for _, m := range members {
		if m.ID == string(of.id) {
			return true
		}
	}
	return false
}

func (v *village) reach(a, b *simNode) bool {
	return a.up && b.up && !v.cut[[2]int{a.number, b.number}] && !v.cut[[2]int{b.number, a.number}]
}

// look notes since when pairs have been apart, keeps the wires as the directories have them, and demands three voters.
func (v *village) look(ctx context.Context) {
	for ctx.Err() == nil {
		v.mu.Lock()
		for _, a := range v.nodes {
			for _, b := range v.nodes {
				pair := [2]int{a.number, b.number}
				if v.reach(a, b) {
					if since, known := v.apart[pair]; known {
						v.mended[pair] = mending{since, time.Now()}
					}
					delete(v.apart, pair)
				} else if _, known := v.apart[pair]; !known {
					v.apart[pair] = time.Now()
				}
			}
			if a.up && v.founded && len(v.votersAt(a)) < fewestCleanUp {
				v.t.Errorf("%s knows %v as the voters", a.id, v.votersAt(a))
			}
		}
		v.mu.Unlock()
		v.wire()
		time.Sleep(50 * time.Millisecond)
	}
}

func (v *village) votersAt(n *simNode) (ids []string) {
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			ids = append(ids, string(s.ID))
		}
	}
	return ids
}

// care is censusDuty and reconcileServers over this world.
func (v *village) care(ctx context.Context, n *simNode, term uint64) {
	census := &census{probe: func(ctx context.Context, id string) (uint64, error) {
		for _, o := range v.nodes {
			v.mu.Lock()
			reached, store := string(o.id) == id && v.reach(n, o), o.store
			v.mu.Unlock()
			if reached {
				return store.Position().Index, nil
			}
		}
		select { // as a call that nobody answers
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
		return 0, errors.New("silent")
	}}
	census.begin()
	for ctx.Err() == nil {
		var ids []string
		members := n.store.Members()
		for _, m := range members {
			if m.ID != string(n.id) {
				ids = append(ids, m.ID)
			}
		}
		census.round(ctx, ids, n.store.Position().Index)
		settings, _ := n.store.Membership()
		e := &electorate{self: string(n.id), members: members, servers: map[string]raft.ServerSuffrage{}, settled: true, settings: settings, census: census, now: time.Now()}
		for _, s := range n.raft.GetConfiguration().Configuration().Servers {
			e.servers[string(s.ID)] = s.Suffrage
		}
		if members != nil {
			v.take(ctx, n, term, e.next())
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (v *village) take(ctx context.Context, n *simNode, term uint64, c voterChange) {
	switch c.do {
	case voterForget:
		_ = n.raft.RemoveServer(raft.ServerID(c.id), 0, time.Second).Error()
	case voterCleanUp:
		v.innocent(n, c.id)
		m, _ := n.store.Member(c.id)
		record, err := encodeRecord(fsm.Command{
			Kind: fsm.KindMemberRemove, Principal: "node/" + string(n.id), Term: term,
			Reads:  []fsm.Read{{Object: fsm.ObjMember(c.id), Index: m.Changed}, {Object: fsm.ObjMembership, Index: n.store.Index(fsm.ObjMembership)}},
			Body:   fsm.EncodeBody(fsm.KindMemberRemove, fsm.MemberRemove{ID: c.id}),
			Audits: []fsm.Audit{{Action: "cluster.remove", Resource: "node/" + c.id, Decision: fsm.Allowed}},
		})
		if err != nil {
			v.t.Error(err)
			return
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, _ = n.proposer.propose(ctx, record, nil)
	case voterNothing, voterAdd, voterPromote, voterDemote, voterYield:
	}
}

// mending is a time that two were apart.
type mending struct{ since, until time.Time }

// innocent are members that the leader could have reached within the time.
func (v *village) innocent(n *simNode, id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, o := range v.nodes {
		if string(o.id) != id {
			continue
		}
		const grain = 200 * time.Millisecond
		const unheard = 300*time.Millisecond + grain // a call that began before it was mended is given up, and decided on
		pair := [2]int{n.number, o.number}
		since, apart := v.apart[pair]
		if last := v.mended[pair]; !apart && time.Since(last.until) <= unheard {
			since, apart = last.since, true
		}
		if !apart || time.Since(since) < simCleanUp-grain {
			v.t.Errorf("%s removes %s, which it could reach until %v ago", n.id, id, time.Since(since))
		}
	}
}

// populate makes all of them members, and switches clean-up on.
func (v *village) populate() {
	v.found()
	b := fsmtest.Builder{Time: time.Now().UnixMilli()}
	commands := make([]fsm.Command, 0, 16)
	for _, n := range v.nodes[1:] {
		id := string(n.id)
		commands = append(commands,
			b.Command(fsm.KindJoinTokenPut, simPrincipal, "join-token", id, fsm.JoinTokenPut{JoinToken: fsm.JoinToken{
				Hash: fsmtest.HashOf("join " + id), Node: id, Fingerprint: fsmtest.Fingerprint(id), Expires: time.Now().Add(time.Hour).UnixMilli(),
			}}),
			b.Command(fsm.KindMemberJoin, "node/"+id, "join", id, fsm.MemberJoin{
				Token: fsmtest.HashOf("join " + id), Member: fsm.Member{ID: id, PeerAddr: id, Key: fsmtest.Key(id), SealKind: "pkcs11"},
			}),
			b.Command(fsm.KindMemberApprove, simPrincipal, "approve", id, fsm.MemberApprove{ID: id, Key: fsmtest.Key(id), MAC: []byte("m")}))
	}
	commands = append(commands, b.Command(fsm.KindMembershipSet, simPrincipal, "configure", "", fsm.MembershipSet{
		Membership: fsm.Membership{Stabilise: 1, CleanUpAfter: simCleanUp.Milliseconds()},
	}))
	for _, cmd := range commands {
		r, err := v.call(v.t.Context(), func(*fsm.Store) fsm.Command { return cmd })
		if err != nil || r.Code != fsm.CodeOK {
			v.t.Fatalf("set-up: kind %d: %v, code %d", cmd.Kind, err, r.Code)
		}
	}
}

func (v *village) live() {
	pin, duty := v.pin, v.duty
	v.world.pin, v.world.duty = nil, nil // nobody is a member yet
	for _, n := range v.nodes {
		v.start(n, true)
	}
	v.populate()
	for _, n := range v.nodes {
		v.crash(n)
	}
	v.world.pin, v.world.duty, v.founded = pin, duty, true
	for _, n := range v.nodes {
		v.start(n, false)
	}
	ctx, stop := context.WithCancel(v.t.Context())
	var others sync.WaitGroup
	others.Go(func() { v.look(ctx) })
	for i := range 3 {
		others.Go(func() { v.registers(ctx, fmt.Sprintf("c%d", i), rand.New(rand.NewPCG(v.seed, 100+uint64(i)))) })
	}
	for range 5 {
		v.disturb()
	}
	time.Sleep(5 * time.Second)
	before := v.acknowledged()
	time.Sleep(3 * time.Second)
	if v.acknowledged() == before {
		v.t.Error("liveness: no call was acknowledged in three seconds without a fault")
	}
	stop()
	others.Wait()
	v.judge()
	v.removed = len(v.nodes) - len(v.nodes[0].store.Members())
	for _, n := range v.nodes {
		v.crash(n)
	}
}

// disturb cuts off one or two nodes, or kills them, or lets one flap, for a while.
func (v *village) disturb() {
	hold := time.Duration(500+v.rng.IntN(9000)) * time.Millisecond
	first := 1 + v.rng.IntN(4)
	out := map[int]bool{first: true}
	if v.rng.IntN(2) == 0 {
		out[1+v.rng.IntN(4)] = true
	}
	cut := map[[2]int]bool{}
	for _, a := range v.nodes {
		for _, b := range v.nodes {
			if out[a.number] != out[b.number] {
				cut[[2]int{a.number, b.number}] = true
			}
		}
	}
	switch v.rng.IntN(4) {
	case 0, 1:
		v.setCut(cut)
		time.Sleep(hold)
	case 2:
		for number := range out {
			v.crash(v.nodes[number])
		}
		time.Sleep(hold)
	case 3: // never silent for long enough
		for end := time.Now().Add(hold); time.Now().Before(end); {
			v.setCut(cut)
			time.Sleep(simCleanUp / 2)
			v.setCut(map[[2]int]bool{})
			time.Sleep(simCleanUp / 2)
		}
	}
	v.setCut(map[[2]int]bool{})
	for _, n := range v.nodes {
		if !n.up {
			v.start(n, false)
		}
	}
	time.Sleep(time.Duration(500+v.rng.IntN(2000)) * time.Millisecond)
}
