package keyring_test

import (
	"bytes"
	"testing"

	"github.com/hizo/hizo/crypto/keyring"
)

// What one pipeline's key opens, no other name, salt or generation may.
func TestPipelineKeysDiffer(t *testing.T) {
	root := keyring.NewRoot()
	kr, _ := filled(t, root)
	salt := bytes.Repeat([]byte{7}, 16)
	other := bytes.Repeat([]byte{8}, 16)
	seen := map[string]string{}
	for what, c := range map[string]struct {
		generation  uint32
		vault, name string
		salt        []byte
	}{
		"first":      {1, "ml", "train", salt},
		"salt":       {1, "ml", "train", other},
		"name":       {1, "ml", "train2", salt},
		"vault":      {1, "m", "train", salt},
		"border":     {1, "ml/train", "", salt},
		"generation": {2, "ml", "train", salt},
	} {
		k, err := kr.PipelineKey(c.generation, c.vault, c.name, c.salt)
		if err != nil {
			t.Fatal(err)
		}
		if twin, ok := seen[string(k.Public())]; ok {
			t.Errorf("%s and %s have one key", what, twin)
		}
		seen[string(k.Public())] = what
		again, err := kr.PipelineKey(c.generation, c.vault, c.name, c.salt)
		if err != nil || !bytes.Equal(again.Public(), k.Public()) {
			t.Errorf("%s is another key the second time (%v)", what, err)
		}
	}
	if _, err := kr.PipelineKey(9, "ml", "train", salt); err == nil {
		t.Error("a generation that is not there has keys")
	}
}
