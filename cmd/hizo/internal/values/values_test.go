package values_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hizo/hizo/cmd/hizo/internal/values"
	"github.com/hizo/hizo/crypto/secret"
)

func value(name, bytes, from string, version uint32) values.Value {
	return values.Value{Name: name, Bytes: secret.New([]byte(bytes)), Secret: from, Version: version}
}

func TestSet(t *testing.T) {
	a := &values.Set{Values: []values.Value{value("A", "1", "ml/a", 3), value("B", "2", "ml/a", 2), value("C", "3", "", 0)}}
	b := &values.Set{Values: []values.Value{value("A", "1", "ml/a", 4), value("B", "two", "ml/a", 4), value("D", "", "ml/d", 1)}}
	if got := b.Changed(a); !slices.Equal(got, []string{"B", "C", "D"}) {
		t.Errorf("changed %q", got)
	}
	if got := a.Versions(); !maps.Equal(got, map[string]uint32{"ml/a": 2}) { // the oldest that anything uses
		t.Errorf("versions %v", got)
	}
	a.Values[1].Pinned = true // waits for nothing, and holds nothing up
	if got := a.Versions(); !maps.Equal(got, map[string]uint32{"ml/a": 3}) {
		t.Errorf("versions %v", got)
	}
}

func TestParseWant(t *testing.T) {
	for text, ok := range map[string]bool{
		"hizo://ml/db#password": true, "hizo://ml/db#password@3": true, "hizo-lease://ml/reader#username": true,
		"hizo://ml/db": false, "hizo://ml/db#p@4294967296": false, "hizo-lease://ml/reader#x": false, "hizo:v1:!": false, "hunter2": false, "": false,
	} {
		_, err := values.ParseWant("X", text)
		if (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
		if plain := errors.Is(err, values.ErrPlain); plain == values.Wanted(text) {
			t.Errorf("%q: wanted %v, %v", text, !plain, err)
		}
	}
}

// source is told when something changed and what Fetch is to answer.
type source struct {
	changed chan error
	fetches int
	answer  func(n int) (*values.Set, error)
	heard   []string
	deaf    int // so many calls of Uses fail
}

func (s *source) Fetch(context.Context) (*values.Set, error) {
	s.fetches++
	return s.answer(s.fetches)
}

func (s *source) Await(ctx context.Context) error {
	select {
	case err := <-s.changed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *source) Uses(_ context.Context, versions map[string]uint32) error {
	if s.deaf > 0 {
		s.deaf--
		return errors.New("away")
	}
	s.heard = append(s.heard, fmt.Sprint(versions))
	return nil
}

func (s *source) Close(context.Context) error { return nil }

func version(n uint32) *values.Set {
	return &values.Set{Values: []values.Value{value("A", "x", "ml/a", n)}}
}

// A failure to fetch is made up for, without waiting for the next change; the newest set only waits to be taken.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var notes []string
		note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
		src := &source{changed: make(chan error), answer: func(n int) (*values.Set, error) {
			if n == 2 || n == 3 {
				return nil, errors.New("away")
			}
			return version(uint32(n)), nil
		}}
		news := values.Follow(ctx, src, false, note)
		synctest.Wait()
		if src.fetches != 0 {
			t.Error("fetched before anything changed")
		}
		src.changed <- nil
		if set := <-news; set.Values[0].Version != 1 {
			t.Errorf("got %+v", set)
		}
		start := time.Now()
		src.changed <- nil
		if set := <-news; set.Values[0].Version != 4 {
			t.Errorf("got %+v", set)
		}
		if waited := time.Since(start); waited != 3*time.Second { // 1 s, then 2 s
			t.Errorf("waited %v", waited)
		}
		if len(notes) != 2 { // the failure once, and its end
			t.Errorf("notes %q", notes)
		}
		src.changed <- errors.New("the stream broke")
		src.changed <- nil
		src.changed <- nil
		synctest.Wait()
		if set := <-news; set.Values[0].Version != 6 {
			t.Errorf("not the newest: %+v", set)
		}
		cancel()
		if _, ok := <-news; ok {
			t.Error("more news after the end")
		}
	})
}

func TestFollowThatIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{changed: make(chan error), answer: func(n int) (*values.Set, error) { return version(uint32(n)), nil }}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if set := <-values.Follow(ctx, src, true, t.Logf); set.Values[0].Version != 1 {
			t.Errorf("got %+v", set)
		}
	})
}

func TestAcknowledger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		src := &source{}
		a := values.NewAcknowledger(ctx, src, map[string]uint32{"ml/a": 1}, t.Logf)
		a.Uses(map[string]uint32{"ml/a": 1}) // known already
		synctest.Wait()
		src.deaf = 2
		a.Uses(map[string]uint32{"ml/a": 2})
		synctest.Wait()
		a.Uses(map[string]uint32{"ml/a": 3}) // while it is away
		synctest.Wait()
		time.Sleep(time.Minute)
		a.Uses(map[string]uint32{"ml/a": 3})
		synctest.Wait()
		if !slices.Equal(src.heard, []string{"map[ml/a:3]"}) {
			t.Errorf("heard %q", src.heard)
		}
	})
}
