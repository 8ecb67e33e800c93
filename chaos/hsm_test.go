package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestHSM: a node without its token says so and does not start; a running one that loses it is not missed, and is
// back as soon as the token is, with no restart.
func TestHSM(t *testing.T) {
	t.Parallel()
	needSoftHSM(t)
	l := newLab(t, 3)
	l.must("", "vault", "create", "ml")
	l.must("the value", "secret", "put", "ml/kept", "f=-")

	l.sub("does not start", func(l *lab) {
		_, others := l.leader()
		n := others[0]
		n.end(syscall.SIGTERM)
		pin := n.path("hsm", "hizo-"+n.name+".pin")
		right := read(l.t, pin)
		for _, c := range []struct {
			name        string
			break_, fix func()
			parts       []string
		}{
			{"wrong PIN", func() { write(l.t, pin, "wrong-wrong\n", 0o600) }, func() { write(l.t, pin, right, 0o600) }, []string{"the token refused the PIN", "correct the PIN file"}},
			{"empty PIN", func() { write(l.t, pin, "", 0o600) }, func() { write(l.t, pin, right, 0o600) }, []string{pin}},
			{"PIN for all to read", func() { chmod(l.t, pin, 0o644) }, func() { chmod(l.t, pin, 0o600) }, []string{pin, "mode 0600"}},
			{"no PIN file", func() { move(l.t, pin, pin+".away") }, func() { move(l.t, pin+".away", pin) }, []string{pin, "no such file"}},
			{"no HSM", func() { n.loseHSM() }, func() { n.findHSM() }, []string{"the HSM does not answer"}},
			{"no token", func() { n.loseToken() }, func() { n.findToken() }, []string{"no token with this label"}},
		} {
			l.sub(c.name, func(l *lab) {
				c.break_()
				defer c.fix()
				before := len(n.log())
				n.failsToStart(c.parts...)
				if said := n.log()[before:]; strings.Contains(said, "wrong-wrong") {
					l.t.Errorf("the log repeats the PIN:\n%s", said)
				}
			})
		}
		if got := l.must("", "secret", "get", "ml/kept", "--field", "f"); got != "the value" {
			l.t.Errorf("without %s the value is %q", n.name, got)
		}
		n.start()
		l.awaitUnsealed(n)
	})

	l.sub("follower loses it", func(l *lab) {
		_, others := l.leader()
		l.loseAndFind(others[0])
	})
	l.sub("leader loses it", func(l *lab) {
		leader, _ := l.leader()
		l.loseAndFind(leader)
	})
	l.must("", "audit", "verify")
}

// loseAndFind: whatever needs the node's key fails while the token is away: new connections to this node, to begin
// with. The cluster does not need this node.
func (l *lab) loseAndFind(n *node) {
	l.t.Helper()
	path := "ml/without-" + n.name
	n.loseHSM()
	l.await("a put works without that token", func() error {
		if r := l.hizo("stored", "--timeout", "5s", "secret", "put", path, "f=-"); r.code != 0 {
			return fmt.Errorf("exit code %d: %s", r.code, r.err)
		}
		return nil
	})
	if !n.running() {
		l.t.Errorf("%s has ended, instead of waiting for its token:\n%s", n.name, tail(n.log(), 12))
	}
	n.findHSM()
	l.awaitUnsealed(n)
	if got := l.must("", "secret", "get", path, "--field", "f"); got != "stored" {
		l.t.Errorf("what was put meanwhile is %q", got)
	}
	// The node can read its share again: it unseals by it, and others with its help.
	n.end(syscall.SIGKILL)
	n.start()
	l.awaitUnsealed(n)
}

func (n *node) loseHSM() { move(n.lab.t, n.path("hsm", "tokens"), n.path("hsm", "tokens.away")) }
func (n *node) findHSM() { move(n.lab.t, n.path("hsm", "tokens.away"), n.path("hsm", "tokens")) }

// One token is away, the HSM is there.
func (n *node) loseToken() {
	tokens, err := filepath.Glob(n.path("hsm", "tokens", "*"))
	if err != nil || len(tokens) != 1 {
		n.lab.t.Fatalf("tokens of %s: %v, %v", n.name, tokens, err)
	}
	move(n.lab.t, tokens[0], n.path("hsm", filepath.Base(tokens[0])))
}

func (n *node) findToken() {
	away, err := filepath.Glob(n.path("hsm", "*-*-*-*-*"))
	if err != nil || len(away) != 1 {
		n.lab.t.Fatalf("token of %s: %v, %v", n.name, away, err)
	}
	move(n.lab.t, away[0], n.path("hsm", "tokens", filepath.Base(away[0])))
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}
