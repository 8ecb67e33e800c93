// Program run is one chaos run after another against a real cluster: `make chaos`. See chaos/README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hizo/hizo/chaos/disk"
	"github.com/hizo/hizo/chaos/lab"
	"github.com/hizo/hizo/crypto/seal/softhsm"
)

type options struct {
	hizod, dir string
	probed     string
	seed       uint64
	seeds      int
	total      time.Duration
	duration   time.Duration
	nodes      int
	hsm        string
	results    string
	faults     string
	disks      string
	keep       bool
	require    bool
}

func main() {
	var o options
	flag.StringVar(&o.hizod, "hizod", "bin/hizod", "path of the server's program")
	flag.StringVar(&o.probed, "probed", "", "path of a build with probes (chaos/probed), which two seeds of three use; empty: no faults that need it")
	flag.StringVar(&o.dir, "dir", "build/chaos", "working directory; a run's directory below it is emptied first")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().Unix()), "the first seed")
	flag.IntVar(&o.seeds, "seeds", 1, "number of seeds")
	flag.DurationVar(&o.total, "for", 0, "go on with seeds for this long, instead of -seeds")
	flag.DurationVar(&o.duration, "duration", 20*time.Second, "length of a run's phase with faults")
	flag.IntVar(&o.nodes, "nodes", 0, "nodes of the cluster; 0: as the seed has it, three or five")
	flag.StringVar(&o.hsm, "hsm", "auto", "auto, softhsm or software")
	flag.StringVar(&o.disks, "disks", "auto", "fuse: data on disks that can be made bad ones (FUSE); plain: not; auto: as the seed has it, where the machine can")
	flag.StringVar(&o.results, "results", "", "append a line for each seed to this file")
	sum := flag.String("sum", "", "run nothing: add up what -results has written to this file")
	flag.StringVar(&o.faults, "faults", "", "only these faults, separated by commas")
	flag.BoolVar(&o.keep, "keep", false, "keep the directories of runs that passed")
	flag.BoolVar(&o.require, "require", false, "fail where the machine can't have a lab, instead of skipping")
	flag.Parse()
	if *sum != "" {
		if err := addUp(*sum, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(program(o))
}

// program returns the exit code: 1 for a violation or a run that could not be made.
func program(o options) int {
	var missing *lab.MissingError
	if err := lab.Isolate(); errors.As(err, &missing) && !o.require {
		fmt.Println("chaos: skipped:", err)
		return 0
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		return 1
	}
	if o.hsm == "auto" {
		o.hsm = "softhsm"
		if _, err := softhsm.Module(); err != nil {
			o.hsm = "software"
		}
	}
	if err := disk.Works(filepath.Join(o.dir, "disk")); err != nil && o.disks != "plain" {
		if o.disks == "fuse" {
			fmt.Fprintln(os.Stderr, "chaos:", err)
			return 1
		}
		fmt.Println("chaos: no faults of disks: this machine gives this user no FUSE:", err)
		o.disks = "plain"
	}
	for _, path := range []*string{&o.hizod, &o.probed} {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
			return 1
		}
		*path = abs
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	begun, code := time.Now(), 0
	var all total
	for i := 0; ctx.Err() == nil && (o.total > 0 && time.Since(begun) < o.total || o.total == 0 && i < o.seeds); i++ {
		r, err := oneRun(ctx, o, o.seed+uint64(i))
		if err != nil {
			fmt.Fprintf(os.Stderr, "chaos: seed %d: %v\n", o.seed+uint64(i), err)
			return 1
		}
		if ctx.Err() != nil {
			fmt.Printf("seed %d was interrupted and tells nothing\n", o.seed+uint64(i))
			break
		}
		fmt.Println(r.line())
		all.add(r)
		for _, v := range r.Violations {
			fmt.Println("  VIOLATION", v)
			code = 1
		}
		if o.results != "" {
			if err := appendLine(o.results, r.json()); err != nil {
				fmt.Fprintln(os.Stderr, "chaos:", err)
				return 1
			}
		}
	}
	all.print(os.Stdout)
	return code
}

func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, strings.TrimSpace(line))
	return errors.Join(err, f.Close())
}
