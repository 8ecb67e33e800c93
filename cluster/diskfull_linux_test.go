package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/crypto/seal/software"
	"github.com/hizo/hizo/fsm"
)

const inNamespace = "HIZO_TEST_DISK_NAMESPACE"

// TestDiskFull fills real file systems, one for each node. It runs in a process of its own, which may mount them.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if os.Getenv(inNamespace) != "" {
		testDiskFull(t)
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestDiskFull$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSPC) || strings.Contains(string(out), "--- SKIP") {
		t.Skipf("no file systems can be mounted here: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// small is a node's file system, of which a sixteenth of a GiB is all there is.
const small = "size=72m"

func testDiskFull(t *testing.T) {
	mounted := map[string]string{}
	_ = t.TempDir() // what it holds is removed after the following
	t.Cleanup(func() {
		for _, data := range mounted {
			_ = syscall.Unmount(data, syscall.MNT_DETACH)
		}
	})
	c := clustertest.Start(t, clustertest.Options{
		DiskReserve: 16 << 20, CheckpointEvery: time.Hour, SnapshotBytes: 8 << 20,
		OpenSeal: func(t testing.TB, dir, id string) seal.Seal {
			if mounted[id] == "" {
				data := filepath.Join(dir, "data")
				if err := os.MkdirAll(data, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := syscall.Mount("tmpfs", data, "tmpfs", 0, small); err != nil {
					t.Skipf("mount: %v", err)
				}
				mounted[id] = data
			}
			s, err := software.Open(filepath.Join(dir, "seal"))
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
	})
	w := &diskWriter{c: c, acked: map[string]bool{}, wrote: make(chan struct{}, 1)}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.run(ctx) })
	defer wg.Wait()
	defer stop()
	w.progress(t, 20)

	fill := func(n *clustertest.Node) (empty func()) {
		path := filepath.Join(mounted[n.ID], "somebody-elses")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		block := make([]byte, 1<<20)
		for err == nil { // until nothing is left at all
			_, err = f.Write(block)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		return func() {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}

	// The leader's disk: another one leads, and writes go on.
	first := c.Leader()
	empty := []func(){fill(first)}
	c.Await("another node leads", func() bool { return !first.IsLeader() && c.Leader() != first })
	if s := first.Status().Disk; !s.Low {
		t.Errorf("a full disk is not called low: %+v", s)
	}
	w.progress(t, 50)

	// It follows while its reserve lasts, then stops, and acknowledges nothing that it has not stored.
	w.size.Store(128 << 10) // tens of MiB a second on this file system
	c.Await("the full node stops", func() bool { return first.Status().Disk.Full })
	w.progress(t, 20)
	if first.IsLeader() {
		t.Error("a node whose disk is full leads")
	}
	w.size.Store(100)

	// All of them: refused in so many words.
	for _, n := range c.Nodes {
		if n != first {
			empty = append(empty, fill(n))
		}
	}
	c.Await("records are refused", func() bool { return w.refused() })
	before := w.count()
	if r, err := c.Leader().Propose(t.Context(), record("full")); !errors.Is(err, cluster.ErrDiskFull) {
		t.Errorf("a record on a full cluster: %+v, %v", r, err)
	}
	if w.count() != before {
		t.Error("records are acknowledged on a full cluster")
	}

	// One after the other gets room.
	for _, e := range empty {
		e()
	}
	w.progress(t, 50)
	for _, n := range c.Nodes {
		c.Await(n.ID+" has room", func() bool { s := n.Status().Disk; return !s.Low && !s.Full })
	}
	stop()
	wg.Wait()
	last := c.Leader().Store().Position().Index
	for _, n := range c.Nodes {
		c.Await(n.ID+" has caught up", func() bool { return n.Store().Position().Index >= last })
		w.check(t, n)
	}
	t.Logf("%d records were acknowledged", w.count())
}

// diskWriter writes records one after the other and remembers which were acknowledged.
type diskWriter struct {
	c     *clustertest.Cluster
	size  atomic.Int64
	wrote chan struct{}

	mu    sync.Mutex
	acked map[string]bool
	err   error // of the last try
}

func (w *diskWriter) run(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		name := fmt.Sprintf("record-%d", i)
		var leader *clustertest.Node
		for _, n := range w.c.Nodes {
			if n.IsLeader() {
				leader = n
			}
		}
		err := error(&cluster.NotLeaderError{})
		if leader != nil {
			cmd := record("write")
			cmd.Audits[0].Resource, cmd.Audits[0].Sealed = name, make([]byte, w.size.Load())
			within, cancel := context.WithTimeout(ctx, 5*time.Second)
			var r fsm.Result
			r, err = leader.Propose(within, cmd)
			cancel()
			if err == nil && r.Code != fsm.CodeOK {
				err = fmt.Errorf("code %d", r.Code)
			}
		}
		w.mu.Lock()
		if w.err = err; err == nil {
			w.acked[name] = true
		}
		w.mu.Unlock()
		if err == nil {
			select {
			case w.wrote <- struct{}{}:
			default:
			}
			continue
		}
		select {
		case <-time.After(10 * time.Millisecond): // somebody may lead by then, or have room
		case <-ctx.Done():
		}
	}
}

func (w *diskWriter) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

func (w *diskWriter) refused() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Is(w.err, cluster.ErrDiskFull)
}

// progress waits for that many more acknowledged records.
func (w *diskWriter) progress(t *testing.T, more int) {
	t.Helper()
	want := w.count() + more
	deadline := time.After(clustertest.Patience)
	for w.count() < want {
		select {
		case <-w.wrote:
		case <-deadline:
			w.mu.Lock()
			defer w.mu.Unlock()
			t.Fatalf("%d of %d records, the last try: %v", len(w.acked), want, w.err)
		}
	}
}

// check demands every acknowledged record of a node, once.
func (w *diskWriter) check(t *testing.T, n *clustertest.Node) {
	t.Helper()
	seen := map[string]int{}
	for r, err := range n.Store().AuditRecords(0, n.Store().AuditSize()) {
		if err != nil {
			t.Fatalf("%s: %v", n.ID, err)
		}
		seen[r.Resource]++
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range w.acked {
		if seen[name] != 1 {
			t.Errorf("%s has %s %d times", n.ID, name, seen[name])
		}
	}
}
