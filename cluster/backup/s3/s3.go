// Package s3 keeps backups in a bucket of an S3-compatible store.
//
// The client is minio-go: Apache-2.0, released several times a year, used against every S3-compatible server there is,
// and a third of what the AWS SDK brings along. What leaves this node is encrypted already; the credential may be one
// that can put, get, list and delete objects below the prefix, and nothing else.
package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/hizo/hizo/cluster/backup"
	"github.com/hizo/hizo/crypto/seal"
)

// Config of a bucket.
type Config struct {
	Endpoint string // https://HOST[:PORT]
	Region   string
	Bucket   string
	Prefix   string // of the objects' names, for example "hizo/"
	// Credentials is a file of mode 0600 in the form of AWS's shared credentials: [default], aws_access_key_id,
	// aws_secret_access_key, and aws_session_token where there is one. It is read for each backup, so it can be renewed.
	Credentials string
	CA          string // PEM file; empty: the system's
	// HostStyle puts the bucket into the host's name instead of the path.
	HostStyle bool
}

// partSize bounds the memory of an upload, whose length is not known beforehand; 10,000 parts are 160 GiB.
const partSize = 16 << 20

// Bucket is a backup.Place.
type Bucket struct {
	cfg       Config
	host      string
	secure    bool
	transport *http.Transport
}

var _ backup.Place = (*Bucket)(nil)

// Open checks the configuration; it does not connect.
func Open(cfg Config) (*Bucket, error) {
	u, err := url.Parse(cfg.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.RawQuery != "" {
		return nil, fmt.Errorf("s3 endpoint %q: write https://HOST or https://HOST:PORT", cfg.Endpoint)
	}
	if cfg.Bucket == "" || cfg.Credentials == "" {
		return nil, errors.New("s3: a bucket and a file with credentials are needed")
	}
	b := &Bucket{cfg: cfg, host: u.Host, secure: u.Scheme == "https"}
	if b.transport, err = minio.DefaultTransport(b.secure); err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	b.transport.DisableCompression = true
	if cfg.CA != "" {
		pem, err := os.ReadFile(cfg.CA)
		if err != nil {
			return nil, fmt.Errorf("s3 ca: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("s3 ca: %s holds no certificate", cfg.CA)
		}
		b.transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return b, nil
}

func (b *Bucket) String() string {
	return fmt.Sprintf("s3 bucket %s/%s at %s", b.cfg.Bucket, b.cfg.Prefix, b.host)
}

// connect makes a client with the credentials of now.
func (b *Bucket) connect() (*minio.Client, error) {
	secret, err := seal.ReadSecretFile(b.cfg.Credentials) // refuses a file that others can read
	if err != nil {
		return nil, fmt.Errorf("s3 credentials: %w", err)
	}
	secret.Wipe()
	lookup := minio.BucketLookupPath
	if b.cfg.HostStyle {
		lookup = minio.BucketLookupDNS
	}
	c, err := minio.New(b.host, &minio.Options{
		Creds: credentials.NewFileAWSCredentials(b.cfg.Credentials, "default"), Secure: b.secure, Region: b.cfg.Region,
		BucketLookup: lookup, Transport: b.transport,
	})
	if err != nil {
		return nil, b.told("connect", err)
	}
	return c, nil
}

// told passes on what a store says of an error by its code: the rest of its text is whatever it likes.
func (b *Bucket) told(what string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if r, ok := errors.AsType[minio.ErrorResponse](err); ok {
		return fmt.Errorf("%s: %s: the store answers %s (HTTP %d)", b, what, word(r.Code), r.StatusCode)
	}
	if _, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("%s: %s: %w", b, what, err)
	}
	return fmt.Errorf("%s: %s failed: %T", b, what, err)
}

// word is a code such as AccessDenied, if it is one.
func word(code string) string {
	for _, c := range code {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return "an unknown error"
		}
	}
	return code
}

// Create implements backup.Place. The object is there once its last part was taken.
func (b *Bucket) Create(ctx context.Context, name string) (backup.File, error) {
	c, err := b.connect()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	up := &upload{PipeWriter: w, cancel: cancel, done: make(chan error, 1)}
	go func() {
		_, err := c.PutObject(ctx, b.cfg.Bucket, b.cfg.Prefix+name, r, -1, minio.PutObjectOptions{
			ContentType: "application/octet-stream", PartSize: partSize,
		})
		err = b.told("put "+name, err)
		if err != nil {
			r.CloseWithError(err)
		}
		up.done <- err
	}()
	return up, nil
}

type upload struct {
	*io.PipeWriter
	cancel context.CancelFunc
	done   chan error
	ended  bool
}

// Commit implements backup.File.
func (u *upload) Commit() error {
	if u.ended {
		return nil
	}
	u.ended = true
	defer u.cancel()
	if err := u.Close(); err != nil {
		return err
	}
	return <-u.done
}

var errAborted = errors.New("the backup was given up")

// Abort implements backup.File. Parts that were sent are dropped by the client, or by the store's own rule for
// unfinished uploads.
func (u *upload) Abort() {
	if u.ended {
		return
	}
	u.ended = true
	_ = u.CloseWithError(errAborted)
	<-u.done
	u.cancel()
}

// Open implements backup.Place.
func (b *Bucket) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	c, err := b.connect()
	if err != nil {
		return nil, err
	}
	o, err := c.GetObject(ctx, b.cfg.Bucket, b.cfg.Prefix+name, minio.GetObjectOptions{})
	if err != nil {
		return nil, b.told("get "+name, err)
	}
	return object{o, b, name}, nil
}

type object struct {
	*minio.Object
	b    *Bucket
	name string
}

func (o object) Read(p []byte) (int, error) {
	n, err := o.Object.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = o.b.told("get "+o.name, err)
	}
	return n, err
}

// List implements backup.Place.
func (b *Bucket) List(ctx context.Context) ([]backup.Entry, error) {
	c, err := b.connect()
	if err != nil {
		return nil, err
	}
	var out []backup.Entry
	for o := range c.ListObjects(ctx, b.cfg.Bucket, minio.ListObjectsOptions{Prefix: b.cfg.Prefix}) {
		if o.Err != nil {
			return nil, b.told("list", o.Err)
		}
		name := strings.TrimPrefix(o.Key, b.cfg.Prefix)
		if strings.HasSuffix(name, backup.Suffix) && !strings.Contains(name, "/") {
			out = append(out, backup.Entry{Name: name, Size: o.Size})
		}
	}
	return out, ctx.Err()
}

// Remove implements backup.Place.
func (b *Bucket) Remove(ctx context.Context, name string) error {
	c, err := b.connect()
	if err != nil {
		return err
	}
	return b.told("delete "+name, c.RemoveObject(ctx, b.cfg.Bucket, b.cfg.Prefix+name, minio.RemoveObjectOptions{}))
}
