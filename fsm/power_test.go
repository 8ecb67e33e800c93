package fsm_test

import (
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
