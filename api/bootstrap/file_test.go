package bootstrap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func sample() File {
	return File{Node: "n1", Address: "127.0.0.1:7300", KeySHA256: strings.Repeat("ab", 32), Token: NewToken()}
}

func TestWriteReadIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bootstrap")
	want := sample()
	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", st.Mode().Perm())
	}
	got, err := Read(path)
	if err != nil || got != want {
		t.Errorf("read %v, %v", got, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); !errors.Is(err, ErrPermissions) {
		t.Errorf("group-readable file: got %v, want ErrPermissions", err)
	}
	if _, err := Read(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: got %v", err)
	}
}

func TestTokenIsNeverPrinted(t *testing.T) {
	f := sample()
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if out := fmt.Sprintf(format, f); strings.Contains(out, f.Token) {
			t.Errorf("%s prints the token", format)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"node":"n1","address":"a:1","key_sha256":"` + strings.Repeat("00", 32) + `","token":"t"}`))
	f.Add([]byte(`{"node":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse(data)
		if err != nil {
			return
		}
		if _, err := file.Pin(); err != nil || file.Token == "" {
			t.Errorf("accepted %q", data)
		}
	})
}
