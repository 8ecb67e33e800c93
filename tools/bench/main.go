// Command bench measures a Hizo development cluster beside an etcd cluster in one run: three nodes each,
// TLS everywhere, 256-byte values, closed-loop clients. Hizo runs with HSM seal, audit and authorisation on.
//
//	bench -hizod bin/hizod -dir build/bench -out docs/bench.md
//
// Rounds alternate between the systems, so that a noisy machine disturbs both alike; the table shows medians
// over the rounds and ratios within the run.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	hizod, dir, out string
	clients         []int
	duration        time.Duration
	rounds, keys    int
	valueSize       int
	hsm             string
}

func main() {
	var o options
	var clients string
	flag.StringVar(&o.hizod, "hizod", "bin/hizod", "path of the hizod binary")
	flag.StringVar(&o.dir, "dir", "build/bench", "working directory; emptied first")
	flag.StringVar(&o.out, "out", "", "write the report as Markdown to this file too")
	flag.StringVar(&clients, "clients", "1,64,256", "numbers of closed-loop clients")
	flag.DurationVar(&o.duration, "duration", 5*time.Second, "measured time of each cell and round")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; the median counts")
	flag.IntVar(&o.keys, "keys", 1000, "keys (secrets)")
	flag.IntVar(&o.valueSize, "value", 256, "bytes a value")
	flag.StringVar(&o.hsm, "hsm", "auto", "seal of the Hizo nodes: auto, softhsm or software")
	flag.Parse()
	for s := range strings.SplitSeq(clients, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			fmt.Fprintf(os.Stderr, "bench: -clients: %q is not a number of clients\n", s)
			os.Exit(1)
		}
		o.clients = append(o.clients, n)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	if err := os.RemoveAll(o.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return err
	}
	etcd, err := startEtcd(ctx, filepath.Join(o.dir, "etcd"), o)
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	defer etcd.Close()
	hizo, err := startHizo(ctx, filepath.Join(o.dir, "hizo"), o)
	if err != nil {
		return fmt.Errorf("hizo: %w", err)
	}
	defer hizo.Close()

	rep := newReport(o, hizo.describe())
	for round := range o.rounds {
		for _, n := range o.clients {
			for _, cell := range []struct {
				name string
				op   operation
			}{
				{"etcd put", etcd.put}, {"hizo put", hizo.put},
				{"etcd read", etcd.read}, {"hizo reveal", hizo.reveal},
				{"gRPC health", hizo.health},
			} {
				m, err := measure(ctx, n, o.duration, cell.op)
				if err != nil {
					return fmt.Errorf("%s with %d clients: %w", cell.name, n, err)
				}
				rep.add(cell.name, n, m)
				fmt.Fprintf(out, "round %d  %-12s %4d clients  %9.0f /s  p50 %8s  p99 %8s\n",
					round+1, cell.name, n, m.rate, m.p50.Round(time.Microsecond), m.p99.Round(time.Microsecond))
			}
		}
	}
	text := rep.markdown()
	fmt.Fprint(out, "\n", text)
	if o.out != "" {
		return os.WriteFile(o.out, []byte(text), 0o644)
	}
	return nil
}
