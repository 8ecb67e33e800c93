package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hizo/hizo/api/apitest"
)

// testGuide runs what a guide shows and compares what is printed. With -update the guide is written anew, so that its
// transcripts are real. In the guide
//
//	```console        commands behind "$ " as an engineer, with what they print
//	```console job    the same as a job, without an engineer's token
//	```console fails  the same, of commands that fail; fails-as-job as a job
//	<!-- run: … -->   something that the test needs and readers do not
func testGuide(t *testing.T, c *apitest.Cluster, f *federation, path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	env := &testscript.Env{WorkDir: filepath.Join(t.TempDir(), "script-guide")}
	if err := os.Mkdir(env.WorkDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := connectScript(c, env); err != nil {
		t.Fatal(err)
	}
	g := &guide{t: t, dir: env.WorkDir, env: append(append(os.Environ(), env.Vars...), f.environ(t, env.WorkDir)...)}
	var out []string
	lines := strings.Split(string(text), "\n")
	for i := 0; i < len(lines); i++ {
		out = append(out, lines[i])
		if hidden, ok := strings.CutPrefix(lines[i], "<!-- run: "); ok {
			g.run("", strings.TrimSuffix(hidden, " -->"))
			continue
		}
		kind, ok := strings.CutPrefix(lines[i], "```console")
		if !ok {
			continue
		}
		for i++; i < len(lines) && lines[i] != "```"; i++ {
			command, ok := strings.CutPrefix(lines[i], "$ ")
			if !ok {
				continue // was printed at another time
			}
			out = append(out, lines[i])
			for strings.HasSuffix(command, "\\") {
				i++
				out = append(out, lines[i])
				command += "\n" + lines[i]
			}
			if printed := g.run(strings.TrimSpace(kind), command); printed != "" {
				out = append(out, strings.Split(printed, "\n")...)
			}
		}
		out = append(out, "```")
	}
	switch got := strings.Join(out, "\n"); {
	case got == string(text) || t.Failed():
	case *update:
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s shows another transcript than the program's: run this test with -update\n%s", path, got)
	}
}

type guide struct {
	t   *testing.T
	dir string
	env []string
}

func (g *guide) run(kind, command string) string {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Dir, cmd.Env = g.dir, g.env
	if strings.HasSuffix(kind, "job") {
		cmd.Env = append(cmd.Env[:len(cmd.Env):len(cmd.Env)], "HIZO_TOKEN_FILE="+filepath.Join(g.dir, "job"))
	}
	printed, err := cmd.CombinedOutput()
	if (err != nil) != strings.HasPrefix(kind, "fails") {
		g.t.Errorf("%s: %v\n%s", command, err, printed)
	}
	text := string(printed)
	for _, n := range varying {
		text = n.pattern.ReplaceAllString(text, n.shown)
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	return strings.Join(lines, "\n")
}

// varying is what differs from one run to the next. All are of one length, so that columns stay where they are.
var varying = []struct {
	pattern *regexp.Regexp
	shown   string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{3})?Z`), "2026-11-23 17:00:00${1}Z"},
	{regexp.MustCompile(`(:00)\.\d{3}Z`), "$1.000Z"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "2026-11-23T17:00:00Z"},
	{regexp.MustCompile(`hizo:[0-9a-f]{32}`), "hizo:6f1c9e0d3b5a4c7f8e2d1a0b9c8d7e6f"},
	{regexp.MustCompile(`\b[0-9a-f]{32}\b`), "6f1c9e0d3b5a4c7f8e2d1a0b9c8d7e6f"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`), "019ab0f4-6c1e-7d3a-9b52-1f0e2d3c4b5a"},
	{regexp.MustCompile(`"token": "[^"]+"|token: \S+`), `token: 4f1d…`},
	{regexp.MustCompile(`client_address: \S+`), "client_address: 192.0.2.10"},
	{regexp.MustCompile(`leaf_hash: \S+`), "leaf_hash: …"},
	{regexp.MustCompile(`time_unix_ms: \S+`), "time_unix_ms: …"},
	{regexp.MustCompile(`sequence: \S+`), "sequence: …"},
	{regexp.MustCompile(`next_before: \S+`), "next_before: …"},
}
