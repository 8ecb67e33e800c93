package cluster_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/cluster/logstore"
	"github.com/hizo/hizo/cluster/peerpb"
	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/crypto/seal/software"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/transport"
)

// everybody is the directory of a thief: it lets all of them do everything.
type everybody map[string]transport.Peer

func (d everybody) Peer(id string) (transport.Peer, bool) { p, ok := d[id]; return p, ok }

func (d everybody) ByKey(key [32]byte) (transport.Peer, bool) {
	for _, p := range d {
		if p.Key == key {
			return p, true
		}
	}
	return transport.Peer{}, false
}

// liar says of every record that it has committed.
type liar struct {
	peerpb.UnimplementedPeersServer
	index func() uint64
}

func (l liar) Forward(context.Context, *peerpb.ForwardRequest) (*peerpb.ForwardReply, error) {
	return &peerpb.ForwardReply{Code: uint32(fsm.CodeOK), Index: l.index(), Time: 1}, nil
}

// thief is a process with a member's key and none of its scruples.
type thief struct {
	t    *testing.T
	id   string
	mux  *transport.Mux
	deal shares.Deal
	cl   fsm.Cluster
}

func newThief(t *testing.T, c *clustertest.Cluster, id, addr string, s seal.Seal) *thief {
	t.Helper()
	leader := c.Leader()
	th := &thief{t: t, id: id}
	th.cl, _ = leader.Store().Cluster()
	stored, _ := leader.Store().Deal(th.cl.NodeEpoch)
	if err := th.deal.UnmarshalBinary(stored.Body); err != nil {
		t.Fatal(err)
	}
	all := everybody{}
	for _, m := range leader.Store().Members() {
		all[m.ID] = transport.Peer{ID: m.ID, Addr: m.PeerAddr, Key: sha256.Sum256(m.Key), Raft: true}
	}
	var err error
	if th.mux, err = transport.Listen(transport.Config{Addr: addr, ID: id, Signer: s.Identity(), Directory: all}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = th.mux.Close() })
	return th
}

// lead claims a higher term at every victim and acknowledges whatever they forward, until ctx ends.
func (th *thief) lead(ctx context.Context, term uint64, index func() uint64, victims []*clustertest.Node) {
	server := grpc.NewServer(grpc.Creds(th.mux.Credentials()))
	peerpb.RegisterPeersServer(server, liar{index: index})
	go func() { _ = server.Serve(th.mux.Peers()) }()
	th.t.Cleanup(server.Stop)
	trans := th.mux.RaftTransport(nil)
	th.t.Cleanup(func() { _ = trans.Close() })
	for _, v := range victims {
		go func() {
			for ctx.Err() == nil {
				var reply raft.AppendEntriesResponse
				_ = trans.AppendEntries(raft.ServerID(v.ID), raft.ServerAddress(v.ID), &raft.AppendEntriesRequest{
					//lint:ignore SA1019 a thief fills in what old versions read, too
					RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte(th.id), Addr: []byte(th.id)}, Term: term, Leader: []byte(th.id),
				}, &reply)
				select {
				case <-time.After(30 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}()
	}
}

// ask asks a member for its share until it gets one or ctx ends.
func (th *thief) ask(ctx context.Context, v *clustertest.Node) (shares.Share, bool) {
	conn, err := grpc.NewClient("passthrough:///"+v.ID, grpc.WithTransportCredentials(th.mux.Credentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return th.mux.DialPeer(ctx, v.ID) }))
	if err != nil {
		th.t.Error(err)
		return shares.Share{}, false
	}
	defer conn.Close()
	for ; ctx.Err() == nil; time.Sleep(400 * time.Millisecond) {
		key, err := hybrid.NewKey()
		if err != nil {
			th.t.Error(err)
			break
		}
		call, stop := context.WithTimeout(ctx, 3*time.Second)
		reply, err := peerpb.NewPeersClient(conn).Share(call, &peerpb.ShareRequest{Epoch: th.cl.NodeEpoch, PublicKey: key.Public()})
		stop()
		if err != nil {
			continue
		}
		info := aad.AppendString(nil, "hizo/share/release/v1")
		info = aad.AppendBytes(info, th.cl.ID[:])
		info = aad.AppendUint64(info, th.cl.NodeEpoch)
		info = aad.AppendString(aad.AppendString(info, v.ID), th.id)
		plain, err := key.Open(reply.Sealed, info)
		var share shares.Share
		if err != nil || share.UnmarshalBinary(plain.Reveal()) != nil {
			th.t.Errorf("%s answered what is no share: %v", v.ID, err)
			break
		}
		return share, true
	}
	return shares.Share{}, false
}

// steal asks all victims at once, for as long as ctx lasts, and returns how many gave their share.
func (th *thief) steal(ctx context.Context, victims []*clustertest.Node) int {
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := 0
	for _, v := range victims {
		wg.Go(func() {
			if _, ok := th.ask(ctx, v); ok {
				mu.Lock()
				got++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return got
}

// stealAs has a thief with the key of a member that may not have shares play leader to the others.
func stealAs(t *testing.T, c *clustertest.Cluster, x *clustertest.Node, victims []*clustertest.Node) {
	t.Helper()
	leader := c.Leader()
	term := leader.Status().Term
	c.Kill(x)
	s, err := software.Open(filepath.Join(x.Dir, "seal"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	th := newThief(t, c, x.ID, x.Addr(), s)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	th.lead(ctx, term+100, leader.Store().AuditSize, victims)
	if got := th.steal(ctx, victims); got != 0 {
		t.Errorf("%s got %d shares", x.ID, got)
	}
	if now := c.Leader().Status().Term; now >= term+100 {
		t.Errorf("%s moved the term from %d to %d", x.ID, term, now)
	}
}

// A member that nobody has approved gets no certificate, no share and no say in Raft, whatever it claims.
func TestUnapprovedMemberGetsNothing(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	x := c.Add()
	c.Join(x)
	// The duty that issues certificates has passed by once somebody who came later has one.
	y := c.Add()
	c.Join(y)
	c.Approve(y.ID)
	c.Await("a later member has a certificate", func() bool {
		m, _ := c.Leader().Store().Member(y.ID)
		return len(m.ClientCert) > 0
	})
	if m, _ := c.Leader().Store().Member(x.ID); len(m.ClientCert) > 0 {
		t.Error("an unapproved member has a certificate of the cluster's CA")
	}
	stealAs(t, c, x, c.Nodes[:3])
}

func TestQuarantinedMemberGetsNothing(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	x := c.Nodes[2]
	if x.IsLeader() {
		c.Transfer(x, c.Nodes[0])
	}
	quarantine(t, c, x.ID, true)
	if m, _ := c.Leader().Store().Member(x.ID); len(m.ClientCert) > 0 {
		t.Error("a quarantined member kept its certificate of the cluster's CA")
	}
	for _, n := range c.Nodes[:2] {
		c.Await("the quarantine to apply", func() bool { m, _ := n.Store().Member(x.ID); return m.Quarantined })
	}
	stealAs(t, c, x, c.Nodes[:2])
}

// A member in good standing that calls itself the leader still gets no share without the record of it in the
// holder's own log.
func TestNoShareOnALeadersWord(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	x, victims := c.Nodes[2], c.Nodes[:2]
	if x.IsLeader() {
		c.Transfer(x, c.Nodes[0])
	}
	term := c.Leader().Status().Term
	leader := c.Leader()
	c.Kill(x)
	s, err := software.Open(filepath.Join(x.Dir, "seal"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	th := newThief(t, c, x.ID, x.Addr(), s)
	before := leader.Store().AuditSize()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	// An index that the victims reach by themselves: their clocks and checkpoints go on when the thief pauses.
	th.lead(ctx, term+100, func() uint64 { return leader.Store().Position().Index + 1 }, victims)
	got := th.steal(ctx, victims)
	released := 0
	for r, err := range leader.Store().AuditRecords(before, leader.Store().AuditSize()) {
		if err == nil && r.Action == "share.release" && r.Outcome == fsm.CodeOK {
			released++
		}
	}
	if got > released {
		t.Errorf("%d shares left for %d records", got, released)
	}
}

// One disk's log is edited while the cluster is off: an entry admits and approves the thief's own key, without a
// valid MAC. Sealed holders cannot check MACs; they know whom they verified while they could.
func TestEditedLogGivesNoShare(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	n1, n2 := c.Nodes[0], c.Nodes[1]
	s, err := software.Open(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	th := newThief(t, c, "x", "127.0.0.1:0", s)
	public, err := x509.MarshalPKIXPublicKey(s.Identity().Public())
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := sha256.Sum256(public)
	now := c.Leader().Store().Time()
	for _, n := range c.Nodes {
		c.Kill(n)
	}
	logs, err := logstore.Open(filepath.Join(n1.Dir, "data", "raft.db"), logstore.Config{})
	if err != nil {
		t.Fatal(err)
	}
	last, err := logs.LastIndex()
	var e raft.Log
	if err = errors.Join(err, logs.GetLog(last, &e)); err != nil {
		t.Fatal(err)
	}
	hash := make([]byte, 32)
	hash[0] = 9
	forged := func(kind fsm.Kind, action string, body any) []byte {
		return fsm.EncodeCommand(fsm.Command{Kind: kind, Principal: "user/forged", Body: fsm.EncodeBody(kind, body),
			Audits: []fsm.Audit{{Action: action, Resource: "node/x", Decision: fsm.Allowed}}})
	}
	data := fsm.EncodeEntry(fsm.Entry{Time: now, Records: [][]byte{
		forged(fsm.KindJoinTokenPut, "member.token", &fsm.JoinTokenPut{JoinToken: fsm.JoinToken{Hash: hash, Node: "x", Fingerprint: fingerprint[:], Expires: now + 1e7}}),
		forged(fsm.KindMemberJoin, "join", &fsm.MemberJoin{Token: hash, Member: fsm.Member{ID: "x", PeerAddr: th.mux.Addr().String(), Key: public, SealKind: "pkcs11"}}),
		forged(fsm.KindMemberApprove, "approve", &fsm.MemberApprove{ID: "x", Key: public, MAC: []byte("junk")}),
	}})
	if err := errors.Join(logs.StoreLog(&raft.Log{Index: last + 1, Term: e.Term, Type: raft.LogCommand, Data: data}), logs.Close()); err != nil {
		t.Fatal(err)
	}

	// One share is not enough for the two nodes, so they stay sealed for as long as the thief tries.
	if err := os.RemoveAll(filepath.Join(n1.Dir, "data", "shares")); err != nil {
		t.Fatal(err)
	}
	c.Restart(n1)
	c.Restart(n2)
	c.Leader()
	c.Await("the forged entry to apply", func() bool {
		m, _ := n2.Store().Member("x")
		return m.Approved
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if got := th.steal(ctx, []*clustertest.Node{n2}); got != 0 {
		t.Error("the thief got a share")
	}
	if !n1.Status().Sealed || !n2.Status().Sealed {
		t.Error("the nodes unsealed: this test proves nothing")
	}
	// The members that are members still unseal each other.
	c.Restart(c.Nodes[2])
	c.Await("the nodes to unseal", func() bool { return !n1.Status().Sealed && !n2.Status().Sealed && !c.Nodes[2].Status().Sealed })
}

// A leader that is quarantined leads no more, and lets itself be led.
func TestQuarantinedLeaderIsDeposed(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	x := c.Leader()
	quarantine(t, c, x.ID, true)
	c.Await("another leader", func() bool { return !x.IsLeader() && c.Leader() != x })
	index := c.Must(record("list")).Index
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := x.Store().WaitApplied(ctx, index); err != nil {
		t.Errorf("a quarantined member does not follow: %v", err)
	}
	if c.Leader() == x {
		t.Error("a quarantined member leads")
	}
	quarantine(t, c, x.ID, false)
	c.AwaitReady()
}
