package cluster

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/cluster/peerpb"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
)

// TokenWithOtherSecret is a join token for the same members with a secret that the cluster does not know.
func TokenWithOtherSecret(text string) (string, error) {
	t, err := parseJoinToken(text)
	if err != nil {
		return "", err
	}
	rand.Read(t.secret[:])
	return t.text(), nil
}

// AskForShare asks a member for its share of the current deal, as a node that ignores its own rights would.
func (n *Node) AskForShare(ctx context.Context, holder string) error {
	cl, _ := n.store.Cluster()
	stored, ok := n.store.Deal(cl.NodeEpoch)
	if !ok {
		return ErrNoNodeSet
	}
	var deal shares.Deal
	if err := deal.UnmarshalBinary(stored.Body); err != nil {
		return err
	}
	share, err := n.askShare(ctx, holder, cl.NodeEpoch, deal)
	share.Wipe()
	return err
}

// SignCheckpoint is what a peer asks for.
func (n *Node) SignCheckpoint(ctx context.Context, cp fsm.Checkpoint) ([]byte, error) {
	return n.signCheckpoint(ctx, cp)
}

// CollectSignatures asks for a checkpoint over everything, as the leader does after one over size.
func (n *Node) CollectSignatures(ctx context.Context, size uint64) ([]fsm.Signature, error) {
	cl, _ := n.store.Cluster()
	cp := fsm.Checkpoint{Origin: OriginOf(cl), Size: n.store.AuditSize(), Time: n.store.Time()}
	root, err := n.store.TreeRoot(cp.Size)
	if err != nil {
		return nil, err
	}
	cp.Root = root[:]
	return n.collectSignatures(ctx, cp, n.store.SignersAt(size), n.store.SignersAt(cp.Size))
}

// ProposeDeal proposes a deal that nobody will ever finish, as a leader that dies in the middle does.
func (n *Node) ProposeDeal(ctx context.Context) (uint64, error) {
	cl, _ := n.store.Cluster()
	ids := n.voters()
	secret, deal, list, err := shares.Split(cl.ID, shares.NodeSet, len(ids)/2+1, len(ids))
	if err != nil {
		return 0, err
	}
	defer secret.Wipe()
	body, err := deal.MarshalBinary()
	if err != nil {
		return 0, err
	}
	cmd := n.dutyCommand(fsm.KindDealPropose, &fsm.DealPropose{Deal: fsm.Deal{
		Body: body, Members: ids, Threshold: len(ids)/2 + 1, Root: []byte{1}, RootGeneration: cl.RootGeneration,
	}})
	result, err := n.Propose(ctx, cmd)
	if err == nil {
		err = codeError(result)
	}
	if err != nil {
		return 0, err
	}
	for i, id := range ids {
		if id == n.cfg.ID {
			_, err = n.shares.put(ctx, result.Index, deal, list[i])
		}
	}
	return result.Index, err
}

// ShareEpochs lists the deals that this node holds a share of.
func (n *Node) ShareEpochs() ([]uint64, error) { return n.shares.epochs() }

// Compact takes a snapshot and keeps no log before it, as far as raft allows.
func (n *Node) Compact() error {
	reload := n.raft.ReloadableConfig()
	reload.TrailingLogs = 1
	if err := n.raft.ReloadConfig(reload); err != nil {
		return err
	}
	return n.raft.Snapshot().Error()
}

// FirstLog is the first index that this node's log holds.
func (n *Node) FirstLog() uint64 {
	first, _ := n.logs.FirstIndex()
	return first
}

// ForwardTo hands a record to a node as a member does with its own.
func (n *Node) ForwardTo(ctx context.Context, to string, cmd fsm.Command) error {
	_, err := n.peers.of(to).Forward(ctx, &peerpb.ForwardRequest{Command: fsm.EncodeCommand(cmd)})
	return peerError(err)
}

// PushShare sends a share to a node as a leader does.
func (n *Node) PushShare(ctx context.Context, to string, epoch uint64) error {
	call, err := n.peers.of(to).CallKey(ctx, &peerpb.CallKeyRequest{})
	if err != nil {
		return peerError(err)
	}
	_, err = n.peers.of(to).StoreShare(ctx, &peerpb.StoreShareRequest{
		Epoch: epoch, CallKey: call.Id, Sealed: []byte{1}, Nonce: make([]byte, 32),
	})
	return peerError(err)
}

// PushRoot sends a root key of this node's own making to a sealed node.
func (n *Node) PushRoot(ctx context.Context, to string) error {
	cl, _ := n.store.Cluster()
	call, err := n.peers.of(to).CallKey(ctx, &peerpb.CallKeyRequest{})
	if err != nil {
		return peerError(err)
	}
	sealed, err := keyring.SealRootTo(call.PublicKey, keyring.NewRoot(), keyring.Context{Cluster: cl.ID, Generation: cl.RootGeneration}, to)
	if err != nil {
		return err
	}
	_, err = n.peers.of(to).TakeRoot(ctx, &peerpb.TakeRootRequest{CallKey: call.Id, Sealed: sealed})
	return peerError(err)
}

// DutyCommand makes a record in this node's name.
func (n *Node) DutyCommand(kind fsm.Kind, body any, audits ...fsm.Audit) fsm.Command {
	return n.dutyCommand(kind, body, audits...)
}

// HandRootOver does what follows an unsealing by operators, and waits for it.
func (n *Node) HandRootOver(ctx context.Context) { n.handRootOver(ctx) }

// TransferRaw has raft hand leadership to a node that TransferLeadership refuses, as an election may choose it.
func (n *Node) TransferRaw(to string) error {
	return n.raft.LeadershipTransferToServer(raft.ServerID(to), raft.ServerAddress(to)).Error()
}

// Begin is a recovery whose process dies before it has rewritten anything.
func (o *Offline) Begin(ctx context.Context, p *Plan) error { return o.begin(ctx, p, time.Now()) }

// Room is how much is free where dir lies, and its file system's size.
func Room(dir string) (free, total uint64, err error) { return room(dir) }
