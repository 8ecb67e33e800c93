package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

func newClient(t *testing.T, ca *authority, change func(*client.Config), nodes ...*node) *client.Client {
	t.Helper()
	cfg := client.Config{CA: ca.pem, Timeout: 10 * time.Second, BackoffBase: time.Millisecond, BackoffMax: 5 * time.Millisecond}
	for _, n := range nodes {
		cfg.Addrs = append(cfg.Addrs, n.addr)
	}
	if change != nil {
		change(&cfg)
	}
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

// oneID demands that all nodes together saw one request id, a UUIDv7, n times.
func oneID(t *testing.T, n int, nodes ...*node) string {
	t.Helper()
	var all []string
	for _, node := range nodes {
		all = append(all, node.calls()...)
	}
	if len(all) != n {
		t.Fatalf("%d attempts arrived, want %d: %v", len(all), n, all)
	}
	for _, id := range all {
		if id != all[0] {
			t.Fatalf("two request ids for one call: %s and %s", all[0], id)
		}
	}
	if u, err := uuid.Parse(all[0]); err != nil || u.Version() != 7 {
		t.Fatalf("request id %q is no UUIDv7", all[0])
	}
	return all[0]
}

func TestFollowsAndRemembersTheLeader(t *testing.T) {
	ca := newAuthority(t)
	leader := newNode(t, ca, ok)
	follower := newNode(t, ca, func(context.Context, int) error { return notLeader(leader.addr) })
	c := newClient(t, ca, nil, follower) // the leader is known by the hint alone
	if _, err := c.Secrets().Put(t.Context(), &hizov1.PutRequest{}); err != nil {
		t.Fatal(err)
	}
	oneID(t, 2, follower, leader)
	if _, err := c.Secrets().Put(t.Context(), &hizov1.PutRequest{}); err != nil {
		t.Fatal(err)
	}
	if f, l := len(follower.calls()), len(leader.calls()); f != 1 || l != 2 {
		t.Errorf("follower asked %d times and leader %d times, want 1 and 2", f, l)
	}
	if ids := leader.calls(); ids[0] == ids[1] {
		t.Error("two calls shared one request id")
	}
}

func TestRetriesUnderOneRequestID(t *testing.T) {
	unavailable := status.Error(codes.Unavailable, "connection lost")
	for name, first := range map[string]error{
		"unavailable":      unavailable,
		"unknown outcome":  refusal(codes.Unknown, hizov1.ReasonUnknownOutcome, nil),
		"superseded":       refusal(codes.Unavailable, hizov1.ReasonSuperseded, nil),
		"clock skew":       refusal(codes.Unavailable, hizov1.ReasonClockSkew, nil),
		"overloaded":       refusal(codes.ResourceExhausted, hizov1.ReasonOverloaded, nil),
		"shutting down":    refusal(codes.Unavailable, hizov1.ReasonShutdown, nil),
		"no leader known":  notLeader(""),
		"nonsense hint":    notLeader("nowhere"),
		"hint to itself":   nil, // filled in below
		"rate, short wait": refusal(codes.ResourceExhausted, hizov1.ReasonRateLimited, map[string]string{hizov1.InfoRetryAfter: "2"}),
	} {
		t.Run(name, func(t *testing.T) {
			ca := newAuthority(t)
			var n *node
			n = newNode(t, ca, func(_ context.Context, attempt int) error {
				if attempt > 3 {
					return nil
				}
				if first == nil {
					return notLeader(n.addr)
				}
				return first
			})
			c := newClient(t, ca, nil, n)
			put, err := c.Secrets().Put(t.Context(), &hizov1.PutRequest{})
			if err != nil || put.GetVersion() != 7 {
				t.Fatalf("put: %v, %v", put, err)
			}
			oneID(t, 4, n)
		})
	}
}

func TestFinalAnswersAreNotRepeated(t *testing.T) {
	for reason, code := range map[string]codes.Code{
		hizov1.ReasonPermissionDenied: codes.PermissionDenied,
		hizov1.ReasonConflict:         codes.FailedPrecondition,
		hizov1.ReasonInvalid:          codes.InvalidArgument,
		hizov1.ReasonInternal:         codes.Internal,
		hizov1.ReasonUnauthenticated:  codes.Unauthenticated,
	} {
		ca := newAuthority(t)
		n := newNode(t, ca, func(context.Context, int) error {
			return refusal(code, reason, map[string]string{hizov1.InfoCurrentVersion: "3"})
		})
		c := newClient(t, ca, nil, n)
		_, err := c.Secrets().Put(t.Context(), &hizov1.PutRequest{})
		e, is := errors.AsType[*client.Error](err)
		if !is || e.Reason != reason || e.Code != code || e.Message != "because" || e.Metadata[hizov1.InfoCurrentVersion] != "3" || e.Node != n.addr {
			t.Errorf("%s: got %#v", reason, err)
		}
		if !client.IsReason(err, reason) || status.Code(err) != code {
			t.Errorf("%s: not recognised: %v", reason, err)
		}
		oneID(t, 1, n)
	}
}

func TestLongRateLimitIsToldAtOnce(t *testing.T) {
	ca := newAuthority(t)
	n := newNode(t, ca, func(context.Context, int) error {
		return refusal(codes.ResourceExhausted, hizov1.ReasonRateLimited, map[string]string{hizov1.InfoRetryAfter: "60000"})
	})
	c := newClient(t, ca, nil, n)
	_, err := c.Auth().WhoAmI(t.Context(), &hizov1.WhoAmIRequest{})
	if !client.IsReason(err, hizov1.ReasonRateLimited) {
		t.Errorf("got %v", err)
	}
	oneID(t, 1, n)
}

// A server that dies after it took the request leaves the outcome open; the next node knows it by the id.
func TestFailsOverWhenANodeDiesMidCall(t *testing.T) {
	ca := newAuthority(t)
	var dying *node
	dying = newNode(t, ca, func(ctx context.Context, _ int) error {
		go dying.server.Stop()
		<-ctx.Done()
		return ctx.Err()
	})
	heir := newNode(t, ca, ok)
	c := newClient(t, ca, nil, dying, heir)
	if _, err := c.Secrets().Put(t.Context(), &hizov1.PutRequest{}); err != nil {
		t.Fatal(err)
	}
	oneID(t, 2, dying, heir)
}

func TestHangingNodeDoesNotUseUpTheCall(t *testing.T) {
	ca := newAuthority(t)
	hanging := newNode(t, ca, func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() })
	other := newNode(t, ca, ok)
	c := newClient(t, ca, func(cfg *client.Config) { cfg.AttemptTimeout = 100 * time.Millisecond }, hanging, other)
	if _, err := c.Secrets().Put(t.Context(), &hizov1.PutRequest{}); err != nil {
		t.Fatal(err)
	}
	oneID(t, 2, hanging, other)
}

// The port takes connections and never answers the handshake.
func TestSilentPortDoesNotUseUpTheCall(t *testing.T) {
	ca := newAuthority(t)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	other := newNode(t, ca, ok)
	c := newClient(t, ca, func(cfg *client.Config) {
		cfg.Addrs = []string{lis.Addr().String(), other.addr}
		cfg.AttemptTimeout = 100 * time.Millisecond
	})
	if _, err := c.Secrets().Put(t.Context(), &hizov1.PutRequest{}); err != nil {
		t.Fatal(err)
	}
	oneID(t, 1, other)
}

func TestUnknownOutcomeIsTyped(t *testing.T) {
	ca := newAuthority(t)
	n := newNode(t, ca, func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() })
	c := newClient(t, ca, func(cfg *client.Config) { cfg.AttemptTimeout = 50 * time.Millisecond }, n)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begun := time.Now()
	_, err := c.Secrets().Put(ctx, &hizov1.PutRequest{})
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("the deadline of 300 ms was kept after %v", took)
	}
	u, is := errors.AsType[*client.UnknownOutcomeError](err)
	if !is {
		t.Fatalf("got %T: %v", err, err)
	}
	ids := n.calls()
	if u.RequestID != oneID(t, len(ids), n) || len(ids) < 2 || u.Method != hizov1.SecretService_Put_FullMethodName {
		t.Errorf("%+v after %d attempts", u, len(ids))
	}

	// A read in the same place is a mere timeout.
	ctx, cancel = context.WithTimeout(t.Context(), 120*time.Millisecond)
	defer cancel()
	if _, err := c.Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{}); !client.IsReason(err, client.ReasonTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read: got %T: %v", err, err)
	}
}

// A logout whose first answer was lost finds its token gone: that does not say that it failed.
func TestDenialAfterAmbiguityIsUnknown(t *testing.T) {
	ca := newAuthority(t)
	n := newNode(t, ca, func(_ context.Context, attempt int) error {
		if attempt == 1 {
			return status.Error(codes.Unavailable, "connection lost")
		}
		return refusal(codes.Unauthenticated, hizov1.ReasonUnauthenticated, nil)
	})
	c := newClient(t, ca, nil, n)
	_, err := c.Auth().Logout(t.Context(), &hizov1.LogoutRequest{})
	if _, is := errors.AsType[*client.UnknownOutcomeError](err); !is || !client.IsReason(err, hizov1.ReasonUnauthenticated) {
		t.Errorf("got %T: %v", err, err)
	}
	oneID(t, 2, n)
	// A conflict is decided by Apply, which knows the id: the earlier attempt had no effect.
	n = newNode(t, ca, func(_ context.Context, attempt int) error {
		if attempt == 1 {
			return status.Error(codes.Unavailable, "connection lost")
		}
		return refusal(codes.FailedPrecondition, hizov1.ReasonConflict, nil)
	})
	c = newClient(t, ca, nil, n)
	if _, err := c.Secrets().Put(t.Context(), &hizov1.PutRequest{}); !client.IsReason(err, hizov1.ReasonConflict) {
		t.Errorf("got %T: %v", err, err)
	}
}

func TestCancelledMutationIsUnknown(t *testing.T) {
	ca := newAuthority(t)
	ctx, cancel := context.WithCancel(t.Context())
	n := newNode(t, ca, func(ctx context.Context, _ int) error { cancel(); <-ctx.Done(); return ctx.Err() })
	c := newClient(t, ca, nil, n)
	_, err := c.Secrets().Put(ctx, &hizov1.PutRequest{})
	if _, is := errors.AsType[*client.UnknownOutcomeError](err); !is {
		t.Errorf("got %T: %v", err, err)
	}
	// Cancelled before anything was sent: nothing is unknown.
	if _, err = c.Secrets().Put(ctx, &hizov1.PutRequest{}); !client.IsReason(err, client.ReasonTimeout) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %T: %v", err, err)
	}
	oneID(t, 1, n)
}

// Init hands out shares that exist once: repeating it could only replace them by a refusal.
func TestInitIsSentOnce(t *testing.T) {
	ca := newAuthority(t)
	n := newNode(t, ca, func(context.Context, int) error { return status.Error(codes.Unavailable, "lost") })
	c := newClient(t, ca, func(cfg *client.Config) { cfg.AttemptTimeout = time.Millisecond }, n)
	_, err := c.Cluster().Init(t.Context(), &hizov1.InitRequest{})
	if _, is := errors.AsType[*client.UnknownOutcomeError](err); !is {
		t.Errorf("got %T: %v", err, err)
	}
	oneID(t, 1, n)
}

func TestUnreachable(t *testing.T) {
	ca := newAuthority(t)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lis.Close() // a port where nobody listens
	c := newClient(t, ca, func(cfg *client.Config) {
		cfg.Addrs = []string{lis.Addr().String()}
		cfg.Patience = 50 * time.Millisecond
	})
	_, err = c.Secrets().Put(t.Context(), &hizov1.PutRequest{})
	if !client.IsReason(err, client.ReasonUnreachable) {
		t.Errorf("a request that was never sent ended as %T: %v", err, err)
	}
}

func TestSealedEverywhereIsToldAtOnce(t *testing.T) {
	ca := newAuthority(t)
	sealed := func(context.Context, int) error {
		return refusal(codes.Unavailable, hizov1.ReasonSealed, map[string]string{hizov1.InfoSealedBy: hizov1.SealedByCommand})
	}
	a, b := newNode(t, ca, sealed), newNode(t, ca, sealed)
	c := newClient(t, ca, nil, a, b)
	_, err := c.Secrets().Put(t.Context(), &hizov1.PutRequest{})
	if !client.IsReason(err, hizov1.ReasonSealed) {
		t.Errorf("got %v", err)
	}
	oneID(t, 2, a, b)

	// One sealed node beside two that elect a leader is no reason to give up.
	elected := newNode(t, ca, func(_ context.Context, attempt int) error {
		if attempt < 4 {
			return notLeader("")
		}
		return nil
	})
	c = newClient(t, ca, nil, elected, newNode(t, ca, sealed))
	if _, err := c.Secrets().Put(t.Context(), &hizov1.PutRequest{}); err != nil {
		t.Errorf("gave up: %v", err)
	}
}

func TestNodesThatUnsealEachOtherAreWaitedFor(t *testing.T) {
	ca := newAuthority(t)
	cold := func(_ context.Context, attempt int) error {
		if attempt < 4 {
			return refusal(codes.Unavailable, hizov1.ReasonSealed, nil)
		}
		return nil
	}
	c := newClient(t, ca, nil, newNode(t, ca, cold), newNode(t, ca, cold))
	if _, err := c.Secrets().Put(t.Context(), &hizov1.PutRequest{}); err != nil {
		t.Errorf("gave up: %v", err)
	}
	never := func(context.Context, int) error { return refusal(codes.Unavailable, hizov1.ReasonSealed, nil) }
	c = newClient(t, ca, func(cfg *client.Config) { cfg.Patience = 50 * time.Millisecond }, newNode(t, ca, never))
	if _, err := c.Secrets().Put(t.Context(), &hizov1.PutRequest{}); !client.IsReason(err, hizov1.ReasonSealed) {
		t.Errorf("got %v", err)
	}
}

func TestSealedLeaderIsTold(t *testing.T) {
	ca := newAuthority(t)
	leader := newNode(t, ca, func(context.Context, int) error { return refusal(codes.Unavailable, hizov1.ReasonSealed, nil) })
	follower := newNode(t, ca, func(context.Context, int) error { return notLeader(leader.addr) })
	c := newClient(t, ca, func(cfg *client.Config) { cfg.BackoffBase = 10000 * time.Hour }, leader, follower)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // it may hand leadership on until then
	defer cancel()
	if _, err := c.Secrets().Put(ctx, &hizov1.PutRequest{}); !client.IsReason(err, hizov1.ReasonSealed) {
		t.Errorf("got %v", err)
	}
}

func TestNoLeaderUntilTheDeadline(t *testing.T) {
	ca := newAuthority(t)
	n := newNode(t, ca, func(context.Context, int) error { return notLeader("") })
	// The deadline falls into the pause: an attempt under way at that moment would rightly be unknown.
	c := newClient(t, ca, func(cfg *client.Config) { cfg.BackoffBase = 10000 * time.Hour }, n)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := c.Secrets().Put(ctx, &hizov1.PutRequest{})
	if !client.IsReason(err, hizov1.ReasonNotLeader) { // definite: never unknown
		t.Errorf("got %T: %v", err, err)
	}
}

func TestServersAreVerified(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	good := newNode(t, ca, ok)
	for name, c := range map[string]*client.Client{
		"another CA":   newClient(t, other, nil, good),
		"another name": newClient(t, ca, nil, newNodeNamed(t, ca, "elsewhere.example", ok)),
		"another pin":  newClient(t, ca, func(cfg *client.Config) { cfg.CA, cfg.PinnedKey = nil, &[32]byte{1} }, good),
	} {
		_, err := c.Auth().WhoAmI(t.Context(), &hizov1.WhoAmIRequest{})
		if e, is := errors.AsType[*client.Error](err); !is || e.Reason != client.ReasonUnreachable || e.Metadata != nil {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if len(good.calls()) != 0 {
		t.Error("a request was sent to a node that was not verified")
	}
	pinned := newClient(t, ca, func(cfg *client.Config) { cfg.CA, cfg.PinnedKey = nil, &good.pin }, good)
	if _, err := pinned.Auth().WhoAmI(t.Context(), &hizov1.WhoAmIRequest{}); err != nil {
		t.Errorf("pinned: %v", err)
	}
}

func TestTokensGoOnlyWhereTheyAreNeeded(t *testing.T) {
	ca := newAuthority(t)
	n := newNode(t, ca, ok)
	path := filepath.Join(t.TempDir(), "token")
	c := newClient(t, ca, func(cfg *client.Config) { cfg.Token = client.TokenFile(path) }, n)
	if _, err := c.Auth().Login(t.Context(), &hizov1.LoginRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Auth().WhoAmI(t.Context(), &hizov1.WhoAmIRequest{}); !errors.Is(err, client.ErrNoToken) {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(path, []byte("hizo_abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Auth().WhoAmI(t.Context(), &hizov1.WhoAmIRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Auth().Login(t.Context(), &hizov1.LoginRequest{}); err != nil {
		t.Fatal(err)
	}
	if len(n.tokens) != 1 || n.tokens[0] != "Bearer hizo_abc" {
		t.Errorf("tokens seen: %q", n.tokens)
	}
}

func TestStreamFailsOverUntilItsFirstAnswer(t *testing.T) {
	ca := newAuthority(t)
	leader, follower := newNode(t, ca, ok), newNode(t, ca, ok)
	follower.stream = func(hizov1.AuditService_TailServer, int) error { return notLeader(leader.addr) }
	leader.stream = func(s hizov1.AuditService_TailServer, attempt int) error {
		if attempt == 1 {
			return status.Error(codes.Unavailable, "lost before the first record")
		}
		for i := range uint64(2) {
			if err := s.Send(&hizov1.AuditRecord{Sequence: i}); err != nil {
				return err
			}
		}
		return status.Error(codes.Unavailable, "lost after it")
	}
	c := newClient(t, ca, nil, follower)
	s, err := c.Audit().Tail(t.Context(), &hizov1.TailRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(2) {
		if r, err := s.Recv(); err != nil || r.GetSequence() != i {
			t.Fatalf("record %d: %v, %v", i, r, err)
		}
	}
	if _, err := s.Recv(); err == nil || errors.Is(err, io.EOF) || status.Code(err) != codes.Unavailable {
		t.Errorf("a broken stream ended with %v", err)
	}
	if len(follower.calls()) < 1 || len(leader.calls()) != 2 {
		t.Errorf("attempts: follower %d, leader %d", len(follower.calls()), len(leader.calls()))
	}
}

func TestNodeKeepsToItsNode(t *testing.T) {
	ca := newAuthority(t)
	leader := newNode(t, ca, ok)
	follower := newNode(t, ca, func(context.Context, int) error { return notLeader(leader.addr) })
	c := newClient(t, ca, func(cfg *client.Config) { cfg.BackoffBase = 10000 * time.Hour }, follower, leader)
	n, err := c.Node(follower.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := n.Auth().WhoAmI(ctx, &hizov1.WhoAmIRequest{}); !client.IsReason(err, hizov1.ReasonNotLeader) {
		t.Errorf("got %v", err)
	}
	if len(leader.calls()) != 0 {
		t.Error("a client of one node followed a hint")
	}
}

func TestNewRefusesBadConfiguration(t *testing.T) {
	ca := newAuthority(t)
	for name, cfg := range map[string]client.Config{
		"no address":      {CA: ca.pem},
		"no port":         {CA: ca.pem, Addrs: []string{"localhost"}},
		"nothing trusted": {Addrs: []string{"localhost:1"}},
		"CA without PEM":  {Addrs: []string{"localhost:1"}, CA: []byte("x")},
	} {
		if _, err := client.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
