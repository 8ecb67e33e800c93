package cluster_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/fsm"
)

// A cluster of a newer build goes on at the old level until its last member runs that build, the one that is down
// included. Then the level rises by itself, on record, and the older build neither starts nor joins.
func TestRollingUpgradeRaisesTheLevel(t *testing.T) {
	t.Parallel()
	levels := map[string]uint32{"n1": 1, "n2": 1, "n3": 1, "n4": 1}
	c := clustertest.Start(t, clustertest.Options{Levels: levels})
	if cluster, build := c.Nodes[0].Level(); cluster != 1 || build != 1 {
		t.Fatalf("a new cluster of a build of level 1 is at %d, the build at %d", cluster, build)
	}
	last := c.Nodes[2]
	c.Kill(last) // it is down while the others are upgraded
	for _, n := range c.Nodes[:2] {
		levels[n.ID] = 2
		c.Stop(n)
		c.Restart(n)
		c.Await("the announcement of "+n.ID, func() bool {
			m, _ := c.Nodes[0].Store().Member(n.ID)
			return m.Level == 2
		})
	}
	c.Must(fsm.Command{Kind: fsm.KindRecord, Principal: "user/alice", Audits: []fsm.Audit{{Action: "list", Resource: "vaults", Decision: fsm.Allowed}}})
	for _, n := range c.Running() {
		if level, build := n.Level(); level != 1 || build != 2 {
			t.Errorf("%s: level %d of build %d while n3 is of the old build", n.ID, level, build)
		}
	}
	levels[last.ID] = 2
	c.Restart(last)
	c.Await("the level to rise", func() bool {
		for _, n := range c.Running() {
			if level, _ := n.Level(); level != 2 {
				return false
			}
		}
		return true
	})
	if !audited(t, c.Leader(), func(r fsm.AuditRecord) bool {
		return r.Action == "level.raise" && r.Decision == fsm.Allowed && r.Detail == "from=1 to=2" && strings.HasPrefix(r.Principal, "node/")
	}) {
		t.Error("the raise is not on record")
	}
	if s := c.Leader().Status(); s.Level != 2 || s.Build != 2 || s.Members[0].Level != 2 {
		t.Errorf("the status shows level %d, build %d, %s at %d", s.Level, s.Build, s.Members[0].ID, s.Members[0].Level)
	}

	c.Stop(last)
	levels[last.ID] = 1
	if err := c.TryRestart(last); !errors.As(err, new(*fsm.LevelError)) || !strings.Contains(err.Error(), "install the hizod that the other nodes run") {
		t.Errorf("the old build starts on a node of level 2: %v", err)
	}
	levels[last.ID] = 2
	c.Restart(last)

	newcomer := c.Add()
	ctx, cancel := context.WithTimeout(t.Context(), clustertest.Patience)
	defer cancel()
	token := c.Token(newcomer, time.Hour)
	if err := newcomer.Join(ctx, token); !errors.Is(err, cluster.ErrTooOld) {
		t.Errorf("a node of the old build joins: %v", err)
	}
	levels[newcomer.ID] = 2
	c.Stop(newcomer)
	c.Restart(newcomer)
	if err := newcomer.Join(ctx, token); err != nil {
		t.Errorf("with the new build and the same token it does not join: %v", err)
	}
}
