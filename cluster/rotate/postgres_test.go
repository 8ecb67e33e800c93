package rotate_test

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/cluster/rotate"
	"github.com/hizo/hizo/cluster/rotate/servertest"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/crypto/envelope"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/secret"
	"github.com/hizo/hizo/fsm"
)

var postgres = map[string]target.Target{"postgresql": target.NewPostgres()}

// points are all the places between two things that an attempt does.
var points = []string{
	"before stage", "called stage", "recorded stage", "before apply", "called apply", "recorded apply", "before verify",
	"called verify", "recorded verify", "before promote", "recorded promote", "before grace", "recorded grace",
	"before retire", "called retire", "recorded retire",
}

// dieAt makes an engine whose worker does nothing more from a point on, the first time that it comes there.
func dieAt(e *rotate.Engine, at string, died func()) {
	var once atomic.Bool
	e.SetHook(func(point string) {
		if point == at && once.CompareAndSwap(false, true) {
			died()
			runtime.Goexit()
		}
	})
}

func pgOptions(pg *servertest.Postgres, more map[string]string) (list []fsm.RotationOption) {
	config := pg.Config()
	config[target.OptionAdmin] = "ml/admin"
	for k, v := range more {
		config[k] = v
	}
	for _, k := range []string{"admin", "ca", "database", "host", "mode", "port", "roles", "tls"} {
		if v, ok := config[k]; ok {
			list = append(list, fsm.RotationOption{Name: k, Value: v})
		}
	}
	return list
}

// Every gap at a real PostgreSQL, with one role and with two in turn: the next leader finishes, the current value logs
// in, the old one does not.
func TestEveryGapAtPostgreSQL(t *testing.T) {
	pg := servertest.StartPostgres(t)
	for _, mode := range []string{"single", "alternating"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t)
			w.real = true
			w.putFields("admin", target.Value{"username": secret.Copy([]byte(pg.User)), "password": secret.Copy([]byte(pg.Password))})
			for i, at := range points {
				path, role := fmt.Sprintf("db-%d", i), fmt.Sprintf("app_%s_%d", mode[:1], i)
				pg.Exec(t, "CREATE ROLE "+role+" LOGIN PASSWORD 'first'", "CREATE ROLE "+role+"b LOGIN PASSWORD 'other'")
				w.putFields(path, target.Value{"username": secret.Copy([]byte(role)), "password": secret.Copy([]byte("first"))})
				more := map[string]string{"mode": mode}
				if mode == "alternating" {
					more["roles"] = role + "," + role + "b"
				}
				w.set(path, "postgresql", func(r *fsm.Rotation) {
					r.Options, r.NextRun = pgOptions(pg, more), time.Now().UnixMilli()
				})
				ctx, cancel := context.WithCancel(t.Context())
				first := engine(postgres)
				dieAt(first, at, cancel)
				first.Run(ctx, leader{w, w.newTerm()}, w.build.Term)
				stop := w.elect(engine(postgres))
				w.await("the end of "+path, func() bool { return len(w.history(path)) == 1 })
				stop()
				if h := w.history(path); h[0].State != fsm.RotationRetired {
					t.Fatalf("%s: %+v", at, h)
				}
				user, password := w.value(path, "username"), w.value(path, "password")
				if err := pg.Login(user, password); err != nil {
					t.Errorf("%s: the current value: %v", at, err)
				}
				if err := pg.Login(role, "first"); err == nil {
					t.Errorf("%s: the old value still logs in", at)
				}
				if head, _ := w.store.Secret("ml", path); head.Current != 2 || head.Next != 3 {
					t.Errorf("%s: the secret is %+v", at, head)
				}
			}
		})
	}
}

// The same in a cluster of three nodes, whose leader is killed, or loses its network, in every gap between two records.
func TestLeaderKilledInEveryGap(t *testing.T) {
	if testing.Short() {
		t.Skip("kills leaders")
	}
	pg := servertest.StartPostgres(t)
	type death struct{ node string }
	died := make(chan death, 1)
	var at atomic.Pointer[string]
	c := clustertest.Start(t, clustertest.Options{
		Duties: func(id string) []cluster.Duty {
			e := rotate.New(rotate.Config{Targets: postgres})
			e.SetHook(func(point string) {
				if p := at.Load(); p != nil && *p == point && at.CompareAndSwap(p, nil) {
					died <- death{id}
					runtime.Goexit()
				}
			})
			return []cluster.Duty{e.Duty}
		},
	})
	w := inCluster(t, c)
	w.must(fsm.KindSecretPut, w.sealed("admin", 1, target.Value{
		"username": secret.Copy([]byte(pg.User)), "password": secret.Copy([]byte(pg.Password)),
	}))
	for i, gap := range []struct{ at, how string }{
		{"called stage", "cut"}, {"recorded stage", "kill"}, {"called apply", "cut"}, {"recorded apply", "kill"},
		{"recorded verify", "cut"}, {"recorded promote", "kill"}, {"recorded grace", "cut"}, {"called retire", "kill"},
	} {
		path, role := fmt.Sprintf("db-%d", i), fmt.Sprintf("app_%d", i)
		pg.Exec(t, "CREATE ROLE "+role+" LOGIN PASSWORD 'first'")
		w.must(fsm.KindSecretPut, w.sealed(path, 1, target.Value{
			"username": secret.Copy([]byte(role)), "password": secret.Copy([]byte("first")),
		}))
		at.Store(&gap.at)
		w.must(fsm.KindRotationSet, w.schedule(path, pgOptions(pg, nil)))
		var victim *clustertest.Node
		select {
		case d := <-died:
			for _, n := range c.Nodes {
				if n.ID == d.node {
					victim = n
				}
			}
		case <-time.After(clustertest.Patience):
			t.Fatalf("no leader came to %q", gap.at)
		}
		if gap.how == "kill" {
			c.Kill(victim)
		} else {
			c.Cut(victim)
		}
		others := make([]*clustertest.Node, 0, 2)
		for _, n := range c.Nodes {
			if n != victim {
				others = append(others, n)
			}
		}
		finished := func(n *clustertest.Node) bool {
			h := n.Store().RotationHistory("ml", path)
			return len(h) == 1 && h[0].State == fsm.RotationRetired
		}
		c.Await("the rotation to finish without "+victim.ID, func() bool { return finished(others[0]) && finished(others[1]) })
		c.Restart(victim)
		c.Await("all to know it", func() bool { return finished(victim) && w.leads() })
		head, _ := c.Leader().Store().Secret("ml", path)
		user, password := w.value(path, "username"), w.value(path, "password")
		if err := pg.Login(user, password); err != nil || head.Current != 2 || head.Next != 3 || head.Rotating {
			t.Errorf("%s: the current value of %+v: %v", gap.at, head, err)
		}
		if err := pg.Login(role, "first"); err == nil {
			t.Errorf("%s: the old value still logs in", gap.at)
		}
	}
}

// clusterWorld makes records in a real cluster as its API does.
type clusterWorld struct {
	*clustertest.Cluster
	t testing.TB
}

func inCluster(t testing.TB, c *clustertest.Cluster) *clusterWorld {
	t.Helper()
	w := &clusterWorld{c, t}
	keys := w.keys()
	key, err := keys.Generate(keyring.Vault("ml"), 1)
	if err != nil {
		t.Fatal(err)
	}
	v := fsm.Vault{Name: "ml", Generation: 1}
	v.MAC = w.mac(v)
	w.must(fsm.KindVaultCreate, &fsm.VaultCreate{Vault: v, Key: fsm.WrappedKey{
		Purpose: key.Purpose, Generation: 1, RootGeneration: key.RootGeneration, Ciphertext: key.Ciphertext,
	}})
	return w
}

// leads says whether somebody leads that is unsealed.
func (w *clusterWorld) leads() bool {
	_, err := w.Leader().Keyring()
	return err == nil
}

func (w *clusterWorld) keys() *keyring.Keyring {
	w.t.Helper()
	var keys *keyring.Keyring
	w.Await("an unsealed leader", func() bool {
		var err error
		keys, err = w.Leader().Keyring()
		return err == nil
	})
	return keys
}

func (w *clusterWorld) mac(record fsm.MACed) []byte {
	w.t.Helper()
	cl, _ := w.Leader().Store().Cluster()
	mac, err := w.keys().MAC(cl.MACGeneration, record.MACDomain(), record.MACBody())
	if err != nil {
		w.t.Fatal(err)
	}
	return mac
}

func (w *clusterWorld) must(kind fsm.Kind, body any) {
	w.t.Helper()
	w.Must(fsm.Command{
		Kind: kind, Principal: "user/test", Body: fsm.EncodeBody(kind, body),
		Audits: []fsm.Audit{{Action: "test", Resource: "ml", Decision: fsm.Allowed}},
	})
}

func (w *clusterWorld) bind(path string, version uint32) envelope.Bind {
	return envelope.Bind{Cluster: w.ID, Vault: "ml", Path: path, Version: uint64(version)}
}

func (w *clusterWorld) sealed(path string, version uint32, v target.Value) *fsm.SecretPut {
	w.t.Helper()
	vault, _ := w.Leader().Store().Vault("ml")
	sealed, err := envelope.SealValue(w.keys(), w.bind(path, version), vault.Generation, v)
	if err != nil {
		w.t.Fatal(err)
	}
	return &fsm.SecretPut{Vault: "ml", Path: path, Version: version, CAS: -1, Data: fsm.SealedValue(sealed)}
}

func (w *clusterWorld) schedule(path string, options []fsm.RotationOption) *fsm.RotationSet {
	r := fsm.Rotation{
		Vault: "ml", Path: path, Target: "postgresql", Options: options, Every: 86_400_000, Grace: 200, By: "user/test",
		NextRun: time.Now().UnixMilli(),
	}
	r.MAC = w.mac(r)
	return &fsm.RotationSet{Rotation: r}
}

func (w *clusterWorld) value(path, field string) string {
	w.t.Helper()
	store := w.Leader().Store()
	head, _ := store.Secret("ml", path)
	data, ok := store.VersionData("ml", path, head.Current)
	if !ok {
		w.t.Fatalf("%s has no current version", path)
	}
	v, err := envelope.OpenValue(w.keys(), w.bind(path, head.Current), envelope.Sealed(data.Data))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(v[field].Reveal())
}
