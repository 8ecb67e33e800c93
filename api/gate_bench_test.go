package api

import (
	"context"
	"net"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/fsm"
)

// canned answers every read with the first one's result: what is left is the API's own work.
type canned struct {
	Node
	result *fsm.Result
}

func (c *canned) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	if cmd.Kind != fsm.KindRead {
		return c.Node.Propose(ctx, cmd)
	}
	if c.result == nil {
		r, err := c.Node.Propose(ctx, cmd)
		if err != nil || r.Code != fsm.CodeOK {
			return r, err
		}
		c.result = &r
	}
	return *c.result, nil
}

// BenchmarkRevealGate is a reveal without network and log: authenticate, authorise, audit record, decrypt.
func BenchmarkRevealGate(b *testing.B) {
	code := auth.NewToken(auth.EnrolmentCode)
	hash := code.Hash()
	c := clustertest.New(b, clustertest.Options{Nodes: 1, Enrolment: hash[:]})
	c.Init()
	s, err := NewServer(Config{Node: &canned{Node: c.Leader().Node}, Passwords: auth.Params{Memory: 64, Time: 1, Threads: 1},
		Limits: Limits{Principal: auth.Rate{Every: 1, Burst: 1 << 30}}})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Shutdown(context.Background())
	from := peer.NewContext(b.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1234}})
	ctx := func(token, request string) context.Context {
		return metadata.NewIncomingContext(from, metadata.Pairs(hizov1.MetaAuthorization, "Bearer "+token, hizov1.MetaRequestID, request))
	}
	login, err := (&authService{Server: s}).Enrol(ctx("", newID(b)), &hizov1.EnrolRequest{
		Code: code.Reveal(), User: "alice", Password: []byte("correct horse battery"), ClientKey: make([]byte, 32),
	})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := (&vaultService{Server: s}).CreateVault(ctx(login.GetToken(), newID(b)), &hizov1.CreateVaultRequest{Name: "ml"}); err != nil {
		b.Fatal(err)
	}
	secrets := &secretService{Server: s}
	if _, err := secrets.Put(ctx(login.GetToken(), newID(b)), &hizov1.PutRequest{
		Vault: "ml", Path: "db/main", Fields: map[string][]byte{"password": make([]byte, 256)},
	}); err != nil {
		b.Fatal(err)
	}
	call, req := ctx(login.GetToken(), newID(b)), &hizov1.RevealRequest{Vault: "ml", Path: "db/main"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := secrets.Reveal(call, req); err != nil {
			b.Fatal(err)
		}
	}
}

func newID(b *testing.B) string {
	id, err := uuid.NewV7()
	if err != nil {
		b.Fatal(err)
	}
	return id.String()
}
