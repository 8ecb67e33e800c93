package shares

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/hizo/hizo/crypto/aad"
)

// ErrRecipient says that a text is not one age recipient.
var ErrRecipient = errors.New("not an age recipient (age1…): make one with `hizo operator keygen`")

// maxRecipient bounds the text of one; a hybrid recipient has about 2,000 characters.
const maxRecipient = 8 << 10

// ParseRecipient reads one operator's age recipient.
func ParseRecipient(text string) (age.Recipient, error) {
	if len(text) > maxRecipient || strings.ContainsAny(text, "\n\r") {
		return nil, ErrRecipient
	}
	list, err := age.ParseRecipients(strings.NewReader(text))
	if err != nil || len(list) != 1 {
		return nil, ErrRecipient
	}
	return list[0], nil
}

// Encrypt makes the armoured age file of a share in text form, for its operator alone.
func (s Share) Encrypt(to age.Recipient) ([]byte, error) {
	text, err := s.Text()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	armored := armor.NewWriter(&out)
	w, err := age.Encrypt(armored, to)
	if err != nil {
		return nil, fmt.Errorf("encrypt a share: %w", err)
	}
	if _, err := w.Write([]byte(text + "\n")); err != nil {
		return nil, fmt.Errorf("encrypt a share: %w", err)
	}
	if err := errors.Join(w.Close(), armored.Close()); err != nil {
		return nil, fmt.Errorf("encrypt a share: %w", err)
	}
	return out.Bytes(), nil
}

// Confirmation is what only somebody who can read the share can say of it, and what gives nothing of it away: a hash
// over a scalar of 252 random bits.
func (s Share) Confirmation() ([]byte, error) {
	b, err := s.MarshalBinary()
	if err != nil {
		return nil, err
	}
	defer clear(b)
	sum := sha256.Sum256(aad.AppendBytes(aad.AppendString(nil, "hizo/share/confirm/v1"), b))
	return sum[:], nil
}
