package cluster

import (
	"crypto/sha256"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hizo/hizo/fsm"
)

// Peer is a member as transport needs to know it: Key is SHA-256 of its PKIX public key. Only approved members
// that are not quarantined may open Raft streams: everybody else could depose leaders and dictate logs by them. It is an alias
// of an unnamed type, so that neither package has to import the other.
type Peer = struct {
	ID, Addr string
	Key      [32]byte
	Raft     bool // may open Raft streams to this node
}

// Directory is the pinned membership that transport asks at every accept and dial. It exists before the
// node does, because the port opens first; until the node fills it, it knows nobody.
type Directory struct {
	now   atomic.Pointer[directory]
	moves sync.Map // of id to move: where members are found that are not where the state says
}

// move is an address that holds as long as the state says the other one.
type move struct{ instead, addr string }

type directory struct {
	byID  map[string]Peer
	byKey map[[32]byte]Peer
}

// NewDirectory makes an empty directory.
func NewDirectory() *Directory {
	d := &Directory{}
	d.set(nil)
	return d
}

// Peer finds a member by its id.
func (d *Directory) Peer(id string) (Peer, bool) {
	p, ok := d.now.Load().byID[id]
	if m, moved := d.moves.Load(id); moved && m.(move).instead == p.Addr {
		p.Addr = m.(move).addr
	}
	return p, ok
}

// move says that a member is at another address than the state says, and whether that is news.
func (d *Directory) move(id, addr string) bool {
	p, ok := d.now.Load().byID[id]
	if !ok {
		return false
	}
	if addr == p.Addr {
		_, had := d.moves.LoadAndDelete(id)
		return had
	}
	was, had := d.moves.Swap(id, move{instead: p.Addr, addr: addr})
	return !had || was != move{instead: p.Addr, addr: addr}
}

// ByKey finds a member by its key.
func (d *Directory) ByKey(key [32]byte) (Peer, bool) {
	p, ok := d.now.Load().byKey[key]
	return p, ok
}

// IDs returns the members' ids in order.
func (d *Directory) IDs() []string { return slices.Sorted(maps.Keys(d.now.Load().byID)) }

// set replaces the membership and returns who is no longer in it, has another key now, or may no longer do Raft.
func (d *Directory) set(peers []Peer) (gone []string) {
	next := &directory{byID: make(map[string]Peer, len(peers)), byKey: make(map[[32]byte]Peer, len(peers))}
	for _, p := range peers {
		next.byID[p.ID] = p
		next.byKey[p.Key] = p
	}
	if old := d.now.Swap(next); old != nil {
		for id, p := range old.byID {
			if again, ok := next.byID[id]; !ok || again.Key != p.Key || p.Raft && !again.Raft {
				gone = append(gone, id)
			}
		}
	}
	slices.Sort(gone)
	return gone
}

// trusted says whether a member takes part: the others only follow the log.
func trusted(m fsm.Member) bool { return m.Approved && !m.Quarantined }

// peersOf pins members. Raft streams are for those who vote.
func peersOf(members []fsm.Member, votes func(fsm.Member) bool) []Peer {
	peers := make([]Peer, len(members))
	for i, m := range members {
		peers[i] = Peer{ID: m.ID, Addr: m.PeerAddr, Key: sha256.Sum256(m.Key), Raft: trusted(m) && votes(m)}
	}
	return peers
}
