package fsm

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// A level is everything that one build writes and its predecessor can't read or would decide otherwise: kinds of
// command, formats, rules of Apply. A cluster is at one level, and every member's build knows it: the leader raises it
// by a record once all of them have announced more. Until then nothing beyond the level is proposed, so the nodes of a
// rolling upgrade never meet a record that one of them would have to stop at.
//
// Who adds to this package raises HighestLevel once per release, gives each new kind its level in Since, and asks
// tx.level before a new rule or before an object is written in a new form.

// HighestLevel is the level this build knows.
const HighestLevel = 1

// ObjLevel is the cluster's level. Its form is read by every build there will be: it is what tells an old one to stop.
const ObjLevel = "level"

// Since is the level that a kind came with.
func (k Kind) Since() uint32 { return 1 }

// LevelRaise raises the cluster's level. CodeLevel unless every member has announced that its build knows it.
type LevelRaise struct{ Level uint32 }

// LevelError says that the cluster has agreed on a level that this build does not know. The node must not go on: it
// would stop at the first record of that level anyway, or worse, take one for something else.
type LevelError struct{ Cluster, Build uint32 }

func (e *LevelError) Error() string {
	return fmt.Sprintf("the cluster is at feature level %d, and this hizod knows levels up to %d: the cluster was upgraded for good; "+
		"install the hizod that the other nodes run and start again (nothing on this node was changed)", e.Cluster, e.Build)
}

// level is the stored level; 0 where none was agreed on, which counts as 1.
type level struct {
	Level   uint32
	Changed uint64
}

func (o *level) changed() uint64 { return o.Changed }
func (*level) cost() int         { return 16 }

// Level is what every member's build knows and may be proposed.
func (s *Store) Level() uint32 {
	l, _ := read[level](s, ObjLevel)
	return max(l.Level, 1)
}

// HighestLevel is the level that this node's build knows.
func (s *Store) HighestLevel() uint32 { return s.highest }

// level is what Apply may write and decide by.
func (t *tx) level() uint32 {
	if l := find[level](t, ObjLevel); l != nil {
		return max(l.Level, 1)
	}
	return 1
}

// levelRaise stops a node whose build does not know the new level before anything of the entry is written. It is one
// that was put back to an older build after it had announced a newer one; a newer build goes on from here.
func (t *tx) levelRaise(b *LevelRaise) outcome {
	if have := find[level](t, ObjLevel); b.Level == 0 || have != nil && b.Level <= have.Level {
		return refuse(CodeExists)
	}
	able := true
	t.scan("member/", func(_ string, o object) bool {
		able = o.(*Member).knows(b.Level)
		return able
	})
	if !able {
		return refuse(CodeLevel)
	}
	if b.Level > t.s.highest {
		t.s.fatal(&LevelError{Cluster: b.Level, Build: t.s.highest})
	}
	t.put(ObjLevel, &level{Level: b.Level, Changed: t.index})
	return done()
}

func (m *Member) knows(level uint32) bool { return max(m.Level, 1) >= level }

// checkLevel refuses a database of a level that this build does not know, before anything else of it is read.
func (s *Store) checkLevel(db *pebble.DB) error {
	data, closer, err := db.Get([]byte(ObjLevel))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the cluster's level: %w", err)
	}
	o, err := decodeObject(ObjLevel, data)
	if err := errors.Join(err, closer.Close()); err != nil {
		return fmt.Errorf("read the cluster's level: %w", err)
	}
	if have := o.(*level).Level; have > s.highest {
		return &LevelError{Cluster: have, Build: s.highest}
	}
	return nil
}
