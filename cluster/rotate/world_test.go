package rotate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/rotate"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/crypto/envelope"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/secret"
	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// world is a real state machine with real keys, without Raft: what one leader after the other sees. It lives in a
// bubble of virtual time.
type world struct {
	t     *testing.T
	store *fsm.Store
	keys  *keyring.Keyring

	wrapped []keyring.WrappedKey

	real  bool // in real time, for real servers
	mu    sync.Mutex
	build fsmtest.Builder
	// lose decides what becomes of a record: what Propose answers instead, and whether it applies all the same.
	lose func(kind fsm.Kind) (err error, applies bool)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	store, err := fsm.Open(fsm.Options{Dir: "state", FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: store}
	t.Cleanup(func() {
		if !t.Failed() {
			fsmtest.Check(t, store)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	w.build.Time = time.Now().UnixMilli()
	genesis := w.build.Genesis()
	body, err := fsm.DecodeBody(fsm.KindGenesis, genesis.Body)
	if err != nil {
		t.Fatal(err)
	}
	id := body.(*fsm.Genesis).Cluster.ID
	if w.keys, err = keyring.Open(keyring.NewRoot(), 1, id, func(p string, g uint32) (keyring.WrappedKey, error) { return keyring.Static(w.wrapped...)(p, g) }); err != nil {
		t.Fatal(err)
	}
	for _, purpose := range []string{keyring.MAC, keyring.Vault("ml")} {
		key, err := w.keys.Generate(purpose, 1)
		if err != nil {
			t.Fatal(err)
		}
		w.wrapped = append(w.wrapped, key)
	}
	w.must(genesis)
	w.must(w.build.Enrol("alice", "t"))
	w.must(w.build.Vault("ml"))
	return w
}

func (w *world) apply(cmd fsm.Command) fsm.Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.build.Time = max(w.store.Time(), time.Now().UnixMilli())
	if w.build.Time > w.store.Time()+240_000 && w.build.Index > 0 { // cluster time moves by ticks, as under a real leader
		for at := w.store.Time(); at < w.build.Time; {
			at = min(at+240_000, w.build.Time)
			e := fsm.Entry{Time: at, Records: [][]byte{fsm.EncodeCommand(fsm.Command{Kind: fsm.KindTick, Principal: "node/n1", Body: fsm.EncodeBody(fsm.KindTick, fsm.Tick{})})}}
			w.store.Apply(w.build.Log(e))
		}
	}
	return w.store.Apply(w.build.Entry(cmd)).([]fsm.Result)[0]
}

func (w *world) must(cmd fsm.Command) fsm.Result {
	w.t.Helper()
	r := w.apply(cmd)
	if r.Code != fsm.CodeOK {
		w.t.Fatalf("kind %d: code %d %s", cmd.Kind, r.Code, r.Changed)
	}
	return r
}

// leader is the world as one term sees it. Records of a term that is over are refused.
type leader struct {
	*world
	term uint64
}

func (leader) ID() string          { return "n1" }
func (l leader) Store() *fsm.Store { return l.store }

func (l leader) Keyring() (*keyring.Keyring, error) {
	if c, _ := l.store.Cluster(); c.Sealed {
		return nil, cluster.ErrSealed
	}
	return l.keys, nil
}
func (w *world) do(kind fsm.Kind, body any) fsm.Command {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.build.Time = time.Now().UnixMilli() // request ids have it inside
	return w.build.Command(kind, "user/alice", "test", "resource", body)
}

func (l leader) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	if err := ctx.Err(); err != nil {
		return fsm.Result{}, err
	}
	l.mu.Lock()
	lose := l.lose
	l.mu.Unlock()
	if lose != nil {
		if err, applies := lose(cmd.Kind); err != nil {
			if applies {
				l.apply(cmd)
			}
			return fsm.Result{}, err
		}
	}
	return l.apply(cmd), nil
}

func (w *world) newTerm() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.build.Term = max(w.build.Term, 1) + 1
	return w.build.Term
}

// elect lets a leader work until stop is called.
func (w *world) elect(e *rotate.Engine) (stop func()) {
	term := w.newTerm()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.Run(ctx, leader{w, term}, term)
	}()
	stop = func() {
		cancel()
		<-done
	}
	w.t.Cleanup(stop) // where a test fails half-way
	return stop
}

// put stores a value of one field.
func (w *world) put(path, field, value string) {
	w.t.Helper()
	w.putFields(path, target.Value{field: secret.Copy([]byte(value))})
}

func (w *world) putFields(path string, value target.Value) {
	w.t.Helper()
	head, _ := w.store.Secret("ml", path)
	version := max(head.Next, 1)
	cl, _ := w.store.Cluster()
	sealed, err := envelope.SealValue(w.keys, envelope.Bind{Cluster: cl.ID, Vault: "ml", Path: path, Version: uint64(version)}, 1, value)
	if err != nil {
		w.t.Fatal(err)
	}
	w.must(w.do(fsm.KindSecretPut, fsm.SecretPut{Vault: "ml", Path: path, Version: version, CAS: -1, Data: fsm.SealedValue(sealed)}))
}

// value is what a reader of the current version gets, "" if there is none.
func (w *world) value(path, field string) string {
	w.t.Helper()
	head, ok := w.store.Secret("ml", path)
	if !ok {
		return ""
	}
	data, ok := w.store.VersionData("ml", path, head.Current)
	if !ok {
		return ""
	}
	cl, _ := w.store.Cluster()
	v, err := envelope.OpenValue(w.keys, envelope.Bind{Cluster: cl.ID, Vault: "ml", Path: path, Version: uint64(head.Current)}, envelope.Sealed(data.Data))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(v[field].Reveal())
}

// set stores a schedule.
func (w *world) set(path, kind string, change func(*fsm.Rotation)) {
	w.t.Helper()
	r := fsm.Rotation{
		Vault: "ml", Path: path, Target: kind, Options: []fsm.RotationOption{{Name: "field", Value: "password"}},
		Every: time.Hour.Milliseconds(), By: "user/alice", NextRun: time.Now().Add(time.Hour).UnixMilli(),
	}
	if change != nil {
		change(&r)
	}
	var err error
	if r.MAC, err = w.keys.MAC(1, r.MACDomain(), r.MACBody()); err != nil {
		w.t.Fatal(err)
	}
	w.must(w.do(fsm.KindRotationSet, fsm.RotationSet{Rotation: r}))
}

func (w *world) rotation(path string) fsm.Rotation {
	w.t.Helper()
	r, ok := w.store.Rotation("ml", path)
	if !ok {
		w.t.Fatalf("there is no rotation of %s", path)
	}
	return r
}

func (w *world) history(path string) []fsm.RotationRecord { return w.store.RotationHistory("ml", path) }

// await lets virtual time pass until something holds.
func (w *world) await(what string, holds func() bool) {
	w.t.Helper()
	step := time.Second
	if w.real {
		step = 2 * time.Millisecond
	}
	for range 100_000 {
		if !w.real {
			synctest.Wait()
		}
		if holds() {
			return
		}
		time.Sleep(step)
	}
	w.t.Fatalf("waited for %s", what)
}

// actions are the actions on record, in order, those of a prefix.
func (w *world) actions(prefix string) (list []string) {
	w.t.Helper()
	for seq := range w.store.AuditSize() {
		data, err := w.store.AuditLeaf(seq)
		if err != nil {
			w.t.Fatal(err)
		}
		r, err := fsm.ParseLeaf(data)
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.HasPrefix(r.Action, prefix) && r.Outcome == fsm.CodeOK {
			list = append(list, r.Action)
		}
	}
	return list
}

// account is a server with one account whose passwords are in a set, as Redis has it. It can be made to fail.
type account struct {
	mu        sync.Mutex
	passwords map[string]bool
	calls     []string
	// fails is asked before each call does anything; after says whether the call takes effect nevertheless.
	fails  func(ctx context.Context, call string, a target.Attempt) (err error, after bool)
	values int
}

func newAccount(password string) *account {
	return &account{passwords: map[string]bool{password: true}}
}

func (s *account) do(ctx context.Context, call string, a target.Attempt, effect func() error) error {
	s.mu.Lock()
	fails := s.fails
	s.calls = append(s.calls, call)
	s.mu.Unlock()
	if fails != nil {
		if err, after := fails(ctx, call, a); err != nil {
			if after {
				s.mu.Lock()
				_ = effect()
				s.mu.Unlock()
			}
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return effect()
}

func (s *account) logsIn(password string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.passwords[password]
}

func (s *account) count(call string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if c == call {
			n++
		}
	}
	return n
}

// made are the calls so far.
func (s *account) made() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// valid counts the passwords that log in.
func (s *account) valid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.passwords)
}

func password(v target.Value) string { return string(v["password"].Reveal()) }

func (s *account) Check(map[string]string) error { return nil }

func (s *account) Stage(ctx context.Context, a target.Attempt) (target.Value, error) {
	var v target.Value
	err := s.do(ctx, "stage", a, func() error {
		s.values++
		v = target.Value{"password": secret.Copy(fmt.Appendf(nil, "password-%d", s.values))}
		return nil
	})
	return v, err
}

func (s *account) Apply(ctx context.Context, a target.Attempt) error {
	return s.do(ctx, "apply", a, func() error { s.passwords[password(a.New)] = true; return nil })
}

var errRefused = &target.Error{Kind: "account", Stage: "verify", Message: "the server refuses the password", Err: target.ErrPermanent}

func (s *account) Verify(ctx context.Context, a target.Attempt) error {
	return s.do(ctx, "verify", a, func() error {
		if !s.passwords[password(a.New)] {
			return errRefused
		}
		return nil
	})
}

func (s *account) Retire(ctx context.Context, a target.Attempt) error {
	return s.do(ctx, "retire", a, func() error { delete(s.passwords, password(a.Old)); return nil })
}

func (s *account) Fence(ctx context.Context, a target.Attempt) error {
	return s.do(ctx, "fence", a, func() error { delete(s.passwords, password(a.New)); return nil })
}

var errLost = &cluster.UnknownOutcomeError{Err: errors.New("the connection to the log broke")}
