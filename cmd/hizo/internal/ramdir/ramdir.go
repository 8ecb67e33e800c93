// Package ramdir keeps files with secrets in memory: in a private directory on a tmpfs, for programs that want a
// path.
//
// Failure model: Close removes the directory. A process that is killed before is survived by its guard, a small
// process of the same program that waits for that and removes the directory then. Only when both are killed, or the
// machine stops, do the files stay: in memory, gone with the next boot. The kernel may write a tmpfs to swap.
package ramdir

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// GuardCommand is the hidden command by which the guard is started: its argument is the directory.
const GuardCommand = "__guard"

// prefix of every directory's name: the guard removes nothing else.
const prefix = "hizo-run-"

// ErrNoMemory says that no tmpfs was found.
var ErrNoMemory = errors.New("no file system in memory (tmpfs) is writable: mount one and name it with --secret-dir")

// Dir is a private directory in memory.
type Dir struct {
	path  string
	leash *os.File // the guard acts when this is closed
	guard *exec.Cmd
}

// candidates are where a tmpfs of a user usually is.
func candidates() []string {
	return []string{os.Getenv("XDG_RUNTIME_DIR"), fmt.Sprintf("/run/user/%d", os.Getuid()), "/dev/shm"}
}

// New makes a directory under one that is on a tmpfs; "" looks for one.
func New(under string) (*Dir, error) {
	where := []string{under}
	if under == "" {
		where = candidates()
	}
	for _, w := range where {
		if w == "" || !inMemory(w) {
			continue
		}
		path, err := os.MkdirTemp(w, prefix+"*") // mode 0700
		if err != nil {
			continue
		}
		d := &Dir{path: path}
		if err := d.watch(); err != nil {
			return nil, errors.Join(fmt.Errorf("start the guard of %s: %w", path, err), os.RemoveAll(path))
		}
		return d, nil
	}
	if under != "" {
		return nil, fmt.Errorf("%s is no writable directory on a file system in memory (tmpfs): secrets are not written to disk", under)
	}
	return nil, ErrNoMemory
}

// watch starts the guard, in a session of its own so that no signal of a terminal ends it.
func (d *Dir) watch() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	d.guard = &exec.Cmd{
		Path: executable(), Args: []string{os.Args[0], GuardCommand, d.path}, Env: []string{}, Dir: "/",
		Stdin: r, SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := d.guard.Start(); err != nil {
		w.Close()
		return err
	}
	d.leash = w
	return nil
}

// Path of a file.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name) }

// Write replaces a file in one step: its reader finds the old content or the new one.
func (d *Dir) Write(name string, content []byte, mode os.FileMode) error {
	if name == "" || strings.ContainsRune(name, '/') || strings.HasPrefix(name, ".") {
		return fmt.Errorf("%q names no file", name)
	}
	tmp := d.Path(".new-" + name)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, d.Path(name))
}

// Remove removes a file.
func (d *Dir) Remove(name string) error { return os.Remove(d.Path(name)) }

// Close removes the directory.
func (d *Dir) Close() error {
	err := os.RemoveAll(d.path)
	d.leash.Close()
	_ = d.guard.Wait() // it finds nothing left to do
	return err
}

// Guard is the other process: it waits for the end of standard input, which is that of its parent or of Close, and
// removes the directory.
func Guard(path string, stdin io.Reader) error {
	if !strings.HasPrefix(filepath.Base(path), prefix) || !filepath.IsAbs(path) {
		return fmt.Errorf("%s is no directory of hizo run", path)
	}
	_, _ = io.Copy(io.Discard, stdin)
	return os.RemoveAll(path)
}
