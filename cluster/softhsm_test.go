package cluster_test

import (
	"errors"
	"testing"

	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/crypto/seal/pkcs11"
	"github.com/hizo/hizo/crypto/seal/softhsm"
)

// The same cluster on PKCS#11 tokens: TLS, checkpoints and shares by keys that cannot be extracted, and
// the whole cluster cold-restarted.
func TestSoftHSM(t *testing.T) {
	dir := t.TempDir()
	tokens := make(map[string]softhsm.Token)
	for _, id := range []string{"n1", "n2", "n3"} {
		token, err := softhsm.Provision(dir, id)
		if errors.Is(err, softhsm.ErrNotInstalled) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		tokens[id] = token
		t.Setenv(softhsm.ConfEnv, token.Conf)
	}
	c := clustertest.Start(t, clustertest.Options{OpenSeal: func(t testing.TB, _, id string) seal.Seal {
		token := tokens[id]
		s, err := pkcs11.Open(pkcs11.Config{Module: token.Module, TokenLabel: token.Label, PINFile: token.PINFile})
		if err != nil {
			t.Fatalf("open the token of %s: %v", id, err)
		}
		return s
	}})
	c.Must(record("list"))
	for _, n := range c.Nodes {
		c.Kill(n)
	}
	for _, n := range c.Nodes {
		c.Restart(n)
	}
	c.AwaitReady()
	c.Must(record("list"))
	if kind := c.Nodes[0].Status().SealKind; kind != seal.PKCS11 {
		t.Errorf("seal %q", kind)
	}
}
