package cluster_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/fsm"
)

// Every node signs the audit tree as it grows, and the signatures verify under the pinned keys.
func TestCheckpoints(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{CheckpointEvery: 50 * time.Millisecond})
	leader := c.Leader()
	last := c.Must(record("list"))
	var cp fsm.Checkpoint
	c.Await("a checkpoint by all three that covers the record", func() bool {
		var ok bool
		cp, ok = leader.Store().LatestCheckpoint()
		return ok && cp.Size > last.Audit && len(cp.Signatures) == 3
	})
	if cp.Origin != cluster.OriginOf(fsm.Cluster{ID: c.ID}) {
		t.Errorf("origin %q", cp.Origin)
	}
	digest := sha256.Sum256(cp.NoteText())
	for _, s := range cp.Signatures {
		m, _ := leader.Store().Member(s.Node)
		key, err := x509.ParsePKIXPublicKey(m.Key)
		if err != nil || !ecdsa.VerifyASN1(key.(*ecdsa.PublicKey), digest[:], s.Signature) {
			t.Errorf("signature of %s does not verify: %v", s.Node, err)
		}
	}
	size := leader.Store().AuditSize()
	c.Must(fsm.Command{Kind: fsm.KindTick, Principal: "node/" + leader.ID, Body: fsm.EncodeBody(fsm.KindTick, &fsm.Tick{})})
	if got := leader.Store().AuditSize(); got != size {
		t.Errorf("the tree grew by itself from %d to %d records", size, got)
	}
}

// A node signs no other root, nothing shorter than what it has signed, nothing of another cluster, and
// nothing at all once the file that remembers its last signature was tampered with.
func TestCheckpointsRefused(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, clustertest.Options{Nodes: 1, CheckpointEvery: time.Hour})
	c.Init()
	n := c.Nodes[0]
	for range 4 {
		c.Must(record("list"))
	}
	make := func(size uint64) fsm.Checkpoint {
		root, err := n.Store().TreeRoot(size)
		if err != nil {
			t.Fatal(err)
		}
		return fsm.Checkpoint{Origin: cluster.OriginOf(fsm.Cluster{ID: c.ID}), Size: size, Root: root[:], Time: n.Store().Time()}
	}
	if _, err := n.SignCheckpoint(t.Context(), make(3)); err != nil {
		t.Fatalf("sign: %v", err)
	}
	other := make(4)
	other.Root = bytes.Repeat([]byte{1}, 32)
	foreign := make(4)
	foreign.Origin = "hizo/00"
	old := make(4)
	old.Time -= time.Hour.Milliseconds()
	for name, cp := range map[string]fsm.Checkpoint{"shorter": make(2), "another root": other, "another cluster": foreign, "old": old} {
		if _, err := n.SignCheckpoint(t.Context(), cp); !errors.Is(err, cluster.ErrCheckpoint) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := n.SignCheckpoint(t.Context(), make(4)); err != nil {
		t.Fatalf("sign the next: %v", err)
	}
	c.Restart(n)
	c.Leader()
	if _, err := n.SignCheckpoint(t.Context(), make(3)); !errors.Is(err, cluster.ErrCheckpoint) {
		t.Errorf("after a restart it signed something shorter: %v", err)
	}
	c.Kill(n)
	path := filepath.Join(n.Dir, "data", "head")
	head, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head[len(head)-1] ^= 1
	if err := os.WriteFile(path, head, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Restart(n)
	c.Leader()
	if _, err := n.SignCheckpoint(t.Context(), make(5)); !errors.Is(err, seal.ErrAuth) {
		t.Errorf("signed with a damaged memory: %v", err)
	}
}

// A change of members is vouched for by those who signed before it: a majority of the new ones is not enough.
func TestOldSignersVouchForNewOnes(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{CheckpointEvery: 50 * time.Millisecond})
	var size uint64
	c.Await("a checkpoint by all three", func() bool {
		cp, ok := c.Leader().Store().LatestCheckpoint()
		size = cp.Size
		return ok && len(cp.Signatures) == 3
	})
	// Two of the three can sign no more, and go on otherwise.
	heads := make(map[string][]byte)
	for _, n := range c.Nodes[1:3] {
		c.Kill(n)
		path := filepath.Join(n.Dir, "data", "head")
		head, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		heads[path] = bytes.Clone(head)
		head[len(head)-1] ^= 1
		if err := os.WriteFile(path, head, 0o600); err != nil {
			t.Fatal(err)
		}
		c.Restart(n)
	}
	c.AwaitReady()
	if cp, _ := c.Leader().Store().LatestCheckpoint(); cp.Size > size {
		size = cp.Size // it came between
	}
	var last fsm.Result
	for range 2 {
		n := c.Add()
		c.Join(n)
		c.Approve(n.ID)
	}
	c.AwaitReady()
	last = c.Must(record("list"))
	leader := c.Leader()
	if now := leader.Store().SignersAt(leader.Store().AuditSize()); len(now) != 5 {
		t.Fatalf("%d signers", len(now))
	}
	if list, err := leader.CollectSignatures(t.Context(), size); err == nil {
		t.Errorf("three new and old signers of five made a checkpoint: %v", list)
	}
	for path, head := range heads {
		n := c.Nodes[1]
		if !strings.HasPrefix(path, n.Dir) {
			n = c.Nodes[2]
		}
		c.Kill(n)
		if err := os.WriteFile(path, head, 0o600); err != nil {
			t.Fatal(err)
		}
		c.Restart(n)
	}
	c.Await("a checkpoint over the new members", func() bool {
		cp, ok := c.Leader().Store().LatestCheckpoint()
		return ok && cp.Size > last.Audit
	})
	store := c.Leader().Store()
	before := store.SignersAt(1)
	for _, cp := range store.Checkpoints(0) {
		count := 0
		for _, s := range cp.Signatures {
			if slices.ContainsFunc(before, func(who fsm.Signer) bool { return who.ID == s.Node }) {
				count++
			}
		}
		if count*2 <= len(before) {
			t.Errorf("the checkpoint over %d records has %d of %d signers of the one before", cp.Size, count, len(before))
		}
		before = store.SignersAt(cp.Size)
	}
}

// A head file that is gone, or an old copy, gets no signature: the state says that this node signed more. A node
// that was removed and joined again starts anew.
func TestForgottenHead(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{CheckpointEvery: 50 * time.Millisecond})
	n := c.Nodes[2]
	path := filepath.Join(n.Dir, "data", "head")
	signed := func(above uint64) fsm.Checkpoint {
		t.Helper()
		var cp fsm.Checkpoint
		c.Await("a checkpoint that it signed", func() bool {
			var ok bool
			cp, ok = n.Store().LatestCheckpoint()
			return ok && cp.Size > above && slices.ContainsFunc(cp.Signatures, func(s fsm.Signature) bool { return s.Node == n.ID })
		})
		return cp
	}
	first := signed(0)
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	known := max(first.Size, n.Store().AuditSize()) // the copy remembers no more than that
	c.Must(record("list"))
	last := signed(known)
	next := func() fsm.Checkpoint {
		size := n.Store().AuditSize()
		root, err := n.Store().TreeRoot(size)
		if err != nil {
			t.Fatal(err)
		}
		return fsm.Checkpoint{Origin: cluster.OriginOf(fsm.Cluster{ID: c.ID}), Size: size, Root: root[:], Time: n.Store().Time()}
	}
	for name, change := range map[string]func() error{
		"deleted":  func() error { return os.Remove(path) },
		"old copy": func() error { return os.WriteFile(path, old, 0o600) },
	} {
		c.Kill(n)
		if err := change(); err != nil {
			t.Fatal(err)
		}
		c.Restart(n)
		// Its own signature is in a record behind the leaves that it covers.
		c.Await("the state", func() bool { cp, ok := n.Store().LatestCheckpoint(); return ok && cp.Size >= last.Size })
		if _, err := n.SignCheckpoint(t.Context(), next()); !errors.Is(err, cluster.ErrCheckpoint) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.Must(fsm.Command{
		Kind: fsm.KindMemberRemove, Principal: "user/test", Body: fsm.EncodeBody(fsm.KindMemberRemove, &fsm.MemberRemove{ID: n.ID}),
		Audits: []fsm.Audit{{Action: "member.remove", Resource: "node/" + n.ID, Decision: fsm.Allowed}},
	})
	c.Kill(n)
	c.Forget(n)
	c.Join(n)
	c.Approve(n.ID)
	c.AwaitReady()
	if _, err := n.SignCheckpoint(t.Context(), next()); err != nil {
		t.Errorf("after it was let in again: %v", err)
	}
}

// Clients verify the cluster's name against its CA, at every node.
func TestNodeCertificates(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, clustertest.Options{Nodes: 2})
	before, err := c.Nodes[1].ClientCertificate()
	if err != nil {
		t.Fatal(err)
	}
	if leaf := parse(t, before); leaf.Issuer.String() != leaf.Subject.String() {
		t.Error("a certificate before there is a CA")
	}
	c.Init()
	c.Join(c.Nodes[1])
	c.Approve(c.Nodes[1].ID)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(c.CA) {
		t.Fatal("no CA certificate")
	}
	for _, n := range c.Nodes {
		c.Await("a certificate of "+n.ID, func() bool {
			m, _ := n.Store().Member(n.ID)
			return len(m.ClientCert) > 0
		})
		cert, err := n.ClientCertificate()
		if err != nil {
			t.Fatal(err)
		}
		leaf := parse(t, cert)
		for _, name := range []string{cluster.ServerName, n.ID} {
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
				t.Errorf("%s as %s: %v", n.ID, name, err)
			}
		}
		// Its address is what it announces itself, and would be anybody's.
		if err := leaf.VerifyHostname(n.ID + ".test.invalid"); err == nil {
			t.Errorf("%s has a certificate for the address that it announces", n.ID)
		}
		if key, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !key.Equal(n.Seal.Identity().Public()) {
			t.Errorf("%s: the certificate is not over its HSM key", n.ID)
		}
	}
}

func parse(t *testing.T, cert *tls.Certificate) *x509.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func TestClientCertificates(t *testing.T) {
	c := clustertest.New(t, clustertest.Options{Nodes: 1})
	c.Init()
	n := c.Nodes[0]
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "root"}, DNSNames: []string{cluster.ServerName},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	out, body, err := n.IssueClientCertificate("workload/train", csr, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(out)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if leaf.Subject.CommonName != "workload/train" || len(leaf.DNSNames) != 0 {
		t.Errorf("names were taken from the request: %v %v", leaf.Subject, leaf.DNSNames)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.CA)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("a client's certificate serves")
	}
	ring, err := n.Keyring()
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.VerifyMAC(1, body.MACDomain(), body.MACBody(), body.MAC); err != nil {
		t.Error(err)
	}
	csr[len(csr)-1] ^= 1
	if _, _, err := n.IssueClientCertificate("workload/train", csr, time.Hour); !errors.Is(err, cluster.ErrCSR) {
		t.Errorf("a request with a broken signature: %v", err)
	}
}
