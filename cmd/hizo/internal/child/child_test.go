package child_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/hizo/hizo/cmd/hizo/internal/child"
	"github.com/hizo/hizo/cmd/hizo/internal/mask"
)

// This binary is the parent of the tests' children as well: TEST_PARENT names the value to mask, "-" for none.
func TestMain(m *testing.M) {
	if value, ok := os.LookupEnv("TEST_PARENT"); ok {
		os.Exit(parent(value, os.Args[1:]))
	}
	os.Exit(m.Run())
}

func parent(value string, argv []string) int {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		panic(err)
	}
	cmd := child.Command{Path: path, Argv: argv, Env: os.Environ()}
	if value != "-" {
		cmd.Masks = mask.New([]byte(value))
	}
	k := child.NewKeeper(child.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	defer k.Close()
	c, err := k.Start(cmd)
	if err != nil {
		panic(err)
	}
	for {
		select {
		case sig := <-k.Signals():
			k.Forward(sig)
		case <-c.Done():
			return c.Status().ExitCode()
		}
	}
}

// screen is a terminal with a parent on it.
type screen struct {
	t   *testing.T
	tty *os.File
	cmd *exec.Cmd

	mu   sync.Mutex
	more *sync.Cond
	text bytes.Buffer
	end  bool
}

func onScreen(t *testing.T, value, script string) *screen {
	t.Helper()
	return show(t, exec.Command(os.Args[0], "sh", "-c", script), "TEST_PARENT="+value)
}

// onShell is an interactive shell in which $RUN runs a parent.
func onShell(t *testing.T, value, script string) *screen {
	t.Helper()
	file := filepath.Join(t.TempDir(), "run")
	text := "#!/bin/sh\nTEST_PARENT=" + value + " exec '" + os.Args[0] + "' sh -c \"$SCRIPT\"\n"
	if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return show(t, exec.Command("bash", "--norc", "--noprofile", "--noediting", "-i"), "RUN="+file, "SCRIPT="+script, "PS1=")
}

func show(t *testing.T, cmd *exec.Cmd, env ...string) *screen {
	t.Helper()
	s := &screen{t: t, cmd: cmd}
	s.more = sync.NewCond(&s.mu)
	s.cmd.Env = append(append(os.Environ(), env...), "GORACE=atexit_sleep_ms=0")
	var err error
	if s.tty, err = pty.StartWithSize(s.cmd, &pty.Winsize{Rows: 33, Cols: 77}); err != nil {
		t.Fatal(err)
	}
	go func() {
		chunk := make([]byte, 4096)
		for {
			n, err := s.tty.Read(chunk)
			s.mu.Lock()
			s.text.Write(chunk[:n])
			s.end = err != nil
			s.more.Broadcast()
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		_, _ = s.cmd.Process.Wait()
		s.tty.Close()
	})
	return s
}

// shows waits until the screen has shown a text.
func (s *screen) shows(text string) {
	s.t.Helper()
	stop := time.AfterFunc(time.Minute, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.end = true
		s.more.Broadcast()
	})
	defer stop.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !strings.Contains(s.text.String(), text) {
		if s.end {
			s.t.Fatalf("no %q in %q", text, s.text.String())
		}
		s.more.Wait()
	}
}

func (s *screen) types(keys string) {
	s.t.Helper()
	if _, err := s.tty.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// exits waits for the parent and returns its code and all that was shown.
func (s *screen) exits() (int, string) {
	s.t.Helper()
	err := s.cmd.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.end {
		s.more.Wait()
	}
	if e, ok := err.(*exec.ExitError); ok {
		return e.ExitCode(), s.text.String()
	} else if err != nil {
		s.t.Fatal(err)
	}
	return 0, s.text.String()
}

// state of a process as the kernel sees it: "T" is stopped.
func state(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return rest[:1]
}

func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

func (s *screen) cooked() bool {
	term, err := unix.IoctlGetTermios(int(s.tty.Fd()), unix.TCGETS)
	return err == nil && term.Lflag&unix.ICANON != 0 && term.Lflag&unix.ECHO != 0
}

// front reports whether one of these groups is in the foreground, and what it runs with.
func (s *screen) front(groups ...int) bool {
	group, err := unix.IoctlGetInt(int(s.tty.Fd()), unix.TIOCGPGRP)
	return err == nil && slices.Contains(groups, group)
}

// number reads what follows label on the screen.
func (s *screen) number(label string) int {
	s.t.Helper()
	s.shows(label)
	var n int
	await(s.t, "a line of "+label, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, rest, _ := strings.Cut(s.text.String(), label)
		line, _, ok := strings.Cut(rest, "\r\n")
		n, _ = strconv.Atoi(strings.TrimSpace(line))
		return ok
	})
	return n
}

func TestTerminalStaysATerminal(t *testing.T) {
	for _, value := range []string{"hunter2", "-"} {
		t.Run(value, func(t *testing.T) {
			s := onScreen(t, value, `test -t 0 && test -t 1 && test -t 2 && echo tty; stty size; trap 'stty size; exit 9' WINCH; echo pw hunter2; echo err hunter2 >&2
				read x; echo "got $x"; echo ready; while :; do sleep 0.02; done`)
			s.shows("err ")
			s.types("typed\r")
			s.shows("ready")
			if err := pty.Setsize(s.tty, &pty.Winsize{Rows: 44, Cols: 88}); err != nil {
				t.Fatal(err)
			}
			code, text := s.exits()
			want := []string{"tty\r\n", "33 77\r\n", "got typed\r\n", "44 88\r\n"}
			if value != "-" {
				want = append(want, "pw ****\r\n", "err ****\r\n")
				if strings.Contains(text, value) {
					t.Errorf("the value was shown: %q", text)
				}
			}
			for _, w := range want {
				if !strings.Contains(text, w) {
					t.Errorf("no %q in %q", w, text)
				}
			}
			if code != 9 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// sleeper makes a shell wait without forking again and again: dash forks with vfork(2), and can't be stopped while
// what it forks is stopped before its exec.
const sleeper = `sleep 1000 >/dev/null &`

// ^Z stops the child and the parent, as the shell that waits expects, and gives the terminal back as it was; fg lets
// both go on, and so does bg, as far as they do not read.
func TestSuspendAndContinue(t *testing.T) {
	for _, value := range []string{"hunter2", "-"} {
		t.Run(value, func(t *testing.T) {
			s := onShell(t, value, `echo "parent: $PPID"; echo "child: $$"; `+sleeper+` trap 'kill $!; echo bye; exit 3' INT; echo ready; wait`)
			s.types("$RUN\r")
			parent, pid := s.number("parent: "), s.number("child: ")
			s.shows("ready\r\n")
			if value != "-" {
				await(t, "a raw terminal", func() bool { return !s.cooked() })
			}
			stopped := func() {
				t.Helper()
				s.types("\x1a")
				await(t, "a stopped child", func() bool { return state(pid) == "T" })
				await(t, "a stopped parent", func() bool { return state(parent) == "T" })
				await(t, "the terminal as it was", s.cooked)
			}
			running := func() bool { st := state(pid); return st == "S" || st == "R" }
			stopped()
			s.types("fg\r")
			await(t, "a running child", running)
			stopped()
			s.types("bg\r")
			await(t, "a running child", running)
			s.types("echo prompt-$((40+2))\r")
			s.shows("prompt-42")
			s.types("fg\r")
			if value != "-" {
				await(t, "a raw terminal", func() bool { return !s.cooked() })
			}
			await(t, "the child in front", func() bool { return s.front(parent, pid) })
			s.types("\x03")
			s.shows("bye")
			await(t, "the shell in front", func() bool { return s.front(s.cmd.Process.Pid) })
			s.types("echo code-$?\r")
			s.shows("code-3")
			await(t, "the terminal as it was", s.cooked)
			s.types("exit\r")
			s.exits()
		})
	}
}

// A program that reads keys by itself gets ^Z as a key.
func TestSuspendKeyOfARawProgram(t *testing.T) {
	s := onScreen(t, "hunter2", `stty raw; echo ready; dd bs=1 count=1 2>/dev/null | od -An -tx1; stty sane`)
	s.shows("ready")
	s.types("\x1a")
	if code, text := s.exits(); code != 0 || !strings.Contains(text, "1a") {
		t.Errorf("exit code %d, %q", code, text)
	}
}

// In the background of its terminal a masked child runs, keys are the shell's, and nothing stops the parent: it still
// passes signals on.
func TestBackground(t *testing.T) {
	s := onShell(t, "hunter2", `echo "parent: $PPID"; `+sleeper+` trap 'kill $!; echo bye; exit 4' USR1; echo in the back hunter2; wait`)
	s.types("$RUN &\r")
	parent := s.number("parent: ")
	s.shows("in the back ****")
	for i := range 3 {
		s.types(fmt.Sprintf("echo key-$((%d+40))\r", i))
		s.shows(fmt.Sprintf("key-%d", i+40))
	}
	if err := unix.Kill(parent, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	s.shows("bye")
	s.types("wait %1; echo code-$?\r")
	s.shows("code-")
	s.types("exit\r")
	s.exits()
}

func TestForwardsSignals(t *testing.T) {
	for _, value := range []string{"hunter2", "-"} {
		for _, sig := range []syscall.Signal{
			unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGABRT, unix.SIGWINCH, 40,
		} {
			// Both the child and its own child get it.
			script := `trap 'echo caught; exit 40' ` + strconv.Itoa(int(sig)) + `; (trap 'echo inner; exit' ` + strconv.Itoa(int(sig)) + `; echo up; while :; do sleep 0.02; done) & echo up; while :; do sleep 0.02; done`
			cmd := exec.Command(os.Args[0], "bash", "-c", script)
			cmd.Env = append(os.Environ(), "TEST_PARENT="+value, "GORACE=atexit_sleep_ms=0")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(out)
			for range 2 {
				if line, err := r.ReadString('\n'); line != "up\n" {
					t.Fatalf("%v: %q, %v", sig, line, err)
				}
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			rest, _ := io.ReadAll(r)
			err = cmd.Wait()
			if e, ok := err.(*exec.ExitError); !ok || e.ExitCode() != 40 || !strings.Contains(string(rest), "caught") || !strings.Contains(string(rest), "inner") {
				t.Errorf("%s %v: %v, %q", value, sig, err, rest)
			}
		}
	}
}

func start(t *testing.T, script string) (*child.Keeper, *child.Child, *bufio.Reader) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	k := child.NewKeeper(child.Streams{Out: w, Err: w})
	t.Cleanup(func() { k.Close(); r.Close() })
	c, err := k.Start(child.Command{Path: "/bin/sh", Argv: []string{"sh", "-c", script}, Env: os.Environ()})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	return k, c, bufio.NewReader(r)
}

func line(t *testing.T, r *bufio.Reader, want string) {
	t.Helper()
	if got, err := r.ReadString('\n'); got != want+"\n" {
		t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

// Stop lets the whole group end by itself, and kills what does not.
func TestStop(t *testing.T) {
	t.Run("a member that outlives the leader finishes its work", func(t *testing.T) {
		_, c, r := start(t, `(trap 'sleep 0.2; echo saved; exit' TERM; echo up; while :; do sleep 0.02; done) & while :; do sleep 0.02; done`)
		line(t, r, "up")
		if st := c.Stop(unix.SIGTERM, time.Minute); st.Signal != unix.SIGTERM || st.ExitCode() != 143 {
			t.Errorf("status %v", st)
		}
		if rest, err := io.ReadAll(r); err != nil || !strings.Contains(string(rest), "saved\n") {
			t.Errorf("%q, %v", rest, err)
		}
	})
	t.Run("what ignores the signal is killed", func(t *testing.T) {
		_, c, r := start(t, `trap '' TERM; (echo up; while :; do sleep 0.02; done) & echo up; while :; do sleep 0.02; done`)
		line(t, r, "up")
		line(t, r, "up")
		if st := c.Stop(unix.SIGTERM, 50*time.Millisecond); st.Signal != unix.SIGKILL || st.ExitCode() != 137 {
			t.Errorf("status %v", st)
		}
		if rest, err := io.ReadAll(r); err != nil || len(rest) != 0 { // EOF: nobody is left who could write
			t.Errorf("%q, %v", rest, err)
		}
	})
	t.Run("a stopped child ends", func(t *testing.T) {
		_, c, r := start(t, sleeper+` trap 'kill $!; exit 6' TERM; echo up; wait`)
		line(t, r, "up")
		c.Signal(unix.SIGSTOP)
		await(t, "a stopped child", func() bool { return state(c.Pid()) == "T" })
		if st := c.Stop(unix.SIGTERM, time.Minute); st.ExitCode() != 6 {
			t.Errorf("status %v", st)
		}
	})
}

func TestStatus(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 42": 42, "kill -KILL $$": 137, "kill -SEGV $$": 139} {
		_, c, _ := start(t, script)
		<-c.Done()
		if got := c.Status().ExitCode(); got != want {
			t.Errorf("%s: exit code %d, want %d", script, got, want)
		}
	}
	if got := (child.Status{Signal: unix.SIGTERM}).String(); got != "ended by SIGTERM" {
		t.Errorf("got %q", got)
	}
}
