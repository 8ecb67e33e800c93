package seal_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/api/seal"
)

// authority is a CA as a cluster's is.
type authority struct {
	key *ecdsa.PrivateKey
	pem []byte
}

func newAuthority(t testing.TB, isCA bool) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: isCA,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) sign(t testing.TB, k *seal.Key) {
	t.Helper()
	sum := sha256.Sum256(k.Statement())
	var err error
	if k.Signature, err = a.key.Sign(nil, sum[:], crypto.SHA256); err != nil {
		t.Fatal(err)
	}
}

func keyFile(t testing.TB, ca *authority) *seal.Key {
	k := &seal.Key{Cluster: place.Cluster, Vault: "ml", Pipeline: "train", Created: time.Unix(1_800_000_000, 0).UTC(), Public: keyOf(t, 1).Public()}
	ca.sign(t, k)
	return k
}

func TestKeyFiles(t *testing.T) {
	ca, other := newAuthority(t, true), newAuthority(t, true)
	k := keyFile(t, ca)
	for what, file := range map[string][]byte{
		"as printed": k.File(), "with CRLF": bytes.ReplaceAll(k.File(), []byte("\n"), []byte("\r\n")),
		"with blank lines around": []byte("\n" + string(k.File()) + "\n\n"),
	} {
		got, err := seal.ParseKey(file)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if err := got.Verify(append(bytes.Clone(other.pem), ca.pem...)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if got.ID() != k.ID() || got.Place("X") != k.Place("X") || !got.Created.Equal(k.Created) {
			t.Errorf("%s: read as %+v", what, got)
		}
		if err := got.Verify(other.pem); !errors.Is(err, seal.ErrKeySignature) {
			t.Errorf("%s, another CA: %v", what, err)
		}
		if err := got.Verify([]byte("no PEM")); err == nil || errors.Is(err, seal.ErrKeySignature) {
			t.Errorf("%s, no CA: %v", what, err)
		}
	}
	leaf := newAuthority(t, false)
	if err := keyFile(t, leaf).Verify(leaf.pem); !errors.Is(err, seal.ErrKeySignature) {
		t.Errorf("signed by a certificate that is no CA's: %v", err)
	}
	// The statement can't be taken for anything else that the CA signs.
	if k.Statement()[0] != 0 {
		t.Error("a statement begins as a certificate does")
	}
}

// Whatever a person can read in the file is what was signed.
func TestKeyFilesAreWhatTheySay(t *testing.T) {
	ca := newAuthority(t, true)
	k := keyFile(t, ca)
	text := string(k.File())
	for what, c := range map[string]struct{ old, new string }{
		"pipeline": {"Pipeline: ml/train", "Pipeline: ml/fork"},
		"vault":    {"Pipeline: ml/train", "Pipeline: hr/train"},
		"cluster":  {"Cluster: ab", "Cluster: ac"},
		"created":  {"Created: 2027", "Created: 2028"},
		"public":   {text[strings.LastIndex(text, "\n\n")+2:][:40], "AAAA" + text[strings.LastIndex(text, "\n\n")+6:][:36]},
	} {
		if !strings.Contains(text, c.old) {
			t.Fatalf("%s: no %q in\n%s", what, c.old, text)
		}
		got, err := seal.ParseKey([]byte(strings.Replace(text, c.old, c.new, 1)))
		if err == nil {
			err = got.Verify(ca.pem)
		}
		if err == nil {
			t.Errorf("another %s passes", what)
		}
	}
	for what, file := range map[string]string{
		"empty":              "",
		"another id":         strings.Replace(text, "Key-Id: ", "Key-Id: 00", 1),
		"another header":     strings.Replace(text, "Version: 1", "Version: 1\nZone: here", 1),
		"version 2":          strings.Replace(text, "Version: 1", "Version: 2", 1),
		"headers reordered":  strings.Replace(text, "Version: 1\n", "", 1),
		"two blocks":         text + text,
		"text behind":        text + "x",
		"text before":        "x\n" + text,
		"another block":      strings.ReplaceAll(text, "HIZO PIPELINE KEY", "PUBLIC KEY"),
		"cut off":            text[:len(text)/2],
		"local time":         strings.Replace(text, "Z\n", "+00:00\n", 1),
		"too large":          text + strings.Repeat("\n", seal.MaxKeyFile),
		"no canonical vault": strings.Replace(text, "Pipeline: ml/", "Pipeline: ML/", 1),
	} {
		if _, err := seal.ParseKey([]byte(file)); !errors.Is(err, seal.ErrKeyFile) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(keyFile(f, newAuthority(f, true)).File())
	f.Add([]byte("-----BEGIN HIZO PIPELINE KEY-----\nVersion: 1\n\n-----END HIZO PIPELINE KEY-----\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		k, err := seal.ParseKey(file)
		if err != nil {
			if !errors.Is(err, seal.ErrKeyFile) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		again, err := seal.ParseKey(k.File())
		if err != nil || !bytes.Equal(again.Statement(), k.Statement()) || !bytes.Equal(again.Signature, k.Signature) {
			t.Errorf("%q is read as %+v", file, k)
		}
	})
}
