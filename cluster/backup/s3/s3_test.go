package s3_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster/backup"
	"github.com/hizo/hizo/cluster/backup/s3"
)

const secretKey = "canary-s3-secret-key"

// server runs a real S3 server (versitygw, `make s3`) over TLS, with a bucket.
func server(t *testing.T) s3.Config {
	t.Helper()
	binary, err := filepath.Abs("../../../build/tools/versitygw")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Skip("no S3 server: make s3 builds it")
	}
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	for _, d := range []string{"data", "data/backups", "meta"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	var said bytes.Buffer
	cmd := exec.Command(binary, "--port", addr, "--cert", cert, "--key", key, "posix", "--sidecar", filepath.Join(dir, "meta"), filepath.Join(dir, "data"))
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY=tester", "ROOT_SECRET_KEY="+secretKey)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	credentials := filepath.Join(dir, "credentials")
	text := "[default]\naws_access_key_id = tester\naws_secret_access_key = " + secretKey + "\n"
	if err := os.WriteFile(credentials, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := s3.Config{Endpoint: "https://" + addr, Region: "us-east-1", Bucket: "backups", Prefix: "hizo/", Credentials: credentials, CA: cert}
	for deadline := time.Now().Add(30 * time.Second); ; {
		b := open(t, cfg)
		if _, err = b.List(t.Context()); err == nil {
			return cfg
		}
		select {
		case why := <-ended:
			ended <- why
			t.Fatalf("the S3 server ended: %v\n%s", why, said.Bytes())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("the S3 server does not answer: %v\n%s", err, said.Bytes())
		}
	}
}

func certificate(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func open(t *testing.T, cfg s3.Config) *s3.Bucket {
	t.Helper()
	b, err := s3.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBucket(t *testing.T) {
	cfg := server(t)
	b := open(t, cfg)
	ctx := t.Context()
	// More than one part, of a length that the client does not know beforehand.
	big := bytes.Repeat([]byte("0123456789abcdef"), 20<<20/16)
	name := "hizo-00000000-1" + backup.Suffix
	f, err := b.Create(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, bytes.NewReader(big)); err != nil {
		t.Fatal(err)
	}
	if list, err := b.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("an unfinished object is listed: %v, %v", list, err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	f.Abort()
	list, err := b.List(ctx)
	if err != nil || len(list) != 1 || list[0] != (backup.Entry{Name: name, Size: int64(len(big))}) {
		t.Fatalf("%v, %v", list, err)
	}
	r, err := b.Open(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, big) {
		t.Fatalf("%d bytes come back: %v", len(got), err)
	}

	given, err := b.Create(ctx, "hizo-00000000-2"+backup.Suffix)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := given.Write(big); err != nil {
		t.Fatal(err)
	}
	given.Abort()
	if err := given.Commit(); err != nil {
		t.Errorf("after Abort: %v", err)
	}
	if list, err := b.List(ctx); err != nil || len(list) != 1 {
		t.Errorf("a backup that was given up is there: %v, %v", list, err)
	}
	if err := b.Remove(ctx, name); err != nil {
		t.Error(err)
	}
	if list, err := b.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("removed, and listed: %v, %v", list, err)
	}

	// What the store says is passed on by its code, and no more.
	for what, change := range map[string]func(*s3.Config){
		"NoSuchBucket": func(c *s3.Config) { c.Bucket = "none-such" },
		"SignatureDoesNotMatch": func(c *s3.Config) {
			c.Credentials = filepath.Join(t.TempDir(), "other")
			text := "[default]\naws_access_key_id = tester\naws_secret_access_key = " + secretKey + "2\n"
			if err := os.WriteFile(c.Credentials, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"certificate": func(c *s3.Config) { c.CA = "" },
	} {
		bad := cfg
		change(&bad)
		_, err := open(t, bad).List(ctx)
		if err == nil || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), secretKey) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := b.List(ended); err == nil {
		t.Error("a list after its context ended")
	}
}

func TestOpenRefuses(t *testing.T) {
	good := s3.Config{Endpoint: "https://s3.example:9000", Bucket: "b", Credentials: "/c"}
	if b, err := s3.Open(good); err != nil || fmt.Sprint(b) != "s3 bucket b/ at s3.example:9000" {
		t.Errorf("%v, %v", b, err)
	}
	for _, change := range []func(*s3.Config){
		func(c *s3.Config) { c.Endpoint = "s3.example" },
		func(c *s3.Config) { c.Endpoint = "ftp://s3.example" },
		func(c *s3.Config) { c.Endpoint = "https://key:secret@s3.example" },
		func(c *s3.Config) { c.Endpoint = "https://s3.example/path" },
		func(c *s3.Config) { c.Bucket = "" },
		func(c *s3.Config) { c.Credentials = "" },
		func(c *s3.Config) { c.CA = "/none" },
	} {
		bad := good
		change(&bad)
		if _, err := s3.Open(bad); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
	open := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(open, []byte("[default]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	good.Credentials = open
	b, err := s3.Open(good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.List(t.Context()); err == nil || !strings.Contains(err.Error(), "s3 credentials") {
		t.Errorf("credentials that others can read: %v", err)
	}
}
