package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// scriptNode is a node whose program is a shell script.
func scriptNode(t *testing.T, script string) *devNode {
	t.Helper()
	dir := t.TempDir()
	exe := filepath.Join(dir, "program")
	if err := os.WriteFile(exe, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	n := &devNode{devMember: devMember{Number: 1, Name: "n1"}, dir: dir, exe: exe, config: devConfig{path: "config"}, out: quiet(t)}
	if err := n.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = n.cmd.Process.Kill()
		<-n.done
	})
	return n
}

func TestNodeThatEndsEarlyIsExplained(t *testing.T) {
	n := scriptNode(t, `echo "started as $1 $2 $3"; echo "hizod: wrong PIN"; exit 4`)
	err := n.waitFor(t.Context(), "it answers", func() (bool, error) { return false, nil })
	for _, want := range []string{"node n1 failed with exit code 4", "hizod: wrong PIN", "started as server --config config", filepath.Join(n.dir, "log")} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(n.dir, "pid")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pid file of an ended process is still there: %v", err)
	}
}

func TestWaitForEndsWithItsContext(t *testing.T) {
	n := scriptNode(t, "exec sleep 1000")
	cause, reason := errors.New("enough"), errors.New("not a voter yet")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := n.waitFor(ctx, "it votes", func() (bool, error) {
		cancel(cause)
		return false, reason
	})
	if !errors.Is(err, cause) || !errors.Is(err, reason) || !strings.Contains(err.Error(), "it votes") {
		t.Errorf("got %v, want cause, last error and what was waited for", err)
	}
}

func TestStopNodesAsksThenKills(t *testing.T) {
	t.Parallel()
	ready := func(n *devNode) {
		t.Helper()
		err := n.waitFor(t.Context(), "it is ready", func() (bool, error) {
			return strings.Contains(tail(filepath.Join(n.dir, "log"), 1), "ready"), nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	polite := scriptNode(t, "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done")
	stubborn := scriptNode(t, "trap '' TERM; echo ready; while :; do sleep 0.05; done")
	ready(polite)
	ready(stubborn)
	if got := readPID(t, filepath.Join(polite.dir, "pid")); got != polite.pid() {
		t.Errorf("pid file says %d, want %d", got, polite.pid())
	}
	err := stopNodes([]*devNode{polite, stubborn, {}}, 500*time.Millisecond)
	if err == nil || strings.Count(err.Error(), "did not stop") != 1 {
		t.Errorf("got %v, want one complaint", err)
	}
	if polite.running() || stubborn.running() {
		t.Error("a node still runs")
	}
	if got := tail(filepath.Join(polite.dir, "log"), 1); got != "bye" {
		t.Errorf("the polite node was not asked: its log ends with %q", got)
	}
	if got := stubborn.ended(); got != "was ended by SIGKILL" {
		t.Errorf("the stubborn node %s", got)
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	text := strings.Repeat("line\n", 5000) + "last but one\nlast\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := tail(path, 2); got != "last but one\nlast" {
		t.Errorf("got %q", got)
	}
	if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := tail(path, 2); got != "one" {
		t.Errorf("got %q", got)
	}
}
