package main

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/crypto/seal/softhsm"
	"github.com/hizo/hizo/crypto/secret"
)

type softhsmCmd struct {
	Dir    string `required:"" type:"path" help:"Directory for the token, made if it is not there."`
	Config string `xor:"which" required:"" type:"path" help:"Configuration file (YAML) that names the token and the file of its PIN."`
	Label  string `xor:"which" required:"" help:"Label of the token; its PIN is made at random and written to DIR/LABEL.pin."`
}

// Run makes a token unless it is there. softhsm2-util would show the PIN in the list of processes, or ask for it.
func (c *softhsmCmd) Run() error {
	token, err := c.provision()
	if err != nil {
		return err
	}
	fmt.Printf("token %s with serial %s; hizod finds it by %s\n", token.Label, token.Serial, token.Env())
	if token.PINFile != "" {
		fmt.Printf("its PIN is in %s\n", token.PINFile)
	}
	return nil
}

func (c *softhsmCmd) provision() (softhsm.Token, error) {
	if c.Config == "" {
		return softhsm.Provision(c.Dir, c.Label)
	}
	cfg, err := LoadConfig(c.Config)
	if err != nil {
		return softhsm.Token{}, err
	}
	p := cfg.Seal.PKCS11
	switch {
	case cfg.Seal.Type != "pkcs11" || p.TokenLabel == "":
		return softhsm.Token{}, errors.New("the configuration names no token by seal.pkcs11.token_label")
	case filepath.Base(p.Module) != "libsofthsm2.so":
		return softhsm.Token{}, fmt.Errorf("seal.pkcs11.module: %s is not SoftHSM2; make the token with its vendor's tools", p.Module)
	}
	file, err := seal.ReadSecretFile(p.PINFile)
	if err != nil {
		return softhsm.Token{}, fmt.Errorf("seal.pkcs11.pin_file: %w", err)
	}
	defer file.Wipe()
	return softhsm.ProvisionPIN(c.Dir, p.TokenLabel, secret.Copy(bytes.TrimRight(file.Reveal(), "\r\n")))
}
