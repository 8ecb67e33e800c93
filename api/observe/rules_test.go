package observe_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	dto "github.com/prometheus/client_model/go"

	"github.com/hizo/hizo/api/observe"
)

const (
	alerts    = "../../deploy/prometheus/alerts.yaml"
	dashboard = "../../deploy/grafana/hizo.json"
)

// expressions are those of the alert rules and of the dashboard, by where they stand.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	out := make(map[string]string)
	text, err := os.ReadFile(alerts)
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if out[r.Alert] != "" || r.Expr == "" {
				t.Errorf("alert %q is there twice, or empty", r.Alert)
			}
			if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("alert %q does not say how bad it is, what, and what to do", r.Alert)
			}
			out[r.Alert] = r.Expr
		}
	}
	if text, err = os.ReadFile(dashboard); err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	ids := make(map[int]bool)
	for _, p := range board.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q: id %d is there twice, or it is wider than the board", p.Title, p.ID)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			out["panel "+p.Title+": "+target.Expr] = target.Expr
		}
	}
	if len(out) < 40 {
		t.Errorf("only %d expressions were found", len(out))
	}
	return out
}

var (
	metric  = regexp.MustCompile(`\b((?:hizo|go|process)_[a-z0-9_]+)(?:\{([^}]*)\})?`)
	matcher = regexp.MustCompile(`([a-z_]+)\s*(=~|!=|!~|=)\s*"([^"]*)"`)
	grouped = regexp.MustCompile(`\bby \(([^)]*)\)`)
)

// Every name, label and value that alert rules and dashboard select by has to be one that is served.
func rulesHold(t *testing.T, served map[string]*dto.MetricFamily) {
	t.Helper()
	known := make(map[string]observe.Family)
	for _, f := range observe.Families() {
		known[f.Name] = f
	}
	always := []string{"job", "instance", "le"}
	for where, expr := range expressions(t) {
		labels := slices.Clone(always)
		for _, m := range metric.FindAllStringSubmatch(expr, -1) {
			name := m[1]
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if base, ok := strings.CutSuffix(name, suffix); ok && known[base].Kind == "histogram" {
					name = base
				}
			}
			if served[name] == nil {
				t.Errorf("%s: nothing serves %s", where, m[1])
				continue
			}
			labels = append(labels, known[name].Labels...)
			if known[name].Kind == "histogram" && name == m[1] {
				t.Errorf("%s: %s is a histogram: select its _bucket, _sum or _count", where, name)
			}
			for _, by := range matcher.FindAllStringSubmatch(m[2], -1) {
				label, value := by[1], by[3]
				switch {
				case slices.Contains(always, label):
				case !slices.Contains(known[name].Labels, label):
					t.Errorf("%s: %s has no label %s", where, name, label)
				case by[2] != "=":
				case !slices.ContainsFunc(served[name].Metric, func(s *dto.Metric) bool {
					return slices.ContainsFunc(s.Label, func(l *dto.LabelPair) bool { return l.GetName() == label && l.GetValue() == value })
				}):
					t.Errorf("%s: %s never has %s=%q", where, name, label, value)
				}
			}
		}
		for _, by := range grouped.FindAllStringSubmatch(expr, -1) {
			for label := range strings.SplitSeq(by[1], ",") {
				if !slices.Contains(labels, strings.TrimSpace(label)) {
					t.Errorf("%s: grouped by %s, which nothing in it has", where, label)
				}
			}
		}
	}
}

// Prometheus's own tool reads the rules and plays them, where it is installed (Debian: prometheus).
func TestRulesByPromtool(t *testing.T) {
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed: apt-get install prometheus")
	}
	dir := filepath.Dir(alerts)
	for _, args := range [][]string{{"check", "rules", "alerts.yaml"}, {"test", "rules", "alerts_test.yaml"}, {"check", "config", "prometheus.yaml"}} {
		cmd := exec.CommandContext(t.Context(), tool, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
