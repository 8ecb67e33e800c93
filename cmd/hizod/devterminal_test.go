package main

import (
	"bufio"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

// A command that asks questions gets the terminal, Ctrl-C reaches it, and the terminal is ours again afterwards.
func TestDevAtATerminal(t *testing.T) {
	t.Parallel()
	needs(t, "software")
	exe, err := buildServer()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "dev")
	dev := []string{exe, "dev", "--nodes", "1", "--hsm", "software", "--dir", dir}
	for _, tt := range []struct {
		name  string
		args  []string
		await string // what the screen shows before we type
		input string
		want  string // what it shows afterwards
		code  int
	}{
		{"the command reads", []string{"--exec", `echo your name?; read x; echo "hello $x"`}, "your name?", "dana\n", "hello dana", 0},
		{"Ctrl-C ends the command", []string{"--exec", "echo asleep; exec sleep 1000"}, "asleep", "\x03", "all nodes have stopped", 130},
		{"Ctrl-C ends the cluster", nil, "Ctrl-C stops it", "\x03", "all nodes have stopped", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// The shell around it reads from the terminal as well afterwards, which it can only in the foreground.
			around := `trap : INT; "$@"; echo "code $?"; read x; echo "and $x"`
			cmd := exec.Command("/bin/sh", append([]string{"-c", around, "sh"}, append(dev, tt.args...)...)...)
			screen, err := pty.Start(cmd)
			if err != nil {
				t.Fatal(err)
			}
			defer screen.Close()
			hung := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
			defer hung.Stop()
			var shown strings.Builder
			lines := bufio.NewScanner(screen)
			code := fmt.Sprintf("code %d", tt.code)
			answers := []struct{ await, input string }{{tt.await, tt.input}, {code, "over\n"}}
			for lines.Scan() {
				shown.WriteString(lines.Text() + "\n")
				if len(answers) > 0 && strings.Contains(lines.Text(), answers[0].await) {
					if _, err := screen.WriteString(answers[0].input); err != nil {
						t.Fatal(err)
					}
					answers = answers[1:]
				}
			}
			_ = cmd.Wait() // its code is on the screen
			t.Log(shown.String())
			for _, want := range []string{tt.want, code, "and over"} {
				if !strings.Contains(shown.String(), want) {
					t.Errorf("the screen never showed %q", want)
				}
			}
		})
	}
}
