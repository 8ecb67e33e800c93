package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/fsm"
)

// answerWithin is how long a node that is given up has to answer before it counts as gone.
const answerWithin = 2 * time.Second

type recoverCmd struct {
	Config  string   `required:"" type:"path" help:"Configuration file (YAML) of a node that is left. It must not be running."`
	Report  []string `sep:"none" placeholder:"TEXT|FILE" help:"What this command printed on another node that is left; repeat for each of them."`
	GiveUp  []string `placeholder:"NODE" help:"A node that is lost for good; repeat for each of them. It is removed, and its disk never counts again."`
	By      string   `placeholder:"NAME" help:"Who does this. It goes into the audit log."`
	Reason  string   `placeholder:"TEXT" help:"Why. It goes into the audit log."`
	Confirm string   `placeholder:"CODE" help:"Carry out the plan that was printed with this code."`
}

// Run looks at the node, and without --confirm changes nothing.
func (c *recoverCmd) Run() error {
	cfg, err := LoadConfig(c.Config)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return c.recover(ctx, cfg, cfg.Log.logger(os.Stderr), os.Stdout)
}

func (c *recoverCmd) recover(ctx context.Context, cfg *Config, log *slog.Logger, out io.Writer) (err error) {
	if err := harden(cfg.MemoryLock); err != nil {
		return err
	}
	s, err := openSeal(cfg.Seal, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	o, err := cluster.OpenOffline(ctx, cfg.Node, cfg.DataDir, s, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	if plan := o.Unfinished(); plan != nil {
		return c.finish(ctx, o, plan, *o.Found.Begun, out)
	}
	if len(c.GiveUp) == 0 && len(c.Report) == 0 {
		return c.look(o, out)
	}
	plan, err := c.plan(o)
	if err != nil {
		return err
	}
	if err := gone(ctx, plan); err != nil {
		return err
	}
	if c.Confirm != plan.Code {
		printPlan(out, o.Found, plan)
		if c.Confirm != "" {
			return fmt.Errorf("--confirm %s is of another plan: nothing was changed", c.Confirm)
		}
		return nil
	}
	if err := o.Carry(ctx, plan, time.Now()); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s is the only voter of %s now, with its log up to entry %d.\n", o.Found.Node, o.Found.ClusterName, o.Found.LastIndex)
	return c.next(out, c.GiveUp)
}

// finisher carries on what was begun (cluster.Offline).
type finisher interface {
	Finish(ctx context.Context, code string) error
}

// finish goes on with a recovery that was interrupted. That may have been days ago: who was given up then must be gone now.
func (c *recoverCmd) finish(ctx context.Context, o finisher, plan *cluster.Plan, begun fsm.Recovered, out io.Writer) error {
	if err := gone(ctx, plan); err != nil {
		return fmt.Errorf("a recovery was begun here and is not finished: %w. If they are a cluster again without this node, "+
			"wipe it and let it join as a new one", err)
	}
	switch c.Confirm {
	case plan.Code:
	case "":
		fmt.Fprintf(out, "A recovery of this node was begun %s by %s (%s) and is not finished; until it is, hizod does not start.\n",
			time.UnixMilli(begun.At).UTC().Format(time.RFC3339), begun.By, begun.Reason)
		for _, m := range plan.Lost {
			fmt.Fprintf(out, "  given up     %-10s %s\n", m.ID, m.PeerAddr)
		}
		fmt.Fprintln(out, "If one of them has come back since, stop it for good. If they are a cluster again without this node, wipe this one instead and let it")
		fmt.Fprintf(out, "join as a new one. To finish the recovery: hizod recover --config FILE --confirm %s\n", plan.Code)
		return nil
	default:
		return fmt.Errorf("--confirm %s is of another plan than the one that was begun: nothing was changed", c.Confirm)
	}
	if err := o.Finish(ctx, c.Confirm); err != nil {
		return err
	}
	fmt.Fprintln(out, "The recovery that was begun here is finished.")
	return c.next(out, begun.GivenUp)
}

// look prints what the node has, and its report.
func (c *recoverCmd) look(o *cluster.Offline, out io.Writer) error {
	report, err := o.Report(time.Now())
	if err != nil {
		return err
	}
	f := o.Found
	fmt.Fprintf(out, "node      %s of %s (%x)\n", f.Node, f.ClusterName, f.Cluster)
	fmt.Fprintf(out, "log       ends at entry %d of term %d\n", f.LastIndex, f.LastTerm)
	fmt.Fprintf(out, "voters    %s; it takes %d of them to go on\n", strings.Join(f.Voters, " "), len(f.Voters)/2+1)
	for _, m := range f.Members {
		fmt.Fprintf(out, "member    %-10s %s\n", m.ID, m.PeerAddr)
	}
	fmt.Fprintf(out, "report    %s\n\n", report)
	fmt.Fprintln(out, "Nothing was changed. Do this on every node that is left, and recover on the one whose log ends at the highest term,")
	fmt.Fprintln(out, "then the highest entry, with the reports of the others:")
	fmt.Fprintln(out, "  hizod recover --config FILE --report REPORT... --give-up NODE... --by NAME --reason TEXT")
	return nil
}

func (c *recoverCmd) plan(o *cluster.Offline) (*cluster.Plan, error) {
	req := cluster.RecoverRequest{GiveUp: c.GiveUp, By: c.By, Reason: c.Reason, Now: time.Now()}
	for _, text := range c.Report {
		if !strings.HasPrefix(text, "hizorecover") {
			data, err := readReport(text)
			if err != nil {
				return nil, fmt.Errorf("--report: %w", err)
			}
			text = data
		}
		req.Reports = append(req.Reports, text)
	}
	return o.Plan(req)
}

// readReport finds the report in a file: all that the command printed, or the one line.
func readReport(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return "", err
	}
	for field := range strings.FieldsSeq(string(data)) {
		if strings.HasPrefix(field, "hizorecover") {
			return field, nil
		}
	}
	return "", fmt.Errorf("%s holds no report", path)
}

// gone refuses to give up a node that answers: it may be alive and have a majority with others, and then there would be two
// clusters of one name. What answers may also be a new, empty node under the old address: it has to wait as well.
func gone(ctx context.Context, plan *cluster.Plan) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var alive []string
	for _, m := range plan.Lost {
		if m.PeerAddr == "" {
			continue
		}
		wg.Go(func() {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", m.PeerAddr)
			if err != nil {
				return
			}
			_ = conn.Close()
			mu.Lock()
			defer mu.Unlock()
			alive = append(alive, fmt.Sprintf("%s (%s)", m.ID, m.PeerAddr))
		})
	}
	wg.Wait()
	if len(alive) > 0 {
		return fmt.Errorf("something answers where these nodes were: %s. A node that runs is not lost: bring it back, or stop it for good "+
			"and see that it stays down. Nothing was changed", strings.Join(alive, ", "))
	}
	return nil
}

// printPlan says what the plan costs.
func printPlan(out io.Writer, f cluster.Finding, plan *cluster.Plan) {
	fmt.Fprintf(out, "This node, %s, goes on alone with its log up to entry %d of term %d.\n", f.Node, f.LastIndex, f.LastTerm)
	for _, s := range plan.Survivors {
		fmt.Fprintf(out, "  comes back   %-10s its log ends at entry %d of term %d (report of %s)\n", s.ID, s.LastIndex, s.LastTerm, s.At.UTC().Format(time.RFC3339))
	}
	for _, m := range plan.Lost {
		fmt.Fprintf(out, "  given up     %-10s %s\n", m.ID, m.PeerAddr)
	}
	fmt.Fprint(out, `
What this means:
  - What only the given-up nodes had is lost, although it may have been acknowledged: values written, and also
    revocations, policy changes, audit records. Somebody whose rights were taken away at the end may have them again.
  - What is at the end of this log counts from now on, although its clients may have been told "outcome unknown".
  - The given-up nodes must never start with their old disks again: enough of them would be a second cluster.
  - Operators have to unseal; then the root key is rotated, and the given-up nodes' shares open nothing new.
  - The audit log says who did this, when and why. Offline verification stops there until its trust file says that
    this is known: see docs/recovery.md.

`)
	fmt.Fprintf(out, "Nothing was changed. To do it, repeat the command with --confirm %s\n", plan.Code)
}

func (c *recoverCmd) next(out io.Writer, givenUp []string) error {
	fmt.Fprintf(out, `Now:
  1. start hizod here, with the same configuration
  2. hizo cluster unseal: operators enter their shares
  3. start the other nodes that are left, and see them come back: hizo cluster members
  4. wipe the disks of %s, and let new nodes join: hizo cluster join-token
docs/recovery.md says what to look at afterwards.
`, strings.Join(givenUp, ", "))
	return nil
}
