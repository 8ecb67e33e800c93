package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/seal"
	"github.com/hizo/hizo/crypto/secret"
)

type sealCmd struct {
	Pipeline string `required:"" placeholder:"VAULT/NAME" help:"The pipeline that shall open it."`
	Name     string `required:"" placeholder:"VAR" help:"The variable that it is for; it opens in no other."`
	Key      string `required:"" type:"path" placeholder:"FILE" help:"The pipeline's public key, as \"hizo pipeline key\" prints it."`
	Expires  span   `default:"90d" placeholder:"TIME" help:"How long it opens, for example 90d or 12h; a year at most."`
	From     string `default:"-" placeholder:"FILE" help:"Read the value from a file instead of standard input."`
}

// sealedOut is what other programs get.
type sealedOut struct {
	Pipeline    string `json:"pipeline"`
	Variable    string `json:"variable"`
	KeyID       string `json:"key_id"`
	Digest      string `json:"digest"`
	ExpiresUnix int64  `json:"expires_unix"`
	Seal        string `json:"seal"`
}

// Run asks no server: whoever has the key file and the CA that it is checked against can seal anywhere.
func (c *sealCmd) Run(s *session) error {
	p, err := name.ParsePipeline(c.Pipeline)
	if err != nil {
		return err
	}
	if _, err := name.Variable(c.Name); err != nil {
		return err
	}
	key, err := s.pipelineKey(c.Key)
	if err != nil {
		return err
	}
	if at := (name.PipelineName{Vault: key.Vault, Name: key.Pipeline}); at != p {
		return fmt.Errorf("%s is the key of the pipeline %s, not of %s: print the right one with `hizo pipeline key %s`", c.Key, at, p, p)
	}
	now := time.Now()
	expires := now.Add(time.Duration(c.Expires)).Unix()
	if err := seal.CheckExpiry(now, expires); err != nil {
		return err
	}
	value, err := c.value(s)
	defer clear(value)
	if err != nil {
		return err
	}
	sealed, err := seal.New(key.Public, key.Place(c.Name), expires, secret.New(value))
	if err != nil {
		return err
	}
	if s.g.Format == "table" {
		_, err = fmt.Fprintln(s.stdout, sealed.Text())
		return err
	}
	digest := sealed.Digest()
	return s.showValue(sealedOut{
		Pipeline: p.String(), Variable: c.Name, KeyID: hex.EncodeToString(sealed.KeyID[:]), Digest: hex.EncodeToString(digest[:]),
		ExpiresUnix: expires, Seal: sealed.Text(),
	}, table{})
}

// pipelineKey reads a key file and checks it against the pinned CA.
func (s *session) pipelineKey(path string) (*seal.Key, error) {
	file, err := readFile(path, seal.MaxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	key, err := seal.ParseKey(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.g.CACert == "" {
		return nil, errors.New("the cluster's CA is not known, so the key file can't be checked: set HIZO_CACERT or --cacert to the file that `hizo cluster init` wrote")
	}
	ca, err := readFile(s.g.CACert, 1<<20)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's CA: %w", err)
	}
	if err := key.Verify(ca); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// value reads what is to be sealed.
func (c *sealCmd) value(s *session) ([]byte, error) {
	var value []byte
	var err error
	switch {
	case c.From != "-":
		value, err = readFile(c.From, maxInput)
	case s.interactive():
		value, err = s.ask("Value of " + c.Name)
	default:
		value, err = s.stdinAll()
	}
	if err != nil {
		return nil, err
	}
	if len(value) == 0 {
		return nil, errors.New("there is no value: give it on standard input, or with --from FILE")
	}
	s.warnNewline(c.Name, value)
	return value, nil
}
