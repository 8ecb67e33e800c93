package rotate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hizo/hizo/cluster/rotate"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/fsm"
)

func engine(targets map[string]target.Target) *rotate.Engine {
	return rotate.New(rotate.Config{Targets: targets})
}

// stages is what the audit log says of one whole rotation.
var stages = []string{"rotation.stage", "rotation.apply", "rotation.verify", "rotation.promote", "rotation.grace", "rotation.retire"}

// finished checks that there was exactly one rotation, and that its value is the one that logs in.
func (w *world) finished(s *account) {
	w.t.Helper()
	history := w.history("db")
	if len(history) != 1 || history[0].State != fsm.RotationRetired {
		w.t.Fatalf("history: %+v", history)
	}
	actions := slices.DeleteFunc(w.actions("rotation."), func(a string) bool { return a == rotate.ActionUse || a == rotate.ActionFail })
	if !slices.Equal(actions, stages) {
		w.t.Errorf("on record: %v", actions)
	}
	current := w.value("db", "password")
	if current == "first" || !s.logsIn(current) || s.logsIn("first") || s.valid() != 1 {
		w.t.Errorf("current is %q, the server takes %d passwords", current, s.valid())
	}
	if head, _ := w.store.Secret("ml", "db"); head.Current != 2 || head.Rotating {
		w.t.Errorf("the secret is %+v", head)
	}
}

func TestOneRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t), newAccount("first")
		w.put("db", "password", "first")
		w.set("db", "account", func(r *fsm.Rotation) { r.Grace = 600_000 })
		stop := w.elect(engine(map[string]target.Target{"account": s}))
		defer stop()
		time.Sleep(time.Hour - time.Second)
		synctest.Wait()
		if calls := s.made(); len(calls) != 0 {
			t.Errorf("before its time: %v", calls)
		}
		w.await("the new value", func() bool { return w.value("db", "password") != "first" })
		if !s.logsIn("first") || !s.logsIn(w.value("db", "password")) {
			t.Errorf("in the time of grace the server takes %d passwords", s.valid())
		}
		promoted := time.Now()
		w.await("the end", func() bool { return len(w.history("db")) == 1 })
		if d := time.Since(promoted); d < 599*time.Second || d > 602*time.Second {
			t.Errorf("the grace took %v", d)
		}
		w.finished(s)
		if r := w.rotation("db"); r.NextRun-promoted.UnixMilli() > time.Hour.Milliseconds() || r.NextRun <= promoted.UnixMilli() {
			t.Errorf("next run: %v", time.UnixMilli(r.NextRun))
		}
	})
}

// The leader dies, or is cut off, at any point between two things that an attempt does. Its successor finishes the same
// attempt; nothing is done that has been recorded, and nothing is lost.
func TestEveryGap(t *testing.T) {
	for _, at := range points {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := newWorld(t), newAccount("first")
				w.put("db", "password", "first")
				w.set("db", "account", func(r *fsm.Rotation) { r.Grace = 60_000 })
				targets := map[string]target.Target{"account": s}
				first := engine(targets)
				ctx, cancel := context.WithCancel(context.Background())
				dieAt(first, at, cancel)
				first.Run(ctx, leader{w, w.newTerm()}, w.build.Term)
				stop := w.elect(engine(targets))
				w.await("the end", func() bool { return len(w.history("db")) == 1 })
				stop()
				w.finished(s)
				if n := s.count("stage"); n > 2 || n == 2 && at != "called stage" {
					t.Errorf("%d values were made", n)
				}
				if at != "called apply" && s.count("apply") != 1 {
					t.Errorf("applied %d times", s.count("apply"))
				}
			})
		})
	}
}

// A leader is stopped at such a point, another one finishes the rotation, and then the first goes on as if nothing had
// happened: its records are of a term that is over, and so are its calls.
func TestPausedLeaderGoesOn(t *testing.T) {
	for _, at := range []string{
		"before stage", "called stage", "before apply", "called apply", "before verify", "before promote", "before grace",
		"before retire", "called retire",
	} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := newWorld(t), newAccount("first")
				w.put("db", "password", "first")
				w.set("db", "account", func(r *fsm.Rotation) { r.Grace = 60_000 })
				targets := map[string]target.Target{"account": s}
				paused := engine(targets)
				stopped, goOn := make(chan struct{}), make(chan struct{})
				var once sync.Once
				paused.SetHook(func(point string) {
					if point == at {
						once.Do(func() { close(stopped); <-goOn })
					}
				})
				stopPaused := w.elect(paused)
				<-stopped
				stop := w.elect(engine(targets))
				w.await("the end", func() bool { return len(w.history("db")) == 1 })
				calls := len(s.made())
				close(goOn)
				time.Sleep(time.Minute)
				synctest.Wait()
				if now := s.made(); len(now) != calls {
					t.Errorf("the leader of a term that is over called %v", now[calls:])
				}
				stopPaused()
				stop()
				w.finished(s)
			})
		})
	}
}

// Records whose outcome is unknown, applied or not: the state says which.
func TestLostAnswers(t *testing.T) {
	for _, applies := range []bool{true, false} {
		for _, kind := range []fsm.Kind{fsm.KindRotationUse, fsm.KindRotationStage, fsm.KindRotationAdvance} {
			t.Run(fmt.Sprintf("kind %d, applies %t", kind, applies), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, s := newWorld(t), newAccount("first")
					w.put("db", "password", "first")
					w.set("db", "account", nil)
					n := 0
					w.lose = func(k fsm.Kind) (error, bool) {
						if k != kind {
							return nil, false
						}
						if n++; n%2 == 0 {
							return nil, false
						}
						return errLost, applies
					}
					stop := w.elect(engine(map[string]target.Target{"account": s}))
					w.await("the end", func() bool { return len(w.history("db")) == 1 })
					stop()
					w.finished(s)
				})
			})
		}
	}
}

// A target that fails is tried again, less and less often, and says why without a value.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t), newAccount("first")
		w.put("db", "password", "first")
		w.set("db", "account", func(r *fsm.Rotation) { r.Every = 30 * 24 * time.Hour.Milliseconds() })
		var mu sync.Mutex
		var at []time.Time
		s.fails = func(_ context.Context, call string, a target.Attempt) (error, bool) {
			mu.Lock()
			defer mu.Unlock()
			if call != "apply" || len(at) == 20 {
				return nil, false
			}
			at = append(at, time.Now())
			// What a driver's own error may hold.
			return fmt.Errorf("ALTER ROLE app PASSWORD '%s': no route to host", password(a.New)), true
		}
		stop := w.elect(engine(map[string]target.Target{"account": s}))
		defer stop()
		w.await("ten tries", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(at) >= 10
		})
		r := w.rotation("db")
		if r.Tries < 9 || r.Failure == "" || strings.Contains(r.Failure, "password-1") || r.RetryAt <= time.Now().UnixMilli() || r.FailedAt == 0 {
			t.Errorf("status: %+v", r)
		}
		w.await("the end", func() bool { return len(w.history("db")) == 1 })
		mu.Lock()
		defer mu.Unlock()
		for i := 1; i < len(at); i++ {
			want := min(2*time.Second<<(i-1), 15*time.Minute)
			if d := at[i].Sub(at[i-1]); d < want/2 || d > want+2*time.Second {
				t.Errorf("try %d came after %v, want about %v", i+1, d, want)
			}
		}
		w.finished(s)
		if h := w.history("db"); h[0].Failures != 20 {
			t.Errorf("%+v", h[0])
		}
	})
}

// What is given up, and what is not: only a value that does not log in, once the target takes no more of it.
func TestGivingUp(t *testing.T) {
	permanent := &target.Error{Kind: "account", Stage: "apply", Message: "the password is too plain", Err: target.ErrPermanent}
	for _, c := range []struct {
		name  string
		fails func(s *account) func(context.Context, string, target.Attempt) (error, bool)
		state fsm.RotationState
		stage fsm.Stage // of version 2
	}{
		{"refused", func(*account) func(context.Context, string, target.Attempt) (error, bool) {
			return func(_ context.Context, call string, _ target.Attempt) (error, bool) {
				if call == "apply" {
					return permanent, false
				}
				return nil, false
			}
		}, fsm.RotationGivenUp, fsm.StageDestroyed},
		{"refused, though it took effect and replaced the old one", func(s *account) func(context.Context, string, target.Attempt) (error, bool) {
			return func(_ context.Context, call string, a target.Attempt) (error, bool) {
				switch call {
				case "apply":
					s.mu.Lock()
					delete(s.passwords, password(a.Old))
					s.mu.Unlock()
					return permanent, true
				case "fence": // it can't take it back
					s.mu.Lock()
					s.passwords[password(a.New)] = true
					s.mu.Unlock()
					return &target.Error{Message: "done"}, false
				}
				return nil, false
			}
		}, 0, fsm.StagePending},
		{"verified wrong again and again", func(*account) func(context.Context, string, target.Attempt) (error, bool) {
			return func(_ context.Context, call string, a target.Attempt) (error, bool) {
				if call == "verify" && password(a.New) != "first" {
					return errRefused, false
				}
				return nil, false
			}
		}, fsm.RotationGivenUp, fsm.StageDestroyed},
		{"neither value logs in", func(s *account) func(context.Context, string, target.Attempt) (error, bool) {
			return func(_ context.Context, call string, _ target.Attempt) (error, bool) {
				s.mu.Lock()
				clear(s.passwords)
				s.mu.Unlock()
				if call == "apply" {
					return permanent, false
				}
				return nil, false
			}
		}, fsm.RotationDropped, fsm.StageOld},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := newWorld(t), newAccount("first")
				w.put("db", "password", "first")
				w.set("db", "account", nil)
				s.fails = c.fails(s)
				stop := w.elect(engine(map[string]target.Target{"account": s}))
				if c.state == 0 {
					w.await("many tries", func() bool { return s.count("fence") > 5 })
				} else {
					w.await("the end", func() bool { return len(w.history("db")) == 1 })
				}
				stop()
				if h := w.history("db"); c.state != 0 && h[0].State != c.state {
					t.Errorf("history: %+v", h)
				}
				if v := w.store.Versions("ml", "db"); v[1].Stage != c.stage || v[0].Stage != fsm.StageCurrent {
					t.Errorf("versions: %+v", v)
				}
				if r := w.rotation("db"); r.Failure == "" {
					t.Error("status says nothing")
				}
			})
		})
	}
}

// A new value that logs in after all, while the old one does not, is what counts.
func TestGivingUpFindsItValid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t), newAccount("first")
		w.put("db", "password", "first")
		w.set("db", "account", nil)
		s.fails = func(_ context.Context, call string, _ target.Attempt) (error, bool) {
			if call == "apply" {
				s.mu.Lock()
				delete(s.passwords, "first")
				s.mu.Unlock()
				return errRefused, true
			}
			if call == "verify" && s.count("verify") <= 3 {
				return &target.Error{Kind: "account", Stage: "verify", Message: "the server is away"}, false // which decides nothing
			}
			return nil, false
		}
		stop := w.elect(engine(map[string]target.Target{"account": noFence{s}}))
		w.await("the end", func() bool { return len(w.history("db")) == 1 })
		stop()
		if h := w.history("db"); h[0].State != fsm.RotationRetired || w.value("db", "password") != "password-1" || !s.logsIn("password-1") {
			t.Errorf("history: %+v", h)
		}
	})
}

// noFence is an account that takes nothing back.
type noFence struct{ *account }

func (noFence) Fence(context.Context, target.Attempt) error { return nil }

// Servers that hang hold up their own rotations only, also those that ignore that time is up.
func TestHangingTargets(t *testing.T) {
	for _, heeds := range []bool{true, false} {
		t.Run(fmt.Sprintf("heeds its context: %t", heeds), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := newWorld(t), newAccount("first")
				free := make(chan struct{})
				var hanging atomic.Int32
				var calls sync.Map // by path: calls that have not returned
				s.fails = func(ctx context.Context, call string, a target.Attempt) (error, bool) {
					if call == "apply" && strings.HasPrefix(a.Path, "hangs") {
						hanging.Add(1)
						defer hanging.Add(-1)
						n, _ := calls.LoadOrStore(a.Path, new(atomic.Int32))
						if open := n.(*atomic.Int32).Add(1); open > 1 {
							t.Errorf("%d calls about %s at a time", open, a.Path)
						}
						defer n.(*atomic.Int32).Add(-1)
						if heeds {
							<-ctx.Done()
						} else {
							<-free
						}
						return context.DeadlineExceeded, false
					}
					return nil, false
				}
				for i := range 30 {
					for _, name := range []string{"hangs", "works"} {
						path := fmt.Sprintf("%s-%d", name, i)
						w.put(path, "password", "first")
						w.set(path, "account", nil)
					}
				}
				stop := w.elect(engine(map[string]target.Target{"account": s}))
				time.Sleep(time.Hour)
				start := time.Now()
				w.await("those that work", func() bool {
					for i := range 30 {
						if len(w.history(fmt.Sprintf("works-%d", i))) == 0 {
							return false
						}
					}
					return true
				})
				// Eight workers, of which those that hang take some for one time-out each, the first time.
				if d := time.Since(start); d > 8*time.Minute {
					t.Errorf("it took %v", d)
				}
				if n := hanging.Load(); heeds && n > 8 {
					t.Errorf("%d calls hang", n)
				}
				// Once each of them has failed, what has not is never behind them.
				w.await("a failure of each that hangs", func() bool {
					for i := range 30 {
						if w.rotation(fmt.Sprintf("hangs-%d", i)).Failure == "" {
							return false
						}
					}
					return true
				})
				start = time.Now()
				w.set("late", "account", func(r *fsm.Rotation) { r.NextRun = time.Now().UnixMilli() })
				w.await("a rotation among those that hang", func() bool { return len(w.history("late")) == 1 })
				if d := time.Since(start); d > time.Minute {
					t.Errorf("it took %v", d)
				}
				close(free)
				stop()
			})
		})
	}
}

// However many servers hang, what is tried again takes half of the workers at most: the rest is for what has not failed.
func TestRetriesLeaveRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 80
		w, s := newWorld(t), newAccount("first")
		s.fails = func(ctx context.Context, call string, a target.Attempt) (error, bool) {
			if call == "apply" && strings.HasPrefix(a.Path, "hangs") {
				<-ctx.Done()
				return context.DeadlineExceeded, false
			}
			return nil, false
		}
		for i := range many {
			w.set(fmt.Sprintf("hangs-%d", i), "account", nil)
		}
		stop := w.elect(engine(map[string]target.Target{"account": s}))
		defer stop()
		w.await("two failures of most", func() (all bool) {
			n := 0
			for i := range many {
				if w.rotation(fmt.Sprintf("hangs-%d", i)).Tries >= 2 {
					n++
				}
			}
			return n > many*9/10
		})
		for i := range 5 {
			late, start := fmt.Sprintf("late-%d", i), time.Now()
			w.set(late, "account", func(r *fsm.Rotation) { r.NextRun = time.Now().UnixMilli() })
			w.await("a rotation among those that hang", func() bool { return len(w.history(late)) == 1 })
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("it took %v", d)
			}
		}
	})
}

// A value that is refused at first, because replicas of the target lag, is not thrown away.
func TestVerifiedLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t), newAccount("first")
		w.put("db", "password", "first")
		w.set("db", "account", nil)
		s.fails = func(_ context.Context, call string, _ target.Attempt) (error, bool) {
			if call == "verify" && s.count("verify") < 3 {
				return errRefused, false
			}
			return nil, false
		}
		stop := w.elect(engine(map[string]target.Target{"account": s}))
		w.await("the end", func() bool { return len(w.history("db")) == 1 })
		stop()
		w.finished(s)
		if h := w.history("db"); h[0].Failures != 2 {
			t.Errorf("%+v", h[0])
		}
	})
}

// A target that panics is a target that fails, and what it says stays inside.
func TestPanickingTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t), newAccount("first")
		w.put("db", "password", "first")
		w.set("db", "account", nil)
		s.fails = func(_ context.Context, call string, a target.Attempt) (error, bool) {
			if call == "apply" && s.count("apply") < 4 {
				panic(password(a.New))
			}
			return nil, false
		}
		stop := w.elect(engine(map[string]target.Target{"account": s}))
		w.await("a failure", func() bool { return w.rotation("db").Failure != "" })
		if f := w.rotation("db").Failure; strings.Contains(f, "password-1") {
			t.Error(f)
		}
		w.await("the end", func() bool { return len(w.history("db")) == 1 })
		stop()
		w.finished(s)
	})
}

func TestSchedules(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) { // begins at 2000-01-01 00:00 UTC
		w, s := newWorld(t), newAccount("first")
		w.put("db", "password", "first")
		at := func(hour, minute int) time.Time { return time.Date(2000, 1, 1, hour, minute, 0, 0, berlin) }
		w.set("db", "account", func(r *fsm.Rotation) {
			r.Every, r.Cron, r.Zone, r.NextRun = 0, "30 * * * *", "Europe/Berlin", at(2, 30).UnixMilli()
		})
		stop := w.elect(engine(map[string]target.Target{"account": s}))
		sleepUntil(at(6, 0))
		history := w.history("db")
		if len(history) != 4 {
			t.Fatalf("history: %+v", history)
		}
		for i, h := range history {
			if d := time.UnixMilli(h.Started).Sub(at(i+2, 30)); d < 0 || d > 2*time.Second {
				t.Errorf("rotation %d began at %v", i+1, time.UnixMilli(h.Started).In(berlin))
			}
		}
		stop()

		// Nobody leads for three hours: one rotation makes up for them, and the schedule goes on.
		sleepUntil(at(9, 0))
		stop = w.elect(engine(map[string]target.Target{"account": s}))
		sleepUntil(at(9, 29))
		if n := len(w.history("db")); n != 5 {
			t.Errorf("%d rotations, want 5", n)
		}
		sleepUntil(at(10, 0))
		if n := len(w.history("db")); n != 6 {
			t.Errorf("%d rotations, want 6", n)
		}

		// Paused: only what somebody asks for.
		w.must(w.do(fsm.KindRotationPause, fsm.RotationPause{Vault: "ml", Path: "db", Paused: true}))
		sleepUntil(at(12, 0))
		if n := len(w.history("db")); n != 6 {
			t.Errorf("%d rotations while it is paused", n-6)
		}
		asked := time.Now()
		if r := w.must(w.do(fsm.KindRotationRun, fsm.RotationRun{Vault: "ml", Path: "db"})); r.Version != 7 {
			t.Errorf("attempt %d was asked for", r.Version)
		}
		w.await("it", func() bool { return len(w.history("db")) == 7 })
		if h := w.history("db")[6]; !h.Requested || time.UnixMilli(h.Started).Sub(asked) > time.Second {
			t.Errorf("%+v", h)
		}
		w.must(w.do(fsm.KindRotationPause, fsm.RotationPause{Vault: "ml", Path: "db", NextRun: at(14, 30).UnixMilli()}))
		sleepUntil(at(15, 0))
		if n := len(w.history("db")); n != 8 {
			t.Errorf("%d rotations after it was resumed, want 8", n)
		}
		stop()
	})
}

func sleepUntil(at time.Time) {
	time.Sleep(time.Until(at))
	synctest.Wait()
}

// A schedule that was changed on a disk sends no value anywhere.
func TestForgedSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t), newAccount("first")
		w.put("db", "password", "first")
		w.set("db", "account", func(r *fsm.Rotation) { r.NextRun = time.Now().Add(time.Minute).UnixMilli() })
		forged := w.rotation("db")
		forged.Options = []fsm.RotationOption{{Name: "host", Value: "db.example.net"}}
		w.must(w.do(fsm.KindRotationSet, fsm.RotationSet{Rotation: forged}))
		stop := w.elect(engine(map[string]target.Target{"account": s}))
		time.Sleep(time.Hour)
		synctest.Wait()
		stop()
		if len(s.made()) != 0 || !strings.Contains(w.rotation("db").Failure, "outside the cluster") {
			t.Errorf("calls %v, status %q", s.made(), w.rotation("db").Failure)
		}
	})
}

// Values leave for the target on record: one record for each value and step.
func TestUseIsOnRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t), newAccount("first")
		w.put("db", "password", "first")
		w.put("admin", "password", "root")
		w.set("db", "account", func(r *fsm.Rotation) {
			r.Options = append([]fsm.RotationOption{{Name: target.OptionAdmin, Value: "ml/admin"}}, r.Options...)
		})
		s.fails = func(_ context.Context, call string, a target.Attempt) (error, bool) {
			if password(a.Admin) != "root" || password(a.Old) != "first" || (call == "stage") != (a.New == nil) {
				return errors.New("wrong values"), false
			}
			return nil, false
		}
		stop := w.elect(engine(map[string]target.Target{"account": s}))
		w.await("the end", func() bool { return len(w.history("db")) == 1 })
		stop()
		if n := len(w.actions(rotate.ActionUse)); n != 2+3+3+3 { // stage; apply, verify, retire
			t.Errorf("%d records of use", n)
		}
	})
}

// A cluster that is sealed in the middle of a rotation goes on with it when it is unsealed.
func TestSealedInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t), newAccount("first")
		w.put("db", "password", "first")
		w.set("db", "account", func(r *fsm.Rotation) { r.Every = 30 * 24 * time.Hour.Milliseconds() })
		e := engine(map[string]target.Target{"account": s})
		e.SetHook(func(at string) {
			if at == "called apply" && s.count("apply") == 1 {
				w.must(w.do(fsm.KindSealFlag, fsm.SealFlag{Sealed: true}))
			}
		})
		stop := w.elect(e)
		defer stop()
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if n := len(s.made()); n != 2 || w.rotation("db").Attempt.State != fsm.RotationStaged {
			t.Errorf("while it is sealed: %v, %+v", s.made(), w.rotation("db").Attempt)
		}
		cl, _ := w.store.Cluster()
		w.must(w.do(fsm.KindUnsealed, fsm.Unsealed{Node: "n1", Method: "operators", Changed: cl.Changed}))
		w.await("the end", func() bool { return len(w.history("db")) > 0 })
		stop()
		w.finished(s)
	})
}

// A vault's key that is rotated meanwhile: what was encrypted before stays readable, and what was encrypted for the old
// generation and not recorded yet is made again.
func TestVaultKeyRotatedInTheMiddle(t *testing.T) {
	for _, at := range []string{"called stage", "recorded stage", "recorded promote"} {
		synctest.Test(t, func(t *testing.T) {
			w, s := newWorld(t), newAccount("first")
			w.put("db", "password", "first")
			w.set("db", "account", nil)
			e := engine(map[string]target.Target{"account": s})
			var once sync.Once
			e.SetHook(func(point string) {
				if point == at {
					once.Do(func() { w.nextVaultKey() })
				}
			})
			stop := w.elect(e)
			w.await("the end", func() bool { return len(w.history("db")) > 0 })
			stop()
			w.finished(s)
		})
	}
}

func (w *world) nextVaultKey() {
	w.t.Helper()
	key, err := w.keys.Generate(keyring.Vault("ml"), 2)
	if err != nil {
		w.t.Fatal(err)
	}
	w.wrapped = append(w.wrapped, key)
	w.must(w.do(fsm.KindKeyAdd, fsm.KeyAdd{Key: fsm.WrappedKey{
		Purpose: key.Purpose, Generation: 2, RootGeneration: key.RootGeneration, Ciphertext: key.Ciphertext,
	}}))
}
