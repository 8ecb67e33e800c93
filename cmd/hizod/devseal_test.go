package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hizo/hizo/crypto/seal/softhsm"
)

func TestDevConfigIsAccepted(t *testing.T) {
	for _, hsm := range []string{"software", "softhsm"} {
		t.Run(hsm, func(t *testing.T) {
			if _, err := softhsm.Module(); hsm == "softhsm" && err != nil {
				t.Skip(err)
			}
			out := quiet(t)
			d, err := openDevDir(&devCmd{Nodes: 2, Dir: t.TempDir(), HSM: hsm}, out)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			serials := map[string]bool{}
			for i, m := range d.plan.Nodes {
				made, err := writeDevConfig(d, i, out)
				if err != nil {
					t.Fatal(err)
				}
				cfg, err := LoadConfig(made.path)
				if err != nil {
					t.Fatal(err)
				}
				if cfg.Node != m.Name || cfg.Clients.Listen != m.Clients || cfg.Peers.Advertise != m.Peers || !cfg.Development {
					t.Errorf("configuration %+v does not describe %+v", cfg, m)
				}
				if (cfg.Join != nil) != (i > 0) {
					t.Errorf("node %d: join is %v", i, cfg.Join)
				}
				again, err := writeDevConfig(d, i, out)
				if err != nil || !slices.Equal(again.env, made.env) {
					t.Errorf("made twice: %v, %v, want %v", again, err, made)
				}
				if hsm == "software" {
					continue
				}
				if within(cfg.DataDir, cfg.Seal.PKCS11.PINFile) {
					t.Error("the PIN lies on the data disk")
				}
				if len(made.env) != 1 || !strings.HasPrefix(made.env[0], "SOFTHSM2_CONF="+filepath.Dir(made.path)) {
					t.Errorf("environment %v does not name the node's own token", made.env)
				}
				tokens, err := os.ReadDir(filepath.Join(filepath.Dir(made.path), "hsm", "tokens"))
				if err != nil || len(tokens) != 1 || serials[tokens[0].Name()] {
					t.Errorf("tokens %v, %v: want one of its own", tokens, err)
				} else {
					serials[tokens[0].Name()] = true
				}
			}
		})
	}
}
