// Package observe shows how one node is to machines that watch it: /healthz and /readyz for probes, /metrics for
// Prometheus, and traces for an OpenTelemetry collector. It reads what the other packages count and never takes part in
// what they do; no other package knows Prometheus or OpenTelemetry.
//
// The listener speaks plain HTTP without credentials, so it shows nothing that would be worth protecting more than the
// name of a node: no vault, path, principal or address of a client is in any label.
package observe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/fsm"
)

// Node is what is watched; *cluster.Node is one.
type Node interface {
	Status() cluster.Status
	Numbers() cluster.Numbers
	LeaderPosition(ctx context.Context) (uint64, error)
	Store() *fsm.Store
}

// Config of a Server.
type Config struct {
	Listen  string
	Node    string // name
	Version string
	Logger  *slog.Logger
	Clock   func() time.Time // default time.Now
}

// Server is the observe listener. It is up before its node is, so that a probe does not take a node for dead that reads
// a long log.
type Server struct {
	cfg  Config
	log  *slog.Logger
	http *http.Server
	addr net.Addr
	lag  *lag

	healthy sealHealth
	slow    slowly

	node     atomic.Pointer[attached]
	stopping atomic.Bool
	probe    struct {
		mu   sync.Mutex
		done chan struct{} // of the question under way
	}

	ctx       context.Context // ends before the node closes
	cancel    context.CancelFunc
	followers sync.WaitGroup
	serving   sync.WaitGroup
}

// attached is the node once it is open.
type attached struct {
	Node
	Parts
}

// Parts are what else there is to show; each may be nil.
type Parts struct {
	Calls Calls
	Seal  Seal
	// FailedBackups counts the backups that this node could not make, the tries of its schedule included.
	FailedBackups func() uint64
}

// Calls are counted by the API; *api.Server counts them.
type Calls interface{ Numbers() api.Numbers }

// Applied is how far its state is.
func (a *attached) Applied() uint64 { return a.Store().Position().Index }

// Listen opens the listener and answers probes.
func Listen(cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("observe.listen: %w", err)
	}
	s := &Server{cfg: cfg, log: cfg.Logger.With("component", "observe"), addr: l.Addr(), lag: newLag(cfg.Clock)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", s.handler())
	s.http = &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.serving.Go(func() {
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the observe listener ended", "error", err)
		}
	})
	return s, nil
}

// Addr is where it listens.
func (s *Server) Addr() string { return s.addr.String() }

// Attach shows a node that has opened. It is called once.
func (s *Server) Attach(node Node, parts Parts) {
	a := &attached{node, parts}
	s.node.Store(a)
	if parts.Seal != nil {
		s.followers.Go(func() { s.healthy.follow(s.ctx, parts.Seal) })
	}
	s.followers.Go(func() { s.lag.follow(s.ctx, a) })
}

// Stopping has /readyz say no from now on. Call it before the node closes: what is shown is not read any more.
func (s *Server) Stopping() {
	s.stopping.Store(true)
	s.cancel()
	s.followers.Wait()
}

// Close closes the listener.
func (s *Server) Close() error {
	s.Stopping()
	err := s.http.Close()
	s.serving.Wait()
	return err
}
