package meter

import (
	"slices"
	"sync"
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	h := NewHistogram(10, 20)
	for _, v := range []int64{-1, 10, 11, 20, 21, 1000} {
		h.Observe(v)
	}
	d := h.Load()
	if !slices.Equal(d.Counts, []uint64{2, 4}) || d.Count != 6 || d.Sum != 1061 {
		t.Errorf("%+v", d)
	}
}

func TestConcurrentObservations(t *testing.T) {
	h, c := NewDurations(), new(Counter)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				h.Since(time.Now())
				c.Add(2)
			}
		})
	}
	wg.Wait()
	if d := h.Load(); d.Count != 4000 || c.Load() != 8000 {
		t.Errorf("%d observations, count %d", d.Count, c.Load())
	}
}

func BenchmarkObserve(b *testing.B) {
	h := NewDurations()
	for b.Loop() {
		h.Observe(int64(3 * time.Millisecond))
	}
}
