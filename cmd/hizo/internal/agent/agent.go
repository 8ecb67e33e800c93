// Package agent keeps a host's jobs supplied: files made of templates, the environment of a child, and a Unix socket
// are kept up to date, versions are acknowledged when everything that uses them has them, and, where the pipeline
// allows it, the values are kept encrypted on disk for a start while the cluster is away.
//
// Failure model: an agent that ends leaves its files as they are, and its consumer leaves or goes stale. A crash leaves
// each file old or new. While the cluster is away everything goes on with the values that there are; the socket and the
// cache end when the time is over for which the cluster allowed that.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/hizo/hizo/cmd/hizo/internal/child"
	"github.com/hizo/hizo/cmd/hizo/internal/supervise"
	"github.com/hizo/hizo/cmd/hizo/internal/values"
)

// Agent is a configured agent.
type Agent struct {
	cfg    *Config
	source values.Source
	away   func(error) bool // an error says that the cluster can't be reached, and nothing about what it would say
	log    *slog.Logger
	cache  *cache // or nil

	files  []*file
	socket *socket
	news   chan *values.Set       // to the command
	used   chan map[string]uint32 // what the command has; the newest word only
	inUse  map[string]map[string]uint32
	acks   *values.Acknowledger
}

// Options of an agent.
type Options struct {
	Config *Config
	Source values.Source
	Away   func(error) bool
	CA     []byte // the cluster's, by which its cache is known
	Log    *slog.Logger
}

// New checks what can be checked before the cluster is asked.
func New(opts Options) (*Agent, error) {
	a := &Agent{
		cfg: opts.Config, source: opts.Source, away: opts.Away, log: opts.Log,
		used: make(chan map[string]uint32, 1), inUse: map[string]map[string]uint32{},
	}
	for _, f := range opts.Config.Files {
		a.files = append(a.files, &file{FileConfig: f})
	}
	if opts.Config.Cache != nil {
		job, err := opts.Config.Job()
		if err != nil {
			return nil, err
		}
		if a.cache, err = openCache(*opts.Config.Cache, job, opts.CA); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Run keeps everything up to date until ctx ends, or the command does, whose exit code it returns.
func (a *Agent) Run(ctx context.Context) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	set, until, err := a.first(ctx)
	if err != nil {
		return 0, err
	}
	cached := !until.IsZero()
	if a.cfg.Socket != nil {
		if a.socket, err = listen(*a.cfg.Socket, a.log); err != nil {
			return 0, err
		}
		defer a.socket.close()
	}
	// Known as a consumer before anything has the values; an agent that starts without the cluster is so later.
	said := set.Versions()
	if cached || a.source.Uses(ctx, said) != nil {
		said = nil
	}
	a.acks = values.NewAcknowledger(ctx, a.source, said, a.note)
	if err := a.update(ctx, set, until); err != nil {
		return 0, err // what is asked for can't be made: better known at the start
	}
	ended := make(chan result, 1)
	if a.cfg.Command != nil {
		a.news = make(chan *values.Set, 1)
		first := a.cfg.Command.part(set)
		a.uses("command", first.Versions())
		go func() { ended <- a.command(ctx, first) }()
	}
	source := a.source
	if set.Offline > 0 {
		source = &refreshing{Source: source, every: set.Offline / 2}
	}
	news := values.Follow(ctx, source, cached, a.note)
	for {
		select {
		case <-ctx.Done():
			if a.cfg.Command == nil {
				return 0, nil
			}
			r := <-ended
			return r.code, r.err
		case r := <-ended:
			return r.code, r.err
		case set := <-news:
			if set == nil {
				news = nil
				continue
			}
			a.keep(set)
			if err := a.update(ctx, set, time.Time{}); err != nil {
				a.log.Error("not everything is up to date", slog.Any("error", err))
			}
			if a.news != nil {
				select {
				case <-a.news: // an older one that was not taken
				default:
				}
				a.news <- a.cfg.Command.part(set)
			}
		case versions := <-a.used:
			a.uses("command", versions)
		}
	}
}

// first gets the values to start with: from the cluster, or while it is away from the cache, up to a time.
func (a *Agent) first(ctx context.Context) (*values.Set, time.Time, error) {
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		set, err := a.source.Fetch(ctx)
		if err == nil {
			a.keep(set)
			return set, time.Time{}, nil
		}
		if ctx.Err() != nil || !a.away(err) {
			return nil, time.Time{}, err
		}
		if a.cache != nil {
			set, until, cerr := a.cache.load()
			if cerr == nil {
				a.log.Warn("the cluster is away: starting with cached values", slog.Any("error", err), slog.Time("until", until))
				return set, until, nil
			}
			a.log.Warn("the cluster is away", slog.Any("error", err), slog.Any("cache", cerr))
		} else {
			a.log.Warn("the cluster is away", slog.Any("error", err))
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, time.Time{}, context.Cause(ctx)
		}
	}
}

// keep caches what the cluster said.
func (a *Agent) keep(set *values.Set) {
	if a.cache == nil {
		return
	}
	if set.Offline == 0 {
		a.log.Warn("nothing is cached: the pipeline does not allow it (hizo pipeline create --offline)")
	}
	if err := a.cache.store(set); err != nil {
		a.log.Error("the values can't be cached", slog.Any("error", err))
	}
}

// update brings files and socket up to date. until is the end of cached values.
func (a *Agent) update(ctx context.Context, set *values.Set, until time.Time) error {
	var errs []error
	for _, f := range a.files {
		changed, err := f.update(ctx, set)
		if err != nil {
			errs = append(errs, &fileError{f.Path, err})
			continue
		}
		if changed {
			a.log.Info("written", slog.String("file", f.Path))
		}
		a.uses("file "+f.Path, f.inUse.Versions())
	}
	if a.socket != nil {
		if until.IsZero() && set.Offline > 0 {
			until = time.Now().Add(set.Offline)
		}
		a.socket.update(set, until)
		a.uses("socket", a.allowed(set).Versions())
	}
	return errors.Join(errs...)
}

type fileError struct {
	path string
	err  error
}

func (e *fileError) Error() string { return e.path + ": " + e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }

// allowed are the values that the socket gives to anybody.
func (a *Agent) allowed(set *values.Set) *values.Set {
	out := &values.Set{}
	for _, v := range set.Values {
		if slices.ContainsFunc(a.cfg.Socket.Allow, func(allow AllowConfig) bool { return slices.Contains(allow.Variables, v.Name) }) {
			out.Values = append(out.Values, v)
		}
	}
	return out
}

// uses is told what one user of values has.
func (a *Agent) uses(by string, versions map[string]uint32) {
	a.inUse[by] = versions
	a.acks.Uses(a.oldest())
}

// oldest are the versions in use, each the oldest that anything uses.
func (a *Agent) oldest() map[string]uint32 {
	out := map[string]uint32{}
	for _, versions := range a.inUse {
		for secret, version := range versions {
			if at, ok := out[secret]; !ok || version < at {
				out[secret] = version
			}
		}
	}
	return out
}

func (a *Agent) note(format string, args ...any) {
	a.log.Info(strings.TrimPrefix(fmt.Sprintf(format, args...), "hizo: "))
}

// result of the command.
type result struct {
	code int
	err  error
}

// command runs the child with its variables until it ends.
func (a *Agent) command(ctx context.Context, first *values.Set) result {
	cfg := a.cfg.Command
	path, err := exec.LookPath(cfg.Argv[0])
	if err != nil {
		return result{err: err}
	}
	keeper := child.NewKeeper(child.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	defer keeper.Close()
	status, err := supervise.Run(ctx, supervise.Config{
		Job:    &job{path: path, argv: cfg.Argv, needs: cfg.Variables},
		Keeper: keeper, First: first, News: a.news,
		InUse: func(versions map[string]uint32) {
			select {
			case <-a.used:
			default:
			}
			a.used <- versions
		},
		OnChange: cfg.reaction, Splay: cfg.Splay.or(10 * time.Second), Stop: cfg.stop, Grace: cfg.KillAfter.or(30 * time.Second),
		Note: a.note, Output: os.Stderr,
	})
	return result{status.ExitCode(), err}
}

// refreshing asks the cluster from time to time even if nothing has changed, because what is kept for a time counts
// from its last word.
type refreshing struct {
	values.Source
	every time.Duration
}

func (r *refreshing) Await(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, r.every)
	defer cancel()
	err := r.Source.Await(limit)
	if err != nil && limit.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}
