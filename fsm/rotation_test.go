package fsm_test

import (
	"strings"
	"testing"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// rotated is a world with a rotation of ml/db, whose version 1 is current.
type rotated struct{ *world }

var attempt = [16]byte{1, 2, 3}

func newRotated(t *testing.T, change func(*fsm.Rotation)) *rotated {
	t.Helper()
	w := &rotated{newWorld(t)}
	r := fsm.Rotation{
		Vault: "ml", Path: "db", Target: "generated", Options: []fsm.RotationOption{{Name: "field", Value: "password"}},
		Every: 86_400_000, Grace: 60_000, By: "user/alice", NextRun: w.Now() + 1000, MAC: []byte("mac"),
	}
	if change != nil {
		change(&r)
	}
	w.ok(w.do(fsm.KindRotationSet, fsm.RotationSet{Rotation: r}))
	return w
}

func (w *rotated) duty(kind fsm.Kind, body any) fsm.Command {
	c := w.Command(kind, "node/n1", "rotation", "ml/db", body)
	c.Request, c.Term = [16]byte{}, 1
	return c
}

func (w *rotated) stage(version uint32) fsm.Command {
	return w.duty(fsm.KindRotationStage, fsm.RotationStage{
		Vault: "ml", Path: "db", ID: attempt, Version: version, Old: version - 1, NextRun: w.Now() + 86_400_000,
		Data: fsmtest.Sealed("ml", "db", version),
	})
}

func (w *rotated) advance(from, to fsm.RotationState) fsm.Command {
	return w.duty(fsm.KindRotationAdvance, fsm.RotationAdvance{Vault: "ml", Path: "db", ID: attempt, From: from, To: to})
}

func (w *rotated) fail(from fsm.RotationState, giveUp bool) fsm.Command {
	return w.duty(fsm.KindRotationFail, fsm.RotationFail{
		Vault: "ml", Path: "db", ID: attempt, From: from, Message: "the server refuses the password", RetryAt: w.Now() + 1000, GiveUp: giveUp,
	})
}

func (w *rotated) rotation() fsm.Rotation {
	w.t.Helper()
	r, ok := w.s.Rotation("ml", "db")
	if !ok {
		w.t.Fatal("there is no rotation")
	}
	return r
}

func (w *rotated) head() fsm.Secret {
	s, _ := w.s.Secret("ml", "db")
	return s
}

func (w *rotated) last() fsm.AuditRecord { return w.leaf(w.s.AuditSize() - 1) }

// toPromoted takes an attempt as far as its new version is current.
func (w *rotated) toPromoted() {
	w.t.Helper()
	w.ok(w.stage(2), w.advance(1, 2), w.advance(2, 3), w.advance(3, 4))
}

func TestRotationStepByStep(t *testing.T) {
	w := newRotated(t, nil)
	w.ok(w.stage(2))
	if h := w.head(); h.Current != 1 || h.Pending != 2 || h.Next != 3 || !h.Rotating {
		t.Errorf("staged: %+v", h)
	}
	if v := w.s.Versions("ml", "db"); len(v) != 2 || v[1].Stage != fsm.StagePending || v[0].Stage != fsm.StageCurrent {
		t.Errorf("versions: %+v", v)
	}
	// Nobody gets the pending one, by number or otherwise; its attempt does.
	if got := w.apply(w.Read("user/alice", fsm.Ref{Vault: "ml", Path: "db"}))[0]; got.Value.([]fsm.VersionData)[0].Ref.Version != 1 {
		t.Errorf("a reader got %+v", got)
	}
	w.want(fsm.CodeNotFound, w.Read("user/alice", fsm.Ref{Vault: "ml", Path: "db", Version: 2}))
	use := fsm.RotationUse{Vault: "ml", Path: "db", ID: attempt, Refs: []fsm.Ref{{Vault: "ml", Path: "db", Version: 2}}}
	if got := w.want(fsm.CodeOK, w.duty(fsm.KindRotationUse, use)).Value.([]fsm.VersionData); got[0].Ref.Version != 2 {
		t.Errorf("the attempt got %+v", got)
	}
	use.ID = [16]byte{9}
	w.want(fsm.CodeSuperseded, w.duty(fsm.KindRotationUse, use))

	// Each step once, in order.
	w.want(fsm.CodeInvalid, w.advance(1, 3))
	w.want(fsm.CodeSuperseded, w.advance(2, 3))
	w.ok(w.advance(1, 2))
	w.want(fsm.CodeSuperseded, w.advance(1, 2))
	w.ok(w.advance(2, 3), w.advance(3, 4))
	if h := w.head(); h.Current != 2 || h.Previous != 1 || h.Pending != 0 || !h.Rotating {
		t.Errorf("promoted: %+v", h)
	}
	w.want(fsm.CodeSuperseded, w.advance(4, 5)) // the grace is not over
	w.later(60_000)
	w.ok(w.advance(4, 5))
	if l := w.last(); l.Detail != "the grace is over" || l.Version != 1 {
		t.Errorf("the leaf says %+v", l)
	}
	w.ok(w.advance(5, 7))
	if r := w.rotation(); r.Attempt != (fsm.RotationAttempt{}) || r.Number != 1 {
		t.Errorf("finished: %+v", r)
	}
	w.want(fsm.CodeDeleted, w.Read("user/alice", fsm.Ref{Vault: "ml", Path: "db", Version: 1}))
	history := w.s.RotationHistory("ml", "db")
	if len(history) != 1 || history[0].State != fsm.RotationRetired || history[0].Version != 2 || history[0].Old != 1 || history[0].Promoted == 0 ||
		history[0].Detail != "the grace is over" {
		t.Errorf("history: %+v", history)
	}
	var kinds []fsm.EventKind
	events, _, _ := w.s.Events(fsm.Cursor{}, 100)
	for _, e := range events {
		kinds = append(kinds, e.Kind)
	}
	if len(events) > 0 && (!contains(kinds, fsm.EventPromoted) || !contains(kinds, fsm.EventRetired) || !contains(kinds, fsm.EventRotation)) {
		t.Errorf("events: %v", kinds)
	}
	w.ok(w.Put("ml", "db", 3))
}

func contains(kinds []fsm.EventKind, want fsm.EventKind) bool {
	for _, k := range kinds {
		if k == want {
			return true
		}
	}
	return false
}

// What another term decided, or nobody's term, does nothing.
func TestRotationIsFenced(t *testing.T) {
	w := newRotated(t, nil)
	stage := w.stage(2)
	stage.Term = 7
	w.want(fsm.CodeFenced, stage)
	stage.Term = 0
	w.want(fsm.CodeInvalid, stage)
	w.ok(w.stage(2))
	for _, c := range []fsm.Command{w.advance(1, 2), w.fail(1, false), w.duty(fsm.KindRotationUse, fsm.RotationUse{
		Vault: "ml", Path: "db", ID: attempt, Refs: []fsm.Ref{{Vault: "ml", Path: "db"}},
	})} {
		c.Term = 7
		w.want(fsm.CodeFenced, c)
		c.Term = 0
		w.want(fsm.CodeInvalid, c)
	}
}

// One attempt at a time; and while it is under way nobody else changes what it rests on.
func TestRotationKeepsOthersOut(t *testing.T) {
	w := newRotated(t, nil)
	w.ok(w.stage(2))
	second := w.duty(fsm.KindRotationStage, fsm.RotationStage{
		Vault: "ml", Path: "db", ID: [16]byte{5}, Version: 3, Old: 1, Data: fsmtest.Sealed("ml", "db", 3),
	})
	w.want(fsm.CodeSuperseded, second)
	versions := func(kind fsm.Kind, numbers ...uint32) fsm.Command {
		return w.do(kind, fsm.SecretVersions{Vault: "ml", Path: "db", Versions: numbers})
	}
	for range 2 { // before the new version is current, and in the time of grace
		w.want(fsm.CodeRotating, w.Put("ml", "db", 3))
		for _, c := range []fsm.Command{
			versions(fsm.KindSecretDelete), versions(fsm.KindSecretDestroy, 1), versions(fsm.KindSecretDestroy, 2), versions(fsm.KindSecretDelete, 2),
		} {
			w.want(fsm.CodeRotating, c)
		}
		w.want(fsm.CodeRotating, w.do(fsm.KindRotationDelete, fsm.RotationDelete{Vault: "ml", Path: "db"}))
		if w.rotation().Attempt.State == fsm.RotationStaged {
			w.ok(w.advance(1, 2), w.advance(2, 3), w.advance(3, 4))
		}
	}
	// A put that was superseded by the stage is told so, and may come again afterwards under its own id.
	put := w.Put("ml", "db", 3)
	w.want(fsm.CodeRotating, put)
	w.later(60_000)
	w.ok(w.advance(4, 5), w.advance(5, 7))
	w.want(fsm.CodeOK, put)
}

func TestRotationFailsAndGivesUp(t *testing.T) {
	w := newRotated(t, nil)
	w.ok(w.stage(2))
	w.want(fsm.CodeOK, w.fail(1, false))
	if r := w.rotation(); r.Tries != 1 || r.Failure == "" || r.RetryAt == 0 || r.Attempt.State != fsm.RotationStaged {
		t.Errorf("after a failure: %+v", r)
	}
	if l := w.last(); !strings.Contains(l.Detail, "refuses") || l.Version != 2 {
		t.Errorf("the leaf says %+v", l)
	}
	w.ok(w.advance(1, 2))
	if r := w.rotation(); r.Tries != 0 || r.Failure != "" {
		t.Errorf("the next step began with %+v", r)
	}
	w.ok(w.fail(2, true))
	if r := w.rotation(); r.Attempt.State != fsm.RotationGivingUp {
		t.Errorf("gives up: %+v", r)
	}
	w.want(fsm.CodeInvalid, w.fail(6, true))
	w.ok(w.advance(6, 8))
	if v := w.s.Versions("ml", "db"); v[1].Stage != fsm.StageDestroyed || v[0].Stage != fsm.StageCurrent {
		t.Errorf("versions: %+v", v)
	}
	if h := w.s.RotationHistory("ml", "db"); len(h) != 1 || h[0].State != fsm.RotationGivenUp || h[0].Failures != 2 || h[0].Detail == "" {
		t.Errorf("history: %+v", h)
	}
	w.ok(w.Put("ml", "db", 3)) // the number of the one that was given up is not used again
	w.ok(w.stage(4), w.advance(1, 2), w.advance(2, 3), w.advance(3, 4))
	w.want(fsm.CodeInvalid, w.fail(4, true)) // what is current is never given up
	w.want(fsm.CodeOK, w.fail(4, false))
}

// A value that cannot even be made ends the attempt that somebody asked for.
func TestRotationCannotStage(t *testing.T) {
	w := newRotated(t, nil)
	if got := w.want(fsm.CodeOK, w.do(fsm.KindRotationRun, fsm.RotationRun{Vault: "ml", Path: "db"})); got.Version != 1 {
		t.Errorf("asked for attempt %d", got.Version)
	}
	c := w.duty(fsm.KindRotationFail, fsm.RotationFail{Vault: "ml", Path: "db", Message: "there is no field", GiveUp: true, NextRun: 77})
	w.ok(c)
	if r := w.rotation(); r.Number != 1 || r.Requested || r.NextRun != 77 || r.Failure != "there is no field" || r.Attempt != (fsm.RotationAttempt{}) {
		t.Errorf("%+v", r)
	}
	if h := w.s.RotationHistory("ml", "db"); len(h) != 1 || h[0].State != fsm.RotationGivenUp || !h[0].Requested {
		t.Errorf("history: %+v", h)
	}
}

func TestRotationRunPauseSetDelete(t *testing.T) {
	w := newRotated(t, nil)
	pause := func(on bool, next int64) fsm.Command {
		return w.do(fsm.KindRotationPause, fsm.RotationPause{Vault: "ml", Path: "db", Paused: on, NextRun: next})
	}
	before := w.rotation().NextRun
	w.ok(pause(true, 5), pause(true, 6))
	if r := w.rotation(); !r.Paused || r.NextRun != before {
		t.Errorf("paused: %+v", r)
	}
	w.ok(pause(false, 7), pause(false, 8))
	if r := w.rotation(); r.Paused || r.NextRun != 7 {
		t.Errorf("resumed: %+v", r)
	}
	w.ok(w.stage(2))
	if got := w.want(fsm.CodeOK, w.do(fsm.KindRotationRun, fsm.RotationRun{Vault: "ml", Path: "db"})); got.Version != 1 || w.rotation().Requested {
		t.Errorf("run joins the attempt under way: %+v", got)
	}
	// The schedule may be corrected meanwhile: the attempt stays, and is tried at once.
	w.ok(w.fail(1, false))
	next := w.rotation()
	next.Options = []fsm.RotationOption{{Name: "field", Value: "token"}}
	w.ok(w.do(fsm.KindRotationSet, fsm.RotationSet{Rotation: next}))
	if r := w.rotation(); r.Attempt.ID != attempt || r.RetryAt != 0 || r.Options[0].Value != "token" || r.Number != 1 {
		t.Errorf("set: %+v", r)
	}
	w.ok(w.do(fsm.KindRotationDelete, fsm.RotationDelete{Vault: "ml", Path: "db", Force: true}))
	// Whether the target took the new value is not known: it is kept, and can be read.
	if h := w.head(); h.Rotating || h.Pending != 0 || h.Current != 1 || h.Next != 3 {
		t.Errorf("deleted: %+v", h)
	}
	w.want(fsm.CodeOK, w.Read("user/alice", fsm.Ref{Vault: "ml", Path: "db", Version: 2}))
	w.want(fsm.CodeNotFound, w.do(fsm.KindRotationRun, fsm.RotationRun{Vault: "ml", Path: "db"}))
	if len(w.s.RotationHistory("ml", "db")) != 0 {
		t.Error("its history is still there")
	}
}

func TestRotationSetIsChecked(t *testing.T) {
	w := newWorld(t)
	good := fsm.Rotation{Vault: "ml", Path: "db", Target: "generated", Every: 1000, By: "user/alice"}
	for name, change := range map[string]func(*fsm.Rotation){
		"no schedule":   func(r *fsm.Rotation) { r.Every = 0 },
		"two schedules": func(r *fsm.Rotation) { r.Cron = "@daily" },
		"no target":     func(r *fsm.Rotation) { r.Target = "" },
		"grace":         func(r *fsm.Rotation) { r.Grace = -1 },
		"options in no order": func(r *fsm.Rotation) {
			r.Options = []fsm.RotationOption{{Name: "b"}, {Name: "a"}}
		},
		"an option twice": func(r *fsm.Rotation) { r.Options = []fsm.RotationOption{{Name: "a"}, {Name: "a"}} },
		"a long option": func(r *fsm.Rotation) {
			r.Options = []fsm.RotationOption{{Name: "a", Value: strings.Repeat("x", fsm.MaxRotationOption+1)}}
		},
	} {
		r := good
		change(&r)
		if got := w.want(fsm.CodeInvalid, w.do(fsm.KindRotationSet, fsm.RotationSet{Rotation: r})); got.Code != fsm.CodeInvalid {
			t.Errorf("%s: %+v", name, got)
		}
	}
	good.Vault = "other"
	w.want(fsm.CodeNotFound, w.do(fsm.KindRotationSet, fsm.RotationSet{Rotation: good}))
}

// A secret that has no version yet gets its first one by rotating.
func TestRotationMakesTheFirstVersion(t *testing.T) {
	w := newWorld(t)
	w.ok(w.do(fsm.KindRotationSet, fsm.RotationSet{Rotation: fsm.Rotation{Vault: "ml", Path: "key", Target: "generated", Every: 1000}}))
	r := &rotated{w}
	steps := []fsm.Command{
		r.duty(fsm.KindRotationStage, fsm.RotationStage{Vault: "ml", Path: "key", ID: attempt, Version: 1, Data: fsmtest.Sealed("ml", "key", 1)}),
	}
	for _, s := range [][2]fsm.RotationState{{1, 2}, {2, 3}, {3, 4}, {4, 5}, {5, 7}} {
		steps = append(steps, r.duty(fsm.KindRotationAdvance, fsm.RotationAdvance{Vault: "ml", Path: "key", ID: attempt, From: s[0], To: s[1]}))
	}
	w.ok(steps[0])
	w.want(fsm.CodeNotFound, w.Read("user/alice", fsm.Ref{Vault: "ml", Path: "key"}))
	w.ok(steps[1:]...)
	w.want(fsm.CodeOK, w.Read("user/alice", fsm.Ref{Vault: "ml", Path: "key"}))
}

// Attempts that are given up never push the last good version out.
func TestRotationGivenUpForEver(t *testing.T) {
	w := newRotated(t, nil)
	for n := uint32(2); n <= fsm.MaxVersions; n++ {
		c := w.stage(n)
		body := fsm.RotationStage{Vault: "ml", Path: "db", ID: attempt, Version: n, Old: 1, Data: fsmtest.Sealed("ml", "db", n)}
		c.Body = fsm.EncodeBody(fsm.KindRotationStage, body)
		w.ok(c)
		if err := w.s.Verify(); err != nil { // with every record that is kept, and one attempt under way
			t.Fatal(err)
		}
		w.ok(w.fail(1, true), w.advance(6, 8))
	}
	c := w.duty(fsm.KindRotationStage, fsm.RotationStage{
		Vault: "ml", Path: "db", ID: attempt, Version: fsm.MaxVersions + 1, Old: 1, Data: fsmtest.Sealed("ml", "db", 101),
	})
	w.want(fsm.CodeLimit, c)
	w.want(fsm.CodeOK, w.Read("user/alice", fsm.Ref{Vault: "ml", Path: "db"}))
	if h := w.s.RotationHistory("ml", "db"); len(h) != fsm.MaxRotationRecords {
		t.Errorf("%d records are kept", len(h))
	}
	w.ok(w.Put("ml", "db", fsm.MaxVersions+1))
}

// With consumers the old value waits for them, for those that are alive, until the deadline; the leaf says which it was.
func TestRotationWaitsForConsumers(t *testing.T) {
	for _, c := range []struct {
		name   string
		then   func(w *rotated)
		detail string
	}{
		{"moved", func(w *rotated) {
			w.ok(w.Command(fsm.KindConsumerAck, "user/alice", "consumer", "run", fsm.ConsumerAck{ID: "run", Uses: []fsm.Use{{Vault: "ml", Path: "db", Version: 2}}}))
		}, "all consumers have moved"},
		{"gone", func(w *rotated) {
			w.ok(w.Command(fsm.KindConsumerLeave, "user/alice", "consumer", "run", fsm.ConsumerLeave{ID: "run"}))
		}, "all consumers have moved"},
		{"deadline", func(w *rotated) { w.later(200_000) }, "the deadline has passed; consumers that still use an older version: 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newRotated(t, func(r *fsm.Rotation) { r.Wait, r.Deadline, r.RevokeIssued = true, 200_000, true })
			w.ok(w.Command(fsm.KindConsumerPut, "user/alice", "consumer", "run", fsm.ConsumerPut{
				ID: "run", TTL: 3_600_000, Uses: []fsm.Use{{Vault: "ml", Path: "db", Version: 1}},
			}))
			w.toPromoted()
			w.later(60_000)
			w.want(fsm.CodeSuperseded, w.advance(4, 5)) // somebody still uses it
			c.then(w)
			w.ok(w.advance(4, 5))
			if l := w.last(); l.Detail != c.detail {
				t.Errorf("the leaf says %q", l.Detail)
			}
			_, lived := w.s.Token(fsmtest.HashOf("t"))
			w.ok(w.advance(5, 7))
			_, lives := w.s.Token(fsmtest.HashOf("t"))
			if !lived || lives != (c.name != "deadline") {
				t.Errorf("the token of who uses the old version lived %t, lives %t", lived, lives)
			}
			if l := w.last(); !strings.Contains(l.Detail, map[bool]string{true: "principals: 0", false: "principals: 1"}[lives]) {
				t.Errorf("the leaf says %q", l.Detail)
			}
		})
	}
}
