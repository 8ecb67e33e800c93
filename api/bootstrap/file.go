// Package bootstrap is the file that an uninitialised node writes into its data directory: whoever can read
// it may initialise the cluster, and its key pin makes sure that it is this node that answers, so that
// initialising can't be intercepted on the network.
package bootstrap

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const maxSize = 4 << 10

// ErrPermissions says that others than the owner can read the file.
var ErrPermissions = errors.New("readable by others than its owner; chmod 600 it, and if others may have read it, restart the node for a new one")

// File is the content, JSON on disk, mode 0600. It stops working when the cluster is initialised.
type File struct {
	Node      string `json:"node"`
	Address   string `json:"address"`    // clients' port, HOST:PORT
	KeySHA256 string `json:"key_sha256"` // hex SHA-256 of the PKIX public key that the node's TLS certificate carries
	Token     string `json:"token"`
}

// String keeps the token out of logs.
func (f File) String() string {
	return fmt.Sprintf("bootstrap file of node %s at %s", f.Node, f.Address)
}

// GoString keeps the token out of %#v.
func (f File) GoString() string { return f.String() }

// NewToken makes a token of 32 random bytes.
func NewToken() string {
	b := make([]byte, 32)
	rand.Read(b)
	return "hizob_" + base64.RawURLEncoding.EncodeToString(b)
}

// Pin decodes KeySHA256.
func (f File) Pin() (pin [32]byte, err error) {
	b, err := hex.DecodeString(f.KeySHA256)
	if err != nil || len(b) != len(pin) {
		return pin, errors.New("bootstrap file: key_sha256 is not 64 hexadecimal digits")
	}
	return [32]byte(b), nil
}

// Write replaces path in one step; a crash leaves the old file or the new one.
func (f File) Write(path string) error {
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".bootstrap-*") // mode 0600
	if err != nil {
		return fmt.Errorf("bootstrap file: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(data, '\n'))
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("bootstrap file: %w", err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("bootstrap file: %w", err)
	}
	return nil
}

// Read reads a file that only its owner can read.
func Read(path string) (File, error) {
	h, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return File{}, fmt.Errorf("bootstrap file %s: %w; an uninitialised node writes it into its data directory when it starts", path, err)
	}
	if err != nil {
		return File{}, fmt.Errorf("bootstrap file: %w", err)
	}
	defer h.Close()
	st, err := h.Stat()
	if err != nil {
		return File{}, fmt.Errorf("bootstrap file: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return File{}, fmt.Errorf("bootstrap file %s: %w", path, ErrPermissions)
	}
	data, err := io.ReadAll(io.LimitReader(h, maxSize))
	if err != nil {
		return File{}, fmt.Errorf("bootstrap file: %w", err)
	}
	return Parse(data)
}

// Parse decodes strictly.
func Parse(data []byte) (File, error) {
	var f File
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return File{}, errors.New("bootstrap file: not of the form that a node writes")
	}
	if f.Node == "" || f.Address == "" || f.Token == "" {
		return File{}, errors.New("bootstrap file: node, address or token is missing")
	}
	if _, err := f.Pin(); err != nil {
		return File{}, err
	}
	return f, nil
}
