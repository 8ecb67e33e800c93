package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"golang.org/x/term"

	"github.com/hizo/hizo/api/audit"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/backup"
	"github.com/hizo/hizo/crypto/secret"
	"github.com/hizo/hizo/crypto/shares"
)

type restoreCmd struct {
	Backup      string   `arg:"" help:"The backup: a file, or its name where backups are kept (backup: in the configuration)."`
	Config      string   `required:"" type:"path" help:"Configuration file (YAML) of the node that begins the restored cluster."`
	Trust       string   `required:"" type:"path" placeholder:"FILE" help:"The trust file that \"hizo cluster init\" wrote, or the last restore printed."`
	Checkpoint  string   `type:"path" placeholder:"FILE" help:"The newest checkpoint kept outside of the cluster (hizo audit checkpoint)."`
	Waive       string   `placeholder:"REASON" help:"Restore although there is no checkpoint, or records up to it are lost. The reason goes into the audit log."`
	Time        string   `placeholder:"TIME" help:"What time it is by another clock than this machine's, such as 2026-11-24T03:00Z: asked for where the clock is before the backup, or days after it."`
	ShareFile   []string `type:"path" sep:"none" placeholder:"FILE" help:"An operator's share, encrypted or not; repeat. Without it: a prompt for each, or one a line on standard input."`
	Identity    []string `short:"i" type:"path" sep:"none" placeholder:"FILE" help:"Age identities that open encrypted shares; repeat."`
	TrustOutput string   `type:"path" placeholder:"FILE" help:"Where the trust file of the restored cluster goes (default: standard output)."`
}

// Run restores into the data directory of a node that is not running and belongs to no cluster.
func (c *restoreCmd) Run() error {
	cfg, err := LoadConfig(c.Config)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return c.restore(ctx, cfg, cfg.Log.logger(os.Stderr))
}

func (c *restoreCmd) restore(ctx context.Context, cfg *Config, log *slog.Logger) error {
	if err := harden(cfg.MemoryLock); err != nil {
		return err
	}
	trust, err := c.trust()
	if err != nil {
		return err
	}
	outside, err := c.outside(trust)
	if err != nil {
		return err
	}
	said, err := c.said()
	if err != nil {
		return err
	}
	open, err := c.source(ctx, cfg)
	if err != nil {
		return err
	}
	report, err := verified(open, trust)
	if err != nil {
		return err
	}
	h := report.Header
	fmt.Fprintf(os.Stderr, "The backup is genuine: cluster %s %s, made %s, %d audit records.\n", h.Cluster, h.Name, audit.TimeText(report.Time), h.Records)
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	if err := cluster.Restorable(cfg.DataDir); err != nil {
		return err // before anybody is asked for a share
	}
	if _, err := cluster.CheckRollback(h.Records, outside, c.Waive); err != nil {
		return err
	}
	if err := c.clock(h, outside, said); err != nil {
		return err
	}
	seed, who, err := c.operators(h)
	if err != nil {
		return err
	}
	defer seed.Wipe()
	s, err := openSeal(cfg.Seal, log)
	if err != nil {
		return err
	}
	defer s.Close()
	done, err := cluster.Restore(ctx, cluster.Config{
		ID: cfg.Node, DataDir: cfg.DataDir, AdvertisePeer: cfg.Peers.Advertise, AdvertiseClient: cfg.Clients.Advertise,
		Seal: s, Development: cfg.Development, Logger: log,
	}, cluster.RestoreRequest{Open: open, Digest: report.Digest, Seed: seed, Shares: who, Outside: outside, Waiver: c.Waive, Said: said})
	if err != nil {
		return err
	}
	return c.told(cfg, trust, done)
}

func (c *restoreCmd) trust() (audit.Trust, error) {
	text, err := readSmall(c.Trust)
	if err != nil {
		return audit.Trust{}, fmt.Errorf("trust file: %w", err)
	}
	return audit.ParseTrust(string(text))
}

// outside is the checkpoint that the audit log is held against.
func (c *restoreCmd) outside(trust audit.Trust) (*cluster.Head, error) {
	if c.Checkpoint == "" {
		return nil, nil
	}
	text, err := readSmall(c.Checkpoint)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	note, err := audit.ParseCheckpoint(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Checkpoint, err)
	}
	if origin := audit.Origin(trust.Cluster); note.Origin != origin && !strings.HasPrefix(note.Origin, origin+"/") {
		return nil, fmt.Errorf("%s is of another cluster: %s", c.Checkpoint, note.Origin)
	}
	return &cluster.Head{Size: note.Size, Root: note.Root[:], Time: note.Time}, nil
}

// said is what time it is by the word of whoever restores, zero if nobody says.
func (c *restoreCmd) said() (time.Time, error) {
	if c.Time == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00"} {
		if t, err := time.Parse(layout, c.Time); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errors.New("--time: a time with its zone, such as 2026-11-24T03:00Z or 2026-11-24T04:00+01:00")
}

// clock says when the cluster goes on, and refuses where nobody has vouched for that.
func (c *restoreCmd) clock(h backup.Header, outside *cluster.Head, said time.Time) error {
	t, err := cluster.CheckRestoreTime(time.Now(), h.Created, outside, said)
	age := cluster.Days(t.Age) + " old"
	if t.Age < 0 {
		age = cluster.Days(-t.Age) + " ahead of this clock: nothing expires until it has caught up"
	}
	fmt.Fprintf(os.Stderr, "This machine's clock: %s. The backup is %s. The cluster would go on at %s.\n",
		audit.TimeText(t.Clock.UnixMilli()), age, audit.TimeText(t.Begins.UnixMilli()))
	return err
}

// source finds the backup: a file here, or one where backups are kept.
func (c *restoreCmd) source(ctx context.Context, cfg *Config) (func() (io.ReadCloser, error), error) {
	_, err := os.Stat(c.Backup)
	if err == nil {
		return func() (io.ReadCloser, error) { return os.Open(c.Backup) }, nil
	}
	if !errors.Is(err, fs.ErrNotExist) || strings.ContainsRune(c.Backup, os.PathSeparator) {
		return nil, fmt.Errorf("backup: %w", err)
	}
	place, err := openPlace(cfg.Backup)
	if err != nil {
		return nil, err
	}
	if place == nil {
		return nil, fmt.Errorf("backup: there is no file %s here, and the configuration names no place for backups", c.Backup)
	}
	return func() (io.ReadCloser, error) { return place.Open(ctx, c.Backup) }, nil
}

func verified(open func() (io.ReadCloser, error), trust audit.Trust) (audit.BackupReport, error) {
	r, err := open()
	if err != nil {
		return audit.BackupReport{}, err
	}
	defer r.Close()
	report, err := audit.VerifyBackup(r, trust)
	if err != nil {
		return report, fmt.Errorf("nothing was changed: %w", err)
	}
	return report, nil
}

// operators collects as many shares as it takes and combines them. A wrong one is refused and named at once.
func (c *restoreCmd) operators(h backup.Header) (seed secret.Bytes, who []int, err error) {
	var deal shares.Deal
	if err := deal.UnmarshalBinary(h.Deal); err != nil {
		return seed, nil, fmt.Errorf("the backup's operators: %w", err)
	}
	var have []shares.Share
	defer func() {
		for _, s := range have {
			s.Wipe()
		}
	}()
	next, err := c.shareSource(int(deal.Threshold))
	if err != nil {
		return seed, nil, err
	}
	for len(have) < int(deal.Threshold) {
		text, err := next(len(have))
		if errors.Is(err, io.EOF) {
			return seed, nil, &shares.TooFewError{Have: len(have), Need: int(deal.Threshold)}
		}
		if err != nil {
			return seed, nil, err
		}
		share, err := shares.ParseText(text)
		if err == nil {
			err = deal.Check(share)
		}
		if err == nil && slices.Contains(who, int(share.Index)) {
			err = &shares.DuplicateShareError{Index: share.Index}
		}
		if err != nil {
			share.Wipe()
			if c.prompts() {
				fmt.Fprintln(os.Stderr, err)
				continue
			}
			return seed, nil, err
		}
		have, who = append(have, share), append(who, int(share.Index))
	}
	slices.Sort(who)
	seed, err = deal.Combine(have)
	return seed, who, err
}

func (c *restoreCmd) prompts() bool {
	return len(c.ShareFile) == 0 && term.IsTerminal(int(os.Stdin.Fd()))
}

// shareSource returns where the next share comes from; have says how many there are.
func (c *restoreCmd) shareSource(need int) (func(have int) (string, error), error) {
	switch {
	case len(c.ShareFile) > 0:
		identities, err := c.identities()
		if err != nil {
			return nil, err
		}
		left := c.ShareFile
		return func(int) (string, error) {
			if len(left) == 0 {
				return "", io.EOF
			}
			path := left[0]
			left = left[1:]
			return readShare(path, identities)
		}, nil
	case c.prompts():
		return func(have int) (string, error) {
			fmt.Fprintf(os.Stderr, "Share %d of %d (hizoshare1…): ", have+1, need)
			text, err := term.ReadPassword(int(os.Stdin.Fd()))
			fmt.Fprintln(os.Stderr)
			return strings.TrimSpace(string(text)), err
		}, nil
	}
	lines := bufio.NewScanner(io.LimitReader(os.Stdin, 64<<10))
	return func(int) (string, error) {
		for lines.Scan() {
			if text := strings.TrimSpace(lines.Text()); text != "" {
				return text, nil
			}
		}
		return "", errors.Join(lines.Err(), io.EOF)
	}, nil
}

func (c *restoreCmd) identities() ([]age.Identity, error) {
	var out []age.Identity
	for _, path := range c.Identity {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("identity: %w", err)
		}
		list, err := age.ParseIdentities(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("identity %s: %w", path, err)
		}
		out = append(out, list...)
	}
	return out, nil
}

func readShare(path string, identities []age.Identity) (string, error) {
	b, err := readSmall(path)
	if err != nil {
		return "", fmt.Errorf("share: %w", err)
	}
	if !bytes.HasPrefix(bytes.TrimSpace(b), []byte(armor.Header)) {
		return strings.TrimSpace(string(b)), nil
	}
	if len(identities) == 0 {
		return "", fmt.Errorf("share %s is encrypted: pass --identity FILE, the age identity of its operator", path)
	}
	opened, err := age.Decrypt(armor.NewReader(bytes.NewReader(b)), identities...)
	if err != nil {
		return "", fmt.Errorf("share %s: %w", path, err)
	}
	text, err := io.ReadAll(io.LimitReader(opened, 4<<10))
	return strings.TrimSpace(string(text)), err
}

// readSmall reads a file that a person keeps.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

// told writes the new trust file and says what comes next.
func (c *restoreCmd) told(cfg *Config, trust audit.Trust, done cluster.Restored) error {
	for _, leaf := range append(slices.Clone(done.Earlier), done.Leaf) { // recoveries were trusted by the old file
		if hash := audit.LeafHash(leaf); !slices.Contains(trust.Restores, hash) {
			trust.Restores = append(trust.Restores, hash)
		}
	}
	if done.Lost > 0 {
		fmt.Fprintf(os.Stderr, "%d audit records that the checkpoint covers are not in this backup; the audit log says so in record %d.\n", done.Lost, done.Record)
	}
	fmt.Fprintf(os.Stderr, `Restored into %s. The cluster begins again with this node alone:
  1. start it: hizod server --config %s
  2. unseal it with the operators' shares: hizo cluster unseal; the root key is renewed at once
  3. join the other nodes with empty data directories
  4. log in again: all tokens, certificates, join tokens and one-time secrets have ended, and leases are being revoked
  5. look at the rotations, which are paused: hizo rotation list
Verify the audit log from now on with this trust file:
`, cfg.DataDir, c.Config)
	if c.TrustOutput == "" {
		fmt.Println(trust.String())
		return nil
	}
	fmt.Fprintln(os.Stderr, "  "+c.TrustOutput)
	return os.WriteFile(c.TrustOutput, []byte(trust.String()+"\n"), 0o644)
}
