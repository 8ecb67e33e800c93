package observe

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hizo/hizo/cluster/meter"
)

// collector reads a node when it is scraped. Nothing is pushed to it, so a node that nobody scrapes pays nothing but a
// few atomic additions where things are counted.
type collector struct {
	server *Server
	descs  map[string]*prometheus.Desc
	kinds  map[string]prometheus.ValueType
}

func newCollector(s *Server) *collector {
	c := &collector{server: s, descs: make(map[string]*prometheus.Desc), kinds: make(map[string]prometheus.ValueType)}
	for _, f := range Families() {
		c.descs[f.Name] = prometheus.NewDesc(f.Name, f.Help, f.Labels, nil)
		c.kinds[f.Name] = prometheus.GaugeValue
		if f.Kind == "counter" {
			c.kinds[f.Name] = prometheus.CounterValue
		}
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// handler serves /metrics: this node's, the Go runtime's and the process's.
func (s *Server) handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(newCollector(s), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: 4, Timeout: 10 * time.Second, ErrorHandling: promhttp.ContinueOnError, ErrorLog: scrapeLog{s},
	})
}

type scrapeLog struct{ s *Server }

func (l scrapeLog) Println(v ...any) {
	for _, v := range v {
		if err, ok := v.(error); ok {
			l.s.log.Warn("metrics", "error", err)
		}
	}
}

// sheet is one scrape.
type sheet struct {
	*collector
	ch chan<- prometheus.Metric
}

func (s sheet) put(name string, v float64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(s.descs[name], s.kinds[name], v, labels...)
}

func (s sheet) flag(name string, v bool, labels ...string) { s.put(name, truth(v), labels...) }

func truth(v bool) float64 {
	if v {
		return 1
	}
	return 0
}

// histogram puts a distribution, its values divided by unit.
func (s sheet) histogram(name string, d meter.Distribution, unit float64, labels ...string) {
	buckets := make(map[float64]uint64, len(d.Bounds))
	for i, b := range d.Bounds {
		buckets[float64(b)/unit] = d.Counts[i]
	}
	s.ch <- prometheus.MustNewConstHistogram(s.descs[name], d.Count, float64(d.Sum)/unit, buckets, labels...)
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := sheet{c, ch}
	s.put("hizo_build_info", 1, c.server.cfg.Version)
	r := c.server.Readiness()
	s.flag("hizo_ready", r.Ready)
	for _, reason := range []string{Starting, Stopping, NotInitialised, Sealed, Leaderless, Behind, DiskFull} {
		has := false
		for _, is := range r.Reasons {
			has = has || is.Reason == reason
		}
		s.flag("hizo_not_ready", has, reason)
	}
	c.server.healthy.put(s)
	// The node may begin to close at any time: what it shows then may be short, but does not hang.
	node := c.server.node.Load()
	if node == nil || c.server.stopping.Load() {
		return
	}
	s.node(node, r)
	s.state(node, c.server.cfg.Clock(), c.server.slow.read(node.Store()))
	if node.Calls != nil {
		s.calls(node)
	}
	if node.FailedBackups != nil {
		s.put("hizo_backup_failures_total", float64(node.FailedBackups()))
	}
}

func (s sheet) node(node *attached, r Readiness) {
	st, n := node.Status(), node.Numbers()
	s.flag("hizo_initialised", st.Initialised)
	s.flag("hizo_sealed", st.Sealed)
	s.flag("hizo_sealed_on_purpose", st.SealedFlag)
	s.flag("hizo_leader", st.IsLeader)
	s.flag("hizo_leader_known", st.Leader.ID != "")
	s.put("hizo_leader_changes_total", float64(n.LeaderChanges))
	contact := 0.0
	if !n.LastContact.IsZero() {
		contact = max(0, time.Since(n.LastContact).Seconds())
	}
	s.put("hizo_leader_contact_age_seconds", contact)
	s.put("hizo_raft_term", float64(st.Term))
	s.put("hizo_raft_last_index", float64(st.LastIndex))
	s.put("hizo_raft_commit_index", float64(n.CommitIndex))
	s.put("hizo_applied_index", float64(st.Applied))
	s.put("hizo_lag_seconds", float64(r.LagMS)/1000)
	s.put("hizo_clock_skew_seconds", st.ClockSkew.Seconds())
	states := map[string]int{"voter": 0, "nonvoter": 0, "unapproved": 0, "quarantined": 0, "without_share": 0}
	for _, m := range st.Members {
		is := map[string]bool{
			"voter": m.Voter, "nonvoter": !m.Voter, "unapproved": !m.Approved, "quarantined": m.Quarantined,
			"without_share": m.Voter && !m.HasShare,
		}
		for state, yes := range is {
			if yes {
				states[state]++
			}
		}
	}
	for state, count := range states {
		s.put("hizo_members", float64(count), state)
	}
	s.put("hizo_share_threshold", float64(st.Threshold))

	for outcome, count := range map[string]uint64{
		"committed": n.Committed, "refused": n.Refused, "overloaded": n.Overloaded, "unknown": n.Unknown,
	} {
		s.put("hizo_records_total", float64(count), outcome)
	}
	s.histogram("hizo_commit_seconds", n.Commit, float64(time.Second))
	s.histogram("hizo_entry_records", n.EntryRecords, 1)
	s.histogram("hizo_entry_bytes", n.EntryBytes, 1)
	s.put("hizo_queue_records", float64(n.QueueRecords))
	s.put("hizo_queue_bytes", float64(n.QueueBytes))
	s.histogram("hizo_log_append_seconds", n.Appends, float64(time.Second))
	s.put("hizo_log_bytes", float64(n.LogBytes))
	s.put("hizo_log_bytes_after_snapshot", float64(n.LogBytesAfter))
	s.put("hizo_snapshots", float64(n.Snapshots))
	s.put("hizo_snapshot_index", float64(n.SnapshotIndex))
	s.put("hizo_snapshot_bytes", float64(n.SnapshotBytes))
	s.put("hizo_snapshot_failures_total", float64(n.SnapshotFailures))

	s.put("hizo_disk_free_bytes", float64(st.Disk.Free))
	s.put("hizo_disk_total_bytes", float64(st.Disk.Total))
	s.put("hizo_disk_reserve_bytes", float64(st.Disk.Reserve))
	s.flag("hizo_disk_low", st.Disk.Low)
	for name, ends := range map[string]time.Time{"node": n.CertificateEnds, "ca": n.CAEnds} {
		if !ends.IsZero() {
			s.put("hizo_certificate_expires_timestamp_seconds", float64(ends.Unix()), name)
		}
	}
}

func (s sheet) state(node *attached, now time.Time, slow counted) {
	store := node.Store()
	n := store.Numbers()
	s.put("hizo_cluster_time_seconds", float64(store.Time())/1000)
	s.put("hizo_state_disk_bytes", float64(n.DiskBytes))
	s.put("hizo_state_memtable_bytes", float64(n.MemtableBytes))
	s.put("hizo_state_cache_bytes", float64(n.CacheBytes))
	s.put("hizo_state_compactions_total", float64(n.Compactions))
	cp, ok := store.LatestCheckpoint() // before the size, so that nothing unsigned is never negative
	size := store.AuditSize()
	s.put("hizo_audit_records", float64(size))
	s.put("hizo_audit_unsigned_records", float64(size-min(size, cp.Size)))
	s.put("hizo_checkpoint_records", float64(cp.Size))
	if ok {
		s.put("hizo_checkpoint_age_seconds", max(0, now.Sub(time.UnixMilli(cp.Time)).Seconds()))
	}
	last, _ := store.LastBackup()
	s.put("hizo_backup_timestamp_seconds", float64(last.Kept)/1000)
	s.put("hizo_backup_bytes", float64(last.KeptBytes))
	for state, count := range slow.rotations {
		s.put("hizo_rotations", float64(count), state)
	}
	s.put("hizo_rotation_overdue_seconds", slow.overdue.Seconds())
	s.put("hizo_key_rotations_due", float64(slow.keys))
	s.put("hizo_leases", float64(slow.leases.Held), "held")
	s.put("hizo_leases", float64(slow.leases.Revoking), "revoking")
	s.put("hizo_leases", float64(slow.leases.Dead), "dead")
}

func (s sheet) calls(node *attached) {
	n := node.Calls.Numbers()
	for method, call := range n.Calls {
		method = strings.TrimPrefix(method, "/")
		for code, count := range call.Codes {
			s.put("hizo_calls_total", float64(count), method, code.String())
		}
		if call.Latency != nil {
			s.histogram("hizo_call_seconds", *call.Latency, float64(time.Second), method)
		}
	}
	for action, count := range n.Denials {
		s.put("hizo_denials_total", float64(count), action)
	}
	for method, l := range n.Logins {
		s.put("hizo_logins_total", float64(l.Admitted), method, "admitted")
		s.put("hizo_logins_total", float64(l.Refused), method, "refused")
	}
	s.put("hizo_rate_limited_total", float64(n.Limited))
	s.put("hizo_forged_records_total", float64(n.Forged))
	s.put("hizo_connections", float64(n.Connections))
	s.put("hizo_watchers", float64(n.Watchers))
	s.put("hizo_audit_tails", float64(n.Tails))
}

// Seal is what is asked whether it works.
type Seal interface{ Healthy(context.Context) error }

// sealHealth is the last answer.
type sealHealth struct {
	mu   sync.Mutex
	told bool
	ok   bool
	took time.Duration
}

const (
	sealEvery  = 10 * time.Second
	sealWithin = 5 * time.Second
)

func (h *sealHealth) follow(ctx context.Context, seal Seal) {
	tick := time.NewTicker(sealEvery)
	defer tick.Stop()
	for {
		h.ask(ctx, seal)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (h *sealHealth) ask(ctx context.Context, seal Seal) {
	within, cancel := context.WithTimeout(ctx, sealWithin)
	defer cancel()
	begin := time.Now()
	err := seal.Healthy(within)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told, h.ok, h.took = true, err == nil, time.Since(begin)
}

func (h *sealHealth) put(s sheet) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.told {
		s.flag("hizo_seal_healthy", h.ok)
		s.put("hizo_seal_check_seconds", h.took.Seconds())
	}
}
