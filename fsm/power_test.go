package fsm_test

import (
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// When all nodes lose power at once, each has to know the others' keys from its own disk: it learns what is
// committed only from them.
func TestMembershipSurvivesPowerLossWithoutTheLog(t *testing.T) {
	disk := vfs.NewCrashableMem()
	s, err := fsm.Open(fsm.Options{Dir: "state", FS: disk})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Builder: &fsmtest.Builder{}, t: t, s: s}
	w.ok(w.Genesis(), w.Enrol("alice", "t"))
	w.ok(w.joinToken("n2"))
	w.ok(w.join("n2", nil))
	w.ok(w.approve("n2"))
	w.ok(w.tick())

	after, err := fsm.Open(fsm.Options{Dir: "state", FS: disk.CrashClone(vfs.CrashCloneCfg{})})
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	defer s.Close()
	if _, ok := after.Cluster(); !ok {
		t.Error("the cluster's record is gone")
	}
	if m, ok := after.Member("n2"); !ok || !m.Approved {
		t.Errorf("member n2 after the power loss: %+v, %v", m, ok)
	}
}

// A flush that fails stops the node: its entries are in memory only, and a second try may find pages that the kernel
// has given up.
func TestFailedFlushHalts(t *testing.T) {
	met, first := 0, ""
	for n := 1; ; n++ {
		halted := make(chan error, 16)
		die := func(err error) {
			halted <- err
			select {} // as a process that has ended
		}
		fs := &faultFS{FS: vfs.NewMem(), die: die}
		s, err := fsm.Open(fsm.Options{Dir: "state", FS: fs, Halt: die})
		if err != nil {
			t.Fatal(err)
		}
		w := &world{Builder: &fsmtest.Builder{}, t: t, s: s}
		w.ok(w.Genesis(), w.Enrol("alice", "t")) // members are flushed at once
		w.ok(w.Vault("ml"))
		fs.arm(n, false)
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		var why error
		select {
		case why = <-halted:
		case <-closed:
			select {
			case why = <-halted:
			default:
			}
		}
		hit := fs.disarm()
		if hit == "" {
			break
		}
		// The first table is the flush's; another one is a compaction's, which may be tried again.
		if _, table, _ := strings.Cut(hit, " "); strings.HasSuffix(table, ".sst") && (first == "" || table == first) {
			first = table
			met++
			if why == nil || !strings.Contains(why.Error(), "flush failed") {
				t.Errorf("a fault at %d, %s: %v", n, hit, why)
			}
		}
		if n > 200 {
			t.Fatal("no end")
		}
	}
	if met < 3 { // made, written, synced
		t.Errorf("%d faults met", met)
	}
}
