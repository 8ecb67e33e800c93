package transport

import (
	"context"
	"net"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// nodeAddr makes a ServerID an address: in Hizo a Raft ServerAddress is the
// ServerID, so that Dial knows whose key to demand and a node may move.
type nodeAddr string

func (nodeAddr) Network() string  { return "hizo" }
func (a nodeAddr) String() string { return string(a) }

type raftLayer struct {
	*lane
	m *Mux
}

var _ raft.StreamLayer = raftLayer{}

// Raft is the stream layer for a raft.NetworkTransport. Closing it ends Raft's
// streams and leaves the rest of the Mux alone.
func (m *Mux) Raft() raft.StreamLayer { return raftLayer{lane: m.raft, m: m} }

// Dial takes a ServerID as address and resolves it in the Directory now.
func (r raftLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	select {
	case <-r.done:
		return nil, net.ErrClosed
	default:
	}
	again := func() (net.Conn, error) {
		ctx := r.m.ctx
		if timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		return asConn(r.m.dialMember(ctx, string(address), protoRaft))
	}
	if s := r.m.warm.take(string(address)); s != nil {
		return newPooled(s, again), nil
	}
	conn, err := again()
	if err != nil {
		return nil, err
	}
	return newPooled(conn, again), nil
}

// RaftTransport is Raft's transport over this Mux, with the settings that
// hashicorp/raft v1.7.3 needs: pipelining off (its pipeline can deadlock after
// a follower answers Success=false, raft issue 612), a pool of three streams a
// peer and 2 s for one RPC. It supports pre-vote.
func (m *Mux) RaftTransport(logger hclog.Logger) *raft.NetworkTransport {
	if logger == nil {
		logger = hclog.NewNullLogger()
	}
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:          m.Raft(),
		Logger:          logger,
		MaxRPCsInFlight: 1,
		MaxPool:         3,
		Timeout:         2 * time.Second,
	})
}
