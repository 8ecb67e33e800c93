package chaos

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hizo/hizo/api/hizov1"
)

// joiner is a node that is not a member: a configuration and a key file, so that every machine can run it. All of
// its identity is in key; without its data directory it is a new node with an old key.
func (l *lab) joiner(name string) *node {
	l.t.Helper()
	dir := l.path("joiners", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		l.t.Fatal(err)
	}
	ports := freePorts(l.t, 2)
	n := &node{lab: l, name: name, dir: dir, addr: "127.0.0.1:" + ports[0]}
	config := fmt.Sprintf(`node: %s
data_dir: %s
clients: {listen: %s}
peers: {listen: 127.0.0.1:%s}
seal: {type: software, software: {file: %s}}
join: {token_file: %s}
development: true
`, name, n.path("data"), n.addr, ports[1], n.path("key"), n.path("join-token"))
	if err := os.WriteFile(n.path("config.yaml"), []byte(config), 0o600); err != nil {
		l.t.Fatal(err)
	}
	return n
}

// freePorts lie below the range that outgoing connections take theirs from. Tests run side by side, and none holds a port
// before its node does: so each begins elsewhere.
func freePorts(t *testing.T, n int) (ports []string) {
	t.Helper()
	for range 100 {
		p := 2000 + rand.IntN(7900)
		if len(ports) == n {
			break
		}
		if l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(p)); err == nil {
			l.Close()
			ports = append(ports, strconv.Itoa(p))
		}
	}
	if len(ports) < n {
		t.Fatal("no free ports")
	}
	return ports
}

// identity is the fingerprint of a node's key, made if there is none.
func (n *node) identity() string {
	n.lab.t.Helper()
	r := n.hizod("identity")
	if r.code != 0 {
		n.lab.t.Fatalf("hizod identity: %s", r.err)
	}
	return strings.TrimSpace(r.out)
}

func (n *node) giveToken(text string) {
	n.lab.t.Helper()
	if err := os.WriteFile(n.path("join-token"), []byte(text+"\n"), 0o600); err != nil {
		n.lab.t.Fatal(err)
	}
}

func (l *lab) joinToken(name, fingerprint string, more ...string) string {
	l.t.Helper()
	return strings.TrimSpace(l.must("", append([]string{"cluster", "join-token", "--node", name, "--fingerprint", fingerprint}, more...)...))
}

// withSecretOf puts the secret of one join token into another, which names this cluster's members: what a token of
// another cluster is when it is shown here.
func withSecretOf(t *testing.T, token, other string) string {
	t.Helper()
	const prefix, secret = "hizojoin_", 17
	decode := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(s, prefix))
		if err != nil || len(b) < secret+32+4 {
			t.Fatalf("join token %q: %v", s, err)
		}
		return b[:len(b)-4]
	}
	b := decode(token)
	copy(b[secret:secret+32], decode(other)[secret:])
	sum := sha256.Sum256(b)
	return prefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:4]...))
}

// TestJoinTokens: a token admits one key under one name, once, for a while, to one cluster.
func TestJoinTokens(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	l.must("", "vault", "create", "ml")
	l.must("the value", "secret", "put", "ml/kept", "f=-")
	foreign := newLab(t, 1)

	n4 := l.joiner("n4")
	key := n4.identity()
	good := l.joinToken("n4", key)
	short := l.joinToken("n4", key, "--ttl", "1s")
	madeShort := time.Now()
	alien := withSecretOf(t, good, foreign.joinToken("n4", key))
	foreign.nodes[0].end(syscall.SIGKILL)

	l.sub("another cluster's", func(l *lab) {
		n4.giveToken(alien)
		n4.failsToStart("unknown token", "ask for a new one")
	})
	l.sub("another key", func(l *lab) {
		n4.giveToken(l.joinToken("n4", strings.Repeat("ab", 32)))
		n4.failsToStart("token of another key")
	})
	l.sub("another name", func(l *lab) {
		n4.giveToken(l.joinToken("n5", key))
		n4.failsToStart("token of another node")
	})
	l.sub("expired", func(l *lab) {
		l.await("the token has expired", func() error {
			if age := time.Since(madeShort); age < 1100*time.Millisecond {
				return fmt.Errorf("it is %v old", age)
			}
			return nil
		})
		n4.giveToken(short)
		n4.failsToStart("token has expired")
	})
	l.sub("mistyped", func(l *lab) {
		n4.giveToken(good[:40] + swap(good[40]) + good[41:])
		before := len(n4.log())
		n4.start() // it stays, as the file may be corrected
		l.await("the node says what is wrong", func() error { return within(n4.log()[before:], "mistyped or cut short") })
		n4.end(syscall.SIGTERM)
	})
	l.sub("used", func(l *lab) {
		n4.giveToken(good)
		n4.start()
		l.await("n4 has joined", func() error { return within(l.must("", "cluster", "members"), "n4") })
		n4.end(syscall.SIGTERM)
		l.must("", "cluster", "remove", "--yes", "n4")
		if err := os.RemoveAll(n4.path("data")); err != nil {
			l.t.Fatal(err)
		}
		n4.failsToStart("token was used")
	})
	members, err := l.Cluster().Members(l.ctx(), &hizov1.MembersRequest{})
	if err != nil || len(members.GetMembers()) != 3 {
		t.Errorf("members after all that: %v, %v; want the first three", members, err)
	}
	if err := within(l.must("", "audit", "search", "--action", "join", "--decision", "failed"), "unknown token"); err != nil {
		t.Error(err)
	}
	if got := l.must("", "secret", "get", "ml/kept", "--field", "f"); got != "the value" {
		t.Errorf("the value is %q", got)
	}
	l.sub("used, with a new token", func(l *lab) { // what the message says to do
		n4.giveToken(l.joinToken("n4", key))
		n4.start()
		l.await("n4 has joined again", func() error { return within(l.must("", "cluster", "members"), "n4") })
		l.must("", "cluster", "approve", "n4", "--fingerprint", key)
		l.awaitUnsealed(n4)
	})
}

// TestJoinWithoutFounder: the members that a new node meets in the log's first entries are not the ones it has to
// listen to now.
func TestJoinWithoutFounder(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	founder := l.nodes[0]
	founder.end(syscall.SIGKILL)
	l.leader() // one of the others
	n4 := l.joiner("n4")
	key := n4.identity()
	n4.giveToken(l.joinToken("n4", key))
	n4.start()
	l.await("n4 has joined", func() error { return within(l.must("", "cluster", "members"), "n4") })
	l.must("", "cluster", "approve", "n4", "--fingerprint", key)
	l.awaitUnsealed(n4)
}
