package fsm

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	currentFile    = "CURRENT"
	databasePrefix = "db-"
	firstDatabase  = "db-000001"
)

// currentDatabase says which directory holds the state.
func (s *Store) currentDatabase() (string, error) {
	if err := makeDir(s.fs, s.dir); err != nil {
		return "", fmt.Errorf("make state directory: %w", err)
	}
	data, err := readFile(s.fs, s.fs.PathJoin(s.dir, currentFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s.firstDatabase()
	}
	if err != nil {
		return "", fmt.Errorf("read which database is in use: %w", err)
	}
	name := strings.TrimSuffix(string(data), "\n")
	if !strings.HasPrefix(name, databasePrefix) || s.fs.PathBase(name) != name {
		return "", fmt.Errorf("%s in %s is damaged; restore the data directory of this node from its peers", currentFile, s.dir)
	}
	return name, nil
}

// firstDatabase covers a new directory, and one whose making was interrupted before CURRENT was written. A directory
// that holds state but no CURRENT is not guessed at.
func (s *Store) firstDatabase() (string, error) {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return "", fmt.Errorf("list state directory: %w", err)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, databasePrefix) {
			continue
		}
		if name == firstDatabase {
			db, err := openPebble(s.fs, s.fs.PathJoin(s.dir, name), s.log, s.halt, false)
			if err != nil {
				return "", err
			}
			position, err := loadPosition(db)
			if err := errors.Join(err, db.Close()); err != nil {
				return "", err
			}
			if position == (Position{}) {
				continue
			}
		}
		return "", fmt.Errorf("%s in %s is missing though %s is there; restore the data directory of this node from its peers",
			currentFile, s.dir, name)
	}
	return firstDatabase, nil
}

func (s *Store) setCurrent(name string) error {
	if err := writeFile(s.fs, s.dir, currentFile, []byte(name+"\n")); err != nil {
		return fmt.Errorf("record which database is in use: %w", err)
	}
	return nil
}

// nextDatabase returns a directory name that no database has.
func (s *Store) nextDatabase() (string, error) {
	var n int
	if _, err := fmt.Sscanf(s.db.name, databasePrefix+"%d", &n); err != nil {
		return "", fmt.Errorf("database directory %q: %w", s.db.name, err)
	}
	for {
		n++
		name := fmt.Sprintf("%s%06d", databasePrefix, n)
		if _, err := s.fs.Stat(s.fs.PathJoin(s.dir, name)); errors.Is(err, fs.ErrNotExist) {
			return name, nil
		} else if err != nil {
			return "", err
		}
	}
}

// removeStale removes what interrupted restores left.
func (s *Store) removeStale() {
	names, err := s.fs.List(s.dir)
	if err != nil {
		s.log.Error("state store: listing the state directory", "error", err)
		return
	}
	for _, name := range names {
		if name == exportDir || strings.HasPrefix(name, databasePrefix) && name != s.db.name {
			if err := s.fs.RemoveAll(s.fs.PathJoin(s.dir, name)); err != nil {
				s.log.Error("state store: removing an unused database", "name", name, "error", err)
			}
		}
	}
}

func readFile(fsys vfs.FS, path string) ([]byte, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(f)
	return data, errors.Join(err, f.Close())
}

// writeFile replaces dir/name: after a crash it is the old file or the new one.
func writeFile(fsys vfs.FS, dir, name string, data []byte) error {
	path := fsys.PathJoin(dir, name)
	f, err := fsys.Create(path+".tmp", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(path+".tmp", path); err != nil {
		return err
	}
	return syncDir(fsys, dir)
}

// makeDir makes dir and what is missing above it, so that it is there after a crash too.
func makeDir(fsys vfs.FS, dir string) error {
	if _, err := fsys.Stat(dir); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := fsys.PathDir(dir)
	if parent != dir {
		if err := makeDir(fsys, parent); err != nil {
			return err
		}
	}
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(fsys, parent)
}

func syncDir(fsys vfs.FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
