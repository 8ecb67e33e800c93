package transport

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// GossipConfig configures the exchange of hints. Key, Label, CIDRs and Admit
// are all demanded: without a key gossip is plaintext that anybody can forge.
type GossipConfig struct {
	ID        string
	BindAddr  string // host:port, UDP and TCP; port 0 picks one
	Advertise string // host:port that others see, where it differs from BindAddr

	Key   []byte         // 32 bytes, the gossip key in use
	Keys  [][]byte       // older or newer keys that are understood too
	Label string         // the cluster's id: keeps two clusters with one key apart
	CIDRs []netip.Prefix // networks that members live in

	Meta   Meta
	Admit  func(id string) bool // is this a member; must not block, nor call Gossip
	Logger *slog.Logger

	// ReclaimAfter is how long a node must be dead before its name may come
	// back from another address; default 30 s.
	ReclaimAfter time.Duration

	tune func(*memberlist.Config) // tests shorten intervals
}

// Hint is what gossip says about a node. It is never an input to votes,
// membership, clean-up, leadership or time: every holder of the gossip key can
// say anything about anybody.
type Hint struct {
	ID         string
	GossipAddr string
	Meta       Meta
	Alive      bool
	Since      time.Time // local clock, when Alive changed
}

// Gossip exchanges hints with memberlist. Create it with NewGossip.
type Gossip struct {
	cfg  GossipConfig
	log  *slog.Logger
	list *memberlist.Memberlist
	ring *memberlist.Keyring

	closing sync.Mutex // serialises Leave and Close, of which memberlist panics in one order
	closed  bool

	// mu is taken inside memberlist's own locks (delegates): never call
	// memberlist while holding it.
	mu    sync.Mutex
	meta  Meta
	hints map[string]Hint
}

// ErrGossipKey: keys are AES-256.
var ErrGossipKey = errors.New("gossip keys are 32 bytes")

// NewGossip starts to listen; Join makes contact.
func NewGossip(cfg GossipConfig) (*Gossip, error) {
	if cfg.ID == "" || cfg.Label == "" || cfg.Admit == nil || len(cfg.CIDRs) == 0 {
		return nil, errors.New("gossip needs ID, Label, Admit and CIDRs (gossip.allow in the configuration)")
	}
	for _, key := range append([][]byte{cfg.Key}, cfg.Keys...) {
		if len(key) != 32 {
			return nil, ErrGossipKey
		}
	}
	if _, err := encodeMeta(cfg.Meta); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.ReclaimAfter <= 0 {
		cfg.ReclaimAfter = 30 * time.Second
	}
	ring, err := memberlist.NewKeyring(cfg.Keys, cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("gossip keys: %w", err)
	}
	g := &Gossip{
		cfg:   cfg,
		log:   cfg.Logger.With("component", "gossip"),
		ring:  ring,
		meta:  cfg.Meta,
		hints: make(map[string]Hint),
	}
	mc, err := g.memberlistConfig()
	if err != nil {
		return nil, err
	}
	if g.list, err = memberlist.Create(mc); err != nil {
		return nil, fmt.Errorf("start gossip on %s: %w", cfg.BindAddr, err)
	}
	return g, nil
}

func (g *Gossip) memberlistConfig() (*memberlist.Config, error) {
	mc := memberlist.DefaultLANConfig()
	mc.Name = g.cfg.ID
	mc.Label = g.cfg.Label
	mc.Keyring = g.ring
	mc.SecretKey = g.cfg.Key
	mc.GossipVerifyIncoming, mc.GossipVerifyOutgoing = true, true
	mc.DeadNodeReclaimTime = g.cfg.ReclaimAfter
	mc.RequireNodeNames = false // Join has addresses only
	var err error
	if mc.BindAddr, mc.BindPort, err = splitAddr(g.cfg.BindAddr); err != nil {
		return nil, fmt.Errorf("gossip address: %w", err)
	}
	mc.AdvertisePort = mc.BindPort
	if g.cfg.Advertise != "" {
		if mc.AdvertiseAddr, mc.AdvertisePort, err = splitAddr(g.cfg.Advertise); err != nil {
			return nil, fmt.Errorf("advertised gossip address: %w", err)
		}
	}
	for _, p := range g.cfg.CIDRs {
		p = p.Masked()
		mc.CIDRsAllowed = append(mc.CIDRsAllowed, net.IPNet{
			IP:   p.Addr().AsSlice(),
			Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
		})
	}
	mc.Logger = log.New(newGossipLog(g.log), "", 0)
	d := delegate{g}
	mc.Delegate, mc.Events, mc.Alive, mc.Merge, mc.Conflict = d, d, d, d, d
	if g.cfg.tune != nil {
		g.cfg.tune(mc)
	}
	return mc, nil
}

func splitAddr(addr string) (string, int, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port of %q: %w", addr, err)
	}
	return host, int(n), nil
}

// Addr is the address others reach this node's gossip at.
func (g *Gossip) Addr() string {
	n := g.list.LocalNode()
	return net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
}

// Join contacts nodes and says how many answered; the error says why the
// others did not where none did.
func (g *Gossip) Join(addrs []string) (int, error) {
	n, err := g.list.Join(addrs)
	if err != nil {
		return n, fmt.Errorf("gossip join: %w", err)
	}
	return n, nil
}

// SetMeta changes what this node says about itself. It does not wait for it to
// spread; call it at most about once a second.
func (g *Gossip) SetMeta(meta Meta) error {
	if _, err := encodeMeta(meta); err != nil {
		return err
	}
	g.mu.Lock()
	same := g.meta == meta
	g.meta = meta
	g.mu.Unlock()
	if same {
		return nil
	}
	g.closing.Lock()
	defer g.closing.Unlock()
	if g.closed {
		return net.ErrClosed
	}
	// The error says only that the broadcast has not gone out within the
	// nanosecond given to it: it is queued, and pushed with every full sync.
	_ = g.list.UpdateNode(time.Nanosecond)
	return nil
}

// Hints are sorted by ID, without this node itself, and only of nodes that
// Admit knows now.
func (g *Gossip) Hints() []Hint {
	g.mu.Lock()
	var all []Hint
	for _, h := range g.hints {
		all = append(all, h)
	}
	g.mu.Unlock()
	all = slices.DeleteFunc(all, func(h Hint) bool { return !g.cfg.Admit(h.ID) })
	slices.SortFunc(all, func(a, b Hint) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// Hint is the hint about one node.
func (g *Gossip) Hint(id string) (Hint, bool) {
	g.mu.Lock()
	h, ok := g.hints[id]
	g.mu.Unlock()
	return h, ok && g.cfg.Admit(id)
}

// AddKey makes a key understood. To change keys: AddKey on every node, then
// UseKey on every node, then RemoveKey of the old one on every node.
func (g *Gossip) AddKey(key []byte) error {
	if len(key) != 32 {
		return ErrGossipKey
	}
	return g.ring.AddKey(slices.Clone(key))
}

// UseKey makes a key that was added the one to send with.
func (g *Gossip) UseKey(key []byte) error {
	if err := g.ring.UseKey(key); err != nil {
		return fmt.Errorf("use gossip key: add it on every node first: %w", err)
	}
	return nil
}

// RemoveKey forgets a key; the one in use cannot be removed.
func (g *Gossip) RemoveKey(key []byte) error {
	if err := g.ring.RemoveKey(key); err != nil {
		return fmt.Errorf("remove gossip key: %w", err)
	}
	return nil
}

// Leave tells the others that this node goes on purpose, within timeout.
func (g *Gossip) Leave(timeout time.Duration) error {
	g.closing.Lock()
	defer g.closing.Unlock()
	if g.closed {
		return nil
	}
	if err := g.list.Leave(timeout); err != nil {
		return fmt.Errorf("gossip leave: %w", err)
	}
	return nil
}

// Close stops gossip. Without a Leave the others call this node dead after a
// while.
func (g *Gossip) Close() error {
	g.closing.Lock()
	defer g.closing.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	return g.list.Shutdown()
}
