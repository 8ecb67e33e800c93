package cluster

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/hizo/hizo/cluster/peerpb"
	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/secret"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
)

// Dealing gives the voters shares that unseal them together:
//
//	propose (its index is the epoch) → every member stores its share under a fresh HSM key, reads it back
//	and proves it → commit → older share keys are destroyed once every prover has applied the commit.
//
// Whoever stops in between leaves a deal that the next leader aborts; the committed one before it goes on
// working, because nothing of it is destroyed before the new one is proven and committed.
const (
	dealWait  = 10 * time.Second // for the proofs
	dealAgain = 30 * time.Second // at most, after deals that did not come to a commit; at first one second
	minNodes  = 3                // no node set before that many voters

	shareEvery = 2 * time.Second // how often members are asked whether they still have their shares
)

// wantedSet says who should hold shares. t is n/2+1, the Raft quorum: where Raft has a quorum, shares have
// one too, and no fewer nodes than Raft's majority can open anything.
func (n *Node) wantedSet(cl fsm.Cluster, members []fsm.Member) (ids []string, threshold int) {
	voters := n.voters()
	for _, m := range members {
		if m.NonVoter { // its vote goes once the others hold shares without it
			voters = without(voters, m.ID)
			continue
		}
		if m.Approved && !m.Quarantined && slices.Contains(voters, m.ID) {
			ids = append(ids, m.ID)
		}
	}
	slices.Sort(ids)
	switch {
	case cl.Development && len(ids) >= 1, // marked for good
		len(ids) >= minNodes,
		len(ids) == minNodes-1 && cl.NodeEpoch != 0: // shrunk: both nodes together
		return ids, len(voters)/2 + 1
	}
	return nil, 0
}

// dealDuty deals whenever the committed node set is not the one wanted.
func (n *Node) dealDuty(ctx context.Context, term uint64) {
	var failed, looked time.Time
	var pause time.Duration
	n.reconcile(ctx, func() error {
		cl, ok := n.store.Cluster()
		if !ok || n.keys.sealed() {
			return nil
		}
		if cl.PendingEpoch != 0 { // no deal outlives the step that made it, so this is another leader's
			if err := n.proposeDuty(ctx, term, fsm.KindDealAbort, &fsm.DealAbort{Epoch: cl.PendingEpoch}); err != nil {
				return fmt.Errorf("abort deal %d: %w", cl.PendingEpoch, err)
			}
			n.log.Info("aborted a deal that had not committed", "epoch", cl.PendingEpoch)
			return nil
		}
		if cl.NodeEpoch != 0 && cl.RetiredBelow < cl.NodeEpoch {
			if err := n.retire(ctx, term, cl); err != nil {
				n.log.Info("older share keys stay for now", "epoch", cl.NodeEpoch, "error", err)
			}
		}
		members := n.store.Members()
		for _, id := range n.voters() {
			if _, member := n.store.Member(id); !member {
				return nil // a removal is not through
			}
		}
		ids, threshold := n.wantedSet(cl, members)
		if len(ids) == 0 && !awaited(members, n.voters()) && n.rotationDue(cl, members, 0) && time.Since(failed) >= pause {
			err := n.rotateAlone(ctx, term, cl)
			if pause = min(2*pause+time.Second, dealAgain); err == nil {
				pause = 0
			}
			failed = time.Now()
			return err
		}
		if len(ids) == 0 || threshold > len(ids) || time.Since(failed) < pause {
			return nil
		}
		rotate := n.rotationDue(cl, members, threshold)
		if !rotate && !n.dealNeeded(cl, ids, threshold) && !n.asked(fsm.RotateNodeShares) {
			if time.Since(looked) < shareEvery {
				return nil
			}
			looked = time.Now()
			lacks := n.lackingShare(ctx, cl, ids)
			if len(lacks) == 0 {
				return nil
			}
			n.log.Warn("members have no share of the deal in force: deals anew", "epoch", cl.NodeEpoch, "members", lacks)
		}
		err := n.deal(ctx, term, cl, ids, threshold, rotate)
		if pause = min(2*pause+time.Second, dealAgain); err == nil {
			pause = 0
		}
		failed = time.Now()
		return err
	})
}

// awaited says whether a member is on its way to a vote, as a survivor of a lost quorum is: the root rotates with the deal
// that it takes part in. Rotated without it, it would have the keys from nobody, and operators would have to unseal it.
func awaited(members []fsm.Member, voters []string) bool {
	return slices.ContainsFunc(members, func(m fsm.Member) bool { return trusted(m) && !m.NonVoter && !slices.Contains(voters, m.ID) })
}

// dealNeeded compares the committed deal with the wanted set.
func (n *Node) dealNeeded(cl fsm.Cluster, ids []string, threshold int) bool {
	deal, ok := n.store.Deal(cl.NodeEpoch)
	return cl.NodeEpoch == 0 || !ok || deal.Threshold != threshold || deal.RootGeneration != cl.RootGeneration ||
		!slices.Equal(sorted(deal.Members), ids)
}

// lackingShare asks the members which shares they can open, and returns those that answer and have none of the
// deal in force: they had not proven it and can be reached again, or they have lost it since. That a member once
// proved its share says nothing about its disk and HSM today.
func (n *Node) lackingShare(ctx context.Context, cl fsm.Cluster, ids []string) []string {
	deal, _ := n.store.Deal(cl.NodeEpoch)
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var lacks []string
	for _, id := range ids {
		wg.Go(func() {
			var held []uint64
			if id == n.cfg.ID {
				var err error
				if held, err = n.heldShares(ctx); err != nil {
					return
				}
			} else {
				status, err := n.peers.of(id).Status(ctx, &peerpb.StatusRequest{})
				// One that is behind may not have got to the deal yet.
				if err != nil || status.Applied < deal.Changed {
					return
				}
				held = status.ShareEpochs
			}
			if !slices.Contains(held, cl.NodeEpoch) {
				mu.Lock()
				defer mu.Unlock()
				lacks = append(lacks, id)
			}
		})
	}
	wg.Wait()
	return sorted(lacks)
}

// heldShares lists the deals of which this node can open its share.
func (n *Node) heldShares(ctx context.Context) ([]uint64, error) {
	epochs, err := n.shares.epochs()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(epochs, func(epoch uint64) bool {
		stored, ok := n.store.Deal(epoch)
		if !ok {
			return false // not known here yet, or no more
		}
		var deal shares.Deal
		return deal.UnmarshalBinary(stored.Body) == nil && !n.shares.opens(ctx, epoch, deal)
	}), nil
}

func sorted(ids []string) []string {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return ids
}

func (n *Node) proposeDuty(ctx context.Context, term uint64, kind fsm.Kind, body any, audits ...fsm.Audit) error {
	cmd := n.dutyCommand(kind, body, audits...)
	cmd.Term = term
	result, err := n.Propose(ctx, cmd)
	if err != nil {
		return err
	}
	return codeError(result)
}

// deal makes one deal from proposal to commit.
func (n *Node) deal(ctx context.Context, term uint64, cl fsm.Cluster, ids []string, threshold int, rotate bool) error {
	for _, id := range ids {
		m, ok := n.store.Member(id)
		if !ok {
			return ErrUnknownMember
		}
		if err := n.checkMember(m); err != nil {
			return err
		}
	}
	nodeSecret, deal, list, err := shares.Split(cl.ID, shares.NodeSet, threshold, len(ids))
	if err != nil {
		return err
	}
	defer func() {
		nodeSecret.Wipe()
		for _, s := range list {
			s.Wipe()
		}
	}()
	body, err := deal.MarshalBinary()
	if err != nil {
		return err
	}
	var rotation *rotation
	proposal := fsm.Deal{Body: body, Members: ids, Threshold: threshold}
	if rotate {
		if rotation, err = n.prepareRotation(cl); err != nil {
			return err
		}
		defer rotation.wipe()
		proposal.RootGeneration = rotation.generation
		proposal.Root, err = wrapRoot(cl.ID, rotation.root, rotation.generation, deal.ID, nodeSecret)
	} else {
		err = n.keys.withRoot(func(root keyring.Root, generation uint32) error {
			proposal.RootGeneration = generation
			proposal.Root, err = wrapRoot(cl.ID, root, generation, deal.ID, nodeSecret)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("wrap the root key: %w", err)
	}
	cmd := n.dutyCommand(fsm.KindDealPropose, &fsm.DealPropose{Deal: proposal})
	cmd.Term = term
	result, err := n.Propose(ctx, cmd)
	if err == nil {
		err = codeError(result)
	}
	if err != nil {
		return fmt.Errorf("propose a deal: %w", err)
	}
	epoch := result.Index
	provers, why := n.giveShares(ctx, cl, epoch, deal, ids, list)
	if need := provesNeeded(len(ids), threshold); len(provers) < need {
		abort := n.proposeDuty(ctx, term, fsm.KindDealAbort, &fsm.DealAbort{Epoch: epoch})
		return fmt.Errorf("deal %d: %d of %d shares proven, %d needed: %w", epoch, len(provers), len(ids), need, errors.Join(why, abort))
	}
	if rotation != nil {
		if err := n.commitRotation(ctx, term, cl, rotation, epoch, provers); err != nil {
			return fmt.Errorf("rotate the root key with deal %d: %w", epoch, err)
		}
	} else if err := n.proposeDuty(ctx, term, fsm.KindDealCommit, &fsm.DealCommit{Epoch: epoch, Provers: provers}); err != nil {
		return fmt.Errorf("commit deal %d: %w", epoch, err)
	}
	n.log.Info("dealt node shares", "epoch", epoch, "members", ids, "threshold", threshold, "provers", provers)
	return nil
}

// provesNeeded: a quorum of the new set, and one more than the threshold where there are that many, so
// that one lost node does not leave fewer shares than it takes.
func provesNeeded(n, threshold int) int { return max(n/2+1, min(n, threshold+1)) }

func wrapRoot(cluster [16]byte, root keyring.Root, generation uint32, deal shares.DealID, nodeSecret secret.Bytes) ([]byte, error) {
	return keyring.WrapForNodes(nodeSecret, root, keyring.Context{Cluster: cluster, Generation: generation, Deal: deal})
}

// giveShares hands every member its share and returns, in order, those that proved that they can read it.
func (n *Node) giveShares(ctx context.Context, cl fsm.Cluster, epoch uint64, deal shares.Deal, ids []string, list []shares.Share) (provers []string, why error) {
	ctx, cancel := context.WithTimeout(ctx, dealWait)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			err := n.giveShare(ctx, cl, epoch, deal, id, list[i])
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				why = errors.Join(why, fmt.Errorf("%s: %w", id, err))
				return
			}
			provers = append(provers, id)
		})
	}
	wg.Wait()
	slices.Sort(provers)
	return provers, why
}

func dealInfo(cluster [16]byte, epoch uint64, node string) []byte {
	b := aad.AppendString(nil, "hizo/share/deal/v1")
	b = aad.AppendBytes(b, cluster[:])
	b = aad.AppendUint64(b, epoch)
	return aad.AppendString(b, node)
}

func (n *Node) giveShare(ctx context.Context, cl fsm.Cluster, epoch uint64, deal shares.Deal, id string, share shares.Share) error {
	nonce := make([]byte, 32)
	rand.Read(nonce)
	if id == n.cfg.ID {
		if err := n.rememberMembers(ctx); err != nil {
			return err
		}
		back, err := n.shares.put(ctx, epoch, deal, share)
		if err != nil {
			return err
		}
		defer back.Wipe()
		return shares.VerifyProof(share, nonce, epoch, id, shares.Prove(back, nonce, epoch, id))
	}
	peer := n.peers.of(id)
	call, err := peer.CallKey(ctx, &peerpb.CallKeyRequest{})
	if err != nil {
		return peerError(err)
	}
	plain, err := share.MarshalBinary()
	if err != nil {
		return err
	}
	defer func() { clear(plain) }()
	known, err := n.verifiedMembers(cl)
	if err != nil {
		return err
	}
	list, err := json.Marshal(known)
	if err != nil {
		return err
	}
	// shares.Share has one length; what follows it says whom a sealed node may give it to.
	plain = append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(plain)+len(list)), uint16(len(plain))), plain...)
	plain = append(plain, list...)
	sealed, err := hybrid.Seal(call.PublicKey, dealInfo(cl.ID, epoch, id), plain)
	if err != nil {
		return err
	}
	reply, err := peer.StoreShare(ctx, &peerpb.StoreShareRequest{Epoch: epoch, CallKey: call.Id, Sealed: sealed, Nonce: nonce})
	if err != nil {
		return peerError(err)
	}
	return shares.VerifyProof(share, nonce, epoch, id, reply.Proof)
}

// storeShare is a member's end: the share has to match the commitment in the replicated proposal, so what
// a member stores is what the log says was dealt to it, whoever sends it.
func (n *Node) storeShare(ctx context.Context, from fsm.Member, req *peerpb.StoreShareRequest) ([]byte, error) {
	if from.ID != n.leaderInfo().ID || !trusted(from) {
		return nil, fmt.Errorf("%s does not lead: %w", from.ID, ErrNotAllowed)
	}
	if len(req.Nonce) != 32 {
		return nil, ErrNotAllowed
	}
	if err := n.store.WaitApplied(ctx, req.Epoch); err != nil {
		return nil, err
	}
	cl, _ := n.store.Cluster()
	stored, ok := n.store.Deal(req.Epoch)
	if !ok || cl.PendingEpoch != req.Epoch {
		return nil, fmt.Errorf("epoch %d is not being dealt: %w", req.Epoch, ErrNotAllowed)
	}
	var deal shares.Deal
	if err := deal.UnmarshalBinary(stored.Body); err != nil {
		return nil, err
	}
	key, err := n.calls.take(req.CallKey, from.ID)
	if err != nil {
		return nil, err
	}
	plain, err := key.Open(req.Sealed, dealInfo(cl.ID, req.Epoch, n.cfg.ID))
	if err != nil {
		return nil, err
	}
	defer plain.Wipe()
	share, known, err := parseDealt(plain.Reveal())
	if err != nil {
		return nil, err
	}
	defer share.Wipe()
	if err := deal.Check(share); err != nil {
		return nil, err
	}
	if i := int(share.Index) - 1; i >= len(stored.Members) || stored.Members[i] != n.cfg.ID {
		return nil, fmt.Errorf("share %d is another member's: %w", share.Index, ErrNotAllowed)
	}
	// Whoever proves a share also knows, when it starts sealed, to whom it may give it.
	if err := n.rememberMembers(ctx); errors.Is(err, ErrSealed) {
		err = n.known.dealt(ctx, cl, req.Epoch, known)
		if err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	back, err := n.shares.put(ctx, req.Epoch, deal, share)
	if err != nil {
		return nil, err
	}
	defer back.Wipe()
	return shares.Prove(back, req.Nonce, req.Epoch, n.cfg.ID), nil
}

func parseDealt(b []byte) (share shares.Share, known []knownMember, err error) {
	if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
		return share, nil, shares.ErrFormat
	}
	size := 2 + int(binary.BigEndian.Uint16(b))
	if err := json.Unmarshal(b[size:], &known); err != nil {
		return share, nil, fmt.Errorf("the members of a deal: %w", err)
	}
	return share, known, share.UnmarshalBinary(b[2:size])
}

// retire lets older share keys go once every prover has applied the commit: a node that had not could
// come up with the older deal as the current one.
func (n *Node) retire(ctx context.Context, term uint64, cl fsm.Cluster) error {
	deal, ok := n.store.Deal(cl.NodeEpoch)
	if !ok {
		return fmt.Errorf("deal %d is not in the state", cl.NodeEpoch)
	}
	for _, id := range deal.Provers {
		if id == n.cfg.ID {
			continue
		}
		if _, member := n.store.Member(id); !member {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		status, err := n.peers.of(id).Status(ctx, &peerpb.StatusRequest{})
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", id, peerError(err))
		}
		if status.Applied < deal.Changed {
			return fmt.Errorf("%s has not applied the commit yet", id)
		}
	}
	return n.proposeDuty(ctx, term, fsm.KindDealRetire, &fsm.DealRetire{Epoch: cl.NodeEpoch})
}

// retireShares destroys this node's shares of deals that were aborted or are retired. A share stays while
// its deal is current, is being dealt, was current and is not retired, or is not known here yet.
func (n *Node) retireShares(cl fsm.Cluster) {
	epochs, err := n.shares.epochs()
	if err != nil {
		n.log.Error("share files", "error", err)
		return
	}
	applied := n.store.Position().Index
	for _, epoch := range epochs {
		if epoch == cl.NodeEpoch || epoch == cl.PendingEpoch || epoch > applied {
			continue
		}
		if _, known := n.store.Deal(epoch); known && epoch >= cl.RetiredBelow {
			continue
		}
		if err := n.shares.destroy(n.ctx, epoch); err != nil && !errors.Is(err, fs.ErrNotExist) {
			n.log.Warn("an old share was not destroyed; the next change tries again", "epoch", epoch, "error", err)
			continue
		}
		n.log.Info("destroyed an old share", "epoch", epoch)
	}
	n.sweepShares(cl)
}

// sweepShares destroys HSM keys without a file, once per deal: when that deal has replaced all before it and this
// node has its share of it. A node whose folder was lost or is not mounted keeps its keys until then.
func (n *Node) sweepShares(cl fsm.Cluster) {
	if cl.NodeEpoch == 0 || cl.PendingEpoch != 0 || cl.RetiredBelow != cl.NodeEpoch || n.shares.swept == cl.NodeEpoch {
		return
	}
	if held, err := n.heldShares(n.ctx); err != nil || !slices.Contains(held, cl.NodeEpoch) {
		return
	}
	var keep []shares.DealID
	for _, stored := range n.store.Deals() {
		var deal shares.Deal
		if err := deal.UnmarshalBinary(stored.Body); err != nil {
			n.log.Warn("a deal of the state cannot be read; no HSM keys are destroyed", "epoch", stored.Epoch, "error", err)
			return
		}
		keep = append(keep, deal.ID)
	}
	destroyed, err := n.shares.sweep(n.ctx, keep)
	if err != nil {
		n.log.Warn("HSM keys of abandoned deals stay; the next change tries again", "error", err)
		return
	}
	n.shares.swept = cl.NodeEpoch
	if len(destroyed) > 0 {
		n.log.Info("destroyed HSM keys of abandoned deals", "keys", destroyed)
	}
}
