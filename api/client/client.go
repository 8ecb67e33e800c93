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
	DefaultSuspectAfter   = time.Second
	DefaultPatience       = 10 * time.Second
	DefaultBackoffBase    = 25 * time.Millisecond
	DefaultBackoffMax     = time.Second
	DefaultResolveEvery   = 30 * time.Second
	DefaultReturnEvery    = 10 * time.Second
)

// Config of a Client. Addrs and one of CA and PinnedKey are needed.
type Config struct {
	// Addrs are the clients' addresses of some nodes, HOST:PORT. Each address that a name resolves to is a node of its
	// own: one name for the whole cluster is enough.
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
	// SuspectAfter is how long an attempt may take before the other nodes are asked whether one of them leads by now.
	SuspectAfter time.Duration
	// Patience is how long to go on while not one node can be reached, or all are sealed and may unseal each other.
	Patience time.Duration
	// BackoffBase and BackoffMax bound the pause after all addresses were tried.
	BackoffBase, BackoffMax time.Duration
	// Logger gets one line for each attempt that is repeated. Default: none.
	Logger *slog.Logger
	// UserAgent names the program.
	UserAgent string
	// Dial replaces the TCP dialler. It is given names as they stand, unless there is a Resolve as well.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Resolve replaces the resolver of the system. It returns IP addresses.
	Resolve func(ctx context.Context, host string) ([]string, error)
	// ResolveEvery is how long an answer of the resolver is good while nothing fails.
	ResolveEvery time.Duration
	// ReturnEvery is how often a watch that had to leave its node looks whether it can go back.
	ReturnEvery time.Duration
}

// Client is safe for concurrent use.
type Client struct {
	pinned bool // to one node
	cfg    Config
	tls    *tls.Config

	mu        sync.Mutex
	names     []*name            // configured first, then those learned from hints
	conns     map[string]*conn   // by address, made at first use
	health    map[string]*health // by address, of those that failed lately
	leader    string             // address at which the last call succeeded
	resolving chan struct{}      // closed at the end of the look-up under way; nil: there is none
	reserved  time.Time          // when connections in reserve were last seen to
	closed    bool

	looking sync.Mutex // one look for another leader at a time
}

// New checks the configuration. It connects at the first call.
func New(cfg Config) (*Client, error) {
	if len(cfg.Addrs) == 0 {
		return nil, errors.New("no address of a node is known: give at least one as HOST:PORT")
	}
	for _, a := range cfg.Addrs {
		if parseName(a) == nil {
			return nil, &AddressError{Address: a}
		}
	}
	conf, err := tlsConfig(cfg)
	if err != nil {
		return nil, err
	}
	cfg.Timeout = orDefault(cfg.Timeout, DefaultTimeout)
	cfg.AttemptTimeout = orDefault(cfg.AttemptTimeout, DefaultAttemptTimeout)
	cfg.SuspectAfter = orDefault(cfg.SuspectAfter, DefaultSuspectAfter)
	cfg.Patience = orDefault(cfg.Patience, DefaultPatience)
	cfg.ResolveEvery = orDefault(cfg.ResolveEvery, DefaultResolveEvery)
	cfg.ReturnEvery = orDefault(cfg.ReturnEvery, DefaultReturnEvery)
	cfg.BackoffBase = orDefault(cfg.BackoffBase, DefaultBackoffBase)
	cfg.BackoffMax = max(orDefault(cfg.BackoffMax, DefaultBackoffMax), cfg.BackoffBase)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Resolve == nil && cfg.Dial == nil {
		cfg.Resolve = net.DefaultResolver.LookupHost
	}
	c := &Client{cfg: cfg, tls: conf, conns: map[string]*conn{}, health: map[string]*health{}, reserved: time.Now()}
	for _, a := range cfg.Addrs {
		if c.named(a) == nil {
			c.names = append(c.names, c.newName(a))
		}
	}
	return c, nil
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

// Backups returns the stub of the service for backups.
func (c *Client) Backups() hizov1.BackupServiceClient { return hizov1.NewBackupServiceClient(c) }

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
