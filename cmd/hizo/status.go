package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

type clusterStatusCmd struct{}

// nodeStatus is what one address answered.
type nodeStatus struct {
	addr   string
	status *hizov1.StatusResponse
	err    error
}

// Run asks every address. The answer is that of the leader where it can be reached, because that is the newest.
func (clusterStatusCmd) Run(s *session) error {
	nodes, err := s.askNodes()
	if err != nil {
		return err
	}
	best := bestStatus(nodes)
	if best == nil {
		return nodes[0].err
	}
	t := table{rows: [][]string{
		{"cluster", best.GetClusterName() + " " + best.GetClusterId()},
		{"initialised", yesNo(best.GetInitialised())},
		{"sealed", sealedText(best)},
		{"leader", strings.TrimSpace(orDash(best.GetLeaderId()) + " " + best.GetLeaderAddr())},
		{"cluster time", clockMilli(best.GetClusterTimeUnixMs())},
	}}
	if best.GetLevel() > 0 { // with a token only
		t.add("level", fmt.Sprint(best.GetLevel()))
	}
	for _, w := range best.GetWarnings() {
		t.add("warning", w)
	}
	if s.g.Format == "table" {
		if err := s.showTable(t); err != nil {
			return err
		}
		fmt.Fprintln(s.stdout)
		return s.showTable(nodeTable(nodes))
	}
	return s.showStatusJSON(best, nodes)
}

func (s *session) askNodes() ([]nodeStatus, error) {
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	cfg.Timeout = min(cfg.Timeout, 5*time.Second)
	cfg.Patience = time.Second
	path, err := s.tokenPath()
	if err != nil {
		return nil, err
	}
	cfg.Token = client.TokenFile(path)
	all, err := client.New(cfg)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	nodes := make([]nodeStatus, len(all.Addrs()))
	done := make(chan struct{})
	for i, addr := range all.Addrs() {
		go func() {
			nodes[i] = askNode(s.ctx, all, cfg, addr)
			done <- struct{}{}
		}()
	}
	for range nodes {
		<-done
	}
	return nodes, nil
}

func askAnonymously(ctx context.Context, cfg client.Config, n nodeStatus) nodeStatus {
	cfg.Token, cfg.Addrs = nil, []string{n.addr}
	one, err := client.New(cfg)
	if err != nil {
		n.err = err
		return n
	}
	defer one.Close()
	n.status, n.err = one.Cluster().Status(ctx, &hizov1.StatusRequest{})
	return n
}

func askNode(ctx context.Context, all *client.Client, cfg client.Config, addr string) nodeStatus {
	n := nodeStatus{addr: addr}
	one, err := all.Node(addr)
	if err != nil {
		n.err = err
		return n
	}
	defer one.Close()
	n.status, n.err = one.Cluster().Status(ctx, &hizov1.StatusRequest{})
	if client.IsReason(n.err, hizov1.ReasonUnauthenticated) || client.IsReason(n.err, hizov1.ReasonPermissionDenied) {
		// The token has ended or may not see more: what everybody may see is better than nothing.
		return askAnonymously(ctx, cfg, n)
	}
	return n
}

// bestStatus prefers the leader, then who knows one, then who has applied most.
func bestStatus(nodes []nodeStatus) (best *hizov1.StatusResponse) {
	rank := func(st *hizov1.StatusResponse) uint64 {
		r := st.GetAppliedIndex() &^ (3 << 62)
		if st.GetLeaderId() != "" {
			r |= 1 << 62
		}
		if st.GetRole() == "leader" {
			r |= 1 << 63
		}
		return r
	}
	for _, n := range nodes {
		if n.err == nil && (best == nil || rank(n.status) > rank(best)) {
			best = n.status
		}
	}
	return best
}

func sealedText(st *hizov1.StatusResponse) string {
	switch {
	case !st.GetSealed():
		return "no"
	case st.GetSealFlag():
		return fmt.Sprintf("yes, by command (%d of %d shares entered)", st.GetUnsealHave(), st.GetUnsealNeed())
	}
	return fmt.Sprintf("yes (%d of %d shares entered)", st.GetUnsealHave(), st.GetUnsealNeed())
}

func nodeTable(nodes []nodeStatus) table {
	t := table{head: []string{"NODE", "ADDRESS", "ROLE", "SEALED", "SEAL", "TERM", "APPLIED", "VERSION"}}
	for _, n := range nodes {
		if n.err != nil {
			t.add("?", n.addr, "unreachable", "-", "-", "-", "-", "-")
			continue
		}
		st := n.status
		t.add(st.GetNodeId(), n.addr, orDash(st.GetRole()), yesNo(st.GetSealed()), orDash(st.GetSealKind()),
			fmt.Sprint(st.GetTerm()), fmt.Sprint(st.GetAppliedIndex()), orDash(st.GetVersion()))
	}
	return t
}

// showStatusJSON shows the leader's answer with every node's beside it.
func (s *session) showStatusJSON(best *hizov1.StatusResponse, nodes []nodeStatus) error {
	b, err := messageJSON(best)
	if err != nil {
		return err
	}
	type answer struct {
		Address string          `json:"address"`
		Error   string          `json:"error,omitempty"`
		Status  json.RawMessage `json:"status,omitempty"`
	}
	var all []answer
	for _, n := range nodes {
		a := answer{Address: n.addr}
		if n.err != nil {
			a.Error = n.err.Error()
		} else if a.Status, err = messageJSON(n.status); err != nil {
			return err
		}
		all = append(all, a)
	}
	list, err := marshalJSON(all)
	if err != nil {
		return err
	}
	joined := append(bytes.TrimSuffix(b, []byte("}")), `,"nodes":`...)
	return s.showJSON(append(append(joined, list...), '}'))
}
