package check

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"

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
	tree, err := treeOf(leaves)
	if err != nil {
		return 0, []string{fmt.Sprintf("audit: %v", err)}
	}
	violations = checkpoints(tree, len(leaves), notes)
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

// treeOf builds the tree (RFC 6962).
func treeOf(leaves [][]byte) (tlog.HashReader, error) {
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
	return read, nil
}

// checkpoints checks that every checkpoint that was shown, whoever signed it and whenever, is of this tree, and that each
// is consistent with the one before by a proof.
func checkpoints(tree tlog.HashReader, size int, notes []string) (violations []string) {
	var seen []audit.Checkpoint
	for _, text := range notes {
		note, err := audit.ParseNote(text)
		switch {
		case err != nil:
			violations = append(violations, fmt.Sprintf("audit: a checkpoint that was shown can't be read: %v", err))
		case note.Checkpoint.Size > uint64(size):
			violations = append(violations, fmt.Sprintf("audit: a checkpoint of %d records was shown, now there are %d", note.Checkpoint.Size, size))
		case note.Checkpoint.Size > 0:
			seen = append(seen, note.Checkpoint)
		}
	}
	slices.SortFunc(seen, func(a, b audit.Checkpoint) int { return cmp.Compare(a.Size, b.Size) })
	for i, c := range seen {
		if root, err := tlog.TreeHash(int64(c.Size), tree); err != nil || root != c.Root {
			violations = append(violations, fmt.Sprintf("audit: the tree of %d records is not the one that a checkpoint showed (%v)", c.Size, err))
		}
		if i == 0 {
			continue
		}
		before := seen[i-1]
		proof, err := tlog.ProveTree(int64(c.Size), int64(before.Size), tree)
		if err == nil {
			err = tlog.CheckTree(proof, int64(c.Size), c.Root, int64(before.Size), before.Root)
		}
		if err != nil {
			violations = append(violations, fmt.Sprintf("audit: the checkpoint of %d records is not consistent with the one of %d: %v", c.Size, before.Size, err))
		}
	}
	return violations
}
