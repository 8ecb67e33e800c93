package observe_test

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/observe"
)

// otlp is a collector.
type otlp struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []*tracepb.Span
	raw   bytes.Buffer
}

func (o *otlp) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	o.raw.Write(b)
	for _, r := range req.ResourceSpans {
		for _, s := range r.ScopeSpans {
			o.spans = append(o.spans, s.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func traces(t *testing.T, endpoint string, sample float64) *observe.Traces {
	t.Helper()
	tr, err := observe.NewTraces(t.Context(), observe.TracesConfig{Endpoint: endpoint, Plaintext: true, Sample: sample, Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestTracesReachACollector(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &otlp{}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, o)
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	tr := traces(t, l.Addr().String(), 1)
	c := apitest.Start(t, apitest.Options{Configure: func(cfg *api.Config) { cfg.Tracer = tr }})

	const parent = "4bf92f3577b34da6a3ce929d0e0e4736"
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+parent+"-00f067aa0ba902b7-00")
	const canary = "zebra-value-77"
	if _, err := c.Engineer.Vaults().CreateVault(ctx, &hizov1.CreateVaultRequest{Name: "zebravault"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Engineer.Secrets().Put(t.Context(), &hizov1.PutRequest{Vault: "zebravault", Path: "zebra/path", Fields: map[string][]byte{"f": []byte(canary)}}); err != nil {
		t.Fatal(err)
	}
	if err := tr.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	var root, commit *tracepb.Span
	for _, s := range o.spans {
		if s.Name == "hizo.v1.VaultService/CreateVault" && s.Kind == tracepb.Span_SPAN_KIND_SERVER {
			root = s
		}
	}
	if root == nil {
		t.Fatalf("no span of the call among %d", len(o.spans))
	}
	if got := hex(root.TraceId); got != parent || hex(root.ParentSpanId) != "00f067aa0ba902b7" {
		t.Errorf("the call is in trace %s, not in its client's", got)
	}
	for _, s := range o.spans {
		if s.Name == "commit" && bytes.Equal(s.ParentSpanId, root.SpanId) {
			commit = s
		}
	}
	if commit == nil || commit.StartTimeUnixNano < root.StartTimeUnixNano || commit.EndTimeUnixNano > root.EndTimeUnixNano {
		t.Errorf("the commit is not a part of the call: %v", commit)
	}
	for _, text := range []string{"zebra", canary, "user/", "alice"} {
		if strings.Contains(o.raw.String(), text) {
			t.Errorf("the traces hold %q", text)
		}
	}
}

func hex(b []byte) string {
	const digits = "0123456789abcdef"
	out := make([]byte, 0, 2*len(b))
	for _, c := range b {
		out = append(out, digits[c>>4], digits[c&15])
	}
	return string(out)
}

// A collector that does not answer costs spans, not calls; and a client has no say in what is kept.
func TestTracesNeedNoCollector(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tr := traces(t, l.Addr().String(), 1)
	begin := time.Now()
	for range 10_000 {
		ctx, end := tr.Begin(t.Context(), "call", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
		_, step := tr.Begin(ctx, "commit", "")
		step(0)
		end(0)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("20,000 spans took %s", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := tr.Close(ctx); err == nil {
		t.Error("a collector that says nothing took spans")
	}

	none := traces(t, l.Addr().String(), 0)
	defer none.Close(ctx)
	within, end := none.Begin(t.Context(), "call", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	defer end(0)
	if observe.Recording(within) {
		t.Error("a client had its trace kept against the configuration")
	}
}
