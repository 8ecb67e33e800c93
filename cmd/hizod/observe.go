package main

import (
	"log/slog"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/observe"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/crypto/seal"
)

// observing is the observe listener, or nothing where the configuration has none.
type observing struct{ *observe.Server }

func startObserving(cfg *Config, log *slog.Logger) (observing, error) {
	if cfg.Observe.Listen == "" {
		return observing{}, nil
	}
	s, err := observe.Listen(observe.Config{Listen: cfg.Observe.Listen, Node: cfg.Node, Version: version(), Logger: log})
	if err != nil {
		return observing{}, err
	}
	log.Info("probes and metrics: /healthz, /readyz, /metrics", "address", "http://"+s.Addr())
	return observing{s}, nil
}

// Attach shows the node.
func (o observing) Attach(node *cluster.Node, srv *api.Server, s seal.Seal) {
	if o.Server != nil {
		o.Server.Attach(node, observe.Parts{Calls: srv, Seal: s})
	}
}

// Stopping says that the node is about to close.
func (o observing) Stopping() {
	if o.Server != nil {
		o.Server.Stopping()
	}
}

// Close ends it.
func (o observing) Close() error {
	if o.Server == nil {
		return nil
	}
	return o.Server.Close()
}
