package fsm

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/mod/sumdb/tlog"
)

// tx is one entry being applied: the committed state below, what this entry's earlier records changed above it, and
// what the record being decided would change on top.
type tx struct {
	s           *Store
	index, term uint64
	proposed    int64 // the entry's own time
	time        int64 // cluster time
	clock       bool  // the entry's time is too far ahead

	overlay map[string]object // nil object: deleted
	order   []string          // names of overlay, oldest first: map order must not reach the disk
	staged  []staged

	events, stagedEvents []Event // of the entry, and of the record being decided

	batch  *pebble.Batch
	size   uint64
	edge   edge
	leaf   []byte // scratch
	hashes []byte // scratch
	due    due
}

type staged struct {
	name   string
	object object
}

func newTx(s *Store, index, term uint64) *tx {
	return &tx{s: s, index: index, term: term, time: s.time, batch: s.db.NewBatch(), size: s.size, edge: s.edge}
}

func (t *tx) lookup(name string) object {
	for i := len(t.staged) - 1; i >= 0; i-- {
		if t.staged[i].name == name {
			return t.staged[i].object
		}
	}
	if o, ok := t.overlay[name]; ok {
		return o
	}
	return t.s.lookup(name)
}

// put stages an object. It must not be changed afterwards.
func (t *tx) put(name string, o object) { t.staged = append(t.staged, staged{name, o}) }

func (t *tx) del(name string) { t.staged = append(t.staged, staged{name: name}) }

// accept makes what the record staged visible to the records after it.
func (t *tx) accept() {
	for _, w := range t.staged {
		if t.overlay == nil {
			t.overlay = make(map[string]object)
		}
		if _, again := t.overlay[w.name]; !again {
			t.order = append(t.order, w.name)
		}
		t.overlay[w.name] = w.object
	}
	t.events = append(t.events, t.stagedEvents...)
	t.reject()
}

// reject forgets what the record staged.
func (t *tx) reject() {
	clear(t.staged)
	t.staged = t.staged[:0]
	t.stagedEvents = t.stagedEvents[:0]
}

// scan visits the objects whose names begin with prefix in order of names, this entry's changes included. It is for
// rare commands.
func (t *tx) scan(prefix string, visit func(name string, o object) bool) {
	found := map[string]object{}
	t.s.scan(prefix, "", func(name string, o object) bool {
		found[name] = o
		return true
	})
	over := func(name string, o object) {
		if len(name) >= len(prefix) && name[:len(prefix)] == prefix {
			if o == nil {
				delete(found, name)
			} else {
				found[name] = o
			}
		}
	}
	for _, name := range t.order {
		over(name, t.overlay[name])
	}
	for _, w := range t.staged {
		over(w.name, w.object)
	}
	names := make([]string, 0, len(found))
	for name := range found {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if !visit(name, found[name]) {
			return
		}
	}
}

// audit appends one leaf per audit of the command.
func (t *tx) audit(cmd *Command, out *outcome) {
	for i := range cmd.Audits {
		a := &cmd.Audits[i]
		r := AuditRecord{
			Seq: t.size, Index: t.index, Time: t.time, Principal: cmd.Principal,
			Action: a.Action, Resource: a.Resource, Decision: a.Decision, Policies: a.Policies,
			Outcome: out.Code, Detail: a.Detail, Count: max(a.Count, 1),
			Generation: a.Generation, Sealed: a.Sealed,
		}
		if a.Decision != Allowed && out.Code == CodeOK {
			r.Outcome = CodeDenied
		}
		if i < len(out.versions) {
			r.Version = out.versions[i]
		}
		if action := signerAction(cmd.Kind); action != "" {
			r.Action, r.Detail = action, out.signer
		}
		if out.note != "" {
			r.Detail = also(r.Detail, out.note)
		}
		switch {
		case out.Duplicate:
			r.Detail = also(r.Detail, "duplicate")
		case i < len(out.withheld) && out.withheld[i]:
			r.Detail = also(r.Detail, "withheld: another reference of the request was refused")
		}
		t.appendLeaf(&r)
	}
}

func also(detail, more string) string {
	if detail == "" {
		return more
	}
	return detail + "; " + more
}

func (t *tx) appendLeaf(r *AuditRecord) {
	t.leaf = r.appendLeaf(t.leaf[:0])
	t.hashes = t.edge.hashes(t.hashes[:0], t.size, tlog.RecordHash(t.leaf))
	t.set(prefixLeaf, t.size, t.leaf)
	t.set(prefixHash, t.size, t.hashes)
	t.size++
}

// set writes a numbered key straight into the batch.
func (t *tx) set(prefix string, n uint64, value []byte) {
	op := t.batch.SetDeferred(len(prefix)+8, len(value))
	copy(op.Key, prefix)
	binary.BigEndian.PutUint64(op.Key[len(prefix):], n)
	copy(op.Value, value)
	t.must(op.Finish())
}

func (t *tx) setUint64(key string, n uint64) {
	op := t.batch.SetDeferred(len(key), 8)
	copy(op.Key, key)
	binary.BigEndian.PutUint64(op.Value, n)
	t.must(op.Finish())
}

func (t *tx) must(err error) {
	if err != nil {
		t.s.fatal(fmt.Errorf("write raft entry %d to the state: %w", t.index, err))
	}
}

// commit writes the entry as one batch and publishes it.
func (t *tx) commit() {
	s := t.s
	for _, name := range t.order {
		if o := t.overlay[name]; o == nil {
			t.must(t.batch.Delete([]byte(name), nil))
		} else {
			t.must(t.batch.Set([]byte(name), encodeObject(o), nil))
		}
	}
	if t.cluster() == nil {
		t.time = 0 // before Genesis there is no cluster time
	}
	if t.time != s.time {
		t.setUint64(keyTime, uint64(t.time))
	}
	if t.size != s.size {
		t.setUint64(keySize, t.size)
	}
	position := Position{Index: t.index, Term: t.term, Epoch: s.position.Epoch}
	t.must(t.batch.Set([]byte(localPosition), position.encode(), nil))

	s.mu.Lock()
	t.must(s.db.Apply(t.batch, pebble.NoSync))
	for _, name := range t.order {
		if remembered(name) {
			s.cache.put(name, t.overlay[name])
		}
	}
	s.position, s.time, s.size, s.edge = position, t.time, t.size, t.edge
	s.mu.Unlock()

	s.sweeps.later(t.due)
	t.must(t.batch.Close())
	if t.membership() {
		t.must(s.db.Flush())
	}
	s.wake()
}

// membership says whether the entry changed what nodes know each other by. Such changes are on disk before anybody
// hears of them: a node that starts needs the pinned keys to reach its peers, and it learns from them only how much of
// the log is committed. Were they in memory alone, a cluster whose nodes all lost power could not elect a leader.
func (t *tx) membership() bool {
	return slices.ContainsFunc(t.order, func(name string) bool {
		return name == ObjCluster || strings.HasPrefix(name, "member/")
	})
}

func (t *tx) cluster() *Cluster { return find[Cluster](t, ObjCluster) }
