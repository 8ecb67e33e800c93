package software_test

import (
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hizo/hizo/crypto/internal/golden"
	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/crypto/seal/sealtest"
	"github.com/hizo/hizo/crypto/seal/software"
)

func open(t *testing.T, path string) *software.Seal {
	t.Helper()
	s, err := software.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	sealtest.Run(t, func(t *testing.T) sealtest.Device {
		path := filepath.Join(t.TempDir(), "keys.json")
		return sealtest.Device{Open: func(t *testing.T) seal.Seal {
			s, err := software.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}}
	})
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys.json")
	s := open(t, path)
	if err := s.CreateKey(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := software.Open(path); !errors.Is(err, seal.ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := software.Open(path); !errors.Is(err, seal.ErrPermissions) {
		t.Errorf("readable by the group: %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"empty": "", "cut short": string(good[:len(good)/2]), "no JSON": "keys", "newer": strings.Replace(string(good), `"format":1`, `"format":2`, 1),
		"no identity": `{"format":1,"keys":{}}`, "short key": strings.Replace(string(good), `"keys":{"a":"`, `"keys":{"b":"AAAA","a":"`, 1),
		"bad handle": strings.Replace(string(good), `"a":`, `"../a":`, 1),
		"RSA":        `{"format":1,"identity":"MAA=","keys":{}}`,
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := software.Open(path)
		if !errors.Is(err, software.ErrFile) {
			t.Errorf("%s: %v", name, err)
		}
		// A damaged file is never replaced by a new identity.
		if now, err := os.ReadFile(path); err != nil || string(now) != content {
			t.Errorf("%s: the file changed", name)
		}
	}
	if _, err := software.Open(filepath.Join(dir, "none", "keys.json")); err == nil {
		t.Error("no error for a directory that is not there")
	}
}

// A write that fails changes nothing, on disk or in memory.
func TestFailedWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	s := open(t, path)
	if err := s.CreateKey(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	b, err := s.Wrap(t.Context(), "a", []byte("plain"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(path+".tmp/x", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateKey(t.Context(), "b"); err == nil {
		t.Error("create: no error")
	}
	if err := s.DestroyKey(t.Context(), "a"); err == nil {
		t.Error("destroy: no error")
	}
	check := func(s *software.Seal) {
		t.Helper()
		if keys, err := s.Keys(t.Context()); err != nil || !slices.Equal(keys, []seal.Handle{"a"}) {
			t.Errorf("keys %v, %v", keys, err)
		}
		if got, err := s.Unwrap(t.Context(), "a", b, nil); err != nil || string(got) != "plain" {
			t.Errorf("unwrap: %q, %v", got, err)
		}
		if _, err := s.Wrap(t.Context(), "b", nil, nil); !errors.Is(err, seal.ErrNoKey) {
			t.Errorf("the key that was not written: %v", err)
		}
	}
	check(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	check(s)
	if err := os.RemoveAll(path + ".tmp"); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateKey(t.Context(), "b"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestGolden(t *testing.T) {
	type vector struct {
		File    json.RawMessage
		Public  []byte
		Wrapped []byte // "plain" at "here", by the key "a"
	}
	v := golden.Load(t, "software.json", func() (v vector) {
		path := filepath.Join(t.TempDir(), "keys.json")
		s := open(t, path)
		if err := s.CreateKey(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		var err error
		if v.Wrapped, err = s.Wrap(t.Context(), "a", []byte("plain"), []byte("here")); err != nil {
			t.Fatal(err)
		}
		if v.Public, err = s.Identity().Public().(*ecdsa.PublicKey).Bytes(); err != nil {
			t.Fatal(err)
		}
		if v.File, err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		return v
	})
	path := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(path, v.File, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	if got, err := s.Unwrap(t.Context(), "a", v.Wrapped, []byte("here")); err != nil || string(got) != "plain" {
		t.Errorf("%q, %v", got, err)
	}
	if public, err := s.Identity().Public().(*ecdsa.PublicKey).Bytes(); err != nil || !slices.Equal(public, v.Public) {
		t.Errorf("the identity changed: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"format":1,"identity":"","keys":{}}`))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "keys.json")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := software.Open(path)
		if err == nil {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		} else if !errors.Is(err, software.ErrFile) {
			t.Fatal(err)
		}
	})
}
