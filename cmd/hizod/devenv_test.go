package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRunCommandAnswersItsExitCode(t *testing.T) {
	for _, tt := range []struct {
		command string
		want    int
	}{{"true", 0}, {"exit 3", 3}, {"kill -KILL $$", 137}, {"no-such-program-here", 127}, {`test "$MARK" = "a b"`, 0}} {
		err := runCommand(t.Context(), tt.command+" 2>/dev/null", append(os.Environ(), "MARK=a b"))
		code := 0
		if exit, ok := errors.AsType[exitCode](err); ok {
			code = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if code != tt.want {
			t.Errorf("%q: exit code %d, want %d", tt.command, code, tt.want)
		}
	}
}

func TestRunCommandLeavesNothingRunning(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	if err := runCommand(t.Context(), "sleep 1000 & echo $! >"+file, os.Environ()); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, readPID(t, file))

	// Interrupted: the command and what it started end, also where it ignores being asked to.
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for ctx.Err() == nil {
			if data, err := os.ReadFile(file + "2"); err == nil && strings.HasSuffix(string(data), "\n") {
				cancel(interruption{unix.SIGTERM})
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	err := runCommand(ctx, "sleep 1000 & echo $! >"+file+"2; wait", os.Environ())
	if _, ok := errors.AsType[interruption](err); !ok {
		t.Errorf("got %v, want the interruption", err)
	}
	awaitGone(t, readPID(t, file+"2"))
}

func readPID(t *testing.T, path string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// awaitGone waits until a process has ended; a zombie has.
func awaitGone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for alive(pid) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d still runs", pid)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func alive(pid int) bool {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func TestShellQuoteSurvivesAShell(t *testing.T) {
	for _, s := range []string{"", "plain", "/a/b c", `it's "$HOME" \ and` + "\n`x`", "é*?"} {
		for _, word := range []string{shellQuote(s), shellWord(s)} {
			out, err := exec.Command("/bin/sh", "-c", "printf %s "+word).Output()
			if err != nil || string(out) != s {
				t.Errorf("%q became %q through a shell, %v", s, out, err)
			}
		}
	}
	if w := shellWord("./hizo-dev/env"); w != "./hizo-dev/env" {
		t.Errorf("quoted for nothing: %s", w)
	}
}
