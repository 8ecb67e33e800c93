package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/observe"
	"github.com/hizo/hizo/cluster"
)

// observing is the observe listener and the traces, each nil where the configuration has none.
type observing struct {
	*observe.Server
	traces *observe.Traces
}

// defaultSample is small: a trace of each request would cost more than the request.
const defaultSample = 0.01

func startObserving(cfg *Config, log *slog.Logger) (o observing, err error) {
	if t := cfg.Observe.Traces; t != nil {
		sample := defaultSample
		if t.Sample != nil {
			sample = *t.Sample
		}
		o.traces, err = observe.NewTraces(context.Background(), observe.TracesConfig{
			Endpoint: t.Endpoint, Plaintext: t.Plaintext, CAFile: t.CAFile, Sample: sample, Node: cfg.Node, Version: version(), Logger: log,
		})
		if err != nil {
			return o, err
		}
	}
	if cfg.Observe.Listen == "" {
		return o, nil
	}
	s, err := observe.Listen(observe.Config{Listen: cfg.Observe.Listen, Node: cfg.Node, Version: version(), Logger: log})
	if err != nil {
		return o, errors.Join(err, o.Close())
	}
	log.Info("probes and metrics: /healthz, /readyz, /metrics", "address", "http://"+s.Addr())
	o.Server = s
	return o, nil
}

// Attach shows the node.
func (o observing) Attach(node *cluster.Node, parts observe.Parts) {
	if o.Server != nil {
		o.Server.Attach(node, parts)
	}
}

// Stopping says that the node is about to close.
func (o observing) Stopping() {
	if o.Server != nil {
		o.Server.Stopping()
	}
}

// Tracer is what the API tells of its calls, nil where nobody wants to know.
func (o observing) Tracer() api.Tracer {
	if o.traces == nil {
		return nil
	}
	return o.traces
}

// Close ends them.
func (o observing) Close() error {
	var err error
	if o.Server != nil {
		err = o.Server.Close()
	}
	if o.traces != nil {
		closing, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = o.traces.Close(closing) // spans that a collector did not take are lost, and that was said before
	}
	return err
}
