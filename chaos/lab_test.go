package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/crypto/seal/softhsm"
)

// patience bounds every wait. The machine may be busy with other packages' tests.
const patience = 30 * time.Second

// lab is a cluster of `hizod server` processes that `hizod dev` has set up. The test owns the processes, so it can
// kill, change and restart each; everything of it lies in dir.
type lab struct {
	t     *testing.T // of the running sub-test
	whole *testing.T // what processes live as long as
	dir   string
	nodes []*node
	env   []string // for hizo, as `hizod dev` gives it to its command
	*client.Client

	mu   sync.Mutex
	said bytes.Buffer // all that the programs printed
}

// newLab sets a cluster up and starts its nodes. Every start of a lab is also a cold restart: all nodes of it have
// stopped and unseal each other.
func newLab(t *testing.T, nodes int, prepare ...func(*node)) *lab {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes; not with -short")
	}
	l := &lab{t: t, whole: t, dir: filepath.Join(t.TempDir(), "lab")}
	out := l.run(exec.Command(filepath.Join(bin, "hizod"), "dev", "--nodes", strconv.Itoa(nodes), "--dir", l.dir,
		"--hsm", sealKind(), "--exec", `echo "$HIZO_ADDRS"`))
	if out.code != 0 {
		t.Fatalf("hizod dev: exit code %d\n%s", out.code, out.err)
	}
	addrs := strings.Split(strings.TrimSpace(out.out), ",")
	if len(addrs) != nodes {
		t.Fatalf("hizod dev answered addresses %q", out.out)
	}
	l.env = []string{
		"HIZO_ADDRS=" + strings.Join(addrs, ","), "HIZO_CACERT=" + l.path("ca.pem"),
		"HIZO_TOKEN_FILE=" + l.path("admin.token"), "HIZO_TRUST=" + l.path("trust"),
	}
	ca, err := os.ReadFile(l.path("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if l.Client, err = client.New(client.Config{Addrs: addrs, CA: ca, Token: client.TokenFile(l.path("admin.token"))}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	for i, addr := range addrs {
		n := &node{lab: l, name: fmt.Sprintf("n%d", i+1), dir: l.path("nodes", strconv.Itoa(i+1)), addr: addr}
		if sealKind() == "softhsm" {
			n.env = []string{softhsm.ConfEnv + "=" + filepath.Join(n.dir, "hsm", "softhsm2.conf")}
		}
		for _, p := range prepare {
			p(n)
		}
		l.nodes = append(l.nodes, n)
		n.start()
	}
	l.awaitUnsealed(l.nodes...)
	return l
}

// sealKind is what this machine has.
func sealKind() string {
	if _, err := softhsm.Module(); err != nil {
		return "software"
	}
	return "softhsm"
}

// needSoftHSM skips what can be done to a token only.
func needSoftHSM(t *testing.T) {
	t.Helper()
	if _, err := softhsm.Module(); err != nil {
		t.Skip(err)
	}
}

func (l *lab) path(elem ...string) string { return filepath.Join(append([]string{l.dir}, elem...)...) }

// result is how a program ended.
type result struct {
	out, err string
	code     int
}

// run runs a program to its end and keeps what it printed.
func (l *lab) run(cmd *exec.Cmd) result {
	l.t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	timer := time.AfterFunc(2*patience, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !timer.Stop() {
		l.t.Fatalf("%v does not end\n%s%s", cmd.Args, &out, &errs)
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		l.t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said.Write(out.Bytes())
	l.said.Write(errs.Bytes())
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// hizo runs the client with stdin and the cluster's environment.
func (l *lab) hizo(stdin string, args ...string) result {
	l.t.Helper()
	return l.hizoWith(l.env, stdin, args...)
}

func (l *lab) hizoWith(env []string, stdin string, args ...string) result {
	l.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "hizo"), args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + l.dir}, env...)
	cmd.Stdin = strings.NewReader(stdin)
	return l.run(cmd)
}

// hizod runs the server's program to its end.
func (l *lab) hizod(args ...string) result {
	l.t.Helper()
	return l.run(exec.Command(filepath.Join(bin, "hizod"), args...))
}

// hizod runs it for this node, with the node's token.
func (n *node) hizod(args ...string) result {
	n.lab.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "hizod"), slices.Concat(args, []string{"--config", n.path("config.yaml")})...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, n.env...)
	return n.lab.run(cmd)
}

// must is hizo where nothing else than success will do; it returns standard output.
func (l *lab) must(stdin string, args ...string) string {
	l.t.Helper()
	r := l.hizo(stdin, args...)
	if r.code != 0 {
		l.t.Fatalf("hizo %v: exit code %d\n%s%s", args, r.code, r.err, l.errors())
	}
	return r.out
}

// errors are what the nodes logged as such, but for Raft's, who calls it an error when a node is down.
func (l *lab) errors() string {
	var b strings.Builder
	for _, n := range l.nodes {
		for line := range strings.Lines(n.log()) {
			if strings.Contains(line, "level=ERROR") && !strings.Contains(line, "component=raft") {
				b.WriteString(n.name + ": " + line)
			}
		}
	}
	return b.String()
}

// refused fails unless r ended with this code and a message that holds every part.
func (l *lab) refused(r result, code int, parts ...string) {
	l.t.Helper()
	if r.code != code {
		l.t.Errorf("exit code %d, want %d\n%s%s", r.code, code, r.out, r.err)
	}
	for _, part := range parts {
		if !strings.Contains(r.err, part) {
			l.t.Errorf("the message does not say %q:\n%s", part, r.err)
		}
	}
}

// sub is the same lab for a sub-test, so that failures are the sub-test's.
func (l *lab) sub(name string, f func(*lab)) {
	l.t.Run(name, func(t *testing.T) {
		outer := l.t
		l.t = t
		defer func() { l.t = outer }()
		f(l)
	})
}

// await polls until check is content; its last complaint is the failure.
func (l *lab) await(what string, check func() error) {
	l.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("waited %v until %s: %v\n%s", patience, what, err, l.logs())
		}
		<-time.After(20 * time.Millisecond) // between two looks
	}
}

func (l *lab) logs() string {
	var b strings.Builder
	for _, n := range l.nodes {
		fmt.Fprintf(&b, "--- the end of %s's log\n%s\n", n.name, tail(n.log(), 12))
	}
	return b.String()
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// status of one node, which need not answer.
func (n *node) status() (*hizov1.StatusResponse, error) {
	one, err := n.lab.Node(n.addr)
	if err != nil {
		return nil, err
	}
	defer one.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return one.Cluster().Status(ctx, &hizov1.StatusRequest{})
}

// isSealed complains unless the node says that it is.
func (n *node) isSealed() error {
	st, err := n.status()
	if err == nil && !st.GetSealed() {
		err = errors.New("it is unsealed")
	}
	return err
}

// within complains unless text holds part.
func within(text, part string) error {
	if !strings.Contains(text, part) {
		return fmt.Errorf("%q is not in:\n%s", part, text)
	}
	return nil
}

// awaitUnsealed waits until each of these nodes holds its keys and knows the same leader.
func (l *lab) awaitUnsealed(nodes ...*node) {
	l.t.Helper()
	for _, n := range nodes {
		l.await(n.name+" is unsealed and follows a leader", func() error {
			if !n.running() {
				l.t.Fatalf("%s has ended:\n%s", n.name, tail(n.log(), 12))
			}
			st, err := n.status()
			switch {
			case err != nil:
				return err
			case st.GetSealed() || st.GetLeaderId() == "":
				return fmt.Errorf("sealed %v, leader %q", st.GetSealed(), st.GetLeaderId())
			}
			return nil
		})
	}
}

// leader waits for one and returns it first, then the others that run.
func (l *lab) leader() (leader *node, others []*node) {
	l.t.Helper()
	l.await("there is a leader", func() error {
		leader, others = nil, nil
		for _, n := range l.nodes {
			if !n.running() {
				continue
			}
			if st, err := n.status(); err == nil && st.GetLeaderId() == n.name && !st.GetSealed() {
				leader = n
			} else {
				others = append(others, n)
			}
		}
		if leader == nil {
			return errors.New("no node says that it leads")
		}
		return nil
	})
	return leader, others
}

// context for calls by the Go client.
func (l *lab) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	l.t.Cleanup(cancel)
	return ctx
}

// node is one `hizod server` process.
type node struct {
	lab  *lab
	name string // n1 …
	dir  string // config.yaml, data, hsm, log
	addr string // for clients
	env  []string
	// program is another build of hizod; empty for the one under test.
	program string

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

func (n *node) path(elem ...string) string { return filepath.Join(append([]string{n.dir}, elem...)...) }

// start starts the process; its log goes on where it was.
func (n *node) start() {
	n.lab.t.Helper()
	log, err := os.OpenFile(n.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.lab.t.Fatal(err)
	}
	defer log.Close()
	program := n.program
	if program == "" {
		program = filepath.Join(bin, "hizod")
	}
	cmd := exec.Command(program, "server", "--config", n.path("config.yaml"))
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, n.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		n.lab.t.Fatal(err)
	}
	done := make(chan struct{})
	n.cmd, n.done = cmd, done
	go func() {
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
		close(done)
	}()
	n.lab.whole.Cleanup(func() {
		_ = cmd.Process.Kill() // only this very process; it may have ended
		<-done
	})
}

func (n *node) running() bool {
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// end sends a signal and waits for the end of the process.
func (n *node) end(sig syscall.Signal) {
	n.lab.t.Helper()
	if err := n.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		n.lab.t.Fatal(err)
	}
	n.wait()
}

// wait waits for the end of the process and returns its exit code, -1 for a signal.
func (n *node) wait() int {
	n.lab.t.Helper()
	select {
	case <-n.done:
	case <-time.After(patience):
		n.lab.t.Fatalf("%s does not end:\n%s", n.name, tail(n.log(), 12))
	}
	return n.cmd.ProcessState.ExitCode()
}

// log is all that the node has printed since it was made.
func (n *node) log() string {
	data, err := os.ReadFile(n.path("log"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// failsToStart starts the node and fails unless it ends with code 1 and a last word that holds every part.
func (n *node) failsToStart(parts ...string) {
	n.lab.t.Helper()
	before := len(n.log())
	n.start()
	select {
	case <-n.done:
	case <-time.After(patience / 3):
		n.lab.t.Errorf("%s runs, instead of refusing to start:\n%s", n.name, tail(n.log(), 12))
		n.end(syscall.SIGKILL)
		return
	}
	code := n.wait()
	said := n.log()[before:]
	if code != 1 {
		n.lab.t.Errorf("%s ended with code %d, want 1:\n%s", n.name, code, tail(said, 12))
	}
	if strings.Contains(said, "goroutine ") {
		n.lab.t.Errorf("%s panicked instead of refusing:\n%s", n.name, tail(said, 40))
	}
	n.lab.t.Logf("%s", tail(said, 2))
	for _, part := range parts {
		if !strings.Contains(said, part) {
			n.lab.t.Errorf("%s does not say %q when it refuses to start:\n%s", n.name, part, tail(said, 12))
		}
	}
}
