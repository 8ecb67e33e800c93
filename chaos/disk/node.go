package disk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// node is a file or directory.
type node struct {
	*fs.LoopbackNode
	d *Disk
}

// WrapChild makes a node of what was found or made below this one.
func (n *node) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{LoopbackNode: ops.(*fs.LoopbackNode), d: n.d}
}

func (n *node) path() string {
	return filepath.Join(n.RootData.Path, n.Path(n.Root()))
}

// grow begins an operation that takes space, change one that only writes.
func (d *Disk) grow(ctx context.Context) syscall.Errno {
	t, errno := d.enter(ctx.Done())
	switch {
	case errno != 0:
		return errno
	case t.Full:
		d.Counts.Full.Add(1)
		return syscall.ENOSPC
	case d.draw(t.FailWrite):
		d.Counts.FailedWrites.Add(1)
		return syscall.EIO
	}
	return 0
}

func (d *Disk) change(ctx context.Context) syscall.Errno {
	t, errno := d.enter(ctx.Done())
	if errno == 0 && d.draw(t.FailWrite) {
		d.Counts.FailedWrites.Add(1)
		return syscall.EIO
	}
	return errno
}

// Statfs has a full disk say so.
func (n *node) Statfs(ctx context.Context, out *fuse.StatfsOut) syscall.Errno {
	errno := n.LoopbackNode.Statfs(ctx, out)
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	if n.d.trouble.Full {
		out.Bfree, out.Bavail = 0, 0
	}
	return errno
}

func (n *node) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f, err := os.OpenFile(n.path(), int(flags)&^(syscall.O_APPEND|syscall.O_TRUNC), 0)
	if err != nil {
		return nil, 0, fs.ToErrno(err)
	}
	h := n.handle(f)
	if flags&syscall.O_TRUNC != 0 {
		if errno := h.truncate(0); errno != 0 {
			_ = f.Close()
			return nil, 0, errno
		}
	}
	return h, 0, 0
}

func (n *node) handle(f *os.File) *file {
	return &file{d: n.d, f: f, inner: fs.NewLoopbackFileFromOS(f), mayFail: !strings.HasSuffix(f.Name(), ".db")}
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.d.grow(ctx); errno != 0 {
		return nil, nil, 0, errno
	}
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	path := filepath.Join(n.path(), name)
	_, err := os.Lstat(path)
	isNew := errors.Is(err, os.ErrNotExist)
	inode, h, fl, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if errno != 0 {
		return nil, nil, 0, errno
	}
	if releaser, ok := h.(fs.FileReleaser); ok { // a handle of ours instead
		releaser.Release(ctx)
	}
	f, err := os.OpenFile(path, int(flags)&^(syscall.O_APPEND|syscall.O_TRUNC|syscall.O_EXCL|syscall.O_CREAT), 0)
	if err != nil {
		return nil, nil, 0, fs.ToErrno(err)
	}
	if isNew {
		if u := n.d.files[out.Ino]; u != nil { // the number was another file's
			_ = u.file.Close()
			delete(n.d.files, out.Ino)
		}
		n.d.changed(func() error { return os.Remove(path) }, nil, n.path())
	}
	return inode, n.handle(f), fl, 0
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.d.grow(ctx); errno != 0 {
		return nil, errno
	}
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	inode, errno := n.LoopbackNode.Mkdir(ctx, name, mode, out)
	if errno == 0 {
		path := filepath.Join(n.path(), name)
		n.d.changed(func() error { return os.Remove(path) }, nil, n.path())
	}
	return inode, errno
}

func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	if errno := n.d.change(ctx); errno != 0 {
		return errno
	}
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	path := filepath.Join(n.path(), name)
	errno := n.LoopbackNode.Rmdir(ctx, name)
	if errno == 0 {
		n.d.changed(func() error { return os.Mkdir(path, 0o700) }, nil, n.path())
	}
	return errno
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	if errno := n.d.change(ctx); errno != 0 {
		return errno
	}
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	path := filepath.Join(n.path(), name)
	aside, err := n.d.keep(path)
	if err != nil {
		return fs.ToErrno(err)
	}
	if errno := n.LoopbackNode.Unlink(ctx, name); errno != 0 {
		_ = os.Remove(aside)
		return errno
	}
	n.d.changed(func() error { return os.Rename(aside, path) }, func() { _ = os.Remove(aside) }, n.path())
	return 0
}

func (n *node) Rename(ctx context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if errno := n.d.change(ctx); errno != 0 {
		return errno
	}
	if flags != 0 {
		return syscall.EINVAL
	}
	to := parent.(*node)
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	was, is := filepath.Join(n.path(), name), filepath.Join(to.path(), newName)
	aside := ""
	if st, err := os.Lstat(is); err == nil && st.Mode().IsRegular() {
		if aside, err = n.d.keep(is); err != nil {
			return fs.ToErrno(err)
		}
	}
	if errno := n.LoopbackNode.Rename(ctx, name, parent, newName, 0); errno != 0 {
		if aside != "" {
			_ = os.Remove(aside)
		}
		return errno
	}
	undo := func() error {
		err := os.Rename(is, was)
		if aside != "" {
			err = errors.Join(err, os.Rename(aside, is))
		}
		return err
	}
	n.d.changed(undo, func() {
		if aside != "" {
			_ = os.Remove(aside)
		}
	}, n.path(), to.path())
	return 0
}

func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.d.grow(ctx); errno != 0 {
		return nil, errno
	}
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	inode, errno := n.LoopbackNode.Link(ctx, target, name, out)
	if errno == 0 {
		path := filepath.Join(n.path(), name)
		n.d.changed(func() error { return os.Remove(path) }, nil, n.path())
	}
	return inode, errno
}

// Setattr without an open file: only a new size changes what is on the disk.
func (n *node) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		if errno := n.d.grow(ctx); errno != 0 {
			return errno
		}
		f, open := h.(*file)
		if !open {
			own, err := os.OpenFile(n.path(), os.O_RDWR, 0)
			if err != nil {
				return fs.ToErrno(err)
			}
			defer own.Close()
			f = n.handle(own)
		}
		if errno := f.truncate(int64(size)); errno != 0 {
			return errno
		}
		in.Valid &^= fuse.FATTR_SIZE
	}
	return n.LoopbackNode.Setattr(ctx, nil, in, out)
}

func (n *node) OpendirHandle(_ context.Context, _ uint32) (fs.FileHandle, uint32, syscall.Errno) {
	stream, errno := fs.NewLoopbackDirStream(n.path())
	if errno != 0 {
		return nil, 0, errno
	}
	return &dir{stream: stream.(entries), n: n}, 0, 0
}

// entries is what reads a directory.
type entries interface {
	fs.FileReaddirenter
	fs.FileSeekdirer
	fs.FileReleasedirer
}

// dir is an open directory.
type dir struct {
	stream entries
	n      *node
}

func (h *dir) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	return h.stream.Readdirent(ctx)
}

func (h *dir) Seekdir(ctx context.Context, off uint64) syscall.Errno {
	return h.stream.Seekdir(ctx, off)
}

func (h *dir) Releasedir(ctx context.Context, flags uint32) { h.stream.Releasedir(ctx, flags) }

func (h *dir) Fsyncdir(ctx context.Context, _ uint32) syscall.Errno {
	d := h.n.d
	t, errno := d.enter(ctx.Done())
	if errno != 0 {
		return errno
	}
	d.Counts.Syncs.Add(1)
	if d.draw(t.FailSync) {
		d.Counts.FailedSyncs.Add(1)
		return syscall.EIO
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncedDir(h.n.path())
	return 0
}
