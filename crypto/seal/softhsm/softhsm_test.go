package softhsm_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/hizo/hizo/crypto/seal/softhsm"
)

func provision(t *testing.T, dir, label string) softhsm.Token {
	t.Helper()
	token, err := softhsm.Provision(dir, label)
	if errors.Is(err, softhsm.ErrNotInstalled) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestProvision(t *testing.T) {
	t.Setenv(softhsm.ConfEnv, "before")
	dir := t.TempDir()
	a, b := provision(t, dir, "node-1"), provision(t, dir, "node-2")
	if os.Getenv(softhsm.ConfEnv) != "before" {
		t.Errorf("%s is %q now", softhsm.ConfEnv, os.Getenv(softhsm.ConfEnv))
	}
	if a.Serial == "" || a.Serial == b.Serial || a.Label != "node-1" || a.Conf != b.Conf || a.Env() != "SOFTHSM2_CONF="+a.Conf {
		t.Errorf("%+v\n%+v", a, b)
	}
	pins := map[string]bool{}
	for _, token := range []softhsm.Token{a, b} {
		pin, err := os.ReadFile(token.PINFile)
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.TrimSpace(string(pin)); len(text) < 20 || pins[text] {
			t.Errorf("a PIN of %d characters, or one used twice", len(text))
		}
		pins[string(pin)] = true
	}
	// Nothing in the directory is for others, whatever the umask.
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if again := provision(t, dir, "node-1"); again != a {
		t.Errorf("provisioned again: %+v, was %+v", again, a)
	}
}

func TestProvisionRefuses(t *testing.T) {
	dir := t.TempDir()
	token := provision(t, dir, "node")
	for _, label := range []string{"", "a b", "../x", "ä", strings.Repeat("x", 33), "x\n"} {
		if _, err := softhsm.Provision(dir, label); !errors.Is(err, softhsm.ErrLabel) {
			t.Errorf("%q: %v", label, err)
		}
	}
	if err := os.Remove(token.PINFile); err != nil {
		t.Fatal(err)
	}
	if _, err := softhsm.Provision(dir, "node"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the PIN file is gone: %v", err)
	}
}

// While a seal of this process uses one directory, a token for another would land in the first.
func TestProvisionInBusyProcess(t *testing.T) {
	dir := t.TempDir()
	token := provision(t, dir, "node")
	t.Setenv(softhsm.ConfEnv, token.Conf)
	ctx := pkcs11.New(token.Module)
	if err := ctx.Initialize(); err != nil {
		t.Fatal(err)
	}
	defer ctx.Destroy()
	defer ctx.Finalize()
	if _, err := softhsm.Provision(t.TempDir(), "node"); !errors.Is(err, softhsm.ErrBusy) {
		t.Errorf("another directory: %v", err)
	}
	if second := provision(t, dir, "second"); second.Serial == token.Serial {
		t.Error("one token for two labels")
	}
}
