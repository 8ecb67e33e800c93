package disk

import (
	"context"
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// file is an open file. It offers the kernel no way around itself (passthrough), and locks are the kernel's own.
type file struct {
	d     *Disk
	f     *os.File
	inner *fs.LoopbackFile // over f
	// mayFail says that reads may. bbolt maps its file, and a mapped page that can't be read is SIGBUS, the end of the
	// process without a word, which is safe and not what is to be seen.
	mayFail bool
}

func (h *file) Read(ctx context.Context, buf []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	h.d.mu.Lock()
	share := h.d.trouble.FailRead
	h.d.mu.Unlock()
	if h.mayFail && h.d.draw(share) {
		h.d.Counts.FailedReads.Add(1)
		return nil, syscall.EIO
	}
	return h.inner.Read(ctx, buf, off)
}

func (h *file) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := h.d.grow(ctx); errno != 0 {
		return 0, errno
	}
	h.d.Counts.Writes.Add(1)
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if err := h.d.touch(h.f, off, off+int64(len(data))); err != nil {
		return 0, fs.ToErrno(err)
	}
	n, err := h.f.WriteAt(data, off)
	return uint32(n), fs.ToErrno(err)
}

// Fsync keeps what was written. Nothing is synced in fact: the machine that this runs on does not lose its power.
func (h *file) Fsync(ctx context.Context, _ uint32) syscall.Errno {
	t, errno := h.d.enter(ctx.Done())
	if errno != 0 {
		return errno
	}
	h.d.Counts.Syncs.Add(1)
	if h.d.draw(t.FailSync) {
		h.d.Counts.FailedSyncs.Add(1)
		h.d.mu.Lock()
		defer h.d.mu.Unlock()
		_ = h.d.failed(h.f) // EIO it is either way
		return syscall.EIO
	}
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	return fs.ToErrno(h.d.synced(h.f))
}

func (h *file) truncate(size int64) syscall.Errno {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	st, err := h.f.Stat()
	if err != nil {
		return fs.ToErrno(err)
	}
	if err := h.d.touch(h.f, min(size, st.Size()), st.Size()); err != nil {
		return fs.ToErrno(err)
	}
	return fs.ToErrno(h.f.Truncate(size))
}

// Allocate reserves space, which is a change of the size at most.
func (h *file) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	if errno := h.d.grow(ctx); errno != 0 {
		return errno
	}
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if err := h.d.touch(h.f, 0, 0); err != nil {
		return fs.ToErrno(err)
	}
	return fs.ToErrno(syscall.Fallocate(int(h.f.Fd()), mode, int64(off), int64(size)))
}

func (h *file) Getattr(ctx context.Context, out *fuse.AttrOut) syscall.Errno {
	return h.inner.Getattr(ctx, out)
}

func (h *file) Lseek(ctx context.Context, off uint64, whence uint32) (uint64, syscall.Errno) {
	return h.inner.Lseek(ctx, off, whence)
}

func (h *file) Flush(context.Context) syscall.Errno { return 0 }

func (h *file) Release(ctx context.Context) syscall.Errno { return h.inner.Release(ctx) }
