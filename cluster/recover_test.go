package cluster_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/crypto/seal/software"
	"github.com/hizo/hizo/fsm"
)

// stopped is a node that hizod recover looks at.
type stopped struct {
	*cluster.Offline
	close func()
}

// offline opens a stopped node as hizod recover does.
func offline(t *testing.T, n *clustertest.Node) stopped {
	t.Helper()
	s, err := software.Open(filepath.Join(n.Dir, "seal"))
	if err != nil {
		t.Fatal(err)
	}
	o, err := cluster.OpenOffline(t.Context(), n.ID, filepath.Join(n.Dir, "data"), s, nil)
	if err != nil {
		t.Fatalf("open %s: %v", n.ID, err)
	}
	end := sync.OnceFunc(func() {
		if err := errors.Join(o.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	return stopped{o, end}
}

// lie has a report say that its log ends earlier.
func lie(t *testing.T, report string) string {
	t.Helper()
	const prefix = "hizorecover1_"
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(report, prefix))
	said := map[string]any{}
	if err == nil {
		err = json.Unmarshal(b, &said)
	}
	said["LastIndex"] = 1
	if b, err2 := json.Marshal(said); errors.Join(err, err2) == nil {
		return prefix + base64.RawURLEncoding.EncodeToString(b)
	}
	t.Fatal(err)
	return ""
}

func note(c *clustertest.Cluster, i int) {
	c.T.Helper()
	c.Must(fsm.Command{Kind: fsm.KindRecord, Principal: "user/alice", Audits: []fsm.Audit{{
		Action: "list", Resource: fmt.Sprintf("vaults/%d", i), Decision: fsm.Allowed,
	}}})
}

// Three of five are lost. The survivor with the newest log goes on alone, says so on record, has the operators unseal it
// and takes the other survivor back, to which the new root key comes with a deal. What any survivor knew is there. One
// that was given up and comes back is nobody.
func TestRecoverFromLostQuorum(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{Nodes: 5})
	all := slices.Clone(c.Nodes)
	for i := range 20 {
		note(c, i)
	}
	// n1 and n2 are left; n2 misses the end, which n1, n3 and n4 acknowledged.
	newest, other, lost := all[0], all[1], all[2:]
	c.Stop(other)
	for i := 20; i < 40; i++ {
		note(c, i)
	}
	c.Await("the log to arrive", func() bool { return newest.Store().Position() == c.Leader().Store().Position() })
	before, _ := newest.Store().Cluster()
	for _, n := range append(lost, newest) {
		c.Kill(n)
	}

	behind := offline(t, other)
	ahead := offline(t, newest)
	if f := ahead.Found; f.Node != "n1" || len(f.Voters) != 5 || len(f.Members) != 5 || f.LastIndex <= behind.Found.LastIndex {
		t.Fatalf("found %+v, and on the other %+v", f, behind.Found)
	}
	reportOf := func(o stopped) string {
		t.Helper()
		text, err := o.Report(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good := cluster.RecoverRequest{Reports: []string{reportOf(behind)}, GiveUp: []string{"n3", "n4", "n5"}, By: "alice", Reason: "fire in hall 2", Now: time.Now()}
	ofLost := offline(t, lost[0])
	for what, step := range map[string]struct {
		on     stopped
		change func(*cluster.RecoverRequest)
		want   error
	}{
		"another log is newer":  {behind, func(r *cluster.RecoverRequest) { r.Reports = []string{reportOf(ahead)} }, cluster.ErrNotNewest},
		"a member is not named": {ahead, func(r *cluster.RecoverRequest) { r.GiveUp = r.GiveUp[1:] }, cluster.ErrRecoveryPlan},
		"a majority is left": {ahead, func(r *cluster.RecoverRequest) {
			r.Reports, r.GiveUp = append(r.Reports, reportOf(ofLost)), r.GiveUp[1:]
		}, cluster.ErrQuorumThere},
		"nobody is given up":       {ahead, func(r *cluster.RecoverRequest) { r.GiveUp = nil }, cluster.ErrRecoveryPlan},
		"a stranger is given up":   {ahead, func(r *cluster.RecoverRequest) { r.GiveUp = append(r.GiveUp, "n9") }, cluster.ErrRecoveryPlan},
		"a survivor is given up":   {ahead, func(r *cluster.RecoverRequest) { r.GiveUp = append(r.GiveUp, "n2") }, cluster.ErrRecoveryPlan},
		"nobody says who":          {ahead, func(r *cluster.RecoverRequest) { r.By = "" }, cluster.ErrRecoveryPlan},
		"a report of this node":    {ahead, func(r *cluster.RecoverRequest) { r.Reports = []string{reportOf(ahead)} }, cluster.ErrReport},
		"a report of yesterday":    {ahead, func(r *cluster.RecoverRequest) { r.Now = r.Now.Add(24 * time.Hour) }, cluster.ErrRecoveryPlan},
		"a report of tomorrow":     {ahead, func(r *cluster.RecoverRequest) { r.Now = r.Now.Add(-24 * time.Hour) }, cluster.ErrRecoveryPlan},
		"a report that is changed": {ahead, func(r *cluster.RecoverRequest) { r.Reports[0] = strings.ToUpper(r.Reports[0]) }, cluster.ErrReport},
		"a report that lies":       {ahead, func(r *cluster.RecoverRequest) { r.Reports[0] = lie(t, r.Reports[0]) }, cluster.ErrReport},
		"a report cut short":       {ahead, func(r *cluster.RecoverRequest) { r.Reports[0] = r.Reports[0][:40] }, cluster.ErrReport},
	} {
		req := good
		req.Reports, req.GiveUp = slices.Clone(good.Reports), slices.Clone(good.GiveUp)
		step.change(&req)
		if _, err := step.on.Plan(req); !errors.Is(err, step.want) {
			t.Errorf("%s: %v, want %v", what, err, step.want)
		}
	}
	plan, err := ahead.Plan(good)
	if err != nil {
		t.Fatal(err)
	}
	// The process dies after it has begun: the node does not start on that, and the recovery goes on. It dies again before
	// it could note that it is through: it goes on once more.
	end := ahead.Found
	if err := ahead.Begin(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	ahead.close()
	if err := c.TryRestart(newest); !errors.Is(err, cluster.ErrRecoveryBegun) {
		t.Errorf("the node starts on half a recovery: %v", err)
	}
	ahead = offline(t, newest)
	begun := ahead.Unfinished()
	if begun == nil || begun.Code != plan.Code || len(begun.Lost) != 3 || begun.Lost[0].PeerAddr != lost[0].Addr() {
		t.Fatalf("the plan that was begun: %+v, it was %+v", begun, plan)
	}
	if err := ahead.Finish(t.Context(), ""); !errors.Is(err, cluster.ErrRecoveryPlan) || ahead.Found.LastIndex != end.LastIndex {
		t.Errorf("it goes on although nobody confirmed it: %v", err)
	}
	for range 2 {
		if err := ahead.Finish(t.Context(), begun.Code); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range []stopped{ahead, behind, ofLost} {
		o.close()
	}

	c.Nodes = []*clustertest.Node{newest, other}
	c.Restart(newest)
	c.Await("the given up to be removed", func() bool { return newest.IsLeader() && len(newest.Store().Members()) == 2 })
	if r, ok := newest.Store().Recovery(); !ok || r.Recovered.By != "alice" || r.Recovered.LastIndex != end.LastIndex || r.Recovered.LastTerm != end.LastTerm {
		t.Errorf("the recovery in the state: %+v", r)
	}
	if !audited(t, newest, func(r fsm.AuditRecord) bool {
		return r.Action == "recover" && r.Principal == "node/n1" && strings.HasPrefix(r.Detail, fmt.Sprintf("gave_up=n3,n4,n5 survivors=n2 last_index=%d", end.LastIndex)) &&
			strings.HasSuffix(r.Detail, `by="alice" reason="fire in hall 2"`)
	}) {
		t.Error("the recovery is not on record")
	}
	for i := range 40 {
		if !audited(t, newest, func(r fsm.AuditRecord) bool { return r.Resource == fmt.Sprintf("vaults/%d", i) }) {
			t.Errorf("record %d, which was acknowledged, is lost", i)
		}
	}
	// The threshold of the old node set is gone with its nodes.
	if s := newest.Status(); !s.Sealed {
		t.Error("the survivor unsealed itself with one share of three")
	}
	for _, share := range c.Shares[:2] {
		if _, err := newest.SubmitShare(t.Context(), text(t, share)); err != nil {
			t.Fatal(err)
		}
	}
	c.Await("the survivor to be unsealed", func() bool { return !newest.Status().Sealed })
	if cl, _ := newest.Store().Cluster(); cl.RootGeneration != before.RootGeneration {
		t.Errorf("the root was rotated before the other survivor is back")
	}
	note(c, 40)

	c.Restart(other) // sealed, with the configuration of five and the end missing
	c.AwaitReady()
	cl, _ := newest.Store().Cluster()
	if cl.RootGeneration != before.RootGeneration+1 || cl.NodeEpoch <= before.NodeEpoch {
		t.Errorf("root generation %d, node set %d: they were %d and %d", cl.RootGeneration, cl.NodeEpoch, before.RootGeneration, before.NodeEpoch)
	}
	if !audited(t, other, func(r fsm.AuditRecord) bool { return r.Resource == "vaults/40" }) {
		t.Error("the other survivor lacks what was written after the recovery")
	}

	// One comes back from the dead, with its old disk: no member, no votes, no shares.
	stale := lost[0]
	position := ofLost.Found.LastIndex
	err = c.TryRestart(stale)
	if err == nil {
		c.Nodes = append(c.Nodes, stale)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		for _, share := range c.Shares[:2] {
			_, err = stale.SubmitShare(ctx, text(t, share))
		}
		if s := stale.Status(); err == nil || !s.Sealed || s.IsLeader || s.Applied > position {
			t.Errorf("the node that was given up: sealed %t, leads %t, applied %d (%d before), %v", s.Sealed, s.IsLeader, s.Applied, position, err)
		}
	}
	t.Logf("it says: %v", err)
}

// recovered carries a plan out on the node that is left, and starts it.
func recovered(t *testing.T, c *clustertest.Cluster, keep *clustertest.Node, giveUp []string) {
	t.Helper()
	o := offline(t, keep)
	p, err := o.Plan(cluster.RecoverRequest{GiveUp: giveUp, By: "alice", Reason: "fire"})
	if err == nil {
		err = o.Carry(t.Context(), p, time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	o.close()
	c.Nodes = []*clustertest.Node{keep}
	c.Restart(keep)
	c.Await("the recovery on record, and the lost ones removed", func() bool {
		_, ok := keep.Store().Recovery()
		return ok && keep.IsLeader() && len(keep.Store().Members()) == 1
	})
}

// A node was removed when quorum was lost in that moment: the removal is in the log that is left, unapplied.
func TestRecoverBehindAnUnappliedRemoval(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{Nodes: 3})
	keep := c.Leader()
	var lost []string
	for _, n := range slices.Clone(c.Nodes) {
		if n != keep {
			lost = append(lost, n.ID)
			c.Kill(n)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	before := keep.Status().LastIndex
	if _, err := keep.Propose(ctx, keep.DutyCommand(fsm.KindMemberRemove, &fsm.MemberRemove{ID: lost[0]},
		fsm.Audit{Action: fsm.ActionRemove, Resource: "node/" + lost[0], Decision: fsm.Allowed})); err == nil {
		t.Fatal("it committed without a majority")
	}
	if now := keep.Status().LastIndex; now == before {
		t.Fatal("the removal is not in the log")
	}
	c.Kill(keep)
	recovered(t, c, keep, lost)
}

// All that is left is a node without a vote. While enough with a vote are left it may not go on beside them.
func TestRecoverOnANodeWithoutAVote(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{Nodes: 3})
	voters := slices.Clone(c.Nodes)
	n := c.Add()
	n.NonVoter = true
	c.Join(n)
	c.Approve(n.ID)
	c.Await("the fourth node to be unsealed and to have it all", func() bool {
		return n.Initialised() && !n.Status().Sealed && n.Store().Position() == c.Leader().Store().Position()
	})
	for _, m := range append(slices.Clone(voters), n) {
		c.Stop(m)
	}
	var reports []string
	for _, m := range voters[:2] {
		v := offline(t, m)
		text, err := v.Report(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		reports = append(reports, text)
		v.close()
	}
	o := offline(t, n)
	if _, err := o.Plan(cluster.RecoverRequest{Reports: reports, GiveUp: []string{voters[2].ID}, By: "alice", Reason: "fire", Now: time.Now()}); !errors.Is(err, cluster.ErrQuorumThere) {
		t.Errorf("two of three voters are left: %v", err)
	}
	o.close()
	recovered(t, c, n, []string{voters[0].ID, voters[1].ID, voters[2].ID})
}
