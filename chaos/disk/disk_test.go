package disk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func mounted(t *testing.T) *Disk {
	t.Helper()
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil || os.Getuid() != 0 {
		t.Skip("no FUSE for this user on this machine")
	} else {
		_ = f.Close()
	}
	dir := t.TempDir()
	backing, at := filepath.Join(dir, "backing"), filepath.Join(dir, "at")
	for _, d := range []string{backing, at} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	d, err := Mount(backing, at)
	if err != nil {
		t.Skip("no FUSE on this machine: ", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *Disk) name(name string) string { return filepath.Join(d.at, name) }

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, f *os.File, b byte, off int64, size int, sync bool) {
	t.Helper()
	_, err := f.WriteAt(bytes.Repeat([]byte{b}, size), off)
	must(t, err)
	if sync {
		must(t, f.Sync())
	}
}

func syncDir(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	must(t, f.Sync(), f.Close())
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	return f
}

// What was synced is there, and each page of the rest is old or new, whole.
func TestPowerLossTakesPages(t *testing.T) {
	d := mounted(t)
	lost, kept := 0, 0
	for seed := range uint64(24) {
		_ = os.Remove(d.name("f"))
		f := create(t, d.name("f"))
		write(t, f, 'a', 0, 4*page, true)
		syncDir(t, d.at)
		write(t, f, 'b', page, 2*page, false)
		write(t, f, 'c', 2*page, page/2, false)
		write(t, f, 'd', 4*page, page, false)
		must(t, f.Close())
		if _, _, err := d.PowerLoss(rand.New(rand.NewPCG(seed, 0))); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(d.name("f"))
		must(t, err)
		if len(got) != 4*page && len(got) != 5*page {
			t.Fatalf("seed %d: %d bytes", seed, len(got))
		}
		for n, may := range []string{"a", "ab", "ac", "a", "d\x00"} {
			if n*page < len(got) && !bytes.Contains([]byte(may), got[n*page:n*page+1]) {
				t.Errorf("seed %d: page %d begins with %q", seed, n, got[n*page])
			}
		}
		if got[page] == 'a' {
			lost++
		} else {
			kept++
		}
		if half := got[2*page+page/2]; got[2*page] == 'c' && half != 'b' || got[2*page] == 'a' && half != 'a' {
			t.Errorf("seed %d: a page is neither old nor new", seed)
		}
	}
	if lost == 0 || kept == 0 {
		t.Errorf("of 24 unsynced pages %d were lost and %d kept", lost, kept)
	}
}

// Names that were changed last are lost first, and an fsync of the directory keeps them.
func TestPowerLossTakesNames(t *testing.T) {
	d := mounted(t)
	lost := 0
	for seed := range uint64(24) {
		f := create(t, d.name("old"))
		write(t, f, 'o', 0, 10, true)
		must(t, f.Close())
		syncDir(t, d.at)
		f = create(t, d.name("new"))
		write(t, f, 'n', 0, 10, true)
		must(t, f.Close(), os.Rename(d.name("new"), d.name("old")), os.Mkdir(d.name("dir"), 0o700))
		must(t, create(t, filepath.Join(d.name("dir"), "inside")).Close())
		if seed%3 == 0 {
			syncDir(t, d.at)
		}
		if _, _, err := d.PowerLoss(rand.New(rand.NewPCG(seed, 0))); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(d.name("old"))
		must(t, err)
		_, newErr := os.Stat(d.name("new"))
		_, dirErr := os.Stat(d.name("dir"))
		switch {
		case seed%3 == 0 && (got[0] != 'n' || dirErr != nil):
			t.Errorf("seed %d: a synced name was lost (%q, %v)", seed, got[0], dirErr)
		case got[0] == 'n' && newErr == nil, got[0] == 'o' && dirErr == nil:
			t.Errorf("seed %d: content %q, new %v, dir %v", seed, got[0], newErr, dirErr)
		case got[0] == 'o':
			lost++
		}
		must(t, os.RemoveAll(d.name("dir")), os.RemoveAll(d.name("new")), os.RemoveAll(d.name("old")))
		syncDir(t, d.at)
	}
	if lost == 0 {
		t.Error("no name was lost")
	}
}

// A file that was removed without a sync is there again, with what was synced of it.
func TestPowerLossBringsBack(t *testing.T) {
	d := mounted(t)
	f := create(t, d.name("f"))
	write(t, f, 'a', 0, 10, true)
	must(t, f.Close())
	syncDir(t, d.at)
	must(t, os.Remove(d.name("f")))
	back := false
	for seed := uint64(0); !back && seed < 16; seed++ {
		if _, _, err := d.PowerLoss(rand.New(rand.NewPCG(seed, 0))); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(d.name("f"))
		if errors.Is(err, os.ErrNotExist) {
			must(t, os.WriteFile(d.name("f"), bytes.Repeat([]byte("a"), 10), 0o600))
			syncDir(t, d.at)
			must(t, os.Remove(d.name("f")))
			continue
		}
		must(t, err)
		back = len(got) == 10 || len(got) == 0 // the second one was not synced itself
	}
	if !back {
		t.Error("a removed name never came back")
	}
}

// After an fsync that failed, one that succeeds keeps what was written since, and not what was written before.
func TestFailedSyncDooms(t *testing.T) {
	d := mounted(t)
	f := create(t, d.name("f"))
	write(t, f, 'a', 0, 2*page, true)
	syncDir(t, d.at)
	write(t, f, 'b', 0, 2*page, false)
	d.Set(Trouble{FailSync: 1})
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	d.Set(Trouble{})
	write(t, f, 'c', page, 1, true)
	must(t, f.Close())
	if _, _, err := d.PowerLoss(rand.New(rand.NewPCG(1, 0))); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(d.name("f"))
	must(t, err)
	if got[0] != 'a' || got[page] != 'c' || got[page+1] != 'b' {
		t.Errorf("pages begin with %q and %q", got[0], got[page:page+2])
	}
}

func TestTrouble(t *testing.T) {
	d := mounted(t)
	f := create(t, d.name("f"))
	defer f.Close()
	for _, c := range []struct {
		name    string
		trouble Trouble
		write   error
		sync    error
	}{
		{"good", Trouble{}, nil, nil},
		{"writes fail", Trouble{FailWrite: 1}, syscall.EIO, nil},
		{"syncs fail", Trouble{FailSync: 1}, nil, syscall.EIO},
		{"full", Trouble{Full: true}, syscall.ENOSPC, nil},
		{"good again", Trouble{}, nil, nil},
	} {
		d.Set(c.trouble)
		_, err := f.WriteAt([]byte("x"), 0)
		if !errors.Is(err, c.write) || (err == nil) != (c.write == nil) {
			t.Errorf("%s: write says %v", c.name, err)
		}
		if err := f.Sync(); !errors.Is(err, c.sync) || (err == nil) != (c.sync == nil) {
			t.Errorf("%s: sync says %v", c.name, err)
		}
	}
	d.Set(Trouble{Full: true})
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.at, &st); err != nil || st.Bavail != 0 {
		t.Errorf("a full disk has %d blocks (%v)", st.Bavail, err)
	}
	d.Set(Trouble{Stall: true})
	done := make(chan error, 1)
	go func() { _, err := f.WriteAt([]byte("y"), 0); done <- err }()
	for deadline := time.Now().Add(10 * time.Second); d.Counts.Stalled.Load() == 0; {
		if time.Now().After(deadline) {
			t.Fatal("no write stalls")
		}
		<-time.After(time.Millisecond)
	}
	select {
	case err := <-done:
		t.Errorf("a stalled write came back: %v", err)
	default:
	}
	d.Set(Trouble{})
	must(t, <-done)
}
