// Program failover measures how long writes are away after the leader of three nodes was killed, and how long while it
// hands over: `make bench-failover`. docs/failover.md has the method, and gets the figures.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

type options struct {
	hizod, dir, out, only string
	trials, writers       int
}

func main() {
	var o options
	flag.StringVar(&o.hizod, "hizod", "bin/hizod", "path of the hizod binary")
	flag.StringVar(&o.dir, "dir", "build/failover", "working directory; emptied first")
	flag.StringVar(&o.out, "out", "", "put the figures between the marks of this file too")
	flag.StringVar(&o.only, "only", "", "kinds of trials, divided by commas: kill, transfer, term; default all")
	flag.IntVar(&o.trials, "trials", 20, "trials of each kind")
	flag.IntVar(&o.writers, "writers", 16, "closed-loop clients that write all the time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx, o, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(1)
	}
}

// kind of end for a leader.
type kind struct {
	id, name string
	sig      syscall.Signal // 0: it hands over and lives on
	aim      time.Duration
	bucket   time.Duration // of the histogram
}

var kinds = []kind{
	{"kill", "killed (SIGKILL)", syscall.SIGKILL, time.Second, 100 * time.Millisecond},
	{"transfer", "hands over (`hizo cluster transfer-leader`)", 0, 100 * time.Millisecond, 10 * time.Millisecond},
	{"term", "ends (SIGTERM): hands over first", syscall.SIGTERM, 100 * time.Millisecond, 10 * time.Millisecond},
}

func measure(ctx context.Context, o options, out io.Writer) (err error) {
	c, err := start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	w := newWriters(c, o.writers)
	writing, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for i := range o.writers {
		wg.Go(func() { w.run(writing, i) })
	}
	defer wg.Wait()
	defer stop()

	var b, histograms strings.Builder
	fmt.Fprintf(&b, "Measured by `make bench-failover` on %s: %d CPUs, %s, three `hizod server` processes on loopback at default settings,\n%d clients that write all the time.\n\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), o.writers)
	b.WriteString("| the leader | trials | aim | within the aim | gap p50 | p90 | p95 | longest | stall p50 | longest |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, k := range kinds {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), k.id) {
			continue
		}
		var gaps, stalls []time.Duration
		within := 0
		for i := range o.trials {
			gap, stall, err := c.trial(ctx, w, k.sig)
			if err != nil {
				return fmt.Errorf("%s, trial %d: %w", k.id, i+1, err)
			}
			fmt.Fprintf(out, "%s %2d: gap %v, longest stall %v\n", k.id, i+1, gap.Round(time.Millisecond), stall.Round(time.Millisecond))
			gaps, stalls = append(gaps, gap), append(stalls, stall)
			if gap <= k.aim {
				within++
			}
		}
		slices.Sort(gaps)
		slices.Sort(stalls)
		fmt.Fprintf(&b, "| %s | %d | %v | **%d** | %s | %s | %s | %s | %s | %s |\n", k.name, len(gaps), k.aim, within,
			ms(at(gaps, 50)), ms(at(gaps, 90)), ms(at(gaps, 95)), ms(gaps[len(gaps)-1]), ms(at(stalls, 50)), ms(stalls[len(stalls)-1]))
		histograms.WriteString(histogram(k, gaps))
	}
	stop()
	wg.Wait()
	verdict, err := w.verify(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(&b, "\n%s\n\n```\n%s```\n", verdict, histograms.String())
	fmt.Fprint(out, "\n", b.String())
	if o.out != "" {
		return insert(o.out, b.String())
	}
	return nil
}

// histogram draws sorted gaps in buckets.
func histogram(k kind, gaps []time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "gap, %s\n", k.id)
	for from, i := gaps[0].Truncate(k.bucket), 0; i < len(gaps); from += k.bucket {
		n := 0
		for ; i < len(gaps) && gaps[i] < from+k.bucket; i++ {
			n++
		}
		fmt.Fprintf(&b, "%s\n", strings.TrimRight(fmt.Sprintf("%5d to %4d ms %3d %s", from.Milliseconds(), (from+k.bucket).Milliseconds(), n, strings.Repeat("#", n)), " "))
	}
	return b.String()
}

// Marks of the part of the documentation that this program writes.
const (
	figures = "<!-- figures of make bench-failover: begin -->\n"
	ending  = "<!-- figures of make bench-failover: end -->\n"
)

func insert(path, text string) error {
	doc, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(doc), figures)
	_, after, there := strings.Cut(rest, ending)
	if !ok || !there {
		return fmt.Errorf("%s has no marks for the figures", path)
	}
	return os.WriteFile(path, []byte(before+figures+"\n"+text+"\n"+ending+after), 0o644)
}

func at(sorted []time.Duration, percent int) time.Duration {
	return sorted[min(len(sorted)-1, (len(sorted)*percent+99)/100-1)]
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

// cluster is a development cluster whose nodes are killed and started again by hand.
type cluster struct {
	o       options
	dev     *exec.Cmd
	ca      []byte
	token   string
	addrs   []string
	mu      sync.Mutex
	started map[int]*exec.Cmd // by number of the node
	status  *client.Client
}

func start(ctx context.Context, o options) (_ *cluster, err error) {
	if err := os.RemoveAll(o.dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return nil, err
	}
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(o.dir, "dev.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c := &cluster{o: o, started: map[int]*exec.Cmd{}}
	c.dev = exec.Command(o.hizod, "dev", "--nodes", "3", "--dir", filepath.Join(o.dir, "cluster"))
	c.dev.Stdout, c.dev.Stderr = log, log
	c.dev.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := c.dev.Start(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	var env map[string]string
	if err := await(ctx, "the cluster is up", func() (err error) {
		env, err = environment(filepath.Join(o.dir, "cluster", "env"))
		return err
	}); err != nil {
		return nil, err
	}
	if c.ca, err = os.ReadFile(env["HIZO_CACERT"]); err != nil {
		return nil, err
	}
	token, err := os.ReadFile(env["HIZO_TOKEN_FILE"])
	if err != nil {
		return nil, err
	}
	c.token, c.addrs = strings.TrimSpace(string(token)), strings.Split(env["HIZO_ADDRS"], ",")
	if c.status, err = c.client(); err != nil {
		return nil, err
	}
	_, err = c.status.Vaults().CreateVault(ctx, &hizov1.CreateVaultRequest{Name: "failover"})
	return c, err
}

func environment(path string) (map[string]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "="); ok {
			env[name] = strings.Trim(value, `'"`)
		}
	}
	if env["HIZO_ADDRS"] == "" {
		return nil, errors.New("the environment file is not whole")
	}
	return env, nil
}

func await(ctx context.Context, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("until %s: %w: %w", what, ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *cluster) client() (*client.Client, error) {
	return client.New(client.Config{Addrs: c.addrs, CA: c.ca, Token: client.Token(c.token)})
}

func (c *cluster) node(number int) string {
	return filepath.Join(c.o.dir, "cluster", "nodes", strconv.Itoa(number))
}

// leader is the number of the node that all nodes follow, all being unsealed.
func (c *cluster) leader(ctx context.Context) (int, error) {
	name := ""
	for _, addr := range c.addrs {
		one, err := c.status.Node(addr)
		if err != nil {
			return 0, err
		}
		call, cancel := context.WithTimeout(ctx, time.Second)
		st, err := one.Cluster().Status(call, &hizov1.StatusRequest{})
		cancel()
		err = errors.Join(err, one.Close())
		switch {
		case err != nil:
			return 0, err
		case st.GetSealed() || st.GetLeaderId() == "" || name != "" && st.GetLeaderId() != name:
			return 0, fmt.Errorf("%s: sealed %v, leader %q", addr, st.GetSealed(), st.GetLeaderId())
		}
		name = st.GetLeaderId()
	}
	return strconv.Atoi(strings.TrimPrefix(name, "n"))
}

func (c *cluster) pid(number int) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cmd := c.started[number]; cmd != nil {
		return cmd.Process.Pid, nil
	}
	data, err := os.ReadFile(filepath.Join(c.node(number), "pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// settle is how long a cluster is left alone before the next trial.
const settle = 1500 * time.Millisecond

// trial ends the leader, measures, and starts it again.
func (c *cluster) trial(ctx context.Context, w *writers, sig syscall.Signal) (gap, stall time.Duration, err error) {
	var leader int
	if err := await(ctx, "all nodes follow one leader", func() (err error) {
		leader, err = c.leader(ctx)
		return err
	}); err != nil {
		return 0, 0, err
	}
	select {
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	case <-time.After(settle):
	}
	pid, err := c.pid(leader)
	if err != nil {
		return 0, 0, err
	}
	watch := w.watch()
	if sig == 0 {
		_, err = c.status.Cluster().TransferLeader(ctx, &hizov1.TransferLeaderRequest{})
	} else {
		err = syscall.Kill(pid, sig)
	}
	if err != nil {
		return 0, 0, err
	}
	select {
	case gap = <-watch.first:
	case <-time.After(30 * time.Second):
		return 0, 0, errors.New("no write was acknowledged for 30 s")
	}
	stall = w.longest(watch)
	if sig == 0 {
		return gap, stall, nil
	}
	if err := await(ctx, "the process has ended", func() error {
		if syscall.Kill(pid, 0) == nil && !c.reaped(leader) {
			return errors.New("it has not")
		}
		return nil
	}); err != nil {
		return 0, 0, err
	}
	return gap, stall, c.restart(leader)
}

// reaped says whether a process that this program started has ended.
func (c *cluster) reaped(number int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	cmd := c.started[number]
	return cmd != nil && cmd.ProcessState != nil
}

func (c *cluster) restart(number int) error {
	log, err := os.OpenFile(filepath.Join(c.node(number), "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(c.o.hizod, "server", "--config", filepath.Join(c.node(number), "config.yaml"))
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+filepath.Join(c.node(number), "hsm", "softhsm2.conf"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.mu.Lock()
	c.started[number] = cmd
	c.mu.Unlock()
	go func() {
		state, _ := cmd.Process.Wait()
		c.mu.Lock()
		cmd.ProcessState = state
		c.mu.Unlock()
	}()
	return nil
}

func (c *cluster) close() error {
	c.mu.Lock()
	for _, cmd := range c.started {
		_ = cmd.Process.Kill()
	}
	c.mu.Unlock()
	if c.status != nil {
		_ = c.status.Close()
	}
	_ = c.dev.Process.Signal(syscall.SIGTERM)
	_ = c.dev.Wait() // it says that its nodes were ended
	return nil
}
