package chaos

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hizo/hizo/api/hizov1"
)

// TestDamage damages what lies on one node's disk, one file after the other. The node says which and does not serve
// on it; the other two go on meanwhile; with the file as it was, or by the way that the message names, it is back.
func TestDamage(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3, snapshotsSoon)
	l.must("", "vault", "create", "ml")
	l.must("the value", "secret", "put", "ml/kept", "f=-")
	l.fillUntilSnapshot()
	l.must("the value", "secret", "put", "ml/marker-in-the-log", "f=-")
	_, others := l.leader()
	n := others[0]
	l.await(n.name+" has the marker in its log", func() error {
		return within(read(t, n.path("data", "raft.db")), "marker-in-the-log")
	})
	n.end(syscall.SIGTERM)

	log := func() string { return n.path("data", "raft.db") }
	state := strings.TrimSpace(read(t, n.path("data", "state", "CURRENT")))
	table := func() string { return n.newest("data", "state", state, "*.sst") } // a start may write new ones
	manifest := func() string { return n.newest("data", "state", state, "MANIFEST-*") }
	snapshot := n.snapshots()[0]
	meta := func() string { return filepath.Join(snapshot, "meta") }
	// Old pages of the file hold copies; all of them, to hit the one that counts.
	marker := func(data []byte) []byte {
		return bytes.ReplaceAll(data, []byte("marker-in-the-log"), []byte("market-in-the-log"))
	}
	middle := func(data []byte) []byte { data[len(data)/2] ^= 1; return data }
	half := func(data []byte) []byte { return data[:len(data)/2] }
	for _, c := range []struct {
		name   string
		file   func() string
		damage func([]byte) []byte
		parts  []string
	}{
		{"bit of a log entry", log, marker, []string{"raft.db", "checksum"}},
		{"log cut in half", log, half, []string{"raft.db"}},
		{"log empty", log, func([]byte) []byte { return nil }, []string{"log"}},
		{"state's newest table cut in half", table, half, []string{"state"}},
		{"state's manifest cut in half", manifest, half, []string{"state"}},
		{"bit of a snapshot's description", meta, middle, []string{snapshot, "damaged", "restore this node from its peers"}},
		{"snapshot's description cut in half", meta, half, []string{snapshot, "damaged"}},
	} {
		l.sub(c.name, func(l *lab) {
			file := c.file()
			whole := []byte(read(l.t, file))
			write(l.t, file, string(c.damage(bytes.Clone(whole))), 0o600)
			defer func() { write(l.t, file, string(whole), 0o600) }()
			n.failsToStart(c.parts...)
			l.must("meanwhile", "secret", "put", "ml/meanwhile", "f=-")
		})
	}
	l.sub("bits of all the state's tables", func(l *lab) { // of one, the node may read the place only later
		tables, err := filepath.Glob(n.path("data", "state", state, "*.sst"))
		if err != nil || len(tables) == 0 {
			l.t.Fatal(tables, err)
		}
		for _, file := range tables {
			whole := read(l.t, file)
			b := []byte(whole)
			for i := 100; i < len(b); i += 1000 {
				b[i] ^= 1
			}
			write(l.t, file, string(b), 0o600)
			defer func() { write(l.t, file, whole, 0o600) }()
		}
		n.failsToStart("state", ".sst")
	})
	n.start()
	l.awaitUnsealed(n)

	l.sub("no state", func(l *lab) { // the snapshot and the log have it all
		n.end(syscall.SIGKILL)
		remove(l.t, n.path("data", "state"))
		n.start()
		l.awaitUnsealed(n)
	})
	l.sub("share unreadable", func(l *lab) { // the other two unseal it
		n.end(syscall.SIGKILL)
		share := n.newest("data", "shares", "*")
		write(l.t, share, string(middle([]byte(read(l.t, share)))), 0o600)
		n.start()
		l.awaitUnsealed(n)
		if err := within(n.log(), "no share of its own"); err != nil {
			l.t.Error(err)
		}
	})
	l.sub("everything gone", func(l *lab) {
		n.end(syscall.SIGKILL)
		remove(l.t, n.path("data"))
		if n.name == "n1" {
			write(l.t, n.path("config.yaml"), read(l.t, n.path("config.yaml"))+"join: {token_file: "+n.path("join-token")+"}\n", 0o600)
		} else { // its first token still lies there, and it has the key of a member
			n.failsToStart("was a voter", "hizo cluster remove "+n.name)
		}
		l.refused(l.hizo("", "cluster", "join-token", "--node", n.name, "--fingerprint", n.identity()), 2, "is a member", "hizo cluster remove "+n.name)
		l.must("", "cluster", "remove", "--yes", n.name)
		n.giveToken(l.joinToken(n.name, n.identity()))
		n.start()
		l.await(n.name+" has joined", func() error { return within(l.must("", "cluster", "members"), n.name+" ") })
		l.must("", "cluster", "approve", n.name)
		l.awaitUnsealed(n)
		l.await(n.name+" is a voter with a share", func() error {
			members, err := l.Cluster().Members(l.ctx(), &hizov1.MembersRequest{})
			if err != nil {
				return err
			}
			for _, m := range members.GetMembers() {
				if m.GetId() == n.name && m.GetVoter() && m.GetHoldsShare() {
					return nil
				}
			}
			return fmt.Errorf("%v", members)
		})
	})
	l.await("three members vouch for the log", func() error { return within(l.must("", "audit", "verify"), "3 members") })
	// It holds up its part: with another node down, it and the third are the majority.
	leader, _ := l.leader()
	if leader == n {
		leader = others[1]
	}
	leader.end(syscall.SIGKILL)
	for _, path := range []string{"ml/kept", "ml/marker-in-the-log"} {
		if got := l.must("", "secret", "get", path, "--field", "f"); got != "the value" {
			t.Errorf("%s is %q", path, got)
		}
	}
	l.must("", "audit", "verify")
}

// snapshotsSoon has the node take a snapshot after 1 MiB of log.
func snapshotsSoon(n *node) { n.configure("raft: {}", "raft: {snapshot_mib: 1}") }

// configure changes the node's configuration.
func (n *node) configure(from, to string) {
	n.lab.t.Helper()
	old := read(n.lab.t, n.path("config.yaml"))
	changed := strings.Replace(old, from, to, 1)
	if changed == old {
		n.lab.t.Fatalf("no %q in\n%s", from, old)
	}
	write(n.lab.t, n.path("config.yaml"), changed, 0o600)
}

// fillUntilSnapshot writes until every node has taken a snapshot.
func (l *lab) fillUntilSnapshot() {
	l.t.Helper()
	value := bytes.Repeat([]byte("0123456789abcdef"), maxValue/16-1)
	for range 3 {
		_, err := l.Secrets().Put(l.ctx(), &hizov1.PutRequest{Vault: "ml", Path: "fill", Fields: map[string][]byte{"f": value}})
		if err != nil {
			l.t.Fatal(err)
		}
	}
	l.await("every node has a snapshot", func() error {
		for _, n := range l.nodes {
			if len(n.snapshots()) == 0 {
				return fmt.Errorf("%s has none", n.name)
			}
		}
		return nil
	})
}

func (n *node) snapshots() []string {
	n.lab.t.Helper()
	found, err := filepath.Glob(n.path("data", "snapshots", "*"))
	if err != nil {
		n.lab.t.Fatal(err)
	}
	return slices.DeleteFunc(found, func(s string) bool { return strings.HasSuffix(s, ".tmp") })
}

// newest is the last of the files by name.
func (n *node) newest(pattern ...string) string {
	n.lab.t.Helper()
	found, err := filepath.Glob(n.path(pattern...))
	if err != nil || len(found) == 0 {
		n.lab.t.Fatalf("%v of %s: %v, %v", pattern, n.name, found, err)
	}
	return slices.Max(found)
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedExport changes one byte of an export, everywhere, and cuts it: verification says no, and where.
func TestDamagedExport(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	l.must("", "vault", "create", "ml")
	l.must("the value", "secret", "put", "ml/a", "f=-")
	file := filepath.Join(t.TempDir(), "export")
	l.must("", "audit", "export", "-o", file)
	if r := l.hizoWith(nil, "", "audit", "verify", "--trust", l.path("trust"), file); r.code != 0 {
		t.Fatalf("the export as it is: %s", r.err)
	}
	whole := read(t, file)
	damaged := map[string]string{"cut in half": whole[:len(whole)/2], "empty": "", "cut after a line": whole[:strings.LastIndex(strings.TrimSpace(whole), "\n")+1]}
	for i := range 24 {
		at := i * (len(whole) - 1) / 24
		b := []byte(whole)
		b[at] ^= 1
		damaged[fmt.Sprintf("byte %d of %d", at, len(b))] = string(b)
	}
	for name, text := range damaged {
		write(t, file, text, 0o600)
		r := l.hizoWith(nil, "", "audit", "verify", "--trust", l.path("trust"), file)
		if r.code != 1 || !strings.HasPrefix(r.err, "hizo: ") {
			t.Errorf("%s: exit code %d: %s%s", name, r.code, r.out, r.err)
		}
	}
}
