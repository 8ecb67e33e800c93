package rotate_test

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/cluster/rotate"
	"github.com/hizo/hizo/cluster/rotate/servertest"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/crypto/seal/software"
	"github.com/hizo/hizo/crypto/secret"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
)

// The backup is from the middle of a rotation: PostgreSQL has its value, the log does not say so yet. Afterwards the old
// cluster rotated on. The restored one finishes that attempt with its own value, and begins no other until a person says so.
func TestRestoredInTheMiddle(t *testing.T) {
	pg := servertest.StartPostgres(t)
	var stopped atomic.Bool
	reached := make(chan struct{})
	old := clustertest.Start(t, clustertest.Options{Nodes: 1, Operators: 3, Threshold: 2, Duties: func(string) []cluster.Duty {
		e := rotate.New(rotate.Config{Targets: postgres})
		e.SetHook(func(point string) {
			if point == "called apply" && stopped.CompareAndSwap(false, true) {
				close(reached)
			}
			if stopped.Load() {
				runtime.Goexit()
			}
		})
		return []cluster.Duty{e.Duty}
	}})
	w := inCluster(t, old)
	w.must(fsm.KindSecretPut, w.sealed("admin", 1, target.Value{
		"username": secret.Copy([]byte(pg.User)), "password": secret.Copy([]byte(pg.Password)),
	}))
	for _, path := range []string{"middle", "due"} {
		pg.Exec(t, "CREATE ROLE "+path+" LOGIN PASSWORD 'first'")
		w.must(fsm.KindSecretPut, w.sealed(path, 1, target.Value{
			"username": secret.Copy([]byte(path)), "password": secret.Copy([]byte("first")),
		}))
		w.must(fsm.KindRotationSet, w.schedule(path, pgOptions(pg, nil)))
		if path == "middle" {
			select {
			case <-reached:
			case <-time.After(clustertest.Patience):
				t.Fatal("no rotation was begun")
			}
		}
	}
	if r, _ := old.Leader().Store().Rotation("ml", "middle"); r.Attempt.State != fsm.RotationStaged || pg.Login("middle", "first") == nil {
		t.Fatalf("this is not the middle of a rotation: %+v", r)
	}
	var file bytes.Buffer
	made, err := old.Leader().Backup(t.Context(), "b", "test", &file)
	for errors.Is(err, cluster.ErrRootMoved) { // shares were dealt meanwhile
		file.Reset()
		made, err = old.Leader().Backup(t.Context(), "b", "test", &file)
	}
	if err != nil {
		t.Fatal(err)
	}
	cl, _ := old.Leader().Store().Cluster()
	pg.Exec(t, "ALTER ROLE middle PASSWORD 'later'")
	old.Kill(old.Nodes[0])

	fresh := clustertest.New(t, clustertest.Options{Nodes: 1, Duties: func(string) []cluster.Duty {
		return []cluster.Duty{rotate.New(rotate.Config{Targets: postgres}).Duty}
	}})
	n := fresh.Nodes[0]
	fresh.Stop(n)
	restore(t, n, cl, old.Shares[:2], cluster.RestoreRequest{
		Open:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(file.Bytes())), nil },
		Digest: [32]byte(made.Digest), Shares: []int{1, 2}, Waiver: "a test",
	})
	fresh.ID, fresh.Shares = old.ID, old.Shares
	fresh.Restart(n)
	for _, share := range old.Shares[:2] {
		text, err := share.Text()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fresh.Leader().SubmitShare(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	w = &clusterWorld{fresh, t}
	fresh.Await("the attempt to finish", func() bool {
		h := n.Store().RotationHistory("ml", "middle")
		return len(h) == 1 && h[0].State == fsm.RotationRetired && h[0].Version == 2
	})
	if err := pg.Login("middle", w.value("middle", "password")); err != nil {
		t.Errorf("the current value: %v", err)
	}
	for _, password := range []string{"first", "later"} {
		if pg.Login("middle", password) == nil {
			t.Errorf("%q still logs in", password)
		}
	}
	for _, path := range []string{"middle", "due"} {
		r, ok := n.Store().Rotation("ml", path)
		if !ok || !r.Paused || r.Attempt.State != fsm.RotationIdle {
			t.Errorf("the rotation of %s goes on by itself: %+v", path, r)
		}
	}
	if err := pg.Login("due", "first"); err != nil || len(n.Store().RotationHistory("ml", "due")) != 0 {
		t.Errorf("what was due was rotated although it is paused: %v", err)
	}

	// The person looks, and the schedule goes on.
	w.must(fsm.KindRotationPause, &fsm.RotationPause{Vault: "ml", Path: "due", NextRun: time.Now().UnixMilli()})
	fresh.Await("the rotation that was due", func() bool { return len(n.Store().RotationHistory("ml", "due")) == 1 })
	if err := pg.Login("due", w.value("due", "password")); err != nil {
		t.Error(err)
	}
}

// restore makes a node that has no cluster the first of the one that a backup holds.
func restore(t *testing.T, n *clustertest.Node, cl fsm.Cluster, given []shares.Share, req cluster.RestoreRequest) {
	t.Helper()
	var deal shares.Deal
	if err := deal.UnmarshalBinary(cl.OperatorDeal); err != nil {
		t.Fatal(err)
	}
	seed, err := deal.Combine(given)
	if err != nil {
		t.Fatal(err)
	}
	defer seed.Wipe()
	req.Seed = seed
	s, err := software.Open(filepath.Join(n.Dir, "seal"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := cluster.Restore(t.Context(), cluster.Config{
		ID: n.ID, DataDir: filepath.Join(n.Dir, "data"), AdvertisePeer: n.Addr(), AdvertiseClient: "x:1", Seal: s,
	}, req); err != nil {
		t.Fatal(err)
	}
}
