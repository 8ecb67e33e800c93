package seal_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/hizo/hizo/crypto/seal"
)

func TestReadSecretFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, content []byte, mode fs.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, n := range []int{0, 1, 511, 512, 513, 100_000} {
		content := bytes.Repeat([]byte{'x'}, n)
		got, err := seal.ReadSecretFile(write("good", content, 0o600))
		if err != nil || !bytes.Equal(got.Reveal(), content) {
			t.Errorf("%d bytes: got %d, %v", n, got.Len(), err)
		}
	}
	if _, err := seal.ReadSecretFile(write("readonly", []byte("x"), 0o400)); err != nil {
		t.Errorf("mode 0400: %v", err)
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o777} {
		if _, err := seal.ReadSecretFile(write("open", []byte("x"), mode)); !errors.Is(err, seal.ErrPermissions) {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "open"), link); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.ReadSecretFile(link); !errors.Is(err, seal.ErrPermissions) {
		t.Errorf("a link to an open file: %v", err)
	}
	for _, path := range []string{dir, "/dev/zero"} {
		if _, err := seal.ReadSecretFile(path); !errors.Is(err, seal.ErrPermissions) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := seal.ReadSecretFile(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := seal.ReadSecretFile(write("huge", make([]byte, 5<<20), 0o600)); err == nil {
		t.Error("5 MiB are taken for a PIN")
	}
	if os.Geteuid() == 0 {
		path := write("foreign", []byte("x"), 0o600)
		if err := os.Chown(path, 12345, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := seal.ReadSecretFile(path); !errors.Is(err, seal.ErrPermissions) {
			t.Errorf("another user's file: %v", err)
		}
	}
}

func FuzzHandle(f *testing.F) {
	for _, s := range []string{"", "a", "local", "share-00ff", "../x", "A", "a\x00", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ok := len(s) >= 1 && len(s) <= 64
		for _, r := range s {
			ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
		}
		if err := seal.Handle(s).Check(); (err == nil) != ok {
			t.Fatalf("%q: %v", s, err)
		}
	})
}

func TestShareHandle(t *testing.T) {
	h := seal.ShareHandle([8]byte{0, 1, 0xff})
	if h != "share-0001ff0000000000" || h.Check() != nil {
		t.Errorf("%s", h)
	}
}
