package main

import (
	"context"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/cluster/rotate/servertest"
)

// The process that leads is killed while PostgreSQL is changing the password: another one finishes that rotation, which
// is the only one, and its value logs in.
func TestLeaderProcessKilledDuringRotation(t *testing.T) {
	t.Parallel()
	needs(t, "software")
	pg := servertest.StartPostgres(t)
	pg.Exec(t, "CREATE ROLE app LOGIN PASSWORD 'first'")
	r := startDev(t, t.TempDir(), "--nodes", "3", "--hsm", "software")
	c := r.ready()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Vaults().CreateVault(ctx, &hizov1.CreateVaultRequest{Name: "ml"}))
	for path, fields := range map[string][2]string{"db": {"app", "first"}, "admin": {pg.User, pg.Password}} {
		must(c.Secrets().Put(ctx, &hizov1.PutRequest{Vault: "ml", Path: path, Fields: map[string][]byte{
			"username": []byte(fields[0]), "password": []byte(fields[1]),
		}}))
	}
	options := pg.Config()
	options["admin"] = "ml/admin"
	must(c.Rotations().Set(ctx, &hizov1.SetRotationRequest{
		Vault: "ml", Path: "db", Target: "postgresql", Options: options, EverySeconds: 86_400, GraceSeconds: 1,
	}))

	// Whoever changes the role waits for this transaction.
	held, err := pgx.Connect(ctx, pg.URL(pg.User, pg.Password, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close(ctx)
	tx, err := held.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	must(tx.Exec(ctx, "ALTER ROLE app CONNECTION LIMIT -1"))
	of := &hizov1.RotationRequest{Vault: "ml", Path: "db"}
	must(c.Rotations().Run(ctx, of))
	await(t, "the change to wait in PostgreSQL", func() bool {
		return pg.Query(t, "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'ALTER%'")[0] != "0"
	})
	status, err := c.Cluster().Status(ctx, &hizov1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	leader, err := strconv.Atoi(strings.TrimPrefix(status.GetLeaderId(), "n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(r.pids(3)[leader], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if stage := shownRotation(ctx, t, c).GetStage(); stage != "staged" {
		t.Errorf("after the leader's death the rotation is %s", stage)
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}

	var ended []*hizov1.Attempt
	await(t, "the rotation to finish", func() bool {
		h, err := c.Rotations().History(ctx, of)
		if err != nil {
			t.Fatal(err)
		}
		ended = h.GetAttempts()
		return len(ended) > 0
	})
	if len(ended) != 1 || ended[0].GetOutcome() != "finished" || ended[0].GetVersion() != 2 {
		t.Errorf("rotations: %v", ended)
	}
	now, err := c.Secrets().Reveal(ctx, &hizov1.RevealRequest{Vault: "ml", Path: "db"})
	if err != nil {
		t.Fatal(err)
	}
	if err := pg.Login("app", string(now.GetFields()["password"])); err != nil || now.GetVersion() != 2 {
		t.Errorf("version %d: %v", now.GetVersion(), err)
	}
	if err := pg.Login("app", "first"); err == nil {
		t.Error("the old password still logs in")
	}
	if r := shownRotation(ctx, t, c); r.GetStage() != "idle" || r.GetAttempts() != 1 {
		t.Errorf("afterwards it is %s, after %d rotations", r.GetStage(), r.GetAttempts())
	}
}

func shownRotation(ctx context.Context, t *testing.T, c *client.Client) *hizov1.Rotation {
	t.Helper()
	r, err := c.Rotations().Show(ctx, &hizov1.ShowRotationRequest{Vault: "ml", Path: "db"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
