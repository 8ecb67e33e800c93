package chaos

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/hizo/hizo/api/hizov1"
)

// TestRestore is docs/backup.md: all nodes are lost, one begins again from a backup, by the programs alone. What the
// checkpoint kept outside says to be missing has to be waived aloud, and a node that is in a cluster is not overwritten.
func TestRestore(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	l.must("", "vault", "create", "ml")
	l.must("the value", "secret", "put", "ml/kept", "f=-")
	l.must("", "backup", "create")
	files, err := filepath.Glob(l.path("backups", "*.hizobackup"))
	if err != nil || len(files) != 1 {
		t.Fatalf("backups: %q, %v", files, err)
	}
	l.must("too late", "secret", "put", "ml/late", "f=-")
	l.must("", "audit", "checkpoint", "-o", l.path("checkpoint"))
	verified := l.must("", "backup", "verify", files[0], "--trust", l.path("trust"), "--checkpoint", l.path("checkpoint"))
	if err := within(verified, "signed by          a majority of the members"); err != nil {
		t.Error(err)
	}
	n := l.nodes[0]
	for _, n := range l.nodes {
		n.end(syscall.SIGKILL)
	}
	restore := []string{"restore", files[0], "--trust", l.path("trust"), "--checkpoint", l.path("checkpoint"), "--trust-output", l.path("trust.new")}
	for i := range 2 {
		write(t, l.path("given"+strconv.Itoa(i)), l.share(i+1)+"\n", 0o600)
		restore = append(restore, "--share-file", l.path("given"+strconv.Itoa(i)))
	}
	waived := slices.Concat(restore, []string{"--waive", "the hall burnt down"})
	l.refused(n.hizod(waived...), 1, "nothing was changed")
	remove(t, n.path("data"))
	l.refused(n.hizod(restore...), 1, "audit records would be lost", "nothing was changed")
	l.refused(n.hizod(append(slices.Clone(waived), "--time", "2020-02-02T20:20Z")...), 1, "The cluster would go on at", "what time is it?", "set the clock")
	done := n.hizod(waived...)
	if done.code != 0 {
		t.Fatalf("exit code %d\n%s", done.code, done.err)
	}
	t.Logf("%s%s", done.out, done.err)

	n.start()
	l.await(n.name+" is up, sealed", n.isSealed)
	for i := range 2 {
		if r := l.enter(n, l.share(i+1)); r.code != 0 {
			t.Fatalf("share %d: %s", i+1, r.err)
		}
	}
	password := strings.TrimSpace(read(t, l.path("admin.password")))
	var login *hizov1.LoginResponse
	l.await("a password is good", func() (err error) {
		login, err = l.Auth().Login(l.ctx(), &hizov1.LoginRequest{User: "admin", Password: []byte(password)})
		return err
	})
	l.refused(l.hizo("", "whoami"), 2, "not logged in, or the login has ended")
	write(t, l.path("admin.token"), login.Token, 0o600)
	if got := l.must("", "secret", "get", "ml/kept", "--field", "f"); got != "the value" {
		t.Errorf("the value is %q", got)
	}
	if r := l.hizo("", "secret", "get", "ml/late", "--field", "f"); r.code == 0 {
		t.Errorf("what was put after the backup: %q", r.out)
	}
	l.must("another", "secret", "put", "ml/kept", "f=-")

	l.refused(l.hizo("", "audit", "verify"), 1, "it says that the cluster was restored from a backup")
	if err := os.Rename(l.path("trust.new"), l.path("trust")); err != nil {
		t.Fatal(err)
	}
	l.await("the new trust file verifies", func() error {
		r := l.hizo("", "audit", "verify")
		return within(r.out+r.err, "verified     yes")
	})
	if err := within(l.must("", "audit", "search", "--action", "restore"), "the hall burnt down"); err != nil {
		t.Error(err)
	}
}
