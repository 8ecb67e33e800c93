package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/goccy/go-yaml"

	"github.com/hizo/hizo/crypto/seal/softhsm"
)

// chooseHSM decides where the nodes of a new cluster keep their keys.
func chooseHSM(want string, out *devReport) (string, error) {
	if want == "software" {
		out.warn("--hsm software: each node's keys lie in a plain file; whoever copies it has them")
		return want, nil
	}
	_, err := softhsm.Module()
	switch {
	case err == nil:
		return "softhsm", nil
	case want == "auto" && errors.Is(err, softhsm.ErrNotInstalled):
		out.warn("%v: falling back to software tokens. Each node's keys lie in a plain file; whoever copies it has them", err)
		return "software", nil
	default:
		return "", fmt.Errorf("--hsm softhsm: %w", err)
	}
}

// writeDevConfig makes node i's token, unless it is there, and the file that `hizod server` gets.
func writeDevConfig(dir *devDir, i int, out *devReport) (devConfig, error) {
	m := dir.plan.Nodes[i]
	home := dir.node(i)
	cfg := Config{
		Node:        m.Name,
		DataDir:     filepath.Join(home, "data"),
		Peers:       PeersConfig{Listen: m.Peers},
		Clients:     ClientsConfig{Listen: m.Clients},
		Gossip:      GossipConfig{Listen: m.Gossip, CIDRs: []string{"127.0.0.0/8"}},
		Backup:      BackupConfig{Directory: dir.path("backups")},
		Development: true,
	}
	if err := os.MkdirAll(cfg.Backup.Directory, 0o700); err != nil {
		return devConfig{}, err
	}
	if i > 0 {
		cfg.Join = &JoinConfig{TokenFile: filepath.Join(home, "join-token")}
	}
	var env []string
	switch dir.plan.HSM {
	case "softhsm":
		token, err := softhsm.Provision(filepath.Join(home, "hsm"), "hizo-"+m.Name)
		if err != nil {
			return devConfig{}, err
		}
		cfg.Seal.Type = "pkcs11"
		cfg.Seal.PKCS11 = PKCS11Config{Module: token.Module, TokenLabel: token.Label, PINFile: token.PINFile}
		env = append(env, token.Env())
	case "software":
		cfg.Seal.Type = "software"
	default:
		return devConfig{}, fmt.Errorf("hizo-dev.json: hsm %q is unknown", dir.plan.HSM)
	}
	data, err := yaml.MarshalWithOptions(cfg, yaml.OmitEmpty())
	if err != nil {
		return devConfig{}, err
	}
	data = append([]byte("# Written by hizod dev at each start: changes are lost.\n"), data...)
	path := filepath.Join(home, "config.yaml")
	if err := writeFile(path, data); err != nil {
		return devConfig{}, err
	}
	if _, err := LoadConfig(path); err != nil {
		return devConfig{}, fmt.Errorf("the written configuration is refused: %w", err)
	}
	return devConfig{path: path, data: cfg.DataDir, env: env}, nil
}

// devConfig says how to start a node.
type devConfig struct {
	path string
	data string   // data directory
	env  []string // how the node finds its token
}
