package api_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/audit"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/fsm"
)

func trustOf(t *testing.T, c *apitest.Cluster) audit.Trust {
	t.Helper()
	leaf, err := c.Leader().Store().AuditLeaf(0)
	if err != nil {
		t.Fatal(err)
	}
	return audit.Trust{Cluster: inject.ClusterText(c.ID), Genesis: audit.LeafHash(leaf)}
}

func export(t *testing.T, s *apitest.Session, req *hizov1.ExportRequest) ([]byte, error) {
	t.Helper()
	stream, err := s.Audit().Export(t.Context(), req)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out.Bytes(), nil
		}
		if err != nil {
			return nil, err
		}
		out.Write(chunk.GetData())
	}
}

// checkpointed waits until the newest checkpoint covers everything of now.
func checkpointed(t *testing.T, c *apitest.Cluster) {
	t.Helper()
	store := c.Leader().Store()
	size := store.AuditSize()
	c.Await("a checkpoint", func() bool {
		newest, ok := store.LatestCheckpoint()
		return ok && newest.Size >= size
	})
}

// An export of a live cluster, with its members' real signatures, verifies offline from the genesis
// fingerprint alone, whole and in parts; changed anywhere it does not.
func TestExportVerifiesOffline(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{Options: clustertest.Options{CheckpointEvery: 50 * time.Millisecond}})
	ctx := t.Context()
	c.Vault("ml")
	c.Put("ml", "db/main", "password", "hunter2-canary")
	if _, err := c.Engineer.Secrets().Reveal(ctx, &hizov1.RevealRequest{Vault: "ml", Path: "db/main", Reason: "on call"}); err != nil {
		t.Fatal(err)
	}
	checkpointed(t, c)
	first, err := export(t, c.Engineer, &hizov1.ExportRequest{})
	if err != nil {
		t.Fatal(err)
	}
	trust := trustOf(t, c)
	report, err := audit.Verify(bytes.NewReader(first), trust.Begin())
	if err != nil {
		t.Fatal(err)
	}
	if len(report.State.Signers) != 3 || report.Checkpoints == 0 || report.Unsigned != 0 {
		t.Errorf("report: %d signers, %d checkpoints, %d unsigned", len(report.State.Signers), report.Checkpoints, report.Unsigned)
	}
	if bytes.Contains(first, []byte("hunter2-canary")) || bytes.Contains(first, []byte("on call")) {
		t.Error("the export holds a value or a sealed part in the clear")
	}
	for i := 0; i < len(first); i += 97 {
		changed := bytes.Clone(first)
		changed[i] ^= 1
		if _, err := audit.Verify(bytes.NewReader(changed), trust.Begin()); err == nil {
			t.Fatalf("byte %d changed: not found", i)
		}
	}
	// The next part begins where this one ended.
	c.Put("ml", "db/main", "password", "another")
	checkpointed(t, c)
	second, err := export(t, c.Engineer, &hizov1.ExportRequest{From: report.State.Size})
	if err != nil {
		t.Fatal(err)
	}
	if next, err := audit.Verify(bytes.NewReader(second), report.State); err != nil || next.State.Size <= report.State.Size {
		t.Errorf("the next part: %+v, %v", next, err)
	}
	if _, err := export(t, c.Engineer, &hizov1.ExportRequest{To: 1 << 40}); apitest.Reason(err) != hizov1.ReasonInvalid {
		t.Errorf("beyond the log: %v", err)
	}

	proof, err := c.Engineer.Audit().Prove(ctx, &hizov1.ProveRequest{Sequence: 3})
	if err != nil {
		t.Fatal(err)
	}
	if err := audit.CheckProof(proof.GetLeaf(), proof.GetPath(), proof.GetCheckpoint(), report.State); err != nil {
		t.Errorf("proof: %v", err)
	}
	for i := range proof.GetLeaf() {
		bad := bytes.Clone(proof.GetLeaf())
		bad[i] ^= 1
		if audit.CheckProof(bad, proof.GetPath(), proof.GetCheckpoint(), report.State) == nil {
			t.Fatalf("a proof of another record passed (byte %d)", i)
		}
	}
	if _, err := c.Engineer.Audit().Prove(ctx, &hizov1.ProveRequest{Sequence: 1 << 40}); apitest.Reason(err) != hizov1.ReasonNotFound {
		t.Errorf("a record that does not exist: %v", err)
	}
	latest, err := c.Engineer.Audit().LatestCheckpoint(ctx, &hizov1.CheckpointRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := audit.ParseNote(latest.GetCheckpoint()); err != nil || n.Size != latest.GetSize() || n.CheckSignatures(report.State.Signers, nil) != nil {
		t.Errorf("checkpoint: %v", err)
	}
}

// A change of members, and a member that dies right after it, leave a log that still verifies from the genesis
// fingerprint; so does an approval that was retried.
func TestExportVerifiesAfterChangesOfMembers(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{Options: clustertest.Options{CheckpointEvery: 50 * time.Millisecond}})
	checkpointed(t, c)
	fourth := c.Add()
	key := fourth.Key()
	token, err := c.Engineer.Cluster().CreateJoinToken(t.Context(), &hizov1.JoinTokenRequest{Node: fourth.ID, KeyFingerprint: hex.EncodeToString(key[:])})
	if err != nil {
		t.Fatal(err)
	}
	if err := fourth.Join(t.Context(), token.GetToken()); err != nil {
		t.Fatal(err)
	}
	approve := &hizov1.ApproveRequest{Node: fourth.ID, KeyFingerprint: hex.EncodeToString(key[:])}
	ctx := bearer(t.Context(), c.Engineer.Token) // one request id
	leader := c.Leader()
	conn := hizov1.NewClusterServiceClient(dial(t, c, leader.ID))
	for range 2 { // the second time is a retry
		if _, err := conn.Approve(ctx, approve); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.Nodes[:3] {
		if n != leader {
			c.Kill(n)
			break
		}
	}
	c.Vault("ml")
	checkpointed(t, c)
	out, err := export(t, c.Engineer, &hizov1.ExportRequest{})
	if err != nil {
		t.Fatal(err)
	}
	report, err := audit.Verify(bytes.NewReader(out), trustOf(t, c).Begin())
	if err != nil {
		t.Fatal(err)
	}
	if len(report.State.Signers) != 4 {
		t.Errorf("%d signers", len(report.State.Signers))
	}
}

// The verifier has a leaf format of its own, to be free of the state machine: the two must not differ.
func TestLeafIsTheStateMachines(t *testing.T) {
	full := fsm.AuditRecord{
		Seq: 300, Index: 70000, Time: 1_700_000_000_123, Principal: "user/alice", Action: "reveal", Resource: "ml/db/main",
		Version: 7, Decision: fsm.Denied, Policies: []string{"a", "shipped/b"}, Outcome: fsm.CodeDenied, Detail: "d",
		Count: 3, Generation: 2, Sealed: []byte{1, 2, 3},
	}
	for _, rec := range []fsm.AuditRecord{full, {}, {Seq: 1, Policies: []string{""}}, {Sealed: make([]byte, 5000)}} {
		leaf := rec.LeafBytes()
		r, err := audit.ParseLeaf(leaf)
		if err != nil {
			t.Fatal(err)
		}
		same := audit.Record{
			Seq: rec.Seq, Index: rec.Index, Time: rec.Time, Principal: rec.Principal, Action: rec.Action, Resource: rec.Resource,
			Version: rec.Version, Decision: uint8(rec.Decision), Policies: rec.Policies, Outcome: uint8(rec.Outcome), Detail: rec.Detail,
			Count: rec.Count, Generation: rec.Generation, Sealed: rec.Sealed,
		}
		if !bytes.Equal(r.Leaf(), leaf) || !bytes.Equal(same.Leaf(), leaf) {
			t.Errorf("leaf of %+v differs", rec)
		}
	}
	point := fsm.Checkpoint{Origin: "hizo/x", Size: 5, Root: bytes.Repeat([]byte{7}, 32), Time: 99}
	mine := audit.Checkpoint{Origin: "hizo/x", Size: 5, Time: 99}
	copy(mine.Root[:], point.Root)
	if !bytes.Equal(point.NoteText(), mine.Text()) {
		t.Errorf("checkpoint text %q, the state machine's is %q", mine.Text(), point.NoteText())
	}
	for code := fsm.CodeOK; code <= fsm.CodeLevel; code++ {
		if text := audit.OutcomeText(uint8(code)); text[0] >= '0' && text[0] <= '9' {
			t.Errorf("outcome %d has no name", code)
		}
	}
}

func TestTailFollowsAndIsCut(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	anna := c.User("anna", "Auditor")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	old, err := anna.Audit().Tail(ctx, &hizov1.TailRequest{From: 0})
	if err != nil {
		t.Fatal(err)
	}
	var last *hizov1.AuditRecord
	for n := uint64(0); ; n++ {
		rec, err := old.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if rec.GetSequence() != n {
			t.Fatalf("record %d where %d belongs", rec.GetSequence(), n)
		}
		last = proto.CloneOf(rec)
	}
	if last.GetAction() != "audit.read" || last.GetPrincipal() != "user/anna" {
		t.Errorf("the last record is not the tail itself: %v", last)
	}

	stream, err := anna.Audit().Tail(ctx, &hizov1.TailRequest{Follow: true, Last: 1})
	if err != nil {
		t.Fatal(err)
	}
	if rec, err := stream.Recv(); err != nil || rec.GetAction() != "audit.read" {
		t.Fatalf("the newest record: %v, %v", rec, err)
	}
	c.Vault("ml")
	if rec, err := stream.Recv(); err != nil || rec.GetAction() != "vault.create" || rec.GetResource() != "ml" || rec.GetRequestId() == "" {
		t.Fatalf("what happened next: %v, %v", rec, err)
	}
	// The role goes: the stream ends, without a record of what came after.
	if _, err := c.Engineer.Identities().RevokeRole(ctx, &hizov1.RoleRequest{Role: "Auditor", Name: "anna"}); err != nil {
		t.Fatal(err)
	}
	rec, err := stream.Recv()
	if err == nil {
		t.Errorf("the stream went on behind the revocation: %v", rec)
	}
	if _, err := anna.Audit().Search(ctx, &hizov1.SearchRequest{}); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
		t.Errorf("search without the role: %v", err)
	}
}

func TestSearchFiltersAndPages(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	c.Vault("ml")
	for range 5 {
		c.Put("ml", "db/main", "password", "x")
	}
	c.Put("ml", "db/other", "password", "x")
	search := func(req *hizov1.SearchRequest) []*hizov1.AuditRecord {
		t.Helper()
		out, err := c.Engineer.Audit().Search(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		return out.GetRecords()
	}
	if n := len(search(&hizov1.SearchRequest{Resource: "ml/db/", Action: "put"})); n != 6 {
		t.Errorf("prefix: %d, want 6", n)
	}
	if n := len(search(&hizov1.SearchRequest{Resource: "ml/db/main"})); n != 5 {
		t.Errorf("exact: %d, want 5", n)
	}
	if n := len(search(&hizov1.SearchRequest{Action: "put", Principal: "user/bob"})); n != 0 {
		t.Errorf("another principal: %d", n)
	}
	all := search(&hizov1.SearchRequest{Action: "put"})
	middle := all[2].GetTimeUnixMs()
	if got := search(&hizov1.SearchRequest{Action: "put", SinceUnixMs: middle}); len(got) < 3 || got[len(got)-1].GetTimeUnixMs() < middle {
		t.Errorf("since: %d records", len(got))
	}
	if got := search(&hizov1.SearchRequest{Action: "put", UntilUnixMs: middle}); len(got) > 3 {
		t.Errorf("until: %d records", len(got))
	}
	var paged []uint64
	before := uint64(0)
	for {
		out, err := c.Engineer.Audit().Search(ctx, &hizov1.SearchRequest{Action: "put", Limit: 2, Before: before})
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range out.GetRecords() {
			paged = append(paged, rec.GetSequence())
		}
		if before = out.GetNextBefore(); before == 0 {
			break
		}
	}
	if len(paged) != 6 {
		t.Errorf("by pages: %v, want 6 records", paged)
	}
}
