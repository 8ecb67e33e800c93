package cluster

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/crypto/seal/software"
	"github.com/hizo/hizo/crypto/shares"
)

func testSeal(t *testing.T) seal.Seal {
	t.Helper()
	s, err := software.Open(filepath.Join(t.TempDir(), "seal"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func testDeal(t *testing.T) (shares.Deal, []shares.Share) {
	t.Helper()
	secret, deal, list, err := shares.Split([16]byte{1}, shares.NodeSet, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	secret.Wipe()
	return deal, list
}

func TestShareFile(t *testing.T) {
	s, dir := testSeal(t), t.TempDir()
	files, err := openShareFiles(dir, s, "n1")
	if err != nil {
		t.Fatal(err)
	}
	deal, list := testDeal(t)
	if _, err := files.get(t.Context(), 7, deal); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a share that was never stored: %v", err)
	}
	back, err := files.put(t.Context(), 7, deal, list[0])
	if err != nil {
		t.Fatal(err)
	}
	nonce := bytes.Repeat([]byte{3}, 32)
	if err := shares.VerifyProof(list[0], nonce, 7, "n1", shares.Prove(back, nonce, 7, "n1")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(files.file(7))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := list[0].MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, plain[28:]) {
		t.Fatal("the share is on the disk in the clear")
	}

	t.Run("damaged", func(t *testing.T) {
		for at := range data {
			bad := bytes.Clone(data)
			bad[at] ^= 0x40
			if err := os.WriteFile(files.file(8), bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := files.get(t.Context(), 8, deal); err == nil {
				t.Fatalf("byte %d of %d flipped, and it opens", at, len(data))
			}
		}
		for n := range data {
			if err := os.WriteFile(files.file(8), data[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := files.get(t.Context(), 8, deal); err == nil {
				t.Fatalf("cut to %d bytes, and it opens", n)
			}
		}
		if err := os.Remove(files.file(8)); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("another node's", func(t *testing.T) {
		other := &shareFiles{dir: dir, seal: s, node: "n2"}
		if _, err := other.get(t.Context(), 7, deal); !errors.Is(err, seal.ErrAuth) {
			t.Fatalf("n2 opens the share of n1: %v", err)
		}
	})
	t.Run("another deal's", func(t *testing.T) {
		next, _ := testDeal(t)
		if _, err := files.get(t.Context(), 7, next); !errors.Is(err, errShareFile) {
			t.Fatal(err)
		}
	})
	t.Run("destroyed", func(t *testing.T) {
		if err := files.destroy(t.Context(), 7); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(files.file(7), data, 0o600); err != nil { // an old backup of the file
			t.Fatal(err)
		}
		if _, err := files.get(t.Context(), 7, deal); !errors.Is(err, seal.ErrNoKey) {
			t.Fatalf("a destroyed share opens again: %v", err)
		}
		if err := files.destroy(t.Context(), 7); err != nil {
			t.Fatalf("again: %v", err)
		}
		if err := files.destroy(t.Context(), 99); err != nil {
			t.Fatalf("of a deal that never was: %v", err)
		}
	})
}

// What crashes leave behind: a temporary file, an HSM key without a file, a file without its key. The next
// start tidies the first, the next sweep the second, and whole shares stay.
func TestShareFileCrashes(t *testing.T) {
	s, dir := testSeal(t), t.TempDir()
	files, err := openShareFiles(dir, s, "n1")
	if err != nil {
		t.Fatal(err)
	}
	deal, list := testDeal(t)
	if _, err := files.put(t.Context(), 7, deal, list[0]); err != nil {
		t.Fatal(err)
	}
	abandoned := seal.ShareHandle([8]byte{9})
	if err := s.CreateKey(t.Context(), abandoned); err != nil {
		t.Fatal(err)
	}
	if err := seal.EnsureKey(t.Context(), s, seal.Local); err != nil {
		t.Fatal(err)
	}
	tmp := filepath.Join(dir, tempPrefix+"8")
	if err := os.WriteFile(tmp, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "9"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if files, err = openShareFiles(dir, s, "n1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(tmp); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the temporary file is still there")
	}
	if keys, err := s.Keys(t.Context()); err != nil || len(keys) != 3 {
		t.Errorf("keys %v, %v; a start destroys none", keys, err)
	}
	if gone, err := files.sweep(t.Context(), []shares.DealID{{9}}); err != nil || len(gone) != 0 {
		t.Errorf("destroyed %v of a deal that the state knows, %v", gone, err)
	}
	if gone, err := files.sweep(t.Context(), nil); err != nil || len(gone) != 1 || gone[0] != abandoned {
		t.Errorf("destroyed %v, %v; want %s", gone, err, abandoned)
	}
	keys, err := s.Keys(t.Context())
	if err != nil || len(keys) != 2 {
		t.Errorf("keys %v, %v; want the local one and the share's", keys, err)
	}
	if _, err := files.get(t.Context(), 7, deal); err != nil {
		t.Errorf("the whole share: %v", err)
	}
	if err := files.destroy(t.Context(), 9); err != nil {
		t.Errorf("destroy a damaged file: %v", err)
	}
	// The disk is full, or the folder is gone: the error says so, and nothing is half there.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := files.put(t.Context(), 10, deal, list[0]); err == nil {
		t.Error("stored a share without a folder")
	}
}

func FuzzParseJoinToken(f *testing.F) {
	good := joinToken{cluster: [16]byte{1}, secret: [32]byte{2}, members: []Peer{{Addr: "127.0.0.1:1", Key: [32]byte{3}}}}.text()
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(good[:20] + "\n" + good[20:])
	f.Add(joinPrefix)
	f.Fuzz(func(t *testing.T, text string) {
		token, err := parseJoinToken(text)
		if err != nil {
			return
		}
		again, err := parseJoinToken(token.text())
		if err != nil || again.text() != token.text() || len(token.members) == 0 || len(token.members) > maxTokenMembers {
			t.Fatalf("%q is taken for %+v, %v", text, token, err)
		}
		if trimmed := text[len(text)-len(token.text()):]; len(text) == len(token.text()) && trimmed != token.text() {
			t.Fatalf("%q has another text %q", text, token.text())
		}
	})
}

func TestNodeNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"n1": true, "node-1.rack_2": true, "a": true,
		"": false, "N1": false, "-a": false, "a-": false, "a.": false, "a..b": false, "a/b": false, "a b": false, "ä": false,
		string(bytes.Repeat([]byte{'a'}, 64)): true, string(bytes.Repeat([]byte{'a'}, 65)): false,
	} {
		if nodeName(name) != ok {
			t.Errorf("%q: %v", name, !ok)
		}
	}
}
