// Package workload is the clients of a chaos run: each does one kind of thing over and over and records every call with
// what came of it. Clients never judge; package check does.
package workload

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/chaos/history"
	"github.com/hizo/hizo/chaos/lab"
	"github.com/hizo/hizo/crypto/hybrid"
)

// Vault that the workload works in.
const Vault = "chaos"

// callTimeout bounds a call; a cluster without a quorum is waited for this long.
const callTimeout = 4 * time.Second

// Workload runs clients until their context ends.
type Workload struct {
	Record *history.Recorder
	// Connect makes a client with this token, empty for none.
	Connect func(token string) (*client.Client, error)
	Admin   string // token of a SecurityEngineer
	Keys    int
	Redis   *lab.Redis // nil: nothing is rotated

	mu       sync.Mutex
	canaries []string // some of the values that were written
	notes    map[string]bool
}

// Setup makes what the clients need. The cluster is healthy.
func (w *Workload) Setup(ctx context.Context) error {
	w.notes = map[string]bool{}
	c, err := w.Connect(w.Admin)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Vaults().CreateVault(ctx, &hizov1.CreateVaultRequest{Name: Vault}); err != nil {
		return err
	}
	if _, err := c.Identities().CreateUser(ctx, &hizov1.CreateUserRequest{Name: "sec", Password: []byte(password)}); err != nil {
		return err
	}
	if _, err := c.Identities().GrantRole(ctx, &hizov1.RoleRequest{Role: "SecurityEngineer", Name: "sec"}); err != nil {
		return err
	}
	if _, err := c.Identities().CreateWorkload(ctx, &hizov1.CreateWorkloadRequest{Name: "job"}); err != nil {
		return err
	}
	if err := w.setupRotation(ctx, c); err != nil {
		return err
	}
	if err := w.setupLeases(ctx, c); err != nil {
		return err
	}
	if err := w.setupPipeline(ctx, c); err != nil {
		return err
	}
	_, err = c.Policies().PutPolicy(ctx, &hizov1.PutPolicyRequest{Name: "job", Text: `permit (principal == Hizo::Workload::"job", action == Hizo::Action::"inject", resource in Hizo::Vault::"` + Vault + `");`})
	return err
}

// password of the user whose logins are revoked; the run's cluster is thrown away.
const password = "correct horse battery staple, thirty-two"

// Canaries are values that must not be found outside.
func (w *Workload) Canaries() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.canaries
}

// Notes are the checkpoints that were seen.
func (w *Workload) Notes() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for n := range w.notes {
		out = append(out, n)
	}
	return out
}

func (w *Workload) value() string {
	v := crand.Text() + crand.Text()
	w.canary(v)
	return v
}

func (w *Workload) canary(v string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.canaries) < 64 {
		w.canaries = append(w.canaries, v)
	}
}

// Run starts every client and waits for them.
func (w *Workload) Run(ctx context.Context, seed uint64) {
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			w.registers(ctx, fmt.Sprintf("kv%d", i), rand.New(rand.NewPCG(seed, uint64(i))))
		})
	}
	for i := range 2 {
		wg.Go(func() { w.injects(ctx, fmt.Sprintf("job%d", i), rand.New(rand.NewPCG(seed, uint64(100+i)))) })
	}
	wg.Go(func() { w.revocations(ctx, rand.New(rand.NewPCG(seed, 200))) })
	wg.Go(func() { w.rotations(ctx) })
	wg.Go(func() { w.leases(ctx, rand.New(rand.NewPCG(seed, 300))) })
	wg.Go(func() { w.runs(ctx) })
	wg.Go(func() { w.backups(ctx) })
	wg.Go(func() { w.witness(ctx) })
	wg.Wait()
}

// outcome says what a client may rely on after err.
func outcome(e history.Event, err error) history.Event {
	var unknown *client.UnknownOutcomeError
	var known *client.Error
	switch {
	case err == nil:
		e.Outcome = history.OK
	case errors.As(err, &unknown):
		e.Outcome, e.Reason = history.Unknown, "UNKNOWN_OUTCOME"
	case errors.As(err, &known):
		e.Outcome, e.Reason = history.No, known.Reason
	default:
		e.Outcome, e.Reason = history.No, "OTHER: "+err.Error()
	}
	return e
}

// pause keeps a client that is refused at once from doing nothing else.
func pause(ctx context.Context, e history.Event) {
	if e.Outcome == history.OK {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(30 * time.Millisecond):
	}
}

func (w *Workload) key(rng *rand.Rand) (path, key string) {
	path = fmt.Sprintf("k%d", rng.IntN(w.Keys))
	return path, Vault + "/" + path
}

// registers puts, compares-and-sets and reveals.
func (w *Workload) registers(ctx context.Context, name string, rng *rand.Rand) {
	c, err := w.Connect(w.Admin)
	if err != nil {
		return
	}
	defer c.Close()
	seen := map[string]uint32{}
	for ctx.Err() == nil {
		path, key := w.key(rng)
		var e history.Event
		switch n := rng.IntN(100); {
		case n < 50:
			e = w.reveal(ctx, c, history.Event{Client: name, Kind: history.Reveal, Key: key}, path)
		default:
			e = history.Event{Client: name, Kind: history.Put, Key: key, Value: w.value(), Request: client.NewRequestID()}
			req := &hizov1.PutRequest{Vault: Vault, Path: path, Fields: map[string][]byte{"v": []byte(e.Value)}}
			if n >= 80 {
				e.Kind, e.CAS = history.CAS, seen[key]
				req.Cas = &e.CAS
			}
			e = w.Record.Begin(e)
			call, cancel := context.WithTimeout(ctx, callTimeout)
			r, err := c.Secrets().Put(client.WithRequestID(call, e.Request), req)
			cancel()
			e = outcome(e, err)
			e.Version = r.GetVersion()
			w.Record.End(e)
		}
		if e.Version != 0 {
			seen[key] = e.Version
		}
		pause(ctx, e)
	}
}

func (w *Workload) reveal(ctx context.Context, c *client.Client, e history.Event, path string) history.Event {
	e = w.Record.Begin(e)
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := c.Secrets().Reveal(call, &hizov1.RevealRequest{Vault: Vault, Path: path})
	e = outcome(e, err)
	if e.Reason == hizov1.ReasonNotFound {
		e.Outcome = history.OK // it says that there is none
	}
	e.Version, e.Value, e.Audit = r.GetVersion(), string(r.GetFields()["v"]), r.GetAuditSequence()
	w.Record.End(e)
	return e
}

// injects logs in with a one-time secret id and has values sealed to keys of its own.
func (w *Workload) injects(ctx context.Context, name string, rng *rand.Rand) {
	admin, err := w.Connect(w.Admin)
	if err != nil {
		return
	}
	defer admin.Close()
	for ctx.Err() == nil {
		c, err := w.login(ctx, admin, name, "job")
		if err != nil {
			pause(ctx, history.Event{Outcome: history.No})
			continue
		}
		for range 50 {
			if ctx.Err() != nil {
				break
			}
			path, key := w.key(rng)
			e := w.inject(ctx, c, history.Event{Client: name, Kind: history.Inject, Key: key}, path)
			pause(ctx, e)
		}
		_ = c.Close()
	}
}

// login logs a workload in, once with each secret id.
func (w *Workload) login(ctx context.Context, admin *client.Client, name, workload string) (*client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	id, err := admin.Identities().CreateSecretID(ctx, &hizov1.CreateSecretIDRequest{Workload: workload})
	if err != nil {
		return nil, err
	}
	anonymous, err := w.Connect("")
	if err != nil {
		return nil, err
	}
	defer anonymous.Close()
	key := make([]byte, 32)
	_, _ = crand.Read(key)
	e := w.Record.Begin(history.Event{Client: name, Kind: history.Login})
	login, err := anonymous.Auth().LoginWorkload(ctx, &hizov1.LoginWorkloadRequest{Workload: workload, SecretId: id.GetSecretId(), ClientKey: key})
	w.Record.End(outcome(e, err))
	if err != nil {
		return nil, err
	}
	return w.Connect(login.GetToken())
}

func (w *Workload) inject(ctx context.Context, c *client.Client, e history.Event, path string) history.Event {
	key, err := hybrid.NewKey()
	if err != nil {
		return e
	}
	e = w.Record.Begin(e)
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := c.Secrets().Inject(call, &hizov1.InjectRequest{
		Refs: []*hizov1.InjectRequest_Ref{{Vault: Vault, Path: path, Field: "v"}}, ExecutionKey: key.Public(), Execution: e.Client,
	})
	if e = outcome(e, err); err == nil {
		v := r.GetValues()[0]
		value, err := inject.OpenValue(key, inject.Target{
			Cluster: r.GetClusterId(), Principal: r.GetPrincipal(), Vault: Vault, Path: path, Field: "v", Version: v.GetVersion(),
		}, v.GetSealed())
		if err != nil {
			e.Reason = "OTHER: " + err.Error()
		} else {
			e.Value = string(value.Reveal())
		}
		e.Version, e.Audit = v.GetVersion(), v.GetAuditSequence()
	}
	w.Record.End(e)
	return e
}

// revocations logs a person in, lets two clients use the token, revokes it, and lets them go on trying.
func (w *Workload) revocations(ctx context.Context, rng *rand.Rand) {
	anonymous, err := w.Connect("")
	if err != nil {
		return
	}
	defer anonymous.Close()
	for n := 0; ctx.Err() == nil; n++ {
		id := fmt.Sprintf("sec#%d", n)
		e := w.Record.Begin(history.Event{Client: "sec", Kind: history.Login, Token: id})
		call, cancel := context.WithTimeout(ctx, callTimeout)
		login, err := anonymous.Auth().Login(call, &hizov1.LoginRequest{User: "sec", Password: []byte(password)})
		cancel()
		e = outcome(e, err)
		w.Record.End(e)
		if err != nil {
			pause(ctx, e)
			continue
		}
		w.useAndRevoke(ctx, id, login.GetToken(), time.Duration(200+rng.IntN(800))*time.Millisecond, rng.Uint64())
	}
}

func (w *Workload) useAndRevoke(ctx context.Context, id, token string, use time.Duration, seed uint64) {
	c, err := w.Connect(token)
	if err != nil {
		return
	}
	defer c.Close()
	ctx, end := context.WithCancel(ctx)
	defer end()
	var users sync.WaitGroup
	for i := range 2 {
		users.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			for ctx.Err() == nil {
				path, key := w.key(rng)
				pause(ctx, w.reveal(ctx, c, history.Event{Client: fmt.Sprintf("sec%d", i), Kind: history.UseOf, Key: key, Token: id}, path))
			}
		})
	}
	select {
	case <-ctx.Done():
	case <-time.After(use):
	}
	e := w.Record.Begin(history.Event{Client: "sec", Kind: history.Revoke, Token: id, Request: client.NewRequestID()})
	call, cancel := context.WithTimeout(ctx, callTimeout)
	_, err = c.Auth().Logout(client.WithRequestID(call, e.Request), &hizov1.LogoutRequest{})
	cancel()
	w.Record.End(outcome(e, err))
	select {
	case <-ctx.Done():
	case <-time.After(300 * time.Millisecond):
	}
	end()
	users.Wait()
}

// witness keeps the checkpoints that it is shown.
func (w *Workload) witness(ctx context.Context) {
	c, err := w.Connect(w.Admin)
	if err != nil {
		return
	}
	defer c.Close()
	for ctx.Err() == nil {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		r, err := c.Audit().LatestCheckpoint(call, &hizov1.CheckpointRequest{})
		cancel()
		if err == nil && r.GetCheckpoint() != "" {
			w.mu.Lock()
			w.notes[r.GetCheckpoint()] = true
			w.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}
