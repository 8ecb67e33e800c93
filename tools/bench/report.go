package main

import (
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

type cellKey struct {
	name    string
	clients int
}

type report struct {
	o     options
	about string
	cells map[cellKey][]measurement
}

func newReport(o options, about string) *report {
	return &report{o: o, about: about, cells: make(map[cellKey][]measurement)}
}

func (r *report) add(name string, clients int, m measurement) {
	k := cellKey{name, clients}
	r.cells[k] = append(r.cells[k], m)
}

// median of each figure over the rounds.
func (r *report) median(name string, clients int) measurement {
	ms := r.cells[cellKey{name, clients}]
	return measurement{
		rate: middle(ms, func(m measurement) float64 { return m.rate }),
		p50:  middle(ms, func(m measurement) time.Duration { return m.p50 }),
		p99:  middle(ms, func(m measurement) time.Duration { return m.p99 }),
	}
}

func middle[T float64 | time.Duration](ms []measurement, f func(measurement) T) T {
	xs := make([]T, len(ms))
	for i, m := range ms {
		xs[i] = f(m)
	}
	slices.Sort(xs)
	return xs[len(xs)/2]
}

// ratio over the rounds: the median of the ratios measured side by side.
func (r *report) ratio(name, base string, clients int) float64 {
	a, b := r.cells[cellKey{name, clients}], r.cells[cellKey{base, clients}]
	xs := make([]float64, len(a))
	for i := range a {
		xs[i] = a[i].rate / b[i].rate
	}
	slices.Sort(xs)
	return xs[len(xs)/2]
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmark\n\nMeasured by `make bench` on %s: %d CPUs, %s, %s; %s.\n",
		time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), etcdVersion(), r.about)
	fmt.Fprintf(&b, "Three nodes each on one machine with the load generator, TLS, %d-byte values, %d keys, closed-loop clients on %d connections\nto the leader; %d rounds of %s a cell, alternating; medians. Hizo: HSM seal, audit record for every request, authorisation on.\n\n",
		r.o.valueSize, r.o.keys, connections, r.o.rounds, r.o.duration)
	b.WriteString("| clients | operation | requests/s | p50 | p99 | rate against etcd | p99 against etcd | share of a bare gRPC call |\n|---:|---|---:|---:|---:|---:|---:|---:|\n")
	for _, n := range r.o.clients {
		health := r.median("gRPC health", n)
		for _, row := range []struct{ name, base string }{
			{"etcd put", ""}, {"hizo put", "etcd put"}, {"etcd read", ""}, {"hizo reveal", "etcd read"}, {"gRPC health", ""},
		} {
			m := r.median(row.name, n)
			rate, tail := "", ""
			if row.base != "" {
				rate = fmt.Sprintf("**%.2f×**", r.ratio(row.name, row.base, n))
				tail = fmt.Sprintf("%.2f×", float64(m.p99)/float64(r.median(row.base, n).p99))
			}
			fmt.Fprintf(&b, "| %d | %s | %.0f | %s | %s | %s | %s | %.0f %% |\n", n, row.name, m.rate,
				ms(m.p50), ms(m.p99), rate, tail, 100*m.rate/health.rate)
		}
	}
	b.WriteString("\nA reveal is a committed, replicated audit record; etcd's linearizable read is one read-index round and writes nothing.\n")
	return b.String()
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond)) }

func etcdVersion() string {
	out, err := exec.Command("etcd", "--version").Output()
	if err != nil {
		return "etcd (version unknown)"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.Replace(line, "etcd Version: ", "etcd ", 1)
}
