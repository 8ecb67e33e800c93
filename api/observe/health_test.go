package observe_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/api/observe"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/fsm"
)

// listen starts the listener of a node that is not open yet.
func listen(t *testing.T, id string) *observe.Server {
	t.Helper()
	s, err := observe.Listen(observe.Config{Listen: "127.0.0.1:0", Node: id})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func get(t *testing.T, s *observe.Server, path string) (int, string) {
	t.Helper()
	resp, err := http.Get("http://" + s.Addr() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// await asks until the node is ready, or is not for this reason.
func await(t *testing.T, s *observe.Server, reason string) {
	t.Helper()
	deadline := time.After(clustertest.Patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		code, body := get(t, s, "/readyz")
		var r observe.Readiness
		if err := json.Unmarshal([]byte(body), &r); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if (code == http.StatusOK) != r.Ready || r.Ready != (len(r.Reasons) == 0) {
			t.Fatalf("code %d and body disagree: %s", code, body)
		}
		has := slices.ContainsFunc(r.Reasons, func(r observe.Reason) bool { return r.Reason == reason })
		if reason == "" && r.Ready || has {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never %q: %s", reason, body)
		}
	}
}

func alive(t *testing.T, s *observe.Server) {
	t.Helper()
	if code, body := get(t, s, "/healthz"); code != http.StatusOK {
		t.Errorf("healthz answered %d: %s", code, body)
	}
}

func TestReadyTellsWhyNot(t *testing.T) {
	c := clustertest.New(t, clustertest.Options{})
	first := c.Nodes[0]
	s := listen(t, first.ID)
	await(t, s, observe.Starting)
	alive(t, s)
	s.Attach(first, observe.Parts{})
	await(t, s, observe.NotInitialised)
	alive(t, s)
	c.Init()
	for _, n := range c.Nodes[1:] {
		c.Join(n)
		c.Approve(n.ID)
	}
	c.AwaitReady()
	await(t, s, "")

	// Two of three gone: neither leader nor quorum, and still alive.
	for _, n := range c.Nodes[1:] {
		c.Kill(n)
	}
	await(t, s, observe.Leaderless)
	alive(t, s)
	for _, n := range c.Nodes[1:] {
		c.Restart(n)
	}
	c.AwaitReady()
	await(t, s, "")

	// Sealed on purpose.
	cl, _ := first.Store().Cluster()
	leader := c.Leader()
	cmd := fsm.Command{
		Kind: fsm.KindSealFlag, Principal: "user/dana", Reads: []fsm.Read{{Object: fsm.ObjCluster, Index: cl.Changed}},
		Audits: []fsm.Audit{{Decision: fsm.Allowed, Action: "cluster.seal", Resource: "system"}},
		Body:   fsm.EncodeBody(fsm.KindSealFlag, fsm.SealFlag{Sealed: true}),
	}
	if result, err := leader.Propose(t.Context(), cmd); err != nil || result.Code != fsm.CodeOK {
		t.Fatalf("seal: %+v %v", result, err)
	}
	await(t, s, observe.Sealed)
	alive(t, s)

	s.Stopping()
	await(t, s, observe.Stopping)
	alive(t, s)
}

func TestOnlyReadsAndOnlyItsPaths(t *testing.T) {
	s := listen(t, "n1")
	for path, want := range map[string]int{"/": 404, "/debug/pprof/": 404, "/healthz": 200, "/readyz/": 404} {
		if code, _ := get(t, s, path); code != want {
			t.Errorf("%s answered %d, want %d", path, code, want)
		}
	}
	resp, err := http.Post("http://"+s.Addr()+"/healthz", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST answered %d", resp.StatusCode)
	}
}

// A node whose state hangs is not alive, and probes do not pile up on it.
func TestHangingStateIsNotAlive(t *testing.T) {
	c := clustertest.New(t, clustertest.Options{Nodes: 1})
	node := &hanging{Node: c.Nodes[0].Node, release: make(chan struct{}), asked: make(chan struct{}, 16)}
	s := listen(t, "n1")
	s.Attach(node, observe.Parts{})
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if s.Answers(ctx) {
			t.Error("a hanging state was called alive")
		}
		cancel()
	}
	if n := len(node.asked); n != 1 {
		t.Errorf("%d questions at once", n)
	}
	close(node.release)
	if !s.Answers(t.Context()) {
		t.Error("not alive any more once the state answers")
	}
}

// hanging is a node whose state does not answer until it is released.
type hanging struct {
	*cluster.Node
	asked   chan struct{}
	release chan struct{}
}

func (h *hanging) Store() *fsm.Store {
	h.asked <- struct{}{}
	<-h.release
	return h.Node.Store()
}
