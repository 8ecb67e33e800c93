package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hizo/hizo/api/bootstrap"
	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

const (
	devUser      = "admin"
	devOperators = 3 // shares; two of them unseal
	devThreshold = 2
	devLogin     = 12 * time.Hour // a token's life; it is renewed at half of it
)

// devCluster is the running cluster.
type devCluster struct {
	dir     *devDir
	out     *devReport
	nodes   []*devNode
	client  *client.Client
	expires time.Time // of the token in admin.token
}

// start starts every process. Addresses can't move, so a port that something else took meanwhile is an error here
// and not in a log.
func (c *devCluster) start(ctx context.Context) error {
	for _, n := range c.nodes {
		for _, addr := range []string{n.Clients, n.Peers, n.Gossip} {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return err
			}
			if p, err := strconv.Atoi(port); err != nil || !portFree(p) {
				return fmt.Errorf("node %s: %s is taken by another program; end it, or use another --dir", n.Name, addr)
			}
		}
	}
	for _, n := range c.nodes {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := n.start(); err != nil {
			return err
		}
	}
	kind := "a software token each"
	if c.dir.plan.HSM == "softhsm" {
		kind = "a SoftHSM2 token each"
	}
	c.out.step("%d %s started, with %s", len(c.nodes), plural(len(c.nodes), "server process", "server processes"), kind)
	return nil
}

func (c *devCluster) stop() error {
	err := stopNodes(c.nodes, devStopLimit)
	if c.client != nil {
		err = errors.Join(err, c.client.Close())
	}
	return err
}

// bringUp ends when all nodes are unsealed members.
func (c *devCluster) bringUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, devSetupLimit, fmt.Errorf("not done within %v; the nodes' logs are in %s", devSetupLimit, filepath.Join(c.dir.shown, "nodes")))
	defer cancel()
	if c.dir.plan.Ready {
		return c.comeBack(ctx)
	}
	if err := c.initialise(ctx); err != nil {
		return err
	}
	if err := c.enrol(ctx); err != nil {
		return err
	}
	if err := c.join(ctx); err != nil {
		return err
	}
	if err := c.awaitMembers(ctx); err != nil {
		return err
	}
	c.dir.plan.Ready = true
	return c.dir.writePlan()
}

// initialise starts the cluster on the first node and keeps what only this answer holds.
func (c *devCluster) initialise(ctx context.Context) error {
	first := c.nodes[0]
	var file bootstrap.File
	err := first.waitFor(ctx, "it can be initialised", func() (ok bool, err error) {
		if file, err = bootstrap.Read(filepath.Join(first.config.data, "bootstrap")); err != nil {
			return false, err
		}
		// The file is written before the port is open.
		conn, err := net.DialTimeout("tcp", file.Address, time.Second)
		if err != nil {
			return false, err
		}
		return true, conn.Close()
	})
	if err != nil {
		return err
	}
	pin, err := file.Pin()
	if err != nil {
		return err
	}
	recipients, err := c.dir.newOperators(devOperators)
	if err != nil {
		return err
	}
	pinned, err := client.New(client.Config{Addrs: []string{file.Address}, PinnedKey: &pin})
	if err != nil {
		return err
	}
	defer pinned.Close()
	answer, err := pinned.Cluster().Init(ctx, &hizov1.InitRequest{
		BootstrapToken: file.Token, Name: "development", Operators: recipients, Threshold: devThreshold,
	})
	if err != nil {
		return fmt.Errorf("initialise: %w", err)
	}
	if err := c.dir.keep(answer); err != nil {
		return err
	}
	c.out.step("initialised on %s; %d operators' shares, %d of which unseal, are in %s",
		first.Name, devOperators, devThreshold, filepath.Join(c.dir.shown, "operators"))
	if c.client, err = c.dir.client(); err != nil {
		return err
	}
	if err := c.awaitUnsealed(ctx, first); err != nil { // its certificate of the new CA follows on the answer
		return err
	}
	return writeFile(c.dir.path("enrolment"), []byte(answer.EnrolmentCode+"\n"))
}

// enrol makes the first SecurityEngineer, who gives themself the other roles.
func (c *devCluster) enrol(ctx context.Context) error {
	code, err := readSecretLine(c.dir.path("enrolment"))
	if err != nil {
		return err
	}
	password := rand.Text()
	if err := writeFile(c.dir.path("admin.password"), []byte(password+"\n")); err != nil {
		return err
	}
	key := make([]byte, 32)
	rand.Read(key)
	login, err := c.client.Auth().Enrol(ctx, &hizov1.EnrolRequest{Code: code, User: devUser, Password: []byte(password), ClientKey: key})
	if err != nil {
		return fmt.Errorf("enrol the first security engineer: %w", err)
	}
	if err := c.keepToken(login); err != nil {
		return err
	}
	for _, role := range []string{"Operator", "Auditor"} {
		if _, err := c.client.Identities().GrantRole(ctx, &hizov1.RoleRequest{Role: role, Name: devUser}); err != nil {
			return fmt.Errorf("grant %s to %s: %w", role, devUser, err)
		}
	}
	c.out.step("user %s enrolled: SecurityEngineer, Operator, Auditor", devUser)
	return removeFile(c.dir.path("enrolment"))
}

// join lets the other nodes in, each by a token that names its key, and approves those keys.
func (c *devCluster) join(ctx context.Context) error {
	keys := make(map[string]string)
	for _, n := range c.nodes[1:] {
		var key string
		err := n.waitFor(ctx, "it has an identity", func() (ok bool, err error) {
			key, err = readSecretLine(filepath.Join(n.config.data, "identity"))
			return len(key) == 64, err // shorter while it is being written
		})
		if err != nil {
			return err
		}
		token, err := c.client.Cluster().CreateJoinToken(ctx, &hizov1.JoinTokenRequest{Node: n.Name, KeyFingerprint: key})
		if err != nil {
			return fmt.Errorf("join token for %s: %w", n.Name, err)
		}
		if err := writeFile(filepath.Join(n.dir, "join-token"), []byte(token.Token+"\n")); err != nil {
			return err
		}
		keys[n.Name] = key
	}
	for _, n := range c.nodes[1:] {
		err := n.waitFor(ctx, "it has joined", func() (bool, error) {
			members, err := c.members(ctx)
			return members[n.Name] != nil, err
		})
		if err != nil {
			return err
		}
		if _, err := c.client.Cluster().Approve(ctx, &hizov1.ApproveRequest{Node: n.Name, KeyFingerprint: keys[n.Name]}); err != nil {
			return fmt.Errorf("approve %s: %w", n.Name, err)
		}
		c.out.step("%s joined, and its key is approved", n.Name)
	}
	return nil
}

// awaitMembers waits until every node votes, is unsealed and holds a share of the node set. (Below three voters there
// is a node set in development mode only.)
func (c *devCluster) awaitMembers(ctx context.Context) error {
	for _, n := range c.nodes {
		err := n.waitFor(ctx, "it is a voter with a share", func() (bool, error) {
			members, err := c.members(ctx)
			return members[n.Name].GetVoter() && members[n.Name].GetHoldsShare(), err
		})
		if err != nil {
			return err
		}
		if err := c.awaitUnsealed(ctx, n); err != nil {
			return err
		}
	}
	switch len(c.nodes) {
	case 1:
		c.out.step("unsealed; its own token alone unseals it from now on, as only development mode allows")
	default:
		c.out.step("%d voters, unsealed; each holds a share under its own token, so they unseal each other from now on", len(c.nodes))
	}
	return nil
}

func (c *devCluster) members(ctx context.Context) (map[string]*hizov1.Member, error) {
	answer, err := c.client.Cluster().Members(ctx, &hizov1.MembersRequest{})
	if err != nil {
		return nil, err
	}
	byName := make(map[string]*hizov1.Member)
	for _, m := range answer.Members {
		byName[m.Id] = m
	}
	return byName, nil
}

func (c *devCluster) awaitUnsealed(ctx context.Context, n *devNode) error {
	one, err := c.client.Node(n.Clients)
	if err != nil {
		return err
	}
	defer one.Close()
	return n.waitFor(ctx, "it is unsealed", func() (bool, error) {
		status, err := nodeStatus(ctx, one)
		return status.GetInitialised() && !status.GetSealed() && status.GetLeaderId() != "", err
	})
}

// nodeStatus asks one node and does not wait long for a busy one.
func nodeStatus(ctx context.Context, one *client.Client) (*hizov1.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return one.Cluster().Status(ctx, &hizov1.StatusRequest{})
}

// renewToken logs in again at half of the token's life.
func (c *devCluster) renewToken(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(time.Until(c.expires)/2, time.Minute)):
		}
		if err := c.login(ctx); err != nil && ctx.Err() == nil {
			c.out.warn("the token in admin.token could not be renewed: %v", err)
		}
	}
}

func (c *devCluster) login(ctx context.Context) error {
	password, err := readSecretLine(c.dir.path("admin.password"))
	if err != nil {
		return err
	}
	login, err := c.client.Auth().Login(ctx, &hizov1.LoginRequest{User: devUser, Password: []byte(password), TtlSeconds: int64(devLogin.Seconds())})
	if err != nil {
		return fmt.Errorf("login of %s: %w", devUser, err)
	}
	return c.keepToken(login)
}

func (c *devCluster) keepToken(login *hizov1.LoginResponse) error {
	c.expires = time.Unix(login.ExpiresUnix, 0)
	return writeFile(c.dir.path("admin.token"), []byte(login.Token+"\n"))
}

// watch reports nodes that end. The cluster goes on without them, until none is left.
func (c *devCluster) watch(ctx context.Context, cancel context.CancelCauseFunc, endWithLast bool) {
	var mu sync.Mutex
	left := len(c.nodes)
	var all sync.WaitGroup
	for _, n := range c.nodes {
		all.Go(func() {
			select {
			case <-ctx.Done():
				return
			case <-n.done:
			}
			mu.Lock()
			defer mu.Unlock()
			left--
			c.out.step("%s (process %d) %s; %d of %d nodes run", n.Name, n.pid(), n.ended(), left, len(c.nodes))
			if endWithLast && left > 0 {
				c.out.step("to start it again: %s", n.command())
			}
			if endWithLast && left == 0 {
				cancel(errors.New("no node is left"))
			}
		})
	}
	all.Wait()
}

// command is what starts the node by hand.
func (n *devNode) command() string {
	words := make([]string, 0, len(n.config.env)+4)
	for _, v := range n.config.env {
		name, value, _ := strings.Cut(v, "=")
		words = append(words, name+"="+shellWord(value))
	}
	return strings.Join(append(words, shellWord(n.exe), "server", "--config", shellWord(n.config.path)), " ")
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// readSecretLine reads the one line of a small file.
func readSecretLine(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(data)), nil
}
