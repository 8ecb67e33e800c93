package observe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// TracesConfig says where traces go.
type TracesConfig struct {
	Endpoint  string  // host:port of an OTLP/gRPC collector
	Plaintext bool    // without TLS
	CAFile    string  // PEM; empty: the system's
	Sample    float64 // part of the traces that is kept, 0 to 1
	Node      string
	Version   string
	Logger    *slog.Logger
}

// Traces sends spans to a collector, in batches and beside the calls. A collector that is slow or gone costs spans and
// nothing else: 2048 wait, what comes then is dropped.
//
// A span says which method, which step, how long and with which code: nothing of who called, or for what. Whether a trace
// is kept depends on its id alone; a client that asks for its own to be kept has no say, or anybody could have a node
// work for the collector.
type Traces struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	parents  propagation.TraceContext
}

// Bounds of what waits for the collector.
const (
	spansWaiting = 2048
	spansAtOnce  = 512
	spansEvery   = 5 * time.Second
	spansWithin  = 10 * time.Second
)

// NewTraces begins to send. It does not wait for the collector.
func NewTraces(ctx context.Context, cfg TracesConfig) (*Traces, error) {
	options := []otlptracegrpc.Option{
		otlptracegrpc.WithEndpoint(cfg.Endpoint), otlptracegrpc.WithTimeout(spansWithin),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: spansWithin}),
	}
	if cfg.Plaintext {
		options = append(options, otlptracegrpc.WithInsecure())
	} else {
		secure := &tls.Config{MinVersion: tls.VersionTLS12}
		if cfg.CAFile != "" {
			pem, err := os.ReadFile(cfg.CAFile)
			if err != nil {
				return nil, fmt.Errorf("observe.traces.ca_file: %w", err)
			}
			secure.RootCAs = x509.NewCertPool()
			if !secure.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("observe.traces.ca_file: %s holds no PEM certificate", cfg.CAFile)
			}
		}
		options = append(options, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(secure)))
	}
	exporter, err := otlptracegrpc.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("observe.traces: %w", err)
	}
	if cfg.Logger != nil {
		// The SDK has one handler for the whole process, and without one prints what a collector says.
		otel.SetErrorHandler(&spansLost{log: cfg.Logger.With("component", "observe")})
	}
	provider := sdk.NewTracerProvider(
		sdk.WithBatcher(exporter, sdk.WithMaxQueueSize(spansWaiting), sdk.WithMaxExportBatchSize(spansAtOnce),
			sdk.WithBatchTimeout(spansEvery), sdk.WithExportTimeout(spansWithin)),
		sdk.WithSampler(sdk.TraceIDRatioBased(cfg.Sample)),
		sdk.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "hizo"), attribute.String("service.version", cfg.Version),
			attribute.String("service.instance.id", cfg.Node))),
		sdk.WithRawSpanLimits(sdk.SpanLimits{AttributeValueLengthLimit: 128, AttributeCountLimit: 8, EventCountLimit: 0, LinkCountLimit: 0}),
	)
	return &Traces{provider: provider, tracer: provider.Tracer("github.com/hizo/hizo")}, nil
}

// Begin implements api.Tracer.
func (t *Traces) Begin(ctx context.Context, name, parent string) (context.Context, func(codes.Code)) {
	kind := trace.SpanKindInternal
	if !trace.SpanContextFromContext(ctx).IsValid() {
		kind = trace.SpanKindServer
		if parent != "" {
			ctx = t.parents.Extract(ctx, propagation.MapCarrier{"traceparent": parent})
		}
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(kind))
	return ctx, func(code codes.Code) {
		if span.IsRecording() {
			span.SetAttributes(attribute.String("rpc.system", "grpc"), attribute.Int("rpc.grpc.status_code", int(code)))
			switch code {
			case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
				span.SetStatus(otelcodes.Error, code.String()) // what OpenTelemetry calls a server's error
			}
		}
		span.End()
	}
}

// Close sends what waits, as long as ctx lasts.
func (t *Traces) Close(ctx context.Context) error { return t.provider.Shutdown(ctx) }

// spansLost tells once a minute that traces are not delivered, not what the collector says.
type spansLost struct {
	log *slog.Logger

	mu   sync.Mutex
	last time.Time
}

// Handle implements otel.ErrorHandler.
func (s *spansLost) Handle(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.last.IsZero() || now.Sub(s.last) >= time.Minute {
		s.last = now
		code := status.Code(err)
		if e, ok := errors.AsType[interface {
			error
			GRPCStatus() *status.Status
		}](err); ok {
			code = e.GRPCStatus().Code()
		}
		s.log.Warn("traces are not delivered to the collector", "code", code.String())
	}
}
