package cluster

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// A file system of which tests say how much is free.
type space struct {
	free, total uint64
	err         error
}

func (s *space) room(string) (uint64, uint64, error) { return s.free, s.total, s.err }

func TestDiskMarks(t *testing.T) {
	const reserve = 64 << 20
	s := &space{free: 10 << 30, total: 100 << 30}
	dir := t.TempDir()
	d := &disk{dir: dir, ballast: filepath.Join(dir, "reserve"), reserve: reserve, room: s.room, log: slog.New(slog.DiscardHandler)}
	d.status.Store(&DiskStatus{})
	held := func() bool { _, err := os.Stat(d.ballast); return err == nil }
	if now := d.look(); now.Low || now.Full || !held() || d.held != reserve/2 {
		t.Fatalf("with room: %+v, held %d", now, d.held)
	}
	for _, step := range []struct {
		name            string
		free            uint64
		low, full, held bool
	}{
		{"room besides the file", reserve / 2, false, false, true},
		{"below the reserve", reserve/2 - 1, true, false, true},
		{"a little above it: not yet", reserve/2 + reserve/8 - 1, true, false, true},
		{"enough again", reserve/2 + reserve/8, false, false, true},
		{"another program took all of it", 0, true, false, false},
		{"what the file gave is used up", reserve/4 - 1, true, true, false},
		{"a little more", reserve*3/8 - 1, true, true, false},
		{"enough to follow", reserve * 3 / 8, true, false, false},
		{"room, and the file comes back", reserve * 9 / 8, false, false, true},
	} {
		s.free = step.free
		now := d.look()
		if now.Low != step.low || now.Full != step.full || held() != step.held {
			t.Errorf("%s: low %v full %v held %v", step.name, now.Low, now.Full, held())
		}
		if err := d.take(1); (err != nil) != step.full {
			t.Errorf("%s: append: %v", step.name, err)
		}
	}
	// What cannot be read changes nothing.
	was := d.Status()
	s.err = errors.New("gone")
	s.free = 0
	if d.look() != was {
		t.Errorf("a failed look: %+v", d.Status())
	}
	// Who appends fast does not wait for the next look.
	s.err, s.free = nil, 0
	if err := d.take(reserve/64 - 10000); err != nil || d.Status().Low {
		t.Errorf("before a look is due: %+v, %v", d.Status(), err)
	}
	if err := d.take(10000); err != nil || !d.Status().Low {
		t.Errorf("a sixty-fourth of the reserve was appended, and nobody looked: %+v, %v", d.Status(), err)
	}
	s.err, s.free = nil, 100<<20
	if err := d.fits(50 << 20); err != nil {
		t.Errorf("50 of 100 MiB: %v", err)
	}
	if err := d.fits(110 << 20); err == nil {
		t.Error("110 of 100 MiB fit")
	}
}

// The file of an earlier run counts, and goes when nothing is reserved any more.
func TestDiskBallastOfAnEarlierRun(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "reserve")
	log := slog.New(slog.DiscardHandler)
	if openDisk(dir, path, 8<<20, log).held == 0 {
		t.Skip("this file system sets no space aside")
	}
	if again := openDisk(dir, path, 8<<20, log); again.held != 4<<20 {
		t.Errorf("%d bytes are held after a restart", again.held)
	}
	openDisk(dir, path, 0, log)
	if _, err := os.Stat(path); err == nil {
		t.Error("the file stays although nothing is reserved")
	}
}
