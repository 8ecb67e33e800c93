// Package sealtest is the suite that every seal passes.
package sealtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hizo/hizo/crypto/seal"
)

// Device is one place where keys live. Open may be called again after the seal it returned was closed,
// and finds the same keys. A Device is new and empty for each test.
type Device struct {
	Open func(t *testing.T) seal.Seal
}

// Run tests a kind of seal. device makes a new Device.
func Run(t *testing.T, device func(t *testing.T) Device) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Device)
	}{
		{"identity signs", identitySigns},
		{"identity refuses other digests", identityRefuses},
		{"identity survives reopening", identitySurvives},
		{"identity serves TLS", identityTLS},
		{"wrap and unwrap", wrapUnwrap},
		{"ciphertexts differ", ciphertextsDiffer},
		{"a changed ciphertext is refused", changed},
		{"another aad or key is refused", misplaced},
		{"missing key", missingKey},
		{"key exists", keyExists},
		{"destroyed for good", destroyed},
		{"keys are listed", listed},
		{"keys survive reopening", survive},
		{"bad handles", badHandles},
		{"too large", tooLarge},
		{"concurrent use", concurrent},
		{"cancelled context", cancelled},
		{"closed", closed},
		{"files", files},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, device(t)) })
	}
}

func open(t *testing.T, d Device) seal.Seal {
	t.Helper()
	s := d.Open(t)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func create(t *testing.T, s seal.Seal, handles ...seal.Handle) {
	t.Helper()
	for _, h := range handles {
		if err := s.CreateKey(t.Context(), h); err != nil {
			t.Fatalf("create key %s: %v", h, err)
		}
	}
}

func wrap(t *testing.T, s seal.Seal, h seal.Handle, plain, aad string) []byte {
	t.Helper()
	b, err := s.Wrap(t.Context(), h, []byte(plain), []byte(aad))
	if err != nil {
		t.Fatalf("wrap: %v", err)
	}
	return b
}

func want(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: got error %v, want %v", what, err, target)
	}
}

func identitySigns(t *testing.T, d Device) {
	s := open(t, d)
	public, ok := s.Identity().Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		t.Fatalf("identity is %T, want a P-256 key", s.Identity().Public())
	}
	digest := sha256.Sum256([]byte("checkpoint"))
	sig, err := s.Identity().Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(public, digest[:], sig) {
		t.Error("signature does not verify")
	}
	digest[0] ^= 1
	if ecdsa.VerifyASN1(public, digest[:], sig) {
		t.Error("signature verifies for another digest")
	}
}

func identityRefuses(t *testing.T, d Device) {
	s := open(t, d)
	for _, c := range []struct {
		n    int
		opts crypto.SignerOpts
	}{{48, crypto.SHA384}, {31, crypto.SHA256}, {32, crypto.Hash(0)}, {20, crypto.SHA1}, {0, crypto.SHA256}} {
		_, err := s.Identity().Sign(rand.Reader, make([]byte, c.n), c.opts)
		want(t, fmt.Sprintf("%d bytes, %v", c.n, c.opts), err, seal.ErrDigest)
	}
}

func identitySurvives(t *testing.T, d Device) {
	s := d.Open(t)
	first := s.Identity().Public().(*ecdsa.PublicKey)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !first.Equal(open(t, d).Identity().Public()) {
		t.Error("the identity changed by reopening")
	}
}

func identityTLS(t *testing.T, d Device) {
	s := open(t, d)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, DNSNames: []string{"node"},
		NotAfter: time.Now().Add(time.Hour), NotBefore: time.Now().Add(-time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, s.Identity().Public(), s.Identity())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: s.Identity()}
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	srv := tls.Server(server, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs: roots, SessionTicketsDisabled: true,
	})
	cli := tls.Client(client, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: roots, ServerName: "node"})
	done := make(chan error, 1)
	go func() { done <- srv.HandshakeContext(t.Context()) }()
	if err := cli.HandshakeContext(t.Context()); err != nil {
		t.Fatalf("client: %v", err)
	}
	if err := <-done; err != nil {
		t.Fatalf("server: %v", err)
	}
}

func wrapUnwrap(t *testing.T, d Device) {
	s := open(t, d)
	create(t, s, "a")
	for _, n := range []int{0, 1, 15, 16, 17, 60, 4096, seal.MaxPlaintext} {
		for _, aad := range [][]byte{nil, []byte("here")} {
			plain := bytes.Repeat([]byte{0xa5}, n)
			b, err := s.Wrap(t.Context(), "a", plain, aad)
			if err != nil {
				t.Fatalf("wrap %d bytes: %v", n, err)
			}
			if len(b) != n+seal.Overhead || b[0] != seal.Format {
				t.Fatalf("wrap %d bytes: %d bytes of format %d", n, len(b), b[0])
			}
			got, err := s.Unwrap(t.Context(), "a", b, aad)
			if err != nil {
				t.Fatalf("unwrap %d bytes: %v", n, err)
			}
			if !bytes.Equal(got, plain) {
				t.Errorf("unwrap %d bytes: other bytes came back", n)
			}
		}
	}
}

func ciphertextsDiffer(t *testing.T, d Device) {
	s := open(t, d)
	create(t, s, "a")
	seen := map[string]bool{}
	for range 50 {
		b := wrap(t, s, "a", "the same", "here")
		nonce := string(b[1 : 1+seal.NonceSize])
		if seen[nonce] {
			t.Fatal("a nonce was used twice")
		}
		seen[nonce] = true
	}
}

func changed(t *testing.T, d Device) {
	s := open(t, d)
	create(t, s, "a")
	b := wrap(t, s, "a", "0123456789", "here")
	for i := range b {
		c := slices.Clone(b)
		c[i] ^= 0x10
		_, err := s.Unwrap(t.Context(), "a", c, []byte("here"))
		want(t, fmt.Sprintf("byte %d changed", i), err, seal.ErrAuth)
	}
	for i := range b {
		_, err := s.Unwrap(t.Context(), "a", b[:i], []byte("here"))
		want(t, fmt.Sprintf("cut to %d bytes", i), err, seal.ErrAuth)
	}
	_, err := s.Unwrap(t.Context(), "a", append(slices.Clone(b), 0), []byte("here"))
	want(t, "one byte more", err, seal.ErrAuth)
	_, err = s.Unwrap(t.Context(), "a", make([]byte, 10<<20), nil)
	want(t, "10 MiB of zeros", err, seal.ErrAuth)
	// Refusals don't harm the seal.
	if got, err := s.Unwrap(t.Context(), "a", b, []byte("here")); err != nil || string(got) != "0123456789" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

func misplaced(t *testing.T, d Device) {
	s := open(t, d)
	create(t, s, "a", "b")
	b := wrap(t, s, "a", "plain", "here")
	_, err := s.Unwrap(t.Context(), "a", b, []byte("there"))
	want(t, "another aad", err, seal.ErrAuth)
	_, err = s.Unwrap(t.Context(), "a", b, nil)
	want(t, "no aad", err, seal.ErrAuth)
	_, err = s.Unwrap(t.Context(), "b", b, []byte("here"))
	want(t, "another key", err, seal.ErrAuth)
}

func missingKey(t *testing.T, d Device) {
	s := open(t, d)
	_, err := s.Wrap(t.Context(), "none", []byte("x"), nil)
	want(t, "wrap", err, seal.ErrNoKey)
	_, err = s.Unwrap(t.Context(), "none", make([]byte, 64), nil)
	want(t, "unwrap", err, seal.ErrNoKey)
	if err := s.DestroyKey(t.Context(), "none"); err != nil {
		t.Errorf("destroying a key that is not there: %v", err)
	}
}

func keyExists(t *testing.T, d Device) {
	s := open(t, d)
	create(t, s, "a")
	b := wrap(t, s, "a", "plain", "")
	want(t, "second key of one handle", s.CreateKey(t.Context(), "a"), seal.ErrKeyExists)
	if err := seal.EnsureKey(t.Context(), s, "a"); err != nil {
		t.Errorf("ensure: %v", err)
	}
	if _, err := s.Unwrap(t.Context(), "a", b, nil); err != nil {
		t.Errorf("the first key is gone: %v", err)
	}
}

func destroyed(t *testing.T, d Device) {
	s := d.Open(t)
	create(t, s, "a", "b")
	b := wrap(t, s, "a", "plain", "")
	for range 2 { // twice: it is idempotent
		if err := s.DestroyKey(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Unwrap(t.Context(), "a", b, nil)
	want(t, "unwrap", err, seal.ErrNoKey)
	_, err = s.Wrap(t.Context(), "a", nil, nil)
	want(t, "wrap", err, seal.ErrNoKey)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, d)
	_, err = s.Unwrap(t.Context(), "a", b, nil)
	want(t, "unwrap after reopening", err, seal.ErrNoKey)
	create(t, s, "a")
	_, err = s.Unwrap(t.Context(), "a", b, nil)
	want(t, "unwrap with a new key of the same handle", err, seal.ErrAuth)
	if keys, err := s.Keys(t.Context()); err != nil || !slices.Equal(keys, []seal.Handle{"a", "b"}) {
		t.Errorf("keys %v, %v", keys, err)
	}
}

func listed(t *testing.T, d Device) {
	s := open(t, d)
	if keys, err := s.Keys(t.Context()); err != nil || len(keys) != 0 {
		t.Fatalf("a new seal has keys %v, %v", keys, err)
	}
	var wanted []seal.Handle
	for i := range byte(25) { // more than one C_FindObjects returns
		wanted = append(wanted, seal.ShareHandle([8]byte{7: i}))
	}
	create(t, s, wanted...)
	keys, err := s.Keys(t.Context())
	if err != nil || !slices.Equal(keys, wanted) {
		t.Errorf("keys %v, %v; want %v", keys, err, wanted)
	}
}

func survive(t *testing.T, d Device) {
	s := d.Open(t)
	create(t, s, "a")
	b := wrap(t, s, "a", "plain", "here")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, d)
	if got, err := s.Unwrap(t.Context(), "a", b, []byte("here")); err != nil || string(got) != "plain" {
		t.Errorf("after reopening: %q, %v", got, err)
	}
	want(t, "create", s.CreateKey(t.Context(), "a"), seal.ErrKeyExists)
}

func badHandles(t *testing.T, d Device) {
	s := open(t, d)
	for _, h := range []seal.Handle{"", "A", "a/b", "a b", "ä", "a\x00", "..", seal.Handle(bytes.Repeat([]byte{'a'}, 65))} {
		want(t, fmt.Sprintf("create %q", h), s.CreateKey(t.Context(), h), seal.ErrHandle)
		want(t, fmt.Sprintf("destroy %q", h), s.DestroyKey(t.Context(), h), seal.ErrHandle)
		_, err := s.Wrap(t.Context(), h, nil, nil)
		want(t, fmt.Sprintf("wrap %q", h), err, seal.ErrHandle)
		_, err = s.Unwrap(t.Context(), h, nil, nil)
		want(t, fmt.Sprintf("unwrap %q", h), err, seal.ErrHandle)
	}
}

func tooLarge(t *testing.T, d Device) {
	s := open(t, d)
	create(t, s, "a")
	_, err := s.Wrap(t.Context(), "a", make([]byte, seal.MaxPlaintext+1), nil)
	want(t, "wrap", err, seal.ErrTooLarge)
}

func concurrent(t *testing.T, d Device) {
	s := open(t, d)
	create(t, s, "shared")
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			own := seal.Handle(fmt.Sprintf("own-%d", i))
			if err := s.CreateKey(t.Context(), own); err != nil {
				t.Errorf("create %s: %v", own, err)
				return
			}
			for j := range 5 {
				for _, h := range []seal.Handle{own, "shared"} {
					plain := fmt.Sprintf("%d %d", i, j)
					b, err := s.Wrap(t.Context(), h, []byte(plain), []byte(own))
					if err != nil {
						t.Errorf("wrap with %s: %v", h, err)
						return
					}
					if got, err := s.Unwrap(t.Context(), h, b, []byte(own)); err != nil || string(got) != plain {
						t.Errorf("unwrap with %s: %q, %v", h, got, err)
					}
				}
				digest := sha256.Sum256([]byte(own))
				sig, err := s.Identity().Sign(rand.Reader, digest[:], crypto.SHA256)
				if err != nil || !ecdsa.VerifyASN1(s.Identity().Public().(*ecdsa.PublicKey), digest[:], sig) {
					t.Errorf("sign: %v", err)
				}
			}
			if err := s.DestroyKey(t.Context(), own); err != nil {
				t.Errorf("destroy %s: %v", own, err)
			}
		})
	}
	// One of many creators of one handle wins.
	made := make(chan error, 8)
	for range cap(made) {
		wg.Go(func() { made <- s.CreateKey(t.Context(), "contended") })
	}
	wg.Wait()
	close(made)
	won := 0
	for err := range made {
		if err == nil {
			won++
		} else {
			want(t, "create contended", err, seal.ErrKeyExists)
		}
	}
	if won != 1 {
		t.Errorf("%d calls created one key", won)
	}
}

func cancelled(t *testing.T, d Device) {
	s := open(t, d)
	create(t, s, "a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Wrap(ctx, "a", nil, nil)
	want(t, "wrap", err, context.Canceled)
	_, err = s.Unwrap(ctx, "a", nil, nil)
	want(t, "unwrap", err, context.Canceled)
	_, err = s.Keys(ctx)
	want(t, "keys", err, context.Canceled)
	want(t, "create", s.CreateKey(ctx, "b"), context.Canceled)
	want(t, "destroy", s.DestroyKey(ctx, "a"), context.Canceled)
	want(t, "healthy", s.Healthy(ctx), context.Canceled)
	if err := s.Healthy(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if keys, err := s.Keys(t.Context()); err != nil || !slices.Equal(keys, []seal.Handle{"a"}) {
		t.Errorf("afterwards: keys %v, %v", keys, err)
	}
}

func closed(t *testing.T, d Device) {
	s := d.Open(t)
	create(t, s, "a")
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Wrap(t.Context(), "a", nil, nil)
	want(t, "wrap", err, seal.ErrClosed)
	_, err = s.Unwrap(t.Context(), "a", make([]byte, 64), nil)
	want(t, "unwrap", err, seal.ErrClosed)
	_, err = s.Keys(t.Context())
	want(t, "keys", err, seal.ErrClosed)
	want(t, "create", s.CreateKey(t.Context(), "b"), seal.ErrClosed)
	want(t, "destroy", s.DestroyKey(t.Context(), "a"), seal.ErrClosed)
	want(t, "healthy", s.Healthy(t.Context()), seal.ErrClosed)
	_, err = s.Identity().Sign(rand.Reader, make([]byte, 32), crypto.SHA256)
	want(t, "sign", err, seal.ErrClosed)
}

func files(t *testing.T, d Device) {
	s := open(t, d)
	dir := t.TempDir()
	path := filepath.Join(dir, "head")
	_, err := seal.ReadFile(t.Context(), s, path, "audit head")
	want(t, "no file yet", err, fs.ErrNotExist)
	for _, record := range []string{"size 1", "size 2, longer", ""} {
		if err := seal.WriteFile(t.Context(), s, path, "audit head", []byte(record)); err != nil {
			t.Fatal(err)
		}
		got, err := seal.ReadFile(t.Context(), s, path, "audit head")
		if err != nil || string(got) != record {
			t.Fatalf("read %q, %v; want %q", got, err, record)
		}
	}
	_, err = seal.ReadFile(t.Context(), s, path, "gossip key")
	want(t, "another name", err, seal.ErrAuth)

	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"one bit": append(slices.Clone(b[:len(b)-1]), b[len(b)-1]^1),
		"cut":     b[:len(b)-1], "empty": nil, "huge": make([]byte, 1<<20),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = seal.ReadFile(t.Context(), s, path, "audit head")
		want(t, name, err, seal.ErrAuth)
	}
	if err := seal.WriteFile(t.Context(), s, filepath.Join(dir, "none", "head"), "audit head", nil); err == nil {
		t.Error("no error for a directory that does not exist")
	}
}
