// Program bugs proves that the harness sees what it is there to see: it breaks Hizo on purpose, one promise at a time, and
// demands that a run notices (`make chaos-bugs`; the list is in table.go and, for readers, in ../BUGS.md). The product's
// own code holds none of this: each break is an edit of its source that only this build sees (go build -overlay).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/hizo/hizo/chaos/overlay"
)

// bug is one deliberate break.
type bug struct {
	name    string
	promise string // what it breaks
	edits   []edit
	// Either test, a `go test` that must fail, or faults, what a chaos run must survive and does not.
	test    []string
	faults  string
	nodes   int
	says    string // what the failure has to say
	seeds   int    // chaos runs to try; the first one that notices ends it
	seconds int    // of faults in each
}

// edit replaces the one place of a file that reads like old.
type edit struct{ file, old, new string }

type options struct {
	root, dir, only string
	checkOnly       bool
}

func main() {
	var o options
	flag.StringVar(&o.root, "root", ".", "root of the source")
	flag.StringVar(&o.dir, "dir", "build/bugs", "working directory")
	flag.StringVar(&o.only, "only", "", "only this bug")
	flag.BoolVar(&o.checkOnly, "check", false, "only see whether every edit still fits the source and builds")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	missed, err := all(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bugs:", err)
		os.Exit(1)
	}
	if missed > 0 {
		fmt.Printf("%d broken builds were not caught\n", missed)
		os.Exit(1)
	}
}

func all(ctx context.Context, o options) (missed int, err error) {
	for _, b := range table {
		if o.only != "" && o.only != b.name || ctx.Err() != nil {
			continue
		}
		begun := time.Now()
		how, err := b.hunt(ctx, o)
		var not *missedError
		switch {
		case errors.As(err, &not):
			missed++
			fmt.Printf("NOT CAUGHT  %-28s %s\n", b.name, not.why)
		case err != nil:
			return missed, fmt.Errorf("%s: %w", b.name, err)
		default:
			fmt.Printf("caught      %-28s %s (%.0f s)\n", b.name, how, time.Since(begun).Seconds())
		}
	}
	return missed, ctx.Err()
}

// missedError says that a broken build passed.
type missedError struct{ why string }

func (e *missedError) Error() string { return "not caught: " + e.why }

// overlay writes the broken files and what go needs to see them instead.
func (b bug) overlay(o options, dir string) (string, error) {
	var edits []overlay.Edit
	for _, e := range b.edits {
		edits = append(edits, overlay.Edit{File: e.file, Old: e.old, New: e.new})
	}
	return overlay.Write(o.root, dir, edits)
}

func (b bug) hunt(ctx context.Context, o options) (string, error) {
	dir, err := filepath.Abs(filepath.Join(o.dir, b.name))
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return "", err
	}
	overlay, err := b.overlay(o, dir)
	if err != nil {
		return "", err
	}
	says, err := regexp.Compile(b.says)
	if err != nil {
		return "", err
	}
	if len(b.test) > 0 {
		return b.huntByTest(ctx, o, overlay, says)
	}
	for _, program := range []struct{ out, pkg string }{{"hizod", "./cmd/hizod"}, {"run", "./chaos/run"}} {
		if out, err := goTool(ctx, o, "build", "-overlay", overlay, "-o", filepath.Join(dir, program.out), program.pkg); err != nil {
			return "", fmt.Errorf("the broken build does not build: %w\n%s", err, out)
		}
	}
	if o.checkOnly {
		return "builds", nil
	}
	for seed := 1; seed <= max(b.seeds, 1); seed++ {
		cmd := exec.CommandContext(ctx, filepath.Join(dir, "run"), "-require", "-hizod", filepath.Join(dir, "hizod"), "-dir", dir,
			"-seed", fmt.Sprint(seed), "-faults", b.faults, "-nodes", fmt.Sprint(max(b.nodes, 3)), "-duration", fmt.Sprintf("%ds", max(b.seconds, 10)))
		out, err := cmd.CombinedOutput()
		if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
			return "", err
		}
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(strings.TrimSpace(line), "VIOLATION") && says.MatchString(line) {
				line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "VIOLATION"))
				return fmt.Sprintf("seed %d: %s", seed, short(line)), nil
			}
		}
		if err != nil && !strings.Contains(string(out), "VIOLATION") {
			return "", fmt.Errorf("the run could not be made: %s", out)
		}
	}
	return "", &missedError{fmt.Sprintf("%d runs saw nothing that says %q", max(b.seeds, 1), b.says)}
}

func (b bug) huntByTest(ctx context.Context, o options, overlay string, says *regexp.Regexp) (string, error) {
	args := append([]string{"test", "-overlay", overlay, "-count=1"}, b.test...)
	if o.checkOnly {
		args = append([]string{"test", "-overlay", overlay, "-count=1", "-run", "^$"}, b.test[0])
	}
	out, err := goTool(ctx, o, args...)
	switch {
	case o.checkOnly:
		return "builds", err
	case err == nil:
		return "", &missedError{"go test " + strings.Join(b.test, " ") + " passed"}
	case strings.Contains(out, "[build failed]"):
		return "", fmt.Errorf("the broken build does not build:\n%s", out)
	}
	for line := range strings.Lines(out) {
		if says.MatchString(line) {
			return "go test " + strings.Join(b.test, " ") + ": " + short(strings.TrimSpace(line)), nil
		}
	}
	return "", &missedError{fmt.Sprintf("go test failed, but nothing says %q:\n%s", b.says, out)}
}

func goTool(ctx context.Context, o options, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = o.root
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func short(line string) string {
	if len(line) > 140 {
		return line[:140] + "…"
	}
	return line
}
