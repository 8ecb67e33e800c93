package api_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/audit"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/backup"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/crypto/seal/software"
	"github.com/hizo/hizo/crypto/secret"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
)

// backedUp makes a backup of a running cluster, as a file in memory.
func backedUp(t *testing.T, c *clustertest.Cluster) (file []byte, trust audit.Trust) {
	t.Helper()
	var b bytes.Buffer
	for {
		_, err := c.Leader().Backup(t.Context(), "b1", "test", &b)
		if err == nil {
			break
		}
		if notLeader := (*cluster.NotLeaderError)(nil); !errors.As(err, &notLeader) && !errors.Is(err, cluster.ErrRootMoved) {
			t.Fatal(err)
		}
		b.Reset()
	}
	trust, err := api.TrustOf(c.Leader().Store())
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), trust
}

func verifyBackup(file []byte, trust audit.Trust) (audit.BackupReport, error) {
	return audit.VerifyBackup(bytes.NewReader(file), trust)
}

// seedOf combines shares as hizod restore does.
func seedOf(t *testing.T, h backup.Header, list ...shares.Share) secret.Bytes {
	t.Helper()
	var deal shares.Deal
	if err := deal.UnmarshalBinary(h.Deal); err != nil {
		t.Fatal(err)
	}
	seed, err := deal.Combine(list)
	if err != nil {
		t.Fatal(err)
	}
	return seed
}

// restoreInto restores into the directory of a node that waited to be initialised and was stopped.
func restoreInto(t *testing.T, n *clustertest.Node, file []byte, report audit.BackupReport, seed secret.Bytes, change func(*cluster.RestoreRequest)) (cluster.Restored, error) {
	t.Helper()
	req := cluster.RestoreRequest{
		Open:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(file)), nil },
		Digest: report.Digest, Seed: seed, Shares: []int{1, 2}, Waiver: "a test",
	}
	if change != nil {
		change(&req)
	}
	s, err := software.Open(filepath.Join(n.Dir, "seal"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return cluster.Restore(t.Context(), cluster.Config{
		ID: n.ID, DataDir: filepath.Join(n.Dir, "data"), AdvertisePeer: n.Addr(), AdvertiseClient: "x:1", Seal: s,
	}, req)
}

// The whole way: three nodes, a backup, another machine, the operators, and a cluster again.
func TestBackupComesBack(t *testing.T) {
	t.Parallel()
	old := apitest.Start(t, apitest.Options{})
	old.Vault("ml")
	old.Put("ml", "db", "password", "canary-backup-value")
	token := old.Engineer.Token
	file, trust := backedUp(t, old.Cluster)
	if bytes.Contains(file, []byte("canary-backup-value")) || bytes.Contains(file, []byte("ml/db")) {
		t.Error("the file shows what it holds")
	}
	report, err := verifyBackup(file, trust)
	if err != nil {
		t.Fatal(err)
	}
	seed := seedOf(t, report.Header, old.Shares[0], old.Shares[2])

	fresh := clustertest.New(t, clustertest.Options{Nodes: 1})
	n := fresh.Nodes[0]
	fresh.Stop(n)
	done, err := restoreInto(t, n, file, report, seed, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := restoreInto(t, n, file, report, seed, nil); !errors.Is(err, cluster.ErrAlreadyInitialised) {
		t.Errorf("a second restore into the same node: %v", err)
	}
	fresh.ID, fresh.Shares = old.ID, old.Shares
	fresh.Restart(n)
	if !n.Status().Sealed {
		t.Error("the restored node has keys before anybody unsealed it")
	}
	leader := fresh.Leader()
	for _, i := range []int{1, 2} {
		text, err := old.Shares[i].Text()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leader.SubmitShare(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	fresh.Await("the root key to be renewed", func() bool {
		cl, _ := n.Store().Cluster()
		return cl.RootGeneration == 2 && !n.Status().Sealed
	})
	if at := n.Store().Position(); at.Term <= report.Header.Term+1 {
		t.Errorf("the log goes on in term %d, the restored state ended in %d", at.Term, report.Header.Term+1)
	}
	if s, ok := n.Store().Secret("ml", "db"); !ok || s.Current != 1 {
		t.Errorf("the secret: %+v", s)
	}
	hash := sha256.Sum256([]byte(token))
	if _, ok := n.Store().Token(hash[:]); ok {
		t.Error("a token of the old cluster lives")
	}
	if m := n.Store().Members(); len(m) != 1 || m[0].ID != n.ID {
		t.Errorf("members: %+v", m)
	}

	// What the restored cluster says of itself is another log, which only the restore's own record vouches for.
	next, _ := backedUp(t, fresh)
	if _, err := verifyBackup(next, trust); err == nil || !strings.Contains(err.Error(), "restored from a backup") {
		t.Errorf("with the old trust: %v", err)
	}
	trust.Restores = append(trust.Restores, audit.LeafHash(done.Leaf))
	again, err := verifyBackup(next, trust)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(again.Header.Origin, report.Header.Origin+"/") || again.Header.Records <= report.Header.Records {
		t.Errorf("origin %s with %d records, before %s with %d", again.Header.Origin, again.Header.Records, report.Header.Origin, report.Header.Records)
	}
	if _, err := verifyBackup(file, trust); err != nil {
		t.Errorf("the old backup with the new trust: %v", err)
	}

	// Others join, and their state is the same history.
	other := fresh.Add()
	fresh.Join(other)
	fresh.Approve(other.ID)
	fresh.Await("the newcomer to have the state", func() bool {
		cl, ok := other.Store().Cluster()
		return ok && len(cl.Restored) == 1 && other.Store().EventsEnd().Epoch == n.Store().EventsEnd().Epoch
	})
}

// A byte changed anywhere, a cut anywhere, somebody else's trust: refused without any key. An attacker who mends the
// checksum gets no further.
func TestDamagedBackupIsRefused(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{Nodes: 1, Operators: 3, Threshold: 2})
	file, trust := backedUp(t, c)
	if _, err := verifyBackup(file, trust); err != nil {
		t.Fatal(err)
	}
	ending := len("sha256 ") + 64 + 1
	mended := func(b []byte) []byte {
		body := b[:len(b)-ending]
		return fmt.Appendf(bytes.Clone(body), "sha256 %x\n", sha256.Sum256(body))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	proofAt := bytes.LastIndexByte(file[:len(file)-ending-1], '\n')
	for i := range 300 {
		at := rng.IntN(len(file))
		switch {
		case i < 60:
			at = i * 30 // magic and header
		case i < 120:
			at = len(file) - 1 - (i - 60) // checksum and the end of the proof
		case i < 200:
			at = proofAt + rng.IntN(len(file)-proofAt)
		}
		at = min(at, len(file)-1)
		bad := bytes.Clone(file)
		bad[at] ^= 1 << rng.IntN(8)
		if _, err := verifyBackup(bad, trust); err == nil {
			t.Fatalf("byte %d of %d changed: verified", at, len(file))
		}
		if at < len(file)-ending {
			if _, err := verifyBackup(mended(bad), trust); err == nil {
				t.Fatalf("byte %d of %d changed and the checksum mended: verified", at, len(file))
			}
		}
		if _, err := verifyBackup(file[:at], trust); !errors.Is(err, backup.ErrDamaged) {
			t.Fatalf("cut at %d: %v", at, err)
		}
	}
	// Every letter and digit of the proof, by another one that JSON and base64 take as well.
	for at := proofAt + 1; at < len(file)-ending; at++ {
		bad := bytes.Clone(file)
		switch c := bad[at]; {
		case c >= '0' && c < '9', c >= 'a' && c < 'z', c >= 'A' && c < 'Z':
			bad[at]++
		case c == '9', c == 'z', c == 'Z':
			bad[at]--
		default:
			continue
		}
		if _, err := verifyBackup(mended(bad), trust); err == nil {
			t.Fatalf("%q for %q in the proof: verified", file[at-10:at+10], bad[at-10:at+10])
		}
	}
	if _, err := verifyBackup(append(bytes.Clone(file), '\n'), trust); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("a byte behind the end: %v", err)
	}
	other := trust
	other.Genesis[0] ^= 1
	if _, err := verifyBackup(file, other); err == nil {
		t.Error("another first record: verified")
	}
	other = trust
	other.Cluster = strings.Repeat("ab", 16)
	if _, err := verifyBackup(file, other); err == nil || !strings.Contains(err.Error(), "trusted is abab") {
		t.Errorf("another cluster: %v", err)
	}
}

// What a restore refuses, it refuses without leaving anything.
func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{Nodes: 1, Operators: 3, Threshold: 2})
	first, trust := backedUp(t, c)
	file, _ := backedUp(t, c)
	report, err := verifyBackup(file, trust)
	if err != nil {
		t.Fatal(err)
	}
	before, err := verifyBackup(first, trust)
	if err != nil {
		t.Fatal(err)
	}
	seed := seedOf(t, report.Header, c.Shares[0], c.Shares[1])
	root, err := c.Leader().Store().TreeRoot(report.Header.Records)
	if err != nil {
		t.Fatal(err)
	}
	head := &cluster.Head{Size: report.Header.Records, Root: root[:]}
	tomorrow := &cluster.Head{Size: head.Size, Root: head.Root, Time: time.Now().Add(24 * time.Hour).UnixMilli()}

	fresh := clustertest.New(t, clustertest.Options{Nodes: 1})
	n := fresh.Nodes[0]
	fresh.Stop(n)
	for _, test := range []struct {
		name   string
		file   []byte
		report audit.BackupReport
		change func(*cluster.RestoreRequest)
		want   error
	}{
		{"nothing kept outside, no waiver", file, report, func(r *cluster.RestoreRequest) { r.Waiver = "" }, cluster.ErrRolledBack},
		{"older than the checkpoint, no waiver", first, before, func(r *cluster.RestoreRequest) { r.Waiver, r.Outside = "", head }, cluster.ErrRolledBack},
		{"another log than the checkpoint's, in spite of the waiver", file, report, func(r *cluster.RestoreRequest) {
			r.Outside = &cluster.Head{Size: head.Size, Root: make([]byte, 32)}
		}, cluster.ErrNotThisBackup},
		{"another file than the one that was verified", first, report, nil, cluster.ErrNotThisBackup},
		{"another seed", file, report, func(r *cluster.RestoreRequest) { r.Seed = secret.Random(r.Seed.Len()) }, cluster.ErrNotThisBackup},
		{"a checkpoint of tomorrow", file, report, func(r *cluster.RestoreRequest) { r.Outside = tomorrow }, cluster.ErrRestoreTime},
		{"another time than the clock's", file, report, func(r *cluster.RestoreRequest) { r.Said = time.Now().Add(time.Hour) }, cluster.ErrRestoreTime},
		{"a waiver of two lines", file, report, func(r *cluster.RestoreRequest) { r.Waiver = "a\nb" }, cluster.ErrNotThisBackup},
		{"its MAC is of another root key", withMAC(t, file), report, nil, cluster.ErrNotThisBackup},
		{"a file that ends", file[:len(file)/2], report, nil, backup.ErrDamaged},
	} {
		if _, err := restoreInto(t, n, test.file, test.report, seed, test.change); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		if err := cluster.Restorable(filepath.Join(n.Dir, "data")); err != nil {
			t.Fatalf("%s: it left something: %v", test.name, err)
		}
	}
	// What a node of a cluster keeps beside its log: another's seeds would be asked, another's recovery recorded and its lost
	// nodes removed.
	for _, left := range []string{"seeds", "head", "members", "gossip", "recovery"} {
		path := filepath.Join(n.Dir, "data", left)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := restoreInto(t, n, file, report, seed, nil); !errors.Is(err, cluster.ErrAlreadyInitialised) {
			t.Errorf("over a left %s: %v", left, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	// The same node is a cluster's own: refused.
	if err := cluster.Restorable(filepath.Join(c.Nodes[0].Dir, "data")); err == nil {
		t.Error("a node that runs may be overwritten")
	}

	// As new as the checkpoint: no waiver is needed. Behind it: the loss is counted and on record.
	if _, err := restoreInto(t, n, file, report, seed, func(r *cluster.RestoreRequest) { r.Waiver, r.Outside = "", head }); err != nil {
		t.Fatal(err)
	}
	another := clustertest.New(t, clustertest.Options{Nodes: 1})
	another.Stop(another.Nodes[0])
	done, err := restoreInto(t, another.Nodes[0], first, before, seed, func(r *cluster.RestoreRequest) {
		r.Outside, r.Said = tomorrow, time.Now()
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := head.Size - before.Header.Records; done.Lost != want || want == 0 {
		t.Errorf("%d records are lost, want %d", done.Lost, want)
	}
	leaf, err := audit.ParseLeaf(done.Leaf)
	if err != nil || leaf.Action != fsm.ActionRestore || !strings.Contains(leaf.Detail, fmt.Sprintf("lost=%d time=confirmed waived=%q", done.Lost, "a test")) {
		t.Errorf("the record of the restore: %+v, %v", leaf, err)
	}
}

// withMAC is the same backup with another MAC beside it, in a proof that is whole in itself.
func withMAC(t *testing.T, file []byte) []byte {
	t.Helper()
	begin := bytes.LastIndex(file, []byte(`"mac":"`))
	if begin < 0 {
		t.Fatal("no MAC is in the file")
	}
	forged := bytes.Clone(file)
	if at := begin + len(`"mac":"`); forged[at] == 'A' {
		forged[at] = 'B'
	} else {
		forged[at] = 'A'
	}
	forged = forged[:bytes.LastIndex(forged, []byte("sha256 "))]
	return fmt.Appendf(forged, "sha256 %x\n", sha256.Sum256(forged))
}

// A restore that was stopped while it moved its files into place is begun again, not run on.
func TestInterruptedRestore(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{Nodes: 1, Operators: 1, Threshold: 1})
	file, trust := backedUp(t, c)
	report, err := verifyBackup(file, trust)
	if err != nil {
		t.Fatal(err)
	}
	seed := seedOf(t, report.Header, c.Shares[0])
	fresh := clustertest.New(t, clustertest.Options{Nodes: 1})
	n := fresh.Nodes[0]
	fresh.Stop(n)
	if _, err := restoreInto(t, n, file, report, seed, nil); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(n.Dir, "data")
	if err := errors.Join(os.Mkdir(filepath.Join(data, "restore"), 0o700),
		os.Rename(filepath.Join(data, "raft.db"), filepath.Join(data, "restore", "raft.db"))); err != nil {
		t.Fatal(err)
	}
	if err := fresh.TryRestart(n); !errors.Is(err, cluster.ErrInterrupted) {
		t.Errorf("a node starts on half a restore: %v", err)
	}
	fresh.Stop(n)
	if _, err := restoreInto(t, n, file, report, seed, nil); err != nil {
		t.Fatal(err)
	}
	fresh.Restart(n)
	fresh.Leader()
}

// The service authorises and records first.
func TestBackupNeedsARole(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{Options: clustertest.Options{Nodes: 1}})
	bob := c.User("bob")
	if _, err := bob.Backups().CreateBackup(t.Context(), &hizov1.CreateBackupRequest{}); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
		t.Errorf("bob: %v", err)
	}
	if _, err := bob.Backups().ListBackups(t.Context(), &hizov1.ListBackupsRequest{}); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
		t.Errorf("bob: %v", err)
	}
	if _, err := c.Engineer.Backups().CreateBackup(t.Context(), &hizov1.CreateBackupRequest{}); apitest.Reason(err) != hizov1.ReasonInvalid || !strings.Contains(err.Error(), "backup.directory") {
		t.Errorf("no place: %v", err)
	}
	found, err := c.Engineer.Audit().Search(t.Context(), &hizov1.SearchRequest{Action: "backup.create", Limit: 10, SinceUnixMs: time.Now().Add(-time.Hour).UnixMilli()})
	if err != nil || len(found.GetRecords()) != 2 {
		t.Errorf("records of the tries: %v, %v", found.GetRecords(), err)
	}
}

// A majority of those who signed before is gone. A backup of the recovered cluster verifies for whoever trusts the
// recovery, as an export does, and for nobody else.
func TestBackupAfterRecovery(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{Nodes: 3})
	keep := c.Leader()
	if _, err := keep.Backup(t.Context(), "a", "test", io.Discard); err != nil { // the three sign that they are three
		t.Fatal(err)
	}
	var lost []string
	for _, n := range slices.Clone(c.Nodes) {
		if n != keep {
			lost = append(lost, n.ID)
			c.Kill(n)
		}
	}
	c.Kill(keep)
	key, err := software.Open(filepath.Join(keep.Dir, "seal"))
	if err != nil {
		t.Fatal(err)
	}
	o, err := cluster.OpenOffline(t.Context(), keep.ID, filepath.Join(keep.Dir, "data"), key, nil)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := o.Plan(cluster.RecoverRequest{GiveUp: lost, By: "alice", Reason: "fire"})
	if err == nil {
		err = o.Carry(t.Context(), plan, time.Now())
	}
	if err := errors.Join(err, o.Close(), key.Close()); err != nil {
		t.Fatal(err)
	}
	c.Nodes = []*clustertest.Node{keep}
	c.Restart(keep)
	c.Await("the lost ones to be removed", func() bool { return keep.IsLeader() && len(keep.Store().Members()) == 1 })
	for _, share := range c.Shares[:2] {
		text, err := share.Text()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := keep.SubmitShare(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	c.Await("the cluster to be unsealed", func() bool { return !keep.Status().Sealed })

	file, trust := backedUp(t, c)
	r, _ := keep.Store().Recovery()
	recovery, err := keep.Store().AuditLeaf(r.Records[0])
	if err != nil {
		t.Fatal(err)
	}
	trust.Restores = nil
	if _, err := verifyBackup(file, trust); err == nil {
		t.Error("it verifies for whoever knows nothing of the recovery")
	}
	trust.Restores = append(trust.Restores, audit.LeafHash(recovery))
	if _, err := verifyBackup(file, trust); err != nil {
		t.Error(err)
	}
}

// One of two members is removed: the other alone can't show that both wanted it, but a trust file of the new cluster can.
func TestBackupAfterShrinkingToOne(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	last := c.Leader()
	var old audit.Trust
	for _, n := range slices.Clone(c.Nodes) {
		if n == last {
			continue
		}
		_, old = backedUp(t, c) // all that are left sign
		before, _ := last.Store().Cluster()
		c.Must(fsm.Command{
			Kind: fsm.KindMemberRemove, Principal: "user/test", Body: fsm.EncodeBody(fsm.KindMemberRemove, &fsm.MemberRemove{ID: n.ID}),
			Audits: []fsm.Audit{{Action: "remove", Resource: "node/" + n.ID, Decision: fsm.Allowed}},
		})
		c.Await("the root key to be rotated", func() bool {
			now, _ := last.Store().Cluster()
			return now.RootGeneration > before.RootGeneration
		})
		c.Kill(n)
	}
	file, trust := backedUp(t, c)
	if _, err := verifyBackup(file, old); err == nil || !strings.Contains(err.Error(), "too few were left") {
		t.Errorf("for whoever knows nothing of the removal: %v", err)
	}
	if _, err := verifyBackup(file, trust); err != nil {
		t.Error(err)
	}
}
