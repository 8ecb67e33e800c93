package audit

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/hizo/hizo/cluster/backup"
)

// BackupReport is what a verified backup is.
type BackupReport struct {
	Header backup.Header
	Digest [32]byte
	Seq    uint64 // the audit record of it
	Time   int64  // of that record, cluster time in ms
	State  State  // of the log, as of the checkpoint that covers the record
}

// VerifyBackup reads a backup to its end and checks, without a cluster and without any key, that a majority of the
// members of the cluster that is trusted signed an audit log in which the cluster says that it wrote this file. What it
// cannot check is whether there is a newer one.
func VerifyBackup(r io.Reader, trust Trust) (BackupReport, error) {
	file, err := backup.NewReader(r)
	if err != nil {
		return BackupReport{}, err
	}
	h := file.Header()
	if h.Cluster != trust.Cluster {
		return BackupReport{}, fmt.Errorf("the backup is of cluster %s, trusted is %s", h.Cluster, trust.Cluster)
	}
	if err := file.Skip(); err != nil {
		return BackupReport{}, err
	}
	proof, digest, err := file.Proof()
	if err != nil {
		return BackupReport{}, err
	}
	report := BackupReport{Header: h, Digest: digest}
	if err := report.check(proof, trust); err != nil {
		return BackupReport{}, fmt.Errorf("the backup is not genuine: %w", err)
	}
	return report, nil
}

func (b *BackupReport) check(p backup.Proof, trust Trust) error {
	state, root, err := followChain(p.Chain, trust)
	if err != nil {
		return err
	}
	b.State = state
	if origin := state.Origin(); b.Header.Origin != origin {
		return fmt.Errorf("it says that its log is %s, and is proven by %s", b.Header.Origin, origin)
	}
	record, err := ParseLeaf(p.Record)
	if err != nil {
		return err
	}
	if err := checkLeaf(p.Record, record.Seq, p.Path, state.Size, root); err != nil {
		return fmt.Errorf("the record of it: %w", err)
	}
	b.Seq, b.Time = record.Seq, record.Time
	says := fmt.Sprintf(" sha256=%x mac=%s ", b.Digest, hex.EncodeToString(p.MAC))
	if record.Action != actionBackup || record.Outcome != outcomeOK || !strings.Contains(record.Detail, says) {
		return fmt.Errorf("record %d of the audit log is not about this file", record.Seq)
	}
	// The tree of the state is a prefix of the one that was signed, so a restore can be held against any older checkpoint.
	if len(b.Header.Root) != tlog.HashSize || b.Header.Records == 0 || b.Header.Records > record.Seq {
		return errors.New("its header states no audit log of before it was made")
	}
	proof, err := treeHashes(p.Prefix)
	if err != nil {
		return err
	}
	if err := tlog.CheckTree(tlog.TreeProof(proof), int64(state.Size), root, int64(b.Header.Records), tlog.Hash(b.Header.Root)); err != nil {
		return fmt.Errorf("its audit log is not a part of the one that the members signed: %w", err)
	}
	return nil
}

// followChain goes from the trusted record to the last checkpoint of a chain. Who signs the next one follows from the
// records up to the one before, as in Verify; but only of those that a chain shows. To leave one out takes the
// signatures of a majority that was in force once, which could as well have written another log from there on.
func followChain(chain []backup.Link, trust Trust) (State, tlog.Hash, error) {
	state := trust.Begin()
	live := Signers{}
	var root tlog.Hash
	fail := func(i int, format string, args ...any) (State, tlog.Hash, error) {
		return State{}, root, fmt.Errorf("checkpoint %d of its proof: "+format, append([]any{i + 1}, args...)...)
	}
	next := uint64(0)
	for i, link := range chain {
		if len(link.Root) != tlog.HashSize || link.Size <= state.Size || link.Size > 1<<62 {
			return fail(i, "it does not extend the one before")
		}
		now := tlog.Hash(link.Root)
		if i > 0 {
			proof, err := treeHashes(link.Extends)
			if err != nil {
				return fail(i, "%w", err)
			}
			if err := tlog.CheckTree(tlog.TreeProof(proof), int64(link.Size), now, int64(state.Size), root); err != nil {
				return fail(i, "it does not extend the one before: %w", err)
			}
		} else if len(link.Extends) > 0 || len(link.Members) == 0 {
			return fail(i, "it does not begin with a record that is trusted")
		}
		for j, m := range link.Members {
			record, err := ParseLeaf(m.Leaf)
			if err != nil {
				return fail(i, "%w", err)
			}
			if record.Seq != m.Seq || record.Seq < next {
				return fail(i, "its records are out of order")
			}
			next = record.Seq + 1
			if err := checkLeaf(m.Leaf, record.Seq, m.Path, link.Size, now); err != nil {
				return fail(i, "%w", err)
			}
			if err := state.follow(record, LeafHash(m.Leaf), live); err != nil {
				return fail(i, "record %d: %w", record.Seq, err)
			}
			if i == 0 && j == 0 && record.Action != actionGenesis && record.Action != actionRestore {
				return fail(i, "it does not begin with a record that is trusted")
			}
		}
		n := Note{Checkpoint: Checkpoint{Origin: state.Origin(), Size: link.Size, Root: now, Time: link.Time}}
		for _, s := range link.Signatures {
			sig := Signature{Node: s.Node, Signature: s.Signature}
			if len(s.Key) != len(sig.Key) {
				return fail(i, "a signature that names no key")
			}
			copy(sig.Key[:], s.Key)
			n.Signatures = append(n.Signatures, sig)
		}
		if len(n.Signatures) > maxSignatures {
			return fail(i, "more signatures than any checkpoint has")
		}
		if err := state.vouched(n, live); err != nil {
			return fail(i, "%w", err)
		}
		state.Size, state.Time, state.Signers, root = link.Size, link.Time, maps.Clone(live), now
	}
	if len(chain) == 0 {
		return State{}, root, errors.New("its proof holds no checkpoint")
	}
	return state, root, nil
}

// follow takes in a record that changes who signs.
func (s *State) follow(r Record, hash tlog.Hash, live Signers) error {
	if r.Outcome != outcomeOK || r.Detail == detailAgain {
		return nil
	}
	switch r.Action {
	case actionGenesis, actionApprove, actionRemove, actionRestore:
	case actionRecover:
		return s.recover(r, hash, live)
	default:
		return nil
	}
	cluster, node, key, restore, err := parseSigner(r.Action, r.Detail)
	if err != nil || cluster != s.Cluster {
		return errors.New("a record of membership without a readable member")
	}
	switch r.Action {
	case actionRemove:
		delete(live, node)
		if slices.Contains(s.Restores, hash) {
			s.Signers, s.removal = maps.Clone(live), nil // trusted by its fingerprint
		} else {
			s.removal = &hash
		}
		return nil
	case actionGenesis:
		if r.Seq != 0 {
			return errors.New("a second genesis")
		}
		if hash != s.Genesis {
			return errors.New("the first record is not the trusted one")
		}
	case actionRestore:
		if !slices.Contains(s.Restores, hash) {
			return fmt.Errorf("it says that the cluster was restored from a backup. Nothing in the log before can vouch for that: "+
				"if it was, trust it by the trust file that hizod restore printed, which ends in %s", hex.EncodeToString(hash[:]))
		}
		clear(live)
		s.Restore = restore
	}
	live[node] = key
	if r.Action != actionApprove {
		s.Signers = maps.Clone(live) // trusted by its fingerprint
	}
	return nil
}

// vouched demands the signatures that carry this state on. Where members were removed since, so that no majority of
// those who could vouch for it is left, only a trust file can.
func (s *State) vouched(n Note, live Signers) error {
	err := n.CheckSignatures(s.Signers, live)
	if err == nil || s.removal == nil || n.CheckSignatures(live, nil) != nil {
		s.removal = nil
		return err
	}
	left := 0
	for node, key := range s.Signers {
		if bytes.Equal(live[node], key) {
			left++
		}
	}
	if left*2 > len(s.Signers) {
		return err
	}
	return fmt.Errorf("%w. Members were removed until too few were left to sign for that (docs/backup.md): if it is so, write %s behind "+
		"the last word of the trust file's line", err, hex.EncodeToString(s.removal[:]))
}

// recover takes in that a majority of the signers was given up. What they would have to vouch for, only a trust file can.
func (s *State) recover(r Record, hash tlog.Hash, live Signers) error {
	if !slices.Contains(s.Restores, hash) {
		return fmt.Errorf("it says that most nodes were lost for good and the cluster went on without them (%s). Those that are left cannot vouch "+
			"for that: if it is so (docs/recovery.md), write %s behind the last word of the trust file's line", r.Detail, hex.EncodeToString(hash[:]))
	}
	first, _, _ := strings.Cut(r.Detail, " ")
	names, ok := strings.CutPrefix(first, "gave_up=")
	if !ok || names == "" {
		return ErrLeaf
	}
	for node := range strings.SplitSeq(names, ",") {
		delete(live, node)
	}
	if len(live) == 0 {
		return ErrLeaf
	}
	s.Signers = maps.Clone(live) // trusted by its fingerprint
	return nil
}

// parseSigner reads "cluster=HEX node=ID key=BASE64", and of a restore the origin of the log that begins with it.
func parseSigner(action, detail string) (cluster, node string, key []byte, restore string, err error) {
	if action != actionRestore {
		cluster, node, key, err = parseMember(detail)
		return cluster, node, key, "", err
	}
	fields := strings.SplitN(detail, " ", 5)
	if len(fields) != 5 {
		return "", "", nil, "", ErrLeaf
	}
	if cluster, node, key, err = parseMember(strings.Join(fields[:3], " ")); err != nil {
		return "", "", nil, "", err
	}
	restore, ok := strings.CutPrefix(fields[3], "origin="+Origin(cluster)+"/")
	if !ok || restore == "" || strings.ContainsAny(restore, "/\n") {
		return "", "", nil, "", ErrLeaf
	}
	return cluster, node, key, restore, nil
}

// Origin of the checkpoints that follow.
func (s State) Origin() string {
	if s.Restore != "" {
		return Origin(s.Cluster) + "/" + s.Restore
	}
	return Origin(s.Cluster)
}

func checkLeaf(leaf []byte, seq uint64, path [][]byte, size uint64, root tlog.Hash) error {
	proof, err := treeHashes(path)
	if err != nil {
		return err
	}
	if seq >= size {
		return fmt.Errorf("record %d stands behind a checkpoint of %d", seq, size)
	}
	if err := tlog.CheckRecord(tlog.RecordProof(proof), int64(size), root, int64(seq), LeafHash(leaf)); err != nil {
		return fmt.Errorf("record %d is not in the log of the checkpoint over %d records: %w", seq, size, err)
	}
	return nil
}

func treeHashes(list [][]byte) ([]tlog.Hash, error) {
	if len(list) > 128 {
		return nil, errors.New("a proof is longer than any")
	}
	out := make([]tlog.Hash, len(list))
	for i, h := range list {
		if len(h) != tlog.HashSize {
			return nil, fmt.Errorf("a proof holds a hash of %d bytes", len(h))
		}
		copy(out[i][:], h)
	}
	return out, nil
}

// ParseCheckpoint reads a signed checkpoint that somebody kept, in whatever white space it was kept.
func ParseCheckpoint(text []byte) (Note, error) {
	return ParseNote(string(append(bytes.TrimSpace(text), '\n')))
}
