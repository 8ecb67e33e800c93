package api_test

import (
	"testing"

	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/hizov1"
)

// The main job: a credential is kept, an engineer reveals it, and the log says so.
func TestPutAndReveal(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	c.Vault("ml")
	if v := c.Put("ml", "db/main", "password", "hunter2"); v != 1 {
		t.Fatalf("version %d, want 1", v)
	}
	out, err := c.Engineer.Secrets().Reveal(ctx, &hizov1.RevealRequest{Vault: "ml", Path: "db/main", Reason: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if string(out.GetFields()["password"]) != "hunter2" || out.GetVersion() != 1 {
		t.Fatalf("revealed version %d", out.GetVersion())
	}
	found, err := c.Engineer.Audit().Search(ctx, &hizov1.SearchRequest{Resource: "ml/db/main", Action: "reveal"})
	if err != nil {
		t.Fatal(err)
	}
	if len(found.GetRecords()) != 1 {
		t.Fatalf("%d records, want 1", len(found.GetRecords()))
	}
	rec := found.GetRecords()[0]
	if rec.GetSequence() != out.GetAuditSequence() || rec.GetVersion() != 1 || rec.GetPrincipal() != "user/alice" ||
		rec.GetReason() != "test" || rec.GetClientAddress() != "127.0.0.1" || rec.GetDecision() != "allowed" || rec.GetOutcome() != "ok" {
		t.Errorf("record: %+v", rec)
	}
}
