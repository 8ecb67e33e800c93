package audit

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// CheckProof checks that a record is in the log that a checkpoint states, and that a majority of the
// members of a verified state signed the checkpoint.
func CheckProof(leaf []byte, path [][]byte, checkpoint string, known State) error {
	r, err := ParseLeaf(leaf)
	if err != nil {
		return err
	}
	n, err := ParseNote(checkpoint)
	if err != nil {
		return err
	}
	if n.Origin != known.Origin() {
		return fmt.Errorf("the checkpoint is of another log: %s", n.Origin)
	}
	if err := n.CheckSignatures(known.Signers, nil); err != nil {
		return fmt.Errorf("checkpoint over %d records: %w", n.Size, err)
	}
	proof := make(tlog.RecordProof, len(path))
	for i, h := range path {
		if len(h) != tlog.HashSize {
			return fmt.Errorf("the proof holds a hash of %d bytes", len(h))
		}
		copy(proof[i][:], h)
	}
	if err := tlog.CheckRecord(proof, int64(n.Size), n.Root, int64(r.Seq), LeafHash(leaf)); err != nil {
		return fmt.Errorf("record %d is not in the log of the checkpoint over %d records: %w", r.Seq, n.Size, err)
	}
	return nil
}
