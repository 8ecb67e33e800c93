package pkcs11_test

import (
	"errors"
	"testing"

	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/crypto/seal/pkcs11"
	"github.com/hizo/hizo/crypto/seal/sealtest"
	"github.com/hizo/hizo/crypto/seal/softhsm"
)

// provision makes tokens of one directory, which is what a process can use at a time: the configuration
// is the process's, and read when the module is initialised. All seals must be closed before the next
// provision, so these tests are never parallel.
func provision(t *testing.T, labels ...string) []softhsm.Token {
	t.Helper()
	dir := t.TempDir()
	tokens := make([]softhsm.Token, len(labels))
	for i, label := range labels {
		var err error
		tokens[i], err = softhsm.Provision(dir, label)
		if errors.Is(err, softhsm.ErrNotInstalled) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv(softhsm.ConfEnv, tokens[0].Conf)
	return tokens
}

func config(token softhsm.Token) pkcs11.Config {
	return pkcs11.Config{Module: token.Module, TokenLabel: token.Label, PINFile: token.PINFile}
}

func open(t *testing.T, cfg pkcs11.Config) *pkcs11.Seal {
	t.Helper()
	s, err := pkcs11.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	sealtest.Run(t, func(t *testing.T) sealtest.Device {
		token := provision(t, "hizo")[0]
		return sealtest.Device{Open: func(t *testing.T) seal.Seal {
			s, err := pkcs11.Open(config(token))
			if err != nil {
				t.Fatal(err)
			}
			return s
		}}
	})
}
