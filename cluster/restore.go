package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/cluster/backup"
	"github.com/hizo/hizo/cluster/logstore"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/crypto/secret"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
)

// A restore makes the data directory of a node that has none yet; the node is not running. All of it is made below
// restore/ and moved into place at the end, raft.db last: as long as restore/raft.db is there, Open refuses, and another
// restore begins from nothing. So a crash leaves an uninitialised node, one that says that a restore was interrupted, or
// a restored one.

const restoreDir = "restore"

var (
	// ErrNotThisBackup says that a backup is not what was asked for, or not whole inside.
	ErrNotThisBackup = errors.New("the backup was not restored, and nothing was changed")
	// ErrRolledBack says that a restore would take audit records back, and nobody has said that this is meant.
	ErrRolledBack = errors.New("the backup was not restored, and nothing was changed: audit records would be lost")
	// ErrInterrupted says that a restore has to be made again.
	ErrInterrupted = errors.New("a restore into this data directory was interrupted: run hizod restore again")
)

// Head is a statement of the audit log that was kept outside of the cluster.
type Head struct {
	Size uint64
	Root []byte
	Time int64 // cluster time of it, ms
}

// RestoreRequest says what is restored. The caller has verified the file; Digest is what it found.
type RestoreRequest struct {
	Open   func() (io.ReadCloser, error) // the file, from its beginning
	Digest [32]byte
	Seed   secret.Bytes // of the operators' shares (Deal.Combine); the caller wipes it
	Shares []int        // which operators gave theirs, for the record

	Outside *Head  // newest checkpoint kept outside
	Waiver  string // why none is there, or why the lost records are given up; it goes into the audit log

	Said time.Time // what another clock shows, by the word of whoever restores (CheckRestoreTime)
}

// Restored is what came of a restore.
type Restored struct {
	Cluster [16]byte
	Record  uint64   // its audit record: everything before is the backup's
	Leaf    []byte   // of that record
	Earlier [][]byte // leaves of earlier restores
	Lost    uint64   // audit records that are known to be missing; those behind the newest checkpoint nobody can count
}

// maxWaiver bounds the text of a waiver.
const maxWaiver = 200

// Restore makes cfg.DataDir the first node of the cluster that a backup holds. Nodes of the old one are no members.
func Restore(ctx context.Context, cfg Config, req RestoreRequest) (Restored, error) {
	if cfg.ID == "" || cfg.DataDir == "" || cfg.Seal == nil {
		return Restored{}, errors.New("a restore needs an ID, a DataDir and a Seal")
	}
	cfg.fill()
	if len(req.Waiver) > maxWaiver || strings.ContainsFunc(req.Waiver, func(r rune) bool { return r < ' ' || r > '~' || r == '"' }) {
		return Restored{}, fmt.Errorf("%w: the reason of the waiver is one line of up to %d plain characters without quotes", ErrNotThisBackup, maxWaiver)
	}
	if err := Restorable(cfg.DataDir); err != nil {
		return Restored{}, err
	}
	dir := filepath.Join(cfg.DataDir, restoreDir)
	if err := os.RemoveAll(dir); err != nil {
		return Restored{}, err
	}
	for _, d := range []string{dir, filepath.Join(dir, "state"), filepath.Join(dir, "snapshots")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return Restored{}, err
		}
	}
	r := &restoring{cfg: cfg, req: req, dir: dir}
	if err := r.run(ctx); err != nil {
		return Restored{}, errors.Join(err, os.RemoveAll(dir))
	}
	return r.done, r.publish()
}

type restoring struct {
	cfg    Config
	req    RestoreRequest
	dir    string
	header backup.Header
	store  *fsm.Store
	time   RestoreTime
	done   Restored
}

func (r *restoring) run(ctx context.Context) (err error) {
	r.store, err = fsm.Open(fsm.Options{Dir: filepath.Join(r.dir, "state"), Logger: r.cfg.Logger, Halt: r.cfg.halt})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.store.Close()) }()
	proof, err := r.unpack(ctx)
	if err != nil {
		return err
	}
	cl, err := r.check()
	if err != nil {
		return err
	}
	root, err := r.openRoot(cl, proof)
	if err != nil {
		return err
	}
	defer root.Wipe()
	ring, err := openRing(root, cl, storedKeys(r.store))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotThisBackup, err)
	}
	defer ring.Close()
	if err := r.checkHead(); err != nil {
		return err
	}
	if r.time, err = CheckRestoreTime(r.cfg.Clock(), r.store.Time(), r.req.Outside, r.req.Said); err != nil {
		return err
	}
	if err := r.begin(cl, ring); err != nil {
		return err
	}
	return r.snapshot()
}

// unpack opens the file into the state, and reads it to its end.
func (r *restoring) unpack(ctx context.Context) (p backup.Proof, err error) {
	file, err := r.req.Open()
	if err != nil {
		return p, err
	}
	defer file.Close()
	in, err := backup.NewReader(untilDone{ctx, file})
	if err != nil {
		return p, err
	}
	r.header = in.Header()
	operators, err := keyring.OperatorKey(r.req.Seed)
	if err != nil {
		return p, err
	}
	state, err := in.Body(operators)
	if err != nil {
		return p, fmt.Errorf("%w: %w", ErrNotThisBackup, err)
	}
	if err := r.store.Restore(io.NopCloser(state)); err != nil {
		return p, fmt.Errorf("%w: %w", ErrNotThisBackup, err)
	}
	if err := in.Skip(); err != nil {
		return p, err
	}
	p, digest, err := in.Proof()
	if err == nil && digest != r.req.Digest {
		err = fmt.Errorf("%w: the file is not the one that was verified", ErrNotThisBackup)
	}
	return p, err
}

// check compares the state with what the header, which the members' signatures cover, says of it.
func (r *restoring) check() (fsm.Cluster, error) {
	cl, ok := r.store.Cluster()
	no := func(format string, args ...any) (fsm.Cluster, error) {
		return cl, fmt.Errorf("%w: "+format, append([]any{ErrNotThisBackup}, args...)...)
	}
	switch {
	case !ok:
		return no("it holds no cluster")
	case fmt.Sprintf("%x", cl.ID) != r.header.Cluster:
		return no("it says that it is of cluster %s, and holds %x", r.header.Cluster, cl.ID)
	case cl.Development && !r.cfg.Development:
		return no("it is of a cluster that hizod dev made: set development: true in the configuration to try it out")
	case cl.RequireHardware && r.cfg.Seal.Kind() == seal.Software:
		return no("its cluster takes nodes with keys in hardware only: configure this node's PKCS#11 token")
	case r.store.AuditSize() != r.header.Records:
		return no("it has %d audit records, and says %d", r.store.AuditSize(), r.header.Records)
	}
	root, err := r.store.TreeRoot(r.header.Records)
	if err != nil {
		return cl, err
	}
	if !bytes.Equal(root[:], r.header.Root) {
		return no("its audit records are not those that the members signed")
	}
	return cl, nil
}

// openRoot opens the root key and checks that the cluster itself made the backup: the MAC is over the whole of it.
func (r *restoring) openRoot(cl fsm.Cluster, p backup.Proof) (keyring.Root, error) {
	var deal shares.Deal
	if err := deal.UnmarshalBinary(cl.OperatorDeal); err != nil {
		return keyring.Root{}, fmt.Errorf("the operators' deal in the state: %w", err)
	}
	root, err := keyring.OpenForOperators(r.req.Seed, cl.OperatorRoot, keyring.Context{Cluster: cl.ID, Generation: cl.RootGeneration, Deal: deal.ID})
	if err != nil {
		return keyring.Root{}, fmt.Errorf("%w: %w", ErrNotThisBackup, err)
	}
	mac, err := keyring.BackupMAC(root, cl.ID, r.req.Digest[:])
	if err == nil && !bytes.Equal(mac, p.MAC) {
		err = fmt.Errorf("%w: its MAC is not of this cluster's root key", ErrNotThisBackup)
	}
	if err != nil {
		root.Wipe()
		return keyring.Root{}, err
	}
	return root, nil
}

// checkHead holds the audit log against the newest checkpoint that was kept outside.
func (r *restoring) checkHead() (err error) {
	size, head := r.store.AuditSize(), r.req.Outside
	if r.done.Lost, err = CheckRollback(size, head, r.req.Waiver); err != nil || head == nil || head.Size > size {
		return err
	}
	root, err := r.store.TreeRoot(head.Size)
	if err == nil && !bytes.Equal(root[:], head.Root) {
		err = fmt.Errorf("%w: its audit log is another one than the checkpoint of %d records states", ErrNotThisBackup, head.Size)
	}
	return err
}

// CheckRollback says how many records a backup of some is behind a checkpoint, and refuses that without a waiver.
func CheckRollback(records uint64, head *Head, waiver string) (lost uint64, err error) {
	switch {
	case head == nil && waiver == "":
		return 0, fmt.Errorf("%w: without a checkpoint kept outside nobody can tell whether this is the newest backup; "+
			"pass the newest one (--checkpoint FILE), or say why there is none (--waive REASON)", ErrRolledBack)
	case head == nil || head.Size <= records:
		return 0, nil
	case waiver == "":
		return 0, fmt.Errorf("%w: the backup holds %d records, the checkpoint kept outside %d: %d are not in it. Look for a newer backup, "+
			"or give them up (--waive REASON); keep exports of the old log, they still verify", ErrRolledBack, records, head.Size, head.Size-records)
	}
	return head.Size - records, nil
}

// begin turns the state into that of a cluster of this one node.
func (r *restoring) begin(cl fsm.Cluster, ring *keyring.Keyring) error {
	id := make([]byte, 8)
	rand.Read(id)
	old, size := OriginOf(cl), r.store.AuditSize()
	next := cl
	next.Restored = append(slices.Clone(cl.Restored), fsm.Restore{ID: id, Record: size, Time: r.time.Begins.UnixMilli()})
	public, err := x509.MarshalPKIXPublicKey(r.cfg.Seal.Identity().Public())
	if err != nil {
		return fmt.Errorf("this node's identity key: %w", err)
	}
	m := fsm.Member{
		ID: r.cfg.ID, PeerAddr: r.cfg.AdvertisePeer, ClientAddr: r.cfg.AdvertiseClient,
		Key: public, SealKind: string(r.cfg.Seal.Kind()), Approved: true, Level: fsm.HighestLevel,
	}
	if m.ClientCert, err = signByCA(ring, cl.CA, nodeTemplate(m, r.time.Clock), r.cfg.Seal.Identity().Public()); err != nil {
		return err
	}
	if m.MAC, err = ring.MAC(next.MACGeneration, m.MACDomain(), m.MACBody()); err != nil {
		return err
	}
	if next.MAC, err = ring.MAC(next.MACGeneration, next.MACDomain(), next.MACBody()); err != nil {
		return err
	}
	a := fsm.Anew{
		Cluster: next, Member: m, History: max(binary.BigEndian.Uint64(id), 1), Time: r.time.Begins.UnixMilli(),
		Detail: fmt.Sprintf("origin=%s after=%s records=%d root=%x backup=%x %s", OriginOf(next), old, size, r.header.Root, r.req.Digest, r.how()),
	}
	if err := r.store.BeginAnew(a); err != nil {
		return err
	}
	r.done.Cluster, r.done.Record = cl.ID, size
	for _, earlier := range cl.Restored {
		leaf, err := r.store.AuditLeaf(earlier.Record)
		if err != nil {
			return err
		}
		r.done.Earlier = append(r.done.Earlier, leaf)
	}
	r.done.Leaf, err = r.store.AuditLeaf(size)
	return err
}

// how says in the audit record who restored, and against what the audit log was held.
func (r *restoring) how() string {
	var who []string
	for _, i := range r.req.Shares {
		who = append(who, strconv.Itoa(i))
	}
	text := "operators=" + strings.Join(who, ",")
	if h := r.req.Outside; h != nil {
		text += fmt.Sprintf(" checkpoint=%d lost=%d", h.Size, r.done.Lost)
	}
	if !r.req.Said.IsZero() {
		text += " time=confirmed"
	}
	if r.req.Waiver != "" {
		text += fmt.Sprintf(" waived=%q", r.req.Waiver)
	}
	return text
}

// snapshot gives Raft what it begins with: a snapshot whose configuration is this node alone, and the term.
func (r *restoring) snapshot() error {
	snaps, err := fsm.NewSnapshots(r.store, fsm.SnapshotOptions{Dir: filepath.Join(r.dir, "snapshots"), Logger: r.cfg.Logger})
	if err != nil {
		return err
	}
	at := r.store.Position()
	alone := raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: raft.ServerID(r.cfg.ID), Address: raft.ServerAddress(r.cfg.ID),
	}}}
	sink, err := snaps.Create(1, at.Index, at.Term, alone, at.Index, nil)
	if err != nil {
		return err
	}
	point, err := r.store.Snapshot()
	if err != nil {
		return err
	}
	defer point.Release()
	if err := point.Persist(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	logs, err := logstore.Open(filepath.Join(r.dir, "raft.db"), logstore.Config{Snapshot: snaps.Newest, Exit: r.cfg.halt, Logger: r.cfg.Logger})
	if err != nil {
		return err
	}
	// Raft counts terms up from here; the log must not go on below the snapshot's.
	return errors.Join(logs.SetUint64([]byte("CurrentTerm"), at.Term), logs.Close())
}

// parts of a data directory that a restore makes, in the order in which they are moved.
var restoredParts = []string{"state", "snapshots", "raft.db"}

func (r *restoring) publish() error {
	for _, part := range restoredParts {
		if err := os.RemoveAll(filepath.Join(r.cfg.DataDir, part)); err != nil {
			return err
		}
	}
	if err := syncDirectory(r.dir); err != nil {
		return err
	}
	for _, part := range restoredParts {
		if err := os.Rename(filepath.Join(r.dir, part), filepath.Join(r.cfg.DataDir, part)); err != nil {
			return err
		}
		if err := syncDirectory(r.cfg.DataDir); err != nil {
			return err
		}
	}
	return finishRestore(r.cfg.DataDir)
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// finishRestore refuses where a restore was interrupted, and tidies up after one that was not.
func finishRestore(dataDir string) error {
	dir := filepath.Join(dataDir, restoreDir)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, "raft.db")); err == nil {
		return ErrInterrupted
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}

// Restorable refuses a data directory that belongs to a node of a cluster. One of a server that waits to be initialised is
// fine; if it runs, its files are locked.
func Restorable(dataDir string) error {
	if errors.Is(finishRestore(dataDir), ErrInterrupted) {
		return nil // what stands beside it is the same restore's
	}
	for _, name := range []string{seedName, "head", "members", gossipFile, recoveryName} {
		if _, err := os.Lstat(filepath.Join(dataDir, name)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is there: %w", filepath.Join(dataDir, name), ErrAlreadyInitialised)
		}
	}
	if _, err := os.Stat(filepath.Join(dataDir, "raft.db")); err == nil {
		logs, err := logstore.Open(filepath.Join(dataDir, "raft.db"), logstore.Config{Snapshot: func() (uint64, uint64) { return 0, 0 }, Exit: func(error) {}})
		if err != nil {
			return fmt.Errorf("look whether this node is in use (stop hizod server first): %w", err)
		}
		last, err := logs.LastIndex()
		if err := errors.Join(err, logs.Close()); err != nil {
			return err
		}
		if last > 0 {
			return ErrAlreadyInitialised
		}
	}
	for _, name := range []string{"state", "snapshots"} {
		if used, err := holdsMore(filepath.Join(dataDir, name), name); used || err != nil {
			return errors.Join(err, ErrAlreadyInitialised)
		}
	}
	return nil
}

// holdsMore says whether there is more than an empty store leaves.
func holdsMore(dir, name string) (bool, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if name == "snapshots" {
		list, err := os.ReadDir(dir)
		return len(list) > 0, err
	}
	store, err := fsm.Open(fsm.Options{Dir: dir, Halt: func(error) {}})
	if err != nil {
		return true, err
	}
	_, has := store.Cluster()
	return has || store.Position().Index > 0, store.Close()
}
