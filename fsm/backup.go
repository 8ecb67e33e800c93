package fsm

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"
)

// Backups: what one holds (Export), the record that it was made (Backup), and what a state that came out of one has to
// become before anybody is served from it (BeginAnew).

// Actions of the leaves about backups. Apply writes their details: an offline verifier believes them.
const (
	ActionBackup  = "backup"
	ActionRestore = "restore"
)

// ObjBackup names the record of the newest backup.
const ObjBackup = "backup"

// Backup is a backup that was made, and the body of KindBackup: the file's digest is in the audit log, so that the
// members' signatures under the next checkpoint vouch for the file.
type Backup struct {
	Name    string
	Digest  []byte // SHA-256 of the file up to its proof
	MAC     []byte // under a key of the root key, over the digest
	Bytes   uint64
	Index   uint64 // Raft's, of the state in it
	Records uint64 // audit records in it

	Time    int64  // set by Apply, as is what follows
	Seq     uint64 // the audit record of it
	Changed uint64

	Kept      int64 // Time of the newest backup that was read back and verified; 0: none yet
	KeptBytes uint64
}

// BackupKept says that the newest backup lies where it was to be and was read back. The record of the backup can't say
// so: it is older than the end of the file.
type BackupKept struct {
	Seq uint64 // the audit record of the backup
}

func (o *Backup) changed() uint64 { return o.Changed }
func (o *Backup) cost() int       { return 256 + len(o.Name) }

// detail is what the leaf says; the file's proof is checked against it.
func (o *Backup) detail() string {
	return "name=" + o.Name + " sha256=" + hex.EncodeToString(o.Digest) + " mac=" + hex.EncodeToString(o.MAC) +
		" bytes=" + strconv.FormatUint(o.Bytes, 10) + " records=" + strconv.FormatUint(o.Records, 10) +
		" index=" + strconv.FormatUint(o.Index, 10)
}

// LastBackup is the newest backup that this cluster made.
func (s *Store) LastBackup() (Backup, bool) { return read[Backup](s, ObjBackup) }

func (t *tx) backup(b *Backup) outcome {
	if !segment(b.Name) || strings.ContainsAny(b.Name, " \n\t") || len(b.Digest) != sha256.Size || len(b.MAC) != sha256.Size ||
		b.Records == 0 || b.Records > t.size || b.Index >= t.index {
		return refuse(CodeInvalid)
	}
	made := *b
	made.Time, made.Seq, made.Changed = t.time, t.size, t.index
	made.Kept, made.KeptBytes = 0, 0
	if before := find[Backup](t, ObjBackup); before != nil {
		made.Kept, made.KeptBytes = before.Kept, before.KeptBytes
	}
	t.put(ObjBackup, &made)
	out := done()
	out.signer = made.detail()
	out.Value = made
	return out
}

func (t *tx) backupKept(b *BackupKept) outcome {
	have := find[Backup](t, ObjBackup)
	if have == nil || have.Seq != b.Seq {
		return refuse(CodeNotFound)
	}
	kept := *have
	kept.Kept, kept.KeptBytes, kept.Changed = have.Time, have.Bytes, t.index
	t.put(ObjBackup, &kept)
	return done()
}

// Restore is one time that this cluster was restored from a backup.
type Restore struct {
	ID     []byte // 8 random bytes: the log has another origin from then on
	Record uint64 // the audit record of it
	Time   int64  // cluster time of it: an assertion from before may have logged in, which nobody here knows
}

const restoreID = 8

// Export is a whole state as of one moment, as the stream that Restore takes.
type Export struct {
	io.ReadCloser
	At      Position
	Time    int64  // cluster time
	Records uint64 // audit records
	Bytes   int64
}

const exportDir = "export" + tmpSuffix

// Export makes one, by way of a checkpoint beside the database: one at a time. Close it.
func (s *Store) Export() (*Export, error) {
	s.exporting.Lock()
	e, err := s.export()
	if err != nil {
		s.exporting.Unlock()
		return nil, fmt.Errorf("export the state: %w", err)
	}
	return e, nil
}

func (s *Store) export() (*Export, error) {
	at := s.Position()
	db, err := s.flushed(at.Epoch, 0, 0) // most of it without holding Apply up
	if err != nil {
		return nil, err
	}
	defer db.release()
	dir := s.fs.PathJoin(s.dir, exportDir)
	if err := s.fs.RemoveAll(dir); err != nil {
		return nil, err
	}
	e, err := s.freeze(db, dir)
	if err != nil {
		return nil, errors.Join(err, s.fs.RemoveAll(dir))
	}
	files, err := describe(s.fs, dir, func(string, int64) []byte { return nil })
	if err != nil {
		return nil, errors.Join(err, s.fs.RemoveAll(dir))
	}
	cluster, _ := s.Cluster()
	m := manifest{Cluster: cluster.ID, Index: e.At.Index, Term: e.At.Term, Files: files}
	head := lead(&m, m.Index, m.Term)
	e.Bytes = int64(len(head)) + m.size()
	e.ReadCloser = &streamReader{fs: s.fs, dir: dir, lead: head, files: files, done: func() {
		if err := s.fs.RemoveAll(dir); err != nil {
			s.log.Error("removing what a backup was made from; it is tried again at start", "error", err)
		}
		s.exporting.Unlock()
	}}
	return e, nil
}

// freeze makes the checkpoint of exactly one position: Apply waits for a small flush and some hard links.
func (s *Store) freeze(db *database, dir string) (*Export, error) {
	s.applying.Lock()
	defer s.applying.Unlock()
	if s.db != db || s.closed {
		return nil, errors.New("the state was replaced in the meantime")
	}
	if err := db.Flush(); err != nil {
		return nil, err
	}
	if err := db.Checkpoint(dir); err != nil {
		return nil, err
	}
	return &Export{At: s.position, Time: s.time, Records: s.size}, nil
}

// Anew is what a restored state begins again with.
type Anew struct {
	Cluster Cluster // as it is to be, with its MAC; the last of Restored is this restore
	Member  Member  // the only one from now on, approved, with its MAC
	History uint64  // number of the history from now on: watchers start over
	Time    int64   // cluster time from now on: not before the state's
	Detail  string  // of the leaf, beside the signer
	// Generation and Sealed are the leaf's sealed part.
	Generation uint32
	Sealed     []byte
}

// dropped at a restore: what was given out once or for a time. What of it was used, revoked or ended after the backup
// was made is not known here.
var droppedAtRestore = []string{
	"token/", "secretid/", "enrolment/", "jointoken/", "certificate/", "member/", prefixDeal,
}

// BeginAnew turns the state of a backup into that of a cluster of one node, with a record of it in the audit log. It
// stands for the first entry of a new log: the position moves on by one, in a new term. It is for a store that no Raft
// has: a command in the log could not do this.
func (s *Store) BeginAnew(a Anew) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	last := len(a.Cluster.Restored) - 1
	switch {
	case last < 0 || len(a.Cluster.Restored[last].ID) != restoreID || a.Cluster.Restored[last].Record != s.size:
		return errors.New("begin anew: the cluster record does not name this restore")
	case a.Time < s.time || a.Cluster.Restored[last].Time != a.Time:
		return errors.New("begin anew: at another time than the cluster record says, or before the backup")
	case a.History == 0 || a.History == s.epoch:
		return errors.New("begin anew: watchers would not notice")
	case !segment(a.Member.ID) || len(a.Member.Key) == 0 || !a.Member.Approved || a.Member.Quarantined:
		return errors.New("begin anew: a member who is none")
	}
	t := newTx(s, s.position.Index+1, s.position.Term+1)
	if have := t.cluster(); have == nil || have.ID != a.Cluster.ID {
		return ErrOtherCluster
	}
	t.time = a.Time
	t.restart(&a)
	t.audit(&Command{Principal: "node/" + a.Member.ID, Audits: []Audit{{
		Action: ActionRestore, Resource: "cluster", Decision: Allowed,
		Detail: signerDetail(&a.Cluster, &a.Member) + " " + a.Detail, Generation: a.Generation, Sealed: a.Sealed,
	}}}, &outcome{Result: Result{Code: CodeOK}})
	t.writeEvents()
	t.setUint64(keyEpoch, a.History)
	t.must(t.batch.Delete([]byte(localConfiguration), pebble.NoSync))
	t.setUint64(localRestored, t.index)
	t.commit()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch = a.History
	s.cache = newCache(s.cache.limit)
	s.sweeps = sweeps{}
	return s.db.Flush()
}

func (t *tx) restart(a *Anew) {
	for _, prefix := range droppedAtRestore {
		t.page(prefix, "", func(name string) bool {
			t.del(name)
			return true
		})
		t.accept()
	}
	t.page(prefixExpiry, "", func(name string) bool {
		for _, prefix := range droppedAtRestore {
			if strings.HasPrefix(name[len(prefixExpiry)+8:], prefix) {
				t.del(name)
			}
		}
		return true
	})
	t.accept()
	c := a.Cluster
	c.NodeEpoch, c.PendingEpoch, c.RetiredBelow, c.Sealed, c.Changed = 0, 0, 0, false, t.index
	t.put(ObjCluster, &c)
	m := a.Member
	m.Joined, m.Changed = t.index, t.index
	t.put(ObjMember(m.ID), &m)
	t.accept()
	t.putSigners()

	// Shares of the old nodes open the root key of the backup.
	t.changeRotation(RotateRoot, func(k *KeyRotation) { k.Due = t.time })
	t.rotated(RotateNodeShares) // there is no node set to renew
	t.accept()

	// Users at database servers are still there, with whoever has their passwords: they are dropped, not forgotten.
	var roles []string
	t.scan(prefixLeaseTerms, func(_ string, o object) bool {
		role := &o.(*leaseTerms).Role
		roles = append(roles, leaseRoleOf(role.Vault, role.Name))
		return true
	})
	for _, role := range roles {
		t.revokeLeases(LeasesOfRole, role)
		t.accept()
	}

	// What targets have by now, nobody here knows: rotations wait for a person to look. An attempt that was under way is
	// finished by whoever leads, with its own value.
	var rotations []*Rotation
	t.scan("rotation/", func(_ string, o object) bool {
		rotations = append(rotations, o.(*Rotation))
		return true
	})
	for _, have := range rotations {
		r := *have
		r.Paused, r.Requested, r.Changed = true, false, t.index
		t.put(ObjRotation(r.Vault, r.Path), &r)
	}
	t.accept()
}

// SignerChanges are the audit records that say who signs checkpoints, from one record on, oldest first.
func (s *Store) SignerChanges(from uint64) []uint64 {
	var out []uint64
	s.scan(prefixSigners, objSigners(from+1), func(name string, _ object) bool {
		out = append(out, binary.BigEndian.Uint64([]byte(name[len(prefixSigners):]))-1)
		return true
	})
	return out
}

// CheckpointFrom is the smallest checkpoint of at least that size.
func (s *Store) CheckpointFrom(size uint64) (c Checkpoint, ok bool) {
	s.scan(prefixCheckpoint, objCheckpoint(size), func(_ string, o object) bool {
		c, ok = *o.(*Checkpoint), true
		return false
	})
	return c, ok
}
