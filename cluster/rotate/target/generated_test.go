package target_test

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/cluster/rotate/target/targettest"
	"github.com/hizo/hizo/crypto/secret"
)

func TestGenerated(t *testing.T) {
	for _, config := range []map[string]string{{}, {"field": "password", "length": "40"}, {"key": "ssh-ed25519"}} {
		targettest.Target(t, func(*testing.T) targettest.Subject {
			return targettest.Subject{
				Kind: "generated", Target: target.NewGenerated(), Config: config,
				First: target.Value{"value": secret.Copy([]byte("first-value")), "password": secret.Copy([]byte("first-password"))},
				Login: func(target.Value) error { return nil }, // nothing outside to try it at
			}
		})
	}
}

func stageGenerated(t *testing.T, config map[string]string, old target.Value) target.Value {
	t.Helper()
	g := target.NewGenerated()
	if err := g.Check(config); err != nil {
		t.Fatal(err)
	}
	v, err := g.Stage(t.Context(), target.Attempt{Config: config, Old: old})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Verify(t.Context(), target.Attempt{Config: config, New: v}); err != nil {
		t.Error(err)
	}
	return v
}

func TestGeneratedText(t *testing.T) {
	old := target.Value{"user": secret.Copy([]byte("app")), "password": secret.Copy([]byte("old"))}
	for _, c := range []struct {
		alphabet, characters, length string
	}{
		{"alphanumeric", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", "48"},
		{"hex", "0123456789abcdef", "64"},
		{"digits", "0123456789", "22"},
		{"base64url", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", "4096"},
	} {
		v := stageGenerated(t, map[string]string{"field": "password", "length": c.length, "alphabet": c.alphabet}, old)
		text := string(v["password"].Reveal())
		if strings.Trim(text, c.characters) != "" || len(text) < 22 || string(v["user"].Reveal()) != "app" || len(v) != 2 {
			t.Errorf("%s: %d characters, fields %d", c.alphabet, len(text), len(v))
		}
		seen := map[rune]int{}
		for _, r := range text {
			seen[r]++
		}
		if c.length == "4096" && len(seen) != len(c.characters) {
			t.Errorf("%s: only %d characters occur in %d", c.alphabet, len(seen), len(text))
		}
		again := stageGenerated(t, map[string]string{"field": "password", "length": c.length, "alphabet": c.alphabet}, old)
		if again["password"].Equal(v["password"]) {
			t.Error("the same value twice")
		}
	}
	if string(old["password"].Reveal()) != "old" {
		t.Error("the old value was changed")
	}
}

func TestGeneratedKeys(t *testing.T) {
	t.Parallel()
	for kind, check := range map[string]func(private, public []byte) error{
		"ed25519": pemPair, "ecdsa-p256": pemPair, "rsa-3072": pemPair,
		"ssh-ed25519": func(private, public []byte) error {
			key, err := ssh.ParsePrivateKey(private)
			if err != nil {
				return err
			}
			if string(ssh.MarshalAuthorizedKey(key.PublicKey())) != string(public) {
				return errPair
			}
			return nil
		},
		"age": func(private, public []byte) error {
			key, err := age.ParseX25519Identity(strings.TrimSpace(string(private)))
			if err != nil {
				return err
			}
			if key.Recipient().String() != strings.TrimSpace(string(public)) {
				return errPair
			}
			return nil
		},
	} {
		v := stageGenerated(t, map[string]string{"field": "signing", "key": kind}, nil)
		if err := check(v["signing"].Reveal(), v["signing_public"].Reveal()); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

type pairError struct{}

func (pairError) Error() string { return "the halves do not belong together" }

var errPair = pairError{}

func pemPair(private, public []byte) error {
	block, _ := pem.Decode(private)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return err
	}
	block, _ = pem.Decode(public)
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return err
	}
	want, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return errPair
	}
	have, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return err
	}
	if string(have) != string(want) {
		return errPair
	}
	return nil
}

func TestGeneratedRefuses(t *testing.T) {
	for _, config := range []map[string]string{
		{"field": ""}, {"field": "a b"}, {"length": "x"}, {"length": "10"}, {"length": "-5"}, {"length": "4097"},
		{"length": "19", "alphabet": "digits"}, {"alphabet": "klingon"}, {"key": "dsa"}, {"key": "age", "length": "64"}, {"pasword": "x"},
	} {
		if err := target.NewGenerated().Check(config); err == nil {
			t.Errorf("%v was taken", config)
		}
	}
	if err := target.NewGenerated().Check(map[string]string{"length": "22", "alphabet": "digits"}); err != nil {
		t.Error(err)
	}
}
