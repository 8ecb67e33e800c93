package transport

import (
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"
)

// delegate is memberlist's view of Gossip. memberlist calls most of it under
// its node lock: nothing here may call memberlist back.
type delegate struct{ g *Gossip }

var errNotAdmitted = errors.New("no member by that name")

// NotifyAlive keeps nodes that are no members out of the list. This node itself
// is always let in: it may not have applied its own membership yet, and
// memberlist cannot live without itself.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	if n.Name == d.g.cfg.ID || d.g.cfg.Admit(n.Name) {
		return nil
	}
	return errNotAdmitted
}

// NotifyMerge refuses a join with a list in which nobody is known. One unknown
// name is no reason: a member may have joined that this node has not heard of.
func (d delegate) NotifyMerge(nodes []*memberlist.Node) error {
	for _, n := range nodes {
		if d.NotifyAlive(n) == nil {
			return nil
		}
	}
	return errNotAdmitted
}

func (d delegate) NotifyConflict(existing, other *memberlist.Node) {
	d.g.log.Warn("two nodes use one name in gossip; hints about it are not to be relied on until one stops",
		"name", existing.Name, "known", existing.Address(), "other", other.Address())
}

func (d delegate) NotifyJoin(n *memberlist.Node)   { d.record(n, true) }
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.record(n, true) }
func (d delegate) NotifyLeave(n *memberlist.Node)  { d.record(n, false) }

func (d delegate) record(n *memberlist.Node, alive bool) {
	g := d.g
	if n.Name == g.cfg.ID {
		return
	}
	meta, err := decodeMeta(n.Meta)
	g.mu.Lock()
	defer g.mu.Unlock()
	h, known := g.hints[n.Name]
	if !known || h.Alive != alive {
		h.Since = time.Now()
	}
	h.ID, h.Alive = n.Name, alive
	h.GossipAddr = net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
	// A node that speaks another format is known without its addresses.
	if err == nil {
		h.Meta = meta
	} else {
		h.Meta = Meta{}
	}
	g.hints[n.Name] = h
}

func (d delegate) NodeMeta(limit int) []byte {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	b, err := encodeMeta(d.g.meta)
	if err != nil || len(b) > limit {
		return nil // SetMeta and NewGossip let no such Meta in
	}
	return b
}

// User messages and state are not used.
func (delegate) NotifyMsg([]byte)                {}
func (delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (delegate) LocalState(bool) []byte          { return nil }
func (delegate) MergeRemoteState([]byte, bool)   {}
