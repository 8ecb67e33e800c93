package inject_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
)

var target = inject.Target{
	Cluster: strings.Repeat("ab", 16), Principal: "workload/train",
	Vault: "ml", Path: "db/main", Field: "password", Version: 3,
}

func TestOpensOnlyForItsTarget(t *testing.T) {
	key, err := hybrid.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := inject.SealValue(key.Public(), target, secret.New([]byte("hunter2")))
	if err != nil {
		t.Fatal(err)
	}
	value, err := inject.OpenValue(key, target, sealed)
	if err != nil || string(value.Reveal()) != "hunter2" {
		t.Fatalf("OpenValue: %v", err)
	}
	changes := map[string]func(*inject.Target){
		"cluster":       func(t *inject.Target) { t.Cluster = strings.Repeat("ac", 16) },
		"principal":     func(t *inject.Target) { t.Principal = "workload/other" },
		"vault":         func(t *inject.Target) { t.Vault = "mm" },
		"path":          func(t *inject.Target) { t.Path = "db/mainp" },
		"field":         func(t *inject.Target) { t.Field = "user" },
		"version":       func(t *inject.Target) { t.Version = 4 },
		"moved borders": func(t *inject.Target) { t.Vault, t.Path = "mld", "b/main" },
	}
	for what, change := range changes {
		other := target
		change(&other)
		if _, err := inject.OpenValue(key, other, sealed); !errors.Is(err, hybrid.ErrOpen) {
			t.Errorf("another %s: got %v, want hybrid.ErrOpen", what, err)
		}
	}
	if _, err := inject.SealValue([]byte("no key"), target, secret.New(nil)); !errors.Is(err, hybrid.ErrPublicKey) {
		t.Errorf("bad execution key: got %v, want hybrid.ErrPublicKey", err)
	}
}

// Both ends compute the info on their own, possibly in different releases: its bytes are a contract.
func TestInfoIsStable(t *testing.T) {
	const want = "0000000e68697a6f2f696e6a6563742f7631" +
		"00000020" + "6162616261626162616261626162616261626162616261626162616261626162" +
		"0000000e776f726b6c6f61642f747261696e" + "000000026d6c" + "0000000764622f6d61696e" +
		"0000000870617373776f7264" + "0000000400000003"
	if got := hex.EncodeToString(target.Info()); got != want {
		t.Errorf("info:\n got %s\nwant %s", got, want)
	}
}

func FuzzInfoIsInjective(f *testing.F) {
	f.Add("ml", "db/main", "password", "m", "ldb/main", "password")
	f.Fuzz(func(t *testing.T, v1, p1, f1, v2, p2, f2 string) {
		a, b := target, target
		a.Vault, a.Path, a.Field = v1, p1, f1
		b.Vault, b.Path, b.Field = v2, p2, f2
		if (a == b) != bytes.Equal(a.Info(), b.Info()) {
			t.Errorf("%+v and %+v", a, b)
		}
	})
}
