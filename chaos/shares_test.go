package chaos

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/hizo/hizo/crypto/shares"
)

// share decrypts operator i's share, 1 to 3, with the operator's own key.
func (l *lab) share(i int) string {
	l.t.Helper()
	key, err := os.ReadFile(l.path("operators", strconv.Itoa(i)+".key"))
	if err != nil {
		l.t.Fatal(err)
	}
	sealed, err := os.ReadFile(l.path("operators", strconv.Itoa(i)+".share"))
	if err != nil {
		l.t.Fatal(err)
	}
	identities, err := age.ParseIdentities(bytes.NewReader(key))
	if err != nil {
		l.t.Fatal(err)
	}
	plain, err := age.Decrypt(armor.NewReader(bytes.NewReader(sealed)), identities...)
	if err != nil {
		l.t.Fatal(err)
	}
	text, err := io.ReadAll(plain)
	if err != nil {
		l.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// enter enters a share as text at one node.
func (l *lab) enter(at *node, text string) result {
	l.t.Helper()
	return l.hizo(text, "--addrs", at.addr, "cluster", "unseal")
}

// TestWrongShares: a sealed cluster, one right share, then every kind of wrong one. Each is refused by name and
// takes nothing from what is there: the second right share unseals.
func TestWrongShares(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	l.must("", "vault", "create", "ml")
	l.must("the value", "secret", "put", "ml/kept", "f=-")
	foreign := newLab(t, 1)
	alien := foreign.share(1)
	foreign.nodes[0].end(syscall.SIGKILL)

	at, _ := l.leader() // a follower's counts of refused shares reach the log only when it leads
	l.must("", "cluster", "seal", "--yes")
	for _, n := range l.nodes {
		l.await(n.name+" is sealed", func() error { return n.isSealed() })
	}
	l.refused(l.hizo("", "secret", "get", "ml/kept", "--field", "f"), 2, "sealed", "hizo cluster unseal")

	first := l.share(1)
	if r := l.enter(at, first); r.code != 0 || !strings.Contains(r.out, "1 of 2") {
		t.Fatalf("the first share: exit code %d\n%s%s", r.code, r.out, r.err)
	}
	changed := func(change func(*shares.Share)) string {
		s, err := shares.ParseText(l.share(2))
		if err != nil {
			t.Fatal(err)
		}
		change(&s)
		text, err := s.Text()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	second := l.share(2)
	for _, c := range []struct {
		name, text string
		parts      []string
	}{
		{"same share twice", first, []string{"share number 1 was given twice"}},
		{"wrong under its number", changed(func(s *shares.Share) { s.Index = 3 }), []string{"wrong share", "number 3"}},
		{"number nobody has", changed(func(s *shares.Share) { s.Index = 9 }), []string{"wrong share", "number 9"}},
		{"another cluster", alien, []string{"another cluster"}},
		{"another epoch", changed(func(s *shares.Share) { s.Deal[0] ^= 1 }), []string{"another deal"}},
		{"a node's share", changed(func(s *shares.Share) { s.Set = shares.NodeSet }), []string{"other set"}},
		{"mistyped", second[:20] + swap(second[20]) + second[21:], []string{"checksum"}},
		{"cut short", second[:40], []string{"checksum", "40 characters"}},
		{"something else", "hunter2", []string{"not a share"}},
	} {
		l.sub(c.name, func(l *lab) {
			r := l.enter(at, c.text)
			l.refused(r, 2, c.parts...)
			if strings.Contains(r.err, c.text) {
				l.t.Error("the message repeats what was entered")
			}
			if err := at.isSealed(); err != nil {
				l.t.Error(err)
			}
		})
	}
	if r := l.enter(at, second); r.code != 0 || !strings.Contains(r.out, "sealed  no") {
		t.Fatalf("the second right share: exit code %d\n%s%s", r.code, r.out, r.err)
	}
	l.awaitUnsealed(l.nodes...)
	if got := l.must("", "secret", "get", "ml/kept", "--field", "f"); got != "the value" {
		t.Errorf("after the ceremony the value is %q", got)
	}
	// A file with both, as one who moves house has them, and the wrong one of them is named.
	file := filepath.Join(t.TempDir(), "share")
	if err := os.WriteFile(file, []byte(alien+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.refused(l.hizo("", "cluster", "unseal", "--share-file", file), 2, "another cluster")
	l.await("the refusals are on record", func() error {
		return within(l.must("", "audit", "search", "--action", "cluster.unseal", "--decision", "failed"), "share refused")
	})
	l.must("", "audit", "verify")
}

// swap is another letter of bech32's alphabet.
func swap(c byte) string {
	if c == 'q' {
		return "p"
	}
	return "q"
}
