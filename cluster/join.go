package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/hizo/hizo/cluster/peerpb"
	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/fsm"
)

// A join token, as text:
//
//	"hizojoin_" base64url( format(1) cluster(16) secret(32) { key(32) length(1) addr } … check(4) )
//
// It admits one node, named by id and key, once. The addresses and keys are the members' it was made by,
// so that the new node knows whom it hands the secret. check is the front of a SHA-256, for typing errors.
type joinToken struct {
	cluster [16]byte
	secret  [32]byte
	members []Peer // without ids
}

const (
	joinPrefix = "hizojoin_"
	joinFormat = 1

	maxTokenMembers = 16 // one that answers is enough
	maxTokenText    = 8 << 10
)

var errTokenText = errors.New("not a join token: it is mistyped or cut short")

func (t joinToken) text() string {
	b := append([]byte{joinFormat}, t.cluster[:]...)
	b = append(b, t.secret[:]...)
	for _, m := range t.members {
		if len(m.Addr) > 255 {
			continue
		}
		b = append(b, m.Key[:]...)
		b = append(b, byte(len(m.Addr)))
		b = append(b, m.Addr...)
	}
	sum := sha256.Sum256(b)
	return joinPrefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:4]...))
}

func parseJoinToken(text string) (joinToken, error) {
	var t joinToken
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), joinPrefix)
	if !ok || len(encoded) > maxTokenText || strings.ContainsAny(encoded, "\r\n") { // which base64 skips
		return t, errTokenText
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || len(b) < 1+16+32+4 {
		return t, errTokenText
	}
	body, check := b[:len(b)-4], b[len(b)-4:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:4], check) {
		return t, errTokenText
	}
	if body[0] != joinFormat {
		return t, fmt.Errorf("join token of format %d: made by another version of Hizo", body[0])
	}
	copy(t.cluster[:], body[1:])
	copy(t.secret[:], body[17:])
	for rest := body[49:]; len(rest) > 0; {
		if len(rest) < 33 || len(rest) < 33+int(rest[32]) {
			return t, errTokenText
		}
		m := Peer{Addr: string(rest[33 : 33+int(rest[32])])}
		copy(m.Key[:], rest)
		if _, _, err := net.SplitHostPort(m.Addr); err != nil || len(t.members) == maxTokenMembers {
			return t, errTokenText
		}
		t.members = append(t.members, m)
		rest = rest[33+int(rest[32]):]
	}
	if len(t.members) == 0 {
		return t, errTokenText
	}
	return t, nil
}

func joinHash(cluster [16]byte, secret []byte) []byte {
	sum := sha256.Sum256(aad.Tuple("hizo/join/v1", cluster[:], secret))
	return sum[:]
}

// NewJoinToken makes a token for the node of this id and key fingerprint, and the record that makes it
// valid, which the caller authorises and proposes. A nonVoter joins without a vote, for good.
func (n *Node) NewJoinToken(node string, fingerprint [32]byte, ttl time.Duration, nonVoter bool) (string, fsm.JoinTokenPut, error) {
	if !nodeName(node) {
		return "", fsm.JoinTokenPut{}, errNodeName
	}
	ring, err := n.Keyring()
	if err != nil {
		return "", fsm.JoinTokenPut{}, err
	}
	cl, _ := n.store.Cluster()
	t := joinToken{cluster: cl.ID}
	rand.Read(t.secret[:])
	for _, m := range n.store.Members() {
		if m.Approved && !m.Quarantined && len(t.members) < maxTokenMembers {
			t.members = append(t.members, Peer{Addr: m.PeerAddr, Key: sha256.Sum256(m.Key)})
		}
	}
	stored := fsm.JoinToken{
		Hash: joinHash(cl.ID, t.secret[:]), Node: node, Fingerprint: fingerprint[:],
		Expires: max(n.store.Time(), n.unixMilli()) + ttl.Milliseconds(), NonVoter: nonVoter,
	}
	if stored.MAC, err = ring.MAC(cl.MACGeneration, stored.MACDomain(), stored.MACBody()); err != nil {
		return "", fsm.JoinTokenPut{}, err
	}
	return t.text(), fsm.JoinTokenPut{JoinToken: stored}, nil
}

var errNodeName = errors.New("a node's name has 1 to 64 characters of a-z, 0-9, '-', '_' and '.', a letter or digit at both ends, no two dots in a row")

// nodeName is the rule of api/name.Node, which this package may not import.
func nodeName(s string) bool {
	alnum := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
	if s == "" || len(s) > 64 || !alnum(s[0]) || !alnum(s[len(s)-1]) || strings.Contains(s, "..") {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !alnum(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// seedFile is the membership as the join answer had it: whom to let in until the state is as new as that. An
// older state, which a replayed log goes through, knows neither the leader of today nor who was removed.
type seedFile struct {
	Cluster []byte
	Index   uint64 // Raft index that Members are as of
	Members []seedMember
}

type seedMember struct {
	ID, Addr string
	Key      []byte
}

func (s *seedFile) peers() []Peer {
	peers := make([]Peer, 0, len(s.Members))
	for _, m := range s.Members {
		if len(m.Key) == 32 {
			peers = append(peers, Peer{ID: m.ID, Addr: m.Addr, Key: [32]byte(m.Key), Raft: true})
		}
	}
	return peers
}

const seedName = "seeds"

func (n *Node) loadSeeds() error {
	b, err := seal.ReadFile(n.ctx, n.cfg.Seal, n.path(seedName), seedName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil && n.Initialised() {
		n.log.Warn("what the join left cannot be read: the members of the state are taken", "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("what the join left: %w", err)
	}
	var s seedFile
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("what the join left: %w", err)
	}
	n.seeds.Store(&s)
	return nil
}

// Join makes this node a non-voter of the cluster that made the token, and waits until the cluster's state
// begins to arrive. It may be called again with the same token, after any failure or crash.
func (n *Node) Join(ctx context.Context, text string) error {
	n.initMu.Lock()
	defer n.initMu.Unlock()
	if n.Initialised() {
		return ErrAlreadyInitialised
	}
	token, err := parseJoinToken(text)
	if err != nil {
		return err
	}
	if n.seeds.Load() == nil {
		seeds, err := n.askToJoin(ctx, token)
		if err != nil {
			return err
		}
		b, err := json.Marshal(seeds)
		if err != nil {
			return err
		}
		if err := seal.WriteFile(ctx, n.cfg.Seal, n.path(seedName), seedName, b); err != nil {
			return err
		}
		n.seeds.Store(seeds)
	}
	n.refreshDirectory()
	for {
		changed := n.store.Changed()
		if n.Initialised() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("admitted, but the leader has not reached this node at %s yet: %w", n.cfg.AdvertisePeer, ctx.Err())
		case <-n.ctx.Done():
			return ErrShutdown
		}
	}
}

// askToJoin tries the token's members, and whomever they call the leader.
func (n *Node) askToJoin(ctx context.Context, token joinToken) (*seedFile, error) {
	public, err := x509.MarshalPKIXPublicKey(n.cfg.Seal.Identity().Public())
	if err != nil {
		return nil, fmt.Errorf("this node's identity key: %w", err)
	}
	req := &peerpb.JoinRequest{
		Secret: token.secret[:], Node: n.cfg.ID, PublicKey: public, SealKind: string(n.cfg.Seal.Kind()),
		PeerAddr: n.cfg.AdvertisePeer, ClientAddr: n.cfg.AdvertiseClient, Level: n.store.HighestLevel(),
	}
	const pause = 200 * time.Millisecond
	for {
		var errs []error
		ask := append([]Peer(nil), token.members...)
		for i := 0; i < len(ask) && i < 2*len(token.members)+2; i++ {
			reply, err := n.join(ctx, ask[i], req)
			if errors.Is(err, ErrJoinToken) || errors.Is(err, ErrTooOld) {
				return nil, err
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", ask[i].Addr, err))
				continue
			}
			if l := reply.Leader; l != nil && len(l.Key) == 32 {
				ask = append(ask, Peer{ID: l.Id, Addr: l.PeerAddr, Key: [32]byte(l.Key)})
				continue
			}
			if !bytes.Equal(reply.Cluster, token.cluster[:]) {
				return nil, fmt.Errorf("%s belongs to another cluster: %w", ask[i].Addr, ErrJoinToken)
			}
			seeds := &seedFile{Cluster: reply.Cluster, Index: reply.Index}
			for _, m := range reply.Members {
				seeds.Members = append(seeds.Members, seedMember{ID: m.Id, Addr: m.PeerAddr, Key: m.Key})
			}
			return seeds, nil
		}
		n.log.Info("not joined yet", "error", errors.Join(errs...))
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, errors.Join(ctx.Err(), errors.Join(errs...))
		case <-n.ctx.Done():
			timer.Stop()
			return nil, ErrShutdown
		}
	}
}

func (n *Node) join(ctx context.Context, to Peer, req *peerpb.JoinRequest) (*peerpb.JoinReply, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///join", dialOptions(n.cfg.Transport, func(ctx context.Context, _ string) (net.Conn, error) {
		return n.cfg.Transport.DialJoin(ctx, to.Addr, to.Key)
	})...)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	reply, err := peerpb.NewJoiningClient(conn).Join(ctx, req)
	if err != nil {
		return nil, peerError(err)
	}
	return reply, nil
}

// joinServer answers strangers: whoever proves a key and knows a token's secret. Failures are recorded,
// at the rate of limit.
type joinServer struct {
	peerpb.UnimplementedJoiningServer
	n     *Node
	limit *rate.Limiter
}

func (s *joinServer) Join(ctx context.Context, req *peerpb.JoinRequest) (*peerpb.JoinReply, error) {
	if !s.limit.Allow() {
		return nil, statusOf(ErrOverloaded)
	}
	caller, ok := s.n.cfg.Transport.PeerOf(ctx)
	if !ok {
		return nil, statusOf(ErrNotAllowed)
	}
	reply, err := s.n.admit(ctx, caller.Key, req)
	if err != nil {
		s.n.log.Warn("refused a join", "node", req.Node, "key", shortHex(caller.Key[:]), "error", err)
	}
	return reply, statusOf(err)
}

func (n *Node) admit(ctx context.Context, key [32]byte, req *peerpb.JoinRequest) (*peerpb.JoinReply, error) {
	cl, ok := n.store.Cluster()
	if !ok {
		return nil, ErrNotInitialised
	}
	if sha256.Sum256(req.PublicKey) != key || !nodeName(req.Node) || len(req.Secret) != 32 ||
		len(req.PeerAddr) > 255 || len(req.ClientAddr) > 255 || len(req.SealKind) > 32 {
		return nil, ErrNotAllowed
	}
	if !n.IsLeader() {
		leader, ok := n.store.Member(n.leaderInfo().ID)
		if !ok {
			return nil, &NotLeaderError{}
		}
		sum := sha256.Sum256(leader.Key)
		return &peerpb.JoinReply{Leader: &peerpb.Member{Id: leader.ID, PeerAddr: leader.PeerAddr, Key: sum[:]}}, nil
	}
	ring, err := n.Keyring()
	if err != nil {
		return nil, err
	}
	refuse := func(why string) (*peerpb.JoinReply, error) {
		_, err := n.Propose(ctx, fsm.Command{Kind: fsm.KindRecord, Principal: "anonymous", Audits: []fsm.Audit{{
			Action: "join", Resource: "node/" + req.Node, Decision: fsm.Failed, Detail: why + " key=" + shortHex(key[:]),
		}}})
		if err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s: %w", why, ErrJoinToken)
	}
	hash := joinHash(cl.ID, req.Secret)
	token, ok := n.store.JoinToken(hash)
	switch {
	case !ok:
		return refuse("unknown token")
	case verifyMAC(ring, cl.MACGeneration, token.MACDomain(), token.MACBody(), token.MAC) != nil:
		return refuse("token record changed outside the cluster")
	case token.Node != req.Node:
		return refuse("token of another node")
	case !bytes.Equal(token.Fingerprint, key[:]):
		return refuse("token of another key")
	case cl.RequireHardware && req.SealKind == string(seal.Software):
		return refuse("this cluster requires a hardware seal")
	}
	if level := n.store.Level(); max(req.Level, 1) < level {
		return nil, fmt.Errorf("%w (it knows levels up to %d, the cluster is at %d)", ErrTooOld, max(req.Level, 1), level)
	}
	if m, ok := n.store.Member(req.Node); ok && bytes.Equal(m.Key, req.PublicKey) && token.Used {
		if slices.Contains(n.voters(), req.Node) {
			// Its log counted for majorities, and a voter without it could elect a leader that lacks what they
			// acknowledged.
			return refuse("this node was a voter and its data directory is gone: hizo cluster remove " + req.Node + " before it joins again")
		}
		return n.joined(cl), nil // the answer to the first call was lost
	}
	if m, ok := n.store.Member(req.Node); ok {
		return refuse("a member has this name, with " + sameKey(m, req.PublicKey) + " key: if its disk is gone, hizo cluster remove " + req.Node + " and make a new token")
	}
	member := fsm.Member{ID: req.Node, PeerAddr: req.PeerAddr, ClientAddr: req.ClientAddr, Key: req.PublicKey, SealKind: req.SealKind, NonVoter: token.NonVoter, Level: req.Level}
	if member.MAC, err = ring.MAC(cl.MACGeneration, member.MACDomain(), member.MACBody()); err != nil {
		return nil, err
	}
	result, err := n.Propose(ctx, fsm.Command{
		Kind: fsm.KindMemberJoin, Principal: "node/" + req.Node,
		Reads:  []fsm.Read{{Object: fsm.ObjMember(req.Node), Index: n.store.Index(fsm.ObjMember(req.Node))}},
		Audits: []fsm.Audit{{Action: "join", Resource: "node/" + req.Node, Decision: fsm.Allowed}},
		Body:   fsm.EncodeBody(fsm.KindMemberJoin, &fsm.MemberJoin{Token: hash, Member: member}),
	})
	if err != nil {
		return nil, err
	}
	switch result.Code {
	case fsm.CodeOK:
		n.refreshDirectory() // now, not when followState comes to it: the leader dials at once
		return n.joined(cl), nil
	case fsm.CodeUsed:
		return nil, fmt.Errorf("token was used: %w", ErrJoinToken)
	case fsm.CodeExpired:
		return nil, fmt.Errorf("token has expired: %w", ErrJoinToken)
	case fsm.CodeSuperseded, fsm.CodeClock, fsm.CodeFenced, fsm.CodeSealed:
		return nil, codeError(result)
	}
	return nil, fmt.Errorf("%w: %w", ErrJoinToken, codeError(result))
}

func sameKey(m fsm.Member, key []byte) string {
	if bytes.Equal(m.Key, key) {
		return "this"
	}
	return "another"
}

// joined names those members to the new one that it will hear from.
func (n *Node) joined(cl fsm.Cluster) *peerpb.JoinReply {
	reply := &peerpb.JoinReply{Cluster: cl.ID[:]}
	for _, p := range peersOf(n.store.Members(), n.mayVote) {
		if p.Raft {
			reply.Members = append(reply.Members, &peerpb.Member{Id: p.ID, PeerAddr: p.Addr, Key: p.Key[:]})
		}
	}
	reply.Index = n.store.Position().Index // after the members: a state of this index is never older than they are
	return reply
}
