package chaos

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

// TestBadInput is one cluster that is asked for what it must refuse: each refusal is clear, and the cluster goes
// on unharmed.
func TestBadInput(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	l.must("", "vault", "create", "ml")
	l.must("the value", "secret", "put", "ml/kept", "f=-")

	l.sub("configuration", (*lab).configurationTypo)
	l.sub("paths", (*lab).pathsNotCanonical)
	l.sub("value above the limit", (*lab).valueTooLarge)
	l.sub("cas", (*lab).casConflict)
	l.sub("follower", (*lab).followerAsked)

	if got := l.must("", "secret", "get", "ml/kept", "--field", "f"); got != "the value" {
		t.Errorf("what was stored before is now %q", got)
	}
	l.must("", "audit", "verify")
}

// configurationTypo: the line and column of the key that nobody knows, and the node does not start.
func (l *lab) configurationTypo() {
	good, err := os.ReadFile(l.nodes[0].path("config.yaml"))
	if err != nil {
		l.t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change [2]string
		parts  []string
	}{
		"key":           {[2]string{"\nseal:", "\nsael:"}, []string{"unknown field", "sael"}},
		"nested key":    {[2]string{"  listen:", "  lisen:"}, []string{"unknown field", "lisen", "[5:3]"}},
		"value":         {[2]string{"raft: {}", "raft: {profile: moon}"}, []string{"raft.profile", "moon", "lan or wan"}},
		"no yaml":       {[2]string{"node: n1", "node: [n1"}, []string{"configuration", "config.yaml"}},
		"type":          {[2]string{"node: n1", "node: {a: b}"}, []string{"configuration", "config.yaml"}},
		"no node":       {[2]string{"node: n1", ""}, []string{"node: missing"}},
		"production":    {[2]string{"development: true", "development: false"}, nil},
		"no such place": {[2]string{"listen: 127.0.0.1", "listen: 127.0.0"}, nil},
	} {
		path := filepath.Join(l.t.TempDir(), "config.yaml")
		bad := strings.Replace(string(good), c.change[0], c.change[1], 1)
		if bad == string(good) {
			l.t.Fatalf("%s: the configuration has no %q:\n%s", name, c.change[0], good)
		}
		if c.parts == nil {
			continue
		}
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			l.t.Fatal(err)
		}
		l.t.Run(name, func(t *testing.T) {
			l.refused(l.hizod("server", "--config", path), 1, c.parts...)
		})
	}
}

// notCanonical are paths that could be spelled otherwise, or do something to a terminal.
var notCanonical = map[string]string{
	"parent":          "a/../b",
	"leading parent":  "../b",
	"self":            "a/./b",
	"empty segment":   "a//b",
	"leading slash":   "/a",
	"trailing slash":  "a/",
	"newline":         "a\nb",
	"escape":          "a\x1b[2Jb",
	"delete":          "a\x7fb",
	"trailing space":  "a ",
	"normal form D":   "cafe\u0301",
	"zero width":      "a\u200bb",
	"direction":       "a\u202eb",
	"two scripts":     "p\u0430ypal", // Cyrillic а
	"fullwidth":       "\uff41bc",
	"not UTF-8":       "a\xffb",
	"too long":        strings.Repeat("a", 513),
	"too many levels": strings.Repeat("a/", 16) + "a",
	"nothing":         "",
}

// pathsNotCanonical: refused by the client program and, for clients that do not check, by every service that takes
// a path; nothing of it is stored.
func (l *lab) pathsNotCanonical() {
	for name, path := range notCanonical {
		l.t.Run(name, func(t *testing.T) {
			r := l.hizo("v", "secret", "put", "ml/"+path, "f=-")
			if r.code != 1 && r.code != 2 || !strings.HasPrefix(r.err, "hizo: ") {
				t.Errorf("put: exit code %d: %s", r.code, r.err)
			}
			if strings.ContainsAny(strings.TrimSuffix(r.err, "\n"), "\x1b\x7f\n\u202e") {
				t.Errorf("the message acts on the terminal: %q", r.err)
			}
			if path == "a\xffb" {
				return // protobuf strings cannot hold it
			}
			for method, call := range map[string]func() error{
				"put": func() error {
					_, err := l.Secrets().Put(l.ctx(), &hizov1.PutRequest{Vault: "ml", Path: path, Fields: map[string][]byte{"f": []byte("v")}})
					return err
				},
				"reveal": func() error {
					_, err := l.Secrets().Reveal(l.ctx(), &hizov1.RevealRequest{Vault: "ml", Path: path})
					return err
				},
				"versions": func() error {
					_, err := l.Secrets().Versions(l.ctx(), &hizov1.VersionsRequest{Vault: "ml", Path: path})
					return err
				},
				"destroy": func() error {
					_, err := l.Secrets().Destroy(l.ctx(), &hizov1.ChangeVersionsRequest{Vault: "ml", Path: path, Versions: []uint32{1}})
					return err
				},
			} {
				if err := call(); !client.IsReason(err, hizov1.ReasonInvalid) {
					t.Errorf("%s: %v, want %s", method, err, hizov1.ReasonInvalid)
				}
			}
		})
	}
	if list := l.must("", "secret", "list", "ml"); strings.Count(list, "\n") != 2 || !strings.Contains(list, "kept") {
		l.t.Errorf("something was stored:\n%s", list)
	}
}

// maxValue is what docs promise: names and values of one version's fields.
const maxValue = 512 << 10

func (l *lab) valueTooLarge() {
	big := bytes.Repeat([]byte("x"), maxValue-len("f"))
	file := filepath.Join(l.t.TempDir(), "big")
	if err := os.WriteFile(file, append(big, 'x'), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.refused(l.hizo("", "secret", "put", "ml/big", "f=@"+file), 2, "524289 bytes", "524288 are allowed")
	if err := os.WriteFile(file, bytes.Repeat(big, 5), 0o600); err != nil { // more than a message may have
		l.t.Fatal(err)
	}
	if r := l.hizo("", "secret", "put", "ml/big", "f=@"+file); r.code == 0 || r.code == 3 || !strings.HasPrefix(r.err, "hizo: ") {
		l.t.Errorf("above the message limit: exit code %d: %.300s", r.code, r.err)
	}
	l.refused(l.hizo("", "secret", "get", "ml/big"), 2)
	if err := os.WriteFile(file, big, 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.must("", "secret", "put", "ml/big", "f=@"+file)
	if got := l.must("", "secret", "get", "ml/big", "--field", "f"); got != string(big) {
		l.t.Errorf("the largest value came back with %d bytes of %d", len(got), len(big))
	}
}

func (l *lab) casConflict() {
	l.must("one", "secret", "put", "ml/cas", "f=-", "--cas", "0")
	l.refused(l.hizo("never", "secret", "put", "ml/cas", "f=-", "--cas", "0"), 2, "current version is 1", "decide again")
	l.must("two", "secret", "put", "ml/cas", "f=-", "--cas", "1")
	l.refused(l.hizo("never", "secret", "put", "ml/cas", "f=-", "--cas", "1"), 2, "current version is 2")
	l.refused(l.hizo("never", "secret", "put", "ml/cas", "f=-", "--cas", "7"), 2, "current version is 2")
	if got := l.must("", "secret", "get", "ml/cas", "--field", "f"); got != "two" {
		l.t.Errorf("after the conflicts the value is %q", got)
	}
}

// followerAsked: a follower names the leader, and the client goes there.
func (l *lab) followerAsked() {
	leader, others := l.leader()
	one, err := l.Node(others[0].addr)
	if err != nil {
		l.t.Fatal(err)
	}
	defer one.Close()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Second) // it asks on until then: there may be an election
	defer cancel()
	_, err = one.Secrets().Put(ctx, &hizov1.PutRequest{Vault: "ml", Path: "x", Fields: map[string][]byte{"f": nil}})
	if !client.IsReason(err, hizov1.ReasonNotLeader) {
		l.t.Errorf("a client of one follower only: %v, want %s", err, hizov1.ReasonNotLeader)
	}
	l.must("by hint", "--addrs", others[0].addr, "secret", "put", "ml/hint", "f=-")
	if got := l.must("", "--addrs", leader.addr, "secret", "get", "ml/hint", "--field", "f"); got != "by hint" {
		l.t.Errorf("stored through a follower: %q", got)
	}
}
