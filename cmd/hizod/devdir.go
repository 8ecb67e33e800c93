package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// devDir is the directory of a development cluster:
//
//	hizo-dev.json          what is in it; also the mark by which it is known
//	lock                   held by the hizod that runs it
//	env                    for shells; there while the cluster is up
//	ca.pem  trust          the cluster's CA and genesis fingerprint
//	admin.password         of the first SecurityEngineer, mode 0600
//	admin.token            a login of theirs, renewed while the cluster is up, mode 0600
//	operators/<i>.key      age identity of operator i;  <i>.share: their share, encrypted to it
//	backups/               what `hizo backup create` makes
//	nodes/<i>/config.yaml  for `hizod server`
//	nodes/<i>/data/        the node's data directory
//	nodes/<i>/hsm/         its SoftHSM2 token and PIN
//	nodes/<i>/join-token   how it joined (used up)
//	nodes/<i>/log  pid     pid only while it runs
//
// hizo-dev.json says Ready once the setup is through. A directory without that holds nothing that anybody
// was ever given access to, so an interrupted setup starts over.
type devDir struct {
	root  string // absolute
	shown string // as the user would write it
	plan  devPlan
	lock  *os.File
}

// devPlan is hizo-dev.json.
type devPlan struct {
	Format int         `json:"format"`
	Ready  bool        `json:"ready"`
	HSM    string      `json:"hsm"` // softhsm or software
	Nodes  []devMember `json:"nodes"`
}

const devFormat = 1

// devMember is one node's name and addresses. They stay, because the cluster's membership holds them.
type devMember struct {
	Number  int    `json:"number"`
	Name    string `json:"name"`
	Clients string `json:"clients"`
	Peers   string `json:"peers"`
	Gossip  string `json:"gossip"`
}

// errForeignDir says that a directory holds something that is not ours.
var errForeignDir = errors.New("it holds something else; name a directory that is empty or does not exist, for example --dir ./hizo-dev")

func openDevDir(cmd *devCmd, out *devReport) (_ *devDir, err error) {
	if cmd.Nodes < 0 || cmd.Nodes > maxDevNodes {
		return nil, fmt.Errorf("--nodes %d: 1 to %d nodes can be started", cmd.Nodes, maxDevNodes)
	}
	root, err := filepath.Abs(cmd.Dir)
	if err != nil {
		return nil, err
	}
	d := &devDir{root: root, shown: shownPath(root)}
	entries, err := os.ReadDir(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(root, 0o700); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case len(entries) > 0 && !isDevDir(entries):
		return nil, fmt.Errorf("%s: %w", d.shown, errForeignDir)
	}
	if d.lock, err = lockFile(d.path("lock")); err != nil {
		return nil, fmt.Errorf("%s: %w", d.shown, err)
	}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if err := d.readPlan(); err != nil {
		return nil, err
	}
	// Left by a run that was killed; a script that waits for it must not take it for ours.
	if err := removeFile(d.path("env")); err != nil {
		return nil, err
	}
	if d.plan.Ready {
		return d, d.agree(cmd)
	}
	if d.plan.Format != 0 {
		out.step("the setup of this cluster was interrupted; starting over")
	}
	return d, d.create(cmd, out)
}

// Close gives the directory free. The lock file stays: removing it would race with the next holder.
func (d *devDir) Close() { d.lock.Close() }

func (d *devDir) path(elem ...string) string {
	return filepath.Join(append([]string{d.root}, elem...)...)
}

func (d *devDir) node(i int) string { return d.path("nodes", strconv.Itoa(d.plan.Nodes[i].Number)) }

// isDevDir knows our directory by its description, or, before there is one, by the lock alone.
func isDevDir(entries []fs.DirEntry) bool {
	for _, e := range entries {
		if e.Name() == "hizo-dev.json" {
			return true
		}
	}
	return len(entries) == 1 && entries[0].Name() == "lock"
}

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.New("another `hizod dev` runs the cluster in this directory; stop it first, or use another --dir")
		}
		return nil, fmt.Errorf("lock: %w", err)
	}
	return f, nil
}

func (d *devDir) readPlan() error {
	data, err := os.ReadFile(d.path("hizo-dev.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d.plan); err != nil || d.plan.Format != devFormat || len(d.plan.Nodes) == 0 {
		return fmt.Errorf("%s was not written by this version of hizod dev; use another --dir", filepath.Join(d.shown, "hizo-dev.json"))
	}
	return nil
}

func (d *devDir) writePlan() error {
	data, err := json.MarshalIndent(d.plan, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(d.path("hizo-dev.json"), append(data, '\n'))
}

// agree checks what was asked for against what is there.
func (d *devDir) agree(cmd *devCmd) error {
	if cmd.Nodes != 0 && cmd.Nodes != len(d.plan.Nodes) {
		return fmt.Errorf("%s holds a cluster of %d nodes, not of %d; use another --dir", d.shown, len(d.plan.Nodes), cmd.Nodes)
	}
	if cmd.HSM != "auto" && cmd.HSM != d.plan.HSM {
		return fmt.Errorf("%s holds a cluster with --hsm %s, not %s; use another --dir", d.shown, d.plan.HSM, cmd.HSM)
	}
	return nil
}

// create removes what an interrupted setup left and plans a cluster.
func (d *devDir) create(cmd *devCmd, out *devReport) error {
	for _, name := range []string{"nodes", "operators", "ca.pem", "trust", "admin.password", "admin.token", "env"} {
		if err := os.RemoveAll(d.path(name)); err != nil {
			return err
		}
	}
	kind, err := chooseHSM(cmd.HSM, out)
	if err != nil {
		return err
	}
	count := cmd.Nodes
	if count == 0 {
		count = 3
	}
	if d.plan, err = newDevPlan(count, kind); err != nil {
		return err
	}
	for i := range d.plan.Nodes {
		if err := os.MkdirAll(filepath.Join(d.node(i), "data"), 0o700); err != nil {
			return err
		}
	}
	if err := writeFile(d.path(".gitignore"), []byte("*\n")); err != nil { // it holds every key of the cluster
		return err
	}
	return d.writePlan()
}

func newDevPlan(count int, kind string) (devPlan, error) {
	ports, err := freePorts(3 * count)
	if err != nil {
		return devPlan{}, err
	}
	addr := func(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[i])) }
	plan := devPlan{Format: devFormat, HSM: kind}
	for i := range count {
		plan.Nodes = append(plan.Nodes, devMember{
			Number: i + 1, Name: fmt.Sprintf("n%d", i+1),
			Clients: addr(3 * i), Peers: addr(3*i + 1), Gossip: addr(3*i + 2),
		})
	}
	return plan, nil
}

// freePorts finds n ports in a row that are free on loopback. They lie below the range that Linux takes outgoing
// connections' ports from (32768 and up), so that they are still free when the cluster is started again.
func freePorts(n int) ([]int, error) {
	for range 200 {
		base := 10000 + rand.IntN(32000-10000-n)
		ports := make([]int, 0, n)
		for p := base; p < base+n && portFree(p); p++ {
			ports = append(ports, p)
		}
		if len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("found no %d free ports in a row on 127.0.0.1", n)
}

// portFree tries TCP and UDP: gossip uses both.
func portFree(port int) bool {
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	tcp.Close()
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	udp.Close()
	return true
}

// shownPath is relative where that is shorter.
func shownPath(root string) string {
	cwd, err := os.Getwd()
	if err != nil {
		return root
	}
	rel, err := filepath.Rel(cwd, root)
	if err != nil || len(rel) >= len(root) || strings.HasPrefix(rel, "..") {
		return root
	}
	return rel
}

// writeFile replaces a file in one step, mode 0600.
func writeFile(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
