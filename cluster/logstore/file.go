package logstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// openFile opens or creates the database and says what its log holds.
func openFile(path string, lock time.Duration) (backend, marks, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := create(path, lock); err != nil {
			return nil, marks{}, err
		}
		info, err = os.Stat(path)
	}
	if err != nil {
		return nil, marks{}, fmt.Errorf("open raft log: %w", err)
	}
	held, err := inspect(path, info.Size(), lock)
	if err != nil {
		return nil, marks{}, err
	}
	store, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: boltOptions(lock)})
	if err != nil {
		return nil, marks{}, openError(path, err)
	}
	return store, held, nil
}

// boltOptions: without NoFreelistSync bbolt writes its whole free list at every
// commit; with the default Timeout it would wait for a lock for ever. Syncing
// stays on.
func boltOptions(lock time.Duration) *bbolt.Options {
	return &bbolt.Options{Timeout: lock, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType}
}

// create makes an empty database under another name first, so that a crash
// never leaves half of one at path.
func create(path string, lock time.Duration) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("create raft log: %w", err)
	}
	store, err := raftboltdb.New(raftboltdb.Options{Path: tmp, BoltOptions: boltOptions(lock)})
	if err != nil {
		return fmt.Errorf("create raft log %s: %w", path, err)
	}
	if err := store.Close(); err != nil {
		return fmt.Errorf("create raft log %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("create raft log: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("create raft log: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// inspect reads everything in the database and checks it, before anything opens
// it for writing. bbolt itself panics on a damaged page, at opening even in a
// goroutine of its own where nothing can recover it, and faults on a page that a
// truncated file no longer has; and it would take an empty file for a new one.
func inspect(path string, size int64, lock time.Duration) (held marks, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &CorruptError{Path: path, Err: fmt.Errorf("unreadable page: %v", p)}
		}
	}()
	if size < int64(2*os.Getpagesize()) {
		return held, &CorruptError{Path: path, Err: fmt.Errorf("the file has only %d bytes", size)}
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: lock})
	if err != nil {
		return held, openError(path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > size {
			return &CorruptError{Path: path, Err: fmt.Errorf("the file has %d of %d bytes", size, tx.Size())}
		}
		return tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
			var before []byte
			return bucket.ForEach(func(k, v []byte) error {
				if v == nil || before != nil && bytes.Compare(before, k) >= 0 {
					return &CorruptError{Path: path, Err: errors.New("keys out of order")}
				}
				before = bytes.Clone(k)
				if string(name) == "logs" {
					return inspectEntry(path, k, v, &held)
				}
				_, err := openStable(path, k, v)
				return err
			})
		})
	})
	return held, err
}

func inspectEntry(path string, k, v []byte, held *marks) error {
	if len(k) != 8 {
		return &CorruptError{Path: path, Err: fmt.Errorf("index of %d bytes", len(k))}
	}
	index := binary.BigEndian.Uint64(k)
	var e raft.Log
	err := unseal(path, index, &e, func(_ uint64, e *raft.Log) error {
		if err := codec.NewDecoderBytes(v, &codec.MsgpackHandle{}).Decode(e); err != nil {
			return &CorruptError{Path: path, Index: index, Err: err}
		}
		return nil
	})
	if err != nil {
		return err
	}
	held.push(index, sizeOf(&e))
	return nil
}

// LockedError says who holds the file.
type LockedError struct {
	Path string
	PID  int // 0 where it is not known
	Name string
}

func (e *LockedError) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d (%s)", e.PID, e.Name)
	}
	return fmt.Sprintf("raft log %s is in use by %s: one node runs once per data directory; stop that process, or give this node a directory of its own", e.Path, who)
}

func openError(path string, err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		pid, name := lockHolder(path)
		return &LockedError{Path: path, PID: pid, Name: name}
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return &CorruptError{Path: path, Err: err}
	default:
		return fmt.Errorf("open raft log %s: %w", path, err)
	}
}

// lockHolder finds who has the flock(2) on path, by /proc/locks (proc(5)):
//
//	1: FLOCK  ADVISORY  WRITE 708 00:13:16513 0 EOF
func lockHolder(path string) (pid int, name string) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, ""
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, ""
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0, ""
	}
	inode := ":" + strconv.FormatUint(stat.Ino, 10)
	for line := range strings.Lines(string(locks)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || !strings.HasSuffix(f[5], inode) {
			continue
		}
		pid, err := strconv.Atoi(f[4])
		if err != nil || pid <= 0 {
			continue
		}
		comm, err := os.ReadFile("/proc/" + f[4] + "/comm")
		if err != nil {
			continue
		}
		return pid, strings.TrimSpace(string(comm))
	}
	return 0, ""
}

// checked is a backend whose stable values carry a checksum. Entries come to it
// sealed and leave it sealed, because the cache above keeps what passes through;
// see unseal.
type checked struct {
	backend
	path string
}

func (c *checked) Set(key, value []byte) error {
	sealed := append(make([]byte, 0, len(value)+sumSize), value...)
	return c.backend.Set(key, appendSum(sealed, stableSum(key, value)))
}

func (c *checked) Get(key []byte) ([]byte, error) {
	sealed, err := c.backend.Get(key)
	if err != nil {
		return nil, err
	}
	return openStable(c.path, key, sealed)
}

func openStable(path string, key, sealed []byte) ([]byte, error) {
	value, sum, err := cutSum(sealed)
	if err == nil && stableSum(key, value) != sum {
		err = errChecksum
	}
	if err != nil {
		return nil, &CorruptError{Path: path, Err: fmt.Errorf("value of %s: %w", key, err)}
	}
	return value, nil
}
