package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/hizo/hizo/api/apitest"
)

// quickRace keeps the race detector from sleeping a second at the end of every process.
const quickRace = "GORACE=atexit_sleep_ms=0"

// hizoIn starts the hizo of this test in an environment.
func hizoIn(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("hizo") // testscript.Main put it there
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(append(os.Environ(), quickRace), env...)
	return cmd
}

// onTerminal runs a command with a terminal, types input when the screen shows prompt, and returns what appeared
// and the exit code.
func onTerminal(t *testing.T, cmd *exec.Cmd, prompt, input string) (string, int) {
	t.Helper()
	screen, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 77})
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	var out bytes.Buffer
	chunk := make([]byte, 4096)
	typed := input == ""
	for {
		n, err := screen.Read(chunk)
		out.Write(chunk[:n])
		if errors.Is(err, syscall.EIO) || errors.Is(err, io.EOF) { // EIO: the end of a terminal
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !typed && strings.Contains(out.String(), prompt) {
			typed = true
			if _, err := screen.WriteString(input); err != nil {
				t.Fatal(err)
			}
		}
	}
	code, err := exitCode(cmd.Wait())
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), code
}

func testTerminal(t *testing.T, c *apitest.Cluster) {
	c.Vault("terminal")
	c.Put("terminal", "db/main", "password", "hunter2-hunter2")
	train := c.Workload("terminal", `permit (principal == Hizo::Workload::"terminal", action == Hizo::Action::"inject", resource in Hizo::Vault::"terminal");`)
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := write("ca.pem", string(c.CA))
	base := []string{"HIZO_ADDRS=" + strings.Join(c.Addrs(), ","), "HIZO_CACERT=" + ca}
	asTrain := append(base, "HIZO_TOKEN_FILE="+write("workload", train.Token))
	asEngineer := append(base[:2:2], "HIZO_TOKEN_FILE="+write("engineer", c.Engineer.Token))
	masked := []string{"run", "--mask", "--env", "PW=hizo://terminal/db/main#password", "--"}

	t.Run("masked child keeps its terminal", func(t *testing.T) {
		script := `test -t 0 && test -t 1 && test -t 2 && echo tty; stty size; echo "pw $PW"; echo "err $PW" >&2; read x; echo "got $x"; exit 9`
		out, code := onTerminal(t, hizoIn(t, asTrain, append(masked, "sh", "-c", script)...), "err ****", "typed\r")
		for _, want := range []string{"tty\r\n", "33 77\r\n", "pw ****\r\n", "err ****\r\n", "got typed\r\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in %q", want, out)
			}
		}
		if strings.Contains(out, "hunter2") || code != 9 {
			t.Errorf("exit code %d, output %q", code, out)
		}
	})
	t.Run("Ctrl-C reaches the child", func(t *testing.T) {
		script := `trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done`
		out, code := onTerminal(t, hizoIn(t, asTrain, append(masked, "sh", "-c", script)...), "ready", "\x03")
		if code != 5 || !strings.Contains(out, "caught") {
			t.Errorf("exit code %d, output %q", code, out)
		}
	})
	t.Run("prompts do not echo", func(t *testing.T) {
		out, code := onTerminal(t, hizoIn(t, asEngineer, "secret", "put", "terminal/typed", "password"), "Value of password: ", "typed-secret\n")
		if code != 0 || !strings.Contains(out, "stored") || strings.Contains(out, "typed-secret") {
			t.Errorf("exit code %d, output %q", code, out)
		}
	})
	t.Run("a terminal is no pipe", func(t *testing.T) {
		out, code := onTerminal(t, hizoIn(t, asEngineer, "secret", "put", "terminal/typed", "password=-"), "", "")
		if code == 0 || !strings.Contains(out, "asked without echo") {
			t.Errorf("exit code %d, output %q", code, out)
		}
	})
	t.Run("a bare value ends the line on a terminal", func(t *testing.T) {
		out, code := onTerminal(t, hizoIn(t, asEngineer, "secret", "get", "terminal/db/main", "--field", "password"), "", "")
		if code != 0 || out != "hunter2-hunter2\r\n" {
			t.Errorf("exit code %d, output %q", code, out)
		}
	})
	t.Run("destroying asks", func(t *testing.T) {
		out, code := onTerminal(t, hizoIn(t, asEngineer, "secret", "destroy", "terminal/db/main", "--version", "1"), "Type yes", "no\n")
		if code != exitMistake || !strings.Contains(out, "Type yes") || !strings.Contains(out, "nothing was changed") {
			t.Errorf("exit code %d, output %q", code, out)
		}
	})
	t.Run("signals reach the child", func(t *testing.T) { testForwarding(t, asTrain, masked) })
}

// testForwarding sends signals to hizo itself, which is no member of its child's group.
func testForwarding(t *testing.T, env, masked []string) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGQUIT} {
		script := `trap 'echo caught; exit 40' TERM INT HUP USR1 USR2 QUIT; echo ready; while :; do sleep 0.05; done`
		cmd := hizoIn(t, env, append(masked, "sh", "-c", script)...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ready := make([]byte, len("ready\n"))
		if _, err := io.ReadFull(out, ready); err != nil || string(ready) != "ready\n" {
			t.Fatalf("%v: %q, %v", sig, ready, err)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(out)
		if err != nil {
			t.Fatal(err)
		}
		code, err := exitCode(cmd.Wait())
		if err != nil || code != 40 || string(rest) != "caught\n" {
			t.Errorf("%v: exit code %d, %v, output %q", sig, code, err, rest)
		}
	}
}

func exitCode(err error) (int, error) {
	e, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return 0, nil
	case !ok:
		return 0, err
	}
	return e.ExitCode(), nil
}
