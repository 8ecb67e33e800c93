package check

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/hizo/hizo/api/audit"
	"github.com/hizo/hizo/chaos/history"
)

// Trail checks an export of the audit log against what is trusted, against the checkpoints that were seen during the
// run, and against what clients were given: every value that was released has its record, and it says so.
func Trail(export []byte, trust string, notes []string, events []history.Event) (records uint64, violations []string) {
	from, err := audit.ParseTrust(trust)
	if err != nil {
		return 0, []string{fmt.Sprintf("audit: %v", err)}
	}
	report, err := audit.Verify(bytes.NewReader(export), from.Begin())
	if err != nil {
		return 0, []string{fmt.Sprintf("audit: %v", err)}
	}
	leaves, err := exported(export)
	if err != nil {
		return 0, []string{fmt.Sprintf("audit: %v", err)}
	}
	roots, err := rootsOf(leaves)
	if err != nil {
		return 0, []string{fmt.Sprintf("audit: %v", err)}
	}
	for _, text := range notes {
		note, err := audit.ParseNote(text)
		switch {
		case err != nil:
			violations = append(violations, fmt.Sprintf("audit: a checkpoint that was shown can't be read: %v", err))
		case note.Checkpoint.Size > uint64(len(leaves)):
			violations = append(violations, fmt.Sprintf("audit: a checkpoint of %d records was shown, now there are %d", note.Checkpoint.Size, len(leaves)))
		case roots(note.Checkpoint.Size) != note.Checkpoint.Root:
			violations = append(violations, fmt.Sprintf("audit: the tree of %d records is not the one that a checkpoint showed", note.Checkpoint.Size))
		}
	}
	for _, e := range events {
		if e.Outcome != history.OK || e.Kind != history.Reveal && e.Kind != history.Inject && e.Kind != history.UseOf || e.Version == 0 {
			continue
		}
		if e.Audit >= uint64(len(leaves)) {
			violations = append(violations, fmt.Sprintf("audit: call %d released %s by record %d, and there are %d", e.ID, e.Key, e.Audit, len(leaves)))
			continue
		}
		r, err := audit.ParseLeaf(leaves[e.Audit])
		action := "reveal"
		if e.Kind == history.Inject {
			action = "inject"
		}
		if err != nil || r.Action != action || r.Resource != e.Key || r.Version != e.Version || audit.DecisionText(r.Decision) != "allowed" || audit.OutcomeText(r.Outcome) != "ok" {
			violations = append(violations, fmt.Sprintf("audit: call %d released version %d of %s, but record %d says %s %s version %d %s %s (%v)", e.ID, e.Version, e.Key, e.Audit, r.Action, r.Resource, r.Version, audit.DecisionText(r.Decision), audit.OutcomeText(r.Outcome), err))
		}
	}
	return report.Records, append(violations, sessions(leaves)...)
}

// Session is the user whose logins the workload uses one after the other: in the log, nothing is released to it between
// a logout and the next login. That is stronger than what clients can see from outside.
const Session = "user/sec"

func sessions(leaves [][]byte) (violations []string) {
	in := false
	for seq, leaf := range leaves {
		r, err := audit.ParseLeaf(leaf)
		if err != nil || r.Principal != Session || audit.DecisionText(r.Decision) != "allowed" || audit.OutcomeText(r.Outcome) != "ok" {
			continue
		}
		switch r.Action {
		case "login":
			in = true
		case "token.revoke":
			in = false
		case "reveal":
			if !in {
				violations = append(violations, fmt.Sprintf("revocation: record %d releases %s to %s after its logout", seq, r.Resource, Session))
			}
		}
	}
	return violations
}

// exported are the leaves of an export that has been verified (docs/audit-format.md).
func exported(export []byte) (leaves [][]byte, err error) {
	for line := range bytes.Lines(export) {
		var entry struct {
			Leaf string `json:"leaf"`
		}
		if err := json.Unmarshal(line, &entry); err != nil {
			return nil, err
		}
		if entry.Leaf == "" {
			continue
		}
		leaf, err := base64.StdEncoding.DecodeString(entry.Leaf)
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, leaf)
	}
	return leaves, nil
}

// rootsOf builds the tree and returns the root of its first n leaves.
func rootsOf(leaves [][]byte) (func(n uint64) tlog.Hash, error) {
	var hashes []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, at := range indexes {
			out[i] = hashes[at]
		}
		return out, nil
	})
	for n, leaf := range leaves {
		more, err := tlog.StoredHashes(int64(n), leaf, read)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, more...)
	}
	return func(n uint64) tlog.Hash {
		root, err := tlog.TreeHash(int64(n), read)
		if err != nil {
			return tlog.Hash{}
		}
		return root
	}, nil
}
