package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Suffix of backups' names.
const Suffix = ".hizobackup"

// Place is where backups are kept. Names have no separators in them.
type Place interface {
	// Create begins a file. It is there under its name, whole and durable, once Commit has returned nil, and not at all
	// before.
	Create(ctx context.Context, name string) (File, error)
	Open(ctx context.Context, name string) (io.ReadCloser, error)
	List(ctx context.Context) ([]Entry, error)
	Remove(ctx context.Context, name string) error
	String() string // for people
}

// File is a backup being written. Abort drops it; after Commit it does nothing.
type File interface {
	io.Writer
	Commit() error
	Abort()
}

// Entry is a file that is kept.
type Entry struct {
	Name string
	Size int64
}

// Dir is a directory, best on another disk than the node's data. The files are of mode 0600.
type Dir struct{ path string }

var _ Place = Dir{}

// OpenDir checks that there is a directory; it is not made, so that a disk that is not mounted is noticed.
func OpenDir(path string) (Dir, error) {
	if !filepath.IsAbs(path) {
		return Dir{}, fmt.Errorf("backup directory %q: write an absolute path", path)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Dir{}, fmt.Errorf("backup directory %s: there is none; make it (or mount its disk)", path)
	case err != nil:
		return Dir{}, fmt.Errorf("backup directory: %w", err)
	case !info.IsDir():
		return Dir{}, fmt.Errorf("backup directory %s: that is a file", path)
	}
	return Dir{path}, nil
}

func (d Dir) String() string { return "directory " + d.path }

const unfinished = ".tmp"

// stale is how old an unfinished file is when nobody can be writing it any more: a node that died left it.
const stale = 24 * time.Hour

// Create implements Place.
func (d Dir) Create(_ context.Context, name string) (File, error) {
	d.tidy()
	f, err := os.OpenFile(filepath.Join(d.path, name+unfinished), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	return &dirFile{File: f, to: filepath.Join(d.path, name)}, nil
}

func (d Dir) tidy() {
	list, err := os.ReadDir(d.path)
	if err != nil {
		return // Create finds out
	}
	for _, e := range list {
		if info, err := e.Info(); err == nil && strings.HasSuffix(e.Name(), Suffix+unfinished) && time.Since(info.ModTime()) > stale {
			_ = os.Remove(filepath.Join(d.path, e.Name()))
		}
	}
}

// Open implements Place.
func (d Dir) Open(_ context.Context, name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(d.path, name))
}

// List implements Place.
func (d Dir) List(context.Context) ([]Entry, error) {
	list, err := os.ReadDir(d.path)
	if err != nil {
		return nil, fmt.Errorf("backup directory: %w", err)
	}
	var out []Entry
	for _, e := range list {
		if !strings.HasSuffix(e.Name(), Suffix) || !e.Type().IsRegular() {
			continue
		}
		if info, err := e.Info(); err == nil {
			out = append(out, Entry{e.Name(), info.Size()})
		}
	}
	return out, nil
}

// Remove implements Place.
func (d Dir) Remove(_ context.Context, name string) error {
	return os.Remove(filepath.Join(d.path, name))
}

type dirFile struct {
	*os.File
	to     string
	closed bool
}

// Commit implements File: synced, renamed, synced.
func (f *dirFile) Commit() error {
	err := f.Sync()
	f.closed = true
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if _, err := os.Lstat(f.to); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("backup: %s is there already", f.to)
	}
	if err := os.Rename(f.Name(), f.to); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(f.to))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Abort implements File.
func (f *dirFile) Abort() {
	if !f.closed {
		f.closed = true
		_ = f.Close()
	}
	_ = os.Remove(f.Name())
}
