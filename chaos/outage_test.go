package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

// TestMinority: one node of three is asked to read and to write. It does neither, says so within the client's time,
// and after the others' return all that was acknowledged before is there.
func TestMinority(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	l.must("", "vault", "create", "ml")
	for i := range 5 {
		l.must(fmt.Sprint("value ", i), "secret", "put", "ml/kept", "f=-", "--cas", fmt.Sprint(i))
	}
	for _, who := range []string{"leader", "follower"} {
		l.sub("the "+who+" is left", func(l *lab) {
			left, gone := l.leader()
			if who == "follower" {
				left, gone[0] = gone[0], left
			}
			for _, n := range gone {
				n.end(syscall.SIGKILL)
			}
			const limit = 1500 * time.Millisecond
			for _, args := range [][]string{
				{"secret", "put", "ml/kept", "f=-", "--cas", "5"},
				{"secret", "get", "ml/kept", "--field", "f"},
			} {
				begin := time.Now()
				r := l.hizo("value 5", append([]string{"--timeout", limit.String()}, args...)...)
				if took := time.Since(begin); took > limit+2*time.Second {
					l.t.Errorf("%v: the answer came after %v, the time given was %v", args, took, limit)
				}
				if r.out != "" {
					l.t.Errorf("%v: answered %q", args, r.out)
				}
				switch {
				case r.code == 2 && strings.Contains(r.err, "a majority of the nodes must run"):
				case r.code == 1 && args[1] == "get" && strings.Contains(r.err, "no answer in time"):
				case r.code == 3 && args[1] == "put" && strings.Contains(r.err, "not known"):
				default:
					l.t.Errorf("%v: exit code %d: %s", args, r.code, r.err)
				}
			}
			if !left.running() {
				l.t.Errorf("%s has ended:\n%s", left.name, tail(left.log(), 12))
			}
			for _, n := range gone {
				n.start()
			}
			l.awaitUnsealed(l.nodes...)
			got := l.must("", "secret", "get", "ml/kept", "--field", "f", "--version", "5")
			if got != "value 4" {
				l.t.Errorf("version 5, which was acknowledged, is %q", got)
			}
			// An unknown outcome may have become either; not both, and nothing else.
			if got := l.must("", "secret", "get", "ml/kept", "--field", "f"); got != "value 4" && got != "value 5" {
				l.t.Errorf("the current value is %q", got)
			}
		})
	}
	l.must("", "audit", "verify")
}

// TestKilledLeader kills the leader again and again while clients write. Each write has one request id over all its
// attempts, whoever makes them. In the end every acknowledged write is there, once.
func TestKilledLeader(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	l.must("", "vault", "create", "ml")

	const writers, kills, perPath = 4, 3, 40 // a secret keeps 100 versions
	type write struct {
		path    string
		version uint32
	}
	var mu sync.Mutex
	acknowledged := make(map[string]write) // by value
	var attempts, count atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				path, value := fmt.Sprintf("w%d/%d", w, i/perPath), fmt.Sprintf("value %d of %d", i, w)
				ctx, cancel := context.WithTimeout(client.WithRequestID(context.Background(), client.NewRequestID()), patience)
				version, err := l.putUntilKnown(ctx, path, value, &attempts)
				cancel()
				if err != nil {
					t.Errorf("%s: %v", value, err)
					return
				}
				mu.Lock()
				acknowledged[value] = write{path, version}
				mu.Unlock()
				count.Add(1)
			}
		})
	}
	progress := func(what string) {
		since := count.Load()
		l.await(what, func() error {
			if now := count.Load(); now < since+20 {
				return fmt.Errorf("%d writes", now-since)
			}
			return nil
		})
	}
	func() {
		defer wg.Wait()
		defer close(stop)
		progress("writes come in")
		for kill := range kills {
			leader, _ := l.leader()
			leader.end(syscall.SIGKILL)
			progress(fmt.Sprintf("writes go on after kill %d", kill+1))
			leader.start()
			l.awaitUnsealed(leader)
		}
	}()
	if t.Failed() {
		t.Log(l.logs())
		return
	}
	t.Logf("%d writes acknowledged, %d of them only at a later attempt of the test's own", len(acknowledged), attempts.Load()-count.Load())

	heads := make(map[string]map[uint32]string)
	for value, w := range acknowledged {
		if heads[w.path] == nil {
			heads[w.path] = make(map[uint32]string)
		}
		if other, taken := heads[w.path][w.version]; taken {
			t.Errorf("%s version %d was acknowledged for %q and for %q", w.path, w.version, other, value)
		}
		heads[w.path][w.version] = value
	}
	for path, values := range heads {
		versions, err := l.Secrets().Versions(l.ctx(), &hizov1.VersionsRequest{Vault: "ml", Path: path})
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		// One writer wrote these one after the other and knows of each: nothing lost, nothing twice.
		if len(versions.GetItems()) != len(values) {
			t.Errorf("%s: %d versions stored, %d writes acknowledged", path, len(versions.GetItems()), len(values))
		}
		for i, item := range versions.GetItems() {
			if item.GetVersion() != uint32(i+1) {
				t.Errorf("%s: version %d stands in place %d", path, item.GetVersion(), i+1)
			}
			got, err := l.Secrets().Reveal(l.ctx(), &hizov1.RevealRequest{Vault: "ml", Path: path, Version: item.GetVersion(), Field: "f"})
			if err != nil {
				t.Errorf("%s version %d: %v", path, item.GetVersion(), err)
			} else if string(got.GetFields()["f"]) != values[item.GetVersion()] {
				t.Errorf("%s version %d is %q, acknowledged was %q", path, item.GetVersion(), got.GetFields()["f"], values[item.GetVersion()])
			}
		}
	}
	l.must("", "audit", "verify")
}

// putUntilKnown puts a value, and as long as the client does not know the outcome, again under the same request id.
func (l *lab) putUntilKnown(ctx context.Context, path, value string, attempts *atomic.Int64) (uint32, error) {
	for {
		attempts.Add(1)
		one, cancel := context.WithTimeout(ctx, time.Second) // shorter than an election takes: outcomes are unknown often
		answer, err := l.Secrets().Put(one, &hizov1.PutRequest{Vault: "ml", Path: path, Fields: map[string][]byte{"f": []byte(value)}})
		cancel()
		if err == nil {
			return answer.GetVersion(), nil
		}
		_, unknown := errors.AsType[*client.UnknownOutcomeError](err)
		if !unknown && !client.IsReason(err, hizov1.ReasonNotLeader) && !client.IsReason(err, client.ReasonUnreachable) && !client.IsReason(err, client.ReasonTimeout) && !client.IsReason(err, hizov1.ReasonSealed) || ctx.Err() != nil {
			return 0, err
		}
	}
}
