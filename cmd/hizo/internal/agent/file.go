package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hizo/hizo/cmd/hizo/internal/values"
)

// file is one that is kept up to date. One goroutine owns it.
type file struct {
	FileConfig
	inUse *values.Set // what its reader has: replaced and, where that is asked for, reloaded
}

// update brings the file up to date and has its reader reload it, if it changed. A reload that failed is repeated at the
// next update.
func (f *file) update(ctx context.Context, set *values.Set) (changed bool, err error) {
	content, err := f.template.Render(set)
	if err != nil {
		return false, err
	}
	defer clear(content)
	changed, err = f.replace(content)
	if err != nil {
		return false, err
	}
	// After a start nobody knows whether the reader has what is there; it is told only of changes.
	failedBefore := f.inUse != nil && len(f.part(set).Changed(f.inUse)) > 0
	if f.Reload != nil && (changed || failedBefore) {
		if err := f.Reload.run(ctx); err != nil {
			return changed, fmt.Errorf("reload: %w", err)
		}
	}
	f.inUse = f.part(set)
	return changed, nil
}

// part is what the template uses of a set.
func (f *file) part(set *values.Set) *values.Set {
	out := &values.Set{}
	for _, v := range set.Values {
		if f.template.Uses(v.Name) {
			out.Values = append(out.Values, v)
		}
	}
	return out
}

// replace writes the file unless it is there as it should be. A reader finds the old content or the new one.
func (f *file) replace(content []byte) (changed bool, err error) {
	if f.same(content) {
		return false, nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(f.Path), ".hizo-*") // mode 0600
	if err != nil {
		return false, err
	}
	defer os.Remove(tmp.Name()) // fails after the rename, as it should
	if f.uid >= 0 || f.gid >= 0 {
		err = tmp.Chown(f.uid, f.gid)
	}
	if err == nil {
		_, err = tmp.Write(content)
	}
	if err := errors.Join(err, tmp.Chmod(f.mode), tmp.Sync(), tmp.Close()); err != nil {
		return false, err
	}
	return true, os.Rename(tmp.Name(), f.Path)
}

// same reports whether the file has this content, mode and owner already.
func (f *file) same(content []byte) bool {
	st, err := os.Lstat(f.Path)
	if err != nil || st.Mode() != f.mode || st.Size() != int64(len(content)) { // a regular file has no other bits
		return false
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && (f.uid >= 0 && int(sys.Uid) != f.uid || f.gid >= 0 && int(sys.Gid) != f.gid) {
		return false
	}
	old, err := os.ReadFile(f.Path)
	defer clear(old)
	return err == nil && bytes.Equal(old, content)
}

// reloadTimeout is for reload commands that name none.
const reloadTimeout = 30 * time.Second

func (r *ReloadConfig) run(ctx context.Context) error {
	if r.PIDFile != "" {
		pid, err := readPID(r.PIDFile)
		if err != nil {
			return err
		}
		return unix.Kill(pid, r.signal)
	}
	ctx, cancel := context.WithTimeout(ctx, r.Timeout.or(reloadTimeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, r.Command[0], r.Command[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.Env = withoutCredentials(os.Environ())
	cmd.WaitDelay = time.Second
	return cmd.Run()
}

// maxPID bounds a pid file.
const maxPID = 32

func readPID(path string) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPID))
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("%s holds no process id", path)
	}
	return pid, nil
}

func lookUser(text string) (int, error) {
	if text == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return int(n), nil
	}
	u, err := user.Lookup(text)
	if err != nil {
		return -1, err
	}
	return strconv.Atoi(u.Uid)
}

func lookGroup(text string) (int, error) {
	if text == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(text)
	if err != nil {
		return -1, err
	}
	return strconv.Atoi(g.Gid)
}
