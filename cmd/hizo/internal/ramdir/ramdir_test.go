package ramdir_test

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/cmd/hizo/internal/ramdir"
)

// This binary is its own guard, and a process that makes a directory and waits to be killed.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == ramdir.GuardCommand {
		if err := ramdir.Guard(os.Args[2], os.Stdin); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv("TEST_HOLDER") != "" {
		d, err := ramdir.New("")
		if err != nil {
			panic(err)
		}
		if err := d.Write("KEY", []byte("hunter2"), 0o400); err != nil {
			panic(err)
		}
		os.Stdout.WriteString(d.Path("KEY") + "\n")
		select {}
	}
	os.Exit(m.Run())
}

func open(t *testing.T) *ramdir.Dir {
	t.Helper()
	d, err := ramdir.New("")
	if errors.Is(err, ramdir.ErrNoMemory) {
		t.Skip("there is no tmpfs here")
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestFiles(t *testing.T) {
	d := open(t)
	for _, content := range []string{"one", "two, longer", ""} {
		if err := d.Write("KEY", []byte(content), 0o400); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(d.Path("KEY"))
		if err != nil || string(got) != content {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if st, err := os.Stat(d.Path("KEY")); err != nil || st.Mode().Perm() != 0o400 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if st, err := os.Stat(filepath.Dir(d.Path("KEY"))); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("directory's mode %v, %v", st.Mode(), err)
	}
	for _, bad := range []string{"", "../x", "a/b", ".", ".hidden"} {
		if err := d.Write(bad, nil, 0o400); err == nil {
			t.Errorf("wrote %q", bad)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(d.Path("KEY"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// Whoever is killed leaves nothing.
func TestGuardOutlivesItsParent(t *testing.T) {
	open(t).Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_HOLDER=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	path := strings.TrimSpace(line)
	if got, err := os.ReadFile(path); err != nil || string(got) != "hunter2" {
		t.Fatalf("got %q, %v", got, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the directory is still there")
		}
	}
}

func TestDiskIsRefused(t *testing.T) {
	if _, err := ramdir.New("/proc"); err == nil || !strings.Contains(err.Error(), "not written to disk") {
		t.Errorf("got %v", err)
	}
}

func TestGuardRemovesNothingElse(t *testing.T) {
	dir := t.TempDir()
	if err := ramdir.Guard(dir, strings.NewReader("")); err == nil {
		t.Error("it was done")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}
