package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/hizo/hizo/cluster/backup"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
)

// backupCheckpoint bounds the wait for the signatures that vouch for a backup.
const backupCheckpoint = 30 * time.Second

// ErrUnvouched says that a backup could not be proven.
var ErrUnvouched = errors.New("no majority of the members signed a checkpoint over the record of the backup in time, and without that nobody could verify it")

// ErrRootMoved says that a backup was overtaken by a new root key.
var ErrRootMoved = errors.New("the root key or the operators' shares were renewed while the backup was made: make it again")

// Backup writes the state as a file to w (package backup). It takes the leader: the file counts once the record of it
// has committed, and is whole once a majority of the members has signed a checkpoint over that record. On an error
// whatever w got is nothing.
func (n *Node) Backup(ctx context.Context, name, version string, w io.Writer) (fsm.Backup, error) {
	if !n.Leading() {
		return fsm.Backup{}, &NotLeaderError{Leader: n.leaderInfo()}
	}
	term := n.raft.CurrentTerm()
	cl, deal, err := n.backupKeys()
	if err != nil {
		return fsm.Backup{}, err
	}
	e, err := n.store.Export()
	if err != nil {
		return fsm.Backup{}, err
	}
	defer e.Close()
	root, err := n.store.TreeRoot(e.Records)
	if err != nil {
		return fsm.Backup{}, err
	}
	out, err := backup.NewWriter(w, backup.Header{
		Cluster: fmt.Sprintf("%x", cl.ID), Name: cl.Name, Origin: OriginOf(cl), Created: e.Time, Version: version, Development: cl.Development,
		Index: e.At.Index, Term: e.At.Term, Records: e.Records, Root: root[:], Bytes: e.Bytes,
		Threshold: int(deal.Threshold), Operators: int(deal.Count), Deal: cl.OperatorDeal,
	}, cl.OperatorKey)
	if err != nil {
		return fsm.Backup{}, err
	}
	if _, err := io.Copy(out, untilDone{ctx, e}); err != nil {
		return fsm.Backup{}, fmt.Errorf("write the backup: %w", err)
	}
	digest, size, err := out.End()
	if err != nil {
		return fsm.Backup{}, fmt.Errorf("write the backup: %w", err)
	}
	made := fsm.Backup{Name: name, Digest: digest[:], Bytes: size, Index: e.At.Index, Records: e.Records}
	if made.MAC, err = n.backupMAC(cl, digest[:]); err != nil {
		return fsm.Backup{}, err
	}
	cmd := n.dutyCommand(fsm.KindBackup, &made, fsm.Audit{Action: fsm.ActionBackup, Resource: "cluster", Decision: fsm.Allowed})
	cmd.Term = term
	result, err := n.Propose(ctx, cmd)
	if err == nil {
		err = codeError(result)
	}
	if err != nil {
		return fsm.Backup{}, fmt.Errorf("record the backup: %w", err)
	}
	made = result.Value.(fsm.Backup)
	proof, err := n.proveBackup(ctx, made)
	if err != nil {
		return fsm.Backup{}, err
	}
	return made, out.Prove(proof)
}

// BackupKept puts into the state that a backup arrived and was read back: the schedule and the metrics go by that.
func (n *Node) BackupKept(ctx context.Context, made fsm.Backup) error {
	return n.proposeDuty(ctx, n.raft.CurrentTerm(), fsm.KindBackupKept, &fsm.BackupKept{Seq: made.Seq})
}

// untilDone stops a copy of gigabytes when whoever asked for it has gone.
type untilDone struct {
	ctx context.Context
	io.Reader
}

func (r untilDone) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}

// backupKeys is the cluster record, once it is known to say to whom backups are sealed.
func (n *Node) backupKeys() (cl fsm.Cluster, deal shares.Deal, err error) {
	cl, ok := n.store.Cluster()
	if !ok {
		return cl, deal, ErrNotInitialised
	}
	ring, err := n.Keyring()
	if err != nil {
		return cl, deal, err
	}
	if err := verifyMAC(ring, cl.MACGeneration, cl.MACDomain(), cl.MACBody(), cl.MAC); err != nil {
		return cl, deal, fmt.Errorf("the cluster record: %w", err)
	}
	if err := deal.UnmarshalBinary(cl.OperatorDeal); err != nil {
		return cl, deal, fmt.Errorf("the operators' deal in the state: %w", err)
	}
	return cl, deal, nil
}

// backupMAC is under the root key that the exported state itself names: it has to be the one from before and after.
func (n *Node) backupMAC(cl fsm.Cluster, digest []byte) (mac []byte, err error) {
	now, _ := n.store.Cluster()
	if now.RootGeneration != cl.RootGeneration || !bytes.Equal(now.OperatorDeal, cl.OperatorDeal) {
		return nil, ErrRootMoved
	}
	err = n.keys.withRoot(func(root keyring.Root, generation uint32) error {
		if generation != cl.RootGeneration {
			return ErrRootMoved
		}
		mac, err = keyring.BackupMAC(root, cl.ID, digest)
		return err
	})
	return mac, err
}

// proveBackup waits for the checkpoint over the backup's record and leads from the first record to it.
func (n *Node) proveBackup(ctx context.Context, made fsm.Backup) (backup.Proof, error) {
	p := backup.Proof{MAC: made.MAC}
	last, err := n.awaitCheckpoint(ctx, made.Seq)
	if err != nil {
		return p, err
	}
	if p.Record, err = n.store.AuditLeaf(made.Seq); err != nil {
		return p, err
	}
	path, err := n.store.ProveRecord(made.Seq, last.Size)
	if err != nil {
		return p, err
	}
	prefix, err := n.store.ProveTree(made.Records, last.Size)
	if err != nil {
		return p, err
	}
	p.Path, p.Prefix = hashes(path), hashes(prefix)
	p.Chain, err = n.chain(last)
	return p, err
}

// awaitCheckpoint returns the first checkpoint over a record, and has the duty make one at once.
func (n *Node) awaitCheckpoint(ctx context.Context, seq uint64) (fsm.Checkpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, backupCheckpoint)
	defer cancel()
	for want := n.wanted.Load(); want <= seq && !n.wanted.CompareAndSwap(want, seq+1); want = n.wanted.Load() {
	}
	for {
		changed := n.store.Changed()
		if cp, ok := n.store.CheckpointFrom(seq + 1); ok {
			return cp, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fsm.Checkpoint{}, fmt.Errorf("record %d: %w (%w)", seq, ErrUnvouched, context.Cause(ctx))
		}
	}
}

// chain is what an offline verification needs to come from the first record, or that of the last restore, to a
// checkpoint: every checkpoint behind which other members sign than before, and the records that say so.
func (n *Node) chain(to fsm.Checkpoint) ([]backup.Link, error) {
	cl, _ := n.store.Cluster()
	first := uint64(0)
	if r := cl.Restored; len(r) > 0 {
		first = r[len(r)-1].Record
	}
	var links []backup.Link
	changes := n.store.SignerChanges(first)
	if r, ok := n.store.Recovery(); ok { // who lost a majority signs with what is left, before the lost are removed
		for _, seq := range r.Records {
			if seq >= first {
				changes = append(changes, seq)
			}
		}
		slices.Sort(changes)
		changes = slices.Compact(changes)
	}
	for before := uint64(0); before < to.Size; {
		cp := to
		if len(changes) > 0 && changes[0] < to.Size {
			found, ok := n.store.CheckpointFrom(changes[0] + 1)
			if !ok {
				return nil, fmt.Errorf("no checkpoint covers record %d, a change of members", changes[0])
			}
			cp = found
		}
		link := backup.Link{Size: cp.Size, Root: cp.Root, Time: cp.Time}
		if before > 0 {
			proof, err := n.store.ProveTree(before, cp.Size)
			if err != nil {
				return nil, err
			}
			link.Extends = hashes(proof)
		}
		for len(changes) > 0 && changes[0] < cp.Size {
			leaf, err := n.proveLeaf(changes[0], cp.Size)
			if err != nil {
				return nil, err
			}
			link.Members, changes = append(link.Members, leaf), changes[1:]
		}
		link.Signatures = n.signaturesOf(cp, before)
		links, before = append(links, link), cp.Size
	}
	return links, nil
}

func (n *Node) proveLeaf(seq, size uint64) (backup.Leaf, error) {
	leaf, err := n.store.AuditLeaf(seq)
	if err != nil {
		return backup.Leaf{}, err
	}
	path, err := n.store.ProveRecord(seq, size)
	return backup.Leaf{Leaf: leaf, Seq: seq, Path: hashes(path)}, err
}

// signaturesOf names the key of each signature. Who signed is among the signers of now or of the link before.
func (n *Node) signaturesOf(cp fsm.Checkpoint, before uint64) []backup.Signature {
	who := append(slices.Clone(n.store.SignersAt(cp.Size)), n.store.SignersAt(max(before, 1))...)
	digest := noteDigest(cp)
	var out []backup.Signature
	for _, s := range cp.Signatures {
		for _, signer := range who {
			if signer.ID == s.Node && verifySignature(fsm.Member{ID: s.Node, Key: signer.Key}, digest, s.Signature) == nil {
				out = append(out, backup.Signature{Node: s.Node, Key: keyHint(signer.Key), Signature: s.Signature})
				break
			}
		}
	}
	return out
}

func hashes[T ~[]tlog.Hash](proof T) [][]byte {
	out := make([][]byte, len(proof))
	for i, h := range proof {
		out[i] = h[:]
	}
	return out
}
