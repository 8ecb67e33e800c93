package api_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/fsm"
)

// BenchmarkWatchers is one event told to a thousand open streams of one node: over TLS, each with its rights looked at.
// ns/watcher is what one event costs for one watcher; both ends are in this process.
func BenchmarkWatchers(b *testing.B) {
	const watchers = 1000
	c := apitest.Start(b, apitest.Options{Options: clustertest.Options{Nodes: 1}, Limits: api.Limits{Streams: watchers}})
	c.Vault("ml")
	c.Put("ml", "db", "f", "1")
	train := c.Workload("train", fmt.Sprintf(mayInject, "train", "db"))
	var told atomic.Int64
	for range watchers {
		stream, err := train.Watches().Watch(b.Context(), secretFilter("db"))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			b.Fatal(err)
		}
		go func() {
			for {
				m, err := stream.Recv()
				if err != nil {
					return
				}
				told.Add(int64(len(m.GetEvents())))
			}
		}()
	}
	leader := c.Leader()
	body := fsm.EncodeBody(fsm.KindSecretDelete, &fsm.SecretVersions{Vault: "ml", Path: "db", Versions: []uint32{1}})
	b.ReportAllocs()
	want := int64(0)
	for b.Loop() {
		want += watchers
		if _, err := leader.Propose(b.Context(), fsm.Command{
			Kind: fsm.KindSecretDelete, Principal: "user/alice", Body: body,
			Audits: []fsm.Audit{{Action: "delete", Resource: "ml/db", Decision: fsm.Allowed}},
		}); err != nil {
			b.Fatal(err)
		}
		for deadline := time.Now().Add(clustertest.Patience); told.Load() < want; {
			if time.Now().After(deadline) {
				b.Fatalf("%d of %d", told.Load(), want)
			}
			time.Sleep(50 * time.Microsecond)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(want), "ns/watcher")
}
