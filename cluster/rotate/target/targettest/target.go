package targettest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster/rotate/servertest"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/crypto/secret"
)

// Subject is an account whose value a target rotates.
type Subject struct {
	Kind   string
	Target target.Target
	Config map[string]string
	Admin  target.Value
	First  target.Value             // what is valid at the beginning
	Login  func(target.Value) error // tries a value without the target
	Server Server

	Overlap bool // the old value stays valid until it is retired
	// Through changes a configuration so that the server is reached at another port; nil: config port does.
	Through func(config map[string]string, port int) map[string]string

	External bool // something outside changes: Login fails with what is not valid, and Fence takes an attempt back
	Stride   int  // cut and freeze at every so many answers; 0 or 1: at every single one. HIZO_TEST_ALL=1 overrules it
}

// Target runs the suite. start makes a fresh account each time; the server may be the same.
func Target(t *testing.T, start func(*testing.T) Subject) {
	for _, test := range []struct {
		name   string
		f      func(*testing.T, *trial)
		server bool // needs a server that can be reached through a proxy
	}{
		{"rotates", rotates, false},
		{"calls made twice", twice, false},
		{"calls at the same time", together, false},
		{"first value", first, false},
		{"late calls change nothing", late, false},
		{"given up", givenUp, false},
		{"answers lost in apply", lost(applying), true},
		{"answers lost in retire", lost(retiring), true},
		{"answers lost in fence", lost(fencing), true},
		{"another goes on beside a frozen caller", frozen, true},
		{"a frozen caller is fenced off", fencedOff, true},
		{"wrong administrator", wrongAdmin, true},
		{"server down", down, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := start(t)
			if test.server && !s.Server.reached() {
				t.Skip("not reached by host and port")
			}
			x := &trial{Subject: s}
			x.value(s.Admin)
			x.value(s.First)
			test.f(t, x)
			x.check(t, s.Server.Log)
		})
	}
}

// through is a configuration that leads through a proxy.
func (s Subject) through(config map[string]string, p *servertest.Proxy) map[string]string {
	if s.Through != nil {
		return s.Through(config, p.Port)
	}
	return p.Config(config)
}

// trial is a subject with the calls that are made to it.
type trial struct {
	Subject
	watch
}

// attempt begins one.
func (x *trial) attempt(t *testing.T, old target.Value) target.Attempt {
	t.Helper()
	a := target.Attempt{ID: id(), Vault: "ml", Path: "db/train", Config: x.Config, Admin: x.Admin, Old: old}
	v, err := x.Target.Stage(t.Context(), a)
	if x.seen(err) != nil {
		t.Fatal(err)
	}
	if maps.EqualFunc(v, old, secret.Bytes.Equal) {
		t.Fatal("the old value was staged again")
	}
	x.value(v)
	a.New = v
	return a
}

// stage is one of the calls about an attempt.
type stage struct {
	name string
	call func(target.Target, context.Context, target.Attempt) error
}

var (
	apply  = stage{"apply", target.Target.Apply}
	verify = stage{"verify", target.Target.Verify}
	retire = stage{"retire", target.Target.Retire}
	fence  = stage{"fence", target.Target.Fence}
)

// try makes a call and returns its error.
func (x *trial) try(t *testing.T, s stage, a target.Attempt, bound time.Duration) error {
	t.Helper()
	return x.seen(within(t, bound, func(ctx context.Context) error { return s.call(x.Target, ctx, a) }))
}

// do makes calls that must succeed.
func (x *trial) do(t *testing.T, a target.Attempt, stages ...stage) {
	t.Helper()
	for _, s := range stages {
		if err := x.try(t, s, a, patience); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
	}
}

func (x *trial) valid(t *testing.T, what string, v target.Value) {
	t.Helper()
	if err := x.Login(v); err != nil {
		t.Fatalf("%s does not log in: %v", what, err)
	}
}

func (x *trial) refused(t *testing.T, what string, v target.Value) {
	t.Helper()
	if x.External && v != nil && x.Login(v) == nil {
		t.Fatalf("%s still logs in", what)
	}
}

func rotates(t *testing.T, x *trial) {
	if err := x.Target.Check(x.Config); err != nil {
		t.Fatal(err)
	}
	old := x.First
	if x.try(t, verify, target.Attempt{ID: id(), Vault: "ml", Path: "db/train", Config: x.Config, Admin: x.Admin}, patience) == nil {
		t.Fatal("no value at all is verified")
	}
	for range 3 {
		a := x.attempt(t, old)
		x.refused(t, "a staged value", a.New)
		x.valid(t, "the old value, after stage", old)
		x.do(t, a, apply, verify)
		x.valid(t, "the new value", a.New)
		if x.Overlap {
			x.valid(t, "the old value, after apply", old)
		}
		x.do(t, a, retire)
		x.valid(t, "the new value, after retire", a.New)
		x.refused(t, "the old value, after retire", old)
		x.do(t, target.Attempt{ID: a.ID, Config: a.Config, Admin: a.Admin, New: a.New}, verify)
		old = a.New
	}
}

func twice(t *testing.T, x *trial) {
	a := x.attempt(t, x.First)
	x.do(t, a, apply, apply, verify, apply, verify, verify, retire, retire)
	x.valid(t, "the new value", a.New)
	x.refused(t, "the old value", x.First)
	// A leader that did not hear of the last record begins with the attempt again.
	x.do(t, a, verify, retire)
	x.valid(t, "the new value", a.New)
	x.refused(t, "the old value", x.First)
}

func together(t *testing.T, x *trial) {
	a := x.attempt(t, x.First)
	for _, s := range []stage{apply, retire} {
		done := make(chan error)
		for range 4 {
			go func() { done <- x.try(t, s, a, patience) }()
		}
		for range 4 {
			<-done // one may find another in its way; the engine calls again
		}
		x.do(t, a, s)
		x.valid(t, "the new value, after "+s.name, a.New)
	}
	x.refused(t, "the old value", x.First)
}

// first rotates a secret that has no version yet.
func first(t *testing.T, x *trial) {
	if x.Admin == nil && x.External {
		t.Skip("without an administrator there must be a first value")
	}
	config := make(map[string]string)
	for k, v := range x.Config {
		config[k] = v
	}
	if config["mode"] != "alternating" && x.First["username"].Len() > 0 {
		config["username"] = string(x.First["username"].Reveal())
	}
	x.Config = config
	a := x.attempt(t, nil)
	x.do(t, a, apply, verify, retire)
	x.valid(t, "the first value", a.New)
}

// late makes the calls of one attempt again after a younger one, as a leader does that had been stopped in between.
func late(t *testing.T, x *trial) {
	one := x.attempt(t, x.First)
	x.do(t, one, apply, verify, retire)
	two := x.attempt(t, one.New)
	x.do(t, two, apply, verify)
	for _, s := range []stage{retire, apply, verify, retire} {
		_ = x.try(t, s, one, patience) // refused or not: what counts is what is valid then
		x.valid(t, "the newest value, after a late "+s.name, two.New)
	}
	x.do(t, two, retire)
	x.refused(t, "the value between, after retire", one.New)
	for _, s := range []stage{apply, retire, apply} {
		_ = x.try(t, s, one, patience)
		x.valid(t, "the newest value, after a late "+s.name, two.New)
		x.refused(t, "the value between, after a late "+s.name, one.New)
		x.refused(t, "the first value, after a late "+s.name, x.First)
	}
	three := x.attempt(t, two.New)
	x.do(t, three, apply, verify)
	_ = x.try(t, apply, one, patience)
	_ = x.try(t, retire, one, patience)
	_ = x.try(t, apply, two, patience)
	_ = x.try(t, retire, two, patience)
	x.valid(t, "the third value", three.New)
	x.do(t, three, retire)
	x.valid(t, "the third value", three.New)
	x.refused(t, "the second value", two.New)
}

// givenUp ends an attempt before its value is promoted, at each stage.
func givenUp(t *testing.T, x *trial) {
	for _, stages := range [][]stage{{}, {apply}, {apply, verify}} {
		a := x.attempt(t, x.First)
		x.do(t, a, stages...)
		x.do(t, a, fence, fence)
		x.valid(t, "the old value, after fence", x.First)
		x.refused(t, "a value that was given up", a.New)
		if x.External {
			if err := x.try(t, verify, a, patience); err == nil || !errors.Is(err, target.ErrPermanent) {
				t.Fatalf("verify of a value that was given up: %v", err)
			}
			x.do(t, target.Attempt{ID: a.ID, Config: a.Config, Admin: a.Admin, New: x.First}, verify)
		}
		_ = x.try(t, apply, a, patience) // late
		x.valid(t, "the old value, after a late apply", x.First)
		b := x.attempt(t, x.First)
		x.do(t, b, apply, verify, fence)
	}
	bare := target.Attempt{ID: id(), Vault: "ml", Path: "db/train", Config: x.Config, Admin: x.Admin, Old: x.First}
	x.do(t, bare, fence) // before anything was staged
	a := x.attempt(t, x.First)
	x.do(t, a, apply, verify, retire)
	x.valid(t, "the next value", a.New)
	x.refused(t, "the old value", x.First)
}

// The three calls that change something, each with what must be done before, and what must hold when it has succeeded.
type losing struct {
	call   stage
	before []stage
	after  func(*testing.T, *trial, target.Attempt)
}

var (
	applying = losing{apply, nil, func(t *testing.T, x *trial, a target.Attempt) { x.valid(t, "the new value", a.New) }}
	retiring = losing{retire, []stage{apply, verify}, func(t *testing.T, x *trial, a target.Attempt) {
		x.valid(t, "the new value", a.New)
		x.refused(t, "the old value", a.Old)
	}}
	fencing = losing{fence, []stage{apply}, func(t *testing.T, x *trial, a target.Attempt) {
		x.valid(t, "the old value", a.Old)
		x.refused(t, "the value that was given up", a.New)
	}}
)

// lost cuts the connection at every answer of the server in turn, and calls again.
func lost(l losing) func(*testing.T, *trial) {
	return func(t *testing.T, x *trial) {
		old := x.First
		proxy := servertest.StartProxy(t, x.Server.Port)
		for n := 0; n < answers; n = next(x.Stride, n) {
			a := x.attempt(t, old)
			x.do(t, a, l.before...)
			through := a
			through.Config = x.through(a.Config, proxy)
			proxy.Cut(n)
			moment := proxy.Met()
			err := x.try(t, l.call, through, patience)
			met := happened(moment)
			proxy.Thaw()
			if err != nil {
				described(t, err, x.Kind)
				if !met || errors.Is(err, target.ErrPermanent) {
					t.Fatalf("answer %d lost: %v", n, err)
				}
			}
			x.do(t, a, l.call)
			l.after(t, x, a)
			if l.call.name != fence.name {
				x.do(t, a, verify, retire)
				x.valid(t, "the new value", a.New)
				x.refused(t, "the old value", a.Old)
				old = a.New
			}
			if !met {
				return // every answer of the server has been lost once
			}
		}
		t.Fatalf("still not through after %d answers", answers)
	}
}

// frozen stops a caller at every answer of the server in turn, with its connections open, while another one goes on.
func frozen(t *testing.T, x *trial) {
	freezing(t, x, (*servertest.Proxy).Freeze, func(t *testing.T, a target.Attempt, thaw func()) target.Value {
		x.do(t, a, apply, verify)
		thaw()
		x.valid(t, "the new value, with the other caller awake again", a.New)
		x.do(t, a, retire)
		return a.New
	})
}

// fencedOff stops a caller likewise, or what it asked for last, and gives the attempt up meanwhile.
func fencedOff(t *testing.T, x *trial) {
	old := givingUp(t, x, (*servertest.Proxy).Freeze)
	x.First = old
	givingUp(t, x, (*servertest.Proxy).FreezeRequest)
}

func givingUp(t *testing.T, x *trial, freeze func(*servertest.Proxy, int)) target.Value {
	return freezing(t, x, freeze, func(t *testing.T, a target.Attempt, thaw func()) target.Value {
		x.do(t, a, fence)
		thaw()
		x.valid(t, "the old value", a.Old)
		x.refused(t, "the value that was given up", a.New)
		b := x.attempt(t, a.Old)
		x.do(t, b, apply, verify, retire)
		x.valid(t, "the next value", b.New)
		return b.New
	})
}

func freezing(t *testing.T, x *trial, freeze func(*servertest.Proxy, int), meanwhile func(*testing.T, target.Attempt, func()) target.Value) target.Value {
	old := x.First
	proxy := servertest.StartProxy(t, x.Server.Port)
	for n := 0; n < answers; n = next(x.Stride, n) {
		a := x.attempt(t, old)
		through := a
		through.Config = x.through(a.Config, proxy)
		freeze(proxy, n)
		moment := proxy.Met()
		err := x.seen(until(t, moment, func(ctx context.Context) error { return x.Target.Apply(ctx, through) }))
		met := happened(moment)
		if err != nil { // nil: the last answer of all is the server's farewell, which nobody waits for
			if !met || !errors.Is(err, context.Canceled) {
				t.Fatalf("frozen at answer %d: %v", n, err)
			}
			described(t, err, x.Kind)
		}
		old = meanwhile(t, a, proxy.Thaw)
		x.valid(t, fmt.Sprintf("the value, frozen at answer %d", n), old)
		if !met {
			return old
		}
	}
	t.Fatalf("still not through after %d answers", answers)
	return nil
}

func wrongAdmin(t *testing.T, x *trial) {
	if x.Admin == nil {
		t.Skip("there is no administrator")
	}
	a := x.attempt(t, x.First)
	wrong, empty := a, a
	wrong.Admin, empty.Admin = target.Value{}, target.Value{}
	for name, b := range a.Admin {
		if name == "username" {
			wrong.Admin[name], empty.Admin[name] = b, b
		} else {
			wrong.Admin[name] = secret.Copy([]byte("wrong-administrator-password"))
		}
	}
	x.value(wrong.Admin)
	for _, s := range []stage{apply, retire, fence} {
		if s.name == retire.name && !x.Overlap {
			continue // nothing to do
		}
		err := x.try(t, s, wrong, patience)
		if err == nil || errors.Is(err, target.ErrPermanent) {
			t.Fatalf("%s with a wrong administrator: %v", s.name, err)
		}
		described(t, err, x.Kind)
		x.valid(t, "the old value", x.First)
		x.refused(t, "the new value", a.New)
	}
	if err := x.try(t, apply, empty, patience); !errors.Is(err, target.ErrPermanent) {
		t.Fatalf("apply with an administrator without password: %v", err)
	}
	x.do(t, a, apply, verify, retire)
	x.valid(t, "the new value", a.New)
}

func down(t *testing.T, x *trial) {
	a := x.attempt(t, x.First)
	for _, s := range []stage{apply, verify, retire, fence} {
		if s.name == retire.name && !x.Overlap {
			continue
		}
		x.Server.Stop(t)
		err := x.try(t, s, a, patience)
		x.Server.Start(t)
		if err == nil || errors.Is(err, target.ErrPermanent) {
			t.Fatalf("%s without a server: %v", s.name, err)
		}
		described(t, err, x.Kind)
		if s.name == apply.name {
			x.do(t, a, apply)
		} else {
			x.valid(t, "the new value, after a restart of the server", a.New)
		}
	}
	x.do(t, a, apply, verify, retire)
	x.valid(t, "the new value", a.New)
	x.refused(t, "the old value", x.First)
}
