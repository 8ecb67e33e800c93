package fsm_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// A node that stops does not pull the database from under a reader: Pebble would panic, and a process that ended well
// would look like one that crashed.
func TestCloseWaitsForReaders(t *testing.T) {
	t.Parallel()
	s, err := fsm.Open(fsm.Options{Dir: "state", FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Builder: &fsmtest.Builder{}, t: t, s: s}
	w.ok(w.Genesis(), w.Enrol("alice", "t"), w.Vault("ml"))
	closed := make(chan error, 1)
	seen := 0
	for _, err := range s.AuditRecords(0, s.AuditSize()) {
		if err != nil {
			t.Fatal(err)
		}
		if seen++; seen > 1 {
			continue
		}
		changed := s.Changed()
		go func() { closed <- s.Close() }()
		<-changed // it has begun
		if _, ok := s.Vault("ml"); ok && len(s.Members()) > 0 {
			t.Error("a read that begins now is answered")
		}
	}
	if err := <-closed; err != nil || seen != 3 {
		t.Errorf("%d records were read, and then: %v", seen, err)
	}
	if got := s.Members(); len(got) != 0 {
		t.Errorf("a closed store has members: %+v", got)
	}
}
