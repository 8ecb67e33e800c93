package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hizo/hizo/fsm"
)

// Feature levels (fsm/level.go) let nodes of two builds live together while a cluster is upgraded node by node: each
// announces the level that its build knows, as it announces its addresses, and the leader raises the cluster's level
// once every member has announced more. Nothing beyond the level is proposed before, so a node that does not know
// a record never gets to see it. Downwards there is no way: an older build refuses to start, to join, and to apply the raise.

// ErrTooOld says that this node's build does not know the cluster's level.
var ErrTooOld = errors.New("this hizod is older than the cluster's feature level: install the hizod that the other nodes run")

// LevelError says that a command needs a feature level that the cluster is not at. Nothing was proposed.
type LevelError struct {
	Needs, Has uint32
	Behind     []string // members whose build does not know Needs, as far as they announced
}

func (e *LevelError) Error() string {
	who := "its level rises as soon as all members have announced it"
	if len(e.Behind) > 0 {
		who = "upgrade hizod on " + strings.Join(e.Behind, ", ")
	}
	return fmt.Sprintf("this needs feature level %d, and the cluster is at %d: %s", e.Needs, e.Has, who)
}

// Level is the cluster's feature level as far as this node has applied it, and the highest that its own build knows.
func (n *Node) Level() (cluster, build uint32) { return n.store.Level(), n.store.HighestLevel() }

// mayPropose refuses what is beyond the level. The level that was applied here is at most the one that is committed, so
// this never lets through what a member's build does not know.
func (n *Node) mayPropose(kind fsm.Kind) error {
	needs, has := kind.Since(), n.store.Level()
	if needs <= has || kind == fsm.KindGenesis {
		return nil
	}
	e := &LevelError{Needs: needs, Has: has}
	for _, m := range n.store.Members() {
		if levelOf(m) < needs {
			e.Behind = append(e.Behind, m.ID)
		}
	}
	return e
}

// levelOf is what a member announced; one that never did is of the first build.
func levelOf(m fsm.Member) uint32 { return max(m.Level, 1) }

// levelDuty raises the cluster's level when every member knows a higher one, those that are down or wait for approval
// included: they will apply the log, too.
func (n *Node) levelDuty(ctx context.Context, term uint64) {
	n.reconcile(ctx, func() error {
		members := n.store.Members()
		if len(members) == 0 || n.keys.sealed() {
			return nil
		}
		to := n.store.HighestLevel()
		var each []string
		for _, m := range members {
			to = min(to, levelOf(m))
			each = append(each, fmt.Sprintf("%s:%d", m.ID, levelOf(m)))
		}
		if from := n.store.Level(); to > from {
			slices.Sort(each)
			err := n.proposeDuty(ctx, term, fsm.KindLevelRaise, &fsm.LevelRaise{Level: to}, fsm.Audit{
				Action: "level.raise", Resource: "cluster", Decision: fsm.Allowed,
				Detail: fmt.Sprintf("from=%d to=%d", from, to),
			})
			if err != nil {
				return fmt.Errorf("raise the feature level to %d: %w", to, err)
			}
			n.log.Info("the cluster's feature level was raised: older builds cannot join or start any more", "from", from, "to", to, "members", each)
		}
		return nil
	})
}
