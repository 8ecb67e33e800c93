package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hizo/hizo/cluster/peerpb"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/fsm"
)

// handRootOver gives the root key to every approved member that is sealed: operators' shares were entered
// here, and one ceremony is enough. It never happens on a member's request, which would make one peer's
// word as good as a quorum of shares.
func (n *Node) handRootOver(ctx context.Context) {
	cl, _ := n.store.Cluster()
	var wg sync.WaitGroup
	for _, m := range n.store.Members() {
		if m.ID == n.cfg.ID || !m.Approved || m.Quarantined {
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			if err := n.handRootTo(ctx, m, cl); err != nil && !errors.Is(err, errNotSealed) {
				n.log.Info("the root key was not handed over", "to", m.ID, "error", err)
			}
		})
	}
	wg.Wait()
}

var errNotSealed = errors.New("this member is not sealed")

func (n *Node) handRootTo(ctx context.Context, m fsm.Member, cl fsm.Cluster) error {
	if err := n.checkMember(m); err != nil {
		return err
	}
	peer := n.peers.of(m.ID)
	status, err := peer.Status(ctx, &peerpb.StatusRequest{})
	if err != nil {
		return peerError(err)
	}
	if !status.Sealed {
		return errNotSealed
	}
	call, err := peer.CallKey(ctx, &peerpb.CallKeyRequest{})
	if err != nil {
		return peerError(err)
	}
	after := n.store.Position().Index
	result, err := n.submit(ctx, n.unsealedCommand(m.ID, byHandOver, cl))
	if err != nil {
		return err
	}
	if err := n.confirm(ctx, after, result, unsealAudit(m.ID, byHandOver)); err != nil {
		return err
	}
	// What has committed by now counts: a quarantine, a removal, a seal.
	if now, ok := n.store.Member(m.ID); !ok || !trusted(now) || !bytes.Equal(now.Key, m.Key) {
		return fmt.Errorf("%s is not an approved member any more: %w", m.ID, ErrNotAllowed)
	} else if err := n.checkMember(now); err != nil {
		return err
	}
	if now, _ := n.store.Cluster(); now.Sealed {
		return ErrSealed
	}
	var sealed []byte
	err = n.keys.withRoot(func(root keyring.Root, generation uint32) error {
		sealed, err = keyring.SealRootTo(call.PublicKey, root, keyring.Context{Cluster: cl.ID, Generation: generation}, m.ID)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := peer.TakeRoot(ctx, &peerpb.TakeRootRequest{CallKey: call.Id, Sealed: sealed, Index: result.Index}); err != nil {
		return peerError(err)
	}
	n.log.Info("handed the root key over", "to", m.ID)
	return nil
}

// takeRoot is the other end. The fingerprint in the replicated state and the MAC under the root itself say
// whether it is the right one; whose it is, the stream says.
func (n *Node) takeRoot(ctx context.Context, from fsm.Member, req *peerpb.TakeRootRequest) error {
	if err := n.store.WaitApplied(ctx, req.Index); err != nil {
		return err
	}
	cl, ok := n.store.Cluster()
	if !ok {
		return ErrNotInitialised
	}
	if !n.keys.sealed() {
		return nil
	}
	key, err := n.calls.take(req.CallKey, from.ID)
	if err != nil {
		return err
	}
	root, err := keyring.OpenRoot(key, req.Sealed, keyring.Context{Cluster: cl.ID, Generation: cl.RootGeneration}, n.cfg.ID)
	if err != nil {
		return err
	}
	ring, err := n.openRing(root, cl)
	if err != nil {
		root.Wipe()
		return err
	}
	if err := verifyMAC(ring, cl.MACGeneration, fsm.MACDomainMember, from.MACBody(), from.MAC); err != nil {
		ring.Close()
		root.Wipe()
		return fmt.Errorf("member %s: %w", from.ID, err)
	}
	return n.takeKeys(ctx, ring, root, cl, req.Index)
}
