package software_test

import (
	"path/filepath"
	"testing"

	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/crypto/seal/sealtest"
	"github.com/hizo/hizo/crypto/seal/software"
)

func TestConformance(t *testing.T) {
	sealtest.Run(t, func(t *testing.T) sealtest.Device {
		path := filepath.Join(t.TempDir(), "keys.json")
		return sealtest.Device{Open: func(t *testing.T) seal.Seal {
			s, err := software.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}}
	})
}
