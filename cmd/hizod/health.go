package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

type healthCmd struct {
	Config  string        `required:"" type:"path" help:"Configuration file (YAML) of the node, with observe.listen."`
	Ready   bool          `help:"Ask whether it can serve clients now, not only whether it is alive."`
	Timeout time.Duration `default:"3s" help:"How long to wait for the answer."`
}

// Run asks the node beside it, for health checks of containers and scripts that have no other HTTP client.
func (c *healthCmd) Run() error {
	cfg, err := LoadConfig(c.Config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
	defer cancel()
	text, err := askHealth(ctx, cfg.Observe.Listen, c.Ready)
	if err != nil {
		return err
	}
	fmt.Println(text)
	return nil
}

// maxHealth bounds the answer; real ones are below 1 KiB.
const maxHealth = 64 << 10

// askHealth returns what is well, or an error that says what is not.
func askHealth(ctx context.Context, listen string, ready bool) (string, error) {
	if listen == "" {
		return "", errors.New("observe.listen is not configured, so there is nothing to ask")
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("observe.listen: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost" // whichever of its addresses is listened on
	}
	path, well := "/healthz", "alive"
	if ready {
		path, well = "/readyz", "ready"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+path, nil)
	if err != nil {
		return "", err
	}
	// Without the environment's proxy: the node is on this host.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("the node does not answer: %w", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxHealth))
	if err != nil {
		return "", fmt.Errorf("the node's answer broke off: %w", err)
	}
	if answer.StatusCode == http.StatusOK {
		return well, nil
	}
	return "", fmt.Errorf("not %s: %s", well, healthReasons(body, answer.Status))
}

// healthReasons are the sentences of an answer, or its status where it has none.
func healthReasons(body []byte, status string) string {
	var said struct {
		Reasons []struct{ Reason, Text string }
	}
	if json.Unmarshal(body, &said) != nil || len(said.Reasons) == 0 {
		return status
	}
	var all []string
	for _, r := range said.Reasons {
		all = append(all, r.Reason+": "+r.Text)
	}
	return strings.Join(all, "; ")
}
