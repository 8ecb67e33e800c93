package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/fsm"
)

// knownMembers is whom this node gives its share to while it is sealed. It cannot check MACs then, and its
// log may have been edited on another node's disk or its own; so while it is unsealed it writes the members
// whose MACs it has checked into a file that only its HSM makes. A sealed node may also be dealt a share:
// then the dealer, who knows every share of that deal, names those who may have them, for that deal only.
// A crash leaves the old file or the new one.
type knownMembers struct {
	path string
	seal seal.Seal
	mu   sync.Mutex
	read bool
	file knownFile
}

type knownFile struct {
	Cluster []byte
	Members []knownMember            // as of when this node was unsealed last
	Deals   map[uint64][]knownMember // by epoch, of deals made since
}

type knownMember struct {
	ID                    string
	Key                   []byte // PKIX
	Approved, Quarantined bool
}

func (k knownMember) equal(o knownMember) bool {
	return k.ID == o.ID && bytes.Equal(k.Key, o.Key) && k.Approved == o.Approved && k.Quarantined == o.Quarantined
}

const knownName = "members"

var errUnknownHere = fmt.Errorf("this node has not verified that member while it was unsealed, and is sealed now: %w", ErrNotAllowed)

func (k *knownMembers) load(ctx context.Context) error {
	if k.read {
		return nil
	}
	b, err := seal.ReadFile(ctx, k.seal, k.path, knownName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("the members that this node has verified: %w", err)
	default:
		if err := json.Unmarshal(b, &k.file); err != nil {
			return fmt.Errorf("the members that this node has verified: %w", err)
		}
	}
	k.read = true
	return nil
}

func (k *knownMembers) store(ctx context.Context, next knownFile) error {
	b, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := seal.WriteFile(ctx, k.seal, k.path, knownName, b); err != nil {
		k.read, k.file = false, knownFile{} // what the file holds is not known
		return err
	}
	k.read, k.file = true, next
	return nil
}

// allows says whether a sealed node may give its share of a deal to a member of this id and key.
func (k *knownMembers) allows(ctx context.Context, cluster [16]byte, epoch uint64, m fsm.Member) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(ctx); err != nil {
		return err
	}
	same := func(o knownMember) bool {
		return o.ID == m.ID && bytes.Equal(o.Key, m.Key) && o.Approved && !o.Quarantined
	}
	if !bytes.Equal(k.file.Cluster, cluster[:]) ||
		!slices.ContainsFunc(k.file.Members, same) && !slices.ContainsFunc(k.file.Deals[epoch], same) {
		return fmt.Errorf("%s: %w", m.ID, errUnknownHere)
	}
	return nil
}

// dealt keeps whom the dealer of a deal named; cl says which deals may be forgotten.
func (k *knownMembers) dealt(ctx context.Context, cl fsm.Cluster, epoch uint64, list []knownMember) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(ctx); err != nil {
		return err
	}
	next := knownFile{Cluster: cl.ID[:], Members: k.file.Members, Deals: map[uint64][]knownMember{}}
	if bytes.Equal(k.file.Cluster, cl.ID[:]) {
		maps.Copy(next.Deals, k.file.Deals)
	} else {
		next.Members = nil
	}
	maps.DeleteFunc(next.Deals, func(e uint64, _ []knownMember) bool { return e != cl.NodeEpoch && e < cl.RetiredBelow })
	next.Deals[epoch] = list
	return k.store(ctx, next)
}

// rememberMembers writes the members whose MACs are right into the file. It needs the keys.
func (n *Node) rememberMembers(ctx context.Context) error {
	k := n.known
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(ctx); err != nil {
		n.log.Warn("the file of verified members is made anew", "error", err)
	}
	cl, ok := n.store.Cluster()
	if !ok {
		return ErrNotInitialised
	}
	list, err := n.verifiedMembers(cl)
	if err != nil {
		return err
	}
	if k.read && len(k.file.Deals) == 0 && bytes.Equal(k.file.Cluster, cl.ID[:]) && slices.EqualFunc(k.file.Members, list, knownMember.equal) {
		return nil
	}
	return k.store(ctx, knownFile{Cluster: cl.ID[:], Members: list})
}

func (n *Node) verifiedMembers(cl fsm.Cluster) ([]knownMember, error) {
	ring, err := n.Keyring()
	if err != nil {
		return nil, err
	}
	var list []knownMember
	for _, m := range n.store.Members() {
		if err := verifyMAC(ring, cl.MACGeneration, fsm.MACDomainMember, m.MACBody(), m.MAC); err != nil {
			if n.keys.sealed() {
				return nil, ErrSealed // the keyring was closed meanwhile: no member's fault
			}
			n.log.Error("a member's record was changed outside the cluster", "member", m.ID, "error", err)
			continue
		}
		list = append(list, knownMember{ID: m.ID, Key: m.Key, Approved: m.Approved, Quarantined: m.Quarantined})
	}
	return list, nil
}

// mayHaveShare decides by what this node itself knows: its own state, and the MACs that it checks now or
// has checked while it could.
func (n *Node) mayHaveShare(ctx context.Context, to fsm.Member, epoch uint64) error {
	cl, _ := n.store.Cluster()
	m, ok := n.store.Member(to.ID)
	switch {
	case cl.Sealed:
		return ErrSealed
	case !ok || !bytes.Equal(m.Key, to.Key) || !trusted(m):
		return fmt.Errorf("%s is not an approved member: %w", to.ID, ErrNotAllowed)
	case cl.NodeEpoch != epoch:
		return fmt.Errorf("epoch %d is over, %d is the current one", epoch, cl.NodeEpoch)
	}
	if n.keys.sealed() {
		return n.known.allows(ctx, cl.ID, epoch, m)
	}
	return n.checkMember(m)
}
