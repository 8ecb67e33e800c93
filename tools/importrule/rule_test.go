package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBreach(t *testing.T) {
	const m = module + "/"
	for _, c := range []struct {
		name   string
		folder string
		test   bool
		path   string
		ok     bool
	}{
		{"server joins everything", "cmd/hizod", false, m + "transport", true},
		{"server takes the HSM seal", "cmd/hizod", false, m + "crypto/seal/pkcs11", true},
		{"CLI stays free of cgo", "cmd/hizo", false, m + "crypto/seal/pkcs11", false},
		{"CLI takes the client", "cmd/hizo", false, m + "api/client", true},
		{"chaos drives nodes", "chaos/scenario", false, m + "cluster", true},
		{"api goes down to cluster", "api", false, m + "cluster", true},
		{"api goes down to crypto", "api/auth", false, m + "crypto/keyring", true},
		{"within a layer", "crypto/seal/pkcs11", false, m + "crypto/secret", true},
		{"cluster reaches the state", "cluster", false, m + "fsm", true},
		{"cluster does not know the clients' API", "cluster", false, m + "api/hizov1", false},
		{"cluster never reaches up", "cluster", false, m + "api", false},
		{"not even for names", "cluster/rotate", false, m + "api/name", false},
		{"cluster takes transport as an interface", "cluster", false, m + "transport", false},
		{"its tests may use the real one", "cluster", true, m + "transport", true},
		{"they may use the checkers", "cluster", true, m + "chaos/check", true},
		{"the product never does that", "cluster", false, m + "chaos/check", false},
		{"nor do tests drive the lab", "cluster", true, m + "chaos/lab", false},
		{"the test kit joins what cmd joins", "cluster/clustertest", false, m + "transport", true},
		{"tests start clusters by it", "api", true, m + "cluster/clustertest", true},
		{"the product never does", "api", false, m + "cluster/clustertest", false},
		{"fsm never sees keys", "fsm", false, m + "crypto/secret", false},
		{"nor in its tests", "fsm/fsmtest", true, m + "crypto/keyring", false},
		{"fsm never reaches up", "fsm", false, m + "cluster", false},
		{"crypto imports none of the others", "crypto/shares", false, m + "fsm", false},
		{"transport neither", "transport", false, m + "crypto/seal", false},
		{"the wire format neither", "api/hizov1", false, m + "api/name", false},
		{"nothing imports a command", "api", false, m + "cmd/hizo", false},
		{"outside the layout", "util", false, m + "fsm", false},
		{"into the unknown", "api", false, m + "util", false},
		{"a name that only begins alike", "fsmother", false, m + "fsm", false},
		{"libraries are free", "fsm", false, "github.com/cockroachdb/pebble/v2", true},
		{"cgo libraries are not", "transport", false, "github.com/miekg/pkcs11", false},
		{"cgo libraries are for their packages", "crypto/seal/softhsm", false, "github.com/miekg/pkcs11", true},
		{"cgo libraries are not for tests", "cluster", true, "github.com/miekg/pkcs11", false},
		{"the CLI needs no cgo", "cmd/hizo", false, module + "/crypto/seal/softhsm", false},
		{"tests may use SoftHSM", "cluster", true, module + "/crypto/seal/softhsm", true},
		{"apitest is for tests", "api", false, module + "/api/apitest", false},
		{"apitest is for tests of api", "api/client", true, module + "/api/apitest", true},
		{"nor is cgo itself", "api", false, "C", false},
		{"but in their one place", "crypto/seal/pkcs11", false, "github.com/ThalesGroup/crypto11", true},
		{"another module with our prefix", "fsm", false, module + "-tools/x", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			why := breach(c.folder, c.test, c.path)
			if (why == "") != c.ok {
				t.Errorf("%s importing %s: got %q, want allowed %v", c.folder, c.path, why, c.ok)
			}
		})
	}
}

func TestCheckReadsEveryFile(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	forbidden := "import _ \"" + module + "/cluster\"\n"
	write("fsm/good.go", "package fsm\n")
	write("fsm/bad.go", "package fsm\n\n"+forbidden)
	write("fsm/tagged.go", "//go:build never\n\npackage fsm\n"+forbidden)
	write("fsm/testdata/skipped.go", "package x\n"+forbidden)
	write("nested/go.mod", "module nested\n")
	write("nested/skipped.go", "package x\n"+forbidden)

	breaches, files, err := check(root)
	if err != nil {
		t.Fatal(err)
	}
	if files != 3 {
		t.Errorf("read %d files, want 3", files)
	}
	if len(breaches) != 2 || !strings.HasPrefix(breaches[0], "fsm/bad.go:3: ") || !strings.HasPrefix(breaches[1], "fsm/tagged.go:4: ") {
		t.Errorf("breaches = %q", breaches)
	}
}

func TestCheckOfNothingIsAnError(t *testing.T) {
	if _, _, err := check(t.TempDir()); err == nil {
		t.Error("an empty tree passed")
	}
}
