package api_test

import (
	"context"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/hizov1"
)

// These benchmarks take whole calls through three nodes in one process: client, TLS, decision, audit record on a
// quorum, encryption. cpu-µs/op is the processor time of all of them together, which neighbours on a busy machine
// disturb less than the clock. Their profile shows where the time of `make bench` goes:
//
//	go test ./api -run '^$' -bench Reveal -cpuprofile cpu.out

func BenchmarkReveal(b *testing.B) {
	whole(b, func(ctx context.Context, s hizov1.SecretServiceClient, _ int64) error {
		_, err := s.Reveal(ctx, &hizov1.RevealRequest{Vault: "bench", Path: "key-0", Field: "value"})
		return err
	})
}

func BenchmarkPut(b *testing.B) {
	value := map[string][]byte{"value": make([]byte, 256)}
	whole(b, func(ctx context.Context, s hizov1.SecretServiceClient, i int64) error {
		_, err := s.Put(ctx, &hizov1.PutRequest{Vault: "bench", Path: paths[i%int64(len(paths))], Fields: value})
		return err
	})
}

var paths = func() (list [1000]string) {
	for i := range list {
		list[i] = "key-" + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676))
	}
	list[0] = "key-0"
	return list
}()

func whole(b *testing.B, call func(context.Context, hizov1.SecretServiceClient, int64) error) {
	c := apitest.Start(b, apitest.Options{})
	ctx := b.Context()
	if _, err := c.Engineer.Vaults().CreateVault(ctx, &hizov1.CreateVaultRequest{Name: "bench"}); err != nil {
		b.Fatal(err)
	}
	secrets := c.Engineer.Secrets()
	if _, err := secrets.Put(ctx, &hizov1.PutRequest{Vault: "bench", Path: "key-0", Fields: map[string][]byte{"value": make([]byte, 256)}}); err != nil {
		b.Fatal(err)
	}
	var n atomic.Int64
	b.SetParallelism(64)
	b.ReportAllocs()
	before := processorTime(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := call(ctx, secrets, n.Add(1)); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

func processorTime(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
