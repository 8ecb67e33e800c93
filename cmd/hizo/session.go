package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/term"

	"github.com/hizo/hizo/api/client"
)

// Globals are the flags of every command.
type Globals struct {
	Addrs     []string      `env:"HIZO_ADDRS" placeholder:"HOST:PORT,..." help:"Clients' addresses of some nodes (HIZO_ADDRS)."`
	CACert    string        `name:"cacert" env:"HIZO_CACERT" type:"path" placeholder:"FILE" help:"The cluster's CA in PEM (HIZO_CACERT)."`
	TokenFile string        `env:"HIZO_TOKEN_FILE" type:"path" placeholder:"FILE" help:"Where the login's token is kept (HIZO_TOKEN_FILE; default: hizo/token in the user's configuration directory)."`
	Format    string        `enum:"table,json,yaml" default:"table" help:"Output as table, json or yaml."`
	Timeout   time.Duration `default:"30s" help:"Longest time for one request, over all nodes and retries."`
	Verbose   bool          `short:"v" help:"Tell on stderr about every attempt that is repeated."`
}

// session is what a command works with.
type session struct {
	ctx    context.Context
	g      *Globals
	stdin  *os.File
	stdout *os.File
	stderr *os.File
	client *client.Client // made at first use
}

func (s *session) close() {
	if s.client != nil {
		s.client.Close()
	}
}

// config of a client by the global flags.
func (s *session) config() (client.Config, error) {
	if len(s.g.Addrs) == 0 {
		return client.Config{}, errors.New("no node's address is known: set HIZO_ADDRS or --addrs to HOST:PORT of one or more nodes")
	}
	cfg := client.Config{Addrs: s.g.Addrs, Timeout: s.g.Timeout, UserAgent: "hizo/" + version()}
	if s.g.Verbose {
		cfg.Logger = slog.New(slog.NewTextHandler(s.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if s.g.CACert == "" {
		return cfg, errors.New("the cluster's CA is not known: set HIZO_CACERT or --cacert to the file that `hizo cluster init` wrote")
	}
	ca, err := readFile(s.g.CACert, 1<<20)
	if err != nil {
		return cfg, fmt.Errorf("read the cluster's CA: %w", err)
	}
	cfg.CA = ca
	return cfg, nil
}

// connect returns the client that uses the token file.
func (s *session) connect() (*client.Client, error) {
	if s.client != nil {
		return s.client, nil
	}
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	path, err := s.tokenPath()
	if err != nil {
		return nil, err
	}
	s.warnIfReadable(path)
	cfg.Token = client.TokenFile(path)
	s.client, err = client.New(cfg)
	return s.client, err
}

// tokenPath is where the token is kept.
func (s *session) tokenPath() (string, error) {
	if s.g.TokenFile != "" {
		return s.g.TokenFile, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("no place for the token is known (%w): set HIZO_TOKEN_FILE", err)
	}
	return filepath.Join(dir, "hizo", "token"), nil
}

// warnIfReadable tells of a credential that others can read. Mounted ones often are, so it is no error.
func (s *session) warnIfReadable(path string) {
	if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o077 != 0 {
		s.note("warning: others can read %s (mode %04o): chmod 600 it", path, st.Mode().Perm())
	}
}

// note tells a person something on stderr, so that stdout keeps to the result.
func (s *session) note(format string, args ...any) {
	fmt.Fprintln(s.stderr, printable(fmt.Sprintf(format, args...)))
}

// interactive reports whether a person can be asked.
func (s *session) interactive() bool {
	return term.IsTerminal(int(s.stdin.Fd())) && term.IsTerminal(int(s.stderr.Fd()))
}

// readFile reads a file of bounded size.
func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > most {
		clear(b)
		return nil, fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return b, nil
}

// writePrivate replaces path by a file of mode 0600, in one step: a crash leaves the old file or the new one.
func writePrivate(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".hizo-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails after the rename, as it should
	_, err = tmp.Write(data)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// writeNew writes a file that must not exist yet.
// mayMake refuses the path of a file that is there, before something is issued that could not be kept then.
func mayMake(path string) error {
	if path == "" {
		return nil
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists: remove it, or name another file; nothing was issued", path)
	}
	return nil
}

func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
