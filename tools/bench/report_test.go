package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestReportTakesMediansAndRatiosOfTheSameRound(t *testing.T) {
	r := newReport(options{clients: []int{1}, rounds: 3}, "hizo test")
	for i, rate := range []float64{100, 200, 300} {
		r.add("etcd put", 1, measurement{rate: rate, p99: time.Millisecond})
		r.add("hizo put", 1, measurement{rate: rate * float64(i+2), p99: 2 * time.Millisecond})
		r.add("etcd read", 1, measurement{rate: 50})
		r.add("hizo reveal", 1, measurement{rate: 100})
		r.add("gRPC health", 1, measurement{rate: 1000})
	}
	if got := r.median("etcd put", 1).rate; got != 200 {
		t.Errorf("median rate %v, want 200", got)
	}
	if got := r.ratio("hizo put", "etcd put", 1); got != 3 {
		t.Errorf("ratio %v, want 3: the median of 2, 3, 4", got)
	}
	if text := r.markdown(); !strings.Contains(text, "**2.00×**") || !strings.Contains(text, "**3.00×**") {
		t.Errorf("ratios missing in:\n%s", text)
	}
}

func TestMeasureFailsOnOneFailedRequest(t *testing.T) {
	broken := errors.New("refused")
	_, err := measure(t.Context(), 4, 50*time.Millisecond, func(_ context.Context, client, i int) error {
		if client == 2 && i == 10 {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want the request's error", err)
	}
}
