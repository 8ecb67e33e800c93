package cluster

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

var (
	// ErrSealed says that this node holds no keys now.
	ErrSealed = errors.New("this node is sealed: enter operators' shares (hizo cluster unseal), or wait until enough nodes are up to unseal each other")
	// ErrNotInitialised says that there is no cluster yet.
	ErrNotInitialised = errors.New("the cluster is not initialised: run hizo cluster init")
	// ErrAlreadyInitialised says that init or join came too late.
	ErrAlreadyInitialised = errors.New("this node already belongs to a cluster: nothing was changed")
	// ErrOverloaded says that too many records wait for their commit. Nothing was proposed.
	ErrOverloaded = errors.New("too many requests are waiting for their commit: try again later")
	// ErrTooLarge says that a record does not fit an entry.
	ErrTooLarge = errors.New("the request is larger than one log record may be (1 MiB)")
	// ErrClockSkew says that this leader's clock is not to be trusted. Nothing was proposed.
	ErrClockSkew = errors.New("this leader's clock is more than 2 s off the clocks of a majority: check time synchronisation on this node")
	// ErrShutdown says that this node is stopping. Nothing was proposed.
	ErrShutdown = errors.New("this node is shutting down: ask another one")
	// ErrCommand says that a record cannot be read back after encoding: a fault of this program.
	ErrCommand = errors.New("the command does not survive its own encoding")
	// ErrNotAllowed says that a node asked for what its membership does not give it.
	ErrNotAllowed = errors.New("refused: this member may not do that")
	// ErrJoinToken says that a join token does not admit this node; the reason stands before it.
	ErrJoinToken = errors.New("the join token does not admit this node: ask for a new one (hizo cluster join-token)")
	// ErrUnknownMember says that there is no such member.
	ErrUnknownMember = errors.New("no such member: see hizo cluster members")
	// ErrNoNodeSet says that nodes cannot unseal each other yet.
	ErrNoNodeSet = errors.New("there is no node set yet (it takes three voters): operators have to unseal")
	// ErrCheckpoint says that this node does not sign a checkpoint.
	ErrCheckpoint = errors.New("checkpoint refused")
)

// LeaderInfo says where the leader serves clients.
type LeaderInfo struct{ ID, ClientAddr string }

// NotLeaderError says that nothing was proposed, because another node leads. Leader is empty where
// nobody is known to.
type NotLeaderError struct{ Leader LeaderInfo }

func (e *NotLeaderError) Error() string {
	if e.Leader.ID == "" {
		return "this node does not lead, and no leader is known now: try again, or try another node"
	}
	return fmt.Sprintf("this node does not lead: ask %s at %s", e.Leader.ID, e.Leader.ClientAddr)
}

// UnknownOutcomeError says that a record was proposed and nobody can say now whether it commits. A retry
// with the same request id takes effect once.
type UnknownOutcomeError struct{ Err error }

func (e *UnknownOutcomeError) Error() string {
	return fmt.Sprintf("the outcome is unknown (%v): retry with the same request id", e.Err)
}

func (e *UnknownOutcomeError) Unwrap() error { return e.Err }

// proposalError sorts what an apply future can answer. Only three errors say for sure that the entry was
// never appended (raft.go: respond in follower and candidate loops and while leadership moves on);
// everything else is unknown, ErrAbortedByRestore included: that future is answered before the
// snapshot exists (api.go, restoreUserSnapshot).
func proposalError(err error, leader func() LeaderInfo) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader),
		errors.Is(err, raft.ErrLeadershipTransferInProgress),
		errors.Is(err, raft.ErrEnqueueTimeout):
		return &NotLeaderError{Leader: leader()}
	}
	return &UnknownOutcomeError{Err: err}
}
