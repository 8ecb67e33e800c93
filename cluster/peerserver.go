package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/hizo/hizo/cluster/peerpb"
	"github.com/hizo/hizo/fsm"
)

// serve starts both services of the peer port.
func (n *Node) serve() {
	options := func(streams uint32) []grpc.ServerOption {
		return []grpc.ServerOption{
			grpc.Creds(n.cfg.Transport.Credentials()),
			grpc.MaxRecvMsgSize(maxPeerMessage), grpc.MaxSendMsgSize(maxPeerMessage),
			grpc.MaxConcurrentStreams(streams),
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
			grpc.WaitForHandlers(true),
		}
	}
	peers := grpc.NewServer(options(64)...)
	peerpb.RegisterPeersServer(peers, &peerServer{n: n})
	joiners := grpc.NewServer(options(4)...)
	peerpb.RegisterJoiningServer(joiners, &joinServer{n: n, limit: rate.NewLimiter(5, 20)})
	n.servers = []*grpc.Server{peers, joiners}
	for s, l := range map[*grpc.Server]net.Listener{peers: n.cfg.Transport.Peers(), joiners: n.cfg.Transport.Joiners()} {
		n.wg.Go(func() {
			if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) && n.ctx.Err() == nil {
				n.log.Error("the peer service ended", "error", err)
			}
		})
	}
}

// peerServer answers members. Transport has checked the stream's key against the Directory; every handler
// checks the caller against the replicated state again, because rights change while streams live.
type peerServer struct {
	peerpb.UnimplementedPeersServer
	n *Node

	records, work, forwards limits
}

// caller returns the member that calls.
func (s *peerServer) caller(ctx context.Context) (fsm.Member, error) {
	p, ok := s.n.cfg.Transport.PeerOf(ctx)
	if !ok || p.ID == "" {
		return fsm.Member{}, ErrNotAllowed
	}
	m, ok := s.n.store.Member(p.ID)
	if !ok {
		if !s.n.Initialised() {
			return fsm.Member{}, ErrNotInitialised
		}
		return fsm.Member{}, fmt.Errorf("%s: %w", p.ID, ErrNotAllowed)
	}
	if sha256.Sum256(m.Key) != p.Key {
		return fsm.Member{}, fmt.Errorf("%s has another key now: %w", p.ID, ErrNotAllowed)
	}
	return m, nil
}

// trusted is caller for what only approved members that are not quarantined need. The others announce where
// they are, answer their leader, and are told that they get no share.
func (s *peerServer) trusted(ctx context.Context) (fsm.Member, error) {
	m, err := s.caller(ctx)
	if err == nil && !trusted(m) {
		err = fmt.Errorf("%s is not approved: %w", m.ID, ErrNotAllowed)
	}
	return m, err
}

// Bounds of what one member can cause: records in the log, and signatures and keys.
const (
	recordRate, recordBurst = 2, 20
	workRate, workBurst     = 20, 100
)

// limits has one limiter for each member.
type limits struct {
	mu   sync.Mutex
	each map[string]*rate.Limiter
}

func (l *limits) allow(id string, every rate.Limit, burst int) error {
	return l.allowN(id, every, burst, 1)
}

func (l *limits) allowN(id string, every rate.Limit, burst, cost int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.each == nil {
		l.each = make(map[string]*rate.Limiter)
	}
	limiter := l.each[id]
	if limiter == nil {
		limiter = rate.NewLimiter(every, burst)
		l.each[id] = limiter
	}
	if !limiter.AllowN(time.Now(), cost) {
		return ErrOverloaded
	}
	return nil
}

// throttle bounds the records that one member can cause.
func (s *peerServer) throttle(id string) error { return s.records.allow(id, recordRate, recordBurst) }

// worker is trusted for calls that cost a signature or a key.
func (s *peerServer) worker(ctx context.Context) (fsm.Member, error) {
	m, err := s.trusted(ctx)
	if err == nil {
		err = s.work.allow(m.ID, workRate, workBurst)
	}
	return m, err
}

func (s *peerServer) Status(ctx context.Context, req *peerpb.StatusRequest) (*peerpb.StatusReply, error) {
	// A node that has joined has no state yet when its leader asks; its directory knows who that is.
	p, _ := s.n.cfg.Transport.PeerOf(ctx)
	if now, ok := s.n.cfg.Directory.ByKey(p.Key); !ok || !now.Raft {
		return nil, statusOf(ErrNotAllowed)
	}
	reply := &peerpb.StatusReply{Sealed: s.n.keys.sealed(), Applied: s.n.store.Position().Index, DiskLow: s.n.disk.Status().Low}
	if req.GetBrief() {
		return reply, nil
	}
	var err error
	if reply.ShareEpochs, err = s.n.heldShares(ctx); err != nil {
		return nil, statusOf(err)
	}
	return reply, nil
}

func (s *peerServer) Clock(ctx context.Context, _ *peerpb.ClockRequest) (*peerpb.ClockReply, error) {
	if _, err := s.worker(ctx); err != nil {
		return nil, statusOf(err)
	}
	reading, err := s.n.readClock()
	if err != nil {
		return nil, statusOf(err)
	}
	return &peerpb.ClockReply{Time: reading.Time, Signature: reading.Signature}, nil
}

func (s *peerServer) Announce(ctx context.Context, req *peerpb.AnnounceRequest) (*peerpb.AnnounceReply, error) {
	m, err := s.caller(ctx)
	if err == nil {
		err = s.throttle(m.ID)
	}
	if err == nil {
		err = s.n.takeAnnouncement(ctx, m, req.PeerAddr, req.ClientAddr, req.Level)
	}
	if err == nil {
		return &peerpb.AnnounceReply{}, nil
	}
	if elsewhere, ok := errors.AsType[*NotLeaderError](err); ok { // the caller may not know who leads
		return &peerpb.AnnounceReply{Leader: elsewhere.Leader.ID}, nil
	}
	return nil, statusOf(err)
}

func (s *peerServer) Forward(ctx context.Context, req *peerpb.ForwardRequest) (*peerpb.ForwardReply, error) {
	m, err := s.trusted(ctx)
	var cmd fsm.Command
	if err == nil {
		cmd, err = s.forwarded(m.ID, req.Command)
	}
	if err != nil {
		return nil, statusOf(err)
	}
	result, err := s.n.takeForwarded(ctx, m, len(req.Command), cmd)
	if err != nil {
		return nil, statusOf(err)
	}
	return &peerpb.ForwardReply{Code: uint32(result.Code), Index: result.Index, Time: result.Time, Changed: result.Changed}, nil
}

// forwarded charges a record to the member before anything else is done for it.
func (s *peerServer) forwarded(id string, encoded []byte) (fsm.Command, error) {
	if len(encoded) > maxForwarded {
		return fsm.Command{}, ErrTooLarge
	}
	cmd, err := fsm.DecodeCommand(encoded)
	if err != nil || cmd.Kind != fsm.KindRecord {
		return cmd, errors.Join(err, s.throttle(id))
	}
	return cmd, s.forwards.allowN(id, forwardRate, forwardBurst, max(forwardLeast, len(encoded)))
}

func (s *peerServer) Share(ctx context.Context, req *peerpb.ShareRequest) (*peerpb.ShareReply, error) {
	m, err := s.caller(ctx)
	if err == nil {
		err = s.throttle(m.ID)
	}
	if err != nil {
		return nil, statusOf(err)
	}
	sealed, err := s.n.releaseShare(ctx, m, req.Epoch, req.PublicKey)
	if err != nil {
		s.n.log.Warn("refused a share", "to", m.ID, "epoch", req.Epoch, "error", err)
		return nil, statusOf(err)
	}
	return &peerpb.ShareReply{Sealed: sealed}, nil
}

func (s *peerServer) CallKey(ctx context.Context, _ *peerpb.CallKeyRequest) (*peerpb.CallKeyReply, error) {
	m, err := s.worker(ctx)
	if err != nil {
		return nil, statusOf(err)
	}
	id, public, err := s.n.calls.make(m.ID)
	if err != nil {
		return nil, statusOf(err)
	}
	return &peerpb.CallKeyReply{Id: id, PublicKey: public}, nil
}

func (s *peerServer) StoreShare(ctx context.Context, req *peerpb.StoreShareRequest) (*peerpb.StoreShareReply, error) {
	m, err := s.worker(ctx)
	if err != nil {
		return nil, statusOf(err)
	}
	proof, err := s.n.storeShare(ctx, m, req)
	if err != nil {
		s.n.log.Warn("refused to store a share", "from", m.ID, "epoch", req.Epoch, "error", err)
		return nil, statusOf(err)
	}
	return &peerpb.StoreShareReply{Proof: proof}, nil
}

func (s *peerServer) TakeRoot(ctx context.Context, req *peerpb.TakeRootRequest) (*peerpb.TakeRootReply, error) {
	m, err := s.worker(ctx)
	if err == nil {
		err = s.n.takeRoot(ctx, m, req)
	}
	return &peerpb.TakeRootReply{}, statusOf(err)
}

func (s *peerServer) SignCheckpoint(ctx context.Context, req *peerpb.SignCheckpointRequest) (*peerpb.SignCheckpointReply, error) {
	if _, err := s.worker(ctx); err != nil {
		return nil, statusOf(err)
	}
	signature, err := s.n.signCheckpoint(ctx, fsm.Checkpoint{Origin: req.Origin, Size: req.Size, Root: req.Root, Time: req.Time})
	if err != nil {
		return nil, statusOf(err)
	}
	return &peerpb.SignCheckpointReply{Signature: signature}, nil
}
