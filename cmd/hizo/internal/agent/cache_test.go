package agent

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/cmd/hizo/internal/values"
)

var update = flag.Bool("update", false, "write golden files anew")

func testCache(t *testing.T, dir string, job values.Job) *cache {
	t.Helper()
	c, err := openCache(CacheConfig{File: filepath.Join(dir, "cache"), KeyFile: filepath.Join(dir, "key")}, job, []byte("ca"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var testJob = values.Job{Wants: []values.Want{{Name: "PW", Ref: &name.Reference{Resource: name.Resource{Vault: "ml", Path: "db"}, Field: "f"}}}}

func TestCacheBounds(t *testing.T) {
	dir := t.TempDir()
	c := testCache(t, dir, testJob)
	now := time.Unix(1_800_000_000, 0)
	c.now = func() time.Time { return now }
	s := offline(set(7, "hunter2", "a"))
	s.Values[1].Leased = true
	if err := c.store(s); err != nil {
		t.Fatal(err)
	}
	got, until, err := c.load()
	if err != nil || !until.Equal(now.Add(time.Hour)) || len(got.Values) != 2 || string(got.Values[0].Bytes.Reveal()) != "hunter2" || got.Values[0].Version != 7 {
		t.Fatalf("%+v, %v, %v", got, until, err)
	}
	other := testJob
	other.Pipeline = true
	if _, _, err := testCache(t, dir, other).load(); !errors.Is(err, errCacheBad) {
		t.Errorf("another configuration: %v", err)
	}
	c.now = func() time.Time { return now.Add(-time.Hour) }
	if _, _, err := c.load(); !errors.Is(err, errCacheOver) {
		t.Errorf("a clock set back: %v", err)
	}
	c.now = func() time.Time { return now }
	c.MaxAge = Duration(time.Minute)
	if err := c.store(s); err != nil {
		t.Fatal(err)
	}
	c.now = func() time.Time { return now.Add(time.Minute) }
	if _, _, err := c.load(); !errors.Is(err, errCacheOver) {
		t.Errorf("too old: %v", err)
	}
	if _, _, err := c.load(); !errors.Is(err, errNoCache) {
		t.Errorf("what was too old is still there: %v", err)
	}
}

func TestCacheOfAnotherKey(t *testing.T) {
	dir := t.TempDir()
	if err := testCache(t, dir, testJob).store(offline(set(7, "hunter2", "a"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "key")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := testCache(t, dir, testJob).load(); !errors.Is(err, errCacheBad) {
		t.Errorf("got %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, "key"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := cacheKey(filepath.Join(dir, "key")); err == nil || !strings.Contains(err.Error(), "others can read") {
		t.Errorf("got %v", err)
	}
}

// What an older agent has cached is read by every later one.
func TestCacheGolden(t *testing.T) {
	c := &cache{
		CacheConfig: CacheConfig{File: filepath.Join(t.TempDir(), "cache")}, key: bytes.Repeat([]byte{7}, keySize), scope: []byte("scope"),
		now: func() time.Time { return time.Unix(1_800_000_000, 0) },
	}
	golden := filepath.Join("testdata", "cache1.golden")
	if *update {
		if err := c.store(offline(set(7, "hunter2", "a"))); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(c.File)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(hex.EncodeToString(b)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	got, until, err := c.decode(b)
	if err != nil || until.Unix() != 1_800_003_600 || len(got.Values) != 3 || string(got.Values[0].Bytes.Reveal()) != "hunter2" || got.Values[0].Secret != "ml/db" {
		t.Errorf("%+v, %v, %v", got, until, err)
	}
}

func FuzzCache(f *testing.F) {
	c := &cache{key: bytes.Repeat([]byte{7}, keySize), scope: []byte("scope"), now: time.Now}
	f.Add([]byte(cacheMagic))
	f.Add([]byte(cacheMagic + strings.Repeat("x", 40)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := c.decode(b); err == nil {
			t.Error("opened what nobody sealed")
		}
	})
}
