// Package api serves the clients of a cluster: login, secrets, identities, policies, audit, cluster.
//
// Every call but the ceremonies of a cluster without keys (Init, Status, Unseal) goes one way, through
// the gate (gate.go); the services say what they want and translate. A node that does not lead answers
// NOT_LEADER and never touches a value.
package api

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/auth/issuer"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/lease"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/fsm"
)

// Node is what the API stands on; *cluster.Node is one.
type Node interface {
	Log
	Ceremonies
	Membership
	Keys

	ID() string
	Initialised() bool
	IsLeader() bool
	TermBegun() bool
	LeaderChanged() <-chan struct{}
	Leader() (cluster.LeaderInfo, bool)
	Keyring() (*keyring.Keyring, error)
	Status() cluster.Status
	SignByCA(statement []byte) ([]byte, error)
	ClientCertificate() (*tls.Certificate, error)
}

// Log is the replicated log and the state it has made.
type Log interface {
	Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error)
	ProposeAfter(ctx context.Context, cmd fsm.Command, enqueued func()) (fsm.Result, error)
	ForwardRecord(ctx context.Context, cmd fsm.Command) (fsm.Result, error) // of this node's clients, from any node
	Store() *fsm.Store
}

// Keys makes the records by which the cluster's own keys are renewed.
type Keys interface {
	VaultKeyBody(vault string) (fsm.KeyAdd, error)
	OperatorsBody(recipients []string, threshold int) (fsm.OperatorsPropose, error)
	Rotatable(subject string) error
}

// Ceremonies begin or unseal a cluster.
type Ceremonies interface {
	Init(ctx context.Context, req cluster.InitRequest) (cluster.InitResult, error)
	SubmitShare(ctx context.Context, text string) (cluster.UnsealProgress, error)
	Progress() cluster.UnsealProgress
}

// Config of a Server.
type Config struct {
	Node           Node
	BootstrapToken string // of an uninitialised node; empty: it can't be initialised here
	Development    bool   // hizod dev: Init marks the cluster
	Limits         Limits
	Leases         *lease.Engine    // nil: there are no leases
	Rotations      Rotations        // nil: no schedule can be set
	Backups        Backups          // nil: there is no place for backups
	Passwords      auth.Params      // zero: auth.DefaultParams
	Clock          func() time.Time // nil: time.Now
	Logger         *slog.Logger
	Tracer         Tracer // nil: nobody follows calls
	Version        string
}

// Server serves the API of one node.
type Server struct {
	conf        Config
	node        Node
	limits      Limits
	log         *slog.Logger
	gate        *gate
	hasher      *auth.Hasher
	paths       *reservations
	tails       chan struct{} // held by open tails and exports
	watches     chan struct{} // held by open watches of the health service
	waits       chan struct{} // held by calls that wait for a leader
	streams     *streams      // open watches of secrets
	hub         *hub
	beats       beats
	meters      *meters
	strangers   *counter // calls under way without a token of this cluster
	connections *counter // open
	grpc        *grpc.Server

	ctx  context.Context // ends open streams and background work
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// NewServer makes a Server. Shutdown ends it, whether or not it has served.
func NewServer(c Config) (*Server, error) {
	c.Limits = c.Limits.withDefaults()
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Passwords == (auth.Params{}) {
		c.Passwords = auth.DefaultParams
	}
	hasher, err := auth.NewHasher(c.Passwords, c.Limits.Hashing)
	if err != nil {
		return nil, err
	}
	s := &Server{
		conf: c, node: c.Node, limits: c.Limits, log: c.Logger.With("component", "api"), hasher: hasher,
		paths: newReservations(), tails: make(chan struct{}, c.Limits.Tails),
		watches: make(chan struct{}, c.Limits.Watches), waits: make(chan struct{}, c.Limits.Waits), strangers: newCounter(c.Limits.Strangers, c.Limits.StrangersEach),
		connections: newCounter(c.Limits.Connections, c.Limits.ConnectionsEach), meters: newMeters(),
	}
	s.gate = &gate{
		node: c.Node, limits: c.Limits, clock: c.Clock, log: s.log,
		callers: newCallers(), verdict: newVerdicts(), floods: newFloods(c.Limits), meters: s.meters, tracer: c.Tracer,
		federation: federation{fetcher: issuer.NewFetcher(time.Now, s.log)},
	}
	s.streams, s.hub = newStreams(c.Limits.Watchers, c.Limits.WatchersEach), newHub(c.Node.Store())
	s.grpc = grpc.NewServer(s.options()...)
	s.register(s.grpc)
	s.meters.register(s.grpc.GetServiceInfo())
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.wg.Go(func() { s.gate.recordFloods(s.ctx) })
	s.wg.Go(func() { s.hub.follow(s.ctx) })
	s.wg.Go(func() { s.recordBeats(s.ctx) })
	return s, nil
}

func (s *Server) register(r *grpc.Server) {
	hizov1.RegisterAuthServiceServer(r, &authService{Server: s})
	hizov1.RegisterVaultServiceServer(r, &vaultService{Server: s})
	hizov1.RegisterSecretServiceServer(r, &secretService{Server: s})
	hizov1.RegisterIdentityServiceServer(r, &identityService{Server: s})
	hizov1.RegisterPolicyServiceServer(r, &policyService{Server: s})
	hizov1.RegisterKeyServiceServer(r, &keyService{Server: s})
	hizov1.RegisterPipelineServiceServer(r, &pipelineService{Server: s})
	hizov1.RegisterAuditServiceServer(r, &auditService{Server: s})
	hizov1.RegisterRotationServiceServer(r, &rotationService{Server: s})
	hizov1.RegisterClusterServiceServer(r, &clusterService{Server: s})
	hizov1.RegisterLeaseServiceServer(r, &leaseService{Server: s})
	hizov1.RegisterWatchServiceServer(r, &watchService{Server: s})
	hizov1.RegisterIssuerServiceServer(r, &issuerService{Server: s})
	hizov1.RegisterBackupServiceServer(r, &backupService{Server: s})
	grpc_health_v1.RegisterHealthServer(r, &healthService{Server: s})
	reflection.Register(r)
}

// Serve serves clients on listener until Shutdown.
func (s *Server) Serve(listener net.Listener) error {
	bounded := &connections{Listener: listener, open: s.connections}
	if err := s.grpc.Serve(bounded); !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// Shutdown lets calls finish while ctx lasts, ends open streams, and writes down what was counted.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop() // tails end, and with them what GracefulStop would wait for
	s.wg.Wait()
	s.gate.federation.fetcher.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
		return ctx.Err()
	}
}
