// Package client talks to a Hizo cluster.
//
// A Client takes the addresses of several nodes, finds the leader by itself and stays with it. It is a
// grpc.ClientConnInterface, so the generated stubs are used directly:
//
//	c, err := client.New(client.Config{Addrs: addrs, CA: pem, Token: client.TokenFile(path)})
//	put, err := c.Secrets().Put(ctx, &hizov1.PutRequest{…})
//
// What happens when a call fails:
//
//   - A definite no of one node (it does not lead, is sealed, lost a race) leads to the next attempt: at the
//     leader that the answer names, else at the next address; after every address was tried, with
//     exponential back-off and full jitter. All attempts of one call carry one request id, so a mutation
//     takes effect once, whatever happened to the attempts before.
//   - An attempt whose fate is unknown (the connection broke, the node hangs, the server says
//     UNKNOWN_OUTCOME) is repeated in the same way.
//   - The call ends at its deadline (the context's, or Config.Timeout). A mutation that may have taken effect
//     ends with *UnknownOutcomeError, never with an error that looks like a failure. Everything else is *Error.
//
// Connections are TLS 1.3 and demand a certificate of the cluster's CA that names hizov1.ServerName, or, before
// there is a CA, one pinned key.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hizo/hizo/api/hizov1"
)

// Defaults of Config.
const (
	DefaultTimeout        = 30 * time.Second
	DefaultAttemptTimeout = 5 * time.Second
	DefaultPatience       = 10 * time.Second
	DefaultBackoffBase    = 25 * time.Millisecond
	DefaultBackoffMax     = time.Second
)

// Config of a Client. Addrs and one of CA and PinnedKey are needed.
type Config struct {
	// Addrs are the clients' addresses of some nodes, HOST:PORT.
	Addrs []string
	// CA is the cluster's CA in PEM.
	CA []byte
	// PinnedKey is the SHA-256 of the server's PKIX public key. It stands in for the CA while a cluster is
	// being initialised.
	PinnedKey *[32]byte
	// Token is asked before every attempt; nil for calls that need none.
	Token TokenSource
	// Certificate is shown to the server where it asks for one (LoginCertificate).
	Certificate Certificate
	// Timeout bounds a call whose context has no deadline.
	Timeout time.Duration
	// AttemptTimeout bounds one attempt, so that a node that hangs does not use up the call.
	AttemptTimeout time.Duration
	// Patience is how long to go on while not one node can be reached, or all are sealed and may unseal each other.
	Patience time.Duration
	// BackoffBase and BackoffMax bound the pause after all addresses were tried.
	BackoffBase, BackoffMax time.Duration
	// Logger gets one line for each attempt that is repeated. Default: none.
	Logger *slog.Logger
	// UserAgent names the program.
	UserAgent string
	// Dial replaces the TCP dialler.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Client is safe for concurrent use.
type Client struct {
	pinned bool // to one node
	cfg    Config
	tls    *tls.Config

	mu     sync.Mutex
	addrs  []string         // configured first, then those learned from hints
	conns  map[string]*conn // made at first use
	leader string           // where the last call succeeded or a hint pointed
	closed bool
}

// maxLearned bounds the addresses taken from hints, and so the connections.
const maxLearned = 16

// New checks the configuration. It connects at the first call.
func New(cfg Config) (*Client, error) {
	if len(cfg.Addrs) == 0 {
		return nil, errors.New("no address of a node is known: give at least one as HOST:PORT")
	}
	for _, a := range cfg.Addrs {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			return nil, &AddressError{Address: a}
		}
	}
	conf, err := tlsConfig(cfg)
	if err != nil {
		return nil, err
	}
	cfg.Timeout = orDefault(cfg.Timeout, DefaultTimeout)
	cfg.AttemptTimeout = orDefault(cfg.AttemptTimeout, DefaultAttemptTimeout)
	cfg.Patience = orDefault(cfg.Patience, DefaultPatience)
	cfg.BackoffBase = orDefault(cfg.BackoffBase, DefaultBackoffBase)
	cfg.BackoffMax = max(orDefault(cfg.BackoffMax, DefaultBackoffMax), cfg.BackoffBase)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	var addrs []string
	for _, a := range cfg.Addrs {
		if !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return &Client{cfg: cfg, tls: conf, addrs: addrs, conns: map[string]*conn{}}, nil
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

// Close closes every connection; calls under way end.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var errs []error
	for _, n := range c.conns {
		errs = append(errs, n.grpc.Close())
	}
	clear(c.conns)
	return errors.Join(errs...)
}

// Addrs returns the configured addresses.
func (c *Client) Addrs() []string { return slices.Clone(c.cfg.Addrs) }

// Node returns a client of one node: it follows no hint. Unsealing, status and initialising are asked of
// a node, not of the cluster. It shares nothing with c and is closed on its own.
func (c *Client) Node(addr string) (*Client, error) {
	cfg := c.cfg
	cfg.Addrs = []string{addr}
	n, err := New(cfg)
	if err != nil {
		return nil, err
	}
	n.pinned = true
	return n, nil
}

// Auth returns the stub of the service for logins.
func (c *Client) Auth() hizov1.AuthServiceClient { return hizov1.NewAuthServiceClient(c) }

// Vaults returns the stub of the service for vaults.
func (c *Client) Vaults() hizov1.VaultServiceClient { return hizov1.NewVaultServiceClient(c) }

// Secrets returns the stub of the service for secrets.
func (c *Client) Secrets() hizov1.SecretServiceClient { return hizov1.NewSecretServiceClient(c) }

// Rotations returns the stub of the service for rotations.
func (c *Client) Rotations() hizov1.RotationServiceClient { return hizov1.NewRotationServiceClient(c) }

// Identities returns the stub of the service for users, workloads and roles.
func (c *Client) Identities() hizov1.IdentityServiceClient { return hizov1.NewIdentityServiceClient(c) }

// Policies returns the stub of the service for policies.
func (c *Client) Policies() hizov1.PolicyServiceClient { return hizov1.NewPolicyServiceClient(c) }

// Keys returns the stub of the service for the cluster's own keys.
func (c *Client) Keys() hizov1.KeyServiceClient { return hizov1.NewKeyServiceClient(c) }

// Pipelines returns the stub of the service for pipelines.
func (c *Client) Pipelines() hizov1.PipelineServiceClient { return hizov1.NewPipelineServiceClient(c) }

// Issuers returns the stub of the service for issuers of workload identities and bindings.
func (c *Client) Issuers() hizov1.IssuerServiceClient { return hizov1.NewIssuerServiceClient(c) }

// Audit returns the stub of the audit service.
func (c *Client) Audit() hizov1.AuditServiceClient { return hizov1.NewAuditServiceClient(c) }

// Leases returns the stub of the service for users of databases that are made for one run.
func (c *Client) Leases() hizov1.LeaseServiceClient { return hizov1.NewLeaseServiceClient(c) }

// Cluster returns the stub of the service for nodes.
func (c *Client) Cluster() hizov1.ClusterServiceClient { return hizov1.NewClusterServiceClient(c) }
