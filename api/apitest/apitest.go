// Package apitest starts a whole cluster with its API in one process: three nodes, gRPC servers over TLS
// on loopback, and an enrolled engineer. Tests of the API, of clients and of faults use it.
//
//	c := apitest.Start(t, apitest.Options{})
//	alice := c.Engineer                       // SecurityEngineer, Operator and Auditor
//	alice.Vaults().CreateVault(ctx, …)
//	bob := c.User("bob")                      // a user without roles, logged in
//	train := c.Workload("train", `permit(…)`) // a workload with a policy, logged in
package apitest

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/cluster/lease"
)

// FastPasswords are argon2id costs for tests.
var FastPasswords = auth.Params{Memory: 64, Time: 1, Threads: 1}

// Password is the one that every user of a test cluster has.
const Password = "correct horse battery"

// Options of a cluster.
type Options struct {
	clustertest.Options
	Limits    api.Limits  // zero: wide ones, because every client of a test has one address
	Passwords auth.Params // zero: FastPasswords

	// Wrap puts something between the API and its node, to make faults.
	Wrap func(id string, node api.Node) api.Node

	// Leases makes the engine of a node's leases; asked once for each node. nil: none.
	Leases func(id string) *lease.Engine
	// Configure changes what a server is made of, such as the engines behind its services.
	Configure func(*api.Config)
}

// Cluster is a running cluster with its API.
type Cluster struct {
	*clustertest.Cluster
	Engineer *Session // SecurityEngineer, Operator, Auditor

	opts    Options
	addrs   map[string]string
	engines map[string]*lease.Engine
	mu      sync.Mutex
	servers map[string]*Server
}

// Server is the API of one node.
type Server struct {
	*api.Server
	Addr string
	done chan struct{}
}

// Session is a client with a token.
type Session struct {
	*client.Client
	Token     string
	Principal string
}

// Start makes a cluster that is ready, with its first engineer logged in.
func Start(t testing.TB, opts Options) *Cluster {
	t.Helper()
	if opts.Passwords == (auth.Params{}) {
		opts.Passwords = FastPasswords
	}
	if opts.Limits.Anonymous.Address == (auth.Rate{}) {
		wide := auth.Rate{Every: 1, Burst: 1 << 20}
		opts.Limits.Anonymous = auth.LimiterConfig{Address: wide, Pair: wide, Account: wide, Total: wide}
	}
	if opts.Limits.Self == (auth.Rate{}) {
		opts.Limits.Self = auth.Rate{Every: 1, Burst: 1 << 20}
	}
	c := &Cluster{
		opts: opts, addrs: make(map[string]string), servers: make(map[string]*Server), engines: make(map[string]*lease.Engine),
	}
	if opts.Leases != nil {
		duties := opts.Duties
		c.opts.Duties = func(id string) (list []cluster.Duty) {
			if duties != nil {
				list = duties(id)
			}
			return append(list, c.engine(id).Duty)
		}
	}
	listeners := make(map[string]net.Listener)
	c.opts.ClientAddr = func(id string) string {
		if addr, ok := c.addrs[id]; ok {
			return addr
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[id], c.addrs[id] = l, l.Addr().String()
		return c.addrs[id]
	}
	code := auth.NewToken(auth.EnrolmentCode)
	hash := code.Hash()
	c.opts.Enrolment = hash[:]
	c.opts.EnrolmentRoles = []string{"SecurityEngineer"}
	c.Cluster = clustertest.Start(t, c.opts.Options)
	t.Cleanup(c.shutdown) // before the nodes stop
	for _, n := range c.Nodes {
		c.serve(n, listeners[n.ID])
	}
	c.Await("certificates for clients", func() bool {
		for _, n := range c.Nodes {
			for _, other := range c.Nodes {
				if m, ok := n.Store().Member(other.ID); !ok || len(m.ClientCert) == 0 {
					return false
				}
			}
		}
		return true
	})
	c.Engineer = c.enrol("alice", code.Reveal())
	for _, role := range []string{"Operator", "Auditor"} {
		c.must(c.Engineer.Identities().GrantRole(t.Context(), &hizov1.RoleRequest{Role: role, Name: "alice"}))
	}
	return c
}

func (c *Cluster) must(_ any, err error) {
	c.T.Helper()
	if err != nil {
		c.T.Fatal(err)
	}
}

// engine is a node's engine of leases, the same over its restarts.
func (c *Cluster) engine(id string) *lease.Engine {
	if c.opts.Leases == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.engines[id] == nil {
		c.engines[id] = c.opts.Leases(id)
	}
	return c.engines[id]
}

func (c *Cluster) serve(n *clustertest.Node, l net.Listener) {
	c.T.Helper()
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", c.addrs[n.ID]); err != nil {
			c.T.Fatalf("listen for the clients of %s: %v", n.ID, err)
		}
	}
	var node api.Node = n.Node
	if c.opts.Wrap != nil {
		node = c.opts.Wrap(n.ID, node)
	}
	clock := c.opts.Clocks[n.ID]
	if clock == nil {
		clock = c.opts.Clock
	}
	if clock == nil {
		clock = &clustertest.Clock{}
	}
	conf := api.Config{
		Node: node, Limits: c.opts.Limits, Passwords: c.opts.Passwords, Clock: clock.Now, Logger: c.opts.Logger, Version: "test",
		Leases: c.engine(n.ID),
	}
	if c.opts.Configure != nil {
		c.opts.Configure(&conf)
	}
	s, err := api.NewServer(conf)
	if err != nil {
		c.T.Fatal(err)
	}
	server := &Server{Server: s, Addr: c.addrs[n.ID], done: make(chan struct{})}
	go func() {
		defer close(server.done)
		_ = s.Serve(l)
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers[n.ID] = server
}

// Server is the API of a node.
func (c *Cluster) Server(id string) *Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.servers[id]
}

func (c *Cluster) stopServer(id string) {
	c.mu.Lock()
	s := c.servers[id]
	delete(c.servers, id)
	c.mu.Unlock()
	if s == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // at once
	_ = s.Shutdown(ctx)
	<-s.done
}

func (c *Cluster) shutdown() {
	for _, n := range c.Nodes {
		c.stopServer(n.ID)
	}
}

// Kill stops a node and its API as a crash would.
func (c *Cluster) Kill(n *clustertest.Node) {
	c.T.Helper()
	c.stopServer(n.ID)
	c.Cluster.Kill(n)
}

// Restart starts a node that was stopped or killed, with its API.
func (c *Cluster) Restart(n *clustertest.Node) {
	c.T.Helper()
	c.stopServer(n.ID)
	c.Cluster.Restart(n)
	c.serve(n, nil)
}

// Addrs are the clients' addresses of all nodes.
func (c *Cluster) Addrs() []string {
	var list []string
	for _, n := range c.Nodes {
		list = append(list, c.addrs[n.ID])
	}
	return list
}

// Addr is a node's address for clients.
func (c *Cluster) Addr(id string) string { return c.addrs[id] }

// Client makes a client of all nodes without a token.
func (c *Cluster) Client() *client.Client { return c.connect(client.Config{Addrs: c.Addrs()}) }

func (c *Cluster) connect(cfg client.Config) *client.Client {
	c.T.Helper()
	cfg.CA = c.CA
	cl, err := client.New(cfg)
	if err != nil {
		c.T.Fatal(err)
	}
	c.T.Cleanup(func() { _ = cl.Close() })
	return cl
}

// As makes a client with a token.
func (c *Cluster) As(login *hizov1.LoginResponse) *Session {
	c.T.Helper()
	return &Session{
		Client: c.connect(client.Config{Addrs: c.Addrs(), Token: client.Token(login.GetToken())}),
		Token:  login.GetToken(), Principal: login.GetPrincipal(),
	}
}

// ClientKey is a random one, as one login needs it.
func ClientKey() []byte {
	b := make([]byte, 32)
	rand.Read(b)
	return b
}

func (c *Cluster) enrol(user, code string) *Session {
	c.T.Helper()
	out, err := c.Client().Auth().Enrol(c.T.Context(), &hizov1.EnrolRequest{
		Code: code, User: user, Password: []byte(Password), ClientKey: ClientKey(),
	})
	if err != nil {
		c.T.Fatalf("enrol %s: %v", user, err)
	}
	return c.As(out)
}

// Login logs a user in by the test password.
func (c *Cluster) Login(user string) *Session {
	c.T.Helper()
	out, err := c.Client().Auth().Login(c.T.Context(), &hizov1.LoginRequest{User: user, Password: []byte(Password)})
	if err != nil {
		c.T.Fatalf("login of %s: %v", user, err)
	}
	return c.As(out)
}

// User makes a user with these roles and logs in.
func (c *Cluster) User(user string, roles ...string) *Session {
	c.T.Helper()
	ctx := c.T.Context()
	c.must(c.Engineer.Identities().CreateUser(ctx, &hizov1.CreateUserRequest{Name: user, Password: []byte(Password)}))
	for _, role := range roles {
		c.must(c.Engineer.Identities().GrantRole(ctx, &hizov1.RoleRequest{Role: role, Name: user}))
	}
	return c.Login(user)
}

// Workload makes a workload with a policy (none, if it is empty) and logs in by a one-time secret id.
func (c *Cluster) Workload(name, policy string) *Session {
	c.T.Helper()
	ctx := c.T.Context()
	c.must(c.Engineer.Identities().CreateWorkload(ctx, &hizov1.CreateWorkloadRequest{Name: name}))
	if policy != "" {
		c.must(c.Engineer.Policies().PutPolicy(ctx, &hizov1.PutPolicyRequest{Name: "workload-" + name, Text: policy}))
	}
	id, err := c.Engineer.Identities().CreateSecretID(ctx, &hizov1.CreateSecretIDRequest{Workload: name})
	if err != nil {
		c.T.Fatal(err)
	}
	out, err := c.Client().Auth().LoginWorkload(ctx, &hizov1.LoginWorkloadRequest{
		Workload: name, SecretId: id.GetSecretId(), ClientKey: ClientKey(),
	})
	if err != nil {
		c.T.Fatalf("login of workload %s: %v", name, err)
	}
	return c.As(out)
}

// Vault makes a vault.
func (c *Cluster) Vault(name string) {
	c.T.Helper()
	c.must(c.Engineer.Vaults().CreateVault(c.T.Context(), &hizov1.CreateVaultRequest{Name: name}))
}

// Put stores a value of one field and returns its version.
func (c *Cluster) Put(vault, path, field, value string) uint32 {
	c.T.Helper()
	out, err := c.Engineer.Secrets().Put(c.T.Context(), &hizov1.PutRequest{
		Vault: vault, Path: path, Fields: map[string][]byte{field: []byte(value)},
	})
	if err != nil {
		c.T.Fatalf("put %s/%s: %v", vault, path, err)
	}
	return out.GetVersion()
}

// Reason is the reason that an error carries, "" for no error.
func Reason(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.Reason
	}
	if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown {
		return s.Code().String()
	}
	return err.Error()
}
