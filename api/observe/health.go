package observe

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/hizo/hizo/cluster"
)

// Reasons why a node is not ready, as /readyz names them.
const (
	Starting       = "starting"
	Stopping       = "stopping"
	NotInitialised = "not-initialised"
	Sealed         = "sealed"
	Leaderless     = "leaderless"
	Behind         = "behind"
	DiskFull       = "disk-full"
)

// Reason is one of them, with what to do about it.
type Reason struct {
	Reason string `json:"reason"`
	Text   string `json:"text"`
}

// Readiness is what /readyz answers. It holds nothing that hizo status does not tell anybody who asks.
type Readiness struct {
	Ready       bool     `json:"ready"`
	Node        string   `json:"node"`
	Initialised bool     `json:"initialised"`
	Sealed      bool     `json:"sealed"`
	Leading     bool     `json:"leading"`
	Leader      string   `json:"leader"`
	LagMS       int64    `json:"lag_ms"`
	Reasons     []Reason `json:"reasons"`
}

// readiness judges a node by its status and its lag.
func readiness(st cluster.Status, late, silent time.Duration) Readiness {
	r := Readiness{
		Node: st.ID, Initialised: st.Initialised, Sealed: st.Sealed || st.SealedFlag, Leading: st.IsLeader,
		Leader: st.Leader.ID, LagMS: late.Milliseconds(), Reasons: []Reason{},
	}
	no := func(reason, format string, args ...any) {
		r.Reasons = append(r.Reasons, Reason{reason, fmt.Sprintf(format, args...)})
	}
	switch {
	case !st.Initialised:
		no(NotInitialised, "this node belongs to no cluster yet: run hizo cluster init, or give it a join token")
	case st.SealedFlag:
		no(Sealed, "the cluster was sealed on purpose (hizo cluster seal): enter operators' shares with hizo cluster unseal")
	case st.Sealed:
		no(Sealed, "this node holds no keys: wait until enough nodes are up to unseal each other, or enter operators' shares with hizo cluster unseal")
	}
	switch {
	case !st.Initialised:
	case st.Leader.ID == "":
		no(Leaderless, "no leader is known: a majority of the voters has to be up and to reach each other")
	case late > maxLag:
		no(Behind, "the state of this node is %s behind its leader's: it catches up by itself while it can reach the leader and its disk keeps up", late.Round(100*time.Millisecond))
	case silent > 2*maxLag:
		no(Behind, "%s has not told for %s how far it is: this node may be cut off from it", st.Leader.ID, silent.Round(time.Second))
	}
	if d := st.Disk; d.Low {
		no(DiskFull, "%s", d.Say())
	}
	r.Ready = len(r.Reasons) == 0
	return r
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	r := s.Readiness()
	code := http.StatusOK
	if !r.Ready {
		code = http.StatusServiceUnavailable
	}
	answer(w, code, r)
}

// Readiness is what /readyz says.
func (s *Server) Readiness() Readiness {
	node := s.node.Load()
	if s.stopping.Load() || node == nil {
		r := Readiness{Node: s.cfg.Node, Reasons: []Reason{{Starting, "this node opens its state"}}}
		if s.stopping.Load() {
			r.Reasons[0] = Reason{Stopping, "this node shuts down: ask another one"}
		}
		return r
	}
	late, silent := s.lag.behind(node.Applied())
	return readiness(node.Status(), late, silent)
}

// alive bounds how long the state may take to answer. Nothing holds its lock for longer than one entry takes.
const aliveWithin = 3 * time.Second

// Health is what /healthz answers.
type Health struct {
	Alive bool   `json:"alive"`
	Node  string `json:"node"`
	Text  string `json:"text,omitempty"`
}

// healthz says whether the process can work at all; what a restart would not mend, such as a seal, a lost quorum, or a
// full disk, is no reason to end it.
func (s *Server) healthz(w http.ResponseWriter, req *http.Request) {
	h := Health{Alive: true, Node: s.cfg.Node}
	if node := s.node.Load(); node != nil && !s.stopping.Load() {
		h.Alive = s.answers(req.Context(), node)
	}
	code := http.StatusOK
	if !h.Alive {
		code, h.Text = http.StatusServiceUnavailable, "the state of this node does not answer: restart it"
	}
	answer(w, code, h)
}

// answers asks the state for its position; one question at a time, so that a hanging node is not buried under probes.
func (s *Server) answers(ctx context.Context, node *attached) bool {
	ctx, cancel := context.WithTimeout(ctx, aliveWithin)
	defer cancel()
	s.probe.mu.Lock()
	done := s.probe.done
	if done == nil {
		done = make(chan struct{})
		s.probe.done = done
		go func() {
			node.Applied()
			s.probe.mu.Lock()
			s.probe.done = nil
			s.probe.mu.Unlock()
			close(done)
		}()
	}
	s.probe.mu.Unlock()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(body) // or the client is gone
}
