package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hizo/hizo/api/hizov1"
)

// ChangeKind says what a Change tells.
type ChangeKind string

// Kinds of change.
const (
	ChangeStart        ChangeKind = "start"      // first of a watch without a cursor; Current is filled
	ChangeReset        ChangeKind = "start-over" // what was missed is not known: look at everything anew; Current is filled
	ChangeHeartbeat    ChangeKind = "heartbeat"  // nothing happened, and the cursor has moved
	ChangePut          ChangeKind = "put"        // a version was put and is current
	ChangePromoted     ChangeKind = "promoted"   // a rotation's version became current
	ChangeRetired      ChangeKind = "retired"    // an old version is no longer valid at its target
	ChangeDeleted      ChangeKind = "deleted"
	ChangeUndeleted    ChangeKind = "undeleted"
	ChangeDestroyed    ChangeKind = "destroyed"
	ChangeRotation     ChangeKind = "rotation"         // a rotation entered another stage
	ChangeLeaseRevoked ChangeKind = "lease-revoked"    // Path is the lease's role
	ChangePipeline     ChangeKind = "pipeline-changed" // Path is the pipeline's name
)

// WatchConfig says what to watch.
type WatchConfig struct {
	Secrets  []string // "ml/db": each exactly
	Prefixes []string // "ml/", "ml/train/": everything below, for those who may watch the vault
	Pipeline bool     // the caller's own pipeline, instead of these
	Cursor   string   // of a Change: go on behind it; "" is from now on
	// Retry is told why the stream has to be opened again; nil: nobody is.
	Retry func(error)
}

// Change is one thing that a watch tells. Values are never part of it.
type Change struct {
	Kind        ChangeKind
	Vault, Path string
	Version     uint32 // 0 where the change is of no version
	Time        time.Time
	Cursor      string // a watch that goes on from here misses nothing behind this change
	// Current is the current version of each of WatchConfig.Secrets, 0 where there is none.
	Current map[string]uint32
}

// Watch follows changes until ctx ends or the caller may no longer have them: then it yields one error, the last thing it
// does. Streams that break are opened again, at any node, from where they ended, for as long as it takes; only one that
// could never be opened is given up at once. Changes come in the order of the log, each at least once.
func (c *Client) Watch(ctx context.Context, cfg WatchConfig) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		req, err := cfg.request()
		if err != nil {
			yield(Change{}, err)
			return
		}
		w := &watcher{c: c, cfg: cfg, req: req, yield: yield, place: newPlacing()}
		if err := w.run(ctx); err != nil {
			yield(Change{}, err)
		}
	}
}

// Watches returns the stub of the service for watches and consumers.
func (c *Client) Watches() hizov1.WatchServiceClient { return hizov1.NewWatchServiceClient(c) }

func (cfg *WatchConfig) request() (*hizov1.WatchRequest, error) {
	req := &hizov1.WatchRequest{Pipeline: cfg.Pipeline, Cursor: cfg.Cursor}
	for _, s := range cfg.Secrets {
		vault, path, ok := strings.Cut(s, "/")
		if !ok {
			return nil, fmt.Errorf("%q is no secret to watch: write VAULT/PATH", s)
		}
		req.Filters = append(req.Filters, &hizov1.WatchRequest_Filter{Vault: vault, Path: path})
	}
	for _, p := range cfg.Prefixes {
		vault, path, _ := strings.Cut(p, "/")
		req.Filters = append(req.Filters, &hizov1.WatchRequest_Filter{Vault: vault, Path: path, Prefix: true})
	}
	return req, nil
}

// watcher is one Watch over its streams.
type watcher struct {
	c     *Client
	cfg   WatchConfig
	req   *hizov1.WatchRequest
	yield func(Change, error) bool

	begun bool // some stream has told something
	ended bool // yield wants no more
	place *placing
}

// steady is how long a stream has to last for the next pause to be short again.
const steady = 10 * time.Second

func (w *watcher) run(ctx context.Context) error {
	k := w.c.newCall(ctx, hizov1.WatchService_Watch_FullMethodName) // for its pauses
	for {
		opened := time.Now()
		told, err := w.stream(ctx)
		if w.ended {
			return nil
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errHome):
			continue
		case !w.begun:
			return err
		case !told && w.lasting(err):
			return err
		}
		if w.cfg.Retry != nil {
			w.cfg.Retry(err)
		}
		w.c.cfg.Logger.LogAttrs(ctx, slog.LevelDebug, "watch is opened again", slog.Any("error", err))
		if time.Since(opened) > steady {
			k.round = 0
		}
		if err := k.pause(ctx); err != nil {
			return context.Cause(ctx)
		}
	}
}

// lasting says whether a refusal to open a stream will be repeated. One that was open is opened again whatever ended
// it: if the right to it went, the opening says so.
func (w *watcher) lasting(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return true // no token, client closed
	}
	return e.Reason != ReasonUnreachable && e.Reason != ReasonTimeout && judge(e) == final
}

// stream reads one stream until it ends, and says whether anything came.
func (w *watcher) stream(ctx context.Context) (told bool, err error) {
	var minding sync.WaitGroup
	defer minding.Wait()
	ctx, leave := context.WithCancelCause(withPlacing(ctx, w.place))
	defer leave(nil)
	stream, err := w.c.Watches().Watch(ctx, w.req)
	if err != nil {
		return false, err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return told, &Error{Reason: hizov1.ReasonShutdown, Message: "the node ended the watch"}
		}
		if err != nil {
			if errors.Is(context.Cause(ctx), errHome) {
				err = errHome
			}
			return told, err
		}
		if !told {
			told, w.begun = true, true
			minding.Go(func() { w.c.mind(ctx, w.place, leave) })
		}
		for _, change := range changes(m, w.req.GetCursor()) {
			if !w.yield(change, nil) {
				w.ended = true
				return told, nil
			}
		}
		w.req.Cursor = m.GetCursor()
	}
}

// changes are what one message tells. Its cursor is behind all of it, so all but the last of its changes carry the one
// before: who goes on from there sees some of them again.
func changes(m *hizov1.WatchResponse, before string) []Change {
	var list []Change
	if p := m.GetPosition(); p != nil {
		change := Change{Kind: ChangeStart, Current: make(map[string]uint32, len(p.GetSecrets()))}
		if p.GetStartOver() {
			change.Kind = ChangeReset
		}
		for _, s := range p.GetSecrets() {
			change.Current[s.GetVault()+"/"+s.GetPath()] = s.GetVersion()
		}
		before = m.GetCursor() // the old one leads here again
		list = append(list, change)
	}
	for _, e := range m.GetEvents() {
		list = append(list, Change{
			Kind: ChangeKind(e.GetKind()), Vault: e.GetVault(), Path: e.GetPath(), Version: e.GetVersion(),
			Time: time.UnixMilli(e.GetTimeUnixMs()),
		})
	}
	if len(list) == 0 {
		list = append(list, Change{Kind: ChangeHeartbeat})
	}
	for i := range list {
		list[i].Cursor = before
	}
	list[len(list)-1].Cursor = m.GetCursor()
	return list
}
