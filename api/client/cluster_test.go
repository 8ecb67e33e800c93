package client_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

// Three real nodes; the leader dies while clients write. Every put that was acknowledged is there, each once,
// and no failed one is called anything but failed.
func TestFailOverOfARealCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	c := apitest.Start(t, apitest.Options{})
	c.Vault("ml")
	cl, err := client.New(client.Config{Addrs: c.Addrs(), CA: c.CA, Token: client.Token(c.Engineer.Token)})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()

	const writers, each = 4, 25
	var done sync.WaitGroup
	var first sync.Once
	started := make(chan struct{})
	for w := range writers {
		done.Go(func() {
			for i := range each {
				put, err := cl.Secrets().Put(t.Context(), &hizov1.PutRequest{
					Vault: "ml", Path: fmt.Sprintf("writer/%d", w), Fields: map[string][]byte{"f": fmt.Appendf(nil, "%d", i)},
				})
				// A writer has its path to itself: a version beyond its own count is a put that took effect twice.
				if err != nil || put.GetVersion() != uint32(i+1) {
					t.Errorf("writer %d, put %d: version %d, %v", w, i, put.GetVersion(), err)
					return
				}
				first.Do(func() { close(started) })
			}
		})
	}
	<-started
	c.Kill(c.Leader())
	done.Wait()
	for w := range writers {
		got, err := cl.Secrets().Reveal(t.Context(), &hizov1.RevealRequest{Vault: "ml", Path: fmt.Sprintf("writer/%d", w)})
		if err != nil || string(got.GetFields()["f"]) != fmt.Sprint(each-1) || got.GetVersion() != each {
			t.Errorf("writer %d: version %d, %v", w, got.GetVersion(), err)
		}
	}
	// A repetition under one request id has one effect, also when the first answer had come.
	ctx := client.WithRequestID(t.Context(), client.NewRequestID())
	request := &hizov1.PutRequest{Vault: "ml", Path: "once", Fields: map[string][]byte{"f": []byte("x")}}
	for range 2 {
		if put, err := cl.Secrets().Put(ctx, request); err != nil || put.GetVersion() != 1 {
			t.Errorf("version %d, %v", put.GetVersion(), err)
		}
	}
	if _, err := cl.Secrets().Put(ctx, &hizov1.PutRequest{Vault: "ml", Path: "twice", Fields: request.Fields}); !client.IsReason(err, hizov1.ReasonRequestReused) {
		t.Errorf("one id for two requests: %v", err)
	}
	// Without a majority a write ends as unknown or as "no leader", and not as done.
	c.Kill(c.Running()[0])
	short, err := client.New(client.Config{Addrs: c.Addrs(), CA: c.CA, Token: client.Token(c.Engineer.Token), Timeout: 3e9})
	if err != nil {
		t.Fatal(err)
	}
	defer short.Close()
	_, err = short.Secrets().Put(t.Context(), request)
	_, unknown := errors.AsType[*client.UnknownOutcomeError](err)
	if !unknown && !client.IsReason(err, hizov1.ReasonNotLeader) {
		t.Errorf("a minority answered %v", err)
	}
}

// Leadership moves under load, a node is shut down in an orderly way and comes back: calls take longer, and none fails.
func TestPlannedChangesFailNoCall(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	c := apitest.Start(t, apitest.Options{})
	c.Vault("ml")
	const clients = 4
	var done sync.WaitGroup
	var acked atomic.Int64
	stop := make(chan struct{})
	for i := range clients {
		cl, err := client.New(client.Config{Addrs: c.Addrs(), CA: c.CA, Token: client.Token(c.Engineer.Token)})
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		done.Go(func() {
			path := fmt.Sprintf("client/%d", i)
			for n := uint32(1); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				put, err := cl.Secrets().Put(t.Context(), &hizov1.PutRequest{Vault: "ml", Path: path, Fields: map[string][]byte{"f": []byte("x")}})
				if err != nil || put.GetVersion() != n {
					t.Errorf("client %d, put %d: version %d, %v", i, n, put.GetVersion(), err)
					return
				}
				got, err := cl.Secrets().Reveal(t.Context(), &hizov1.RevealRequest{Vault: "ml", Path: path})
				if err != nil || got.GetVersion() != n {
					t.Errorf("client %d, reveal %d: version %d, %v", i, n, got.GetVersion(), err)
					return
				}
				acked.Add(1)
			}
		})
	}
	progress := func(what string) {
		before := acked.Load()
		c.Await("calls after "+what, func() bool { return t.Failed() || acked.Load() > before+2*clients })
	}
	progress("the start")
	for range 3 {
		if _, err := c.Engineer.Cluster().TransferLeader(t.Context(), &hizov1.TransferLeaderRequest{}); err != nil {
			t.Error(err)
		}
		progress("a hand-over")
	}
	leader := c.Leader()
	if err := leader.TransferLeadership(t.Context(), ""); err != nil { // as hizod does before it closes its door
		t.Log(err)
	}
	c.Stop(leader)
	progress("an orderly end")
	c.Restart(leader)
	progress("a return")
	close(stop)
	done.Wait()
}
