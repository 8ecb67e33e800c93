// Package meter counts and measures where microseconds matter: a few atomic additions, no locks, no names. What the
// numbers are called, and who sees them, is package observe's business.
package meter

import (
	"sync/atomic"
	"time"
)

// Counter only grows.
type Counter struct{ n atomic.Uint64 }

// Add counts n more.
func (c *Counter) Add(n int) { c.n.Add(uint64(n)) }

// Load is the count.
func (c *Counter) Load() uint64 { return c.n.Load() }

// Histogram counts observations by size. Its bounds never change.
type Histogram struct {
	bounds []int64 // inclusive upper ones, ascending
	counts []atomic.Uint64
	sum    atomic.Int64
}

// NewHistogram makes one with these upper bounds, ascending; what is larger is counted too.
func NewHistogram(bounds ...int64) *Histogram {
	return &Histogram{bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)}
}

// NewDurations is for latencies of commits and calls: 100 µs to 10 s.
func NewDurations() *Histogram {
	list := []time.Duration{
		100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
		time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
		50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
		time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
	}
	bounds := make([]int64, len(list))
	for i, d := range list {
		bounds[i] = int64(d)
	}
	return NewHistogram(bounds...)
}

// Observe counts one value.
func (h *Histogram) Observe(v int64) {
	i := 0
	for i < len(h.bounds) && v > h.bounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(v)
}

// Since counts the time since begin.
func (h *Histogram) Since(begin time.Time) { h.Observe(int64(time.Since(begin))) }

// Distribution is what a histogram holds.
type Distribution struct {
	Bounds []int64
	Counts []uint64 // cumulative, one for each bound
	Count  uint64   // of all
	Sum    int64
}

// Load reads a histogram. Observations that happen meanwhile may be in the sum and not in the count.
func (h *Histogram) Load() Distribution {
	d := Distribution{Bounds: h.bounds, Counts: make([]uint64, len(h.bounds)), Sum: h.sum.Load()}
	for i := range h.counts {
		d.Count += h.counts[i].Load()
		if i < len(d.Counts) {
			d.Counts[i] = d.Count
		}
	}
	return d
}
