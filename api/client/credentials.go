package client

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/hizo/hizo/api/hizov1"
)

// TokenSource gives the token for the next attempt.
type TokenSource func(context.Context) (string, error)

// ErrNoToken says that there is no login yet.
var ErrNoToken = errors.New("not logged in")

// maxTokenFile bounds what is read from a token file; a token has some 60 bytes.
const maxTokenFile = 4 << 10

// Token is a source of one token.
func Token(token string) TokenSource {
	return func(context.Context) (string, error) { return token, nil }
}

// TokenFile reads the token from a file each time, so a login in another process is seen at once.
func TokenFile(path string) TokenSource {
	return func(context.Context) (string, error) {
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("%w: there is no token file %s", ErrNoToken, path)
		}
		if err != nil {
			return "", fmt.Errorf("token file: %w", err)
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxTokenFile))
		if err != nil {
			return "", fmt.Errorf("token file: %w", err)
		}
		token := strings.TrimSpace(string(b))
		if token == "" {
			return "", fmt.Errorf("%w: the token file %s is empty", ErrNoToken, path)
		}
		return token, nil
	}
}

// Certificate returns the client certificate for the next connection.
type Certificate func() (*tls.Certificate, error)

func tlsConfig(cfg Config) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: hizov1.ServerName}
	if cert := cfg.Certificate; cert != nil {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert() }
	}
	switch {
	case cfg.PinnedKey != nil:
		pin := *cfg.PinnedKey
		// The chain is not what is trusted here: VerifyConnection demands the one key.
		conf.InsecureSkipVerify = true
		conf.VerifyConnection = func(s tls.ConnectionState) error {
			got := sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo)
			if subtle.ConstantTimeCompare(got[:], pin[:]) != 1 {
				return ErrPin
			}
			return nil
		}
	case len(cfg.CA) > 0:
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(cfg.CA) {
			return nil, errors.New("the CA file holds no certificate in PEM: take the one that `hizo cluster init` wrote")
		}
	default:
		return nil, errors.New("neither a CA nor a pinned key is given: servers could not be verified")
	}
	return conf, nil
}

// ErrPin says that another key than the pinned one answered.
var ErrPin = errors.New("the server's key is not the pinned one: this is not the node that wrote the bootstrap file, or someone intercepts the connection")
