package api_test

import (
	"testing"

	"google.golang.org/grpc"

	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/hizov1"
)

// BenchmarkReveal is a whole reveal with three nodes in one process: TLS, decision, audit record on a quorum,
// decryption. Its profile shows where the time of `make bench` goes:
//
//	go test ./api -run '^$' -bench Reveal -cpuprofile cpu.out
func BenchmarkReveal(b *testing.B) {
	c := apitest.Start(b, apitest.Options{})
	ctx := b.Context()
	if _, err := c.Engineer.Vaults().CreateVault(ctx, &hizov1.CreateVaultRequest{Name: "bench"}); err != nil {
		b.Fatal(err)
	}
	value := map[string][]byte{"value": make([]byte, 256)}
	if _, err := c.Engineer.Secrets().Put(ctx, &hizov1.PutRequest{Vault: "bench", Path: "key", Fields: value}); err != nil {
		b.Fatal(err)
	}
	secrets := c.Engineer.Secrets()
	b.SetParallelism(64)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, err := secrets.Reveal(ctx, &hizov1.RevealRequest{Vault: "bench", Path: "key", Field: "value"}, grpc.WaitForReady(true))
			if err != nil || len(r.Fields["value"]) != 256 {
				b.Errorf("reveal: %v", err)
				return
			}
		}
	})
}
