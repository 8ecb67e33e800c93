package chaos

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/chaos/check"
	"github.com/hizo/hizo/crypto/shares"
)

// byDesign are the files of a lab in which secrets lie in the clear, each with the reason. All belong to the people
// of the cluster or to its HSMs, none to the server: `hizod dev` only keeps them together.
var byDesign = map[string]string{
	"operators":      "the operators' keys and encrypted shares, which each of them would keep elsewhere",
	"admin.password": "the first engineer's own note of it",
	"admin.token":    "the client's token file, mode 0600",
	"hsm/*.pin":      "the PIN file that the configuration names; a real one is not on the data disk",
	"hsm/tokens":     "SoftHSM's token, whose secrets it protects itself; a real one is a device",
	"join-token":     "how the node joined; used up",
}

func allowed(rel string) bool {
	for pattern := range byDesign {
		for _, p := range []string{pattern, "nodes/*/" + pattern} {
			if ok, err := filepath.Match(p, rel); ok || err != nil {
				return true
			}
		}
	}
	return false
}

// canary collects what must not be found.
type canary struct {
	*lab
	needles []check.Needle
}

func (c *canary) needle(name, value string) string {
	c.needles = append(c.needles, check.Needle{Name: name, Value: []byte(value)})
	return value
}

// fresh is a random secret of 26 characters.
func (c *canary) fresh(name string) string { return c.needle(name, rand.Text()) }

// secretly runs hizo where its answer is a secret: standard output is what was asked for, so it is not kept.
func (c *canary) secretly(env []string, stdin string, args ...string) string {
	c.t.Helper()
	c.mu.Lock()
	before := c.said.Len()
	c.mu.Unlock()
	r := c.hizoWith(env, stdin, args...)
	c.mu.Lock()
	c.said.Truncate(before)
	c.said.WriteString(r.err)
	c.mu.Unlock()
	if r.code != 0 {
		c.t.Fatalf("hizo %v: exit code %d: %s", args, r.code, r.err)
	}
	return r.out
}

// say keeps an error's text for the search.
func (c *canary) say(err error) {
	if err == nil {
		c.t.Error("a call that should fail did not")
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(&c.said, "%v\n%+v\n%#v\n", err, err, err)
}

// TestCanary takes secrets through everything that the programs do, also what goes wrong, and then looks for them in
// every file, log line, message and dump.
func TestCanary(t *testing.T) {
	t.Parallel()
	own := t.TempDir() // files of the users', not of the cluster's
	c := &canary{lab: newLab(t, 3, snapshotsSoon, func(n *node) {
		n.configure("log: {}", "log: {level: debug}")
		n.env = append(n.env, "GOTRACEBACK=all")
	})}
	c.needle("admin's password", strings.TrimSpace(read(t, c.path("admin.password"))))
	c.needle("admin's token", strings.TrimSpace(read(t, c.path("admin.token"))))
	for i := range 3 {
		text := c.needle(fmt.Sprintf("share %d", i+1), c.share(i+1))
		share, err := shares.ParseText(text)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := share.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		c.needle(fmt.Sprintf("value of share %d", i+1), string(raw[len(raw)-32:]))
	}
	for _, n := range c.nodes {
		if sealKind() == "softhsm" {
			c.needle("PIN of "+n.name, strings.TrimSpace(read(t, n.path("hsm", "hizo-"+n.name+".pin"))))
		}
		if n.name != "n1" {
			c.needle("join token of "+n.name, strings.TrimSpace(read(t, n.path("join-token"))))
		}
	}

	value, binary := c.fresh("value"), make([]byte, 32)
	rand.Read(binary)
	c.needle("binary value", string(binary))
	c.values(own, value, binary)
	c.people(own, value)
	c.pipelines(own)
	c.mistakes(own, value)
	c.fillUntilSnapshot()
	c.crashes(value)
	c.ceremony(value)

	export := c.path("export.jsonl")
	c.must("", "audit", "export", "-o", export)
	trail := c.secretly(c.env, "", "audit", "tail", "-n", "200") + c.secretly(c.env, "", "--format", "json", "audit", "search", "--limit", "0")
	c.must("", "audit", "verify")
	c.must("", "cluster", "status")
	c.must("", "cluster", "members")
	for _, n := range c.nodes {
		for _, file := range []string{"environ", "cmdline"} {
			if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", n.cmd.Process.Pid, file)); err == nil {
				write(t, n.path("proc-"+file), string(data), 0o600)
			}
		}
	}
	for _, n := range c.nodes {
		n.end(syscall.SIGTERM)
	}

	scanner, err := check.NewScanner(c.needles...)
	if err != nil {
		t.Fatal(err)
	}
	found, files := c.search(scanner)
	found = append(found, c.forAuditors(trail)...)
	for _, f := range found {
		t.Errorf("found: %v", f)
	}
	if files < 60 || len(c.needles) < 20 {
		t.Errorf("searched %d files for %d secrets: too few to mean anything", files, len(c.needles))
	}
	t.Logf("%d secrets, %d files, %d bytes of output", len(c.needles), files, c.said.Len())
	c.canFail(scanner, value)
}

const output = "what the programs printed"

// search looks through all that is there.
func (c *canary) search(scanner *check.Scanner) ([]check.Finding, int) {
	c.t.Helper()
	found, files, err := scanner.Tree(c.dir, allowed)
	if err != nil {
		c.t.Fatal(err)
	}
	return append(found, scanner.Bytes(output, c.said.Bytes())...), files
}

// forAuditors searches what auditors see. Reasons and names of executions are in the log under its own key, for them.
func (c *canary) forAuditors(trail string) []check.Finding {
	c.t.Helper()
	var others []check.Needle
	for _, n := range c.needles {
		if !slices.Contains([]string{"reason", "reason of one who is refused", "name of an execution"}, n.Name) {
			others = append(others, n)
		} else if !strings.Contains(trail, string(n.Value)) {
			c.t.Errorf("auditors do not see the %s", n.Name)
		}
	}
	scanner, err := check.NewScanner(others...)
	if err != nil {
		c.t.Fatal(err)
	}
	return scanner.Bytes("what auditors see", []byte(trail))
}

// canFail plants a secret in one place of each kind.
func (c *canary) canFail(scanner *check.Scanner, value string) {
	c.t.Helper()
	n := c.nodes[0]
	planted := []string{n.path("log"), n.path("data", "raft.db"), c.path("export.jsonl"), n.newest("data", "snapshots", "*", "db", "*.sst"), n.path("config.yaml")}
	for _, path := range planted {
		whole := read(c.t, path)
		middle := len(whole) / 2
		write(c.t, path, whole[:middle]+value+whole[middle:], 0o600)
	}
	c.said.WriteString(value)
	found, _ := c.search(scanner)
	for _, path := range planted {
		if !slices.ContainsFunc(found, func(f check.Finding) bool { return filepath.Join(c.dir, f.Where) == path }) {
			c.t.Errorf("planted in %s and not found", path)
		}
	}
	if !slices.ContainsFunc(found, func(f check.Finding) bool { return f.Where == output }) {
		c.t.Error("planted in the output and not found")
	}
}

// values is the life of a secret.
func (c *canary) values(own, value string, binary []byte) {
	c.must("", "vault", "create", "ml")
	c.must(value, "secret", "put", "ml/db/main", "password=-")
	file := filepath.Join(own, "binary")
	write(c.t, file, string(binary), 0o600)
	c.must("", "secret", "put", "ml/db/main", "password=@"+file)
	c.must(value, "secret", "put", "ml/db/main", "password=-", "--cas", "2")
	reason := c.fresh("reason")
	if got := c.secretly(c.env, "", "secret", "get", "ml/db/main", "--field", "password", "--reason", reason); got != value {
		c.t.Errorf("revealed %q", got)
	}
	c.secretly(c.env, "", "--format", "json", "secret", "get", "ml/db/main", "--version", "2")
	c.must("", "secret", "versions", "ml/db/main")
	c.must("", "secret", "list", "ml")
	c.must("", "secret", "delete", "ml/db/main", "--version", "3")
	c.refused(c.hizo("", "secret", "get", "ml/db/main", "--version", "3"), 2)
	c.must("", "secret", "undelete", "ml/db/main", "--version", "3")
	c.must("", "secret", "destroy", "--yes", "ml/db/main", "--version", "1")
	c.refused(c.hizo("", "secret", "get", "ml/db/main", "--version", "1"), 2)
	c.refused(c.hizo(value, "secret", "put", "ml/db/main", "password=-", "--cas", "1"), 2, "current version")
	c.refused(c.hizo(value, "secret", "put", "none/db", "password=-"), 2)
}

// people log in, mistype, and are refused.
func (c *canary) people(own, value string) {
	password := c.fresh("bob's password")
	c.must(password+"\n", "user", "create", "bob", "--password-stdin")
	token := filepath.Join(own, "bob.token")
	bob := append(slices.Clone(c.env), "HIZO_TOKEN_FILE="+token)
	c.refused(c.hizoWith(bob, c.fresh("mistyped password")+"\n", "login", "--user", "bob", "--password-stdin"), 2)
	c.refused(c.hizoWith(bob, password+"\n", "login", "--user", "nobody", "--password-stdin"), 2)
	if r := c.hizoWith(bob, password+"\n", "login", "--user", "bob", "--password-stdin"); r.code != 0 {
		c.t.Fatal(r.err)
	}
	c.needle("bob's token", strings.TrimSpace(read(c.t, token)))
	c.refused(c.hizoWith(bob, "", "secret", "get", "ml/db/main", "--reason", c.fresh("reason of one who is refused")), 2)
	c.refused(c.hizoWith(bob, value, "secret", "put", "ml/db/main", "password=-"), 2)
	c.must(c.fresh("bob's next password")+"\n", "user", "password", "bob", "--password-stdin")
	c.must("", "token", "revoke", "user/bob")
	c.refused(c.hizoWith(bob, "", "whoami"), 2)
}

// pipelines get values injected, and their commands fail.
func (c *canary) pipelines(own string) {
	c.must("", "workload", "create", "train")
	policy := filepath.Join(own, "policy")
	write(c.t, policy, `permit (principal == Hizo::Workload::"train", action == Hizo::Action::"inject", resource == Hizo::Secret::"ml/db/main");`, 0o600)
	c.must("", "policy", "put", "train", "@"+policy)
	id := c.needle("secret id", strings.TrimSpace(c.secretly(c.env, "", "workload", "secret-id", "train")))
	token, idFile := filepath.Join(own, "train.token"), filepath.Join(own, "secret-id")
	write(c.t, idFile, id+"\n", 0o600)
	train := append(slices.Clone(c.env), "HIZO_TOKEN_FILE="+token)
	if r := c.hizoWith(train, "", "login", "--workload", "train", "--secret-id-file", idFile); r.code != 0 {
		c.t.Fatal(r.err)
	}
	c.needle("train's token", strings.TrimSpace(read(c.t, token)))
	c.refused(c.hizoWith(train, "", "login", "--workload", "train", "--secret-id-file", idFile), 2, "used before") // and its token stays
	const env = "DB=hizo://ml/db/main#password"
	execution := c.fresh("name of an execution")
	if r := c.hizoWith(train, "", "run", "--env", env, "--execution", execution, "--", "/bin/sh", "-c", `test ${#DB} -eq 26 && exit 7`); r.code != 7 {
		c.t.Errorf("run: exit code %d: %s%s", r.code, r.out, r.err)
	}
	if r := c.hizoWith(train, "", "run", "--env", env, "--mask", "--", "/bin/sh", "-c", `echo "it is $DB"; echo "$DB" >&2; exit 3`); r.code != 3 || !strings.Contains(r.out, "it is ") {
		c.t.Errorf("run --mask: exit code %d: %s%s", r.code, r.out, r.err)
	}
	if r := c.hizoWith(train, "", "run", "--env", env, "--", filepath.Join(own, "no-such-command")); r.code != 127 {
		c.t.Errorf("run of nothing: exit code %d: %s", r.code, r.err)
	}
	c.refused(c.hizoWith(train, "", "run", "--env", "DB=hizo://ml/db/none#password", "--", "true"), 2)
	c.refused(c.hizoWith(train, "", "secret", "get", "ml/db/main"), 2)
}

// mistakes put secrets where they do not belong. The person who typed one may see it again; nobody else.
func (c *canary) mistakes(own, value string) {
	typed := func(stdin string, args ...string) {
		c.t.Helper()
		if r := c.hizoWith(c.env, stdin, args...); r.code != 1 && r.code != 2 {
			c.t.Errorf("%v: exit code %d: %s", args, r.code, r.err)
		}
	}
	large := filepath.Join(own, "large")
	write(c.t, large, strings.Repeat(value, maxValue/len(value)+1), 0o600)
	typed("", "secret", "put", "ml/large", "f=@"+large)
	policy := filepath.Join(own, "bad-policy")
	for _, text := range []string{
		`permit (principal == Hizo::Workload::"train", action == "%s");`, "permit (principal, %s", `%s`,
	} {
		write(c.t, policy, fmt.Sprintf(text, value), 0o600)
		c.unseen("", "policy", "put", "bad", "@"+policy)
	}
	typed("hizo_"+value, "cluster", "unseal")
	c.unseen("", "secret", "put", "ml//"+value, "f=x")
	c.unseen("", "secret", "get", "ml/db/main", "--field", value)
	c.unseen("", "secret", "get", value+"/..")
	c.unseen("", "login", "--user", value)
	// Of a client that checks nothing, too; the answer is only the caller's.
	for _, call := range []func() error{
		func() error {
			_, err := c.Secrets().Put(c.ctx(), &hizov1.PutRequest{Vault: "ml", Path: "large", Fields: map[string][]byte{"f": bytes.Repeat([]byte(value), maxValue/len(value)+1)}})
			return err
		},
		func() error {
			cas := uint32(1)
			_, err := c.Secrets().Put(c.ctx(), &hizov1.PutRequest{Vault: "ml", Path: "db/main", Fields: map[string][]byte{"f": []byte(value)}, Cas: &cas})
			return err
		},
		func() error {
			_, err := c.Secrets().Put(c.ctx(), &hizov1.PutRequest{Vault: "ml", Path: "db/../main", Fields: map[string][]byte{"f": []byte(value)}})
			return err
		},
		func() error {
			_, err := c.Auth().Login(c.ctx(), &hizov1.LoginRequest{User: "bob", Password: []byte(value)})
			return err
		},
		func() error {
			_, err := c.Cluster().Unseal(c.ctx(), &hizov1.UnsealRequest{Share: value})
			return err
		},
		func() error {
			_, err := c.Cluster().Init(c.ctx(), &hizov1.InitRequest{BootstrapToken: value})
			return err
		},
		func() error {
			_, err := c.Secrets().Inject(c.ctx(), &hizov1.InjectRequest{ExecutionKey: []byte(value), Execution: value})
			return err
		},
	} {
		c.say(call())
	}
	for method, err := range map[string]error{
		"put": func() error {
			_, err := c.Secrets().Put(c.ctx(), &hizov1.PutRequest{Vault: "ml", Path: "/" + value})
			return err
		}(),
		"reveal": func() error { _, err := c.Secrets().Reveal(c.ctx(), &hizov1.RevealRequest{Vault: value}); return err }(),
		"policy": func() error {
			_, err := c.Policies().PutPolicy(c.ctx(), &hizov1.PutPolicyRequest{Name: value, Text: value})
			return err
		}(),
	} {
		if err == nil {
			c.t.Errorf("%s: accepted", method)
		}
	}
}

// unseen runs hizo with a mistake that its message may show to the one who made it.
func (c *canary) unseen(stdin string, args ...string) {
	c.t.Helper()
	c.mu.Lock()
	before := c.said.Len()
	c.mu.Unlock()
	r := c.hizoWith(c.env, stdin, args...)
	c.mu.Lock()
	c.said.Truncate(before)
	c.mu.Unlock()
	if r.code != 1 && r.code != 2 {
		c.t.Errorf("%v: exit code %d: %s", args, r.code, r.err)
	}
}

// crashes: a node that has just decrypted is asked for its goroutines and dies of it, another is killed.
func (c *canary) crashes(value string) {
	leader, _ := c.leader()
	if got := c.secretly(c.env, "", "secret", "get", "ml/db/main", "--field", "password"); got != value {
		c.t.Errorf("revealed %q", got)
	}
	leader.end(syscall.SIGQUIT)
	if log := leader.log(); !strings.Contains(log, "goroutine ") || !strings.Contains(log, "SIGQUIT") {
		c.t.Errorf("no dump of goroutines:\n%s", tail(log, 5))
	}
	leader.start()
	c.awaitUnsealed(leader)
	leader, _ = c.leader()
	leader.end(syscall.SIGKILL)
	leader.start()
	c.awaitUnsealed(c.nodes...)
	if got := c.secretly(c.env, "", "secret", "get", "ml/db/main", "--field", "password"); got != value {
		c.t.Errorf("after the crashes revealed %q", got)
	}
}

// ceremony seals and unseals, with a wrong share among the right ones.
func (c *canary) ceremony(value string) {
	c.must("", "cluster", "seal", "--yes")
	for _, n := range c.nodes {
		c.await(n.name+" is sealed", func() error { return n.isSealed() })
	}
	second := c.share(2)
	c.enter(c.nodes[0], c.share(1))
	c.refused(c.enter(c.nodes[0], second[:30]+swap(second[30])+second[31:]), 2, "checksum")
	c.refused(c.enter(c.nodes[0], c.share(1)), 2, "twice")
	c.enter(c.nodes[0], second)
	c.awaitUnsealed(c.nodes...)
	if got := c.secretly(c.env, "", "secret", "get", "ml/db/main", "--field", "password"); got != value {
		c.t.Errorf("after the ceremony revealed %q", got)
	}
}
