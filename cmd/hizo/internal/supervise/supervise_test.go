package supervise_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hizo/hizo/cmd/hizo/internal/child"
	"github.com/hizo/hizo/cmd/hizo/internal/supervise"
	"github.com/hizo/hizo/cmd/hizo/internal/values"
	"github.com/hizo/hizo/crypto/secret"
)

// This binary is the tests' command as well: TEST_COMMAND says which.
func TestMain(m *testing.M) {
	if mode := os.Getenv("TEST_COMMAND"); mode != "" {
		os.Exit(command(mode))
	}
	os.Exit(m.Run())
}

func command(mode string) int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2)
	say := func(word string) {
		file, _ := os.ReadFile(os.Getenv("FILE"))
		fmt.Printf("%s %s %s\n", word, os.Getenv("PW"), file)
	}
	say("run")
	switch {
	case mode == "exit":
		return 4
	case mode == "deaf" && os.Getenv("PW") == "two":
		return 3
	}
	terms := 0
	for sig := range signals {
		switch sig {
		case unix.SIGUSR1:
			return 7
		case unix.SIGUSR2:
			say("is")
		case unix.SIGHUP:
			say("hup")
		case unix.SIGTERM:
			if mode == "deaf" {
				continue
			}
			say("term")
			if terms++; mode == "plain" || terms == 2 {
				return 5
			}
		}
	}
	return 1
}

// job is this binary with PW as a variable and FILE as a file.
type job struct {
	dir  string
	mode string
}

func (j *job) Live(name string) bool { return name == "FILE" }

func (j *job) Update(set *values.Set) error {
	v, _ := set.Get("FILE")
	return os.WriteFile(filepath.Join(j.dir, "FILE"), v.Bytes.Reveal(), 0o600)
}

func (j *job) Command(set *values.Set) (child.Command, error) {
	if err := j.Update(set); err != nil {
		return child.Command{}, err
	}
	v, _ := set.Get("PW")
	env := append(os.Environ(), "PW="+string(v.Bytes.Reveal()), "FILE="+filepath.Join(j.dir, "FILE"), "TEST_COMMAND="+j.mode, "GORACE=atexit_sleep_ms=0")
	return child.Command{Path: os.Args[0], Argv: os.Args[:1], Env: env}, nil
}

func set(version uint32, pw, file string) *values.Set {
	return &values.Set{Values: []values.Value{
		{Name: "PW", Bytes: secret.New([]byte(pw)), Secret: "ml/db", Version: version},
		{Name: "FILE", Bytes: secret.New([]byte(file)), Secret: "ml/file", Version: version},
	}}
}

// run is a supervision under way.
type run struct {
	t      *testing.T
	news   chan *values.Set
	out    *bufio.Reader
	ended  chan struct{}
	status child.Status
	err    error

	mu    sync.Mutex
	notes []string
	used  []string
}

func start(t *testing.T, mode string, cfg supervise.Config) *run {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	x := &run{t: t, news: make(chan *values.Set), out: bufio.NewReader(r), ended: make(chan struct{})}
	cfg.Job = &job{dir: t.TempDir(), mode: mode}
	cfg.Keeper = child.NewKeeper(child.Streams{Out: w, Err: w})
	cfg.First, cfg.News = set(1, "one", "uno"), x.news
	cfg.Output = w
	if cfg.Grace == 0 {
		cfg.Grace = time.Minute
	}
	cfg.InUse = func(v map[string]uint32) {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.used = append(x.used, fmt.Sprintf("db@%d file@%d", v["ml/db"], v["ml/file"]))
	}
	cfg.Note = func(format string, args ...any) {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.notes = append(x.notes, fmt.Sprintf(format, args...))
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() {
		cancel()
		for ended := false; !ended; { // what a test has left running, or is restarting, ends by it
			_ = unix.Kill(unix.Getpid(), unix.SIGUSR1)
			select {
			case <-x.ended:
				ended = true
			case <-time.After(20 * time.Millisecond):
			}
		}
		cfg.Keeper.Close()
		w.Close()
		r.Close()
	})
	go func() {
		defer close(x.ended)
		x.status, x.err = supervise.Run(ctx, cfg)
	}()
	return x
}

func (x *run) line(want string) {
	x.t.Helper()
	if got, err := x.out.ReadString('\n'); got != want+"\n" {
		x.t.Fatalf("got %q, %v, want %q; notes %q", got, err, want, x.notes)
	}
}

func (x *run) uses(want ...string) {
	x.t.Helper()
	var got []string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		x.mu.Lock()
		got = append([]string(nil), x.used...)
		x.mu.Unlock()
		if strings.Join(got, "|") == strings.Join(want, "|") {
			return
		}
	}
	x.t.Fatalf("in use %q, want %q; notes %q", got, want, x.notes)
}

func (x *run) exits(want int) {
	x.t.Helper()
	<-x.ended
	if x.err != nil || x.status.ExitCode() != want {
		x.t.Fatalf("%v, %v, want exit code %d; notes %q", x.status, x.err, want, x.notes)
	}
}

// noted counts the notes that hold a text.
func (x *run) noted(text string) (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, note := range x.notes {
		if strings.Contains(note, text) {
			n++
		}
	}
	return n
}

func TestRestart(t *testing.T) {
	x := start(t, "plain", supervise.Config{OnChange: supervise.Reaction{Kind: supervise.Restart}})
	x.line("run one uno")
	x.uses("db@1 file@1")
	x.news <- set(2, "two", "due")
	x.line("term one uno")
	x.line("run two due")
	x.uses("db@1 file@1", "db@2 file@2")
	// A version with the same bytes restarts nothing, and is acknowledged.
	x.news <- set(3, "two", "due")
	x.uses("db@1 file@1", "db@2 file@2", "db@3 file@3")
	x.news <- set(4, "four", "due")
	x.line("term two due")
	x.line("run four due")
	if err := unix.Kill(unix.Getpid(), unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	x.exits(7)
}

// The splay delays the restart, and what changes back in it restarts nothing.
func TestSplay(t *testing.T) {
	x := start(t, "plain", supervise.Config{OnChange: supervise.Reaction{Kind: supervise.Restart}, Splay: 1000 * time.Hour})
	x.line("run one uno")
	x.news <- set(2, "two", "uno")
	x.news <- set(3, "one", "uno")
	x.uses("db@1 file@1", "db@3 file@3")
	if err := unix.Kill(unix.Getpid(), unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	x.exits(7)
}

func TestKillsWhatDoesNotEnd(t *testing.T) {
	x := start(t, "deaf",
		supervise.Config{OnChange: supervise.Reaction{Kind: supervise.Restart}, Grace: 50 * time.Millisecond})
	x.line("run one uno")
	x.news <- set(2, "two", "uno")
	x.line("run two uno")
	x.exits(3)
}

// Who asks for the end while a restart is under way gets the end.
func TestEndDuringRestart(t *testing.T) {
	x := start(t, "twice",
		supervise.Config{OnChange: supervise.Reaction{Kind: supervise.Restart}})
	x.line("run one uno")
	x.news <- set(2, "two", "uno")
	x.line("term one uno")
	if err := unix.Kill(unix.Getpid(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	x.line("term one uno")
	x.exits(5)
}

// A command that has ended is not started again.
func TestEndIsTheEnd(t *testing.T) {
	x := start(t, "exit", supervise.Config{OnChange: supervise.Reaction{Kind: supervise.Restart}})
	x.line("run one uno")
	x.exits(4)
}

// A signal brings files into use; a variable of a running command stays the old one, and so does its version.
func TestSignal(t *testing.T) {
	x := start(t, "plain", supervise.Config{OnChange: supervise.Reaction{Kind: supervise.Signal, Signal: unix.SIGHUP}})
	x.line("run one uno")
	x.news <- set(2, "one", "due")
	x.line("hup one due")
	x.uses("db@1 file@1", "db@2 file@2")
	x.news <- set(3, "three", "tre")
	x.line("hup one tre")
	x.uses("db@1 file@1", "db@2 file@2", "db@2 file@3")
	x.news <- set(4, "three", "tre") // no change: no signal, and PW is still the one of version 2
	x.uses("db@1 file@1", "db@2 file@2", "db@2 file@3", "db@2 file@4")
	x.news <- set(5, "one", "tre") // what the command has all along
	x.line("hup one tre")
	x.uses("db@1 file@1", "db@2 file@2", "db@2 file@3", "db@2 file@4", "db@5 file@5")
	if n := x.noted("stay as they are"); n != 2 {
		t.Errorf("%d notes: %q", n, x.notes)
	}
}

// Without a reaction the files are kept up to date, nothing else happens, and a person is told.
func TestKeep(t *testing.T) {
	x := start(t, "plain", supervise.Config{})
	x.line("run one uno")
	x.news <- set(2, "two", "due")
	x.uses("db@1 file@1", "db@1 file@2")
	if err := unix.Kill(unix.Getpid(), unix.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	x.line("is one due")
	if x.noted("changed: PW: variables of a running command stay") != 1 {
		t.Errorf("notes: %q", x.notes)
	}
}

func TestExec(t *testing.T) {
	x := start(t, "plain", supervise.Config{OnChange: supervise.Reaction{
		Kind: supervise.Exec, Command: `echo "reload $PW $(cat $FILE)"; test "$PW" != bad && kill -HUP $HIZO_CHILD_PID`,
	}})
	x.line("run one uno")
	x.news <- set(2, "two", "due")
	x.line("reload two due")
	x.line("hup one due")
	x.uses("db@1 file@1", "db@2 file@2")
	x.news <- set(3, "bad", "due")
	x.line("reload bad due")
	for x.noted("reload command failed") == 0 {
		time.Sleep(time.Millisecond)
	}
	x.news <- set(4, "bad", "due") // no change: it is not run again, and counts no more than before
	x.news <- set(5, "five", "due")
	x.line("reload five due")
	x.line("hup one due")
	x.uses("db@1 file@1", "db@2 file@2", "db@2 file@4", "db@5 file@5")
}

func TestParseReaction(t *testing.T) {
	for text, want := range map[string]supervise.Reaction{
		"none":                {},
		"restart":             {Kind: supervise.Restart},
		"signal:HUP":          {Kind: supervise.Signal, Signal: unix.SIGHUP},
		"signal:sigusr1":      {Kind: supervise.Signal, Signal: unix.SIGUSR1},
		"exec:kill -HUP 1; x": {Kind: supervise.Exec, Command: "kill -HUP 1; x"},
	} {
		if got, err := supervise.ParseReaction(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "reload", "signal", "signal:", "signal:NONE", "signal:KILL", "signal:9", "exec:", "exec: ", "restart:now"} {
		if got, err := supervise.ParseReaction(bad); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}
