package cluster_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/fsm"
)

// A node whose disk is gone comes back under its name: with its HSM, and so its key, and without. It is removed first,
// because its old log counted for majorities and its old share opens the old root.
func TestReplace(t *testing.T) {
	t.Parallel()
	for name, keepsKey := range map[string]bool{"the disk is gone": false, "the disk is gone and the HSM is not": true} {
		t.Run(name, func(t *testing.T) {
			c := clustertest.Start(t, clustertest.Options{CheckpointEvery: 100 * time.Millisecond})
			n := c.Nodes[2]
			if n.IsLeader() {
				c.Transfer(n, c.Nodes[0])
			}
			c.Must(record("list"))
			oldKey, token := n.Key(), c.Token(n, time.Hour) // made in time, for a replacement that is not allowed yet
			before, _ := c.Leader().Store().Cluster()
			if keepsKey {
				c.Forget(n)
			} else {
				c.Kill(n)
				for _, dir := range []string{"data", "seal"} {
					if err := os.RemoveAll(filepath.Join(n.Dir, dir)); err != nil {
						t.Fatal(err)
					}
				}
				c.Restart(n)
				if n.Key() == oldKey {
					t.Fatal("the key did not go with the seal")
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), clustertest.Patience)
			defer cancel()
			if !keepsKey {
				token = c.Token(n, time.Hour)
			}
			if err := n.Join(ctx, token); !errors.Is(err, cluster.ErrJoinToken) || !strings.Contains(err.Error(), "hizo cluster remove n3") {
				t.Fatalf("before it was removed: %v", err)
			}
			c.Must(fsm.Command{
				Kind: fsm.KindMemberRemove, Principal: "user/test", Body: fsm.EncodeBody(fsm.KindMemberRemove, &fsm.MemberRemove{ID: n.ID}),
				Audits: []fsm.Audit{{Action: "remove", Resource: "node/" + n.ID, Decision: fsm.Allowed}},
			})
			c.Await("the root key to be rotated", func() bool {
				cl, _ := c.Leader().Store().Cluster()
				return cl.RootGeneration > before.RootGeneration
			})
			c.Join(n)
			c.Approve(n.ID)
			c.AwaitReady()
			if got := holders(c); !slices.Equal(got, []string{"n1", "n2", "n3"}) {
				t.Errorf("shares are held by %v", got)
			}
			// It votes, signs and opens like the others: it and one more are enough.
			size := c.Leader().Store().AuditSize()
			c.Await("it to sign a checkpoint", func() bool {
				cp, ok := c.Leader().Store().LatestCheckpoint()
				return ok && cp.Size >= size && slices.ContainsFunc(cp.Signatures, func(s fsm.Signature) bool { return s.Node == n.ID })
			})
			for _, n := range c.Nodes {
				c.Kill(n)
			}
			c.Restart(c.Nodes[0])
			c.Restart(n)
			c.Await("two to unseal each other", func() bool { return !c.Nodes[0].Status().Sealed && !n.Status().Sealed })
			c.Must(record("list"))
		})
	}
}
