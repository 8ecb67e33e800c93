package main

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

// buildDir holds the program under test. It is built once, without the race detector: three nodes under it are too
// slow for their own timeouts on two cores.
var buildDir string

func TestMain(m *testing.M) {
	var err error
	if buildDir, err = os.MkdirTemp("", "hizod-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(buildDir)
	os.Exit(code)
}

var buildServer = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "hizod")
	// The flags of `make hizod`, so that packages come from the build cache.
	if out, err := exec.Command("go", "build", "-trimpath", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

// devRun is a running `hizod dev`.
type devRun struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	out  *bytes.Buffer // standard error; only after wait
	done chan error
}

func startDev(t *testing.T, dir string, args ...string) *devRun {
	t.Helper()
	exe, err := buildServer()
	if err != nil {
		t.Fatal(err)
	}
	r := &devRun{t: t, dir: dir, out: new(bytes.Buffer), done: make(chan error, 1)}
	r.cmd = exec.Command(exe, append([]string{"dev", "--dir", dir}, args...)...)
	r.cmd.Stderr = r.out
	// Left over nodes would hold the pipe of standard error open; say so instead of waiting for them.
	r.cmd.WaitDelay = 5 * time.Second
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.done <- r.cmd.Wait() }()
	t.Cleanup(func() {
		if r.done != nil {
			_ = r.cmd.Process.Kill()
			<-r.done
		}
	})
	return r
}

// wait returns the exit code.
func (r *devRun) wait() int {
	r.t.Helper()
	select {
	case err := <-r.done:
		r.done = nil
		if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
			r.t.Fatalf("%v\n%s", err, r.out)
		}
	case <-time.After(2 * time.Minute):
		r.t.Fatal("hizod dev does not end")
	}
	r.t.Logf("hizod dev said:\n%s", r.out)
	return r.cmd.ProcessState.ExitCode()
}

// ready waits for the environment and returns a client made of it.
func (r *devRun) ready() *client.Client {
	r.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		if text, err := os.ReadFile(filepath.Join(r.dir, "env")); err == nil {
			return clientOf(r.t, string(text))
		}
		select {
		case <-r.done:
			r.done = nil
			r.t.Fatalf("hizod dev ended:\n%s", r.out)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			r.t.Fatal("hizod dev does not get ready")
		}
	}
}

// clientOf reads the environment by a shell, as a user would.
func clientOf(t *testing.T, env string) *client.Client {
	t.Helper()
	value := func(name string) string {
		out, err := exec.Command("/bin/sh", "-c", env+"\nprintf %s \"$"+name+"\"").Output()
		if err != nil || len(out) == 0 {
			t.Fatalf("%s is not in the environment: %v\n%s", name, err, env)
		}
		return string(out)
	}
	ca, err := os.ReadFile(value("HIZO_CACERT"))
	if err != nil {
		t.Fatal(err)
	}
	if trust, err := os.ReadFile(value("HIZO_TRUST")); err != nil || len(strings.Fields(string(trust))) != 3 {
		t.Errorf("trust file %q, %v: want three words", trust, err)
	}
	c, err := client.New(client.Config{
		Addrs: strings.Split(value("HIZO_ADDRS"), ","), CA: ca, Token: client.TokenFile(value("HIZO_TOKEN_FILE")),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// pids of the nodes that run, by number.
func (r *devRun) pids(nodes int) map[int]int {
	r.t.Helper()
	pids := make(map[int]int)
	for i := range nodes {
		pid := readPID(r.t, filepath.Join(r.dir, "nodes", strconv.Itoa(i+1), "pid"))
		if !alive(pid) || slices.Contains(slicesOf(pids), pid) {
			r.t.Errorf("node %d: process %d does not run, or is another node's", i+1, pid)
		}
		pids[i+1] = pid
	}
	return pids
}

func slicesOf(m map[int]int) (values []int) {
	for _, v := range m {
		values = append(values, v)
	}
	return values
}

// nothingLeft fails if a process that was started for this directory runs, or what only lives with them is there.
func (r *devRun) nothingLeft() {
	r.t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		r.t.Fatal(err)
	}
	for _, p := range processes {
		line, err := os.ReadFile(p)
		if err == nil && bytes.Contains(line, []byte(r.dir)) && !strings.HasPrefix(p, fmt.Sprintf("/proc/%d/", os.Getpid())) {
			r.t.Errorf("left running: %s", bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		}
	}
	left, err := filepath.Glob(filepath.Join(r.dir, "nodes", "*", "pid"))
	if err != nil || len(left) > 0 {
		r.t.Errorf("left over: %v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(r.dir, "env")); !errors.Is(err, os.ErrNotExist) {
		r.t.Errorf("env is still there: %v", err)
	}
}

func put(t *testing.T, c *client.Client, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := c.Secrets().Put(ctx, &hizov1.PutRequest{Vault: "ml", Path: "a", Fields: map[string][]byte{"f": []byte(value)}}); err != nil {
		t.Fatal(err)
	}
}

func reveal(t *testing.T, c *client.Client) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	answer, err := c.Secrets().Reveal(ctx, &hizov1.RevealRequest{Vault: "ml", Path: "a", Field: "f"})
	if err != nil {
		t.Fatal(err)
	}
	return string(answer.Fields["f"])
}

// needs skips where SoftHSM2 is missing, and where time is short.
func needs(t *testing.T, hsm string) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes; not with -short")
	}
	if _, err := softhsm.Module(); hsm == "softhsm" && err != nil {
		t.Skip(err)
	}
}

func TestDevRunsACluster(t *testing.T) {
	t.Parallel()
	for _, hsm := range []string{"softhsm", "software"} {
		t.Run(hsm, func(t *testing.T) {
			needs(t, hsm)
			dir := filepath.Join(t.TempDir(), "it's here") // as users may name it

			// With a command: its environment, its exit code, and nothing left.
			seen := filepath.Join(t.TempDir(), "seen")
			r := startDev(t, dir, "--nodes", "3", "--hsm", hsm, "--exec",
				`. "$(dirname "$HIZO_CACERT")/env" && env | grep ^HIZO_ | sort >`+seen+` && kill -0 $(cat "$(dirname "$HIZO_CACERT")"/nodes/?/pid) && exit 7`)
			if code := r.wait(); code != 7 {
				t.Fatalf("exit code %d, want the command's 7", code)
			}
			r.nothingLeft()
			env, err := os.ReadFile(seen)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"HIZO_ADDRS=127.0.0.1:", "HIZO_CACERT=" + dir + "/ca.pem", "HIZO_TOKEN_FILE=" + dir + "/admin.token", "HIZO_TRUST=" + dir + "/trust"} {
				if !strings.Contains(string(env), want) {
					t.Errorf("%q is missing in the command's environment:\n%s", want, env)
				}
			}
			for _, secret := range []string{"admin.token", "admin.password", "operators/1.key", "operators/3.share"} {
				if st, err := os.Stat(filepath.Join(dir, secret)); err != nil || st.Mode().Perm() != 0o600 {
					t.Errorf("%s: %v, %v, want mode 0600", secret, st, err)
				}
			}

			// Again without one: the same cluster, with a new login. It survives the death of its leader.
			if err := os.Remove(filepath.Join(dir, "admin.token")); err != nil {
				t.Fatal(err)
			}
			r = startDev(t, dir)
			c := r.ready()
			who, err := c.Auth().WhoAmI(t.Context(), &hizov1.WhoAmIRequest{})
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(who.Roles)
			if !slices.Equal(who.Roles, []string{"Auditor", "Operator", "SecurityEngineer"}) || who.Principal != "user/admin" {
				t.Errorf("the token is of %s with %v", who.Principal, who.Roles)
			}
			members, err := c.Cluster().Members(t.Context(), &hizov1.MembersRequest{})
			if err != nil {
				t.Fatal(err)
			}
			kind := map[string]string{"softhsm": "pkcs11", "software": "software"}[hsm]
			keys := map[string]bool{}
			for _, m := range members.Members {
				keys[m.KeyFingerprint] = true
				if !m.Voter || !m.Approved || !m.HoldsShare || m.SealKind != kind {
					t.Errorf("member %+v: want an approved voter with a share and seal %s", m, kind)
				}
			}
			if len(keys) != 3 {
				t.Errorf("%d members with keys of their own, want 3", len(keys))
			}
			if _, err := c.Vaults().CreateVault(t.Context(), &hizov1.CreateVaultRequest{Name: "ml"}); err != nil {
				t.Fatal(err)
			}
			put(t, c, "one")
			status, err := c.Cluster().Status(t.Context(), &hizov1.StatusRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if !status.Development {
				t.Error("the cluster is not marked as one for development")
			}
			pids := r.pids(3)
			leader, err := strconv.Atoi(strings.TrimPrefix(status.LeaderId, "n"))
			if err != nil {
				t.Fatalf("leader %q: %v", status.LeaderId, err)
			}
			if err := syscall.Kill(pids[leader], syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			put(t, c, "two")
			awaitGone(t, pids[leader])
			if got := reveal(t, c); got != "two" {
				t.Errorf("after the leader's death: %q, want %q", got, "two")
			}
			for number, pid := range pids {
				if number != leader && !alive(pid) {
					t.Errorf("node %d ended with the leader", number)
				}
			}
			if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			if code := r.wait(); code != 0 {
				t.Errorf("Ctrl-C: exit code %d, want 0", code)
			}
			if want := fmt.Sprintf("%s (process %d) was ended by SIGKILL; 2 of 3 nodes run", status.LeaderId, pids[leader]); !strings.Contains(r.out.String(), want) {
				t.Errorf("the dead node was not reported as %q", want)
			}
			r.nothingLeft()

			// The killed node comes back with the others, and with the data, and they unseal each other. When hizod dev itself is killed,
			// its nodes go with it.
			r = startDev(t, dir)
			if got := reveal(t, r.ready()); got != "two" {
				t.Errorf("after a restart: %q, want %q", got, "two")
			}
			pids = r.pids(3)
			if err := r.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			r.wait()
			if !strings.Contains(r.out.String(), "is back, unsealed by the nodes' own shares") {
				t.Error("the nodes did not unseal each other")
			}
			for _, pid := range pids {
				awaitGone(t, pid)
			}
		})
	}
}

func TestDevWithOneNode(t *testing.T) {
	t.Parallel()
	needs(t, "software")
	dir := filepath.Join(t.TempDir(), "dev")
	r := startDev(t, dir, "--nodes", "1", "--hsm", "software")
	c := r.ready()
	if _, err := c.Vaults().CreateVault(t.Context(), &hizov1.CreateVaultRequest{Name: "ml"}); err != nil {
		t.Fatal(err)
	}
	put(t, c, "one")
	// The last node's end is the end of it.
	if err := syscall.Kill(r.pids(1)[1], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := r.wait(); code != 1 || !strings.Contains(r.out.String(), "no node is left") {
		t.Errorf("exit code %d, want 1 and a reason", code)
	}
	r.nothingLeft()

	// A node that lost its share is unsealed by the operators' shares.
	if err := os.RemoveAll(filepath.Join(dir, "nodes", "1", "data", "shares")); err != nil {
		t.Fatal(err)
	}
	r = startDev(t, dir)
	if got := reveal(t, r.ready()); got != "one" {
		t.Errorf("after a restart: %q, want %q", got, "one")
	}
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := r.wait(); code != 0 {
		t.Errorf("SIGTERM: exit code %d, want 0", code)
	}
	if !strings.Contains(r.out.String(), "is back, unsealed by the operators' shares") {
		t.Error("it was not said how the node was unsealed")
	}
	r.nothingLeft()
}

func TestDevInterruptedDuringSetup(t *testing.T) {
	t.Parallel()
	needs(t, "software")
	dir := filepath.Join(t.TempDir(), "dev")
	r := startDev(t, dir, "--nodes", "3", "--hsm", "software")
	deadline := time.Now().Add(time.Minute)
	for {
		if _, err := os.Stat(filepath.Join(dir, "nodes", "1", "pid")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no node was started")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := r.wait(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
	r.nothingLeft()

	r = startDev(t, dir, "--nodes", "1", "--exec", "exit 0")
	if code := r.wait(); code != 0 {
		t.Errorf("after an interrupted setup: exit code %d, want 0", code)
	}
	if !strings.Contains(r.out.String(), "starting over") {
		t.Error("it was not said that the setup starts over")
	}
	r.nothingLeft()
}

// A signal may come before the first process was started; a caller that waits for a cluster must not read success.
func TestDevInterruptedBeforeTheFirstNode(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(interruption{syscall.SIGINT})
	d := &devCmd{Nodes: 3, Dir: filepath.Join(t.TempDir(), "dev"), HSM: "software"}
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := d.run(ctx, newDevReport(out)); !isInterruption(err) {
		t.Errorf("interrupted before its first node: %v, want the interruption", err)
	}
}
