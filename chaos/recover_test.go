package chaos

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestRecover is docs/recovery.md: two of three nodes are lost for good, the third goes on. A node that answers is not
// given up, the plan changes nothing, and one that comes back with its old disk gets nothing.
func TestRecover(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	l.must("", "vault", "create", "ml")
	l.must("the value", "secret", "put", "ml/kept", "f=-")
	left, lost := l.leader()
	give := []string{"--by", "alice", "--reason", "fire in hall 2"}
	for _, n := range lost {
		give = append(give, "--give-up", n.name)
	}
	l.refused(left.hizod("recover"), 1, "is hizod still running here?")
	left.end(syscall.SIGKILL)
	l.refused(left.hizod(append([]string{"recover"}, give...)...), 1, "something answers where these nodes were", "Nothing was changed")
	for _, n := range lost {
		n.end(syscall.SIGKILL)
	}
	look := left.hizod("recover")
	for _, part := range []string{"node      " + left.name, "it takes 2 of them to go on", "report    hizorecover1_", "Nothing was changed"} {
		if err := within(look.out, part); err != nil || look.code != 0 {
			t.Errorf("exit code %d %s: %v", look.code, look.err, err)
		}
	}
	l.refused(left.hizod("recover", "--give-up", lost[0].name, "--by", "alice", "--reason", "fire"), 1, "nothing is said of "+lost[1].name)
	if r := lost[0].hizod("recover", "--report", look.out, "--give-up", lost[1].name); r.code != 1 || !strings.Contains(r.err, "--report") {
		t.Errorf("a report that is no file: exit code %d %s", r.code, r.err)
	}
	report := l.path("report")
	if err := os.WriteFile(report, []byte(look.out), 0o600); err != nil {
		t.Fatal(err)
	}
	l.refused(lost[0].hizod("recover", "--report", report, "--give-up", lost[1].name, "--by", "alice", "--reason", "fire"), 1)
	plan := left.hizod(append([]string{"recover"}, give...)...)
	code := regexp.MustCompile(`--confirm ([0-9a-f]{8})\n`).FindStringSubmatch(plan.out)
	if plan.code != 0 || code == nil {
		t.Fatalf("the plan, exit code %d: %s%s", plan.code, plan.out, plan.err)
	}
	l.refused(left.hizod(append([]string{"recover", "--confirm", "00000000"}, give...)...), 1, "of another plan: nothing was changed")
	done := left.hizod(append([]string{"recover", "--confirm", code[1]}, give...)...)
	if done.code != 0 {
		t.Fatalf("exit code %d: %s", done.code, done.err)
	}
	t.Logf("%s\n%s\n%s", look.out, plan.out, done.out)

	left.start()
	l.await(left.name+" leads, sealed", func() error { return left.isSealed() })
	for i := range 2 {
		if r := l.enter(left, l.share(i+1)); r.code != 0 {
			t.Fatalf("share %d: %s", i+1, r.err)
		}
	}
	l.awaitUnsealed(left)
	if got := l.must("", "secret", "get", "ml/kept", "--field", "f"); got != "the value" {
		t.Errorf("the value is %q", got)
	}
	l.must("another", "secret", "put", "ml/kept", "f=-")
	record := l.must("", "audit", "search", "--action", "recover")
	for _, part := range []string{"gave_up=", lost[0].name, lost[1].name, `by="alice"`, `reason="fire in hall 2"`, "last_index="} {
		if err := within(record, part); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%s%s", record, l.must("", "cluster", "members"))

	// Nobody who is left can vouch for the loss of a majority: whoever verifies has to say that they know of it.
	var trusted string
	l.await("a verification meets the recovery", func() error {
		r := l.hizo("", "audit", "verify")
		if hash := regexp.MustCompile(`write ([0-9a-f]{64}) behind the last word of the trust file`).FindStringSubmatch(r.err); hash != nil {
			trusted = hash[1]
			t.Log(r.err)
			return nil
		}
		return fmt.Errorf("exit code %d: %s%s", r.code, r.out, r.err)
	})
	trust, err := os.ReadFile(l.path("trust"))
	if err == nil {
		err = os.WriteFile(l.path("trust"), []byte(strings.TrimSpace(string(trust))+" "+trusted+"\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Log(l.must("", "audit", "verify"))

	stale := lost[0]
	since := len(stale.log())
	stale.start()
	l.await(left.name+" refuses the node that was given up", func() error { return within(left.log(), "not a member of this cluster") })
	if st, err := stale.status(); err == nil && !st.GetSealed() {
		t.Errorf("%s came back from the dead and is unsealed", stale.name)
	}
	t.Logf("%s", tail(stale.log()[since:], 6))
	if r := l.hizo("", "--addrs", stale.addr, "secret", "get", "ml/kept", "--field", "f"); r.code == 0 || r.out != "" {
		t.Errorf("%s answers: %q", stale.name, fmt.Sprint(r.out, r.err))
	}
}
