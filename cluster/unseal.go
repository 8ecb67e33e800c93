package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hizo/hizo/cluster/peerpb"
	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
)

// Methods of fsm.Unsealed.
const (
	byQuorum    = "quorum"
	byOperators = "operators"
	byHandOver  = "handover" // by the node where operators entered their shares
)

// operatorSharesLast bounds how long a share waits in memory for the others.
const operatorSharesLast = 15 * time.Minute

// operatorShares collects what operators enter at this node: in memory only, never by log or gossip.
type operatorShares struct {
	mu    sync.Mutex
	deal  shares.DealID
	have  []shares.Share
	since time.Time
}

func (o *operatorShares) clear() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drop()
}

func (o *operatorShares) drop() {
	for _, s := range o.have {
		s.Wipe()
	}
	o.have = nil
}

// UnsealProgress says how far operators are.
type UnsealProgress struct {
	Have, Need int
	Done       bool // this node is unsealed
}

// Progress of an unsealing by operators at this node.
func (n *Node) Progress() UnsealProgress {
	p := UnsealProgress{Done: !n.keys.sealed()}
	if cl, ok := n.store.Cluster(); ok {
		var deal shares.Deal
		if deal.UnmarshalBinary(cl.OperatorDeal) == nil {
			p.Need = int(deal.Threshold)
		}
	}
	n.operator.mu.Lock()
	defer n.operator.mu.Unlock()
	p.Have = len(n.operator.have)
	return p
}

// SubmitShare takes one operator's share. A share is its holder's credential: a valid one is taken from
// whoever enters it, a wrong one is refused by name and changes nothing, and nobody can cancel. With the
// last one needed the node unseals, which is committed before it takes effect, and hands the root key to
// the other members. If that commit fails, the shares stay and entering any of them again tries again.
func (n *Node) SubmitShare(ctx context.Context, text string) (UnsealProgress, error) {
	cl, ok := n.store.Cluster()
	if !ok {
		return UnsealProgress{}, ErrNotInitialised
	}
	if m, _ := n.store.Member(n.cfg.ID); !trusted(m) {
		return UnsealProgress{}, fmt.Errorf("this node is not approved, or is quarantined: enter shares at another node: %w", ErrNotAllowed)
	}
	var deal shares.Deal
	if err := deal.UnmarshalBinary(cl.OperatorDeal); err != nil {
		return UnsealProgress{}, fmt.Errorf("the operators' deal in the state: %w", err)
	}
	share, err := shares.ParseText(text)
	if err != nil {
		return UnsealProgress{}, err
	}
	if err := deal.Check(share); err != nil {
		return UnsealProgress{}, err
	}
	need := int(deal.Threshold)
	if !n.keys.sealed() && !cl.Sealed {
		share.Wipe()
		return UnsealProgress{Need: need, Done: true}, nil
	}

	o := &n.operator
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.deal != deal.ID || time.Since(o.since) > operatorSharesLast {
		o.drop()
	}
	if len(o.have) == 0 {
		o.deal, o.since = deal.ID, time.Now()
	}
	if slices.ContainsFunc(o.have, func(s shares.Share) bool { return s.Index == share.Index }) {
		index := share.Index
		share.Wipe()
		if len(o.have) < need {
			return UnsealProgress{Have: len(o.have), Need: need}, &shares.DuplicateShareError{Index: index}
		}
	} else {
		o.have = append(o.have, share)
	}
	if len(o.have) < need {
		return UnsealProgress{Have: len(o.have), Need: need}, nil
	}
	if err := n.unsealByOperators(ctx, cl, deal, o.have); err != nil {
		return UnsealProgress{Have: len(o.have), Need: need}, err
	}
	o.drop()
	return UnsealProgress{Have: need, Need: need, Done: true}, nil
}

func (n *Node) unsealByOperators(ctx context.Context, cl fsm.Cluster, deal shares.Deal, list []shares.Share) error {
	seed, err := deal.Combine(list)
	if err != nil {
		return err
	}
	defer seed.Wipe()
	root, err := keyring.OpenForOperators(seed, cl.OperatorRoot, keyring.Context{Cluster: cl.ID, Generation: cl.RootGeneration, Deal: deal.ID})
	if err != nil {
		return err
	}
	if err := n.unsealWith(ctx, root, cl, byOperators); err != nil {
		return err
	}
	// One ceremony for the cluster: whoever is sealed now gets the root key too. Who is not reachable
	// asks for shares when it is back.
	n.wg.Go(func() { n.handRootOver(n.ctx) })
	return nil
}

// unsealWith commits the record of this node's unsealing, then takes the keys into use. It owns root.
func (n *Node) unsealWith(ctx context.Context, root keyring.Root, cl fsm.Cluster, method string) error {
	ring, err := n.openRing(root, cl)
	if err != nil {
		root.Wipe()
		return err
	}
	after := n.store.Position().Index
	result, err := n.submit(ctx, n.unsealedCommand(n.cfg.ID, method, cl))
	if err == nil {
		err = n.confirm(ctx, after, result, unsealAudit(n.cfg.ID, method))
	}
	if err != nil {
		ring.Close()
		root.Wipe()
		return fmt.Errorf("record the unsealing: %w", err)
	}
	return n.takeKeys(ctx, ring, root, cl, result.Index)
}

// takeKeys installs keys once this node's state has the record of the unsealing, unless a seal came after.
func (n *Node) takeKeys(ctx context.Context, ring *keyring.Keyring, root keyring.Root, cl fsm.Cluster, index uint64) error {
	if err := n.store.WaitApplied(ctx, index); err != nil {
		ring.Close()
		root.Wipe()
		return err
	}
	n.keys.install(ring, root, cl.RootGeneration)
	if now, _ := n.store.Cluster(); now.Sealed || now.RootGeneration != cl.RootGeneration {
		n.keys.seal()
		return ErrSealed
	}
	n.log.Info("unsealed")
	n.refreshDirectory()
	n.keepMembers()
	return nil
}

// unsealedCommand carries the state of the cluster that it was decided on, so that it does not undo a seal
// that came after.
func (n *Node) unsealedCommand(node, method string, cl fsm.Cluster) fsm.Command {
	return n.dutyCommand(fsm.KindUnsealed, &fsm.Unsealed{Node: node, Method: method, Changed: cl.Changed}, unsealAudit(node, method))
}

func unsealAudit(node, method string) fsm.Audit {
	return fsm.Audit{Action: "unseal", Resource: "node/" + node, Decision: fsm.Allowed, Detail: "method=" + method}
}

// sealedByFlag drops everything: hizo cluster seal has committed.
func (n *Node) sealedByFlag() {
	n.operator.clear()
	n.calls.clear()
	if n.keys.seal() {
		n.log.Warn("sealed: the cluster was sealed; operators' shares unseal it")
	}
}

// unsealLoop brings a sealed node back by quorum whenever that is possible: after a start, and when a node
// set is dealt while it is sealed.
func (n *Node) unsealLoop() {
	const first, slowest = 100 * time.Millisecond, 5 * time.Second
	pause := first
	for n.ctx.Err() == nil {
		changed := n.store.Changed()
		if !n.keys.sealed() {
			pause = first
			select {
			case <-n.keys.dropped:
			case <-n.ctx.Done():
				return
			}
			continue
		}
		prospect, possible := n.unsealProspect()
		if !possible {
			pause = first
			select {
			case <-changed:
			case <-n.ctx.Done():
				return
			}
			continue
		}
		ctx, cancel := context.WithTimeout(n.ctx, 20*time.Second)
		err := n.unsealByQuorum(ctx)
		cancel()
		if err == nil {
			pause = first
			continue
		}
		if errors.Is(err, ErrNotAllowed) {
			// Every refusal is in the audit log: a refused node does not fill it.
			pause = 12 * slowest
		}
		n.log.Info("not unsealed yet", "error", err)
		if n.pauseUnseal(pause, prospect) {
			pause = min(2*pause, slowest)
		} else {
			pause = first
		}
	}
}

// unsealProspect is what peers decide a share release by: as long as it stays the same, a refusal does too.
type unsealProspect struct{ member, epoch uint64 }

// unsealProspect also says whether asking peers makes sense at all.
func (n *Node) unsealProspect() (unsealProspect, bool) {
	cl, ok := n.store.Cluster()
	m, member := n.store.Member(n.cfg.ID)
	return unsealProspect{m.Changed, cl.NodeEpoch},
		ok && member && m.Approved && !m.Quarantined && !cl.Sealed && cl.NodeEpoch != 0
}

// pauseUnseal waits, and returns true after the whole pause, false as soon as the prospect changes.
func (n *Node) pauseUnseal(pause time.Duration, was unsealProspect) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		changed := n.store.Changed()
		if now, _ := n.unsealProspect(); now != was {
			return false
		}
		select {
		case <-timer.C:
			return true
		case <-changed:
		case <-n.ctx.Done():
			return false
		}
	}
}

// unsealByQuorum collects shares of the committed deal, its own first.
func (n *Node) unsealByQuorum(ctx context.Context) error {
	cl, _ := n.store.Cluster()
	if cl.NodeEpoch == 0 {
		return ErrNoNodeSet
	}
	stored, ok := n.store.Deal(cl.NodeEpoch)
	if !ok {
		return fmt.Errorf("deal %d is not in the state", cl.NodeEpoch)
	}
	var deal shares.Deal
	if err := deal.UnmarshalBinary(stored.Body); err != nil {
		return fmt.Errorf("deal %d: %w", cl.NodeEpoch, err)
	}
	var have []shares.Share
	defer func() {
		for _, s := range have {
			s.Wipe()
		}
	}()
	if own, err := n.shares.get(ctx, stored.Epoch, deal); err == nil {
		have = append(have, own)
	} else {
		n.log.Info("this node has no share of its own", "epoch", stored.Epoch, "error", err)
	}
	asked, err := n.collectShares(ctx, stored, deal, int(deal.Threshold)-len(have))
	have = append(have, asked...)
	if len(have) < int(deal.Threshold) {
		return errors.Join(&shares.TooFewError{Have: len(have), Need: int(deal.Threshold)}, err)
	}
	secret, err := deal.Combine(have)
	if err != nil {
		return err
	}
	defer secret.Wipe()
	root, err := keyring.OpenForNodes(secret, stored.Root, keyring.Context{Cluster: cl.ID, Generation: stored.RootGeneration, Deal: deal.ID})
	if err != nil {
		return err
	}
	return n.unsealWith(ctx, root, cl, byQuorum)
}

// collectShares asks the deal's members for shares, at first as many as are needed and one more for each
// that fails: every share asked for is a record in the log. Each is checked when it arrives.
func (n *Node) collectShares(ctx context.Context, stored fsm.Deal, deal shares.Deal, need int) ([]shares.Share, error) {
	var ask []string
	for _, id := range stored.Members {
		if _, member := n.store.Member(id); member && id != n.cfg.ID {
			ask = append(ask, id)
		}
	}
	type answer struct {
		share shares.Share
		err   error
	}
	answers := make(chan answer, len(ask))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started, finished := 0, 0
	start := func() {
		id := ask[started]
		started++
		go func() {
			share, err := n.askShare(ctx, id, stored.Epoch, deal)
			answers <- answer{share, err}
		}()
	}
	var have []shares.Share
	var errs []error
	for len(have) < need {
		for started < len(ask) && started-finished < need-len(have) {
			start()
		}
		if finished == started {
			break
		}
		a := <-answers
		finished++
		if a.err != nil {
			errs = append(errs, a.err)
			continue
		}
		have = append(have, a.share)
	}
	return have, errors.Join(errs...)
}

func shareInfo(cluster [16]byte, epoch uint64, holder, node string) []byte {
	b := aad.AppendString(nil, "hizo/share/release/v1")
	b = aad.AppendBytes(b, cluster[:])
	b = aad.AppendUint64(b, epoch)
	b = aad.AppendString(b, holder)
	return aad.AppendString(b, node)
}

// askShare asks one member, with a key made for this call.
func (n *Node) askShare(ctx context.Context, holder string, epoch uint64, deal shares.Deal) (shares.Share, error) {
	key, err := hybrid.NewKey()
	if err != nil {
		return shares.Share{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	reply, err := n.peers.of(holder).Share(ctx, &peerpb.ShareRequest{Epoch: epoch, PublicKey: key.Public()})
	if err != nil {
		return shares.Share{}, fmt.Errorf("%s: %w", holder, peerError(err))
	}
	plain, err := key.Open(reply.Sealed, shareInfo(deal.Cluster, epoch, holder, n.cfg.ID))
	if err != nil {
		return shares.Share{}, fmt.Errorf("%s: %w", holder, err)
	}
	defer plain.Wipe()
	var share shares.Share
	if err := share.UnmarshalBinary(plain.Reveal()); err != nil {
		return shares.Share{}, fmt.Errorf("%s: %w", holder, err)
	}
	if err := deal.Check(share); err != nil {
		share.Wipe()
		return shares.Share{}, fmt.Errorf("%s: %w", holder, err)
	}
	return share, nil
}

// releaseNonce is the length of what makes each release's record its own.
const releaseNonce = 16

// releaseShare is the other end: this node's share for a member, once the record of it has committed and is
// in this node's own log, which no leader's word replaces. That record is also a check: Apply refuses members
// that are unknown, not approved or quarantined, and everything while the cluster is sealed by flag, as of
// the log. What this node itself knows of the member decides before and after it.
func (n *Node) releaseShare(ctx context.Context, to fsm.Member, epoch uint64, public []byte) ([]byte, error) {
	if err := hybrid.CheckPublic(public); err != nil {
		return nil, err
	}
	cl, ok := n.store.Cluster()
	if !ok {
		return nil, ErrNotInitialised
	}
	stored, err := n.currentDeal(ctx, epoch)
	if err != nil {
		return nil, err
	}
	var deal shares.Deal
	if err := deal.UnmarshalBinary(stored.Body); err != nil {
		return nil, err
	}
	share, err := n.shares.get(ctx, epoch, deal)
	if err != nil {
		return nil, err
	}
	defer share.Wipe()
	if trusted(to) { // otherwise Apply refuses, and that is the record
		if err := n.mayHaveShare(ctx, to, epoch); err != nil {
			return nil, err
		}
	}
	release := fsm.ShareRelease{Epoch: epoch, Holder: n.cfg.ID, Node: to.ID, Nonce: make([]byte, releaseNonce)}
	rand.Read(release.Nonce)
	audit := shareReleaseAudit(release)
	after := n.store.Position().Index
	result, err := n.submit(ctx, n.dutyCommand(fsm.KindShareRelease, &release, audit))
	if err != nil {
		return nil, err
	}
	if err := n.confirm(ctx, after, result, audit); err != nil {
		return nil, err
	}
	if err := n.mayHaveShare(ctx, to, epoch); err != nil {
		return nil, err
	}
	plain, err := share.MarshalBinary()
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return hybrid.Seal(public, shareInfo(cl.ID, epoch, n.cfg.ID, to.ID), plain)
}

// currentDeal waits a moment for a deal to be the committed one here: whoever asks may have applied its
// commit before this node.
func (n *Node) currentDeal(ctx context.Context, epoch uint64) (fsm.Deal, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for {
		changed := n.store.Changed()
		cl, _ := n.store.Cluster()
		if cl.NodeEpoch == epoch {
			if deal, ok := n.store.Deal(epoch); ok {
				return deal, nil
			}
		}
		if cl.NodeEpoch > epoch {
			return fsm.Deal{}, fmt.Errorf("epoch %d is over, %d is the current one", epoch, cl.NodeEpoch)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fsm.Deal{}, fmt.Errorf("epoch %d is not known here yet", epoch)
		}
	}
}

func shareReleaseAudit(r fsm.ShareRelease) fsm.Audit {
	return fsm.Audit{
		Action: "share.release", Resource: "node/" + r.Node, Decision: fsm.Allowed,
		Detail: fmt.Sprintf("holder=%s epoch=%d nonce=%x", r.Holder, r.Epoch, r.Nonce),
	}
}
