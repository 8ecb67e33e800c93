package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/lease"
	"github.com/hizo/hizo/cluster/rotate"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/crypto/seal/pkcs11"
	"github.com/hizo/hizo/crypto/seal/software"
	"github.com/hizo/hizo/transport"
)

// This file is the only place that knows which implementations there are.

// openSeal opens the configured seal.
func openSeal(cfg SealConfig, log *slog.Logger) (seal.Seal, error) {
	switch cfg.Type {
	case "pkcs11":
		p := cfg.PKCS11
		return pkcs11.Open(pkcs11.Config{
			Module: p.Module, TokenLabel: p.TokenLabel, TokenSerial: p.TokenSerial,
			PINFile: p.PINFile, KeyPrefix: p.KeyPrefix,
		})
	case "software":
		log.Warn("the keys of this node are not in hardware: whoever copies the key file and the data directory has its share; use a PKCS#11 token for anything that matters",
			"file", cfg.Software.File)
		return software.Open(cfg.Software.File)
	}
	return nil, fmt.Errorf("seal.type: %q is unknown", cfg.Type)
}

// fingerprint is how a node's key is named to people: hex SHA-256 of its PKIX encoding.
func fingerprint(s seal.Seal) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(s.Identity().Public())
	if err != nil {
		return "", fmt.Errorf("identity key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// rotationTargets are what a rotation can change outside of the cluster.
func rotationTargets(cfg RotationConfig, members *cluster.Directory) (map[string]target.Target, error) {
	commands := make(map[string]target.Command, len(cfg.Commands))
	for name, c := range cfg.Commands {
		commands[name] = target.Command(c)
	}
	command, err := target.NewCommand(commands)
	if err != nil {
		return nil, err
	}
	hook := target.Webhook{Cluster: func() []string { return memberHosts(members) }}
	for _, text := range cfg.WebhookAllow {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("rotation.webhook_allow: %q is no network such as 10.7.0.0/16", text)
		}
		hook.Allow = append(hook.Allow, prefix.Masked())
	}
	return map[string]target.Target{
		"generated":  target.NewGenerated(),
		"postgresql": target.NewPostgres(),
		"mariadb":    target.NewMariaDB(),
		"redis":      target.NewRedis(),
		"webhook":    target.NewWebhook(hook),
		"command":    command,
	}, nil
}

// memberHosts are the hosts of the cluster's nodes.
func memberHosts(members *cluster.Directory) []string {
	var hosts []string
	for _, id := range members.IDs() {
		if p, ok := members.Peer(id); ok {
			if host, _, err := net.SplitHostPort(p.Addr); err == nil {
				hosts = append(hosts, host)
			}
		}
	}
	return hosts
}

// newRotations makes the engine that rotates secrets while this node leads.
func newRotations(cfg RotationConfig, members *cluster.Directory, log *slog.Logger) (*rotate.Engine, error) {
	targets, err := rotationTargets(cfg, members)
	if err != nil {
		return nil, err
	}
	return rotate.New(rotate.Config{Targets: targets, Logger: log}), nil
}

// leaseUsers are what a lease can make a user of.
func leaseUsers() map[string]target.Users {
	return map[string]target.Users{
		"postgresql": target.NewPostgresUsers(),
		"mariadb":    target.NewMariaDBUsers(),
		"redis":      target.NewRedisUsers(),
	}
}

// newLeases makes the engine that makes users for one run, and drops them while this node leads.
func newLeases(log *slog.Logger) *lease.Engine {
	return lease.New(lease.Config{Users: leaseUsers(), Logger: log})
}

// openNode starts the node with everything it stands on.
func openNode(cfg *Config, log *slog.Logger, s seal.Seal, dir *cluster.Directory, mux *transport.Mux, duties ...cluster.Duty) (*cluster.Node, error) {
	conf := cluster.Config{
		ID: cfg.Node, DataDir: cfg.DataDir,
		AdvertisePeer: cfg.Peers.Advertise, AdvertiseClient: cfg.Clients.Advertise,
		Seal: s, Directory: dir, Transport: mux,
		Profile: cluster.Profile(cfg.Raft.Profile), SnapshotBytes: int64(cfg.Raft.SnapshotMiB) << 20, Development: cfg.Development, Logger: log,
		DiskReserve: uint64(*cfg.Disk.ReserveMiB) << 20, Duties: duties, Seeds: func() []string { return cfg.Peers.Seeds },
	}
	if cfg.Gossip.Listen != "" {
		start, err := gossipStarter(cfg.Gossip, log)
		if err != nil {
			return nil, err
		}
		conf.Gossip = start
	}
	return cluster.Open(conf)
}
