package main

import (
	"context"
	"encoding/hex"
	"flag"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/audit"
	"github.com/hizo/hizo/api/bootstrap"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/cluster/lease"
	"github.com/hizo/hizo/cluster/rotate"
	"github.com/hizo/hizo/cluster/rotate/servertest"
	"github.com/hizo/hizo/cluster/rotate/target"
)

var update = flag.Bool("update", false, "write golden files and the expectations of scripts anew")

func TestMain(m *testing.M) {
	// hizo is a process of its own in scripts, and wherever a test starts this binary by that name.
	testscript.Main(m, map[string]func(){"hizo": main})
}

// Scripts that need no cluster.
func TestLocalScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/local", UpdateScripts: *update, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Vars = append(env.Vars, quickRace)
			return nil
		},
	})
}

// Scripts against three real nodes. They share the cluster and use vaults and users of their own, named after
// the script in $NAME. Each begins with the tokens of an engineer and of a workload that may have everything in
// the vault $NAME injected.
func TestClusterScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	backups := t.TempDir()
	rotations := rotate.New(rotate.Config{Targets: map[string]target.Target{"generated": target.NewGenerated()}})
	c := apitest.Start(t, apitest.Options{
		Options: clustertest.Options{Duties: func(string) []cluster.Duty { return []cluster.Duty{rotations.Duty} }},
		Configure: func(conf *api.Config) {
			conf.Rotations = rotations
			keepBackups(t, backups, conf)
		},
		Leases: func(string) *lease.Engine {
			return lease.New(lease.Config{Users: map[string]target.Users{"postgresql": target.NewPostgresUsers()}})
		},
	})
	t.Run("scripts", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir: "testdata/cluster", UpdateScripts: *update, RequireUniqueNames: true, Cmds: awaiting(c),
			Setup: func(env *testscript.Env) error {
				env.Setenv("BACKUPS", backups)
				return connectScript(c, env)
			},
		})
	})
	t.Run("federation", func(t *testing.T) { // one after the other: a cluster knows an issuer once
		f := newFederation(t, c)
		testscript.Run(t, testscript.Params{
			Dir: "testdata/federation", UpdateScripts: *update, RequireUniqueNames: true,
			Setup: func(env *testscript.Env) error {
				env.Vars = append(env.Vars, f.environ(t, env.WorkDir)...)
				return connectScript(c, env)
			},
		})
		t.Run("guide", func(t *testing.T) { testGuide(t, c, f, "../../docs/guides/github-kubernetes.md") })
	})
	t.Run("leases", func(t *testing.T) {
		pg := servertest.StartPostgres(t)
		testscript.Run(t, testscript.Params{
			Dir: "testdata/leases", UpdateScripts: *update, RequireUniqueNames: true, Cmds: awaiting(c),
			Setup: func(env *testscript.Env) error { return leaseScript(c, pg, env) },
		})
	})
	t.Run("terminal", func(t *testing.T) { testTerminal(t, c) })
}

// The life of a cluster's first node, from its bootstrap file to being sealed and unsealed.
func TestInitScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a node")
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/init", UpdateScripts: *update, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Vars = append(env.Vars, quickRace)
			return startNode(env.T().(testing.TB), env)
		},
	})
}

// startNode starts one uninitialised node and writes its bootstrap file, as hizod server does.
func startNode(t testing.TB, env *testscript.Env) error {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	addr := lis.Addr().String()
	c := clustertest.New(t, clustertest.Options{Nodes: 1, ClientAddr: func(string) string { return addr }})
	key := c.Nodes[0].Key()
	boot := bootstrap.File{Node: c.Nodes[0].ID, Address: addr, KeySHA256: hex.EncodeToString(key[:]), Token: bootstrap.NewToken()}
	server, err := api.NewServer(api.Config{Node: c.Nodes[0].Node, BootstrapToken: boot.Token, Passwords: apitest.FastPasswords, Version: "test"})
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	env.Defer(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // at once
		_ = server.Shutdown(ctx)
		<-served
	})
	if err := boot.Write(filepath.Join(env.WorkDir, "bootstrap")); err != nil {
		return err
	}
	boot.KeySHA256 = strings.Repeat("0", 64)
	env.Setenv("NODE", addr)
	return boot.Write(filepath.Join(env.WorkDir, "other-node"))
}

func connectScript(c *apitest.Cluster, env *testscript.Env) error {
	name := strings.TrimPrefix(filepath.Base(env.WorkDir), "script-")
	env.Setenv("HOME", env.WorkDir)
	env.Vars = append(env.Vars, quickRace)
	env.Setenv("NAME", name)
	env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, ".config"))
	env.Setenv("HIZO_ADDRS", strings.Join(c.Addrs(), ","))
	env.Setenv("HIZO_CACERT", filepath.Join(env.WorkDir, "ca.pem"))
	env.Setenv("HIZO_TOKEN_FILE", filepath.Join(env.WorkDir, "engineer"))
	env.Setenv("PASSWORD", apitest.Password)
	train := "train-" + name
	ctx := c.T.Context()
	if _, err := c.Engineer.Identities().CreateWorkload(ctx, &hizov1.CreateWorkloadRequest{Name: train}); err != nil {
		return err
	}
	id, err := c.Engineer.Identities().CreateSecretID(ctx, &hizov1.CreateSecretIDRequest{Workload: train})
	if err != nil {
		return err
	}
	login, err := c.Client().Auth().LoginWorkload(ctx, &hizov1.LoginWorkloadRequest{
		Workload: train, SecretId: id.GetSecretId(), ClientKey: apitest.ClientKey(),
	})
	if err != nil {
		return err
	}
	policy := `permit (principal == Hizo::Workload::"` + train + `", action == Hizo::Action::"inject", resource in Hizo::Vault::"` + name + `");
`
	leader := c.Leader()
	genesis, err := leader.Store().AuditLeaf(0)
	if err != nil {
		return err
	}
	trust := audit.Trust{Cluster: inject.ClusterText(leader.Status().ClusterID), Genesis: audit.LeafHash(genesis)}
	for file, content := range map[string]string{
		"trust":  trust.String() + "\n",
		"ca.pem": string(c.CA), "engineer": c.Engineer.Token, "workload": login.GetToken(), "train.cedar": policy,
	} {
		if err := os.WriteFile(filepath.Join(env.WorkDir, file), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// leaseScript gives a script a PostgreSQL server: its port in $PGPORT, its CA in ca-pg.pem, its administrator's name and
// password in files.
func leaseScript(c *apitest.Cluster, pg *servertest.Postgres, env *testscript.Env) error {
	if err := connectScript(c, env); err != nil {
		return err
	}
	env.Setenv("PGPORT", strconv.Itoa(pg.Port))
	name := env.Getenv("NAME")
	policy := `permit (principal == Hizo::Workload::"train-` + name + `", action == Hizo::Action::"lease", resource == Hizo::LeaseRole::"` + name + `/db");
`
	for file, content := range map[string]string{"lease.cedar": policy, "ca-pg.pem": pg.CA, "pg-user": pg.User, "pg-password": pg.Password} {
		if err := os.WriteFile(filepath.Join(env.WorkDir, file), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}
