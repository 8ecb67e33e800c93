package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

type clusterUnsealCmd struct {
	File      []string `arg:"" optional:"" type:"path" help:"Files with a share each, encrypted or not; like --share-file."`
	ShareFile []string `type:"path" sep:"none" placeholder:"FILE" help:"A share, encrypted or not; may be given several times. Without it: standard input, or a prompt."`
	Identity  string   `short:"i" type:"path" placeholder:"FILE" help:"The age identity that opens an encrypted share."`
}

// Run enters shares at one node, the first that can be reached: nodes collect shares in memory and do not pass
// them on, so the operators of one ceremony have to use the same one.
func (c *clusterUnsealCmd) Run(s *session) error {
	shares, err := c.shares(s)
	defer func() {
		for _, share := range shares {
			clear(share)
		}
	}()
	if err != nil {
		return err
	}
	cfg, err := s.config()
	if err != nil {
		return err
	}
	all, err := client.New(cfg)
	if err != nil {
		return err
	}
	defer all.Close()
	for i, addr := range all.Addrs() {
		one, err := all.Node(addr)
		if err != nil {
			return err
		}
		err = c.enter(s, one, addr, shares)
		one.Close()
		if client.IsReason(err, client.ReasonUnreachable) && i < len(all.Addrs())-1 {
			s.note("%v; trying the next node", err)
			continue
		}
		return err
	}
	return nil
}

func (c *clusterUnsealCmd) shares(s *session) ([][]byte, error) {
	var out [][]byte
	for _, path := range slices.Concat(c.File, c.ShareFile) {
		b, err := readFile(path, maxInput)
		if err != nil {
			return out, fmt.Errorf("share: %w", err)
		}
		out = append(out, b)
	}
	if len(out) == 0 {
		b, err := c.typed(s)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	for i, b := range out {
		if !isAge(b) {
			out[i] = bytes.TrimSpace(b)
			continue
		}
		if c.Identity == "" {
			return out, errors.New("the share is encrypted: pass --identity FILE, the age identity of its operator")
		}
		plain, err := openAge(b, c.Identity)
		if err != nil {
			return out, err
		}
		out[i] = bytes.TrimSpace(plain)
	}
	return out, nil
}

func (c *clusterUnsealCmd) typed(s *session) ([]byte, error) {
	if s.interactive() {
		return s.ask("Share (hizoshare1…)")
	}
	return s.stdinSecret("share")
}

func (c *clusterUnsealCmd) enter(s *session, one *client.Client, addr string, shares [][]byte) error {
	for i, share := range shares {
		p, err := one.Cluster().Unseal(s.ctx, &hizov1.UnsealRequest{Share: string(share)})
		if err != nil {
			return err
		}
		if i < len(shares)-1 && p.GetSealed() {
			continue
		}
		t := table{rows: [][]string{{"node", addr}, {"sealed", yesNo(p.GetSealed())}}}
		if p.GetSealed() {
			t.add("shares", fmt.Sprintf("%d of %d", p.GetHave(), p.GetNeed()))
			s.note("the next operator has to use the same node: --addrs %s", addr)
		}
		return s.show(p, t)
	}
	return nil
}
