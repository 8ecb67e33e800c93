package cluster

import (
	"context"
	"crypto/rand"

	"github.com/hizo/hizo/crypto/shares"
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
