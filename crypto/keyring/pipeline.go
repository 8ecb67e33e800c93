package keyring

import (
	"encoding/hex"

	"github.com/hizo/hizo/crypto/hybrid"
)

// PipelineKey derives the key pair that a pipeline's values are sealed to. The salt is random and stored with the
// pipeline: a pipeline that was deleted and made again under the same name has other keys, and so do rotated ones,
// while the keyring holds one key for all of them.
func (kr *Keyring) PipelineKey(generation uint32, vault, pipeline string, salt []byte) (*hybrid.Key, error) {
	// Names hold no NUL, so the label is injective.
	label := "pipeline/" + vault + "\x00" + pipeline + "\x00" + hex.EncodeToString(salt)
	seed, err := kr.Derive(Pipeline, generation, label, 32)
	if err != nil {
		return nil, err
	}
	defer seed.Wipe()
	return hybrid.DeriveKey(seed)
}
