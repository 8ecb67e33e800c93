package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// devCmd is `hizod dev`: a whole cluster of node processes on this machine, for trying things out.
//
// Every node is a `hizod server` of its own with its own data, keys and ports. All that a real cluster keeps
// apart (the operators' shares and their keys, the first engineer's password) lies in one directory, and the
// state is marked as development for good.
//
// The nodes end with this process, however it ends: the kernel kills them when its thread goes (Pdeathsig).
type devCmd struct {
	Nodes int    `help:"Number of nodes, 1 to 9. Default: 3, or what the directory holds."`
	Dir   string `default:"hizo-dev" type:"path" help:"Directory of the cluster; made when missing. It is started again when it holds one."`
	HSM   string `name:"hsm" enum:"auto,softhsm,software" default:"auto" help:"Where the nodes keep their keys: softhsm (a SoftHSM2 token each), software (a key file each), or auto: softhsm where it is installed."`
	Exec  string `placeholder:"CMD" help:"Run CMD in a shell with the cluster's environment, stop everything, and exit with its code."`
}

const maxDevNodes = 9

// Time limits. The machine may be busy with other things, so they are far above what is usual.
const (
	devSetupLimit = 2 * time.Minute  // the whole of initialising, joining and dealing
	devStopLimit  = 10 * time.Second // SIGTERM to SIGKILL
)

// interruption is the signal that ended a run. Without --exec it is how a run is meant to end.
type interruption struct{ signal syscall.Signal }

func (i interruption) Error() string { return "ended by " + unix.SignalName(i.signal) }

// exitCode is the code of the command that --exec ran. There is nothing to say about it.
type exitCode int

func (exitCode) Error() string   { return "" }
func (c exitCode) ExitCode() int { return int(c) }

// Run starts the cluster and stays until it is told to stop.
func (d *devCmd) Run() error {
	// Pdeathsig follows the thread that started a process, so that thread has to last as long as we do.
	runtime.LockOSThread()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals) // the next one ends this process at once, and the nodes with it
			if sig, ok := s.(syscall.Signal); ok {
				cancel(interruption{sig})
			}
		case <-ctx.Done():
		}
	}()
	err := d.run(ctx, newDevReport(os.Stderr))
	cause, ok := errors.AsType[interruption](context.Cause(ctx))
	if !ok {
		return err
	}
	if d.Exec == "" && err == nil {
		return nil
	}
	return exitCode(128 + int(cause.signal))
}

// run is nil where the cluster became ready and then ended as it is meant to: by a signal or with its command.
func (d *devCmd) run(ctx context.Context, out *devReport) error {
	dir, err := openDevDir(d, out)
	if err != nil {
		return err
	}
	defer dir.Close()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cluster := &devCluster{dir: dir, out: out}
	for i, m := range dir.plan.Nodes {
		node := &devNode{devMember: m, dir: dir.node(i), exe: exe, out: out}
		if node.config, err = writeDevConfig(dir, i, out); err != nil {
			return err
		}
		cluster.nodes = append(cluster.nodes, node)
	}
	defer func() {
		// The environment is of no use without the nodes, and a script that waits for it must not find an old one.
		if err := errors.Join(removeFile(dir.path("env")), cluster.stop()); err != nil {
			out.warn("%v", err)
		}
		if ctx.Err() != nil {
			out.step("all nodes have stopped")
		}
	}()
	if err := cluster.start(ctx); err != nil {
		return err
	}
	if err := cluster.bringUp(ctx); err != nil {
		return err
	}
	env, err := cluster.writeEnv()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel(nil)
	background.Go(func() { cluster.renewToken(ctx) })
	background.Go(func() { cluster.watch(ctx, cancel, d.Exec == "") })
	if d.Exec != "" {
		out.line("", "ready; running the command")
		return runCommand(ctx, d.Exec, env)
	}
	out.ready(cluster, dir)
	<-ctx.Done()
	if err := context.Cause(ctx); !isInterruption(err) {
		return err
	}
	return nil
}

func isInterruption(err error) bool {
	_, ok := errors.AsType[interruption](err)
	return ok
}

// devReport prints progress for people, on standard error: standard output belongs to the command of --exec.
type devReport struct {
	mu    sync.Mutex
	file  *os.File
	start time.Time
	tty   bool
}

func newDevReport(file *os.File) *devReport {
	return &devReport{file: file, start: time.Now(), tty: term.IsTerminal(int(file.Fd()))}
}

// line prints one line of progress with the time since the start; mark is a colour for terminals.
func (r *devReport) line(mark, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if r.tty && mark != "" {
		text = mark + text + "\x1b[0m"
	}
	fmt.Fprintf(r.file, "%6.1fs  %s\n", time.Since(r.start).Seconds(), text)
}

func (r *devReport) step(format string, args ...any) { r.line("", format, args...) }

func (r *devReport) warn(format string, args ...any) {
	r.line("\x1b[33m", "WARNING: "+format, args...)
}

// ready says where things are and what to do next.
func (r *devReport) ready(c *devCluster, dir *devDir) {
	var b strings.Builder
	fmt.Fprintf(&b, "\nThe cluster is ready. All keys of this cluster lie in %s: use it to try things out, for nothing else.\n\n", dir.shown)
	for _, n := range c.nodes {
		fmt.Fprintf(&b, "  %s   clients %s   peers %s   process %-7d log %s\n",
			n.Name, n.Clients, n.Peers, n.pid(), filepath.Join(dir.shown, "nodes", n.number(), "log"))
	}
	fmt.Fprintf(&b, "\nIn another terminal:\n\n  . %s\n  hizo whoami\n  hizo vault create ml && echo -n s3cret | hizo secret put ml/db password=-\n",
		shellWord(filepath.Join(dir.shown, "env")))
	fmt.Fprintf(&b, "\nCtrl-C stops it; the same command starts it again with its data.\n")
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = r.file.WriteString(b.String()) // nobody listens
}

func (n *devNode) number() string { return strconv.Itoa(n.Number) }
