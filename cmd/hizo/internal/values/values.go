// Package values is what a job is given: the values of its variables, where they came from, and how it learns that
// they have changed.
package values

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/hizo/hizo/crypto/secret"
)

// Value of a variable.
type Value struct {
	Name  string
	Bytes secret.Bytes
	// Secret and Version are where it came from ("VAULT/PATH"), empty and 0 where it is no version of a secret:
	// a sealed value, or a lease.
	Secret  string
	Version uint32
	// Pinned to its version by its reference: it never changes.
	Pinned bool
	// Leased for this run alone.
	Leased bool
	// Text names the source for a person; it is no secret.
	Text string
}

// Set is what one call to the cluster got: all of a job's values.
type Set struct {
	Values []Value
	// Offline is how long the values may be used without asking the cluster again; 0: not at all.
	Offline time.Duration
}

// Get finds a variable.
func (s *Set) Get(name string) (Value, bool) {
	i := slices.IndexFunc(s.Values, func(v Value) bool { return v.Name == name })
	if i < 0 {
		return Value{}, false
	}
	return s.Values[i], true
}

// Changed names the variables whose bytes differ, that are new or that are gone, in order of their names. Another
// version with the same bytes is no change.
func (s *Set) Changed(old *Set) []string {
	names := map[string]bool{}
	for _, v := range s.Values {
		before, ok := old.Get(v.Name)
		if !ok || !v.Bytes.Equal(before.Bytes) {
			names[v.Name] = true
		}
	}
	for _, v := range old.Values {
		if _, ok := s.Get(v.Name); !ok {
			names[v.Name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Versions are those in use, by secret: the oldest, where variables differ. Pinned ones wait for nothing and are
// left out.
func (s *Set) Versions() map[string]uint32 {
	out := map[string]uint32{}
	for _, v := range s.Values {
		if v.Secret == "" || v.Pinned {
			continue
		}
		if at, ok := out[v.Secret]; !ok || v.Version < at {
			out[v.Secret] = v.Version
		}
	}
	return out
}

// Wipe overwrites the values.
func (s *Set) Wipe() {
	for _, v := range s.Values {
		v.Bytes.Wipe()
	}
}

// Source gives values and tells when they change. Fetch and Await are called by one goroutine, Uses by one other.
type Source interface {
	// Fetch gets all values: all of them or none.
	Fetch(context.Context) (*Set, error)
	// Await returns when the values may differ from those that Fetch got last.
	Await(context.Context) error
	// Uses tells the cluster which versions are in use, by secret.
	Uses(context.Context, map[string]uint32) error
	// Close takes back what was made for this job alone.
	Close(context.Context) error
}

// ErrClosed says that a source will tell of no more changes.
var ErrClosed = errors.New("the values are not followed any more")

// The pause after a failure doubles up to the maximum. Each refusal is an audit record of its own.
const (
	retryFirst = time.Second
	retryMax   = 5 * time.Minute
)

// Follow delivers a set whenever the values may have changed, until ctx ends. Only the newest waits to be taken. due
// says that there was no Fetch yet.
// Failures are told to note, once each, and tried again: whoever has values goes on with them.
func Follow(ctx context.Context, src Source, due bool, note func(format string, args ...any)) <-chan *Set {
	news := make(chan *Set, 1)
	go func() {
		defer close(news)
		pause := retryFirst
		said := ""
		for {
			var set *Set
			var err error
			if !due {
				err = src.Await(ctx)
				due = err == nil
			}
			if due {
				set, err = src.Fetch(ctx)
				due = err != nil
			}
			if errors.Is(err, ErrClosed) || ctx.Err() != nil {
				return
			}
			if err != nil {
				if text := err.Error(); text != said {
					note("hizo: the values can't be followed (%v): what runs goes on with those it has, and this is tried again", err)
					said = text
				}
				if !sleep(ctx, pause) {
					return
				}
				pause = min(2*pause, retryMax)
				continue
			}
			if said != "" {
				note("hizo: the values are followed again")
			}
			said, pause = "", retryFirst
			select {
			case <-news: // nobody took it
			default:
			}
			news <- set
		}
	}()
	return news
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Acknowledger tells a source which versions are in use, the newest word only, again and again until it is heard.
type Acknowledger struct {
	src  Source
	news chan map[string]uint32
	said map[string]uint32
}

// NewAcknowledger starts one that ends with ctx. said is what the source has been told already.
func NewAcknowledger(ctx context.Context, src Source, said map[string]uint32, note func(format string, args ...any)) *Acknowledger {
	a := &Acknowledger{src: src, news: make(chan map[string]uint32, 1), said: said}
	go a.run(ctx, note)
	return a
}

// Uses is told what is in use now. It never waits; one goroutine calls it.
func (a *Acknowledger) Uses(versions map[string]uint32) {
	select {
	case <-a.news:
	default:
	}
	a.news <- versions
}

func (a *Acknowledger) run(ctx context.Context, note func(format string, args ...any)) {
	var next map[string]uint32
	pause := retryFirst
	var again <-chan time.Time
	told := false
	for {
		select {
		case <-ctx.Done():
			return
		case next = <-a.news:
			pause = retryFirst
		case <-again:
		}
		again = nil
		if maps.Equal(next, a.said) {
			continue
		}
		if err := a.src.Uses(ctx, next); err != nil {
			if !told && ctx.Err() == nil {
				note("hizo: the versions in use can't be acknowledged (%v): this is tried again, and a rotation waits for it until its deadline", err)
				told = true
			}
			again = time.After(pause)
			pause = min(2*pause, retryMax)
			continue
		}
		a.said, told = next, false
	}
}
