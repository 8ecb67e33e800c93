package observe_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/observe"
)

var update = flag.Bool("update", false, "rewrite docs/metrics.md")

// scrape reads /metrics as Prometheus would.
func scrape(t *testing.T, s *observe.Server) (map[string]*dto.MetricFamily, string) {
	t.Helper()
	code, body := get(t, s, "/metrics")
	if code != 200 {
		t.Fatalf("/metrics answered %d: %s", code, body)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatalf("%v in\n%s", err, body)
	}
	return families, body
}

// value is one series' value, or of a histogram its count; labels are name, value, ….
func value(t *testing.T, families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	t.Helper()
	if families[name] == nil {
		t.Errorf("there is no %s", name)
		return -1
	}
	for _, m := range families[name].Metric {
		has := make(map[string]string)
		for _, l := range m.Label {
			has[l.GetName()] = l.GetValue()
		}
		match := len(has) == len(labels)/2
		for i := 0; i < len(labels); i += 2 {
			match = match && has[labels[i]] == labels[i+1]
		}
		if match {
			switch {
			case m.Gauge != nil:
				return m.Gauge.GetValue()
			case m.Counter != nil:
				return m.Counter.GetValue()
			case m.Histogram != nil:
				return float64(m.Histogram.GetSampleCount())
			}
		}
	}
	t.Errorf("%s has no series %v", name, labels)
	return -1
}

func TestMetricsOfACluster(t *testing.T) {
	c := apitest.Start(t, apitest.Options{})
	watch := make(map[string]*observe.Server)
	for _, n := range c.Nodes {
		s := listen(t, n.ID)
		s.Attach(n.Node, observe.Parts{Calls: c.Server(n.ID).Server, Seal: n.Seal, FailedBackups: func() uint64 { return 0 }})
		await(t, s, "")
		watch[n.ID] = s
	}
	ctx := t.Context()
	const vault, path, canary = "zebravault", "zebra/path", "zebra-value-9c1e"
	if _, err := c.Engineer.Vaults().CreateVault(ctx, &hizov1.CreateVaultRequest{Name: vault}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Engineer.Secrets().Put(ctx, &hizov1.PutRequest{
		Vault: vault, Path: path, Fields: map[string][]byte{"zebrafield": []byte(canary)},
	}); err != nil {
		t.Fatal(err)
	}
	zoe := c.User("zebrazoe")
	if _, err := zoe.Secrets().Reveal(ctx, &hizov1.RevealRequest{Vault: vault, Path: path}); err == nil {
		t.Fatal("a user without roles revealed a value")
	}
	if _, err := c.Client().Auth().Login(ctx, &hizov1.LoginRequest{User: "zebrazoe", Password: []byte("wrong " + canary)}); err == nil {
		t.Fatal("a wrong password logged in")
	}
	leader := c.Leader()
	families, body := scrape(t, watch[leader.ID])

	for _, tt := range []struct {
		least float64
		name  string
		label []string
	}{
		{1, "hizo_leader", nil}, {1, "hizo_ready", nil}, {1, "hizo_initialised", nil}, {1, "hizo_leader_known", nil},
		{1, "hizo_seal_healthy", nil}, {3, "hizo_members", []string{"state", "voter"}}, {2, "hizo_share_threshold", nil},
		{5, "hizo_records_total", []string{"outcome", "committed"}}, {5, "hizo_commit_seconds", nil},
		{5, "hizo_entry_records", nil}, {5, "hizo_log_append_seconds", nil}, {1, "hizo_log_bytes", nil},
		{5, "hizo_audit_records", nil}, {5, "hizo_applied_index", nil},
		{1, "hizo_denials_total", []string{"action", "reveal"}},
		{1, "hizo_logins_total", []string{"method", "password", "outcome", "refused"}},
		{1, "hizo_logins_total", []string{"method", "password", "outcome", "admitted"}},
		{1, "hizo_calls_total", []string{"method", "hizo.v1.SecretService/Reveal", "code", "PermissionDenied"}},
		{1, "hizo_call_seconds", []string{"method", "hizo.v1.SecretService/Put"}},
		{1.7e9, "hizo_certificate_expires_timestamp_seconds", []string{"certificate", "node"}},
		{1.7e9, "hizo_certificate_expires_timestamp_seconds", []string{"certificate", "ca"}},
		{1, "hizo_connections", nil}, {1.7e9, "hizo_cluster_time_seconds", nil}, {1, "go_goroutines", nil},
	} {
		if got := value(t, families, tt.name, tt.label...); got < tt.least {
			t.Errorf("%s%v = %v, want at least %v", tt.name, tt.label, got, tt.least)
		}
	}
	for _, name := range []string{"hizo_sealed", "hizo_lag_seconds", "hizo_forged_records_total", "hizo_disk_low", "hizo_leader_contact_age_seconds"} {
		if got := value(t, families, name); got != 0 {
			t.Errorf("%s = %v, want 0", name, got)
		}
	}
	// A leader counts what its clients ask; nobody else does, so that a sum over nodes is the cluster's.
	for id, s := range watch {
		if id == leader.ID {
			continue
		}
		others, _ := scrape(t, s)
		if got := value(t, others, "hizo_leader"); got != 0 {
			t.Errorf("%s leads too", id)
		}
		if f := others["hizo_denials_total"]; f != nil {
			t.Errorf("%s counts denials of the leader: %v", id, f.Metric)
		}
	}
	for _, text := range []string{"zebra", canary, "user/", "127.0.0.1"} {
		if strings.Contains(body, text) {
			t.Errorf("the metrics hold %q", text)
		}
	}
	described(t, families)
	rulesHold(t, families)
}

// described holds what is served against Families: no name beyond it, and none of it missing.
func described(t *testing.T, families map[string]*dto.MetricFamily) {
	t.Helper()
	known := make(map[string]observe.Family)
	for _, f := range observe.Families() {
		known[f.Name] = f
		if families[f.Name] == nil {
			t.Errorf("%s is described and not served", f.Name)
		}
	}
	for name, family := range families {
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			continue
		}
		f, ok := known[name]
		if !ok {
			t.Errorf("%s is served and not described", name)
			continue
		}
		if kind := strings.ToLower(family.GetType().String()); kind != f.Kind {
			t.Errorf("%s is a %s, described as a %s", name, kind, f.Kind)
		}
		for _, m := range family.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName())
			}
			want := slices.Sorted(slices.Values(f.Labels))
			if slices.Sort(labels); !slices.Equal(labels, want) {
				t.Errorf("%s has labels %v, described are %v", name, labels, want)
			}
		}
	}
}

const docs = "../../docs/metrics.md"

// The table in docs/metrics.md is made of Families.
func TestDocumentedMetrics(t *testing.T) {
	var table strings.Builder
	table.WriteString("| metric | kind | labels | what it says |\n|---|---|---|---|\n")
	for _, f := range observe.Families() {
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", f.Name, f.Kind, strings.Join(f.Labels, ", "), f.Help)
	}
	text, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- metrics -->\n", "<!-- end of metrics -->"
	head, rest, ok := strings.Cut(string(text), begin)
	old, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", docs)
	}
	if old == table.String() {
		return
	}
	if !*update {
		t.Fatalf("%s is not what the server has; run: go test ./api/observe -run TestDocumentedMetrics -update", docs)
	}
	if err := os.WriteFile(docs, []byte(head+begin+table.String()+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Metrics of a node that is not there yet, and of one that is about to close.
func TestMetricsWithoutANode(t *testing.T) {
	s := listen(t, "n1")
	families, _ := scrape(t, s)
	if value(t, families, "hizo_ready") != 0 || value(t, families, "hizo_not_ready", "reason", observe.Starting) != 1 {
		t.Error("a node that is not there is ready")
	}
	for name := range maps.Keys(families) {
		if name == "hizo_leader" {
			t.Error("a node that is not there is asked")
		}
	}
}
