package api_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/audit"
	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/crypto/shares"
)

// serve starts the API of one node without a cluster.
func serve(t *testing.T, n *clustertest.Node, token string) (*api.Server, string) {
	t.Helper()
	s, err := api.NewServer(api.Config{Node: n.Node, BootstrapToken: token, Passwords: apitest.FastPasswords, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
	})
	return s, l.Addr().String()
}

// raw connects without looking at the certificate: there is no CA yet.
func raw(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestInitAndUnseal(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, clustertest.Options{Nodes: 1})
	n := c.Nodes[0]
	const token = "the token of the bootstrap file"
	_, addr := serve(t, n, token)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	conn := raw(t, addr)
	cl := hizov1.NewClusterServiceClient(conn)
	health := grpc_health_v1.NewHealthClient(conn)
	serving := func(conn *grpc.ClientConn, service string) bool {
		out, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
		return err == nil && out.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING
	}
	if serving(conn, "hizo.ready") || serving(conn, "") || serving(conn, "hizo.v1.SecretService") || !serving(conn, "hizo.live") {
		t.Error("an uninitialised node's health")
	}
	if _, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "nonsense"}); err == nil {
		t.Error("an unknown service has a health")
	}

	classic, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	third, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	identities := []age.Identity{classic, hybrid, third}
	operators := []string{classic.Recipient().String(), hybrid.Recipient().String(), third.Recipient().String()}
	good := func() *hizov1.InitRequest {
		return &hizov1.InitRequest{BootstrapToken: token, Name: "prod", Operators: operators, Threshold: 2}
	}
	bad := map[string]struct {
		change func(*hizov1.InitRequest)
		reason string
	}{
		"token":           {func(r *hizov1.InitRequest) { r.BootstrapToken += "x" }, hizov1.ReasonUnauthenticated},
		"no token":        {func(r *hizov1.InitRequest) { r.BootstrapToken = "" }, hizov1.ReasonUnauthenticated},
		"no operators":    {func(r *hizov1.InitRequest) { r.Operators = nil }, hizov1.ReasonInvalid},
		"threshold 0":     {func(r *hizov1.InitRequest) { r.Threshold = 0 }, hizov1.ReasonInvalid},
		"threshold 4":     {func(r *hizov1.InitRequest) { r.Threshold = 4 }, hizov1.ReasonInvalid},
		"same key twice":  {func(r *hizov1.InitRequest) { r.Operators = []string{operators[0], operators[0]} }, hizov1.ReasonInvalid},
		"not a recipient": {func(r *hizov1.InitRequest) { r.Operators = []string{"age1nonsense", operators[0]} }, hizov1.ReasonInvalid},
		"an identity":     {func(r *hizov1.InitRequest) { r.Operators = []string{classic.String(), operators[1]} }, hizov1.ReasonInvalid},
		"two in one":      {func(r *hizov1.InitRequest) { r.Operators = []string{operators[0] + "\n" + operators[1], operators[2]} }, hizov1.ReasonInvalid},
		"name":            {func(r *hizov1.InitRequest) { r.Name = "PROD " }, hizov1.ReasonInvalid},
	}
	for what, b := range bad {
		req := good()
		b.change(req)
		if _, err := cl.Init(ctx, req); reasonOf(err) != b.reason {
			t.Errorf("%s: %v, want %s", what, err, b.reason)
		} else if strings.Contains(err.Error(), classic.String()) {
			t.Errorf("%s: the error quotes a private key", what)
		}
	}
	if st, err := cl.Status(ctx, &hizov1.StatusRequest{}); err != nil || st.GetInitialised() || st.GetNodeId() != n.ID {
		t.Errorf("status before: %v, %v", st, err)
	}

	out, err := cl.Init(ctx, good())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Init(ctx, good()); reasonOf(err) != hizov1.ReasonAlreadyInitialised {
		t.Errorf("the second init: %v", err)
	}
	if _, err := audit.ParseTrust(out.GetTrust()); err != nil {
		t.Errorf("trust: %v", err)
	}
	texts := make([]string, len(identities))
	for i, file := range out.GetOperatorShares() {
		if bytes.Contains(file, []byte("hizoshare")) {
			t.Fatal("a share is readable")
		}
		r, err := age.Decrypt(armor.NewReader(bytes.NewReader(file)), identities[i])
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := age.Decrypt(armor.NewReader(bytes.NewReader(file)), identities[(i+1)%3]); err == nil {
			t.Error("another operator opens the share")
		}
		if _, err := shares.ParseText(string(text)); err != nil {
			t.Fatal(err)
		}
		texts[i] = string(text)
	}

	// The first SecurityEngineer, once.
	verified := func(addr string) *client.Client {
		cl, err := client.New(client.Config{Addrs: []string{addr}, CA: out.GetCaPem()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cl.Close() })
		return cl
	}
	c.Await("the node's certificate", func() bool { m, _ := n.Store().Member(n.ID); return len(m.ClientCert) > 0 })
	enrol := &hizov1.EnrolRequest{Code: out.GetEnrolmentCode(), User: "alice", Password: []byte(apitest.Password), ClientKey: apitest.ClientKey()}
	login, err := verified(addr).Auth().Enrol(ctx, enrol)
	if err != nil || login.GetPrincipal() != "user/alice" || len(login.GetRoles()) != 1 {
		t.Fatalf("enrol: %v, %v", login, err)
	}
	enrol.User = "mallory"
	if _, err := verified(addr).Auth().Enrol(ctx, enrol); apitest.Reason(err) != hizov1.ReasonUsed {
		t.Errorf("the code's second use: %v", err)
	}
	enrol.Code = auth.NewToken(auth.EnrolmentCode).Reveal()
	if _, err := verified(addr).Auth().Enrol(ctx, enrol); apitest.Reason(err) != hizov1.ReasonUnauthenticated {
		t.Errorf("a code that nobody gave: %v", err)
	}

	// A restart without a node set leaves it sealed; two of three operators open it.
	c.Restart(n)
	_, addr = serve(t, n, "")
	again := raw(t, addr)
	cl = hizov1.NewClusterServiceClient(again)
	var st *hizov1.StatusResponse
	c.Await("a leader, sealed", func() bool {
		st, err = cl.Status(ctx, &hizov1.StatusRequest{})
		return err == nil && st.GetRole() == "leader"
	})
	if !st.GetSealed() || st.GetUnsealNeed() != 2 || st.GetUnsealHave() != 0 || serving(again, "hizo.ready") {
		t.Errorf("sealed: %v", st)
	}
	if st.GetTerm() != 0 || st.GetLastIndex() != 0 {
		t.Errorf("a stranger is told too much: %v", st)
	}
	secrets := hizov1.NewSecretServiceClient(again)
	if _, err := secrets.Reveal(bearer(ctx, login.GetToken()), &hizov1.RevealRequest{Vault: "ml", Path: "db"}); reasonOf(err) != hizov1.ReasonSealed {
		t.Errorf("reveal while sealed: %v", err)
	}
	if _, err := cl.Init(ctx, good()); reasonOf(err) != hizov1.ReasonAlreadyInitialised {
		t.Errorf("init of a sealed cluster: %v", err)
	}
	unseal := func(text string) (*hizov1.UnsealResponse, error) {
		return cl.Unseal(ctx, &hizov1.UnsealRequest{Share: text})
	}
	_, other, others, err := shares.Split([16]byte{1}, shares.OperatorSet, 2, 3)
	if err != nil {
		t.Fatal(err, other)
	}
	foreign, err := others[0].Text()
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"nonsense": "nonsense", "mistyped": strings.Replace(texts[0], "q", "p", 1) + "q", "another cluster's": foreign, "long": strings.Repeat("x", 5000)} {
		if _, err := unseal(text); reasonOf(err) != hizov1.ReasonWrongShare {
			t.Errorf("%s share: %v", what, err)
		} else if strings.Contains(err.Error(), strings.TrimSpace(text)) && what != "nonsense" {
			t.Errorf("%s: the error quotes the share", what)
		}
	}
	if p, err := unseal(texts[0]); err != nil || p.GetHave() != 1 || !p.GetSealed() {
		t.Fatalf("the first share: %v, %v", p, err)
	}
	if _, err := unseal(texts[0]); reasonOf(err) != hizov1.ReasonWrongShare {
		t.Errorf("the same share again: %v", err)
	}
	if p, err := unseal(texts[2]); err != nil || p.GetSealed() {
		t.Fatalf("the second share: %v, %v", p, err)
	}
	c.Await("readiness", func() bool { return serving(again, "hizo.ready") })
	if _, err := hizov1.NewAuthServiceClient(again).WhoAmI(bearer(ctx, login.GetToken()), &hizov1.WhoAmIRequest{}); err != nil {
		t.Errorf("the old token after the unsealing: %v", err)
	}
	// What was refused while sealed is on record once there are keys.
	c.Await("the refused shares", func() bool {
		store := n.Store()
		count := uint32(0)
		for rec, err := range store.AuditRecords(0, store.AuditSize()) {
			if err == nil && rec.Action == "cluster.unseal" && rec.Principal == "anonymous" {
				count += rec.Count
			}
		}
		return count == 5
	})
}

func TestFollowersSendToTheLeader(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	c.Vault("ml")
	c.Put("ml", "db/main", "password", "hunter2")
	leader := c.Leader()
	for _, n := range c.Nodes {
		conn := dial(t, c, n.ID)
		out, err := hizov1.NewSecretServiceClient(conn).Reveal(bearer(ctx, c.Engineer.Token), &hizov1.RevealRequest{Vault: "ml", Path: "db/main"})
		st, err2 := hizov1.NewClusterServiceClient(conn).Status(bearer(ctx, c.Engineer.Token), &hizov1.StatusRequest{})
		if err2 != nil || st.GetLeaderId() != leader.ID || st.GetAppliedIndex() == 0 {
			t.Errorf("status of %s: %v, %v", n.ID, st, err2)
		}
		if n == leader {
			if err != nil {
				t.Errorf("the leader: %v", err)
			}
			continue
		}
		info := infoOf(err)
		if reasonOf(err) != hizov1.ReasonNotLeader || len(out.GetFields()) != 0 ||
			info[hizov1.InfoLeaderID] != leader.ID || info[hizov1.InfoLeaderAddr] != c.Addr(leader.ID) {
			t.Errorf("follower %s: %v, %v", n.ID, err, info)
		}
	}
	services, err := reflectionpb.NewServerReflectionClient(dial(t, c, leader.ID)).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := services.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	list, err := services.Recv()
	if err != nil || len(list.GetListServicesResponse().GetService()) < 8 {
		t.Errorf("reflection: %v, %v", list, err)
	}
}

func TestMembership(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	cl := c.Engineer.Cluster()
	members, err := cl.Members(ctx, &hizov1.MembersRequest{})
	if err != nil || len(members.GetMembers()) != 3 {
		t.Fatalf("%v, %v", members, err)
	}
	for _, m := range members.GetMembers() {
		if !m.GetVoter() || !m.GetApproved() || !m.GetHoldsShare() || len(m.GetKeyFingerprint()) != 64 {
			t.Errorf("%v", m)
		}
	}
	fourth := c.Add()
	key := fourth.Key()
	ask := &hizov1.JoinTokenRequest{Node: fourth.ID, KeyFingerprint: hex.EncodeToString(key[:])}
	operator := c.User("olga", "Operator")
	token, err := operator.Cluster().CreateJoinToken(ctx, ask)
	if err != nil {
		t.Fatal(err)
	}
	if err := fourth.Join(ctx, token.GetToken()); err != nil {
		t.Fatal(err)
	}
	if _, err := operator.Cluster().Approve(ctx, &hizov1.ApproveRequest{Node: fourth.ID, KeyFingerprint: ask.GetKeyFingerprint()}); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
		t.Errorf("an Operator approves: %v", err)
	}
	if _, err := cl.Approve(ctx, &hizov1.ApproveRequest{Node: fourth.ID, KeyFingerprint: strings.Repeat("0", 64)}); apitest.Reason(err) != hizov1.ReasonInvalid {
		t.Errorf("another key: %v", err)
	}
	if _, err := cl.Approve(ctx, &hizov1.ApproveRequest{Node: "n9", KeyFingerprint: ask.GetKeyFingerprint()}); apitest.Reason(err) != hizov1.ReasonNotFound {
		t.Errorf("a node that never asked: %v", err)
	}
	if m, err := cl.Approve(ctx, &hizov1.ApproveRequest{Node: fourth.ID, KeyFingerprint: ask.GetKeyFingerprint()}); err != nil || !m.GetApproved() {
		t.Fatalf("approve: %v, %v", m, err)
	}
	c.AwaitReady()
	if m, err := operator.Cluster().Quarantine(ctx, &hizov1.QuarantineRequest{Node: fourth.ID}); err != nil || !m.GetQuarantined() {
		t.Errorf("quarantine: %v, %v", m, err)
	}
	for _, none := range []string{"", ask.GetKeyFingerprint()[:16], ask.GetKeyFingerprint() + "00"} {
		if _, err := cl.Approve(ctx, &hizov1.ApproveRequest{Node: fourth.ID, KeyFingerprint: none}); apitest.Reason(err) != hizov1.ReasonInvalid {
			t.Errorf("an approval of the key %q: %v", none, err)
		}
	}
	if _, err := operator.Cluster().Quarantine(ctx, &hizov1.QuarantineRequest{Node: fourth.ID, Lift: true}); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
		t.Errorf("an Operator lifts a quarantine: %v", err)
	}
	if m, err := cl.Quarantine(ctx, &hizov1.QuarantineRequest{Node: fourth.ID, Lift: true}); err != nil || m.GetQuarantined() {
		t.Errorf("lift: %v, %v", m, err)
	}
	if _, err := operator.Cluster().Remove(ctx, &hizov1.RemoveRequest{Node: fourth.ID}); err != nil {
		t.Fatal(err)
	}
	members, err = cl.Members(ctx, &hizov1.MembersRequest{})
	if err != nil || len(members.GetMembers()) != 3 {
		t.Errorf("after the removal: %v, %v", members, err)
	}
	// Sealing ends every value at once.
	c.Vault("ml")
	c.Put("ml", "db/main", "password", "hunter2")
	if _, err := cl.Seal(ctx, &hizov1.SealRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes[:3] {
		_, err := hizov1.NewSecretServiceClient(dial(t, c, n.ID)).Reveal(bearer(ctx, c.Engineer.Token), &hizov1.RevealRequest{Vault: "ml", Path: "db/main"})
		if r := reasonOf(err); r != hizov1.ReasonSealed && r != hizov1.ReasonNotLeader {
			t.Errorf("%s after the sealing: %v", n.ID, err)
		}
	}
}

// What a follower refuses by itself is on record in a moment, through the leader, and says which node it was.
func TestFollowersRefusalsAreRecorded(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	leader := c.Leader()
	follower := c.Nodes[0]
	if follower == leader {
		follower = c.Nodes[1]
	}
	api := hizov1.NewClusterServiceClient(dial(t, c, follower.ID))
	forged := auth.NewToken(auth.AccessToken)
	if _, err := api.Status(bearer(t.Context(), forged.Reveal()), &hizov1.StatusRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Unseal(t.Context(), &hizov1.UnsealRequest{Share: "not a share"}); err == nil {
		t.Fatal("a share of nothing was taken")
	}
	for action, detail := range map[string]string{"authenticate": "no valid token", "cluster.unseal": "share refused"} {
		c.Await(action+" on record", func() bool {
			store := leader.Store()
			for rec, err := range store.AuditRecords(0, store.AuditSize()) {
				if err == nil && rec.Action == action && rec.Principal == "anonymous" && rec.Count == 1 && rec.Detail == detail+" via="+follower.ID {
					return true
				}
			}
			return false
		})
	}
	out, err := c.Engineer.Audit().Search(t.Context(), &hizov1.SearchRequest{Principal: "anonymous"})
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range out.GetRecords() {
		if rec.GetClientAddress() == "" {
			t.Errorf("the auditor does not see where it came from: %v", rec)
		}
	}
}
