package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/bootstrap"
	"github.com/hizo/hizo/api/observe"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/transport"
)

// closeTimeout bounds handing leadership over and letting calls end.
const closeTimeout = 5 * time.Second

type serverCmd struct {
	Config string `required:"" type:"path" help:"Configuration file (YAML)."`
}

// Run serves until SIGINT or SIGTERM.
func (c *serverCmd) Run() error {
	cfg, err := LoadConfig(c.Config)
	if err != nil {
		return err
	}
	// The live heap of a node is small (caches of some tens of MiB) and each request leaves garbage behind: collecting
	// at five times the live heap instead of twice saves processor time for some memory. GOGC still overrides it.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return serve(ctx, cfg, cfg.Log.logger(os.Stderr))
}

type identityCmd struct {
	Config string `required:"" type:"path" help:"Configuration file (YAML)."`
}

// Run prints the fingerprint.
func (c *identityCmd) Run() error {
	cfg, err := LoadConfig(c.Config)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	s, err := openSeal(cfg.Seal, cfg.Log.logger(os.Stderr))
	if err != nil {
		return err
	}
	defer s.Close()
	fp, err := fingerprint(s)
	if err != nil {
		return err
	}
	fmt.Println(fp)
	return nil
}

// serve runs one node. Parts start in the order in which they need each other and stop in the reverse order:
// observe listener, seal, peers' port, node, clients' port.
func serve(ctx context.Context, cfg *Config, log *slog.Logger) (err error) {
	if err := harden(cfg.MemoryLock); err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	manager := newNotifier(log)
	watch, err := startObserving(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, watch.Close()) }()
	s, err := openSeal(cfg.Seal, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	fp, err := fingerprint(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(cfg.DataDir, "identity"), []byte(fp+"\n"), 0o644); err != nil {
		return fmt.Errorf("identity file: %w", err)
	}

	directory := cluster.NewDirectory()
	mux, err := transport.Listen(transport.Config{
		Addr: cfg.Peers.Listen, ID: cfg.Node, Signer: s.Identity(), Directory: directory, Logger: log,
	})
	if err != nil {
		return fmt.Errorf("peers.listen: %w", err)
	}
	defer mux.Close()

	rotations, err := newRotations(cfg.Rotation, directory, log)
	if err != nil {
		return err
	}
	leases := newLeases(log)
	backups, err := newBackups(cfg.Backup, log)
	if err != nil {
		return err
	}
	duties := []cluster.Duty{rotations.Duty, leases.Duty}
	if backups != nil {
		duties = append(duties, backups.Duty)
	}
	node, err := openNode(cfg, log, s, directory, mux, duties...)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, node.Close(closing))
	}()

	boot := bootstrapFile{path: filepath.Join(cfg.DataDir, "bootstrap")}
	switch {
	case node.Initialised():
		boot.remove(log)
	case cfg.Join == nil:
		if err := boot.write(cfg, fp); err != nil {
			return err
		}
		log.Info("this node waits to be initialised: hizo cluster init --bootstrap FILE", "file", boot.path, "key_sha256", fp)
	}
	serving := api.Config{
		Node: node, BootstrapToken: boot.token, Development: cfg.Development, Logger: log, Version: version(), Rotations: rotations, Leases: leases,
	}
	if backups != nil {
		serving.Backups = backupsOf{backups, node}
	}
	serving.Tracer = watch.Tracer()
	srv, err := api.NewServer(serving)
	if err != nil {
		return err
	}
	parts := observe.Parts{Calls: srv, Seal: s}
	if backups != nil {
		parts.FailedBackups = func() uint64 { return backups.Status().Failed }
	}
	watch.Attach(node, parts)
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	listener, err := listenClients(running, cfg, log, node)
	if err != nil {
		return err
	}
	go func() { cancel(srv.Serve(listener)) }()
	go func() {
		if err := join(running, cfg, log, node, fp); err != nil {
			cancel(err)
		}
	}()
	go boot.removeOnceInitialised(running, log, node)
	go manager.follow(running, node.Status)

	<-running.Done()
	watch.Stopping()
	closing, stop := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer stop()
	if node.IsLeader() {
		// While the clients' port is still open: calls that come meanwhile are told who leads, instead of finding a closed
		// door here and no leader there.
		_ = node.TransferLeadership(closing, "") // it logs what came of it, and the node stops either way
	}
	srv.Shutdown(closing)
	if ctx.Err() != nil {
		log.Info("stopped by signal")
		return nil
	}
	return context.Cause(running)
}

// listenClients opens the clients' port, spliced to the leader where the configuration says so.
func listenClients(ctx context.Context, cfg *Config, log *slog.Logger, node *cluster.Node) (net.Listener, error) {
	l, err := net.Listen("tcp", cfg.Clients.Listen)
	if err != nil {
		return nil, fmt.Errorf("clients.listen: %w", err)
	}
	if !cfg.Clients.Splice {
		return l, nil
	}
	splicer := transport.NewSplicer(l, transport.SpliceConfig{Logger: log, Leader: func() string {
		leader, ok := node.Leader()
		if !ok || leader.ID == cfg.Node {
			return ""
		}
		return leader.ClientAddr
	}})
	go func() {
		for {
			changed := node.LeaderChanged()
			splicer.Retarget()
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return splicer, nil
}

// join waits for the join token and joins with it, until this node is a member.
func join(ctx context.Context, cfg *Config, log *slog.Logger, node *cluster.Node, fp string) error {
	if cfg.Join == nil || node.Initialised() {
		return nil
	}
	told, warned := false, ""
	for {
		token, err := seal.ReadSecretFile(cfg.Join.TokenFile)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if !told {
				told = true
				log.Info("waiting for a join token; on a machine with access to the cluster: hizo cluster join-token --node NAME --fingerprint KEY",
					"node", cfg.Node, "key_sha256", fp, "token_file", cfg.Join.TokenFile)
			}
		case err != nil:
			return fmt.Errorf("join.token_file: %w", err)
		default:
			err := node.Join(ctx, strings.TrimSpace(string(token.Reveal())))
			tried := sha256.Sum256(token.Reveal())
			token.Wipe()
			if err == nil {
				log.Info("joined; a SecurityEngineer has to approve this node: hizo cluster approve NODE", "node", cfg.Node, "key_sha256", fp)
				return nil
			}
			if ctx.Err() != nil || errors.Is(err, cluster.ErrAlreadyInitialised) {
				return nil
			}
			if errors.Is(err, cluster.ErrJoinToken) {
				return err
			}
			// Once for each token and error: the file is looked at five times a second.
			if now := string(tried[:]) + err.Error(); now != warned {
				warned = now
				log.Warn("joining failed; trying again, also when the file changes", "token_file", cfg.Join.TokenFile, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// bootstrapFile exists while this node waits to be initialised.
type bootstrapFile struct {
	path  string
	token string
}

func (b *bootstrapFile) write(cfg *Config, fp string) error {
	f := bootstrap.File{Node: cfg.Node, Address: cfg.Clients.Advertise, KeySHA256: fp, Token: bootstrap.NewToken()}
	b.token = f.Token
	return f.Write(b.path)
}

func (b *bootstrapFile) remove(log *slog.Logger) {
	if err := os.Remove(b.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the bootstrap file could not be removed; it is worthless by now", "error", err)
	}
}

func (b *bootstrapFile) removeOnceInitialised(ctx context.Context, log *slog.Logger, node *cluster.Node) {
	if b.token == "" {
		return
	}
	for !node.Initialised() {
		select {
		case <-ctx.Done():
			return
		case <-node.Store().Changed():
		}
	}
	b.remove(log)
}
