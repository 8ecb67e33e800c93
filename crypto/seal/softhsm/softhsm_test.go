package softhsm_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	pkcs11seal "github.com/hizo/hizo/crypto/seal/pkcs11"
	"github.com/hizo/hizo/crypto/seal/softhsm"
	"github.com/hizo/hizo/crypto/secret"
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

// A PIN that is kept elsewhere opens the token, and no copy of it lies beside it.
func TestProvisionPIN(t *testing.T) {
	dir := t.TempDir()
	pin := "kept elsewhere, as a file of the orchestrator"
	token, err := softhsm.ProvisionPIN(dir, "node", secret.New([]byte(pin)))
	if errors.Is(err, softhsm.ErrNotInstalled) {
		t.Skip(err)
	}
	if err != nil || token.PINFile != "" {
		t.Fatalf("%+v, %v", token, err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 { // softhsm2.conf and tokens
		t.Errorf("%v, %v", files, err)
	}
	again, err := softhsm.ProvisionPIN(dir, "node", secret.New([]byte(pin)))
	if err != nil || again != token {
		t.Errorf("again: %+v, was %+v: %v", again, token, err)
	}
	for _, short := range []string{"", "123", strings.Repeat("x", 256)} {
		if _, err := softhsm.ProvisionPIN(dir, "other", secret.New([]byte(short))); !errors.Is(err, softhsm.ErrPIN) {
			t.Errorf("a PIN of %d: %v", len(short), err)
		}
	}
	for given, want := range map[string]bool{pin: true, pin + "x": false} {
		file := filepath.Join(t.TempDir(), "pin")
		if err := os.WriteFile(file, []byte(given), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv(softhsm.ConfEnv, token.Conf)
		s, err := pkcs11seal.Open(pkcs11seal.Config{Module: token.Module, TokenLabel: token.Label, PINFile: file})
		if (err == nil) != want {
			t.Errorf("opened with PIN %q: %v", given, err)
		}
		if err == nil {
			s.Close()
		}
	}
}
