package main

import (
	"context"
	"slices"
	"sync"
	"time"
)

// operation does one request of client number client; i counts that client's requests.
type operation func(ctx context.Context, client, i int) error

type measurement struct {
	rate     float64 // requests a second
	p50, p99 time.Duration
}

// measure runs n closed-loop clients: warm-up for a fifth of the time, then the measured part.
// One failed request fails the measurement: a rate with errors in it means nothing.
func measure(ctx context.Context, n int, d time.Duration, op operation) (measurement, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	start := time.Now().Add(d / 5)
	end := start.Add(d)
	perClient := make([][]time.Duration, n)
	var wg sync.WaitGroup
	for c := range n {
		wg.Go(func() {
			samples := make([]time.Duration, 0, 1<<14)
			for i := 0; ; i++ {
				t0 := time.Now()
				if t0.After(end) || ctx.Err() != nil {
					break
				}
				if err := op(ctx, c, i); err != nil {
					cancel(err)
					break
				}
				if t1 := time.Now(); t0.After(start) && t1.Before(end) {
					samples = append(samples, t1.Sub(t0))
				}
			}
			perClient[c] = samples
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return measurement{}, err
	}
	all := slices.Concat(perClient...)
	slices.Sort(all)
	if len(all) == 0 {
		return measurement{}, context.DeadlineExceeded
	}
	return measurement{
		rate: float64(len(all)) / d.Seconds(),
		p50:  all[len(all)/2],
		p99:  all[len(all)*99/100],
	}, nil
}
