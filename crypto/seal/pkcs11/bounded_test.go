package pkcs11

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hizo/hizo/crypto/seal"
)

// A module that never returns holds up nobody for longer than they said, and takes no more goroutines
// than there are sessions.
func TestHungModule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := make(chan struct{}, 2)
		release := make(chan struct{})
		var started atomic.Int64
		call := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return bounded(ctx, slots, func() error { started.Add(1); <-release; return nil })
		}
		for i := range 5 {
			begin := time.Now()
			if err := call(); !errors.Is(err, seal.ErrDevice) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("call %d: %v", i, err)
			}
			if d := time.Since(begin); d != time.Second {
				t.Errorf("call %d took %v", i, d)
			}
		}
		if n := started.Load(); n != int64(cap(slots)) {
			t.Errorf("%d calls went into the module, want %d", n, cap(slots))
		}
		close(release)
		synctest.Wait()
		if err := call(); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}
