package check

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestScannerFindsEveryEncoding(t *testing.T) {
	secret := make([]byte, 32)
	rand.Read(secret)
	s, err := NewScanner(Needle{"canary", secret})
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 4096)
	rand.Read(noise)
	if f := s.Bytes("noise", noise); f != nil {
		t.Fatalf("found in noise: %v", f)
	}
	for before := range 7 {
		for after := range 4 {
			inside := append(append(noise[:before:before], secret...), noise[:after]...)
			for name, text := range map[string]string{
				"plain":     string(inside),
				"hex":       hex.EncodeToString(inside),
				"HEX":       strings.ToUpper(hex.EncodeToString(inside)),
				"base64":    base64.StdEncoding.EncodeToString(inside),
				"base64url": base64.RawURLEncoding.EncodeToString(inside),
			} {
				if f := s.Bytes(name, append(noise[:100:100], text...)); len(f) == 0 {
					t.Errorf("%s with %d bytes before and %d after: not found", name, before, after)
				}
			}
		}
	}
}

func TestTreeReadsFilesAndNames(t *testing.T) {
	secret := []byte("correct horse battery staple")
	s, err := NewScanner(Needle{"canary", secret})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("clean", bytes.Repeat([]byte("x"), 1000))
	write("sub/dirty", append([]byte("..."), secret...))
	write("sub/"+hex.EncodeToString(secret), nil)
	write("allowed/dirty", secret)
	found, files, err := s.Tree(dir, func(rel string) bool { return rel == "allowed" })
	if err != nil {
		t.Fatal(err)
	}
	if files != 3 || len(found) != 2 {
		t.Errorf("%d files, findings %v; want 3 files and two findings", files, found)
	}
	if _, err := NewScanner(Needle{"short", []byte("short")}); err == nil {
		t.Error("a needle that matches by chance was accepted")
	}
}
