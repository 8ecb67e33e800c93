package cluster

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"github.com/hizo/hizo/crypto/seal/software"
	"github.com/hizo/hizo/fsm"
)

func TestKnownMembers(t *testing.T) {
	dir := t.TempDir()
	s, err := software.Open(filepath.Join(dir, "seal"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	open := func() *knownMembers { return &knownMembers{path: filepath.Join(dir, "members"), seal: s} }
	k, ctx := open(), t.Context()
	cl := fsm.Cluster{ID: [16]byte{1}, NodeEpoch: 7}
	n1 := fsm.Member{ID: "n1", Key: []byte("key of n1")}
	check := func(what string, want bool, epoch uint64, m fsm.Member) {
		t.Helper()
		for _, k := range []*knownMembers{k, open()} { // in memory, and after a restart
			if err := k.allows(ctx, cl.ID, epoch, m); (err == nil) != want || err != nil && !errors.Is(err, ErrNotAllowed) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	check("without a file", false, 7, n1)

	list := []knownMember{{ID: "n1", Key: n1.Key, Approved: true}, {ID: "n2", Key: []byte("2")}, {ID: "n3", Key: []byte("3"), Approved: true, Quarantined: true}}
	if err := k.dealt(ctx, cl, 7, list); err != nil {
		t.Fatal(err)
	}
	check("named by the dealer", true, 7, n1)
	check("of another deal", false, 8, n1)
	check("another key", false, 7, fsm.Member{ID: "n1", Key: []byte("other")})
	check("not approved", false, 7, fsm.Member{ID: "n2", Key: []byte("2")})
	check("quarantined", false, 7, fsm.Member{ID: "n3", Key: []byte("3")})
	cl.NodeEpoch, cl.RetiredBelow = 9, 9
	if err := k.dealt(ctx, cl, 9, list); err != nil {
		t.Fatal(err)
	}
	check("of the current deal", true, 9, n1)
	check("of a retired deal", false, 7, n1)
	if err := k.store(ctx, knownFile{Cluster: bytes.Clone(cl.ID[:]), Members: list}); err != nil {
		t.Fatal(err)
	}
	check("verified", true, 12, n1)
	cl.ID = [16]byte{2}
	check("of another cluster", false, 12, n1)
}

// One member cannot use up the call keys of the others.
func TestCallKeysOfEachMember(t *testing.T) {
	var c callKeys
	var ids [][]byte
	for range maxCallKeys {
		id, _, err := c.make("a")
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if _, _, err := c.make("a"); !errors.Is(err, ErrOverloaded) {
		t.Errorf("one more key: %v", err)
	}
	if _, _, err := c.make("b"); err != nil {
		t.Errorf("another member's key: %v", err)
	}
	if _, err := c.take(ids[0], "b"); !errors.Is(err, errCallKey) {
		t.Errorf("another member took a key: %v", err)
	}
	if _, err := c.take(ids[0], "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.take(ids[0], "a"); !errors.Is(err, errCallKey) {
		t.Errorf("a key was taken twice: %v", err)
	}
	if _, _, err := c.make("a"); err != nil {
		t.Errorf("a key after one was used: %v", err)
	}
}
