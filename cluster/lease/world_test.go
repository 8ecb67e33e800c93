package lease_test

import (
	"context"
	"crypto/rand"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/cluster/lease"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/crypto/envelope"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/secret"
	"github.com/hizo/hizo/fsm"
)

// server stands in for a database that answers at once: what is measured is what leases cost the cluster.
type server struct {
	dropped atomic.Int64
	answer  atomic.Pointer[func(context.Context, target.User) error] // nil: yes
}

func (s *server) Check(map[string]string) error             { return nil }
func (s *server) Create(context.Context, target.User) error { return nil }
func (s *server) Renew(context.Context, target.User) error  { return nil }
func (s *server) Drop(ctx context.Context, u target.User) error {
	if answer := s.answer.Load(); answer != nil {
		if err := (*answer)(ctx, u); err != nil {
			return err
		}
	}
	s.dropped.Add(1)
	return nil
}

// world is a cluster with the role ml/db at a server of our own.
type world struct {
	*clustertest.Cluster
	t      testing.TB
	clock  *clustertest.Clock
	server *server
}

func start(t testing.TB, nodes int) *world {
	t.Helper()
	w := &world{t: t, clock: &clustertest.Clock{}, server: &server{}}
	engine := lease.New(lease.Config{Users: map[string]target.Users{"stub": w.server}, Clock: w.clock.Now, Pause: 10 * time.Millisecond, Timeout: time.Second})
	w.Cluster = clustertest.Start(t, clustertest.Options{
		Nodes: nodes, Clock: w.clock, SnapshotBytes: 4 << 20, Duties: func(string) []cluster.Duty { return []cluster.Duty{engine.Duty} },
	})
	w.secret()
	w.role("db", "stub one")
	w.ok(w.command(fsm.KindWorkloadPut, "user/test", fsm.WorkloadPut{Workload: fsm.Workload{Name: "train"}}))
	return w
}

func (w *world) command(kind fsm.Kind, who string, body any) fsm.Command {
	return fsm.Command{
		Kind: kind, Principal: who, Body: fsm.EncodeBody(kind, body),
		Audits: []fsm.Audit{{Action: "test", Resource: "ml/db", Decision: fsm.Allowed, Sealed: make([]byte, 150)}},
	}
}

func (w *world) ok(cmd fsm.Command) fsm.Result {
	w.t.Helper()
	r, err := w.Leader().Propose(w.t.Context(), cmd)
	if err != nil || r.Code != fsm.CodeOK {
		w.t.Fatalf("kind %d: %+v, %v", cmd.Kind, r, err)
	}
	return r
}

// secret makes the vault ml and the credential that roles name.
func (w *world) secret() {
	w.t.Helper()
	keys := w.keys()
	key, err := keys.Generate("vault/ml", 1)
	if err != nil {
		w.t.Fatal(err)
	}
	vault := fsm.Vault{Name: "ml", Generation: 1}
	vault.MAC = w.mac(vault)
	w.ok(w.command(fsm.KindVaultCreate, "user/test", fsm.VaultCreate{Vault: vault, Key: fsm.WrappedKey{
		Purpose: key.Purpose, Generation: key.Generation, RootGeneration: key.RootGeneration, Ciphertext: key.Ciphertext,
	}}))
	w.put("admin")
}

func (w *world) put(path string) {
	w.t.Helper()
	keys := w.keys()
	sealed, err := envelope.SealValue(keys, envelope.Bind{Cluster: keys.Cluster(), Vault: "ml", Path: path, Version: 1}, 1,
		map[string]secret.Bytes{"username": secret.New([]byte("boss")), "password": secret.New([]byte("pw"))})
	if err != nil {
		w.t.Fatal(err)
	}
	w.ok(w.command(fsm.KindSecretPut, "user/test", fsm.SecretPut{Vault: "ml", Path: path, Version: 1, CAS: -1, Data: fsm.SealedValue(sealed)}))
}

func (w *world) keys() *keyring.Keyring {
	w.t.Helper()
	keys, err := w.Leader().Keyring()
	if err != nil {
		w.t.Fatal(err)
	}
	return keys
}

func (w *world) mac(record fsm.MACed) []byte {
	w.t.Helper()
	c, _ := w.Leader().Store().Cluster()
	mac, err := w.keys().MAC(c.MACGeneration, record.MACDomain(), record.MACBody())
	if err != nil {
		w.t.Fatal(err)
	}
	return mac
}

// role makes a role at a server of that name.
func (w *world) role(name, server string) { w.roleOf(name, server, "admin") }

func (w *world) roleOf(name, server, admin string) {
	w.t.Helper()
	role := fsm.LeaseRole{
		Vault: "ml", Name: name, Kind: "stub", Target: server, AdminVault: "ml", AdminPath: admin,
		DefaultTTL: 3_600_000, MaxTTL: 24 * 3_600_000, Limit: fsm.MaxRoleLeases, By: "user/test",
	}
	rand.Read(role.Revision[:])
	role.MAC = w.mac(role)
	w.ok(w.command(fsm.KindLeaseRolePut, "user/test", fsm.LeaseRolePut{Role: role}))
}

// open makes a lease of a role that expires at a time, and activates it.
func (w *world) open(role string, expires int64) fsm.Lease {
	w.t.Helper()
	l := w.newLease(role, expires)
	w.ok(w.command(fsm.KindLeaseCreate, l.Principal, fsm.LeaseCreate{Lease: l}))
	w.ok(w.command(fsm.KindLeaseActivate, l.Principal, fsm.LeaseActivate{ID: l.ID}))
	return l
}

func (w *world) newLease(role string, expires int64) fsm.Lease {
	w.t.Helper()
	leader := w.Leader()
	r, _ := leader.Store().LeaseRole("ml", role)
	l := fsm.Lease{
		Vault: "ml", Role: role, Revision: r.Revision, Target: r.Target, Principal: "workload/train",
		Issued: leader.Store().Time(), Expires: expires, MaxExpires: expires, AdminVersion: 1,
	}
	rand.Read(l.ID[:])
	l.Username = lease.Username(l.ID)
	l.MAC = w.mac(l)
	return l
}

func (w *world) now() int64 { return w.clock.Now().UnixMilli() }

func (w *world) left() int {
	n := 0
	for place := ""; ; {
		page, next := w.Leader().Store().Leases("", "", place, 10_000)
		n += len(page)
		if place = next; next == "" {
			return n
		}
	}
}
