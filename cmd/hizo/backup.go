package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hizo/hizo/api/audit"
	"github.com/hizo/hizo/api/hizov1"
)

type backupCmd struct {
	Create backupCreateCmd `cmd:"" help:"Make a backup now, where the nodes are configured to keep them."`
	List   backupListCmd   `cmd:"" help:"List the backups that the leader finds there."`
	Verify backupVerifyCmd `cmd:"" help:"Verify a backup offline. Restoring is done on a node: \"hizod restore\"."`
}

// backupTakes is how long a backup may take where --timeout was not given: the state is read, encrypted and read back.
const backupTakes = time.Hour

type backupCreateCmd struct{}

func (backupCreateCmd) Run(s *session) error {
	s.g.Timeout = max(s.g.Timeout, backupTakes)
	cl, err := s.connect()
	if err != nil {
		return err
	}
	b, err := cl.Backups().CreateBackup(s.ctx, &hizov1.CreateBackupRequest{})
	if err != nil {
		return err
	}
	return s.show(b, table{rows: [][]string{
		{"backup", b.GetName()},
		{"in", b.GetPlace()},
		{"audit records", fmt.Sprint(b.GetAuditRecords())},
		{"sha256", hex.EncodeToString(b.GetSha256()) + " (up to its proof, as in the audit log)"},
	}})
}

type backupListCmd struct{}

func (backupListCmd) Run(s *session) error {
	s.g.Timeout = max(s.g.Timeout, 5*time.Minute)
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Backups().ListBackups(s.ctx, &hizov1.ListBackupsRequest{})
	if err != nil {
		return err
	}
	t := table{head: []string{"BACKUP", "MADE", "SIZE", "AUDIT RECORDS", "OPENED BY"}}
	for _, b := range r.GetBackups() {
		if b.GetProblem() != "" {
			t.add(b.GetName(), "-", sizeText(b.GetSize()), "-", b.GetProblem())
			continue
		}
		t.add(b.GetName(), clock(b.GetCreatedUnixMs()/1000), sizeText(b.GetSize()), fmt.Sprint(b.GetAuditRecords()),
			fmt.Sprintf("%d of %d operators", b.GetOperatorsNeeded(), b.GetOperators()))
	}
	if s.g.Format == "table" {
		s.note("%s; what the files say of themselves: hizo backup verify FILE checks it", r.GetPlace())
	}
	return s.show(r, t)
}

// sizeText is a size as people read it.
func sizeText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}

type backupVerifyCmd struct {
	File       string `arg:"" help:"The backup, or - for standard input."`
	Trust      string `env:"HIZO_TRUST" type:"path" placeholder:"FILE" help:"The trust file that \"hizo cluster init\" wrote (HIZO_TRUST)."`
	Checkpoint string `type:"path" placeholder:"FILE" help:"The newest checkpoint kept outside: says whether the backup is behind it."`
	MinSigners int    `default:"1" placeholder:"N" help:"Refuse unless a cluster of at least N members vouches for it."`
}

// Run needs no cluster and no share.
func (c *backupVerifyCmd) Run(s *session) error {
	if c.Trust == "" {
		return errors.New("nothing is trusted yet: pass --trust FILE, which `hizo cluster init` wrote")
	}
	trust, err := readTrust(c.Trust)
	if err != nil {
		return err
	}
	in := io.ReadCloser(s.stdin)
	if c.File != "-" {
		if in, err = os.Open(c.File); err != nil {
			return err
		}
		defer in.Close()
	}
	report, err := audit.VerifyBackup(in, trust)
	if err != nil {
		return fmt.Errorf("NOT VERIFIED: %w", err)
	}
	if n := len(report.State.Signers); n < c.MinSigners {
		return fmt.Errorf("NOT VERIFIED: %d members sign, fewer than --min-signers %d", n, c.MinSigners)
	}
	if n := len(report.State.Signers); n < 3 && c.MinSigners < 2 {
		s.note("the cluster has fewer than three members: whoever holds the keys of their majority could have written this backup")
	}
	h := report.Header
	rows := [][]string{
		{"verified", "yes"},
		{"cluster", h.Cluster + " " + h.Name},
		{"made", audit.TimeText(report.Time)},
		{"audit records", fmt.Sprintf("%d, numbers 0 to %d; its own is number %d", h.Records, h.Records-1, report.Seq)},
		{"signed by", fmt.Sprintf("a majority of the members (%d), over %d records", len(report.State.Signers), report.State.Size)},
		{"opened by", fmt.Sprintf("%d of %d operators", h.Threshold, h.Operators)},
		{"size of the state", sizeText(h.Bytes)},
	}
	behind := uint64(0)
	if c.Checkpoint != "" {
		note, err := readCheckpoint(c.Checkpoint)
		if err != nil {
			return err
		}
		if note.Origin != h.Origin {
			return fmt.Errorf("%s is of the log %s, the backup's is %s", c.Checkpoint, note.Origin, h.Origin)
		}
		text := "none: the backup is as new as the checkpoint, or newer"
		if note.Size > h.Records {
			behind = note.Size - h.Records
			text = fmt.Sprintf("%d audit records, its own among them, up to the checkpoint of %s", behind, audit.TimeText(note.Time))
		}
		rows = append(rows, []string{"missing", text})
	}
	return s.showValue(struct {
		Verified  bool   `json:"verified"`
		Cluster   string `json:"cluster"`
		Time      int64  `json:"time_unix_ms"`
		Records   uint64 `json:"audit_records"`
		Record    uint64 `json:"audit_record_of_it"`
		Signers   int    `json:"signers"`
		Threshold int    `json:"operators_needed"`
		Operators int    `json:"operators"`
		SHA256    string `json:"sha256"`
		Missing   uint64 `json:"missing_records"`
	}{
		true, h.Cluster, report.Time, h.Records, report.Seq, len(report.State.Signers), h.Threshold, h.Operators, hex.EncodeToString(report.Digest[:]), behind,
	}, table{rows: rows})
}

func readCheckpoint(path string) (audit.Note, error) {
	b, err := readFile(path, 1<<20)
	if err != nil {
		return audit.Note{}, fmt.Errorf("checkpoint: %w", err)
	}
	note, err := audit.ParseCheckpoint(b)
	if err != nil {
		return note, fmt.Errorf("%s: %w; `hizo audit checkpoint` writes one", path, err)
	}
	return note, nil
}

type auditCheckpointCmd struct {
	Output string `short:"o" type:"path" placeholder:"FILE" help:"Where it goes (default: standard output)."`
}

// Run writes the newest signed statement of the log, to be kept where the cluster's nodes can't reach.
func (c *auditCheckpointCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Audit().LatestCheckpoint(s.ctx, &hizov1.CheckpointRequest{})
	if err != nil {
		return err
	}
	if c.Output == "" {
		_, err := io.WriteString(s.stdout, r.GetCheckpoint())
		return err
	}
	return writePrivate(c.Output, []byte(r.GetCheckpoint()))
}
