package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestDistribution(t *testing.T) {
	var gaps []time.Duration
	for _, ms := range []time.Duration{12, 19, 20, 41} {
		gaps = append(gaps, ms*time.Millisecond)
	}
	const want = "gap, k\n   10 to   20 ms   2 ##\n   20 to   30 ms   1 #\n   30 to   40 ms   0\n   40 to   50 ms   1 #\n"
	if got := histogram(kind{id: "k", bucket: 10 * time.Millisecond}, gaps); got != want {
		t.Errorf("got\n%s", got)
	}
	if at(gaps, 50) != 19*time.Millisecond || at(gaps, 95) != 41*time.Millisecond {
		t.Error("percentiles are off")
	}
}

func TestFiguresGoBetweenTheMarks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.md")
	if err := os.WriteFile(path, []byte("a\n"+figures+"old\n"+ending+"b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := insert(path, "new\n"); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := os.ReadFile(path); string(got) != "a\n"+figures+"\nnew\n\n"+ending+"b\n" {
		t.Errorf("got %q", got)
	}
	if err := insert(os.DevNull, "new\n"); err == nil {
		t.Error("a file without marks was taken")
	}
}
