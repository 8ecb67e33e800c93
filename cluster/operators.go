package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
)

// New shares for the operators come into force in two steps: they are encrypted to the operators' recipients and stored
// (propose), and only when so many operators have shown that they can read theirs that one lost share is not too many
// does the new set replace the old one (commit, by operatorsDuty). Until then the old shares open the cluster, whatever
// crashes or is forgotten; a proposed set that nobody confirms can be dropped. The commit asks for a new root key, because
// the old operators' shares open the present one for ever.

// ErrNoRecipients says that this cluster does not know its operators' recipients.
var ErrNoRecipients = errors.New("the cluster does not know its operators' age recipients: name them (--operator)")

// OperatorsBody makes new operators' shares and the record that offers them. Without recipients those of the set in
// force get new shares, with its threshold. The caller authorises and proposes it.
func (n *Node) OperatorsBody(recipients []string, threshold int) (fsm.OperatorsPropose, error) {
	fail := func(err error) (fsm.OperatorsPropose, error) { return fsm.OperatorsPropose{}, err }
	cl, ok := n.store.Cluster()
	if !ok {
		return fail(ErrNotInitialised)
	}
	ring, err := n.Keyring()
	if err != nil {
		return fail(err)
	}
	if err := verifyMAC(ring, cl.MACGeneration, fsm.MACDomainCluster, cl.MACBody(), cl.MAC); err != nil {
		return fail(fmt.Errorf("the cluster record: %w", err)) // it names the recipients
	}
	var old shares.Deal
	if err := old.UnmarshalBinary(cl.OperatorDeal); err != nil {
		return fail(fmt.Errorf("the operators' deal in the state: %w", err))
	}
	if len(recipients) == 0 {
		recipients = cl.OperatorRecipients
	}
	if len(recipients) == 0 {
		return fail(ErrNoRecipients)
	}
	if threshold == 0 {
		threshold = int(old.Threshold)
	}
	seed, deal, list, err := shares.Split(cl.ID, shares.OperatorSet, threshold, len(recipients))
	if err != nil {
		return fail(err)
	}
	defer func() {
		seed.Wipe()
		for _, s := range list {
			s.Wipe()
		}
	}()
	key, err := keyring.OperatorKey(seed)
	if err != nil {
		return fail(err)
	}
	set := fsm.OperatorSet{Key: key.Public(), Recipients: recipients, Threshold: threshold}
	if set.Deal, err = deal.MarshalBinary(); err != nil {
		return fail(err)
	}
	for i, share := range list {
		to, err := shares.ParseRecipient(recipients[i])
		if err != nil {
			return fail(fmt.Errorf("operator %d: %w", i+1, err))
		}
		file, err := share.Encrypt(to)
		if err != nil {
			return fail(err)
		}
		code, err := share.Confirmation()
		if err != nil {
			return fail(err)
		}
		proof := sha256.Sum256(code)
		set.Files, set.Proofs = append(set.Files, file), append(set.Proofs, proof[:])
	}
	if set.MAC, err = ring.MAC(cl.MACGeneration, set.MACDomain(), set.MACBody()); err != nil {
		return fail(err)
	}
	return fsm.OperatorsPropose{Set: set}, nil
}

// operatorsDuty puts a confirmed set in force.
func (n *Node) operatorsDuty(ctx context.Context, term uint64) error {
	next, _ := n.store.OperatorSets()
	if next == nil || next.Confirmations() < next.Need() {
		return nil
	}
	cl, _ := n.store.Cluster()
	index := n.store.Index(fsm.ObjCluster)
	ring, err := n.Keyring()
	if err != nil {
		return err
	}
	if err := verifyMAC(ring, cl.MACGeneration, next.MACDomain(), next.MACBody(), next.MAC); err != nil {
		return fmt.Errorf("the operators' new shares: %w", err)
	}
	var deal shares.Deal
	if err := deal.UnmarshalBinary(next.Deal); err != nil {
		return err
	}
	body := fsm.OperatorsCommit{Deal: next.Deal}
	err = n.keys.withRoot(func(root keyring.Root, generation uint32) error {
		body.OperatorRoot, err = keyring.SealForOperators(next.Key, root, keyring.Context{Cluster: cl.ID, Generation: generation, Deal: deal.ID})
		return err
	})
	if err != nil {
		return err
	}
	cl.OperatorDeal, cl.OperatorKey, cl.OperatorRoot, cl.OperatorRecipients = next.Deal, next.Key, body.OperatorRoot, next.Recipients
	if body.MAC, err = ring.MAC(cl.MACGeneration, cl.MACDomain(), cl.MACBody()); err != nil {
		return err
	}
	cmd := n.dutyCommand(fsm.KindOperatorsCommit, &body, fsm.Audit{
		Action: "operators.commit", Resource: "cluster", Decision: fsm.Allowed,
		Detail: fmt.Sprintf("operators=%d threshold=%d confirmed=%d", len(next.Recipients), next.Threshold, next.Confirmations()),
	})
	cmd.Term, cmd.Reads = term, []fsm.Read{{Object: fsm.ObjCluster, Index: index}}
	result, err := n.Propose(ctx, cmd)
	if err == nil {
		err = codeError(result)
	}
	if err != nil {
		return fmt.Errorf("put the operators' new shares in force: %w", err)
	}
	n.log.Info("the operators' new shares are in force", "operators", len(next.Recipients), "threshold", next.Threshold)
	return nil
}
