package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hizo/hizo/cmd/hizo/internal/values"
	"github.com/hizo/hizo/crypto/secret"
)

// This binary is the tests' command as well.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_COMMAND") != "" {
		os.Exit(command())
	}
	os.Exit(m.Run())
}

func command() int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGUSR1)
	out, err := os.OpenFile(os.Getenv("TEST_COMMAND"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return 1
	}
	_, other := os.LookupEnv("OTHER")
	fmt.Fprintf(out, "run %s other=%v token=%q\n", os.Getenv("PW"), other, os.Getenv("HIZO_TOKEN_FILE"))
	if <-signals == unix.SIGUSR1 {
		return 7
	}
	return 0
}

var errAway = errors.New("away")

// source answers what the test put into it.
type source struct {
	mu      sync.Mutex
	set     *values.Set
	err     error
	changed chan struct{}
	heard   []string
}

func newSource(set *values.Set, err error) *source {
	return &source{set: set, err: err, changed: make(chan struct{}, 1)}
}

func (s *source) put(set *values.Set) {
	s.mu.Lock()
	s.set, s.err = set, nil
	s.mu.Unlock()
	s.changed <- struct{}{}
}

func (s *source) Fetch(context.Context) (*values.Set, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set, s.err
}

func (s *source) Await(ctx context.Context) error {
	select {
	case <-s.changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *source) Uses(_ context.Context, versions map[string]uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.heard = append(s.heard, fmt.Sprint(versions))
	return nil
}

func (s *source) Close(context.Context) error { return nil }

func (s *source) hears(t *testing.T, want string) {
	t.Helper()
	await(t, "in use: "+want, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.heard) > 0 && s.heard[len(s.heard)-1] == want
	})
}

func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(3 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

func holds(path, text string) func() bool {
	return func() bool {
		b, err := os.ReadFile(path)
		return err == nil && string(b) == text
	}
}

func set(version uint32, pw, other string) *values.Set {
	return &values.Set{Values: []values.Value{
		{Name: "PW", Bytes: secret.New([]byte(pw)), Secret: "ml/db", Version: version},
		{Name: "OTHER", Bytes: secret.New([]byte(other)), Secret: "ml/other", Version: version},
		{Name: "hizo://ml/db#user", Bytes: secret.New([]byte("train")), Secret: "ml/db", Version: version},
	}}
}

func offline(s *values.Set) *values.Set {
	s.Offline = time.Hour
	return s
}

func configure(t *testing.T, dir, text string) *Config {
	t.Helper()
	cfg, err := ParseConfig([]byte(text), dir)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

const variables = `
variables:
  PW: hizo://ml/db#password
  OTHER: hizo://ml/other#f
`

// running is an agent under way.
type running struct {
	stop context.CancelFunc
	code chan int
	err  error
}

func run(t *testing.T, cfg *Config, src values.Source) *running {
	t.Helper()
	a, err := New(Options{
		Config: cfg, Source: src, Away: func(err error) bool { return errors.Is(err, errAway) }, CA: []byte("ca"),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{stop: cancel, code: make(chan int, 1)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		code, err := a.Run(ctx)
		r.err = err
		r.code <- code
	}()
	t.Cleanup(func() {
		cancel()
		for {
			select {
			case <-ended:
				return
			case <-time.After(20 * time.Millisecond):
				if cfg.Command != nil {
					_ = unix.Kill(unix.Getpid(), unix.SIGUSR1)
				}
			}
		}
	})
	return r
}

func TestFilesAreKeptUpToDate(t *testing.T) {
	dir := t.TempDir()
	pid := filepath.Join(dir, "pid")
	if err := os.WriteFile(pid, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hup := make(chan os.Signal, 8)
	signal.Notify(hup, unix.SIGHUP)
	defer signal.Stop(hup)
	cfg := configure(t, dir, variables+`
files:
  - path: pgpass
    mode: "0440"
    template: |
      host:5432:*:{{secret "hizo://ml/db#user"}}:{{variable "PW"}}
    reload: {signal: HUP, pid_file: `+pid+`}
  - path: other
    template: '{{variable "OTHER" | json}}'
    reload:
      command: [/bin/sh, -c, 'echo reloaded >>`+dir+`/log; test ! -e `+dir+`/refuse']
`)
	if err := os.WriteFile(filepath.Join(dir, "other"), []byte(`"a"`), 0o400); err != nil { // as it should be
		t.Fatal(err)
	}
	src := newSource(set(1, "one", "a"), nil)
	run(t, cfg, src)
	await(t, "the file", holds(filepath.Join(dir, "pgpass"), "host:5432:*:train:one\n"))
	<-hup
	if st, err := os.Stat(filepath.Join(dir, "pgpass")); err != nil || st.Mode() != 0o440 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	src.hears(t, "map[ml/db:1 ml/other:1]")
	if _, err := os.Stat(filepath.Join(dir, "log")); err == nil {
		t.Error("a file that was as it should be was reloaded")
	}
	// A reader that does not reload has the old value.
	if err := os.WriteFile(filepath.Join(dir, "refuse"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	src.put(set(2, "one", "b"))
	await(t, "a reload", holds(filepath.Join(dir, "log"), "reloaded\n"))
	src.hears(t, "map[ml/db:2 ml/other:1]")
	if err := os.Remove(filepath.Join(dir, "refuse")); err != nil {
		t.Fatal(err)
	}
	src.put(set(3, "one", "b")) // the file is right already; the reload is made up for
	src.hears(t, "map[ml/db:3 ml/other:3]")
	src.put(set(4, "one", "b"))
	src.hears(t, "map[ml/db:4 ml/other:4]")
	if !holds(filepath.Join(dir, "log"), "reloaded\nreloaded\n")() {
		t.Error("a reload without a change")
	}
	if len(hup) != 0 {
		t.Error("a signal without a change")
	}
	// What somebody else wrote is put right at the next word.
	if err := os.Chmod(filepath.Join(dir, "pgpass"), 0o666); err != nil {
		t.Fatal(err)
	}
	src.put(set(5, "five", "b"))
	await(t, "the file", holds(filepath.Join(dir, "pgpass"), "host:5432:*:train:five\n"))
	<-hup
	if names, err := filepath.Glob(filepath.Join(dir, ".hizo-*")); err != nil || len(names) != 0 {
		t.Errorf("left over: %v", names)
	}
}

func TestCommand(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	t.Setenv("TEST_COMMAND", log)
	t.Setenv("HIZO_TOKEN_FILE", "secret")
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	cfg := configure(t, dir, variables+`
files: [{path: other, template: '{{variable "OTHER"}}'}]
command:
  argv: [`+os.Args[0]+`]
  variables: [PW]
  on_change: restart
  splay: 1ms
`)
	src := newSource(set(1, "one", "a"), nil)
	r := run(t, cfg, src)
	first := "run one other=false token=\"\"\n"
	await(t, "the command", holds(log, first))
	src.hears(t, "map[ml/db:1 ml/other:1]")
	src.put(set(2, "one", "b")) // of no concern to the command
	await(t, "the file", holds(filepath.Join(dir, "other"), "b"))
	src.hears(t, "map[ml/db:2 ml/other:2]")
	src.put(set(3, "three", "b"))
	await(t, "the command again", holds(log, first+"run three other=false token=\"\"\n"))
	src.hears(t, "map[ml/db:3 ml/other:3]")
	if err := unix.Kill(unix.Getpid(), unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if code := <-r.code; code != 7 || r.err != nil {
		t.Errorf("exit code %d, %v", code, r.err)
	}
}

// Who has the oldest version holds it.
func TestOldestCounts(t *testing.T) {
	a := &Agent{inUse: map[string]map[string]uint32{"a": {"ml/db": 3}, "b": {"ml/db": 2, "ml/x": 9}, "c": {"ml/db": 4}, "d": {"ml/db": 5}}}
	if got := fmt.Sprint(a.oldest()); got != "map[ml/db:2 ml/x:9]" {
		t.Errorf("got %s", got)
	}
}

const cached = variables + `
files: [{path: pw, template: '{{variable "PW"}}'}]
cache: {file: state/cache, key_file: keys/key}
`

func cacheDirs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"state", "keys"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// While the cluster is away an agent starts with what it was allowed to keep, and goes on from there.
func TestStartsWhileTheClusterIsAway(t *testing.T) {
	dir := cacheDirs(t)
	r := run(t, configure(t, dir, cached), newSource(offline(set(4, "hunter2", "a")), nil))
	await(t, "the file", holds(filepath.Join(dir, "pw"), "hunter2"))
	r.stop()
	<-r.code
	for _, file := range []string{"state/cache", "keys/key"} {
		st, err := os.Stat(filepath.Join(dir, file))
		if err != nil || st.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", file, st, err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, file)); err != nil || strings.Contains(string(b), "hunter2") || strings.Contains(string(b), "ml/db") {
			t.Errorf("%s is readable: %q, %v", file, b, err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "pw")); err != nil {
		t.Fatal(err)
	}
	src := newSource(nil, errAway)
	run(t, configure(t, dir, cached), src)
	await(t, "the file", holds(filepath.Join(dir, "pw"), "hunter2"))
	src.put(offline(set(5, "five", "a")))
	await(t, "the cluster's word", holds(filepath.Join(dir, "pw"), "five"))
	src.hears(t, "map[ml/db:5]")
}

// A refusal is a refusal: only a cluster that is away is stood in for.
func TestRefusedIsNotAway(t *testing.T) {
	dir := cacheDirs(t)
	r := run(t, configure(t, dir, cached), newSource(offline(set(4, "hunter2", "a")), nil))
	await(t, "the file", holds(filepath.Join(dir, "pw"), "hunter2"))
	r.stop()
	<-r.code
	r = run(t, configure(t, dir, cached), newSource(nil, errors.New("permission denied")))
	if <-r.code; r.err == nil || !strings.Contains(r.err.Error(), "permission denied") {
		t.Errorf("got %v", r.err)
	}
}

// What the pipeline does not allow is not kept, and what was kept before goes.
func TestNotAllowedIsNotCached(t *testing.T) {
	dir := cacheDirs(t)
	src := newSource(offline(set(1, "one", "a")), nil)
	run(t, configure(t, dir, cached), src)
	file := filepath.Join(dir, "state", "cache")
	await(t, "the cache", func() bool { _, err := os.Stat(file); return err == nil })
	src.put(set(2, "two", "a"))
	await(t, "the file", holds(filepath.Join(dir, "pw"), "two"))
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

func ask(t *testing.T, path, url string) (int, answer) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
	r, err := client.Get("http://agent" + url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	var a answer
	if err := json.Unmarshal(b, &a); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return r.StatusCode, a
}

func TestSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	stranger := os.Getuid() + 1
	cfg := configure(t, dir, fmt.Sprintf("%s\nsocket:\n  path: s\n  allow:\n    - {user: %q, variables: [PW]}\n    - {user: %q, variables: [OTHER]}\n",
		variables, strconv.Itoa(os.Getuid()), strconv.Itoa(stranger)))
	src := newSource(set(1, "one", "a"), nil)
	r := run(t, cfg, src)
	await(t, "the socket", func() bool { c, err := net.Dial("unix", path); _ = err == nil && c.Close() == nil; return err == nil })
	code, a := ask(t, path, "/v1/values/PW")
	if code != 200 || a.Value == nil || *a.Value != "one" || a.Encoding != "utf-8" || a.Version != 1 || a.Secret != "ml/db" || a.Generation != 1 {
		t.Errorf("%d, %+v", code, a)
	}
	for _, other := range []string{"OTHER", "MISSING", "hizo:%2F%2Fml%2Fdb%23user"} {
		if code, a := ask(t, path, "/v1/values/"+other); code != 404 || a.Value != nil {
			t.Errorf("%s: %d, %+v", other, code, a)
		}
	}
	if code, a := ask(t, path, "/v1/values"); code != 200 || len(a.Values) != 1 || a.Values[0].Name != "PW" || a.Values[0].Value != nil {
		t.Errorf("%d, %+v", code, a)
	}
	waited := make(chan answer)
	go func() {
		_, a := ask(t, path, "/v1/values/PW?after=1&wait=5m")
		waited <- a
	}()
	src.put(set(2, "\xff\x00", "a"))
	if a := <-waited; a.Value == nil || *a.Value != "/wA=" || a.Encoding != "base64" || a.Generation != 2 {
		t.Errorf("%+v", a)
	}
	if code, _ := ask(t, path, "/v1/values/PW?after=x"); code != 400 {
		t.Errorf("code %d", code)
	}
	if _, err := listen(*cfg.Socket, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a second agent took the socket")
	}
	r.stop()
	<-r.code
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stayed: %v", err)
	}
}

// Only oneself: the mode says it as well.
func TestSocketMode(t *testing.T) {
	dir := t.TempDir()
	for user, mode := range map[int]os.FileMode{os.Getuid(): 0o600, os.Getuid() + 1: 0o666} {
		cfg := configure(t, dir, fmt.Sprintf("%s\nsocket: {path: s%d, allow: [{user: %q, variables: [PW]}]}\n", variables, user, strconv.Itoa(user)))
		s, err := listen(*cfg.Socket, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		s.update(set(1, "one", "a"), time.Time{})
		st, err := os.Stat(cfg.Socket.Path)
		if err != nil || st.Mode().Perm() != mode {
			t.Errorf("mode %v, %v, want %v", st.Mode(), err, mode)
		}
		want := 200
		if user != os.Getuid() {
			want = 404
		}
		if code, _ := ask(t, cfg.Socket.Path, "/v1/values/PW"); code != want {
			t.Errorf("code %d, want %d", code, want)
		}
		s.update(set(1, "one", "a"), time.Now().Add(-time.Second)) // the time without the cluster is over
		if want == 200 {
			want = 503
		}
		if code, a := ask(t, cfg.Socket.Path, "/v1/values/PW"); code != want || a.Value != nil {
			t.Errorf("code %d, want %d", code, want)
		}
		s.close()
	}
}
