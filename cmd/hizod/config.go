package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/hizo/hizo/cluster"
)

// maxConfigSize bounds a configuration file; real ones are below 4 KiB.
const maxConfigSize = 1 << 20

// Config is one node's configuration file. It holds no secret: the PIN and the join token are named by file.
type Config struct {
	Node     string         `yaml:"node"`     // this node's name, unique in the cluster; it never changes
	DataDir  string         `yaml:"data_dir"` // log, state, snapshots, share files; mode 0700
	Peers    PeersConfig    `yaml:"peers"`    // Raft and the nodes' own calls
	Clients  ClientsConfig  `yaml:"clients"`  // gRPC for clients
	Gossip   GossipConfig   `yaml:"gossip"`   // optional; hints only
	Seal     SealConfig     `yaml:"seal"`
	Join     *JoinConfig    `yaml:"join"` // absent: this node waits to be initialised
	Raft     RaftConfig     `yaml:"raft"`
	Log      LogConfig      `yaml:"log"`
	Rotation RotationConfig `yaml:"rotation"`
	Disk     DiskConfig     `yaml:"disk"`
	Backup   BackupConfig   `yaml:"backup"`
	Observe  ObserveConfig  `yaml:"observe"` // optional: probes and metrics

	// Development marks the state for good: `hizod server` refuses it without this flag and `hizod dev` sets it.
	Development bool `yaml:"development"`
	// MemoryLock keeps the process out of swap (mlockall); needs CAP_IPC_LOCK or a raised RLIMIT_MEMLOCK.
	MemoryLock bool `yaml:"memory_lock"`
}

// PeersConfig is the peers' port.
type PeersConfig struct {
	Listen    string `yaml:"listen"`
	Advertise string `yaml:"advertise"` // the address that others reach it by; default: Listen
	// Seeds are addresses of peers' ports, also names that stand for several, where members are looked for that are not
	// at the address they had: after a restart of all nodes at other addresses.
	Seeds []string `yaml:"seeds"`
}

// ClientsConfig is the clients' port.
type ClientsConfig struct {
	Listen    string `yaml:"listen"`
	Advertise string `yaml:"advertise"`
	// Splice forwards connections to the leader unopened while this node is a follower,
	// for clients that reach one node only.
	Splice bool `yaml:"splice"`
}

// GossipConfig is memberlist's port (TCP and UDP).
type GossipConfig struct {
	Listen string   `yaml:"listen"` // empty: no gossip
	CIDRs  []string `yaml:"allowed_cidrs"`
	// Seeds are gossip addresses to contact. By default every member is tried at its peers' port plus one.
	Seeds []string `yaml:"seeds"`
}

// SealConfig says where this node's keys live.
type SealConfig struct {
	Type     string         `yaml:"type"` // pkcs11 or software
	PKCS11   PKCS11Config   `yaml:"pkcs11"`
	Software SoftwareConfig `yaml:"software"`
}

// PKCS11Config names a token. It is found by serial or label, never by slot number.
type PKCS11Config struct {
	Module      string `yaml:"module"`
	TokenLabel  string `yaml:"token_label"`
	TokenSerial string `yaml:"token_serial"`
	PINFile     string `yaml:"pin_file"` // may begin with $CREDENTIALS_DIRECTORY/
	KeyPrefix   string `yaml:"key_prefix"`
}

// SoftwareConfig is the key file of the seal without hardware.
type SoftwareConfig struct {
	File string `yaml:"file"`
}

// JoinConfig makes this node join a cluster.
type JoinConfig struct {
	// TokenFile holds the token of `hizo cluster join-token`. While it does not exist the node waits for it.
	TokenFile string `yaml:"token_file"`
}

// RaftConfig selects timings.
type RaftConfig struct {
	Profile string `yaml:"profile"` // lan (default) or wan
	// SnapshotMiB is how much log may follow a snapshot before the next one is taken; default 64.
	SnapshotMiB int `yaml:"snapshot_mib"`
}

// RotationConfig is what rotations may do from this node. Whichever node leads rotates: keep it the same on all.
type RotationConfig struct {
	// Commands that rotations may run, by the name that they choose them by.
	Commands map[string]CommandConfig `yaml:"commands"`
	// WebhookAllow are networks that webhooks may be in although nodes refuse them otherwise: loopback, link-local,
	// metadata services, the cluster itself.
	WebhookAllow []string `yaml:"webhook_allow"`
}

// CommandConfig is one program.
type CommandConfig struct {
	Path    string        `yaml:"path"` // absolute
	Args    []string      `yaml:"args"`
	User    string        `yaml:"user"`    // who it runs as; needed where hizod runs as root
	Timeout time.Duration `yaml:"timeout"` // default 20s
	// SameUser lets it run as hizod's own user where that is not root.
	SameUser bool `yaml:"same_user"`
}

// DiskConfig says how much of the disk is kept for this node.
type DiskConfig struct {
	// ReserveMiB is the space below which the node hands leadership over and takes no writes, at most a twentieth of the
	// file system; half of it lies in a file. 0: none. Default 256, in development 32.
	ReserveMiB *int `yaml:"reserve_mib"`
}

// ObserveConfig is the listener for probes and metrics: plain HTTP without credentials, so not for everybody's network.
type ObserveConfig struct {
	Listen string        `yaml:"listen"` // empty: no listener
	Traces *TracesConfig `yaml:"traces"` // absent: none
}

// TracesConfig says where traces of calls go.
type TracesConfig struct {
	Endpoint  string   `yaml:"endpoint"`  // HOST:PORT of an OpenTelemetry collector (OTLP over gRPC)
	Plaintext bool     `yaml:"plaintext"` // without TLS, for a collector on this machine
	CAFile    string   `yaml:"ca_file"`   // default: the system's
	Sample    *float64 `yaml:"sample"`    // part of the traces that is kept, 0 to 1; default 0.01
}

// LogConfig of the server's own log on standard error.
type LogConfig struct {
	Level  string `yaml:"level"`  // debug, info (default), warn, error
	Format string `yaml:"format"` // text (default) or json
}

// LoadConfig reads and checks a file. Unknown keys are refused with their line and column.
func LoadConfig(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	if len(data) > maxConfigSize {
		return nil, fmt.Errorf("configuration %s: larger than %d bytes", path, maxConfigSize)
	}
	cfg, err := ParseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return cfg, nil
}

// ParseConfig decodes strictly, fills in defaults and checks.
func ParseConfig(data []byte) (*Config, error) {
	var cfg Config
	dec := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict())
	if err := dec.Decode(&cfg); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the file is empty")
		}
		return nil, errors.New(yaml.FormatError(err, false, true))
	}
	cfg.fill()
	return &cfg, cfg.check()
}

func (c *Config) fill() {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&c.Peers.Advertise, c.Peers.Listen)
	def(&c.Clients.Advertise, c.Clients.Listen)
	credential(&c.Seal.PKCS11.PINFile)
	if c.Backup.S3 != nil {
		credential(&c.Backup.S3.CredentialsFile)
	}
	def(&c.Raft.Profile, "lan")
	def(&c.Log.Level, "info")
	def(&c.Log.Format, "text")
	if c.Disk.ReserveMiB == nil {
		reserve := cluster.DefaultReserve >> 20
		if c.Development {
			reserve = 32
		}
		c.Disk.ReserveMiB = &reserve
	}
	if c.Seal.Type == "software" && c.DataDir != "" {
		def(&c.Seal.Software.File, filepath.Join(c.DataDir, "software-seal.key"))
	}
}

// check collects every mistake, so that one run shows them all.
func (c *Config) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Node == "" {
		bad("node: missing; give this node a name that stays, for example n1")
	}
	if c.DataDir == "" {
		bad("data_dir: missing")
	}
	for _, l := range []struct{ key, addr string }{
		{"peers.listen", c.Peers.Listen}, {"peers.advertise", c.Peers.Advertise},
		{"clients.listen", c.Clients.Listen}, {"clients.advertise", c.Clients.Advertise},
	} {
		if l.addr == "" {
			bad("%s: missing; write HOST:PORT", l.key)
		} else if host, _, err := net.SplitHostPort(l.addr); err != nil {
			bad("%s: %q is not HOST:PORT", l.key, l.addr)
		} else if ip := net.ParseIP(host); strings.HasSuffix(l.key, ".advertise") && (host == "" || ip != nil && ip.IsUnspecified()) {
			bad("%s: %q cannot be reached from elsewhere; set the address that others use", l.key, l.addr)
		}
	}
	for _, seed := range c.Peers.Seeds {
		if host, _, err := net.SplitHostPort(seed); err != nil || host == "" {
			bad("peers.seeds: %q is not HOST:PORT", seed)
		}
	}
	if c.Gossip.Listen != "" {
		if _, _, err := net.SplitHostPort(c.Gossip.Listen); err != nil {
			bad("gossip.listen: %q is not HOST:PORT", c.Gossip.Listen)
		}
	}
	if *c.Disk.ReserveMiB < 0 || *c.Disk.ReserveMiB > 1<<20 {
		bad("disk.reserve_mib: %d is not a size from 1 to 1048576, or 0 for none", *c.Disk.ReserveMiB)
	}
	if c.Observe.Listen != "" {
		if _, _, err := net.SplitHostPort(c.Observe.Listen); err != nil {
			bad("observe.listen: %q is not HOST:PORT", c.Observe.Listen)
		}
	}
	if t := c.Observe.Traces; t != nil {
		if _, _, err := net.SplitHostPort(t.Endpoint); err != nil {
			bad("observe.traces.endpoint: %q is not HOST:PORT", t.Endpoint)
		}
		if t.Plaintext && t.CAFile != "" {
			bad("observe.traces: plaintext and ca_file contradict each other")
		}
		if t.Sample != nil && !(*t.Sample >= 0 && *t.Sample <= 1) {
			bad("observe.traces.sample: %v is not between 0 and 1", *t.Sample)
		}
	}
	for _, cidr := range c.Gossip.CIDRs {
		if _, _, err := net.ParseCIDR(cidr); err != nil {
			bad("gossip.allowed_cidrs: %q is not a network such as 10.1.0.0/16", cidr)
		}
	}
	switch c.Seal.Type {
	case "pkcs11":
		p := c.Seal.PKCS11
		if p.Module == "" {
			bad("seal.pkcs11.module: missing; the path of the vendor's PKCS#11 library")
		}
		if (p.TokenLabel == "") == (p.TokenSerial == "") {
			bad("seal.pkcs11: set exactly one of token_label and token_serial")
		}
		if p.PINFile == "" {
			bad("seal.pkcs11.pin_file: missing; a file of mode 0600 that is not on the data disk")
		} else if within(c.DataDir, p.PINFile) && !c.Development {
			bad("seal.pkcs11.pin_file: lies in data_dir; whoever takes the disk would have the PIN: keep it elsewhere")
		}
	case "software":
	case "":
		bad("seal.type: missing; pkcs11, or software for trying things out")
	default:
		bad("seal.type: %q is unknown; pkcs11 or software", c.Seal.Type)
	}
	if c.Join != nil && c.Join.TokenFile == "" {
		bad("join.token_file: missing")
	}
	if c.Raft.Profile != "lan" && c.Raft.Profile != "wan" {
		bad("raft.profile: %q is unknown; lan or wan", c.Raft.Profile)
	}
	if c.Raft.SnapshotMiB < 0 || c.Raft.SnapshotMiB > 4096 {
		bad("raft.snapshot_mib: %d is not a size from 1 to 4096, or 0 for the default", c.Raft.SnapshotMiB)
	}
	if _, err := c.Log.level(); err != nil {
		bad("log.level: %w", err)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		bad("log.format: %q is unknown; text or json", c.Log.Format)
	}
	if err := c.Backup.check(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// within reports whether path lies below dir.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

func (l LogConfig) level() (slog.Level, error) {
	var level slog.Level
	err := level.UnmarshalText([]byte(l.Level))
	return level, err
}

func (l LogConfig) logger(w io.Writer) *slog.Logger {
	level, err := l.level()
	if err != nil {
		level = slog.LevelInfo // check has refused it already
	}
	opts := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
