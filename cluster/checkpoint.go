package cluster

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/hizo/hizo/cluster/peerpb"
	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/fsm"
)

// OriginOf names the audit log of a cluster in its checkpoints. After a restore from a backup it is another log, which
// may say something else about the same records: its first own record names the old one.
func OriginOf(cl fsm.Cluster) string {
	if n := len(cl.Restored); n > 0 {
		return fmt.Sprintf("hizo/%x/%x", cl.ID, cl.Restored[n-1].ID)
	}
	return fmt.Sprintf("hizo/%x", cl.ID)
}

func noteDigest(cp fsm.Checkpoint) []byte {
	digest := sha256.Sum256(cp.NoteText())
	return digest[:]
}

// keyHint is how signed notes name a key (C2SP signed-note).
func keyHint(pkix []byte) []byte {
	sum := sha256.Sum256(pkix)
	return sum[:4]
}

// signedHead is the last checkpoint that this node signed. It is kept outside state and snapshots, in a
// file that only this node's HSM makes, and written before each signature: whoever rolls the state back,
// on this node or on the leader, gets no signature for another history. A crash between file and
// signature leaves a head that nobody saw, which is as good.
type signedHead struct {
	path string
	seal seal.Seal
	mu   sync.Mutex
	read bool
	last head
}

type head struct {
	Origin string
	Size   uint64
	Root   []byte
}

const headName = "checkpoint head"

func (h *signedHead) load(ctx context.Context) error {
	if h.read {
		return nil
	}
	b, err := seal.ReadFile(ctx, h.seal, h.path, headName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("the last signed head: %w", err)
	default:
		if err := json.Unmarshal(b, &h.last); err != nil {
			return fmt.Errorf("the last signed head: %w", err)
		}
	}
	h.read = true
	return nil
}

func (h *signedHead) store(ctx context.Context, next head) error {
	b, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := seal.WriteFile(ctx, h.seal, h.path, headName, b); err != nil {
		h.read = false // what the file holds is not known
		return err
	}
	h.last = next
	return nil
}

// signCheckpoint signs if the statement is what this node's own tree says and extends what this node
// signed last. The consistency proof (RFC 6962, section 2.1.2) is made from this node's own leaves and
// checked against the remembered root.
func (n *Node) signCheckpoint(ctx context.Context, cp fsm.Checkpoint) ([]byte, error) {
	cl, ok := n.store.Cluster()
	if !ok {
		return nil, ErrNotInitialised
	}
	if cp.Origin != OriginOf(cl) || cp.Size == 0 || len(cp.Root) != tlog.HashSize {
		return nil, fmt.Errorf("%w: it is not of this cluster", ErrCheckpoint)
	}
	if err := n.waitAudit(ctx, cp.Size); err != nil {
		return nil, err
	}
	if abs(cp.Time-n.store.Time()) > fsm.MaxClockStep.Milliseconds() {
		return nil, fmt.Errorf("%w: its time is not now", ErrCheckpoint)
	}
	root, err := n.store.TreeRoot(cp.Size)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(root[:], cp.Root) {
		return nil, fmt.Errorf("%w: this node's tree of %d records has another root", ErrCheckpoint, cp.Size)
	}
	h := n.heads
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.load(ctx); err != nil {
		return nil, err
	}
	if err := n.forgotten(cl, h.last); err != nil {
		return nil, err
	}
	if h.last.Size > 0 {
		if err := n.extends(h.last, cp); err != nil {
			return nil, err
		}
	}
	if err := h.store(ctx, head{Origin: cp.Origin, Size: cp.Size, Root: cp.Root}); err != nil {
		return nil, err
	}
	digest := sha256.Sum256(cp.NoteText())
	signature, err := n.cfg.Seal.Identity().Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign the checkpoint: %w", err)
	}
	return signature, nil
}

// forgotten looks in the state for signatures of this node beyond what its head file remembers: the file was
// deleted, or put back from an old copy, and could let another history be signed. Checkpoints from before this
// node (re)joined do not count: it had to give its files up to be let in again.
func (n *Node) forgotten(cl fsm.Cluster, last head) error {
	var me fsm.Member
	for _, cp := range n.store.Checkpoints(last.Size + 1) {
		i := slices.IndexFunc(cp.Signatures, func(s fsm.Signature) bool { return s.Node == n.cfg.ID })
		if i < 0 || cp.Origin != OriginOf(cl) {
			continue
		}
		if me.ID == "" {
			var ok bool
			if me, ok = n.store.Member(n.cfg.ID); !ok {
				return ErrUnknownMember
			}
		}
		digest := sha256.Sum256(cp.NoteText())
		if verifySignature(me, digest[:], cp.Signatures[i].Signature) != nil {
			continue // not this node's, whatever the record says
		}
		joined, err := n.auditSeqOf(me.Joined)
		if err != nil {
			return err
		}
		if cp.Size > joined {
			return fmt.Errorf("%w: this node signed %d records, and the file %s remembers %d: it was deleted or is an old copy; "+
				"remove this node from the cluster and join it with an empty data directory (one node alone: see docs/running.md)", ErrCheckpoint, cp.Size, n.heads.path, last.Size)
		}
	}
	return nil
}

// auditSeqOf is the number of audit records from before a Raft index.
func (n *Node) auditSeqOf(index uint64) (uint64, error) {
	var failed error
	seq := sort.Search(int(n.store.AuditSize()), func(i int) bool {
		for r, err := range n.store.AuditRecords(uint64(i), uint64(i)+1) {
			if err != nil {
				failed = err
			}
			return r.Index >= index
		}
		return true
	})
	return uint64(seq), failed
}

func (n *Node) extends(last head, cp fsm.Checkpoint) error {
	if last.Origin != cp.Origin {
		return fmt.Errorf("%w: this node signed for %q before", ErrCheckpoint, last.Origin)
	}
	if cp.Size < last.Size {
		return fmt.Errorf("%w: it has %d records, this node has signed %d", ErrCheckpoint, cp.Size, last.Size)
	}
	if cp.Size == last.Size {
		if !bytes.Equal(cp.Root, last.Root) {
			return fmt.Errorf("%w: this node has signed another root of %d records", ErrCheckpoint, cp.Size)
		}
		return nil
	}
	proof, err := n.store.ProveTree(last.Size, cp.Size)
	if err != nil {
		return err
	}
	if err := tlog.CheckTree(proof, int64(cp.Size), tlog.Hash(cp.Root), int64(last.Size), tlog.Hash(last.Root)); err != nil {
		return fmt.Errorf("%w: it does not extend what this node has signed: %w", ErrCheckpoint, err)
	}
	return nil
}

func (n *Node) waitAudit(ctx context.Context, size uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for {
		changed := n.store.Changed()
		if n.store.AuditSize() >= size {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: this node has not applied %d records yet", ErrCheckpoint, size)
		}
	}
}

// checkpointDuty has the members sign the audit tree: every CheckpointEvery while it grows, and at once
// when the signers change, so that an old set of signers vouches for the record that changes it. A checkpoint
// commits when a majority of those who were signers at the last one signed, which is what carries an offline
// verification on, and a majority of those who are signers at this one.
func (n *Node) checkpointDuty(ctx context.Context, term uint64) {
	var last time.Time
	n.reconcile(ctx, func() error {
		cl, ok := n.store.Cluster()
		if !ok {
			return nil
		}
		size := n.store.AuditSize()
		latest, ok := n.store.LatestCheckpoint()
		if size == 0 || ok && size <= latest.Size {
			return nil
		}
		signers := n.store.SignersAt(size)
		asked := n.wanted.Load()
		due := !ok || latest.Size < asked && size >= asked || time.Since(last) >= n.cfg.CheckpointEvery || !sameSigners(latest, signers) && time.Since(last) >= time.Second
		if !due {
			return nil
		}
		last = time.Now()
		root, err := n.store.TreeRoot(size)
		if err != nil {
			return err
		}
		cp := fsm.Checkpoint{Origin: OriginOf(cl), Size: size, Root: root[:], Time: n.store.Time()}
		before := n.store.SignersAt(max(latest.Size, 1)) // the first log record names the first signer
		if ok && latest.Origin != cp.Origin {
			before = signers // a restore began another log: those who signed the old one have no part in it
		}
		if cp.Signatures, err = n.collectSignatures(ctx, cp, before, signers); err != nil {
			return err
		}
		return n.proposeDuty(ctx, term, fsm.KindCheckpoint, &cp)
	})
}

func sameSigners(cp fsm.Checkpoint, signers []fsm.Signer) bool {
	for _, who := range signers {
		if !slices.ContainsFunc(cp.Signatures, func(s fsm.Signature) bool { return s.Node == who.ID }) {
			return false
		}
	}
	return len(cp.Signatures) == len(signers)
}

func sameSigner(a fsm.Signer) func(fsm.Signer) bool {
	return func(b fsm.Signer) bool { return a.ID == b.ID && bytes.Equal(a.Key, b.Key) }
}

// collectSignatures asks the signers of before and now who are members still, and checks what they answer. A majority
// of both has to sign. Of before only as far as it can: if most of them were removed since, nobody can carry an
// offline verification over that gap, and the log gets signatures all the same.
func (n *Node) collectSignatures(ctx context.Context, cp fsm.Checkpoint, before, now []fsm.Signer) ([]fsm.Signature, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	digest := sha256.Sum256(cp.NoteText())
	ask := slices.Clone(now)
	left := 0 // of before
	for _, who := range before {
		if m, ok := n.store.Member(who.ID); ok && bytes.Equal(m.Key, who.Key) {
			left++
			if !slices.ContainsFunc(ask, sameSigner(who)) {
				ask = append(ask, who)
			}
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var list []fsm.Signature
	var errs []error
	have := make(map[string]int)
	for _, who := range ask {
		wg.Go(func() {
			m := fsm.Member{ID: who.ID, Key: who.Key}
			signature, err := n.askSignature(ctx, m, cp)
			if err == nil {
				err = verifySignature(m, digest[:], signature)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", who.ID, err))
				return
			}
			list = append(list, fsm.Signature{Node: who.ID, Signature: signature})
			if slices.ContainsFunc(before, sameSigner(who)) {
				have["before"]++
			}
			if slices.ContainsFunc(now, sameSigner(who)) {
				have["now"]++
			}
		})
	}
	wg.Wait()
	if have["now"]*2 <= len(now) {
		return nil, fmt.Errorf("checkpoint of %d records: %d of %d members signed: %w", cp.Size, have["now"], len(now), errors.Join(errs...))
	}
	if have["before"]*2 <= len(before) {
		if left*2 > len(before) {
			return nil, fmt.Errorf("checkpoint of %d records: %d of the %d members who sign for the change of members signed: %w",
				cp.Size, have["before"], len(before), errors.Join(errs...))
		}
		n.log.Warn("most of those who signed the last checkpoint are members no more: offline verification cannot pass this one from before",
			"records", cp.Size, "signers", len(before), "left", left)
	}
	slices.SortFunc(list, func(a, b fsm.Signature) int { return strings.Compare(a.Node, b.Node) })
	return list, nil
}

func (n *Node) askSignature(ctx context.Context, m fsm.Member, cp fsm.Checkpoint) ([]byte, error) {
	if m.ID == n.cfg.ID {
		return n.signCheckpoint(ctx, cp)
	}
	reply, err := n.peers.of(m.ID).SignCheckpoint(ctx, &peerpb.SignCheckpointRequest{
		Origin: cp.Origin, Size: cp.Size, Root: cp.Root, Time: cp.Time,
	})
	if err != nil {
		return nil, peerError(err)
	}
	return reply.Signature, nil
}
