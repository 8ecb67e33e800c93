package api_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/fsm"
)

// dial connects to one node as any gRPC client would.
func dial(t *testing.T, c *apitest.Cluster, id string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.CA)
	creds := credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: hizov1.ServerName})
	conn, err := grpc.NewClient(c.Addr(id), append(opts, grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func bearer(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, hizov1.MetaAuthorization, "Bearer "+token, hizov1.MetaRequestID, client.NewRequestID())
}

func TestSizesAndCounts(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	c.Vault("ml")
	c.Put("ml", "db/main", "password", "x")
	train := c.Workload("train", `permit(principal, action == Hizo::Action::"inject", resource);`)
	key, err := hybrid.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	s := c.Engineer
	put := func(fields map[string][]byte) error {
		_, err := s.Secrets().Put(ctx, &hizov1.PutRequest{Vault: "ml", Path: "db/big", Fields: fields})
		return err
	}
	many := func(n int) map[string][]byte {
		m := make(map[string][]byte)
		for i := range n {
			m[fmt.Sprintf("f%d", i)] = []byte("x")
		}
		return m
	}
	refs := func(n int) (list []*hizov1.InjectRequest_Ref) {
		for range n {
			list = append(list, &hizov1.InjectRequest_Ref{Vault: "ml", Path: "db/main", Field: "password"})
		}
		return list
	}
	inject := func(r []*hizov1.InjectRequest_Ref, k []byte, execution string) error {
		_, err := train.Secrets().Inject(ctx, &hizov1.InjectRequest{Refs: r, ExecutionKey: k, Execution: execution})
		return err
	}
	policy := func(text string) error {
		_, err := s.Policies().PutPolicy(ctx, &hizov1.PutPolicyRequest{Name: "big", Text: text})
		return err
	}
	reveal := func(req *hizov1.RevealRequest) error { _, err := s.Secrets().Reveal(ctx, req); return err }
	cases := []struct {
		what   string
		err    error
		reason string
	}{
		{"value at the limit", put(map[string][]byte{"f": bytes.Repeat([]byte("x"), 512<<10-1)}), ""},
		{"value above the limit", put(map[string][]byte{"f": bytes.Repeat([]byte("x"), 512<<10)}), hizov1.ReasonTooLarge},
		{"two fields above the limit", put(map[string][]byte{"f": bytes.Repeat([]byte("x"), 256<<10), "g": bytes.Repeat([]byte("x"), 256<<10)}), hizov1.ReasonTooLarge},
		{"message above the limit", put(map[string][]byte{"f": bytes.Repeat([]byte("x"), 1<<20)}), "ResourceExhausted"},
		{"no fields", put(nil), hizov1.ReasonInvalid},
		{"64 fields", put(many(64)), ""},
		{"65 fields", put(many(65)), hizov1.ReasonInvalid},
		{"field name", put(map[string][]byte{strings.Repeat("f", 129): nil}), hizov1.ReasonInvalid},
		{"list page", func() error {
			_, err := s.Secrets().List(ctx, &hizov1.ListSecretsRequest{Vault: "ml", Limit: 1001})
			return err
		}(), hizov1.ReasonInvalid},
		{"list prefix", func() error {
			_, err := s.Secrets().List(ctx, &hizov1.ListSecretsRequest{Vault: "ml", Prefix: strings.Repeat("a", 513)})
			return err
		}(), hizov1.ReasonInvalid},
		{"search page", func() error { _, err := s.Audit().Search(ctx, &hizov1.SearchRequest{Limit: 1001}); return err }(), hizov1.ReasonInvalid},
		{"64 references", inject(refs(64), key.Public(), ""), ""},
		{"65 references", inject(refs(65), key.Public(), ""), hizov1.ReasonInvalid},
		{"no references", inject(nil, key.Public(), ""), hizov1.ReasonInvalid},
		{"execution key", inject(refs(1), key.Public()[:100], ""), hizov1.ReasonInvalid},
		{"execution text", inject(refs(1), key.Public(), strings.Repeat("x", 1025)), hizov1.ReasonInvalid},
		{"reason", reveal(&hizov1.RevealRequest{Vault: "ml", Path: "db/main", Reason: strings.Repeat("x", 1025)}), hizov1.ReasonInvalid},
		{"field asked for", reveal(&hizov1.RevealRequest{Vault: "ml", Path: "db/main", Field: strings.Repeat("x", 129)}), hizov1.ReasonInvalid},
		{"a field that is not there", reveal(&hizov1.RevealRequest{Vault: "ml", Path: "db/main", Field: "other"}), hizov1.ReasonNotFound},
		{"policy size", policy("permit(principal, action == Hizo::Action::\"inject\", resource); // " + strings.Repeat("x", 16<<10)), hizov1.ReasonInvalid},
		{"policy depth", policy(`permit(principal, action == Hizo::Action::"inject", resource) when { ` + strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200) + " };"), hizov1.ReasonInvalid},
		{"version numbers", func() error {
			_, err := s.Secrets().Delete(ctx, &hizov1.ChangeVersionsRequest{Vault: "ml", Path: "db/main", Versions: make([]uint32, 101)})
			return err
		}(), hizov1.ReasonInvalid},
		{"password", func() error {
			_, err := s.Identities().CreateUser(ctx, &hizov1.CreateUserRequest{Name: "big", Password: bytes.Repeat([]byte("Ab1-c"), 300)})
			return err
		}(), hizov1.ReasonInvalid},
		{"lifetime", func() error {
			_, err := c.Client().Auth().Login(ctx, &hizov1.LoginRequest{User: "alice", Password: []byte(apitest.Password), TtlSeconds: 1 << 40})
			return err
		}(), hizov1.ReasonInvalid},
	}
	for _, tc := range cases {
		if got := apitest.Reason(tc.err); got != tc.reason && !(tc.reason == "ResourceExhausted" && grpcCode(tc.err) == codes.ResourceExhausted) {
			t.Errorf("%s: %q (%v), want %q", tc.what, got, tc.err, tc.reason)
		}
	}
}

func grpcCode(err error) codes.Code {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.Code
	}
	return status.Code(err)
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (rawCodec) Unmarshal(b []byte, v any) error { return nil }
func (rawCodec) Name() string                    { return "proto" }

var _ encoding.Codec = rawCodec{}

// Hostile bytes in place of a message: nested without end, groups that never close, lengths that lie.
func TestHostileMessages(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	conn := dial(t, c, c.Leader().ID)
	ctx := bearer(t.Context(), c.Engineer.Token)
	var nested []byte
	for range 2000 {
		nested = protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), nested)
	}
	messages := map[string][]byte{
		"groups":   bytes.Repeat(protowire.AppendTag(nil, 98, protowire.StartGroupType), 300_000),
		"length":   {0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f},
		"field 0":  {0x00},
		"utf-8":    protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), []byte{0xff, 0xfe}),
		"map key":  protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), []byte{0x0a, 0x7f}),
		"unfinish": {0x0a},
	}
	for what, m := range messages {
		if err := conn.Invoke(ctx, hizov1.SecretService_Put_FullMethodName, m, new([]byte), grpc.ForceCodec(rawCodec{})); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	// Unknown fields are allowed by protobuf; however deep, they must not hurt.
	_ = conn.Invoke(ctx, hizov1.SecretService_Put_FullMethodName, nested, new([]byte), grpc.ForceCodec(rawCodec{}))
	if _, err := hizov1.NewAuthServiceClient(conn).WhoAmI(ctx, &hizov1.WhoAmIRequest{}); err != nil {
		t.Errorf("the server afterwards: %v", err)
	}
}

func TestRatesAndStreams(t *testing.T) {
	t.Parallel()
	const handshake = 2 * time.Second
	c := apitest.Start(t, apitest.Options{Limits: api.Limits{
		Principal: auth.Rate{Every: time.Hour, Burst: 60},
		Denials:   auth.Rate{Every: time.Hour, Burst: 3},
		Anonymous: auth.LimiterConfig{
			Address: auth.Rate{Every: time.Hour, Burst: 25}, Account: auth.Rate{Every: time.Hour, Burst: 8}, Total: auth.Rate{Every: time.Millisecond, Burst: 1000},
		},
		Tails: 2, Streams: 4, Handshakes: 2, Handshake: handshake,
	}})
	ctx := t.Context()
	leader := c.Leader().ID
	bob := c.User("bob")

	t.Run("denials of one principal", func(t *testing.T) {
		conn := hizov1.NewSecretServiceClient(dial(t, c, leader))
		reasons := map[string]int{}
		for range 10 {
			_, err := conn.Reveal(bearer(ctx, bob.Token), &hizov1.RevealRequest{Vault: "ml", Path: "db"})
			reasons[reasonOf(err)]++
		}
		if reasons[hizov1.ReasonPermissionDenied] != 3 || reasons[hizov1.ReasonRateLimited] != 7 {
			t.Errorf("%v", reasons)
		}
		// The flood is on record as one count.
		c.Await("the count", func() bool { return counted(t, c, "user/bob", "reveal", fsm.Denied) == 10 })
	})

	t.Run("open tails", func(t *testing.T) {
		client := hizov1.NewAuditServiceClient(dial(t, c, leader))
		open := func() (grpc.ServerStreamingClient[hizov1.AuditRecord], error) {
			s, err := client.Tail(bearer(ctx, c.Engineer.Token), &hizov1.TailRequest{Follow: true, Last: 1})
			if err != nil {
				return nil, err
			}
			_, err = s.Recv()
			return s, err
		}
		for range 2 {
			if _, err := open(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := open(); reasonOf(err) != hizov1.ReasonOverloaded {
			t.Errorf("a third tail: %v", err)
		}
	})

	t.Run("streams of one connection", func(t *testing.T) {
		conn := dial(t, c, leader)
		open, cancel := context.WithCancel(ctx)
		defer cancel()
		for range 4 {
			stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(open)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		// The bound is HTTP/2's: a fifth call waits for its turn.
		short, cancelShort := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancelShort()
		health := grpc_health_v1.NewHealthClient(conn)
		if _, err := health.Check(short, &grpc_health_v1.HealthCheckRequest{}); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("a fifth call beside four open ones: %v", err)
		}
		cancel()
		if out, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil || out.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("when they are gone: %v, %v", out, err)
		}
	})

	t.Run("tokens that are none", func(t *testing.T) {
		conn := hizov1.NewAuthServiceClient(dial(t, c, leader))
		reasons := map[string]int{}
		for range 40 {
			_, err := conn.WhoAmI(bearer(ctx, auth.NewToken(auth.AccessToken).Reveal()), &hizov1.WhoAmIRequest{})
			reasons[reasonOf(err)]++
		}
		if reasons[hizov1.ReasonUnauthenticated] == 0 || reasons[hizov1.ReasonRateLimited] < 15 || len(reasons) != 2 {
			t.Errorf("%v", reasons)
		}
		c.Await("the counts", func() bool { return counted(t, c, "anonymous", "authenticate", fsm.Failed) >= 40 })
	})

	t.Run("requests of one principal", func(t *testing.T) {
		conn := hizov1.NewAuthServiceClient(dial(t, c, leader))
		var limited error
		for range 100 {
			if _, err := conn.WhoAmI(bearer(ctx, bob.Token), &hizov1.WhoAmIRequest{}); err != nil {
				limited = err
				break
			}
		}
		if reasonOf(limited) != hizov1.ReasonRateLimited {
			t.Errorf("%v, want RATE_LIMITED", limited)
		}
	})

	t.Run("connections that say nothing", func(t *testing.T) {
		// They take no place of a handshake away, and end at its deadline.
		start := time.Now()
		closed := make(chan time.Duration, 6)
		for range cap(closed) {
			conn, err := net.Dial("tcp", c.Addr(leader))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			go func() {
				_, _ = conn.Read(make([]byte, 1))
				closed <- time.Since(start)
			}()
		}
		if _, err := grpc_health_v1.NewHealthClient(dial(t, c, leader)).Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil {
			t.Errorf("a handshake beside them: %v", err)
		}
		for range cap(closed) {
			if after := <-closed; after < handshake*9/10 {
				t.Errorf("closed after %v, the deadline is %v", after, handshake)
			}
		}
	})
}

func TestStrangersAreBounded(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{Limits: api.Limits{StrangersEach: 3, ConnectionsEach: 20, Watches: 1, Tails: 1}})
	ctx := t.Context()
	leader := c.Leader().ID
	conn := dial(t, c, leader)
	health := grpc_health_v1.NewHealthClient(conn)

	watch := func() (grpc.ServerStreamingClient[grpc_health_v1.HealthCheckResponse], error) {
		s, err := health.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err != nil {
			return nil, err
		}
		_, err = s.Recv()
		return s, err
	}
	if _, err := watch(); err != nil {
		t.Fatal(err)
	}
	if _, err := watch(); reasonOf(err) != hizov1.ReasonOverloaded {
		t.Errorf("a second watch: %v", err)
	}
	if s, err := health.Watch(ctx, &grpc_health_v1.HealthCheckRequest{Service: "x"}); err == nil {
		if _, err := s.Recv(); status.Code(err) != codes.NotFound {
			t.Errorf("a watch of an unknown service: %v", err)
		}
	}
	// Watches do not use up the places of tails.
	tail, err := hizov1.NewAuditServiceClient(conn).Tail(bearer(ctx, c.Engineer.Token), &hizov1.TailRequest{Follow: true, Last: 1})
	if err == nil {
		_, err = tail.Recv()
	}
	if err != nil {
		t.Errorf("a tail beside a watch: %v", err)
	}

	// Calls whose message never ends: the watch is one of three that one address may have under way without a token.
	desc := &grpc.StreamDesc{ClientStreams: true}
	open, cancel := context.WithCancel(ctx)
	defer cancel()
	for range 2 {
		if _, err := conn.NewStream(open, desc, hizov1.AuthService_Login_FullMethodName); err != nil {
			t.Fatal(err)
		}
	}
	check := func(ctx context.Context) error {
		_, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		return err
	}
	c.Await("a refusal", func() bool { return reasonOf(check(ctx)) == hizov1.ReasonOverloaded })
	if _, err := hizov1.NewAuthServiceClient(conn).WhoAmI(bearer(ctx, c.Engineer.Token), &hizov1.WhoAmIRequest{}); err != nil {
		t.Errorf("a call with a token beside them: %v", err)
	}
	cancel()
	c.Await("room again", func() bool { return check(ctx) == nil })

	// Connections: those above the bound are closed at once.
	for range 30 {
		idle, err := net.Dial("tcp", c.Addr(leader))
		if err != nil {
			t.Fatal(err)
		}
		defer idle.Close()
	}
	over, err := net.Dial("tcp", c.Addr(leader))
	if err != nil {
		t.Fatal(err)
	}
	defer over.Close()
	if err := over.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := over.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("one connection too many: %v, want it closed", err)
	}
}

// counted is how many attempts the log has, counts included.
func counted(t *testing.T, c *apitest.Cluster, principal, action string, decision fsm.Decision) (total uint32) {
	t.Helper()
	store := c.Leader().Store()
	for rec, err := range store.AuditRecords(0, store.AuditSize()) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Principal == principal && rec.Action == action && rec.Decision == decision {
			total += rec.Count
		}
	}
	return total
}

func reasonOf(err error) string {
	if err == nil {
		return ""
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(interface {
			GetReason() string
		}); ok {
			return info.GetReason()
		}
	}
	return status.Code(err).String()
}

// Names that are not canonical are refused at the door of every call that takes one, and leave no record.
func TestNamesAreRefusedAtTheDoor(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	c.Vault("ml")
	s := c.Engineer
	before := c.Leader().Store().AuditSize()
	paths := []string{"", "/", "a/", "/a", "a//b", "a/../b", "..", "a/./b", "a b", "a\x00b", "a\nb", "a%2fb", "a\\b", "a*", "é", "а/b" /* Cyrillic beside Latin */, "a#b", "a@1", strings.Repeat("a/", 20) + "b", strings.Repeat("a", 600)}
	for _, p := range paths {
		if p == "é" { // decomposed
			p = "e\u0301"
		}
		_, err1 := s.Secrets().Put(ctx, &hizov1.PutRequest{Vault: "ml", Path: p, Fields: map[string][]byte{"f": nil}})
		_, err2 := s.Secrets().Reveal(ctx, &hizov1.RevealRequest{Vault: "ml", Path: p})
		_, err3 := s.Secrets().Delete(ctx, &hizov1.ChangeVersionsRequest{Vault: "ml", Path: p})
		_, err4 := s.Secrets().Versions(ctx, &hizov1.VersionsRequest{Vault: "ml", Path: p})
		for i, err := range []error{err1, err2, err3, err4} {
			if apitest.Reason(err) != hizov1.ReasonInvalid {
				t.Errorf("path %q, call %d: %v", p, i+1, err)
			}
		}
	}
	for _, n := range []string{"", "ML", "m l", "ml/", "../ml", "-ml", "m..l", "ｍl", strings.Repeat("a", 65)} {
		_, err1 := s.Vaults().CreateVault(ctx, &hizov1.CreateVaultRequest{Name: n})
		_, err2 := s.Secrets().List(ctx, &hizov1.ListSecretsRequest{Vault: n})
		_, err3 := s.Identities().CreateUser(ctx, &hizov1.CreateUserRequest{Name: n})
		_, err4 := s.Identities().CreateWorkload(ctx, &hizov1.CreateWorkloadRequest{Name: n})
		_, err5 := s.Policies().PutPolicy(ctx, &hizov1.PutPolicyRequest{Name: n, Text: "permit(principal, action == Hizo::Action::\"inject\", resource);"})
		_, err6 := c.Client().Auth().Login(ctx, &hizov1.LoginRequest{User: n, Password: []byte("x")})
		_, err7 := s.Cluster().Quarantine(ctx, &hizov1.QuarantineRequest{Node: n})
		_, err8 := s.Identities().GrantRole(ctx, &hizov1.RoleRequest{Role: "Auditor", Name: "user/" + n})
		for i, err := range []error{err1, err2, err3, err4, err5, err6, err7, err8} {
			if apitest.Reason(err) != hizov1.ReasonInvalid {
				t.Errorf("name %q, call %d: %v", n, i+1, err)
			}
		}
	}
	if _, err := s.Policies().PutPolicy(ctx, &hizov1.PutPolicyRequest{Name: "shipped/mine", Text: "permit(principal, action, resource);"}); apitest.Reason(err) != hizov1.ReasonInvalid {
		t.Errorf("a shipped policy's name: %v", err)
	}
	if after := c.Leader().Store().AuditSize(); after != before {
		t.Errorf("%d records of what was refused at the door", after-before)
	}
}

func infoOf(err error) map[string]string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(interface {
			GetMetadata() map[string]string
		}); ok {
			return info.GetMetadata()
		}
	}
	return nil
}
