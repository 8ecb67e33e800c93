package api_test

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
	"testing"

	"github.com/hizo/hizo/api/audit"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/crypto/seal/software"
	"github.com/hizo/hizo/crypto/shares"
)

func TestBackupComesBack(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{})
	var file bytes.Buffer
	_, err := c.Leader().Backup(t.Context(), "first", "test", &file)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := c.Leader().Store().AuditLeaf(0)
	if err != nil {
		t.Fatal(err)
	}
	cl, _ := c.Leader().Store().Cluster()
	trust := audit.Trust{Cluster: inject.ClusterText(cl.ID), Genesis: audit.LeafHash(leaf)}
	report, err := audit.VerifyBackup(bytes.NewReader(file.Bytes()), trust)
	if err != nil {
		t.Fatal(err)
	}
	var deal shares.Deal
	if err := deal.UnmarshalBinary(report.Header.Deal); err != nil {
		t.Fatal(err)
	}
	seed, err := deal.Combine(c.Shares[:2])
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s, err := software.Open(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = cluster.Restore(context.Background(), cluster.Config{ID: "n9", DataDir: dir, AdvertisePeer: "a:1", AdvertiseClient: "a:2", Seal: s}, cluster.RestoreRequest{
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(file.Bytes())), nil }, Digest: report.Digest, Seed: seed, Shares: []int{1, 2}, Waiver: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
}
