package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
)

// rotation is a new root key on its way into force. The node set that a removed member belonged to, or one
// that fewer nodes could open, has shares that open the old root for ever (old logs, old backups); so the
// root is replaced together with the deal, in one record, and vaults go on under new key generations.
type rotation struct {
	root       keyring.Root
	generation uint32
}

func (r *rotation) wipe() { r.root.Wipe() }

// nextRoot is the root that this leader is about to put in force, for rootRotated to take.
type nextRoot struct {
	mu   sync.Mutex
	root keyring.Root
}

// rotationDue: somebody asked for it, somebody who is no longer a member holds a share of the current deal, or the
// next deal takes more nodes than this one did.
func (n *Node) rotationDue(cl fsm.Cluster, members []fsm.Member, threshold int) bool {
	if n.asked(fsm.RotateRoot) && (cl.NodeEpoch != 0 || len(members) == 1) {
		return true
	}
	if cl.NodeEpoch == 0 {
		return false
	}
	deal, ok := n.store.Deal(cl.NodeEpoch)
	if !ok {
		return false
	}
	if threshold > deal.Threshold && !cl.Development {
		return true
	}
	for _, id := range deal.Members {
		i := slices.IndexFunc(members, func(m fsm.Member) bool { return m.ID == id })
		if i < 0 || threshold == 0 && members[i].NonVoter { // no deal without it will follow
			return true
		}
	}
	return false
}

// asked says whether a rotation is under way.
func (n *Node) asked(subject string) bool {
	k, ok := n.store.KeyRotation(subject)
	return ok && k.Due != 0
}

func (n *Node) prepareRotation(cl fsm.Cluster) (*rotation, error) {
	if n.keys.sealed() {
		return nil, ErrSealed
	}
	return &rotation{root: keyring.NewRoot(), generation: cl.RootGeneration + 1}, nil
}

// rotateAlone rotates the root where so few members are left that no node set is wanted: the shares of those that
// were removed open the old root, and no deal will come to replace it. From then on operators unseal.
func (n *Node) rotateAlone(ctx context.Context, term uint64, cl fsm.Cluster) error {
	r, err := n.prepareRotation(cl)
	if err != nil {
		return err
	}
	defer r.wipe()
	if err := n.commitRotation(ctx, term, cl, r, 0, nil); err != nil {
		return fmt.Errorf("rotate the root key without a node set: %w", err)
	}
	n.log.Warn("the root key was rotated and no node set is left: only operators can unseal, until there are three voters again")
	return nil
}

// commitRotation rewraps every key, adds new generations for what encrypts values and audit bodies, seals
// the root to the operators' key, and commits all of it with the deal. If a key was added meanwhile the
// record is refused and the next deal tries again.
//
// The keys for MACs, fingerprints, passwords, the CA and the audit key pair keep their generation: they
// are not readable from old logs without the old root and an HSM quorum of the old set, and replacing
// them means rewriting every record they cover.
func (n *Node) commitRotation(ctx context.Context, term uint64, cl fsm.Cluster, r *rotation, epoch uint64, provers []string) error {
	ring, err := n.Keyring()
	if err != nil {
		return err
	}
	newest := newestGenerations(n.store.Keys())
	renewed := func(purpose string) bool {
		return purpose == keyring.Audit || purpose == keyring.Gossip || strings.HasPrefix(purpose, keyring.Vault(""))
	}
	// What encrypts nothing and gets a successor now is left out, and so dropped.
	stored := slices.DeleteFunc(n.store.Keys(), func(k fsm.WrappedKey) bool {
		return strings.HasPrefix(k.Purpose, keyring.Vault("")) && k.Live == 0 && k.Generation < newest[k.Purpose]
	})
	if len(stored)+len(newest) > fsm.MaxKeys {
		n.log.Error("there are too many key generations for new ones of the vaults: they keep theirs, under the new root key",
			"generations", len(stored), "limit", fsm.MaxKeys)
		renewed = func(purpose string) bool { return purpose == keyring.Audit || purpose == keyring.Gossip }
	} else {
		stored = slices.DeleteFunc(stored, func(k fsm.WrappedKey) bool {
			return strings.HasPrefix(k.Purpose, keyring.Vault("")) && k.Live == 0
		})
	}
	old := make([]keyring.WrappedKey, len(stored))
	created := n.store.Time()
	for i, k := range stored {
		old[i] = wrappedKey(k)
	}
	rewrapped, err := ring.RewrapAll(old, r.root, r.generation)
	if err != nil {
		return err
	}
	body := fsm.RootRotate{Epoch: epoch, Provers: provers, RootGeneration: r.generation}
	for i, k := range rewrapped {
		body.Keys = append(body.Keys, storedKey(k, stored[i].Created))
	}
	maker, err := keyring.Open(r.root, r.generation, cl.ID, keyring.Static())
	if err != nil {
		return err
	}
	defer maker.Close()
	next := cl
	for purpose, newest := range newest {
		if !renewed(purpose) {
			continue
		}
		k, err := maker.Generate(purpose, newest+1)
		if err != nil {
			return err
		}
		if purpose == keyring.Audit {
			next.AuditGeneration = newest + 1
		}
		body.Keys = append(body.Keys, storedKey(k, created))
	}
	slices.SortFunc(body.Keys, func(a, b fsm.WrappedKey) int {
		return max(-1, min(1, 2*strings.Compare(a.Purpose, b.Purpose)+int(a.Generation)-int(b.Generation)))
	})
	var deal shares.Deal
	if err := deal.UnmarshalBinary(cl.OperatorDeal); err != nil {
		return err
	}
	id := r.root.ID()
	body.RootID = id[:]
	if body.OperatorRoot, err = keyring.SealForOperators(cl.OperatorKey, r.root, keyring.Context{Cluster: cl.ID, Generation: r.generation, Deal: deal.ID}); err != nil {
		return err
	}
	next.RootGeneration, next.RootID, next.OperatorRoot = body.RootGeneration, body.RootID, body.OperatorRoot
	if body.MAC, err = ring.MAC(next.MACGeneration, next.MACDomain(), next.MACBody()); err != nil {
		return err
	}

	n.next.mu.Lock()
	n.next.root = copyRoot(r.root)
	n.next.mu.Unlock()
	defer func() {
		n.next.mu.Lock()
		n.next.root.Wipe()
		n.next.root = keyring.Root{}
		n.next.mu.Unlock()
	}()
	cmd := n.dutyCommand(fsm.KindRootRotate, &body, fsm.Audit{
		Action: "root.rotate", Resource: "cluster", Decision: fsm.Allowed, Detail: fmt.Sprintf("generation=%d epoch=%d", r.generation, epoch),
	})
	cmd.Term = term
	cmd.Reads = []fsm.Read{{Object: fsm.ObjCluster, Index: n.store.Index(fsm.ObjCluster)}}
	result, err := n.Propose(ctx, cmd)
	if err == nil {
		err = codeError(result)
	}
	if err != nil {
		return err
	}
	now, _ := n.store.Cluster()
	n.rootRotated(now)
	return nil
}

func newestGenerations(list []fsm.WrappedKey) map[string]uint32 {
	newest := make(map[string]uint32)
	for _, k := range list {
		newest[k.Purpose] = max(newest[k.Purpose], k.Generation)
	}
	return newest
}

// rootRotated has an unsealed node follow a new root key: the leader that made it has it; every other node
// drops its keys and gets the new root by quorum, from the deal that came with it.
func (n *Node) rootRotated(cl fsm.Cluster) {
	ring := n.keys.ring.Load()
	if ring == nil || ring.RootGeneration() == cl.RootGeneration {
		return
	}
	n.next.mu.Lock()
	defer n.next.mu.Unlock()
	if ring = n.keys.ring.Load(); ring == nil || ring.RootGeneration() == cl.RootGeneration {
		return
	}
	if n.next.root.Valid() {
		root := copyRoot(n.next.root)
		if fresh, err := n.openRing(root, cl); err == nil {
			n.keys.install(fresh, root, cl.RootGeneration)
			n.log.Info("the root key was rotated", "generation", cl.RootGeneration)
			return
		}
		root.Wipe()
	}
	n.keys.seal()
	n.log.Info("the root key was rotated: this node fetches the new one", "generation", cl.RootGeneration)
}

func copyRoot(root keyring.Root) keyring.Root {
	c, _ := keyring.RootFrom(root.Bytes().Clone()) // of the same length, so a root again
	return c
}
