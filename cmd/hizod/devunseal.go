package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

// devUnsealPatience is how long the nodes get to unseal each other before the operators' shares are entered.
const devUnsealPatience = 10 * time.Second

// newOperators makes an age identity for each operator and returns their public halves.
func (d *devDir) newOperators(count int) ([]string, error) {
	if err := os.MkdirAll(d.path("operators"), 0o700); err != nil {
		return nil, err
	}
	recipients := make([]string, 0, count)
	for i := range count {
		identity, err := age.GenerateHybridIdentity()
		if err != nil {
			return nil, err
		}
		recipient := identity.Recipient().String()
		text := "# public key: " + recipient + "\n" + identity.String() + "\n"
		if err := writeFile(d.operator(i, "key"), []byte(text)); err != nil {
			return nil, err
		}
		recipients = append(recipients, recipient)
	}
	return recipients, nil
}

func (d *devDir) operator(i int, kind string) string {
	return d.path("operators", strconv.Itoa(i+1)+"."+kind)
}

// keep stores what initialising answered, and only that answer holds.
func (d *devDir) keep(answer *hizov1.InitResponse) error {
	if len(answer.OperatorShares) != devOperators {
		return fmt.Errorf("initialise: %d shares for %d operators", len(answer.OperatorShares), devOperators)
	}
	for i, share := range answer.OperatorShares {
		if err := writeFile(d.operator(i, "share"), share); err != nil {
			return err
		}
	}
	trust := answer.Trust
	if !strings.HasPrefix(trust, "hizo-trust-") {
		trust = "hizo-trust-v1 " + answer.ClusterId + " " + trust
	}
	return errors.Join(
		writeFile(d.path("ca.pem"), answer.CaPem),
		writeFile(d.path("trust"), []byte(strings.TrimSpace(trust)+"\n")),
	)
}

func (d *devDir) client() (*client.Client, error) {
	ca, err := os.ReadFile(d.path("ca.pem"))
	if err != nil {
		return nil, err
	}
	addrs := make([]string, 0, len(d.plan.Nodes))
	for _, n := range d.plan.Nodes {
		addrs = append(addrs, n.Clients)
	}
	return client.New(client.Config{Addrs: addrs, CA: ca, Token: client.TokenFile(d.path("admin.token"))})
}

// comeBack waits until a cluster that was set up before is up again. Its nodes unseal each other; where they can't,
// the operators' shares are entered.
func (c *devCluster) comeBack(ctx context.Context) error {
	var err error
	if c.client, err = c.dir.client(); err != nil {
		return err
	}
	begin := time.Now()
	entered := false
	for _, n := range c.nodes {
		one, err := c.client.Node(n.Clients)
		if err != nil {
			return err
		}
		err = n.waitFor(ctx, "it is unsealed", func() (bool, error) {
			status, err := nodeStatus(ctx, one)
			if err != nil || !status.GetInitialised() || status.GetLeaderId() == "" {
				return false, err
			}
			if status.GetSealed() && time.Since(begin) >= devUnsealPatience {
				entered = true
				return false, c.enterShares(ctx, one)
			}
			return !status.GetSealed(), nil
		})
		one.Close()
		if err != nil {
			return err
		}
	}
	how := "the nodes' own shares"
	if entered {
		how = "the operators' shares"
	}
	c.out.step("the cluster of %s is back, unsealed by %s", c.dir.shown, how)
	return c.login(ctx)
}

// enterShares enters as many operators' shares at one node as it takes.
func (c *devCluster) enterShares(ctx context.Context, one *client.Client) error {
	for i := range devThreshold {
		share, err := c.dir.share(i)
		if err != nil {
			return err
		}
		answer, err := one.Cluster().Unseal(ctx, &hizov1.UnsealRequest{Share: share})
		if err != nil {
			return fmt.Errorf("operator %d's share: %w", i+1, err)
		}
		if !answer.Sealed {
			return nil
		}
	}
	return nil
}

// share decrypts operator i's share.
func (d *devDir) share(i int) (string, error) {
	key, err := os.Open(d.operator(i, "key"))
	if err != nil {
		return "", err
	}
	defer key.Close()
	identities, err := age.ParseIdentities(key)
	if err != nil {
		return "", fmt.Errorf("operator %d's key: %w", i+1, err)
	}
	sealed, err := os.ReadFile(d.operator(i, "share"))
	if err != nil {
		return "", err
	}
	opened, err := age.Decrypt(armor.NewReader(bytes.NewReader(sealed)), identities...)
	if err != nil {
		return "", fmt.Errorf("operator %d's share: %w", i+1, err)
	}
	text, err := io.ReadAll(io.LimitReader(opened, 4<<10))
	if err != nil {
		return "", fmt.Errorf("operator %d's share: %w", i+1, err)
	}
	return strings.TrimSpace(string(text)), nil
}
