package target_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/crypto/secret"
)

// program is a shell script that an attempt may run, and the folder that it writes to.
type program struct {
	target.Target
	dir string
}

func (p *program) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func newProgram(t *testing.T, script string, change func(*target.Command)) *program {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "hizo-command-") // t.TempDir is below folders that other users can't enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\ncd "+dir+"\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	c := target.Command{Path: path, Args: []string{"one", "two words"}, Timeout: 10 * time.Second}
	if os.Geteuid() == 0 {
		c.User = "nobody"
	} else {
		c.SameUser = true
	}
	if change != nil {
		change(&c)
	}
	k, err := target.NewCommand(map[string]target.Command{"mint": c})
	if err != nil {
		t.Fatal(err)
	}
	return &program{k, dir}
}

var commandOptions = map[string]string{"command": "mint", "field": "key", "param_region": "eu"}

func commandAttempt() target.Attempt {
	return target.Attempt{
		ID: [16]byte{1}, Vault: "ml", Path: "api", Config: commandOptions,
		Admin: target.Value{"token": secret.Copy([]byte("canary-admin"))},
		Old:   target.Value{"key": secret.Copy([]byte("canary-old"))},
		New:   target.Value{"key": secret.Copy([]byte("canary-new\n"))},
	}
}

// The program gets the values on standard input and nowhere else, and nothing of the server's.
func TestCommandInput(t *testing.T) {
	t.Setenv("CANARY_ENVIRONMENT", "canary")
	open, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	// As a C library would open it: without close-on-exec.
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, open.Fd(), syscall.F_SETFD, 0); errno != 0 {
		t.Fatal(errno)
	}
	p := newProgram(t, `cat >stdin; env >env; for a in "$@"; do echo "$a"; done >args; ls -l /proc/$$/fd >fds; id -u >uid; id -G >groups
tr '\0' ' ' </proc/$$/cmdline >cmdline; ps -o pgid= -p $$ >pgid; echo $$ >pid; echo canary-new; echo canary-new >&2`, nil)
	a := commandAttempt()
	if err := p.Check(commandOptions); err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	var in map[string]any
	if err := json.Unmarshal([]byte(p.read(t, "stdin")), &in); err != nil {
		t.Fatal(err)
	}
	field := func(of string) string {
		m, _ := in[of].(map[string]any)
		for _, v := range m {
			b, _ := base64.StdEncoding.DecodeString(v.(string))
			return string(b)
		}
		return ""
	}
	if in["stage"] != "apply" || in["vault"] != "ml" || in["path"] != "api" || field("admin") != "canary-admin" ||
		field("old") != "canary-old" || field("new") != "canary-new\n" || in["params"].(map[string]any)["region"] != "eu" ||
		in["attempt"] != "01000000-0000-0000-0000-000000000000" {
		t.Errorf("standard input: %v", in)
	}
	for _, file := range []string{"env", "args", "cmdline"} {
		if text := p.read(t, file); strings.Contains(text, "canary") {
			t.Errorf("%s: %s", file, text)
		}
	}
	if args := p.read(t, "args"); args != "one\ntwo words\n" {
		t.Errorf("arguments: %q", args)
	}
	if fds := p.read(t, "fds"); strings.Contains(fds, "passwd") {
		t.Errorf("open in the program: %s", fds)
	}
	if strings.TrimSpace(p.read(t, "pgid")) != strings.TrimSpace(p.read(t, "pid")) {
		t.Error("it is in the server's process group")
	}
	if os.Geteuid() == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		if uid, groups := strings.TrimSpace(p.read(t, "uid")), strings.TrimSpace(p.read(t, "groups")); uid != nobody.Uid || groups != nobody.Gid {
			t.Errorf("it runs as %s in the groups %s", uid, groups)
		}
	}
}

func TestCommandAnswers(t *testing.T) {
	for _, c := range []struct {
		script    string
		says      string
		permanent bool
	}{
		{"exit 0", "", false},
		{"exit 65", "refused", true},
		{"echo canary-new >&2; exit 3", "ended with code 3", false},
		{"kill -SEGV $$", "signal", false},
		{"exec 0<&-; exit 0", "", false}, // it need not read
	} {
		err := newProgram(t, c.script, nil).Verify(t.Context(), commandAttempt())
		switch {
		case c.says == "":
			if err != nil {
				t.Errorf("%s: %v", c.script, err)
			}
		case err == nil || !strings.Contains(err.Error(), c.says) || errors.Is(err, target.ErrPermanent) != c.permanent || strings.Contains(err.Error(), "canary"):
			t.Errorf("%s: %v", c.script, err)
		}
	}
}

// When its time is up it is killed, with what it has started.
func TestCommandTimeout(t *testing.T) {
	p := newProgram(t, `sleep 1000 & echo $! >child; sleep 1000`, func(c *target.Command) { c.Timeout = 300 * time.Millisecond })
	start := time.Now()
	err := p.Apply(t.Context(), commandAttempt())
	if err == nil || !strings.Contains(err.Error(), "killed") || errors.Is(err, target.ErrPermanent) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("it took %v", d)
	}
	child := strings.TrimSpace(p.read(t, "child"))
	deadline := time.Now().Add(10 * time.Second)
	for {
		stat, err := os.ReadFile("/proc/" + child + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") { // nobody may be there to reap it
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("what it started is still running: %s", stat)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestCommandStages(t *testing.T) {
	p := newProgram(t, `exit 1`, nil)
	v, err := p.Stage(t.Context(), target.Attempt{Config: commandOptions, Old: target.Value{"url": secret.Copy([]byte("u"))}})
	if err != nil || v["key"].Len() != 32 || v["url"].Len() != 1 {
		t.Errorf("%v, %v", v, err)
	}
}

func TestCommandRefuses(t *testing.T) {
	p := newProgram(t, "", nil)
	for _, config := range []map[string]string{
		{"field": "key"}, {"command": "other"}, {"command": "mint", "region": "eu"}, {"command": "mint", "length": "1"},
	} {
		if err := p.Check(config); err == nil {
			t.Errorf("%v was taken", config)
		}
	}
	path := filepath.Join(p.dir, "program")
	for _, mode := range []os.FileMode{0o777, 0o775, 0o644} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := p.Check(commandOptions); err == nil {
			t.Errorf("a program of mode %v was taken", mode)
		}
		if err := p.Apply(t.Context(), commandAttempt()); err == nil {
			t.Errorf("a program of mode %v was run", mode)
		}
	}
	for name, c := range map[string]target.Command{
		"relative": {Path: "program", User: "nobody"}, "no user": {Path: path}, "root": {Path: path, User: "root"},
		"a user that is not there": {Path: path, User: "hizo-nobody"}, "same user": {Path: path, User: "nobody", SameUser: os.Geteuid() == 0},
		"long": {Path: path, User: "nobody", Timeout: time.Hour}, "a name/": {Path: path, User: "nobody"},
	} {
		if os.Geteuid() != 0 && name == "a name/" {
			continue
		}
		if _, err := target.NewCommand(map[string]target.Command{name: c}); !errors.Is(err, target.ErrCommand) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
