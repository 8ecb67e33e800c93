package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/crypto/seal/softhsm"
)

// Wreck notes that a fault is about to destroy a node's disk. It says no where that would take more disks than the
// cluster promises to do without: then nothing may be destroyed.
func (c *Cluster) Wreck(n *Node, how string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wrecked[n] == "" && len(c.wrecked) >= (len(c.Nodes)-1)/2 {
		return false
	}
	c.wrecked[n] = how
	return true
}

// Spare takes a note of Wreck back: the node is as good as it was.
func (c *Cluster) Spare(n *Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.wrecked, n)
}

// Wrecked are the nodes that Mend has to replace.
func (c *Cluster) Wrecked() []*Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []*Node
	for _, n := range c.Nodes {
		if c.wrecked[n] != "" {
			list = append(list, n)
		}
	}
	return list
}

// Mend replaces every wrecked node by one without data that joins under the same name.
func (c *Cluster) Mend(ctx context.Context) error {
	for _, n := range c.Wrecked() {
		if err := c.Replace(ctx, n, false); err != nil {
			return fmt.Errorf("replace %s (%s): %w", n.Name, c.wrecked[n], err)
		}
		c.Spare(n)
	}
	return nil
}

// Replace is the documented way back for a node whose disk is gone: it is removed, and joins anew under its old name, with
// its old key or with a new one. It can be called again where it has failed.
func (c *Cluster) Replace(ctx context.Context, n *Node, newKey bool) error {
	if err := n.End(syscall.SIGKILL); err != nil {
		return err
	}
	if err := c.Remove(ctx, n); err != nil {
		return err
	}
	if err := errors.Join(c.Wipe(n, newKey), os.RemoveAll(n.Path("join-token"))); err != nil {
		return err
	}
	n.MustRun()
	if err := n.Start(); err != nil {
		return err
	}
	if err := c.letIn(ctx, n); err != nil {
		return err
	}
	return c.awaitVoter(ctx, n)
}

func (c *Cluster) awaitVoter(ctx context.Context, n *Node) error {
	return Await(ctx, n.Name+" is a voter with a share", func(ctx context.Context) error {
		m, err := c.member(ctx, n)
		if err == nil && (m == nil || !m.GetVoter() || !m.GetHoldsShare() || m.GetQuarantined()) {
			err = fmt.Errorf("it is %v", m)
		}
		return err
	})
}

// Promote gives a node its vote back where it has lost it.
func (c *Cluster) Promote(ctx context.Context, n *Node) error {
	err := Await(ctx, n.Name+" is promoted", func(ctx context.Context) error {
		m, err := c.member(ctx, n)
		if err != nil || m.GetVoter() && !m.GetNonVoter() {
			return err
		}
		_, err = c.Admin.Cluster().Promote(ctx, &hizov1.PromoteRequest{Node: n.Name})
		return err
	})
	if err != nil {
		return err
	}
	return c.awaitVoter(ctx, n)
}

// Release ends a node's quarantine.
func (c *Cluster) Release(ctx context.Context, n *Node) error {
	err := Await(ctx, n.Name+" is out of quarantine", func(ctx context.Context) error {
		m, err := c.member(ctx, n)
		if err != nil || !m.GetQuarantined() {
			return err
		}
		_, err = c.Admin.Cluster().Quarantine(ctx, &hizov1.QuarantineRequest{Node: n.Name, Lift: true})
		return err
	})
	if err != nil {
		return err
	}
	return c.awaitVoter(ctx, n)
}

// Remove removes a node's membership, and has it that there is none.
func (c *Cluster) Remove(ctx context.Context, n *Node) error {
	return Await(ctx, n.Name+" is removed", func(ctx context.Context) error {
		if m, err := c.member(ctx, n); err != nil || m == nil {
			return err
		}
		_, err := c.Admin.Cluster().Remove(ctx, &hizov1.RemoveRequest{Node: n.Name})
		return err
	})
}

// member is what the cluster knows of a node, nil for nothing.
func (c *Cluster) member(ctx context.Context, n *Node) (*hizov1.Member, error) {
	list, err := c.Admin.Cluster().Members(ctx, &hizov1.MembersRequest{})
	if err != nil {
		return nil, err
	}
	for _, m := range list.GetMembers() {
		if m.GetId() == n.Name {
			return m, nil
		}
	}
	return nil, nil
}

// Wipe empties the data directory of a node that does not run, and has its configuration join. With newKey its token is a
// new one as well. The old join token stays where it lies, as it would.
func (c *Cluster) Wipe(n *Node, newKey bool) error {
	entries, err := os.ReadDir(n.Data())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(n.Data(), e.Name())); err != nil {
			return err
		}
	}
	if err := n.Changed(); err != nil {
		return err
	}
	if newKey && c.HSM == "softhsm" {
		if err := os.RemoveAll(n.Path("hsm")); err != nil {
			return err
		}
		if _, err := softhsm.Provision(n.Path("hsm"), "hizo-"+n.Name); err != nil {
			return err
		}
	}
	config, err := os.ReadFile(n.Path("config.yaml"))
	if err != nil || bytes.Contains(config, []byte("join:")) {
		return err
	}
	return os.WriteFile(n.Path("config.yaml"), append(config, "join: {token_file: \""+n.Path("join-token")+"\"}\n"...), 0o600)
}

// letIn gives a node that waits for one its join token, and approves it.
func (c *Cluster) letIn(ctx context.Context, n *Node) error {
	given := false
	return Await(ctx, n.Name+" is approved", func(ctx context.Context) error {
		identity, err := os.ReadFile(n.Path("data", "identity"))
		if err != nil {
			return err
		}
		key := strings.TrimSpace(string(identity))
		if !given {
			token, err := c.Admin.Cluster().CreateJoinToken(ctx, &hizov1.JoinTokenRequest{Node: n.Name, KeyFingerprint: key})
			if err != nil {
				return err
			}
			if err := os.WriteFile(n.Path("join-token"), []byte(token.GetToken()+"\n"), 0o600); err != nil {
				return err
			}
			given = true
		}
		_, err = c.Admin.Cluster().Approve(ctx, &hizov1.ApproveRequest{Node: n.Name, KeyFingerprint: key})
		return err
	})
}

// Voters are the nodes that vote, as the cluster sees it.
func (c *Cluster) Voters(ctx context.Context) ([]*Node, error) {
	list, err := c.Admin.Cluster().Members(ctx, &hizov1.MembersRequest{})
	if err != nil {
		return nil, err
	}
	var out []*Node
	for _, m := range list.GetMembers() {
		if i := slices.IndexFunc(c.Nodes, func(n *Node) bool { return n.Name == m.GetId() }); m.GetVoter() && i >= 0 {
			out = append(out, c.Nodes[i])
		}
	}
	if len(out) == 0 {
		return nil, errors.New("nobody votes")
	}
	return out, nil
}
