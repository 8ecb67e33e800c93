package seal

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/hybrid"
)

// Key is the public half of a pipeline's key, as `hizo pipeline key` prints it: a PEM block whose headers are under a
// signature of the cluster's CA. Whoever pins the CA can take it from anywhere, a repository for example.
type Key struct {
	Cluster   [16]byte
	Vault     string
	Pipeline  string
	Created   time.Time // whole seconds
	Public    []byte
	Signature []byte // ECDSA P-256 in ASN.1 over the SHA-256 of Statement
}

const (
	keyBlock  = "HIZO PIPELINE KEY"
	keyDomain = "hizo/pipeline-key/v1"

	// MaxKeyFile bounds a key file, in bytes.
	MaxKeyFile = 8 << 10
)

var (
	// ErrKeyFile says that a file holds no pipeline key as it was printed.
	ErrKeyFile = errors.New("not a pipeline's key file: print it again with `hizo pipeline key VAULT/NAME`")
	// ErrKeySignature says that the pinned CA has not signed a key.
	ErrKeySignature = errors.New("the key file is not signed by the pinned CA: it is of another cluster, or was changed; do not seal to it")
)

// ID names the key.
func (k *Key) ID() [KeyIDSize]byte { return KeyID(k.Public) }

// Place of a variable of the key's pipeline.
func (k *Key) Place(variable string) Place {
	return Place{Cluster: k.Cluster, Vault: k.Vault, Pipeline: k.Pipeline, Variable: variable}
}

// Statement is what the CA signs. It begins with a length below 2^24, so with a zero byte: no certificate does.
func (k *Key) Statement() []byte {
	b := aad.AppendString(nil, keyDomain)
	b = aad.AppendBytes(b, k.Cluster[:])
	b = aad.AppendString(b, k.Vault)
	b = aad.AppendString(b, k.Pipeline)
	b = aad.AppendUint64(b, uint64(k.Created.Unix()))
	return aad.AppendBytes(b, k.Public)
}

// File is the key file.
func (k *Key) File() []byte {
	id := k.ID()
	return pem.EncodeToMemory(&pem.Block{
		Type: keyBlock,
		Headers: map[string]string{
			"Cluster":   hex.EncodeToString(k.Cluster[:]),
			"Created":   k.Created.UTC().Format(time.RFC3339),
			"Key-Id":    hex.EncodeToString(id[:]),
			"Pipeline":  k.Vault + "/" + k.Pipeline,
			"Signature": hex.EncodeToString(k.Signature),
			"Version":   "1",
		},
		Bytes: k.Public,
	})
}

// ParseKey reads a key file. It has one form only: what a person reads in its headers is what was signed. Verify says
// by whom.
func ParseKey(file []byte) (*Key, error) {
	if len(file) > MaxKeyFile {
		return nil, ErrKeyFile
	}
	block, rest := pem.Decode(file)
	if block == nil || block.Type != keyBlock || len(bytes.TrimSpace(rest)) != 0 {
		return nil, ErrKeyFile
	}
	if v := block.Headers["Version"]; v != "1" {
		return nil, fmt.Errorf("%w (it says version %s, this program knows 1)", ErrKeyFile, strconv.QuoteToASCII(v[:min(len(v), 16)]))
	}
	k := &Key{Public: block.Bytes}
	cluster, err := hex.DecodeString(block.Headers["Cluster"])
	if err != nil || len(cluster) != len(k.Cluster) {
		return nil, ErrKeyFile
	}
	copy(k.Cluster[:], cluster)
	p, err := name.ParsePipeline(block.Headers["Pipeline"])
	if err != nil {
		return nil, ErrKeyFile
	}
	k.Vault, k.Pipeline = p.Vault, p.Name
	if k.Created, err = time.Parse(time.RFC3339, block.Headers["Created"]); err != nil || k.Created.Unix() < 0 {
		return nil, ErrKeyFile
	}
	if k.Signature, err = hex.DecodeString(block.Headers["Signature"]); err != nil {
		return nil, ErrKeyFile
	}
	if hybrid.CheckPublic(k.Public) != nil || !bytes.Equal(k.File(), append(bytes.TrimSpace(bytes.ReplaceAll(file, []byte("\r\n"), []byte("\n"))), '\n')) {
		return nil, ErrKeyFile
	}
	return k, nil
}

// Verify says whether one of the CA certificates in PEM has signed the key.
func (k *Key) Verify(ca []byte) error {
	sum := sha256.Sum256(k.Statement())
	some := false
	for len(ca) > 0 {
		var block *pem.Block
		if block, ca = pem.Decode(ca); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			continue
		}
		some = true
		if public, ok := cert.PublicKey.(*ecdsa.PublicKey); ok && cert.IsCA && ecdsa.VerifyASN1(public, sum[:], k.Signature) {
			return nil
		}
	}
	if !some {
		return errors.New("the CA file holds no certificate: give the file that `hizo cluster init` wrote")
	}
	return ErrKeySignature
}
