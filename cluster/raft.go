package cluster

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// Profile chooses Raft's timing.
type Profile string

// Profiles. LAN fails over in well under a second (simulated: p50 0.59 s, p95 0.80 s); WAN keeps raft's
// defaults for links of some 100 ms.
const (
	LAN Profile = "lan"
	WAN Profile = "wan"
)

// Bounds of what is kept in the log, in bytes: entries of a group commit are up to 256 KiB, so that
// counting entries alone could mean gigabytes.
const (
	snapshotBytes = 64 << 20
	trailingBytes = 32 << 20
	maxTrailing   = 10240
)

// maxAppendEntries is small because one entry is up to 256 KiB (of one record: 1 MiB). The log's cache is
// logstore's business.
const maxAppendEntries = 8

func raftConfig(cfg Config, notify chan<- bool) (*raft.Config, error) {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(cfg.ID)
	switch cfg.Profile {
	case LAN, "":
		// The election timer runs U[H, 2H] and contact does not reset it; a pre-vote is refused until the
		// other follower has timed out as well: about 2.7 H at p95 for three nodes.
		rc.HeartbeatTimeout = 300 * time.Millisecond
		rc.ElectionTimeout = 300 * time.Millisecond
		rc.LeaderLeaseTimeout = 300 * time.Millisecond
	case WAN:
	default:
		return nil, fmt.Errorf("unknown raft profile %q: use %q or %q", cfg.Profile, LAN, WAN)
	}
	rc.CommitTimeout = 50 * time.Millisecond
	rc.MaxAppendEntries = maxAppendEntries
	rc.TrailingLogs = maxTrailing
	rc.SnapshotThreshold = 8192
	rc.NotifyCh = notify
	rc.NoLegacyTelemetry = true
	rc.Logger = raftLogger(cfg.Logger, "raft")
	return rc, nil
}

// raftTransport has Raft's RPCs go over the pinned streams. MaxRPCsInFlight 1 turns pipelining off: with
// the default, replication can stall after a follower answers Success=false while heartbeats hide it
// (hashicorp/raft#612).
func raftTransport(stream raft.StreamLayer, log *slog.Logger) *raft.NetworkTransport {
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: stream, MaxPool: 3, MaxRPCsInFlight: 1, Timeout: 2 * time.Second,
		Logger: raftLogger(log, "raft-net"),
	})
}

// raftLogger sends raft's lines to slog. Log data that raft may print with %#v is ciphertext already.
func raftLogger(log *slog.Logger, name string) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Name: name, Level: hclog.Info, DisableTime: true, Output: lineLogger{log.With("component", name)},
	})
}

type lineLogger struct{ log *slog.Logger }

func (l lineLogger) Write(line []byte) (int, error) {
	level := slog.LevelInfo
	text := bytes.TrimSpace(line)
	for prefix, as := range map[string]slog.Level{
		"[ERROR]": slog.LevelError, "[WARN]": slog.LevelWarn, "[DEBUG]": slog.LevelDebug, "[TRACE]": slog.LevelDebug, "[INFO]": slog.LevelInfo,
	} {
		if rest, ok := bytes.CutPrefix(text, []byte(prefix)); ok {
			level, text = as, bytes.TrimSpace(rest)
			break
		}
	}
	l.log.Log(context.Background(), level, string(text))
	return len(line), nil
}
