package fsm

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// database is one Pebble directory, counted, so that a scan that began before a restore may end on the old one.
type database struct {
	*pebble.DB
	name string // of its directory below the store's
	drop func() // after the last user left a retired database

	mu      sync.Mutex
	users   int
	retired bool
	idle    chan struct{} // closed when the last user leaves; nil: nobody waits for that
}

// drainFor bounds the wait of Close for readers.
const drainFor = 5 * time.Second

func (d *database) release() {
	d.mu.Lock()
	d.users--
	last := d.users == 0 && d.retired
	if d.users == 0 && d.idle != nil {
		close(d.idle)
		d.idle = nil
	}
	d.mu.Unlock()
	if last {
		d.drop()
	}
}

// drain waits for the readers that are left: Pebble panics under one that goes on after Close. One that is stuck is not
// waited for.
func (d *database) drain() {
	d.mu.Lock()
	if d.users == 0 {
		d.mu.Unlock()
		return
	}
	idle := make(chan struct{})
	d.idle = idle
	d.mu.Unlock()
	timer := time.NewTimer(drainFor)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
	}
}

func (d *database) retire() {
	d.mu.Lock()
	d.retired = true
	last := d.users == 0
	d.mu.Unlock()
	if last {
		d.drop()
	}
}

// The WAL is off: the Raft log is the WAL. What a crash leaves is a prefix of the batches, each of them whole, because
// a batch never spans two memtables and memtables are flushed in order; the position in every batch says which prefix.
func openPebble(fs vfs.FS, dir string, log *slog.Logger, halt func(error), still bool) (*pebble.DB, error) {
	opts := &pebble.Options{
		FS:                          fs,
		DisableWAL:                  true,
		MemTableSize:                8 << 20,
		CacheSize:                   64 << 20,
		FormatMajorVersion:          pebble.FormatTableFormatV6, // raised on purpose only: an older build can't open a newer format
		LoggerAndTracer:             pebbleLogger{log: log, halt: halt},
		DisableAutomaticCompactions: still,
	}
	// What is large is ciphertext or hashes: compressing it costs time and gains nothing.
	opts.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // most request ids were never seen: no read then
	}
	var flush atomic.Pointer[error] // of the last one
	opts.EventListener = &pebble.EventListener{
		// Entries whose flush failed are in memory only, and a retry after a failed sync may find pages that the kernel has
		// given up and calls clean: what the log would bring again is lost unnoticed. So the node stops, and replays. Pebble
		// tells of a flush first, also of one that found nothing to write, and then of what it calls an error.
		FlushEnd: func(info pebble.FlushInfo) { flush.Store(&info.Err) },
		BackgroundError: func(err error) {
			if ended := flush.Load(); ended != nil && *ended != nil && errors.Is(err, *ended) {
				halt(fmt.Errorf("state store: a flush failed: %w", err))
				return
			}
			log.Error("state store: background work failed; it is tried again", "error", err)
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			halt(fmt.Errorf("state store: %s is corrupt: %w", info.Path, info.Details))
		},
	}
	db, err := pebble.Open(dir, opts)
	if err != nil {
		return nil, fmt.Errorf("open state in %s: %w", dir, err)
	}
	return db, nil
}
