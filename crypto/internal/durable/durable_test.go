package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hizo/hizo/crypto/internal/durable"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, content := range []string{"first", "second, longer", ""} {
		if err := durable.WriteFile(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if got := read(t, path); got != content {
			t.Errorf("%q, want %q", got, content)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	}
	// What a crash before the rename left does not get in the way, nor lend its mode.
	if err := os.WriteFile(path+".tmp", []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("third")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || read(t, path) != "third" {
		t.Errorf("after a crash: %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// A link at the temporary name is not followed: it would let another user choose what is overwritten.
func TestWriteFileFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "f")
	if err := os.Symlink(victim, path+".tmp"); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("content")); err != nil {
		t.Fatal(err)
	}
	if read(t, victim) != "mine" || read(t, path) != "content" {
		t.Error("the link was followed")
	}
}

func TestWriteFileFails(t *testing.T) {
	for name, block := range map[string]func(dir, path string) error{
		"no directory":              func(dir, _ string) error { return os.RemoveAll(dir) },
		"temporary name taken":      func(_, path string) error { return os.MkdirAll(path+".tmp/x", 0o700) },
		"the target is a directory": func(_, path string) error { return os.MkdirAll(path+"/x", 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			if err := block(dir, path); err != nil {
				t.Fatal(err)
			}
			if err := durable.WriteFile(path, []byte("new")); err == nil {
				t.Fatal("no error")
			}
			if info, err := os.Stat(path + ".tmp"); err == nil && info.Mode().IsRegular() {
				t.Error("the temporary file is left behind")
			}
		})
	}
}
