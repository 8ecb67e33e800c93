package cluster_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/fsm"
)

// BenchmarkPropose commits audit records through three nodes with closed-loop callers.
func BenchmarkPropose(b *testing.B) {
	c := clustertest.Start(b, clustertest.Options{})
	leader := c.Leader()
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			b.ReportAllocs()
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					cmd := record("bench")
					cmd.Audits[0].Sealed = make([]byte, 200)
					for left.Add(-1) >= 0 {
						if r, err := leader.Propose(b.Context(), cmd); err != nil || r.Code != fsm.CodeOK {
							b.Error(r, err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
