package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
)

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	told := func() string {
		t.Helper()
		if err := manager.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1024)
		n, err := manager.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}

	t.Setenv("NOTIFY_SOCKET", path)
	n := newNotifier(slog.New(slog.DiscardHandler))
	if left, ok := os.LookupEnv("NOTIFY_SOCKET"); ok {
		t.Errorf("NOTIFY_SOCKET is still in the environment: %q", left)
	}
	var status atomic.Pointer[cluster.Status]
	status.Store(&cluster.Status{ID: "n1"})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go n.follow(ctx, func() cluster.Status { return *status.Load() })
	if got, want := told(), "READY=1\nSTATUS=Not a member of a cluster yet; the log says what it waits for"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	status.Store(&cluster.Status{ID: "n1", ClusterName: "prod", Initialised: true, IsLeader: true, Members: make([]cluster.MemberStatus, 5)})
	if got, want := told(), "STATUS=n1 of cluster prod: leads; 5 members"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	stop()
	if got, want := told(), "STOPPING=1\nSTATUS=Stopping"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestDescribe(t *testing.T) {
	follower := cluster.Status{ID: "n2", ClusterName: "prod", Initialised: true, Members: make([]cluster.MemberStatus, 3)}
	follower.Leader.ID = "n1"
	sealed := follower
	sealed.Sealed = true
	alone := sealed
	alone.Leader.ID = ""
	for want, s := range map[string]cluster.Status{
		"n2 of cluster prod: follows n1; 3 members":              follower,
		"n2 of cluster prod: follows n1, sealed; 3 members":      sealed,
		"n2 of cluster prod: knows no leader, sealed; 3 members": alone,
	} {
		if got := describe(s); got != want {
			t.Errorf("described as %q, want %q", got, want)
		}
	}
}

// Without a service manager nothing is told and nothing goes wrong.
func TestNotifyNobody(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	newNotifier(slog.New(slog.DiscardHandler)).follow(t.Context(), func() cluster.Status {
		t.Error("the state was looked at for nobody")
		return cluster.Status{}
	})
}
