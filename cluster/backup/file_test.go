package backup_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/hizo/hizo/cluster/backup"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
)

var update = flag.Bool("update", false, "write the golden file anew")

func operators(t testing.TB) *hybrid.Key {
	t.Helper()
	key, err := hybrid.DeriveKey(secret.New(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var header = backup.Header{
	Cluster: "000102030405060708090a0b0c0d0e0f", Name: "test", Origin: "hizo/000102030405060708090a0b0c0d0e0f", Created: 1_700_000_000_000,
	Version: "v1", Index: 9, Term: 2, Records: 4, Root: bytes.Repeat([]byte{1}, 32), Bytes: 200_000, Threshold: 2, Operators: 3, Deal: []byte("deal"),
}

var proof = backup.Proof{
	MAC: bytes.Repeat([]byte{2}, 32), Record: []byte("leaf"), Path: [][]byte{{3}}, Prefix: [][]byte{{4}},
	Chain: []backup.Link{{
		Size: 5, Root: bytes.Repeat([]byte{5}, 32), Time: 6, Extends: [][]byte{{7}},
		Signatures: []backup.Signature{{Node: "n1", Key: []byte{1, 2, 3, 4}, Signature: []byte("s")}},
		Members:    []backup.Leaf{{Leaf: []byte("l"), Seq: 1, Path: [][]byte{{8}}}},
	}},
}

// state of n bytes that repeats itself nowhere.
func state(n int) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func write(t testing.TB, body []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := backup.NewWriter(&out, header, operators(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	digest, size, err := w.End()
	if err != nil || size != uint64(out.Len()) || digest != sha256.Sum256(out.Bytes()) {
		t.Fatalf("the digest is not of the %d bytes: %v", size, err)
	}
	if err := w.Prove(proof); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// read opens a file with the operators' key and returns what is in it.
func read(t testing.TB, file []byte) ([]byte, error) {
	r, err := backup.NewReader(bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	in, err := r.Body(operators(t))
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	_, _, err = r.Proof()
	return body, err
}

func TestFileHoldsTheState(t *testing.T) {
	for _, n := range []int{1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 3 << 16, 200_000} {
		body := state(n)
		got, err := read(t, write(t, body))
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes: %d come back, %v", n, len(got), err)
		}
	}
	another, err := hybrid.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	r, err := backup.NewReader(bytes.NewReader(write(t, state(9))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Body(another); !errors.Is(err, hybrid.ErrOpen) {
		t.Errorf("another key opens it: %v", err)
	}
}

// Files of the first release stay readable. A change here is a change of format.
func TestFormatIsGolden(t *testing.T) {
	path := filepath.Join("testdata", "v1"+backup.Suffix)
	body := state(70_000)
	if *update {
		if err := os.WriteFile(path, write(t, body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := read(t, file); err != nil || !bytes.Equal(got, body) {
		t.Fatalf("%d bytes come back, %v", len(got), err)
	}
	if !bytes.HasPrefix(file, []byte("hizo-backup-v1\n{\"cluster\":\"000102030405060708090a0b0c0d0e0f\",")) {
		t.Error("the file does not say what it is")
	}
	r, err := backup.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Skip(); err != nil {
		t.Fatal(err)
	}
	p, _, err := r.Proof()
	if err != nil || len(p.Chain) != 1 || p.Chain[0].Signatures[0].Node != "n1" || string(p.Record) != "leaf" {
		t.Errorf("proof %+v, %v", p, err)
	}
}

// Whoever mends every checksum still cannot move, drop or repeat what is encrypted.
func TestChunksKnowTheirPlace(t *testing.T) {
	body := state(4 << 16)
	file := write(t, body)
	start := bytes.IndexByte(file[len("hizo-backup-v1\n"):], '\n') + len("hizo-backup-v1\n") + 1
	const chunk = 4 + 64<<10 + 29
	at := func(i int) []byte { return file[start+i*chunk : start+(i+1)*chunk] }
	for name, chunks := range map[string][]int{
		"swapped": {1, 0, 2, 3}, "repeated": {0, 0, 2, 3}, "the first dropped": {1, 2, 3}, "the last dropped": {0, 1, 2}, "the last twice": {0, 1, 2, 3, 3},
	} {
		b := bytes.Clone(file[:start])
		for _, i := range chunks {
			b = append(b, at(i)...)
		}
		b = append(b, 0, 0, 0, 0)
		r, err := backup.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		in, err := r.Body(operators(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, in); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever stands in a file, reading it ends in an error or in a file that says the same again.
func FuzzReader(f *testing.F) {
	f.Add(write(f, state(100)))
	f.Add([]byte("hizo-backup-v1\n{}\n"))
	f.Add([]byte("hizo-backup-v2\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		r, err := backup.NewReader(bytes.NewReader(file))
		if err != nil {
			return
		}
		if err := r.Skip(); err != nil {
			return
		}
		if _, digest, err := r.Proof(); err == nil && !bytes.Contains(file, []byte("sha256 ")) {
			t.Errorf("a file without its checksum: digest %x", digest)
		}
	})
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	if _, err := backup.OpenDir(filepath.Join(dir, "none")); err == nil {
		t.Error("a directory that is not there")
	}
	d, err := backup.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	name := "a" + backup.Suffix
	f, err := d.Create(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if list, err := d.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("an unfinished file is listed: %v, %v", list, err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	f.Abort() // after Commit: nothing
	if list, err := d.List(ctx); err != nil || len(list) != 1 || list[0] != (backup.Entry{Name: name, Size: 1}) {
		t.Errorf("%v, %v", list, err)
	}
	if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	again, err := d.Create(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Commit(); err == nil {
		t.Error("a backup was overwritten")
	}
	again.Abort()
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	if err := d.Remove(ctx, name); err != nil {
		t.Error(err)
	}
}
