package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/grpc/codes"

	"github.com/hizo/hizo/api/audit"
	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

type auditCmd struct {
	Tail   auditTailCmd   `cmd:"" help:"Show the newest records, and follow."`
	Search auditSearchCmd `cmd:"" help:"Search records, newest first."`
	Export auditExportCmd `cmd:"" help:"Write an export that can be verified offline."`
	Prove  auditProveCmd  `cmd:"" help:"Prove that a record is in the log."`
	Verify auditVerifyCmd `cmd:"" help:"Verify an export offline, or the live log."`

	Checkpoint auditCheckpointCmd `cmd:"" help:"Write the newest checkpoint, to be kept outside of the cluster."`
}

type auditTailCmd struct {
	Last   uint32 `short:"n" default:"20" help:"How many of the newest records."`
	From   uint64 `placeholder:"SEQUENCE" help:"Begin at this record instead."`
	Follow bool   `short:"f" help:"Go on with new records as they come."`
}

func (c *auditTailCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	request := &hizov1.TailRequest{From: c.From, Last: c.Last, Follow: c.Follow}
	p := recordPrinter{s: s}
	for {
		next, err := tail(s.ctx, cl, request, p.print)
		switch {
		case err == nil:
			return nil
		case s.ctx.Err() != nil:
			return nil // Ctrl-C ends following, as meant
		case !c.Follow || next == 0 || !broken(err):
			return err
		}
		// The stream broke after records had come: a fail-over. Go on behind the last one.
		request = &hizov1.TailRequest{From: next, Follow: true}
	}
}

func broken(err error) bool {
	e, ok := errors.AsType[*client.Error](err)
	return ok && (e.Code == codes.Unavailable || e.Reason == "" && (e.Code == codes.Unknown || e.Code == codes.Internal))
}

// tail returns the sequence behind the last record shown, 0 where none was.
func tail(ctx context.Context, cl *client.Client, r *hizov1.TailRequest, show func(*hizov1.AuditRecord) error) (next uint64, err error) {
	stream, err := cl.Audit().Tail(ctx, r)
	if err != nil {
		return 0, err
	}
	for {
		record, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return next, nil
		}
		if err != nil {
			return next, err
		}
		if err := show(record); err != nil {
			return next, err
		}
		next = record.GetSequence() + 1
	}
}

var recordHead = []string{"SEQUENCE", "TIME", "PRINCIPAL", "ACTION", "RESOURCE", "DECISION", "OUTCOME", "ADDRESS", "DETAIL"}

func recordRow(r *hizov1.AuditRecord) []string {
	resource := r.GetResource()
	if v := r.GetVersion(); v != 0 {
		resource = fmt.Sprintf("%s@%d", resource, v)
	}
	var detail []string
	if r.GetCount() > 1 {
		detail = append(detail, fmt.Sprintf("%d times", r.GetCount()))
	}
	for _, text := range []string{r.GetDetail(), r.GetReason()} {
		if text != "" {
			detail = append(detail, text)
		}
	}
	return []string{
		fmt.Sprint(r.GetSequence()), clockMilli(r.GetTimeUnixMs()), orDash(r.GetPrincipal()), r.GetAction(), orDash(resource),
		r.GetDecision(), orDash(r.GetOutcome()), orDash(r.GetClientAddress()), strings.Join(detail, "; "),
	}
}

// recordPrinter prints records as they come: a line each, JSON lines, or YAML documents.
type recordPrinter struct {
	s     *session
	begun bool
}

func (p *recordPrinter) print(r *hizov1.AuditRecord) error {
	if p.s.g.Format == "table" {
		// Widths that most records keep to, as the later ones are not known yet.
		const format = "%-8s  %-24s  %-20s  %-16s  %-24s  %-8s  %-10s  %-21s  %s"
		line := func(cells []string) string {
			var args []any
			for _, c := range cells {
				args = append(args, printable(c))
			}
			return strings.TrimRight(fmt.Sprintf(format, args...), " ")
		}
		if !p.begun {
			p.begun = true
			if _, err := fmt.Fprintln(p.s.stdout, line(recordHead)); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintln(p.s.stdout, line(recordRow(r)))
		return err
	}
	b, err := messageJSON(r)
	if err != nil {
		return err
	}
	if p.s.g.Format == "yaml" {
		if b, err = encode("yaml", b); err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.s.stdout, "---\n%s", b)
		return err
	}
	_, err = fmt.Fprintf(p.s.stdout, "%s\n", escapeJSON(b))
	return err
}

type auditSearchCmd struct {
	Principal string `placeholder:"P" help:"Who: user/NAME, workload/NAME, node/NAME."`
	Resource  string `placeholder:"VAULT/PATH" help:"What; with a slash at the end: all below."`
	Action    string `placeholder:"A" help:"Such as reveal, inject, login."`
	Decision  string `placeholder:"D" help:"allowed, denied or failed."`
	Since     string `placeholder:"T" help:"From this time on: 2026-01-31, 2026-01-31T15:04:05Z, or how long ago: 90m, 12h, 7d."`
	Until     string `placeholder:"T" help:"Up to this time."`
	Limit     int    `default:"100" help:"At most so many; 0: all."`
}

func (c *auditSearchCmd) Run(s *session) error {
	since, err := parseTime("--since", c.Since, time.Now())
	if err != nil {
		return err
	}
	until, err := parseTime("--until", c.Until, time.Now())
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	found := &hizov1.SearchResponse{}
	before := uint64(0)
	for {
		page, err := cl.Audit().Search(s.ctx, &hizov1.SearchRequest{
			Principal: c.Principal, Resource: c.Resource, Action: c.Action, Decision: c.Decision,
			SinceUnixMs: since, UntilUnixMs: until, Limit: pageSize(c.Limit, len(found.Records)), Before: before,
		})
		if err != nil {
			return err
		}
		found.Records = append(found.Records, page.GetRecords()...)
		before = page.GetNextBefore()
		if before == 0 || c.Limit > 0 && len(found.Records) >= c.Limit {
			break
		}
	}
	found.NextBefore = before
	t := table{head: recordHead}
	for _, r := range found.GetRecords() {
		t.rows = append(t.rows, recordRow(r))
	}
	if s.g.Format == "table" && before != 0 {
		s.note("there may be more: raise --limit")
	}
	return s.show(found, t)
}

// parseTime reads a date, a time or an age, as Unix milliseconds; "" is 0.
func parseTime(flag, text string, now time.Time) (int64, error) {
	if text == "" {
		return 0, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UnixMilli(), nil
		}
	}
	age := text
	days := time.Duration(0)
	if head, rest, ok := strings.Cut(text, "d"); ok {
		var n int
		if _, err := fmt.Sscanf(head+"d", "%dd", &n); err == nil && n >= 0 && n < 100_000 && fmt.Sprint(n) == head {
			days, age = time.Duration(n)*24*time.Hour, rest
		}
	}
	d := time.Duration(0)
	if age != "" {
		var err error
		if d, err = time.ParseDuration(age); err != nil || d < 0 {
			return 0, fmt.Errorf("%s %q is neither a date (2026-01-31), a time (2026-01-31T15:04:05Z) nor an age (90m, 12h, 7d)", flag, text)
		}
	}
	return now.Add(-days - d).UnixMilli(), nil
}

type auditExportCmd struct {
	From   uint64 `placeholder:"SEQUENCE" help:"First record (default 0)."`
	To     uint64 `placeholder:"SEQUENCE" help:"Up to this one (default: the newest checkpoint)."`
	Output string `short:"o" type:"path" placeholder:"FILE" help:"Where it goes (default: standard output)."`
}

func (c *auditExportCmd) Run(s *session) error {
	if c.Output == "" {
		return s.export(c.From, c.To, s.stdout)
	}
	tmp, err := os.CreateTemp(dirOf(c.Output), ".hizo-export-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails after the rename, as it should
	err = s.export(c.From, c.To, tmp)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), c.Output)
}

func dirOf(path string) string {
	if i := strings.LastIndexByte(path, os.PathSeparator); i > 0 {
		return path[:i]
	}
	return "."
}

func (s *session) export(from, to uint64, w io.Writer) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	stream, err := cl.Audit().Export(s.ctx, &hizov1.ExportRequest{From: from, To: to})
	if err != nil {
		return err
	}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(chunk.GetData()); err != nil {
			return err
		}
	}
}

type auditProveCmd struct {
	Sequence uint64 `arg:"" help:"Which record."`
	State    string `type:"path" placeholder:"FILE" help:"State of an earlier verification: checks the checkpoint's signatures with its signers."`
}

func (c *auditProveCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	p, err := cl.Audit().Prove(s.ctx, &hizov1.ProveRequest{Sequence: c.Sequence})
	if err != nil {
		return err
	}
	note, err := checkProof(c.Sequence, p)
	if err != nil {
		return err
	}
	signed := fmt.Sprintf("%d signatures, not checked (--state FILE checks them)", len(note.Signatures))
	if c.State != "" {
		state, err := readState(c.State)
		if err != nil {
			return err
		}
		if note.Origin != state.Origin() {
			return errors.New("the proof is of another cluster than the state: pass the state of this cluster")
		}
		if err := note.CheckSignatures(state.Signers, nil); err != nil {
			return fmt.Errorf("the checkpoint does not verify with the signers of %s: %w; if members changed since, verify again first", c.State, err)
		}
		signed = fmt.Sprintf("%d signatures, a majority of the members verified", len(note.Signatures))
	}
	leaf := audit.LeafHash(p.GetLeaf())
	return s.show(p, table{rows: [][]string{
		{"record", fmt.Sprint(c.Sequence)},
		{"leaf hash", hex.EncodeToString(leaf[:])},
		{"proof", fmt.Sprintf("%d hashes, verified against a tree of %d records", len(p.GetPath()), note.Size)},
		{"checkpoint", audit.TimeText(note.Time) + ", " + signed},
	}})
}

// checkProof verifies the inclusion proof against the checkpoint (RFC 6962, section 2.1.1).
func checkProof(sequence uint64, p *hizov1.ProveResponse) (audit.Note, error) {
	note, err := audit.ParseNote(p.GetCheckpoint())
	if err != nil {
		return note, fmt.Errorf("the proof is not genuine: %w", err)
	}
	record, err := audit.ParseLeaf(p.GetLeaf())
	if err != nil {
		return note, fmt.Errorf("the proof is not genuine: %w", err)
	}
	if record.Seq != sequence {
		return note, fmt.Errorf("the proof is not genuine: it is about record %d", record.Seq)
	}
	proof := make(tlog.RecordProof, len(p.GetPath()))
	for i, h := range p.GetPath() {
		if len(h) != sha256.Size {
			return note, errors.New("the proof is not genuine: it holds something that is no hash")
		}
		copy(proof[i][:], h)
	}
	if err := tlog.CheckRecord(proof, int64(note.Size), note.Root, int64(sequence), audit.LeafHash(p.GetLeaf())); err != nil {
		return note, fmt.Errorf("the proof is not genuine: %w", err)
	}
	return note, nil
}

type auditVerifyCmd struct {
	Export string `arg:"" optional:"" help:"The export, or - for standard input; without it the live log is fetched and verified."`
	Trust  string `env:"HIZO_TRUST" type:"path" placeholder:"FILE" help:"The trust file that \"hizo cluster init\" wrote (HIZO_TRUST)."`
	State  string `type:"path" placeholder:"FILE" help:"Continue from the state in this file, and keep the new state there."`

	MinSigners    int  `default:"1" placeholder:"N" help:"Refuse unless the newest checkpoint is vouched for by a cluster of at least N members."`
	AllowUnsigned bool `help:"Accept records behind the newest checkpoint, which no member has signed yet."`
}

func (c *auditVerifyCmd) Run(s *session) error {
	from, err := c.begin()
	if err != nil {
		return err
	}
	report, err := c.verify(s, from)
	if err != nil {
		if _, forged := errors.AsType[*audit.Fault](err); forged {
			// Neither a mistake of the caller nor a refusal, but no success either.
			return fmt.Errorf("NOT VERIFIED: %w", err)
		}
		return err
	}
	if err := c.vouched(report); err != nil {
		return fmt.Errorf("NOT VERIFIED: %w", err)
	}
	if n := len(report.State.Signers); n < 3 && c.MinSigners < 2 {
		s.note("%d members sign: whoever holds the keys of their majority could have written this log; compare with a state kept from before (--state)", n)
	}
	if c.State != "" {
		b, err := json.Marshal(report.State)
		if err != nil {
			return err
		}
		if err := writePrivate(c.State, append(b, '\n')); err != nil {
			return fmt.Errorf("verified, but the state can't be kept: %w", err)
		}
	}
	return s.showValue(struct {
		Verified    bool   `json:"verified"`
		Cluster     string `json:"cluster"`
		Records     uint64 `json:"records"`
		Checkpoints uint64 `json:"checkpoints"`
		Unsigned    uint64 `json:"unsigned"`
		Size        uint64 `json:"size"`
		Signers     int    `json:"signers"`
		Time        int64  `json:"time_unix_ms"`
	}{
		true, report.State.Cluster, report.Records, report.Checkpoints, report.Unsigned,
		report.State.Size, len(report.State.Signers), report.State.Time,
	}, table{rows: [][]string{
		{"verified", "yes"},
		{"cluster", report.State.Cluster},
		{"records", fmt.Sprintf("%d, of which %d are behind the newest checkpoint", report.Records, report.Unsigned)},
		{"checkpoints", fmt.Sprintf("%d, the newest of %s over %d records", report.Checkpoints, clockMilli(report.State.Time), report.State.Size)},
		{"signers", fmt.Sprintf("%d members", len(report.State.Signers))},
	}})
}

// vouched demands that members signed for what was read: records alone can be invented by anybody.
func (c *auditVerifyCmd) vouched(r audit.Report) error {
	switch {
	case r.State.Size == 0:
		return errors.New("no checkpoint stands in the export: nobody vouches for its records")
	case r.Unsigned > 0 && !c.AllowUnsigned:
		return fmt.Errorf("records %d to %d stand behind the newest checkpoint: no member has signed them; export up to a checkpoint (the default), or pass --allow-unsigned",
			r.State.Size, r.State.Size+r.Unsigned-1)
	case len(r.State.Signers) < c.MinSigners:
		return fmt.Errorf("%d members sign, fewer than --min-signers %d", len(r.State.Signers), c.MinSigners)
	}
	return nil
}

// begin is the state of the last verification, or what the trust file says.
func (c *auditVerifyCmd) begin() (audit.State, error) {
	if c.State != "" {
		state, err := readState(c.State)
		if err == nil && c.Trust != "" {
			trust, err := readTrust(c.Trust)
			if err != nil {
				return state, err
			}
			if trust.Cluster != state.Cluster || trust.Genesis != state.Genesis {
				return state, fmt.Errorf("%s and %s are of different clusters", c.Trust, c.State)
			}
			state.Restores = trust.Restores // of a restore since then only the trust file knows
		}
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return state, err
		}
	}
	if c.Trust == "" {
		return audit.State{}, errors.New("nothing is trusted yet: pass --trust FILE, which `hizo cluster init` wrote")
	}
	trust, err := readTrust(c.Trust)
	return trust.Begin(), err
}

func readTrust(path string) (audit.Trust, error) {
	b, err := readFile(path, 8<<10)
	if err != nil {
		return audit.Trust{}, fmt.Errorf("trust file: %w", err)
	}
	return audit.ParseTrust(string(b))
}

func readState(path string) (audit.State, error) {
	var state audit.State
	b, err := readFile(path, 16<<20)
	if err != nil {
		return state, fmt.Errorf("state of a verification: %w", err)
	}
	if err := json.Unmarshal(b, &state); err != nil || state.Cluster == "" {
		return state, fmt.Errorf("%s is no state of a verification: pass the file that `hizo audit verify --state` wrote", path)
	}
	return state, nil
}

func (c *auditVerifyCmd) verify(s *session, from audit.State) (audit.Report, error) {
	switch c.Export {
	case "-":
		return audit.Verify(s.stdin, from)
	case "":
		r, w := io.Pipe()
		go func() { w.CloseWithError(s.export(from.Size, 0, w)) }()
		defer r.Close()
		return audit.Verify(r, from)
	}
	f, err := os.Open(c.Export)
	if err != nil {
		return audit.Report{}, err
	}
	defer f.Close()
	return audit.Verify(f, from)
}
