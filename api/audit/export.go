package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Format is the version of the export format that Writer writes.
const Format = 1

// The lines of an export, one JSON object each, in this order: header, then leaves and checkpoints as
// they follow on each other, then the end. docs/audit-format.md describes them.
type (
	// Header begins an export.
	Header struct {
		Type    string `json:"type"` // "hizo-audit"
		Format  int    `json:"format"`
		Cluster string `json:"cluster"` // id, hex
		Genesis string `json:"genesis"` // leaf hash of leaf 0, hex
		From    uint64 `json:"from"`
	}
	leafLine struct {
		Type      string   `json:"type"` // "leaf"
		Seq       uint64   `json:"seq"`
		Leaf      string   `json:"leaf"` // base64
		Hash      string   `json:"hash"` // hex
		Time      string   `json:"time"`
		Principal string   `json:"principal"`
		Action    string   `json:"action"`
		Resource  string   `json:"resource"`
		Version   uint32   `json:"version"`
		Decision  string   `json:"decision"`
		Policies  []string `json:"policies"`
		Outcome   string   `json:"outcome"`
		Detail    string   `json:"detail"`
		Count     uint32   `json:"count"`
	}
	checkpointLine struct {
		Type string `json:"type"` // "checkpoint"
		Note string `json:"note"`
	}
	endLine struct {
		Type        string `json:"type"` // "end"
		Leaves      uint64 `json:"leaves"`
		Checkpoints uint64 `json:"checkpoints"`
		SHA256      string `json:"sha256"` // of every byte before this line, hex
	}
)

const (
	typeHeader     = "hizo-audit"
	typeLeaf       = "leaf"
	typeCheckpoint = "checkpoint"
	typeEnd        = "end"
)

// Writer writes an export.
type Writer struct {
	w           io.Writer
	sum         hash.Hash
	leaves      uint64
	checkpoints uint64
}

// NewWriter begins an export.
func NewWriter(w io.Writer, cluster string, genesis tlog.Hash, from uint64) (*Writer, error) {
	e := &Writer{w: w, sum: sha256.New()}
	return e, e.line(headerOf(cluster, genesis, from))
}

func headerOf(cluster string, genesis tlog.Hash, from uint64) Header {
	return Header{Type: typeHeader, Format: Format, Cluster: cluster, Genesis: hex.EncodeToString(genesis[:]), From: from}
}

// Leaf adds the next leaf.
func (e *Writer) Leaf(leaf []byte) error {
	line, err := lineOf(leaf)
	if err != nil {
		return err
	}
	e.leaves++
	return e.line(line)
}

// Checkpoint adds a checkpoint over the leaves so far.
func (e *Writer) Checkpoint(note string) error {
	e.checkpoints++
	return e.line(checkpointLine{Type: typeCheckpoint, Note: note})
}

// Close ends the export; it does not close what it wrote to.
func (e *Writer) Close() error { return e.line(e.end()) }

func (e *Writer) end() endLine {
	return endLine{Type: typeEnd, Leaves: e.leaves, Checkpoints: e.checkpoints, SHA256: hex.EncodeToString(e.sum.Sum(nil))}
}

func (e *Writer) line(v any) error {
	b, err := encodeLine(v)
	if err != nil {
		return err
	}
	e.sum.Write(b)
	_, err = e.w.Write(b)
	return err
}

// encodeLine is the one encoding that a line can have.
func encodeLine(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil { // Encode ends the line
		return nil, err
	}
	return b.Bytes(), nil
}

// lineOf makes a leaf's line: everything in it follows from the leaf.
func lineOf(leaf []byte) (leafLine, error) {
	r, err := ParseLeaf(leaf)
	if err != nil {
		return leafLine{}, err
	}
	h := LeafHash(leaf)
	policies := r.Policies
	if policies == nil {
		policies = []string{}
	}
	return leafLine{
		Type: typeLeaf, Seq: r.Seq, Leaf: base64.StdEncoding.EncodeToString(leaf), Hash: hex.EncodeToString(h[:]),
		Time: TimeText(r.Time), Principal: r.Principal, Action: r.Action, Resource: r.Resource, Version: r.Version,
		Decision: DecisionText(r.Decision), Policies: policies, Outcome: OutcomeText(r.Outcome),
		Detail: r.Detail, Count: max(1, r.Count),
	}, nil
}

// Trust is what a verification begins with: the cluster and the fingerprint of its first record, which
// `hizo cluster init` prints.
type Trust struct {
	Cluster string
	Genesis tlog.Hash
	// Restores are the hashes of the records by which restores from backups, recoveries from a lost quorum, and removals
	// that left no majority of the signers are trusted: who signs from there on, the members of before cannot say.
	Restores []tlog.Hash
}

const trustWord = "hizo-trust-v1"

// String is the line that trust files hold.
func (t Trust) String() string {
	text := trustWord + " " + t.Cluster + " " + hex.EncodeToString(t.Genesis[:])
	for _, r := range t.Restores {
		text += " " + hex.EncodeToString(r[:])
	}
	return text
}

// maxRestores bounds a trust file.
const maxRestores = 64

// ParseTrust reads a trust file: one line, white space around it is ignored.
func ParseTrust(text string) (Trust, error) {
	fields := strings.Fields(text)
	bad := fmt.Errorf("not a trust file: it holds one line %q, as `hizo cluster init` prints it", trustWord+" CLUSTER FINGERPRINT")
	if len(fields) < 3 || len(fields) > 3+maxRestores || fields[0] != trustWord || strings.ToLower(text) != text {
		return Trust{}, bad
	}
	t := Trust{Cluster: fields[1]}
	if cluster, err := hex.DecodeString(fields[1]); err != nil || len(cluster) != 16 {
		return Trust{}, bad
	}
	for i, field := range fields[2:] {
		var h tlog.Hash
		if b, err := hex.DecodeString(field); err != nil || copy(h[:], b) != len(b) || len(b) != len(h) {
			return Trust{}, bad
		}
		if i == 0 {
			t.Genesis = h
		} else {
			t.Restores = append(t.Restores, h)
		}
	}
	return t, nil
}
