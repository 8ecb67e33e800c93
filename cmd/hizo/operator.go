package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
)

type operatorCmd struct {
	Keygen  operatorKeygenCmd  `cmd:"" help:"Make an age identity (hybrid post-quantum) and print its recipient."`
	Shares  operatorSharesCmd  `cmd:"" help:"Show the operators' new shares, and write their encrypted files."`
	Confirm operatorConfirmCmd `cmd:"" help:"Say that the new share can be read: it comes into force when enough operators have."`
}

type operatorKeygenCmd struct {
	Output string `short:"o" type:"path" placeholder:"FILE" help:"Where the identity goes (mode 0600); the file must not exist. Without it the identity is printed and the recipient goes to stderr."`
}

// Run writes what age-keygen would, so age's own tools work with it.
func (c *operatorKeygenCmd) Run(s *session) error {
	identity, err := age.GenerateHybridIdentity()
	if err != nil {
		return fmt.Errorf("make an age identity: %w", err)
	}
	recipient := identity.Recipient().String()
	text := fmt.Sprintf("# created: %s\n# public key: %s\n%s\n", time.Now().UTC().Format(time.RFC3339), recipient, identity)
	if c.Output == "" {
		s.note("Public key: %s", recipient)
		_, err := io.WriteString(s.stdout, text)
		return err
	}
	if err := writeNew(c.Output, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the identity: %w", err)
	}
	s.note("the identity is in %s: keep it offline; whoever has it can open your share", c.Output)
	if s.g.Format == "table" {
		_, err = fmt.Fprintln(s.stdout, recipient)
		return err
	}
	return s.showValue(struct {
		Recipient string `json:"recipient"`
		Identity  string `json:"identity_file"`
	}{recipient, c.Output}, table{})
}

// recipients reads --operator flags: RECIPIENT, or @FILE with one in it.
func recipients(flags []string) ([]string, error) {
	var out []string
	for _, f := range flags {
		text := f
		if path, ok := strings.CutPrefix(f, "@"); ok {
			b, err := readFile(path, 64<<10)
			if err != nil {
				return nil, fmt.Errorf("operator's recipient: %w", err)
			}
			text = string(b)
		}
		parsed, err := age.ParseRecipients(strings.NewReader(text))
		if err != nil || len(parsed) != 1 {
			return nil, errors.New("--operator takes one age recipient (age1…), or @FILE with one: `hizo operator keygen` makes them")
		}
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				out = append(out, line)
			}
		}
	}
	return out, nil
}

// isAge tells a file that age wrote, with or without armour.
func isAge(b []byte) bool {
	b = bytes.TrimSpace(b)
	return bytes.HasPrefix(b, []byte(armor.Header)) || bytes.HasPrefix(b, []byte("age-encryption.org/"))
}

// openAge decrypts with an identity file.
func openAge(sealed []byte, identityFile string) ([]byte, error) {
	f, err := readFile(identityFile, 1<<20)
	if err != nil {
		return nil, fmt.Errorf("age identity: %w", err)
	}
	defer clear(f)
	identities, err := age.ParseIdentities(bytes.NewReader(f))
	if err != nil {
		return nil, fmt.Errorf("age identity %s: not an identity file: pass the one that `hizo operator keygen` wrote", identityFile)
	}
	var in io.Reader = bytes.NewReader(sealed)
	if trimmed := bytes.TrimSpace(sealed); bytes.HasPrefix(trimmed, []byte(armor.Header)) {
		in = armor.NewReader(bytes.NewReader(trimmed))
	}
	r, err := age.Decrypt(in, identities...)
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return nil, fmt.Errorf("the share is encrypted to another operator's key than the one in %s: use the identity it was made for", identityFile)
	}
	if err != nil {
		return nil, fmt.Errorf("decrypt the share: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxInput))
	if err != nil {
		return nil, fmt.Errorf("decrypt the share: %w", err)
	}
	return plain, nil
}
