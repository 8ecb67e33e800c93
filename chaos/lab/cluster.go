package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"text/template"
	"time"

	"filippo.io/age"

	"github.com/hizo/hizo/api/bootstrap"
	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/chaos/disk"
	"github.com/hizo/hizo/chaos/probe"
	"github.com/hizo/hizo/crypto/seal/softhsm"
)

// Config of a Cluster.
type Config struct {
	Dir   string // emptied by the caller
	Hizod string // path of the program
	Nodes int
	HSM   string // softhsm or software
	// Probed says that the program is a build with probes (package probed).
	Probed bool
	// Disks puts each data directory on a disk that can be made a bad one (package disk).
	Disks bool
}

// Cluster is the lab with its nodes as members.
type Cluster struct {
	Config
	Net   *Network
	Nodes []*Node
	CA    []byte
	Trust string // genesis fingerprint
	// Admin is SecurityEngineer, Operator and Auditor; its token lasts longer than any run.
	Admin *client.Client
	token string

	mu      sync.Mutex
	wrecked map[*Node]string // nodes whose disk a fault has destroyed, and how; see member.go
}

var nodeConfig = template.Must(template.New("config").Parse(`node: {{.Name}}
data_dir: {{.Dir}}/data
peers: {listen: "{{.Addr}}:{{.Peer}}"}
clients: {listen: "{{.Addr}}:{{.Client}}"}
gossip: {listen: "{{.Addr}}:{{.Gossip}}", allowed_cidrs: [10.77.0.0/24]}
{{if .Label}}seal:
  type: pkcs11
  pkcs11: {module: "{{.Module}}", token_label: {{.Label}}, pin_file: "{{.PIN}}"}
{{else}}seal: {type: software}
{{end}}{{if .Join}}join: {token_file: "{{.Dir}}/join-token"}
{{end}}raft: {snapshot_mib: 1}
backup: {directory: "{{.Backups}}"}
log: {level: info}
`))

// New lays out the directories and starts the nodes; Up makes them a cluster.
func New(cfg Config) (*Cluster, error) {
	net, err := NewNetwork(cfg.Nodes)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Config: cfg, Net: net, wrecked: map[*Node]string{}}
	if err := os.MkdirAll(c.Backups(), 0o700); err != nil {
		return nil, err
	}
	for i := 1; i <= cfg.Nodes; i++ {
		n := &Node{Number: i, Name: fmt.Sprintf("n%d", i), hizod: cfg.Hizod, Dir: filepath.Join(cfg.Dir, fmt.Sprintf("n%d", i))}
		if err := os.MkdirAll(n.Dir, 0o700); err != nil {
			return nil, err
		}
		if cfg.Probed {
			page := n.Path("control")
			if n.Control, err = probe.Open(page); err != nil {
				return nil, err
			}
			n.env = append(n.env, probe.Env+"="+page)
		}
		if cfg.Disks {
			if err := errors.Join(os.Mkdir(n.Path("disk"), 0o700), os.Mkdir(n.Path("data"), 0o700)); err != nil {
				return nil, err
			}
			if n.Disk, err = disk.Mount(n.Path("disk"), n.Path("data")); err != nil {
				return nil, err
			}
		}
		values := map[string]any{
			"Name": n.Name, "Dir": n.Dir, "Addr": Addr(i), "Peer": PeerPort, "Client": ClientPort, "Gossip": GossipPort, "Join": i > 1, "Backups": c.Backups(),
			"Label": "", "Module": "", "PIN": "",
		}
		if cfg.HSM == "softhsm" {
			token, err := softhsm.Provision(n.Path("hsm"), "hizo-"+n.Name)
			if err != nil {
				return nil, err
			}
			n.env = append(n.env, token.Env())
			values["Label"], values["Module"], values["PIN"] = token.Label, token.Module, token.PINFile
		}
		var b bytes.Buffer
		if err := nodeConfig.Execute(&b, values); err != nil {
			return nil, err
		}
		if err := os.WriteFile(n.Path("config.yaml"), b.Bytes(), 0o600); err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, n)
	}
	for _, n := range c.Nodes {
		if err := n.Start(); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// Backups is the directory that all nodes keep backups in.
func (c *Cluster) Backups() string { return filepath.Join(c.Dir, "backups") }

// Addrs of all nodes for clients.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, 0, len(c.Nodes))
	for _, n := range c.Nodes {
		addrs = append(addrs, n.ClientAddr())
	}
	return addrs
}

// Client makes a client with a token of its own; empty for none.
func (c *Cluster) Client(token string) (*client.Client, error) {
	cfg := client.Config{Addrs: c.Addrs(), CA: c.CA, AttemptTimeout: 2 * time.Second}
	if token != "" {
		cfg.Token = client.Token(token)
	}
	return client.New(cfg)
}

// Await polls until check is content or ctx ends, with check's last complaint.
func Await(ctx context.Context, what string, check func(ctx context.Context) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := check(try)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("until %s: %w: %w", what, ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Up initialises on n1, enrols the administrator, and lets the others in until all are voters with a share.
func (c *Cluster) Up(ctx context.Context) error {
	first := c.Nodes[0]
	var file bootstrap.File
	if err := Await(ctx, "n1 can be initialised", func(context.Context) (err error) {
		file, err = bootstrap.Read(first.Path("data", "bootstrap"))
		return err
	}); err != nil {
		return err
	}
	pin, err := file.Pin()
	if err != nil {
		return err
	}
	var operators []string
	for range 3 {
		id, err := age.GenerateHybridIdentity()
		if err != nil {
			return err
		}
		operators = append(operators, id.Recipient().String())
	}
	pinned, err := client.New(client.Config{Addrs: []string{first.ClientAddr()}, PinnedKey: &pin})
	if err != nil {
		return err
	}
	defer pinned.Close()
	init, err := pinned.Cluster().Init(ctx, &hizov1.InitRequest{BootstrapToken: file.Token, Name: "chaos", Operators: operators, Threshold: 2})
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	c.CA, c.Trust = init.GetCaPem(), init.GetTrust()
	anonymous, err := c.Client("")
	if err != nil {
		return err
	}
	defer anonymous.Close()
	key := make([]byte, 32)
	rand.Read(key)
	var login *hizov1.LoginResponse
	if err := Await(ctx, "the administrator is enrolled", func(ctx context.Context) (err error) {
		login, err = anonymous.Auth().Enrol(ctx, &hizov1.EnrolRequest{Code: init.GetEnrolmentCode(), User: "admin", Password: []byte(rand.Text()), ClientKey: key})
		return err
	}); err != nil {
		return err
	}
	c.token = login.GetToken()
	if c.Admin, err = c.Client(c.token); err != nil {
		return err
	}
	for _, role := range []string{"Operator", "Auditor"} {
		if _, err := c.Admin.Identities().GrantRole(ctx, &hizov1.RoleRequest{Role: role, Name: "admin"}); err != nil {
			return err
		}
	}
	// A run is short: members become voters, and are given up, sooner than they would.
	if _, err := c.Admin.Cluster().SetMembership(ctx, &hizov1.SetMembershipRequest{StabiliseMs: new(int64(500))}); err != nil {
		return err
	}
	for _, n := range c.Nodes[1:] {
		if err := c.letIn(ctx, n); err != nil {
			return err
		}
	}
	return c.AwaitWhole(ctx)
}

// AwaitWhole waits until every node is an unsealed voter with a share and all follow one leader.
func (c *Cluster) AwaitWhole(ctx context.Context) error {
	return Await(ctx, "the cluster is whole", func(ctx context.Context) error {
		leader := ""
		for _, n := range c.Nodes {
			st, err := c.Status(ctx, n)
			switch {
			case err != nil:
				return fmt.Errorf("%s: %w", n.Name, err)
			case st.GetSealed() || st.GetLeaderId() == "":
				return fmt.Errorf("%s: sealed %v, leader %q", n.Name, st.GetSealed(), st.GetLeaderId())
			case leader != "" && st.GetLeaderId() != leader:
				return fmt.Errorf("two leaders: %s and %s", leader, st.GetLeaderId())
			}
			leader = st.GetLeaderId()
		}
		members, err := c.Admin.Cluster().Members(ctx, &hizov1.MembersRequest{})
		if err != nil {
			return err
		}
		for _, m := range members.GetMembers() {
			if !m.GetVoter() || !m.GetHoldsShare() {
				return fmt.Errorf("%s: voter %v, holds a share %v", m.GetId(), m.GetVoter(), m.GetHoldsShare())
			}
		}
		if len(members.GetMembers()) != len(c.Nodes) {
			return fmt.Errorf("%d members", len(members.GetMembers()))
		}
		return nil
	})
}

// Status of one node.
func (c *Cluster) Status(ctx context.Context, n *Node) (*hizov1.StatusResponse, error) {
	one, err := c.Admin.Node(n.ClientAddr())
	if err != nil {
		return nil, err
	}
	defer one.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return one.Cluster().Status(ctx, &hizov1.StatusRequest{})
}

// Leader is the node that most nodes follow, or nil.
func (c *Cluster) Leader(ctx context.Context) *Node {
	votes := map[string]int{}
	for _, n := range c.Nodes {
		if st, err := c.Status(ctx, n); err == nil {
			votes[st.GetLeaderId()]++
		}
	}
	for _, n := range c.Nodes {
		if votes[n.Name] > len(c.Nodes)/2 {
			return n
		}
	}
	return nil
}

// Token of the administrator.
func (c *Cluster) Token() string { return c.token }

// Close ends every process, and every mount. It can be called again.
func (c *Cluster) Close() error {
	var errs []error
	if c.Admin != nil {
		errs = append(errs, c.Admin.Close())
		c.Admin = nil
	}
	for _, n := range c.Nodes {
		errs = append(errs, n.End(syscall.SIGKILL))
		if n.Disk != nil {
			errs = append(errs, n.Disk.Close())
			n.Disk = nil
		}
	}
	return errors.Join(errs...)
}
