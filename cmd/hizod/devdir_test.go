package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// quiet is a report that nobody reads.
func quiet(t *testing.T) *devReport {
	f, err := os.Create(filepath.Join(t.TempDir(), "report"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return newDevReport(f)
}

func TestDevDirRefusesWhatIsNotItsOwn(t *testing.T) {
	root := t.TempDir()
	precious := filepath.Join(root, "thesis.tex")
	if err := os.WriteFile(precious, []byte("42"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openDevDir(&devCmd{Dir: root, HSM: "software"}, quiet(t)); !errors.Is(err, errForeignDir) {
		t.Fatalf("got %v, want errForeignDir", err)
	}
	entries, err := os.ReadDir(root)
	if err != nil || len(entries) != 1 {
		t.Fatalf("the directory was touched: %v, %v", entries, err)
	}
	if _, err := openDevDir(&devCmd{Dir: precious, HSM: "software"}, quiet(t)); err == nil {
		t.Fatal("a file was taken for a directory")
	}
}

func TestDevDirPlans(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a", "b")
	d, err := openDevDir(&devCmd{Dir: root, HSM: "software"}, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	st, err := os.Stat(root)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o700 {
		t.Errorf("directory has mode %v, want 0700", st.Mode().Perm())
	}
	if len(d.plan.Nodes) != 3 {
		t.Fatalf("%d nodes by default, want 3", len(d.plan.Nodes))
	}
	seen := map[string]bool{}
	for _, n := range d.plan.Nodes {
		for _, addr := range []string{n.Clients, n.Peers, n.Gossip} {
			host, _, err := net.SplitHostPort(addr)
			if err != nil || host != "127.0.0.1" || seen[addr] {
				t.Errorf("address %q: not loopback, or twice", addr)
			}
			seen[addr] = true
		}
	}
	if _, err := openDevDir(&devCmd{Dir: root, HSM: "software"}, quiet(t)); err == nil || !strings.Contains(err.Error(), "another") {
		t.Errorf("a second hizod dev on one directory: got %v", err)
	}
}

func TestDevDirStartsOverUntilReady(t *testing.T) {
	root := t.TempDir()
	reopen := func(cmd devCmd) (*devDir, error) {
		cmd.Dir = root
		d, err := openDevDir(&cmd, quiet(t))
		if err == nil {
			d.Close()
		}
		return d, err
	}
	d, err := reopen(devCmd{Nodes: 3, HSM: "software"})
	if err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(d.node(0), "data", "left")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}

	// Interrupted: nothing of it stays, and another shape may be chosen.
	if d, err = reopen(devCmd{Nodes: 2, HSM: "software"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an interrupted setup was kept: %v", err)
	}
	if len(d.plan.Nodes) != 2 {
		t.Errorf("%d nodes, want 2", len(d.plan.Nodes))
	}

	// Ready: everything stays.
	d.plan.Ready = true
	if err := d.writePlan(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	env := filepath.Join(root, "env")
	if err := os.WriteFile(env, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := reopen(devCmd{HSM: "auto"})
	if err != nil {
		t.Fatal(err)
	}
	if len(again.plan.Nodes) != 2 || again.plan.Nodes[0] != d.plan.Nodes[0] {
		t.Errorf("plan changed from %+v to %+v", d.plan, again.plan)
	}
	if _, err := os.Stat(left); err != nil {
		t.Errorf("a ready cluster lost data: %v", err)
	}
	if _, err := os.Stat(env); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the environment of a killed run is still there: %v", err)
	}
	for _, tt := range []struct {
		cmd  devCmd
		want string
	}{
		{devCmd{Nodes: 3, HSM: "auto"}, "a cluster of 2 nodes, not of 3"},
		{devCmd{HSM: "softhsm"}, "--hsm software, not softhsm"},
		{devCmd{Nodes: 10, HSM: "auto"}, "1 to 9"},
		{devCmd{Nodes: -1, HSM: "auto"}, "1 to 9"},
	} {
		if _, err := reopen(tt.cmd); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want an error with %q", tt.cmd, err, tt.want)
		}
	}

	if err := os.WriteFile(filepath.Join(root, "hizo-dev.json"), []byte(`{"format":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := reopen(devCmd{HSM: "auto"}); err == nil || !strings.Contains(err.Error(), "this version") {
		t.Errorf("a description of another format: got %v", err)
	}
}

func TestDevPortsAreFree(t *testing.T) {
	ports, err := freePorts(9)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ports {
		if p >= 32768 {
			t.Errorf("port %d lies in the range of outgoing connections", p)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if portFree(l.Addr().(*net.TCPAddr).Port) {
		t.Error("a port with a TCP listener was called free")
	}
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if portFree(u.LocalAddr().(*net.UDPAddr).Port) {
		t.Error("a port with a UDP listener was called free")
	}
}
