// Program probed builds hizod with the probes of package probe, for chaos runs only. The delivered program has none.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/hizo/hizo/chaos/overlay"
)

func main() {
	root := flag.String("root", ".", "root of the source")
	out := flag.String("o", "build/chaos-hizod", "where the program goes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := build(ctx, *root, *out); err != nil {
		fmt.Fprintln(os.Stderr, "probed:", err)
		os.Exit(1)
	}
}

func build(ctx context.Context, root, out string) error {
	dir, err := os.MkdirTemp("", "hizo-probed-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file, err := overlay.Write(root, dir, edits)
	if err != nil {
		return err
	}
	return overlay.Build(ctx, root, file, "./cmd/hizod", out)
}
