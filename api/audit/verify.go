package audit

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Fault says what is wrong with an export, and where.
type Fault struct {
	Line int    // of the export, from 1
	Seq  uint64 // of the record at fault, or of the next one
	From uint64 // a fault that only a checkpoint shows lies in one of the records From to Seq
	Why  string
}

func (f *Fault) Error() string {
	where := fmt.Sprintf("record %d", f.Seq)
	if f.From < f.Seq {
		where = fmt.Sprintf("records %d to %d", f.From, f.Seq)
	}
	return fmt.Sprintf("the audit export is not genuine: line %d (%s): %s", f.Line, where, f.Why)
}

// State is what a verification has found out, and where the next one can begin. It is stored as JSON.
type State struct {
	Cluster string      `json:"cluster"`
	Genesis tlog.Hash   `json:"genesis"`
	Size    uint64      `json:"size"`
	Edge    []tlog.Hash `json:"edge"` // roots of the complete subtrees, largest first
	Signers Signers     `json:"signers"`
	Time    int64       `json:"time"` // of the newest checkpoint

	Restores []tlog.Hash `json:"restores,omitempty"` // records that are trusted by themselves (Trust.Restores)
	Restore  string      `json:"restore,omitempty"`  // the last one: it began a log of another origin

	removal *tlog.Hash // of the last removal since the newest checkpoint, unless it is trusted
}

// Begin is the state before the first record.
func (t Trust) Begin() State {
	return State{Cluster: t.Cluster, Genesis: t.Genesis, Signers: Signers{}, Restores: t.Restores}
}

// Report of a successful verification.
type Report struct {
	State       State // after the newest checkpoint
	Records     uint64
	Checkpoints uint64
	Unsigned    uint64 // records behind the newest checkpoint: nobody vouches for them yet
}

// maxLine bounds one line of an export; a record of the log is smaller.
const maxLine = 4 << 20

// Verify checks an export against what is trusted: every record is in the tree, the tree is the one that
// a majority of the members signed, and the members are the ones that the records before say. Every byte
// of the export counts. The error is a *Fault, or the reader's.
func Verify(r io.Reader, from State) (Report, error) {
	v := &verifier{
		in: bufio.NewReaderSize(r, 64<<10), out: Writer{w: io.Discard},
		state: from, live: maps.Clone(from.Signers),
		tree: tree{size: from.Size, edge: append([]tlog.Hash(nil), from.Edge...)},
	}
	if v.live == nil {
		v.live = Signers{}
	}
	return v.run()
}

type verifier struct {
	in   *bufio.Reader
	out  Writer // recomputes what the export must be
	line int

	state State   // as of the newest verified checkpoint
	live  Signers // as of the newest record
	tree  tree
}

func (v *verifier) fault(format string, args ...any) error {
	return &Fault{Line: v.line, Seq: v.tree.size, From: v.tree.size, Why: fmt.Sprintf(format, args...)}
}

// read returns the next line with its newline.
func (v *verifier) read() ([]byte, error) {
	v.line++
	var line []byte
	for {
		part, err := v.in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return nil, v.fault("the line is longer than any record")
		}
		switch {
		case err == nil:
			return line, nil
		case errors.Is(err, io.EOF):
			return nil, v.fault("the export ends here, without its end line: it was cut (or it was never written: did hizo audit export fail?)")
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

func (v *verifier) run() (Report, error) {
	e, err := NewWriter(io.Discard, v.state.Cluster, v.state.Genesis, v.state.Size)
	if err != nil {
		return Report{}, err
	}
	if err := v.header(); err != nil {
		return Report{}, err
	}
	v.out = *e
	for {
		line, err := v.read()
		if err != nil {
			return Report{}, err
		}
		var kind struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(line, &kind); err != nil {
			return Report{}, v.fault("not a line of an export")
		}
		switch kind.Type {
		case typeLeaf:
			err = v.leaf(line)
		case typeCheckpoint:
			err = v.checkpoint(line)
		case typeEnd:
			return v.end(line)
		default:
			err = v.fault("a line of an unknown type")
		}
		if err != nil {
			return Report{}, err
		}
	}
}

func (v *verifier) header() error {
	line, err := v.read()
	if err != nil {
		return err
	}
	var h Header
	if err := json.Unmarshal(line, &h); err != nil || h.Type != typeHeader {
		return v.fault("not the header of an audit export")
	}
	switch {
	case h.Format != Format:
		return v.fault("export format %d: a newer release wrote it, use that release's verifier", h.Format)
	case h.Cluster != v.state.Cluster:
		return v.fault("an export of cluster %s, trusted is %s", h.Cluster, v.state.Cluster)
	case h.Genesis != hex.EncodeToString(v.state.Genesis[:]):
		return v.fault("the genesis fingerprint is not the trusted one")
	case h.From != v.state.Size:
		return v.fault("the export begins at record %d, but %d records are known: verify from there", h.From, v.state.Size)
	}
	return v.same(line, h)
}

// same demands that line is the one encoding of what was read from it.
func (v *verifier) same(line []byte, meant any) error {
	want, err := encodeLine(meant)
	if err != nil {
		return err
	}
	if !bytes.Equal(line, want) {
		return v.fault("the line was changed: it is not what it says in its one form")
	}
	return nil
}

func (v *verifier) leaf(line []byte) error {
	var l leafLine
	if err := json.Unmarshal(line, &l); err != nil {
		return v.fault("not a leaf")
	}
	leaf, err := base64.StdEncoding.Strict().DecodeString(l.Leaf)
	if err != nil {
		return v.fault("the leaf is not base64")
	}
	r, err := ParseLeaf(leaf)
	if err != nil {
		return v.fault("%v", err)
	}
	meant, err := lineOf(leaf)
	if err != nil {
		return v.fault("%v", err)
	}
	if l.Hash != meant.Hash {
		return v.fault("the leaf and its hash do not belong together")
	}
	if err := v.same(line, meant); err != nil {
		return err
	}
	if r.Seq != v.tree.size {
		return v.fault("record %d stands where record %d belongs", r.Seq, v.tree.size)
	}
	h := LeafHash(leaf)
	if r.Seq == 0 && h != v.state.Genesis {
		return v.fault("the first record is not the trusted one")
	}
	if err := v.signer(r, h); err != nil {
		return err
	}
	v.tree.add(h)
	return v.out.Leaf(leaf)
}

// Actions and outcome of the records that change who signs. The state machine writes their detail itself.
const (
	actionGenesis = "genesis"
	actionApprove = "approve"
	actionRemove  = "remove"
	actionBackup  = "backup"
	actionRestore = "restore"
	actionRecover = "recover"
	outcomeOK     = 1
	detailAgain   = "duplicate" // a retry of what was done before
)

// signer follows the members through the records.
func (v *verifier) signer(r Record, hash tlog.Hash) error {
	if err := v.state.follow(r, hash, v.live); err != nil {
		return v.fault("%v", err)
	}
	return nil
}

// Member reads the member out of a record that makes a node a signer.
func Member(action, detail string) (node string, key []byte, ok bool) {
	if action != actionGenesis && action != actionApprove && action != actionRestore {
		return "", nil, false
	}
	_, node, key, _, err := parseSigner(action, detail)
	return node, key, err == nil
}

// parseMember reads "cluster=HEX node=ID key=BASE64".
func parseMember(detail string) (cluster, node string, key []byte, err error) {
	fields := strings.Split(detail, " ")
	if len(fields) == 3 {
		var ok1, ok2, ok3 bool
		var text string
		cluster, ok1 = strings.CutPrefix(fields[0], "cluster=")
		node, ok2 = strings.CutPrefix(fields[1], "node=")
		text, ok3 = strings.CutPrefix(fields[2], "key=")
		if key, err = base64.StdEncoding.Strict().DecodeString(text); err == nil && ok1 && ok2 && ok3 {
			return cluster, node, key, nil
		}
	}
	return "", "", nil, ErrLeaf
}

func (v *verifier) checkpoint(line []byte) error {
	var l checkpointLine
	if err := json.Unmarshal(line, &l); err != nil {
		return v.fault("not a checkpoint")
	}
	if err := v.same(line, l); err != nil {
		return err
	}
	n, err := ParseNote(l.Note)
	if err != nil {
		return v.fault("%v", err)
	}
	bad := func(format string, args ...any) error {
		return &Fault{Line: v.line, From: v.state.Size, Seq: max(v.tree.size, 1) - 1, Why: fmt.Sprintf(format, args...)}
	}
	switch {
	case n.Origin != v.state.Origin():
		return bad("a checkpoint of another log")
	case n.Size != v.tree.size:
		return bad("a checkpoint over %d records stands behind %d", n.Size, v.tree.size)
	case n.Root != v.tree.root():
		return bad("these records are not the ones that the members signed")
	}
	if err := v.state.vouched(n, v.live); err != nil {
		return bad("checkpoint over %d records: %v", n.Size, err)
	}
	v.state.Size, v.state.Edge, v.state.Time = v.tree.size, append([]tlog.Hash(nil), v.tree.edge...), n.Time
	v.state.Signers = maps.Clone(v.live)
	return v.out.Checkpoint(l.Note)
}

func (v *verifier) end(line []byte) (Report, error) {
	if err := v.same(line, v.out.end()); err != nil {
		return Report{}, v.fault("the end line does not fit what stands before it")
	}
	if _, err := v.in.ReadByte(); !errors.Is(err, io.EOF) {
		v.line++
		return Report{}, v.fault("something stands behind the end")
	}
	return Report{
		State: v.state, Records: v.out.leaves, Checkpoints: v.out.checkpoints, Unsigned: v.tree.size - v.state.Size,
	}, nil
}

// TimeText is how exports write cluster time.
func TimeText(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }
